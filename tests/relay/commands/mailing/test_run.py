# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`send --csv` sends each row once, also over several runs, and its exit status says whether rows remain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nats
import pytest
from tenacity import wait_fixed

from relay.commands.mailing import mailer
from shared import contract
from shared.commands import caller
from tests.relay.commands.sending import SCRIPT, sent, service
from tests.stack import child
from tests.stack import nats_server as nats_servers
from tests.stack.nats_flush import flush
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.relay.commands.sending import Folder, Reply
    from tests.stack.nats_server import NatsServer

BUSY: Final = {"error": contract.SERVICE_BUSY}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses and patience of less than a second."""
    monkeypatch.setattr(mailer, "PAUSES", wait_fixed(0.01))
    monkeypatch.setattr(mailer, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(mailer, "BUSY_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.5)


async def test_each_row_is_sent_once_into_one_group_and_the_second_run_sends_nothing(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(30)
    async with service(nats_server) as relay:
        first = await folder.send_all("--json")
        second = await folder.send_all()
    summary = json.loads(first.stdout)
    assert (first.exit_code, summary["rows"], summary["sent"]) == (0, 30, 30)
    assert sorted(relay.recipients) == sorted(f"p{number}@example.com" for number in range(1, 31))
    assert {request["group_id"] for request in relay.requests} == {summary["group_id"]}
    assert relay.requests[0]["html"] == f"<p>Hello {relay.requests[0]['text'].removeprefix('Hello ')}</p>"
    assert (second.exit_code, f"group_id     {summary['group_id']}" in second.stdout) == (0, True)


async def test_a_later_run_continues_the_group_that_the_first_run_chose(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.people.write_text("to,name,group_id\na@b.org,A,own\nc@d.org,C,\n")
    async with service(nats_server) as relay:
        await folder.send_all()
        with folder.people.open("a") as people:
            people.write("e@f.org,E,\n")
        assert (await folder.send_all()).exit_code == 0
    groups = {request["to"]: request["group_id"] for request in relay.requests}
    assert groups["a@b.org"] == "own"
    assert groups["c@d.org"] == groups["e@f.org"] != "own"


async def test_a_dry_run_shows_the_first_remaining_email_and_sends_nothing(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.people.write_text("to;Name\na@b.org;A & B\nc@d.org;C\nA@B.ORG;D\n")
    async with service(nats_server) as relay:
        result = await folder.send_all("--dry-run", "--tag", "list=x")
        assert (result.exit_code, relay.requests, folder.result.exists()) == (0, [], False)
        assert [line.split(maxsplit=1) for line in result.stdout.splitlines()[:3]] == [
            ["to", "a@b.org"],
            ["subject", "Hello A & B"],
            ["tags.list", "x"],
        ]
        assert "--- text ---\nHello A & B\n--- html ---\n<p>Hello A &amp; B</p>\n" in result.stdout
        assert "rows with the recipient of an earlier row: 1\n  line 4: A@B.ORG, as in line 2\n" in result.stderr
        assert "Dry run: nothing was sent. Rows: 3, to be sent: 3." in result.stderr
        assert (await folder.send_all()).exit_code == 0
        with folder.people.open("a") as people:
            people.write("e@f.org;E\n")
        before = folder.result.read_bytes()
        rest = json.loads((await folder.send_all("--dry-run", "--json")).stdout)
    assert (rest["rows"], rest["to_send"], rest["first"]["to"]) == (4, 1, "e@f.org")
    assert folder.result.read_bytes() == before


async def test_rows_from_standard_input_need_a_result_file(nats_server: NatsServer, folder: Folder) -> None:
    mailing = ["--csv", "-", *folder.mailing[2:]]
    async with service(nats_server) as relay:
        refused = await folder.send(*mailing, text="to,name\na@b.org,A\n")
        assert (refused.exit_code, "--csv - needs --result" in refused.stderr) == (2, True)
        done = await folder.send(*mailing, "--result", str(folder.result), text="to,name\n\na@b.org,A\n")
    assert (done.exit_code, relay.recipients) == (0, ["a@b.org"])
    assert folder.result.read_text().splitlines()[-1].endswith(",3")


async def test_a_missing_permission_ends_the_run_with_1(folder: Folder) -> None:
    folder.write(3)
    config = 'authorization { users: [{ user: u, password: p, permissions: { publish: "_INBOX.>" } }] }'
    async with nats_servers.running(config) as server:
        folder.url = server.url.replace("//", "//u:p@")
        result = await folder.send_all()
        folder.url = server.url.replace("//", "//u:wrong@")
        refused = await folder.send_all()
    assert (result.exit_code, refused.exit_code) == (1, 1)
    assert "Error: the NATS user may not publish to lfx.email-service.send_email. Run the same" in result.stderr
    assert "the login was refused" in refused.stderr
    assert set(folder.statuses().values()) == {"unsent"}


async def test_an_invalid_row_is_reported_with_its_line_and_nothing_is_sent(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.people.write_text("to,name\na@b.org,A\nnot-an-address,B\n")
    async with service(nats_server) as relay:
        result = await folder.send_all()
    assert (result.exit_code, result.stdout, relay.requests) == (2, "", [])
    assert "nothing was sent\n  line 3: to is not one mailbox: not-an-address\n" in result.stderr
    assert not folder.result.exists()


async def test_a_byte_that_is_not_utf_8_is_reported_with_its_line(nats_server: NatsServer, folder: Folder) -> None:
    folder.write(60)
    folder.people.write_bytes(folder.people.read_bytes().replace(b",P 50\n", b",P \xff\n"))
    async with service(nats_server) as relay:
        result = await folder.send_all()
    assert (result.exit_code, relay.requests) == (2, [])
    assert result.stderr.endswith(
        "nothing was sent\n  line 51: byte 0xff is not UTF-8: save the file as UTF-8 (in Excel: CSV UTF-8)\n"
    )


async def test_a_placeholder_is_filled_or_nothing_is_sent(nats_server: NatsServer, folder: Folder) -> None:
    folder.people.write_text("to,First Name,name\na@b.org,Ada,L\n")
    async with service(nats_server) as relay:
        refused = await folder.send_all("--subject", "Dear %First_Name%")
        assert (refused.exit_code, relay.requests) == (2, [])
        assert "  subject: %First_Name% is not filled in: write {First Name}" in refused.stderr
        assert (await folder.send_all("--subject", "Dear {first name}")).exit_code == 0
    assert relay.requests[0]["subject"] == "Dear Ada"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_files_with_byte_order_marks_are_read_and_no_mark_is_sent(
    nats_server: NatsServer, folder: Folder, encoding: str
) -> None:
    parts = ("to,name\n", '"a@b.org",A\n', "c@d.org,\ufeffC")
    folder.people.write_bytes(b"".join(part.encode(encoding) for part in parts))
    for name in ("mail.html", "mail.txt"):
        body = folder.people.with_name(name)
        body.write_bytes("\ufeffDear\r\n".encode(encoding) + "{name}".encode(encoding))
    async with service(nats_server) as relay:
        result = await folder.send_all("--subject", "\ufeffHello {\ufeffname}", "--tag", "\ufeffa=\ufeff1")
    assert result.exit_code == 0
    assert sorted((one["to"], one["subject"], one["html"], one["text"]) for one in relay.requests) == [
        ("a@b.org", "Hello A", "Dear\nA", "Dear\nA"),
        ("c@d.org", "Hello C", "Dear\nC", "Dear\nC"),
    ]
    assert relay.requests[0]["tags"] == {"a": "1"}


async def test_a_request_is_repeated_while_the_service_is_busy(nats_server: NatsServer, folder: Folder) -> None:
    folder.write(3)
    busy = [BUSY] * 4
    async with service(nats_server, lambda request: busy.pop() if busy else sent(request)) as relay:
        result = await folder.send_all("--concurrency", "2")
    assert (result.exit_code, len(relay.requests)) == (0, 7)
    assert set(folder.statuses().values()) == {"sent"}


@pytest.mark.parametrize("hold_seconds", [0, 0.15])
async def test_a_row_is_not_abandoned_while_others_are_sent_at_a_low_rate(
    nats_server: NatsServer, folder: Folder, hold_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((mailer, "PATIENCE_SECONDS"), (mailer, "BUSY_PATIENCE_SECONDS"), (caller, "PATIENCE_SECONDS")):
        monkeypatch.setattr(module, name, 2)
    folder.write(30)
    loop = asyncio.get_running_loop()
    next_at = loop.time()

    async def on_message(msg: Msg) -> None:
        nonlocal next_at
        deadline = loop.time() + hold_seconds
        while (now := loop.time()) < next_at and now < deadline:
            await asyncio.sleep(0.01)
        is_busy = now < next_at
        if not is_busy:
            next_at = now + 0.1
        await msg.respond(json.dumps(BUSY if is_busy else sent(json.loads(msg.data))).encode())

    async with await nats.connect(nats_server.url) as client:

        async def at_once(msg: Msg) -> None:
            tasks.append(asyncio.create_task(on_message(msg)))

        tasks: list[asyncio.Task[None]] = []
        await client.subscribe(contract.SEND_EMAIL_SUBJECT, cb=at_once)
        await flush(client)
        result = await folder.send_all("--json")
        await asyncio.gather(*tasks)
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["sent"], summary["unknown"], summary["failed"]) == (0, 30, 0, 0)


async def test_a_service_that_stays_busy_ends_the_run_and_the_next_run_sends_the_rest(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(20)
    async with service(nats_server, lambda _: BUSY) as relay:
        result = await folder.send_all("--concurrency", "2")
        assert (result.exit_code, set(folder.statuses().values())) == (3, {"unsent"})
        assert "busy for 0.5 s. Run the same command again" in result.stderr
        relay.reply = sent
        assert (await folder.send_all()).exit_code == 0
    assert len(folder.statuses()) == 20
    assert set(folder.statuses().values()) == {"sent"}


async def test_refused_and_failed_rows_are_sent_again_only_with_their_options(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(3)
    refused = {"p2@example.com": contract.INVALID_TO, "p3@example.com": contract.DELIVERY_FAILED}

    def reply(request: dict[str, Any]) -> dict[str, str]:
        to = request["to"]
        return {"error": refused[to]} if to in refused else sent(request)

    async with service(nats_server, reply) as relay:
        first = await folder.send_all()
        assert first.exit_code == 1
        assert folder.statuses() == {"p1@example.com": "sent", "p2@example.com": "refused", "p3@example.com": "failed"}
        assert (await folder.send_all()).exit_code == 1
        assert len(relay.requests) == 3
        refused.clear()
        await folder.send_all("--retry-refused")
        assert relay.recipients[3:] == ["p2@example.com"]
        assert (await folder.send_all("--retry-unknown")).exit_code == 0
        assert relay.recipients[4:] == ["p3@example.com"]


async def test_a_failed_row_is_refused_if_it_was_not_sent_and_failed_if_nobody_knows(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(3)
    refused = {"outcome": "not_sent", "permanent": True, "smtp_code": 550}
    failed: dict[str, dict[str, object]] = {
        "p1@example.com": {"error": contract.DELIVERY_FAILED, **refused},
        "p2@example.com": {"error": contract.INTERNAL_ERROR, "outcome": "not_sent"},
        "p3@example.com": {"error": contract.DELIVERY_FAILED, "outcome": "unknown", "permanent": False},
    }
    async with service(nats_server, lambda request: failed[request["to"]]):
        result = await folder.send_all()
    assert folder.statuses() == {"p1@example.com": "refused", "p2@example.com": "refused", "p3@example.com": "failed"}
    assert "email delivery failed (not sent, SMTP 550, permanent)" in folder.result.read_text()
    assert "internal error (not sent)" in folder.result.read_text()
    assert "email delivery failed (may have been sent)" in folder.result.read_text()
    assert "1 have an unknown outcome" in result.stderr


async def test_a_row_without_an_answer_is_sent_again_only_with_its_option(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(6)
    silent = {"p2@example.com"}
    async with service(nats_server, lambda one: None if one["to"] in silent else sent(one)) as relay:
        first = await folder.send_all("--timeout", "0.1", "--concurrency", "2")
        assert (first.exit_code, folder.statuses()["p2@example.com"]) == (3, "unknown")
        silent.clear()
        assert (await folder.send_all()).exit_code == 3
        assert relay.recipients.count("p2@example.com") == 1
        assert (await folder.send_all("--retry-unknown")).exit_code == 0
        assert relay.recipients.count("p2@example.com") == 2


async def test_a_service_that_stops_answering_ends_the_run(nats_server: NatsServer, folder: Folder) -> None:
    folder.write(50)
    async with service(nats_server, lambda _: None) as relay:
        result = await folder.send_all("--timeout", "0.1", "--concurrency", "3")
    assert (result.exit_code, "the service does not answer any more" in result.stderr) == (3, True)
    assert len(relay.requests) <= 6


async def test_an_unreachable_service_ends_the_run_at_once(nats_server: NatsServer, folder: Folder) -> None:
    folder.write(5)
    result = await folder.send_all()
    assert (result.exit_code, "no service answers" in result.stderr) == (3, True)
    assert set(folder.statuses().values()) == {"unsent"}
    folder.url = f"nats://127.0.0.1:{free_port()}"
    without_nats = await folder.send_all()
    assert (without_nats.exit_code, "cannot connect to NATS" in without_nats.stderr) == (3, True)
    async with service(nats_server) as relay:
        folder.url = nats_server.url
        assert (await folder.send_all()).exit_code == 0
    assert len(relay.requests) == 5


async def test_a_result_file_of_other_rows_is_refused(nats_server: NatsServer, folder: Folder) -> None:
    folder.write(2)
    async with service(nats_server) as relay:
        await folder.send_all()
        folder.people.write_text("to,name\nother@example.com,O\np2@example.com,P\n")
        result = await folder.send_all()
    assert (result.exit_code, len(relay.requests)) == (2, 2)
    assert "line 2 was p1@example.com, and is now other@example.com" in result.stderr


@pytest.mark.parametrize(
    "changed",
    [
        "--subject=Other {name}",
        "--text=other.txt",
        "--html=other.txt",
        "--tag=a=1",
        "--from=c@d.org",
        "--group-id=g",
        "--idempotency-key=k-{to}",
        "--unsubscribe-url=https://b.org/u",
    ],
)
async def test_a_result_file_of_another_mailing_is_refused(
    nats_server: NatsServer, folder: Folder, changed: str
) -> None:
    folder.write(2)
    other = folder.people.with_name("other.txt")
    other.write_text("Other {name}")
    async with service(nats_server) as relay:
        assert (await folder.send_all()).exit_code == 0
        result = await folder.send_all(changed.replace("other.txt", str(other)))
        assert (result.exit_code, result.stdout, len(relay.requests)) == (2, "", 2)
        assert "the result file belongs to another mailing: line 2, p1@example.com, is sent" in result.stderr
        assert "Use --result with another file" in result.stderr
        elsewhere = str(folder.people.with_name("second.csv"))
        again = await folder.send_all(changed.replace("other.txt", str(other)), "--result", elsewhere)
        assert (again.exit_code, len(relay.requests)) == (0, 4)


async def test_other_values_for_rows_that_were_sent_are_another_mailing(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(2)
    async with service(nats_server) as relay:
        await folder.send_all()
        folder.people.write_text(folder.people.read_text().replace("P 2", "Q 2"))
        result = await folder.send_all()
        assert (result.exit_code, "another mailing: line 3, p2@example.com" in result.stderr) == (2, True)
    assert len(relay.requests) == 2


async def test_rows_that_were_not_sent_may_be_corrected_and_further_ones_appended(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(3)
    refused = {"p2@example.com"}
    async with service(nats_server, lambda one: {"error": "x"} if one["to"] in refused else sent(one)) as relay:
        await folder.send_all()
        folder.people.write_text(folder.people.read_text().replace("P 2", "Q 2") + "\np4@example.com,P 4")
        assert (await folder.send_all()).exit_code == 2
        refused.clear()
        result = await folder.send_all("--retry-refused", "--json")
    summary = json.loads(result.stdout)
    assert (result.exit_code, summary["sent"], summary["sent_before"], summary["sent_now"]) == (0, 4, 2, 2)
    assert [request["subject"] for request in relay.requests[3:]] == ["Hello Q 2", "Hello P 4"]


async def test_the_second_run_reports_that_all_were_sent_before(nats_server: NatsServer, folder: Folder) -> None:
    folder.write(2)
    async with service(nats_server):
        await folder.send_all()
        result = await folder.send_all()
    counts = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines())
    assert {name.strip(): count for name, count in counts.items()}.items() >= {
        "sent": "2",
        "sent_before": "2",
        "sent_now": "0",
    }.items()
    assert "Nothing was sent now: 2 were sent before." in result.stderr


async def test_a_result_file_of_an_older_version_is_continued_with_a_warning(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(2)
    folder.result.write_text("row,to,status,email_id,group_id,error\n1,p1@example.com,sent,id,g,\n")
    async with service(nats_server) as relay:
        result = await folder.send_all()
    assert (result.exit_code, relay.recipients) == (0, ["p2@example.com"])
    assert "was written by an older version and may be of another mailing." in result.stderr


async def test_a_result_file_that_cannot_be_written_ends_the_run_and_the_next_run_sends_the_rest(
    nats_server: NatsServer, folder: Folder
) -> None:
    folder.write(60)
    words = ["-c", 'ulimit -f 4; exec "$0" "$@"', str(SCRIPT), "send", *folder.mailing, "--concurrency", "4"]
    async with service(nats_server) as relay:
        env = {"NATS_URL": nats_server.url, "PYTHONDONTWRITEBYTECODE": "1"}  # which would be cut off as well
        process = await child.start(Path("/bin/sh"), *words, env=env, output=asyncio.subprocess.PIPE)
        output, errors = await asyncio.wait_for(process.communicate(), 20)
        message = f"Error: {folder.result}: File too large. Run the same command again to send the remaining rows.\n"
        assert (process.returncode, errors.endswith(message.encode())) == (1, True)
        assert len(relay.requests) < 60
        recorded = list(folder.statuses().values()).count("sent")
        assert f"sent         {recorded}\n".encode() in output
        assert (await folder.send_all("--retry-unknown")).exit_code == 0
    assert (len(folder.statuses()), set(folder.statuses().values())) == (60, {"sent"})
    assert len(relay.requests) <= 60 + 4  # the requests without an answer yet


@pytest.mark.parametrize(("status", "reply"), [(0, sent), (1, lambda _: {"error": contract.INVALID_TO})])
@pytest.mark.parametrize("output", [(), ("--json",)])
async def test_the_exit_status_is_that_of_the_mailing_if_the_reader_has_gone(
    nats_server: NatsServer, folder: Folder, status: int, reply: Reply, output: tuple[str, ...]
) -> None:
    folder.write(2)
    reader, writer = os.pipe()
    os.close(reader)
    words = ["send", *folder.mailing, *output]
    async with service(nats_server, reply):
        try:
            process = await child.start(SCRIPT, *words, env={"NATS_URL": nats_server.url}, output=writer)
        finally:
            os.close(writer)
        assert await asyncio.wait_for(process.wait(), 20) == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_no_row_is_sent_twice_after_a_run_was_interrupted(
    nats_server: NatsServer, folder: Folder, number: signal.Signals
) -> None:
    folder.write(40)
    answers = 10

    def reply(request: dict[str, Any]) -> dict[str, str] | None:
        nonlocal answers
        answers -= 1
        return sent(request) if answers >= 0 else None

    async with service(nats_server, reply) as relay:
        words = ["send", *folder.mailing, "--concurrency", "4", "--timeout", "1.5"]
        process = await child.start(SCRIPT, *words, env={"NATS_URL": nats_server.url}, output=asyncio.subprocess.PIPE)
        await until(lambda: len(relay.requests) == 14)
        process.send_signal(number)
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        relay.reply = sent
        again = await folder.send_all()
        assert (again.exit_code, again.stderr.splitlines()[-1]) == (3, "Error: some rows have no answer")
        finished = await folder.send_all("--retry-unknown")
    if number == signal.SIGINT:
        assert process.returncode == 128 + number
        assert b"Run the same command again to send the remaining rows." in errors
    assert finished.exit_code == 0
    assert set(folder.statuses().values()) == {"sent"}
    twice = [to for to in set(relay.recipients) if relay.recipients.count(to) > 1]
    assert len(twice) == 4  # those without an answer, with --retry-unknown
    assert len(relay.recipients) == 44
