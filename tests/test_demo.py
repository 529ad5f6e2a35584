# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The demo, run as `make demo` runs it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nats
import pytest

from tests.demo import screen
from tests.demo.check import Check
from tests.stack import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DEMO = ("-m", "tests.demo")
EXPECT_ANOTHER_COUNT = """
import runpy
from tests.demo import event_checks
event_checks.COUNTS["failed"] = 1
runpy.run_module("tests.demo", run_name="__main__")
"""
SECONDS = 40
ESCAPE = "\x1b"
FACTS = (
    '"error":"email delivery failed"',
    "Subject: =?utf-8?b?",
    "X-LFX-TRACKING-ID: summit/",
    "X-SES-CONFIGURATION-SET: lfx-engagement",
    "Its subject reads: 🎉 Your talk in 東京 is accepted",
    "✓ 4 of 5 are accepted",
    "✓ each has exactly the addresses, subject, text and html of its request",
    "✓ opened twice: the repeated event is not counted",
    "✓ the group's counts are those of the events",
    "open_count       2",
    "total_sent     4\n",
    "delivered      3\n",
    "unique_opened  2\n",
    "failed         2\n",
)


@contextmanager
def demo(
    home: Path, command: tuple[str, ...] = DEMO, *, stdout: int = subprocess.PIPE, keep: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Run it in its own session; afterwards none of its processes and files may be left."""
    environment = {**os.environ, "TMPDIR": str(home), "KEEP": keep, "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
    assert list(home.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_the_demo_shows_all_results_and_each_check_holds(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, output + errors
    assert errors == ""
    assert [fact for fact in FACTS if fact not in output] == []
    assert "✗" not in output
    assert ESCAPE not in output
    assert max(map(len, output.splitlines())) <= screen.WIDTH
    assert without_time(output).endswith(without_time(end_in_readme()))


def end_in_readme() -> str:
    """Return the end of the demo as the README shows it."""
    text = (ROOT / "README.md").read_text()
    return text.partition("The end of `make demo`:\n\n```\n")[2].partition("```")[0]


def without_time(text: str) -> str:
    return re.sub(r"[\d.]+ s in total", "", text)


def test_a_failed_check_shows_the_expected_and_the_actual_value_and_the_logs(tmp_path: Path) -> None:
    with demo(tmp_path, ("-c", EXPECT_ANOTHER_COUNT)) as process:
        output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
    assert re.search(r"✗ the group's counts .*\n +expected  .*'failed': 1}\n +actual    .*'failed': 2}\n", output)
    assert '"msg":"event.applied"' in output
    assert re.search(r"\n1 of \d+ checks failed\.\n\Z", output)


@pytest.mark.parametrize("moment", ["Start", "Send 5", "Send 10"])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    with demo(tmp_path) as process:
        assert process.stdout
        assert any(line.startswith(moment) for line in process.stdout)
        process.terminate()
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGTERM
    assert errors == ""
    assert output.endswith("Interrupted. Everything is stopped.\n")


async def test_a_kept_demo_runs_until_ctrl_c_and_its_printed_commands_work(tmp_path: Path) -> None:
    terminal, stdout = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as printed, demo(tmp_path, stdout=stdout, keep="1") as process:
        os.close(stdout)
        shown = read_until(printed, "Everything runs until Ctrl-C.")
        assert ESCAPE in shown
        await try_what_is_shown(re.sub(rf"{ESCAPE}\[[0-9;?]*[A-Za-z]", "", shown))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all of them
        assert "checks passed." in read_until(printed, "checks passed.")
        assert process.wait(SECONDS) == 0


def read_until(terminal: io.RawIOBase | io.FileIO, end: str) -> str:
    """Return the output of a terminal as soon as it contains `end`."""
    shown = b""
    while end.encode() not in shown:
        chunk = terminal.read(65_536)
        assert chunk, shown.decode()
        shown += chunk
    return shown.decode()


async def try_what_is_shown(shown: str) -> None:
    """Run the printed lines: a query by command and over NATS, a send, and the probes."""
    request = re.search(r"nats req --server (\S+) (\S+get_email_status) \\\s+'(.*)'", shown)
    assert request
    client = await nats.connect(request[1])
    reply = await client.request(request[2], request[3].encode(), timeout=20)
    await client.close()
    assert json.loads(reply.data)["to"] == "ada@example.com"
    typed = re.sub(r"\\\s+", "", shown)
    for command, answer in (
        (r"lfx-email-tracker status [0-9a-f-]{36}", "ada@example.com"),
        (r"lfx-email-relay send .*", "email_id"),
    ):
        line = re.search(command, typed)
        assert line
        assert answer in run(line[0].strip(), NATS_URL=request[1])
    ports = re.findall(r"http://localhost:(\d+)/readyz", shown)
    assert [(await probe.get(int(port), "/readyz"))[0] for port in ports] == [200, 200]


def run(line: str, **variables: str) -> str:
    """Run a command of this environment; return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run(  # noqa: S603 - our own commands
        shlex.split(line), env={"PATH": path, **variables}, capture_output=True, text=True, check=True, timeout=SECONDS
    )
    return done.stdout


def test_the_screen_shows_where_long_texts_differ_and_needs_no_utf_8() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen.on(file).check(Check("the body is whole", "x" * 5000 + "end", "x" * 5000 + "END"))
    file.seek(0)
    claim, expected, came = file.read().splitlines()
    assert claim == "  WRONG the body is whole"
    assert expected.endswith("xxxend'")
    assert came.endswith("xxxEND'")
    assert len(came) < 80
