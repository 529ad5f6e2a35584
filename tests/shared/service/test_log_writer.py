# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Log lines that are written by a thread: none stops the caller, and each that is lost is counted."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from shared.service import log_writer
from shared.service.log_writer import LineWriter
from tests.stack.few_threads import FewThreads
from tests.stack.unread_pipe import UnreadPipe, unread_pipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MUST_NOT_WAIT = 20.0  # on a busy machine; a write to a full pipe would wait without limit


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[UnreadPipe]:
    """A full pipe, and small queues."""
    monkeypatch.setattr(log_writer, "QUEUE_BYTES", 1_000)
    monkeypatch.setattr(log_writer, "IMPORTANT_QUEUE_BYTES", 2_000)
    monkeypatch.setattr(log_writer, "STALL_SECONDS", 0.1)
    with unread_pipe() as made:
        yield made


@pytest.fixture
def writer(pipe: UnreadPipe) -> Iterator[LineWriter]:
    """A writer to the full pipe; at the end its thread must not find the descriptor of another test's pipe."""
    made = writing_to(os.dup(pipe.descriptor))
    yield made
    pipe.close_reader()
    made.close()


def writing_to(descriptor: int | None) -> LineWriter:
    """Make a writer."""
    return LineWriter(descriptor, lambda lines: b"lost %d\n" % lines)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Assert that the block takes no longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_lines_are_written_in_their_order() -> None:
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    lines = [b"%d %s\n" % (number, b"." * (number * 7 % 500)) for number in range(200)]
    for line in lines[:150]:
        writer.put(line)
    writer.close()
    os.close(descriptor)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert pipe.readlines() == lines[:150]
    assert writer.lost == 0


def test_a_line_is_written_without_further_lines() -> None:
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    writer.put(b"one\n")
    assert os.read(reader, 100) == b"one\n"
    writer.put(b"two\n")
    assert os.read(reader, 100) == b"two\n"
    writer.close()
    os.close(descriptor)
    os.close(reader)


def test_an_important_line_does_not_wait_for_further_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "GATHER_SECONDS", 3600)
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    for number in range(3):
        writer.put(b"%d\n" % number)
        writer.put(b"!\n", is_important=True)
        received = b""
        while not received.endswith(b"!\n"):
            received += os.read(reader, 100)
        assert received == b"%d\n!\n" % number
    writer.close()
    os.close(descriptor)
    os.close(reader)


def test_a_pipe_that_is_not_read_delays_no_caller_and_no_end(writer: LineWriter) -> None:
    with within(MUST_NOT_WAIT):
        for _ in range(1_000):
            writer.put(b"x" * 99 + b"\n")
        assert writer.lost == 990
        writer.close()


def test_lines_that_find_the_queue_full_are_counted_as_soon_as_it_is_read(pipe: UnreadPipe, writer: LineWriter) -> None:
    for number in range(15):
        writer.put(b"%099d\n" % number)
    pipe.read_filling()
    writer.close()
    written = pipe.read_all().splitlines()
    assert sorted(written) == sorted([*(b"%099d" % number for number in range(10)), b"lost 5"])


def test_important_lines_have_space_of_their_own(pipe: UnreadPipe, writer: LineWriter) -> None:
    for _ in range(20):
        writer.put(b"x" * 99 + b"\n")
    for _ in range(20):
        writer.put(b"!" * 99 + b"\n", is_important=True)
    assert writer.lost == 10 + 10
    pipe.read_filling()
    writer.close()
    assert pipe.read_all().count(b"!\n") == 10


def test_a_line_longer_than_the_queue_is_written(pipe: UnreadPipe, writer: LineWriter) -> None:
    writer.put(b"x" * 5_000 + b"\n")
    pipe.read_filling()
    writer.close()
    assert pipe.read_all() == b"x" * 5_000 + b"\n"


def test_a_reader_that_has_gone_raises_nothing_and_lines_are_counted(pipe: UnreadPipe, writer: LineWriter) -> None:
    pipe.close_reader()
    for _ in range(5):
        writer.put(b"x\n")
    with within(MUST_NOT_WAIT):
        writer.close()
    assert writer.lost == 5


def test_without_a_descriptor_all_lines_are_counted() -> None:
    writer = writing_to(None)
    writer.put(b"x\n")
    writer.close()
    assert writer.lost == 1


def test_lines_that_a_full_device_refuses_are_counted() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = writing_to(descriptor)
    writer.put(b"x\n")
    writer.close()
    os.close(descriptor)
    assert writer.lost == 1


@pytest.mark.parametrize("later", [b"", b"two\n"])
def test_a_fifo_whose_reader_comes_back_gets_the_count_at_the_latest_at_the_end(tmp_path: Path, later: bytes) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY)
    os.close(reader)
    writer = writing_to(descriptor)
    writer.put(b"one\n")
    while writer.lost < 1:
        time.sleep(0.001)
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    if later:
        writer.put(later)
    writer.close()
    os.close(descriptor)
    assert os.read(reader, 100) == b"lost 1\n" + later
    os.close(reader)


def test_a_descriptor_that_does_not_block_gets_each_line_whole(pipe: UnreadPipe, writer: LineWriter) -> None:
    """Another process that shares the pipe, such as a shell or node, may have made it so."""
    os.set_blocking(pipe.descriptor, False)
    writer.put(b"y" * 500 + b"\n", is_important=True)
    time.sleep(0.05)
    assert writer.lost == 0
    pipe.read_filling()
    writer.close()
    assert pipe.read_all() == b"y" * 500 + b"\n"


def test_a_line_that_was_cut_by_a_full_disk_is_ended_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int | OSError] = [3, OSError(28, "no space"), 100]
    blocks: list[bytes] = []

    def write(_: int, block: bytes) -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        blocks.append(block[:answer])
        return min(answer, len(block))

    monkeypatch.setattr(os, "write", write)
    writer = writing_to(1)
    writer.put(b"first\n")
    while answers[:1] != [100]:
        time.sleep(0.001)
    writer.put(b"second\n")
    writer.close()
    assert b"".join(blocks) == b"fir\nlost 1\nsecond\n"


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> FewThreads:
    """A system at its limit of threads."""
    return FewThreads(monkeypatch)


def test_a_thread_that_cannot_be_started_is_not_tried_for_each_line(few_threads: FewThreads) -> None:
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    for _ in range(50):
        writer.put(b"line\n")
    assert few_threads.tries == 1
    writer.close()
    os.close(descriptor)
    os.close(reader)


def test_lines_wait_until_a_thread_can_be_started(few_threads: FewThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "START_PAUSE_SECONDS", 0.0)
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    writer.put(b"early\n")
    few_threads.are_allowed = True
    writer.put(b"late\n")
    writer.close()
    os.close(descriptor)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert pipe.readlines() == [b"early\n", b"late\n"]
    assert (few_threads.tries, writer.lost) == (3, 0)


@pytest.mark.usefixtures("few_threads")
def test_without_any_thread_the_lines_are_written_at_the_end() -> None:
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    writer.put(b"line\n")
    writer.close()
    os.close(descriptor)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert pipe.read() == b"line\n"


@pytest.mark.usefixtures("few_threads")
def test_without_any_thread_a_reader_that_hangs_does_not_hold_up_the_end(writer: LineWriter) -> None:
    writer.put(b"line\n")
    with within(MUST_NOT_WAIT):
        writer.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, descriptor = os.pipe()
    writer = writing_to(descriptor)
    with monkeypatch.context() as patched:
        patched.setattr(LineWriter, "_take", lambda *_: 1 / 0)
        writer.put(b"one\n")
        writer._thread.join()  # noqa: SLF001 - nothing else shows its death
    writer.put(b"two\n")
    writer.close()
    os.close(descriptor)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        assert pipe.readlines() == [b"one\n", b"two\n"]
