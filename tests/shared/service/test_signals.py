# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A signal during the imports ends `serve` with status 0, and a command with 128 plus the number of the signal."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

IMPORTING = """
from shared.service import signals
signals.exit_at_once()
print("importing", flush=True)
import time
while True:  # Python handles a signal between two steps: one that comes just before a long wait would wait, too
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("arguments", "base"), [(["serve"], None), (["status", "serve"], 128), ([], 128)])
def test_a_signal_ends_a_program_that_imports(number: signal.Signals, arguments: list[str], base: int | None) -> None:
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", IMPORTING, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (0 if base is None else base + number, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize(("argument", "is_ended"), [("serve", False), ("status", True)])
def test_signals_of_log_rotation_end_a_command_but_not_serve(
    number: signal.Signals, argument: str, *, is_ended: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", IMPORTING, argument], stdout=subprocess.PIPE) as process:  # noqa: S603 - our own code
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(number)
        if not is_ended:
            process.terminate()
        assert process.wait(timeout=20) == (-number if is_ended else 0)


def test_signals_that_the_parent_has_blocked_are_handled() -> None:
    blocked = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        process = subprocess.Popen([sys.executable, "-c", IMPORTING, "serve"], stdout=subprocess.PIPE)  # noqa: S603 - our own code
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.terminate()
        assert process.wait(timeout=20) == 0
