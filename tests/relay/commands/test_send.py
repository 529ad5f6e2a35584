# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`send` asks the running relay, sends no row twice unasked, and says at any end what is left."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest
from click.testing import CliRunner

from relay.commands.mailing import mailer
from relay.commands.send import send
from shared import contract
from shared.commands import caller
from tests.stack import child
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from click.testing import Result
    from nats.aio.msg import Msg

    from tests.stack.nats_server import NatsServer

    Reply = Callable[[dict[str, Any]], dict[str, str] | None]

BUSY = {"error": contract.SERVICE_BUSY}
SCRIPT = Path(sys.executable).parent / "lfx-email-relay"


class Service:
    """What stands for the relay: it notes each request, and answers as it is told, or not at all."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []

    @property
    def recipients(self) -> list[str]:
        """Who was to get an email, in order."""
        return [request["to"] for request in self.requests]

    async def on_message(self, msg: Msg) -> None:
        """Take one request."""
        self.requests.append(json.loads(msg.data))
        answer = self.reply(self.requests[-1])
        if answer is not None:
            await msg.respond(json.dumps(answer).encode())


def sent(request: dict[str, Any]) -> dict[str, str]:
    return {"email_id": f"id-{request['to']}", "group_id": request.get("group_id", "new")}


@asynccontextmanager
async def service(server: NatsServer, reply: Reply = sent) -> AsyncIterator[Service]:
    """Serve for as long as the block lasts."""
    serving = Service(reply)
    async with await nats.connect(server.url) as client:
        await client.subscribe(contract.SEND_EMAIL_SUBJECT, contract.QUEUE_GROUP, cb=serving.on_message)
        await client.flush()
        yield serving


class Desk:
    """Somebody's folder, with a template and a list of people."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.people = folder / "people.csv"
        self.result = folder / "people.csv.result.csv"
        self.bodies = ["--html", str(folder / "mail.html"), "--text", str(folder / "mail.txt")]
        (folder / "mail.html").write_text("<p>Hello {name}</p>")
        (folder / "mail.txt").write_text("Hello {name}")

    def write(self, count: int) -> None:
        """List so many people."""
        rows = [f"p{number}@example.com,P {number}" for number in range(1, count + 1)]
        self.people.write_text("\n".join(["to,name", *rows]))

    @property
    def mailing(self) -> list[str]:
        """The arguments of a mailing."""
        return ["--csv", str(self.people), "--subject", "Hello {name}", *self.bodies]

    async def send(self, *arguments: str, text: str | None = None) -> Result:
        """Run the command."""
        run = CliRunner().invoke
        return await asyncio.to_thread(run, send, arguments, env={"NATS_URL": self.url}, input=text)

    async def send_all(self, *arguments: str) -> Result:
        """Run a mailing."""
        return await self.send(*self.mailing, *arguments)

    def statuses(self) -> dict[str, str]:
        """What the result file says in the end of each recipient."""
        with self.result.open(newline="") as lines:
            return {row["to"]: row["status"] for row in csv.DictReader(lines)}


@pytest.fixture
def desk(tmp_path: Path, nats_server: NatsServer) -> Desk:
    """A folder, and where NATS is."""
    return Desk(tmp_path, nats_server.url)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of patience is a moment."""
    monkeypatch.setattr(mailer, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(mailer, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.5)


@pytest.mark.parametrize("tags", [["--tag", "a"], ["--tag", "a="], ["--tag", "a=1", "--tag", "a=2"]])
async def test_a_tag_that_means_nothing_is_wrong_usage(desk: Desk, tags: list[str]) -> None:
    result = await desk.send("--to", "a@b.org", "--subject", "Hi", *tags, *desk.bodies)
    assert result.exit_code == 2
    assert "--tag" in result.stderr


async def test_one_email_is_asked_for_with_all_that_the_options_say(nats_server: NatsServer, desk: Desk) -> None:
    options = ["--to", "Ada <a@b.org>", "--subject", "Hi {x}", "--from", "c@d.org", "--reply-to", "e@f.org"]
    async with service(nats_server) as relay:
        more = ["--unsubscribe-url", "https://b.org/u", "--idempotency-key", "k", "--tag", "a=1", "--tag", "b=x=y"]
        result = await desk.send(*options, "--group-id", "g", "--from-display-name", "C", *more, *desk.bodies)
        assert (result.exit_code, result.output) == (0, "email_id  id-Ada <a@b.org>\ngroup_id  g\n")
        from_stdin = await desk.send(*options, "--html", "-", *desk.bodies[2:], "--json", text="<b>")
    assert json.loads(from_stdin.stdout) == {"email_id": "id-Ada <a@b.org>", "group_id": "new"}
    fields = {"to": "Ada <a@b.org>", "subject": "Hi {x}", "from": "c@d.org", "reply_to": "e@f.org"}
    bodies = {"html": "<p>Hello {name}</p>", "text": "Hello {name}"}
    beyond = {"unsubscribe_url": "https://b.org/u", "idempotency_key": "k", "tags": {"a": "1", "b": "x=y"}}
    assert relay.requests[0] == fields | bodies | beyond | {"group_id": "g", "from_display_name": "C"}
    assert relay.requests[1] == fields | bodies | {"html": "<b>"}


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        ({"error": "recipient suppressed", "reason": "bounce"}, 1, "recipient suppressed (bounce)"),
        ({"email_id": "", "group_id": ""}, 1, "outside SMTP_ALLOWED_RECIPIENT_DOMAINS"),
        (None, 3, "no answer from lfx.email-service.send_email within 0.1 s"),
    ],
)
async def test_one_email_that_is_not_sent_is_told(
    nats_server: NatsServer, desk: Desk, reply: dict[str, str] | None, status: int, said: str
) -> None:
    async with service(nats_server, lambda _: reply):
        result = await desk.send("--to", "a@b.org", "--subject", "s", "--timeout", "0.1", *desk.bodies)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


def test_standard_input_that_is_closed_is_wrong_usage(desk: Desk) -> None:
    words = ["send", "--to", "a@b.org", "--subject", "s", "--html", "-", *desk.bodies[2:]]
    closed = ["sh", "-c", 'exec "$0" "$@" <&-', str(SCRIPT), *words]
    done = subprocess.run(closed, capture_output=True, check=False, timeout=20)  # noqa: S603 - our own words
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.endswith(b"Error: --html: standard input is closed\n")


@pytest.mark.parametrize("how", [[], ["--json"]])
async def test_ids_that_cannot_be_printed_are_told_to_people(
    nats_server: NatsServer, desk: Desk, how: list[str]
) -> None:
    words = ["--to", "a@b.org", "--subject", "s", *desk.bodies, *how]
    env = {"NATS_URL": nats_server.url}
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
        async with service(nats_server):
            process = await asyncio.create_subprocess_exec(
                SCRIPT, "send", *words, env=env, stdout=full, stderr=asyncio.subprocess.PIPE
            )
            _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert errors.startswith(b"The relay has answered: email_id id-a@b.org, group_id new\nError: ")


async def test_a_timeout_that_is_no_number_is_wrong_usage(desk: Desk) -> None:
    result = await desk.send("--to", "a@b.org", "--subject", "s", "--timeout", "nan", *desk.bodies)
    assert (result.exit_code, "'nan' is no number of seconds" in result.stderr) == (2, True)


@pytest.mark.parametrize("missing", ["--to", "--subject", "--html", "--text"])
async def test_what_is_missing_is_wrong_usage(desk: Desk, missing: str) -> None:
    options = {"--to": "a@b.org", "--subject": "s", "--html": desk.bodies[1], "--text": desk.bodies[3]}
    del options[missing]
    result = await desk.send(*(word for pair in options.items() for word in pair))
    assert (result.exit_code, missing in result.stderr) == (2, True)


async def test_each_row_is_sent_once_into_one_group_and_the_second_run_sends_nothing(
    nats_server: NatsServer, desk: Desk
) -> None:
    desk.write(30)
    async with service(nats_server) as relay:
        first = await desk.send_all("--json")
        second = await desk.send_all()
    summary = json.loads(first.stdout)
    assert (first.exit_code, summary["rows"], summary["sent"]) == (0, 30, 30)
    assert sorted(relay.recipients) == sorted(f"p{number}@example.com" for number in range(1, 31))
    assert {request["group_id"] for request in relay.requests} == {summary["group_id"]}
    assert relay.requests[0]["html"] == f"<p>Hello {relay.requests[0]['text'].removeprefix('Hello ')}</p>"
    assert (second.exit_code, f"group_id  {summary['group_id']}" in second.stdout) == (0, True)


async def test_a_wrong_row_is_told_with_its_line_and_nothing_is_sent(nats_server: NatsServer, desk: Desk) -> None:
    desk.people.write_text("to,name\na@b.org,A\nnobody,B\n")
    async with service(nats_server) as relay:
        result = await desk.send_all()
    assert (result.exit_code, result.stdout, relay.requests) == (2, "", [])
    assert "nothing was sent\n  line 3: to is not one mailbox: nobody\n" in result.stderr
    assert not desk.result.exists()


async def test_a_byte_that_is_not_utf_8_is_told_with_its_line(nats_server: NatsServer, desk: Desk) -> None:
    desk.write(60)
    desk.people.write_bytes(desk.people.read_bytes().replace(b",P 50\n", b",P \xff\n"))
    async with service(nats_server) as relay:
        result = await desk.send_all()
    assert (result.exit_code, relay.requests) == (2, [])
    assert result.stderr.endswith("nothing was sent\n  line 51: byte 0xff is not UTF-8\n")


async def test_a_busy_service_is_asked_again_until_it_takes_the_row(nats_server: NatsServer, desk: Desk) -> None:
    desk.write(3)
    busy = [BUSY] * 4
    async with service(nats_server, lambda request: busy.pop() if busy else sent(request)) as relay:
        result = await desk.send_all("--concurrency", "2")
    assert (result.exit_code, len(relay.requests)) == (0, 7)
    assert set(desk.statuses().values()) == {"sent"}


async def test_a_service_that_stays_busy_ends_the_run_and_the_next_one_goes_on(
    nats_server: NatsServer, desk: Desk
) -> None:
    desk.write(20)
    async with service(nats_server, lambda _: BUSY) as relay:
        result = await desk.send_all("--concurrency", "2")
        assert (result.exit_code, set(desk.statuses().values())) == (3, {"unsent"})
        assert "busy all the time. The same command goes on" in result.stderr
        relay.reply = sent
        assert (await desk.send_all()).exit_code == 0
    assert len(desk.statuses()) == 20
    assert set(desk.statuses().values()) == {"sent"}


async def test_what_was_refused_is_asked_again_only_when_told_to(nats_server: NatsServer, desk: Desk) -> None:
    desk.write(3)
    refused = {"p2@example.com": contract.INVALID_TO, "p3@example.com": contract.DELIVERY_FAILED}

    def reply(request: dict[str, Any]) -> dict[str, str]:
        to = request["to"]
        return {"error": refused[to]} if to in refused else sent(request)

    async with service(nats_server, reply) as relay:
        first = await desk.send_all()
        assert first.exit_code == 1
        assert desk.statuses() == {"p1@example.com": "sent", "p2@example.com": "refused", "p3@example.com": "failed"}
        assert (await desk.send_all()).exit_code == 1
        assert len(relay.requests) == 3
        refused.clear()
        await desk.send_all("--retry-refused")
        assert relay.recipients[3:] == ["p2@example.com"]
        assert (await desk.send_all("--retry-unknown")).exit_code == 0
        assert relay.recipients[4:] == ["p3@example.com"]


async def test_a_row_without_an_answer_is_not_sent_again_unless_told_to(nats_server: NatsServer, desk: Desk) -> None:
    desk.write(6)
    silent = {"p2@example.com"}
    async with service(nats_server, lambda one: None if one["to"] in silent else sent(one)) as relay:
        first = await desk.send_all("--timeout", "0.1", "--concurrency", "2")
        assert (first.exit_code, desk.statuses()["p2@example.com"]) == (3, "unknown")
        silent.clear()
        assert (await desk.send_all()).exit_code == 3
        assert relay.recipients.count("p2@example.com") == 1
        assert (await desk.send_all("--retry-unknown")).exit_code == 0
        assert relay.recipients.count("p2@example.com") == 2


async def test_a_service_that_falls_silent_ends_the_run_before_the_whole_file_is_in_doubt(
    nats_server: NatsServer, desk: Desk
) -> None:
    desk.write(50)
    async with service(nats_server, lambda _: None) as relay:
        result = await desk.send_all("--timeout", "0.1", "--concurrency", "3")
    assert (result.exit_code, "there are no answers any more" in result.stderr) == (3, True)
    assert len(relay.requests) <= 6


async def test_a_service_that_is_not_there_costs_no_patience(nats_server: NatsServer, desk: Desk) -> None:
    desk.write(5)
    result = await desk.send_all()
    assert (result.exit_code, "nobody serves" in result.stderr) == (3, True)
    assert set(desk.statuses().values()) == {"unsent"}
    desk.url = f"nats://127.0.0.1:{free_port()}"
    without_nats = await desk.send_all()
    assert (without_nats.exit_code, "cannot connect to NATS" in without_nats.stderr) == (3, True)
    async with service(nats_server) as relay:
        desk.url = nats_server.url
        assert (await desk.send_all()).exit_code == 0
    assert len(relay.requests) == 5


async def test_a_result_file_of_other_rows_is_refused(nats_server: NatsServer, desk: Desk) -> None:
    desk.write(2)
    async with service(nats_server) as relay:
        await desk.send_all()
        desk.people.write_text("to,name\nother@example.com,O\np2@example.com,P\n")
        result = await desk.send_all()
    assert (result.exit_code, len(relay.requests)) == (2, 2)
    assert "row 1 was for p1@example.com, and is other@example.com" in result.stderr


async def test_a_result_file_that_cannot_grow_ends_the_run_and_the_next_one_goes_on(
    nats_server: NatsServer, desk: Desk
) -> None:
    desk.write(60)
    words = ["-c", 'ulimit -f 4; exec "$0" "$@"', str(SCRIPT), "send", *desk.mailing, "--concurrency", "4"]
    async with service(nats_server) as relay:
        env = {"NATS_URL": nats_server.url, "PYTHONDONTWRITEBYTECODE": "1"}  # which would be cut off as well
        process = await child.start(Path("/bin/sh"), *words, env=env, output=asyncio.subprocess.PIPE)
        output, errors = await asyncio.wait_for(process.communicate(), 20)
        told = f"Error: {desk.result}: File too large\n".encode()
        assert (process.returncode, output, errors) == (1, b"", told)
        assert len(relay.requests) < 60
        assert (await desk.send_all("--retry-unknown")).exit_code == 0
    assert (len(desk.statuses()), set(desk.statuses().values())) == (60, {"sent"})
    assert len(relay.requests) <= 60 + 4  # those that were under way


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_a_run_that_is_ended_sends_no_row_twice(
    nats_server: NatsServer, desk: Desk, number: signal.Signals
) -> None:
    desk.write(40)
    answers = 10

    def reply(request: dict[str, Any]) -> dict[str, str] | None:
        nonlocal answers
        answers -= 1
        return sent(request) if answers >= 0 else None

    async with service(nats_server, reply) as relay:
        words = ["send", *desk.mailing, "--concurrency", "4", "--timeout", "1.5"]
        process = await child.start(SCRIPT, *words, env={"NATS_URL": nats_server.url}, output=asyncio.subprocess.PIPE)
        await until(lambda: len(relay.requests) == 14)
        process.send_signal(number)
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        relay.reply = sent
        again = await desk.send_all()
        assert again.exit_code == 3
        finished = await desk.send_all("--retry-unknown")
    if number == signal.SIGINT:
        assert process.returncode == 128 + number
        assert b"The same command goes on with the rest." in errors
    assert finished.exit_code == 0
    assert set(desk.statuses().values()) == {"sent"}
    twice = [to for to in set(relay.recipients) if relay.recipients.count(to) > 1]
    assert len(twice) == 4  # those in doubt, when told to
    assert len(relay.recipients) == 44
