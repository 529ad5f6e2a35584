# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the result file of a mailing: what became of each row, written as it goes, read again to go on.

A row is written before it is asked for and again with its answer, so that even a run that was killed leaves no doubt
about which rows are in doubt. Of several lines of one row the last one counts. A row is a line; one that was cut off
is taken away: without its line a row was not asked for, and without its answer the line before says so.
"""

from __future__ import annotations

import csv
import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, Self, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.commands.mailing.rows import Row

Status = Literal["sending", "sent", "filtered", "refused", "failed", "unsent", "unknown"]
HEADER: Final = ("row", "to", "status", "email_id", "group_id", "error")
_HEADER_LINE: Final = ",".join(HEADER).encode()


class ResultError(Exception):
    """The file is in use, no result file, or not the result of this mailing."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a row."""

    status: Status
    email_id: str = ""
    group_id: str = ""
    error: str = ""


class Line(msgspec.Struct, frozen=True):
    """A row as the file has it."""

    to: str
    outcome: Outcome


class ResultFile:
    """The file, locked against a second run for as long as it is open."""

    def __init__(self, path: Path) -> None:
        """Name it; it need not exist yet."""
        self._path = path
        self._file: TextIO | None = None
        self.lines: dict[int, Line] = {}

    def __enter__(self) -> Self:
        """Open or create it, and read what it has.

        Raises:
            ResultError: it is in use, or no result file.
        """
        try:
            self._file = self._path.open("a+", encoding="utf-8", newline="")
        except OSError as error:
            raise ResultError(f"{self._path}: {error.strerror}") from error
        try:
            self._begin(self._file)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResultError(f"{self._path}: another run is writing to it ({error.strerror})") from error
        file.seek(0)
        found = file.buffer.read() if self._path.is_file() else b""  # some devices have no end
        whole = _without_cut_line(found)
        try:
            self.lines = dict(self._parsed(whole.decode()))
        except (ValueError, csv.Error) as error:  # no UTF-8, or a number of more digits than Python reads
            raise ResultError(f"{self._path}: no result file: {error}") from error
        if whole != found:
            file.truncate(len(whole))
        if not whole:
            self._write(HEADER)
        elif not whole.endswith(b"\n"):
            file.write("\r\n")

    def __exit__(self, *_: object) -> None:
        """Close it."""
        assert self._file
        with _naming(self._path):
            self._file.close()

    @property
    def group_id(self) -> str:
        """The group that the rows so far have gone to."""
        return next((line.outcome.group_id for line in self.lines.values() if line.outcome.group_id), "")

    def write(self, row: Row, outcome: Outcome) -> None:
        """Add what is known of a row now.

        Raises:
            OSError: it cannot be written, such as on a full disk.
        """
        self.lines[row.number] = Line(row.to, outcome)
        group_id = outcome.group_id or row.request.group_id or ""
        error = " ".join(outcome.error.splitlines())
        self._write((row.number, row.to, outcome.status, outcome.email_id, group_id, error))

    def _write(self, cells: tuple[object, ...]) -> None:
        assert self._file
        with _naming(self._path):
            csv.writer(self._file).writerow(cells)
            self._file.flush()

    def _parsed(self, text: str) -> Iterator[tuple[int, Line]]:
        if not text:
            return
        header, *lines = text.split("\n")
        if tuple(_cells(header)) != HEADER:
            raise ResultError(f"{self._path}: no result file: it does not begin with {','.join(HEADER)}")
        for line in lines:
            cells = _cells(line)
            if len(cells) > 2 and cells[0].isdecimal():  # noqa: PLR2004 - the recipient is whole, which others must match
                yield int(cells[0]), _line(cells)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say in an error which file it is about: that of a write names none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _without_cut_line(found: bytes) -> bytes:
    """Return a file without the line that a run which was killed has left unfinished."""
    start = found.rfind(b"\n") + 1
    if not start:
        return b"" if _HEADER_LINE.startswith(found) else found
    return found if _is_whole(found[start:]) else found[:start]


def _is_whole(line: bytes) -> bool:
    """Tell whether a last line lacks nothing but its end, such as in a file that somebody has edited."""
    try:
        return len(_cells(line.decode(), strict=True)) == len(HEADER)
    except (UnicodeDecodeError, csv.Error):
        return False


def _cells(line: str, *, strict: bool = False) -> list[str]:
    return next(csv.reader([line], strict=strict), [])


def _line(cells: list[str]) -> Line:
    """Read a line; one that lacks cells, or has a status that nobody knows, is in doubt."""
    if len(cells) != len(HEADER):
        return Line(cells[1], Outcome("unknown"))
    _, to, status, email_id, group_id, error = cells
    try:
        return Line(to, Outcome(msgspec.convert(status, Status), email_id, group_id, error))
    except msgspec.ValidationError:
        return Line(to, Outcome("unknown", email_id, group_id, error))
