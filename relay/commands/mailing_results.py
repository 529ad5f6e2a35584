# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the result file of a mailing: what became of each row, written as it goes, read again to go on.

A row is written before it is asked for and again with its answer, so that even a run that was killed leaves no doubt
about which rows are in doubt. Of several lines of one row the last one counts.
"""

from __future__ import annotations

import csv
import fcntl
import io
from typing import TYPE_CHECKING, Final, Literal, Self, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.commands.mailing import Row

Status = Literal["sending", "sent", "filtered", "refused", "failed", "unsent", "unknown"]
HEADER: Final = ("row", "to", "status", "email_id", "group_id", "error")


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
            self._file.close()
            raise
        return self

    def _begin(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResultError(f"{self._path}: another run is writing to it ({error.strerror})") from error
        file.seek(0)
        try:
            text = file.read()
            self.lines = dict(self._parsed(text))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ResultError(f"{self._path}: no result file: {error}") from error
        if not text:
            self._write(HEADER)
        elif not text.endswith("\n"):  # the last line of a run that was killed
            file.write("\r\n")

    def __exit__(self, *_: object) -> None:
        """Close it."""
        assert self._file
        self._file.close()

    @property
    def group_id(self) -> str:
        """The group that the rows so far have gone to."""
        return next((line.outcome.group_id for line in self.lines.values() if line.outcome.group_id), "")

    def write(self, row: Row, outcome: Outcome) -> None:
        """Add what is known of a row now."""
        self.lines[row.number] = Line(row.to, outcome)
        group_id = outcome.group_id or row.request.group_id or ""
        self._write((row.number, row.to, outcome.status, outcome.email_id, group_id, outcome.error))

    def _write(self, cells: tuple[object, ...]) -> None:
        assert self._file
        csv.writer(self._file).writerow(cells)
        self._file.flush()

    def _parsed(self, text: str) -> Iterator[tuple[int, Line]]:
        rows = csv.reader(io.StringIO(text, newline=""))
        header = next(rows, None)
        if header is not None and tuple(header) != HEADER:
            raise ResultError(f"{self._path}: no result file: it does not begin with {','.join(HEADER)}")
        for cells in rows:
            if cells and cells[0].isdecimal():
                yield int(cells[0]), _line(cells)


def _line(cells: list[str]) -> Line:
    """Read a line; one that was cut off is in doubt."""
    if len(cells) != len(HEADER):
        return Line(cells[1] if len(cells) > 2 else "", Outcome("unknown"))  # noqa: PLR2004 - the second cell is whole
    _, to, status, email_id, group_id, error = cells
    try:
        return Line(to, Outcome(msgspec.convert(status, Status), email_id, group_id, error))
    except msgspec.ValidationError:
        return Line(to, Outcome("unknown", email_id, group_id, error))
