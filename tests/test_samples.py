# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The samples of the docs work against the real servers; those in Go are formatted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import nats as nats_py
import pytest
from nats.js.api import ConsumerConfig

from shared import contract
from tests import samples
from tests.stack import child, console, nats_server, scripted_smtp, smtp_scripts
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.js import JetStreamContext

    from tests.stack.console import Console
    from tests.stack.smtp_scripts import Action, Moment

COUNT: Final = 120
REFUSED, LOST = "refused@example.com", "lost@example.com"
DEFERRED: Final = 60
BUSY: Final = {"MAX_IN_FLIGHT": "24", "SEND_RETRY_SECONDS": "0.3"}


class Trouble:
    """A mail server that defers at first, refuses one address, and stores a mail for another without a reply."""

    def __init__(self) -> None:
        self._deferred = 0
        self._lost = False

    def __call__(self, moment: Moment) -> Action | None:
        """Return the action of the server."""
        if moment.stage == "rcpt":
            self._lost = LOST in moment.line
            if REFUSED in moment.line:
                return smtp_scripts.Reply("550 5.1.1 no such user")
            self._deferred += 1
            if self._deferred <= DEFERRED:
                return smtp_scripts.Reply("451 4.3.0 later")
        if moment.stage == "dot" and self._lost:
            return smtp_scripts.STORE_THEN_CLOSE
        return None


@asynccontextmanager
async def relay(nats_url: str, smtp_port: int) -> AsyncIterator[Console]:
    """Run a relay with one SMTP connection, so that it is soon busy."""
    environment = {"NATS_URL": nats_url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp_port), **BUSY}
    async with console.running(
        "lfx-email-relay", "serve", "--create-missing", env={**environment, "SMTP_MAX_CONNECTIONS": "1"}
    ) as process:
        await process.wait_until_ready()
        yield process


async def test_the_sample_for_many_emails_sends_each_once_and_reports_the_others(tmp_path: Path) -> None:
    addresses = [f"a{number}@example.com" for number in range(COUNT)]
    file = tmp_path / "addresses.txt"
    file.write_text("\n".join([REFUSED, *addresses[:60], LOST, *addresses[60:], addresses[0]]))
    async with nats_server.running() as nats, scripted_smtp.running(Trouble()) as smtp:
        sample = [sys.executable, "-W", "error", str(samples.FOLDER / "send_many.py"), str(file), "spring"]
        async with relay(nats.url, smtp.port) as process:
            first = await run(*sample, NATS_URL=nats.url)
            await process.wait_for_log("request.busy")
        async with relay(nats.url, smtp.port):
            second = await run(*sample, NATS_URL=nats.url)
        assert Counter(one.recipients[0] for one in smtp.mails) == Counter([*addresses, LOST])
    for code, output in (first, second):
        assert code == 1
        assert f"unknown: {LOST}: " in output
        assert re.search(rf"^(failed|unknown): {REFUSED}: email delivery failed$", output, re.MULTILINE)
        assert f"sent {COUNT}" in output.splitlines()[-1]


@pytest.mark.parametrize("path", sorted(samples.FOLDER.glob("*.go")), ids=lambda path: path.name)
async def test_each_sample_in_go_is_formatted(path: Path) -> None:
    gofmt = shutil.which("gofmt")
    if not gofmt:
        pytest.skip("no Go toolchain")
    assert await run(gofmt, "-l", str(path)) == (0, "")


async def test_the_consumer_of_the_page_handles_each_event_once_also_after_kills(tmp_path: Path) -> None:
    (script,) = samples.of_page("python")
    async with (
        nats_server.running() as nats,
        await nats_py.connect(nats.url) as client,
    ):
        js = client.jetstream()
        subjects = list(contract.PUSH_EVENT_SUBJECTS)
        await js.add_stream(name=contract.PUSH_EVENTS_STREAM, subjects=subjects, duplicate_window=0.1)
        kinds = [contract.EMAIL_DELIVERED_SUBJECT, contract.EMAIL_FAILED_SUBJECT]
        config = ConsumerConfig(durable_name="invites", filter_subjects=kinds, ack_wait=0.3)  # not 30 s, for the kills
        await js.add_consumer(contract.PUSH_EVENTS_STREAM, config)
        environment = {"NATS_URL": nats.url, "DATABASE": str(tmp_path / "events.db")}
        handled: list[str] = []
        for start in range(3):
            for number in (start * 2, start * 2 + 1, 0):
                await store(js, contract.EMAIL_DELIVERED_SUBJECT, str(number))
            await store(js, contract.EMAIL_OPENED_SUBJECT, "of another kind")
            async with samples.python(script, environment) as process:
                handled += await samples.lines(process, 2)
                await until(partial(stored_ids, tmp_path / "events.db"), partial(has_length, len(handled)))
                process.kill()
        assert handled == [f"email_delivered {number}\n" for number in range(6)]
        await store(js, contract.EMAIL_FAILED_SUBJECT, "no JSON", body=b"{")
        async with samples.python(script, environment) as process:
            assert "comes again" in (await samples.lines(process, 1))[0]
            await until(
                lambda: js.consumer_info(contract.PUSH_EVENTS_STREAM, "invites"),
                lambda info: (info.num_pending, info.num_ack_pending) == (0, 1),
            )
            process.kill()


def has_length(length: int, items: list[str]) -> bool:
    return len(items) == length


def stored_ids(database: Path) -> list[str]:
    """Return the ids that the consumer has committed."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        return [event_id for (event_id,) in db.execute("SELECT event_id FROM handled")]


async def store(js: JetStreamContext, subject: str, event_id: str, body: bytes = b"") -> None:
    """Store an event; one with the same id is stored again when the duplicate window is over."""
    body = body or json.dumps({"email_id": event_id}).encode()
    await until(lambda: js.publish(subject, body, headers={"Nats-Msg-Id": event_id}), lambda ack: not ack.duplicate)


async def test_the_consumer_in_go_is_formatted(tmp_path: Path) -> None:
    file = tmp_path / "consumer.go"
    (text,) = samples.of_page("go")
    file.write_text(text)
    await test_each_sample_in_go_is_formatted(file)


async def run(program: str, *arguments: str, **env: str) -> tuple[int | None, str]:
    """Run a program to its end; return its exit status and its output."""
    process = await child.start(
        program, *arguments, env={"PATH": os.environ["PATH"], **env}, output=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert errors == b""
    return process.returncode, output.decode()
