# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""No encoding, reader or full disk at the end of a command's output brings it to a traceback or a wrong status."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nats
import pytest

from shared import contract
from tests.stack import nats_server as nats_servers
from tests.stack.nats_flush import flush

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

PROGRAMS: Final = {name: Path(sys.executable).parent / f"lfx-email-{name}" for name in ("relay", "tracker")}
HELP: Final = [
    ("relay", ["--help"]),
    ("relay", ["--version"]),
    ("relay", ["send", "--help"]),
    ("tracker", ["suppressions", "--help"]),
    ("tracker", ["suppressions", "list", "--help"]),
]
NO_SPACE: Final = b"Error: cannot read or write: No space left on device\n"
EMAILS: Final = 3000
RECIPIENT: Final = "Zo\u00eb \u674e <zoe@example.com>"


def run(program: str, *words: str, redirections: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program with redirections of a shell."""
    shell = ["sh", "-c", f'exec "$0" "$@" {redirections}', str(PROGRAMS[program]), *words]
    return subprocess.run(shell, env=env, capture_output=True, check=False, timeout=30)  # noqa: S603 - our own words


@pytest.mark.parametrize(("program", "words"), HELP)
def test_help_without_a_reader_is_not_an_error(program: str, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            [PROGRAMS[program], *words], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=30
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("program", "words"), HELP)
def test_help_on_a_full_disk_is_one_line_and_status_1(program: str, words: list[str]) -> None:
    done = run(program, *words, redirections=">/dev/full")
    assert (done.returncode, done.stderr) == (1, NO_SPACE)


@pytest.mark.parametrize(
    ("words", "redirections", "status"),
    [
        (["--version"], ">&-", 0),
        (["--version"], ">&- 2>&-", 0),
        (["--version"], ">/dev/full 2>&-", 1),
        (["--version"], ">/dev/full 2>/dev/full", 1),
        (["send", "--nothing"], "2>&-", 2),
        (["send", "--nothing"], "2>/dev/full", 2),
        (["nothing"], "2>/dev/full", 2),
        (["send", "--to", "a@b.org", "--subject", "s", "--html", "/dev/null", "--text", "/dev/null"], "2>/dev/full", 2),
    ],
)
def test_the_exit_status_is_right_without_standard_error(words: list[str], redirections: str, status: int) -> None:
    done = run("relay", *words, redirections=redirections)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ("to\n\u200ba\x07@b.org\n", "line 2: to is not one mailbox: \\u200ba\\x07@b.org\n"),
        ("to,\x9b31m,\x9b31m\na@b.org,x,y\n", "line 1: column \\x9b31m appears twice\n"),
        ("to,\u202eb\na@b.org,x\n", "Columns that are not used: \\u202eb\n"),
    ],
)
def test_a_message_shows_invisible_characters_of_a_file_instead_of_passing_them_on(
    tmp_path: Path, rows: str, shown: str
) -> None:
    people, body = tmp_path / "people.csv", tmp_path / "body"
    people.write_text(rows)
    body.write_text("Hello")
    done = run("relay", *f"send --csv {people} --subject Hello --html {body} --text {body} --dry-run".split())
    assert shown in done.stderr.decode()


@asynccontextmanager
async def tracker() -> AsyncIterator[str]:
    """A stand-in for the tracker, with one group; the URL of its NATS server."""

    def record(number: int) -> dict[str, Any]:
        return {"email_id": f"e{number}", "group_id": "g", "to": RECIPIENT, "sent_at": "2026-01-02T03:04:05Z"}

    async def status(msg: Msg) -> None:
        request = json.loads(msg.data)
        page = range(request.get("offset", 0), request.get("offset", 0) + request.get("limit", 1))
        records = [{**record(number), "subject": "s", "delivered": False, "failed": False} for number in page]
        counts = {"open_count": 0, "click_count": 0, "opened_at_list": [], "click_list": [], "opened": False}
        records = [{**one, **counts, "clicked": False} for one in records]
        await msg.respond(json.dumps(records if request.get("group_id") else records[0]).encode())

    async def analytics(msg: Msg) -> None:
        counts = dict.fromkeys(("delivered", "opened", "unique_opened", "failed"), 0)
        await msg.respond(json.dumps({"group_id": "g", "total_sent": EMAILS, **counts}).encode())

    async with nats_servers.running() as server, await nats.connect(server.url) as client:
        await client.subscribe(contract.GET_EMAIL_STATUS_SUBJECT, cb=status)
        await client.subscribe(contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT, cb=analytics)
        await flush(client)
        yield server.url


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--group-id", "g"],
        ["status", "--group-id", "g", "--json"],
        ["status", "e1"],
        ["status", "e1", "--json"],
        ["analytics", "g", "--watch", "--interval", "0.1"],
        ["analytics", "g", "--watch", "--interval", "0.1", "--json"],
        ["watch"],
        ["watch", "--json"],
    ],
    ids=" ".join,
)
async def test_a_reader_that_leaves_is_not_an_error(words: list[str]) -> None:
    async with tracker() as url, await nats.connect(url) as publisher:
        process = await asyncio.create_subprocess_exec(
            PROGRAMS["tracker"], *words, env={"NATS_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        publishing = asyncio.create_task(publish_without_end(publisher))
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), 20)
        process.stdout._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing else closes a pipe
        assert process.stderr
        errors = await asyncio.wait_for(process.stderr.read(), 20)
        publishing.cancel()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert errors in {b"", b"Watching; Ctrl-C ends it.\n"}


async def publish_without_end(client: Client) -> None:
    event = {"email_id": "e", "group_id": "g", "delivered_at": "2026-01-02T03:04:05Z"}
    while True:
        await client.publish(contract.EMAIL_DELIVERED_SUBJECT, json.dumps(event).encode())
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "Zo\u00eb ? <zoe@example.com>".encode("latin-1")),
        ({"PYTHONIOENCODING": "ascii"}, b"Zo? ? <zoe@example.com>"),
        ({"PYTHONIOENCODING": "ascii:strict"}, b"Zo? ? <zoe@example.com>"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"Zo? ? <zoe@example.com>"),
        ({"LC_ALL": "C"}, RECIPIENT.encode()),
    ],
)
async def test_a_character_that_the_encoding_lacks_is_replaced(env: dict[str, str], shown: bytes) -> None:
    async with tracker() as url:
        as_table = await asyncio.to_thread(run, "tracker", "status", "e1", NATS_URL=url, **env)
        as_json = await asyncio.to_thread(run, "tracker", "status", "e1", "--json", NATS_URL=url, **env)
    assert (as_table.returncode, as_table.stderr, shown in as_table.stdout) == (0, b"", True)
    assert json.loads(as_json.stdout)["to"] == RECIPIENT


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_message_is_shown_in_any_encoding(encoding: str) -> None:
    done = run("relay", "send", "--\u674e", LC_ALL="C.UTF-8", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"No such option" in done.stderr
    assert b"\\u674e" in done.stderr
