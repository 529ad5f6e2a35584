# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The samples of the docs do what they say, against the real servers; those in Go are formatted and complete."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from shared import contract
from tests.stack import child, console, nats_server, scripted_smtp, smtp_scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stack.console import Console
    from tests.stack.smtp_scripts import Action, Moment

ROOT: Final = Path(__file__).parent.parent
SAMPLES: Final = ROOT / "docs" / "samples"
COUNT: Final = 120
REFUSED, LOST = "refused@example.com", "lost@example.com"
DEFERRED: Final = 60 if "outcome" in contract.ErrorResponse.__struct_fields__ else 0  # else it would be unknown
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
        sample = [sys.executable, "-W", "error", str(SAMPLES / "send_many.py"), str(file), "spring"]
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


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.go")), ids=lambda path: path.name)
async def test_each_sample_in_go_is_formatted(path: Path) -> None:
    gofmt = shutil.which("gofmt")
    if not gofmt:
        pytest.skip("no Go toolchain")
    assert await run(gofmt, "-l", str(path)) == (0, "")


async def run(program: str, *arguments: str, **env: str) -> tuple[int | None, str]:
    """Run a program to its end; return its exit status and its output."""
    process = await child.start(
        program, *arguments, env={"PATH": os.environ["PATH"], **env}, output=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert errors == b""
    return process.returncode, output.decode()
