# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: the result file of a mailing. A later run reads it to send only the rows that remain.

Each row is written before its request is sent and again with its outcome, so the file is right even after `kill -9`.
The last line of a row counts. An incomplete last line is removed: without it, the row was not sent, or the line before
has its status `sending`. The column `mailing` has the digest of each row's request, so that the file of another mailing
is not taken for this one's; `line` is where the row begins in its file. Files of older versions lack the last columns,
and stay so.
"""

from __future__ import annotations

import csv
import fcntl
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Self, TextIO

import msgspec

from relay.commands.mailing.storage import Values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relay.commands.mailing.rows import Row

RowStatus = Literal["sending", "sent", "filtered", "refused", "failed", "unsent", "unknown"]
OLD_HEADER: Final = ("row", "to", "status", "email_id", "group_id", "error")
WITH_DIGESTS: Final = (*OLD_HEADER, "mailing")
HEADER: Final = (*WITH_DIGESTS, "line")
LEAST_CELLS: Final = 3  # then the recipient is complete
_HEADER_LINE: Final = ",".join(HEADER).encode()


class ResultError(Exception):
    """The file is in use, or it is not the result file of this mailing."""


class RowOutcome(msgspec.Struct, frozen=True):
    """What became of a row."""

    status: RowStatus
    email_id: str = ""
    group_id: str = ""
    error: str = ""


class ResultLine(msgspec.Struct, frozen=True):
    """A row in the result file."""

    to: str
    outcome: RowOutcome
    digest: str = ""

    def is_of(self, digest: str) -> bool:
        """Return whether it may be a line of the row with this digest: its own may be missing, or cut off."""
        return digest.startswith(self.digest)


class ResultFile:
    """The result file, locked against a second run while it is open."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Set the path; the file need not exist, unless it is only read."""
        self.path = path
        self._read_only = read_only
        self._file: TextIO | None = None
        self._is_whole = True
        self._header: tuple[str, ...] = HEADER
        self.lines = Values(ResultLine)

    def __enter__(self) -> Self:
        """Open or create the file, and read it.

        Raises:
            ResultError: it is in use, or not a result file.
        """
        try:
            self._file = self.path.open("r" if self._read_only else "a+", encoding="utf-8", newline="")
        except OSError as error:
            raise ResultError(f"{self.path}: {error.strerror}") from error
        try:
            self._load(self._file)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _load(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if self._read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResultError(f"{self.path}: another run is writing to it") from error
        except OSError as error:  # such as a file system without locks
            raise ResultError(f"{self.path}: cannot be locked: {error.strerror}") from error
        file.seek(0)
        found = file.buffer if self.path.is_file() else io.BytesIO()  # reading some devices would never end
        try:
            size, last = self._parse(found)
        except (ValueError, OverflowError, csv.Error) as error:  # not UTF-8, or a number with too many digits
            raise ResultError(f"{self.path}: not a result file: {error}") from error
        if self._read_only:
            return
        if self.path.is_file():
            file.truncate(size)
        if not size:
            self._write(HEADER)
        elif not last.endswith(b"\n"):
            file.write("\r\n")

    def _parse(self, found: BinaryIO) -> tuple[int, bytes]:
        """Read all complete lines; return their size, and the last of them."""
        last = found.readline()
        self._header = self._header_of(last)
        if not last.endswith(b"\n") and _HEADER_LINE.startswith(last):
            return 0, b""
        size = len(last)
        for line in found:
            if not line.endswith(b"\n") and not _is_complete(line, len(self._header)):
                break
            self._take(_cells(line.decode().removesuffix("\n")))
            size += len(line)
            last = line
        return size, last

    def _take(self, cells: list[str]) -> None:
        if len(cells) >= LEAST_CELLS and cells[0].isdecimal():
            self.lines[int(cells[0])] = _result_line(cells, len(self._header))

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        assert self._file
        try:
            with _naming(self.path):
                self._file.close()
        except OSError:
            if self._is_whole:  # else it is the error of the last write again
                raise

    @property
    def has_digests(self) -> bool:
        """Whether the file shows which mailing it belongs to."""
        return self._header != OLD_HEADER

    def write(self, row: Row, outcome: RowOutcome) -> None:
        """Append a row with its outcome so far.

        Raises:
            OSError: the file cannot be written, such as on a full disk.
        """
        group_id = outcome.group_id or row.request.group_id or ""
        error = " ".join(outcome.error.splitlines())
        cells = (row.number, row.to, outcome.status, outcome.email_id, group_id, error, row.digest, row.line)
        self._write(cells[: len(self._header)])
        self.lines[row.number] = ResultLine(row.to, outcome, row.digest)

    def _write(self, cells: tuple[object, ...]) -> None:
        assert self._file
        self._is_whole = False
        with _naming(self.path):
            csv.writer(self._file).writerow(cells)
            self._file.flush()
        self._is_whole = True

    def _header_of(self, first: bytes) -> tuple[str, ...]:
        """Return the columns of a file; an empty or incomplete header will be that of a new file."""
        if _HEADER_LINE.startswith(first):
            return HEADER
        header = tuple(_cells(first.decode("utf-8-sig").removesuffix("\n")))  # as spreadsheets save it
        if header not in {HEADER, WITH_DIGESTS, OLD_HEADER}:
            raise ResultError(f"{self.path}: not a result file: its first line is not {','.join(HEADER)}")
        return header


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError; that of a write has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _is_complete(line: bytes, columns: int) -> bool:
    """Return whether a last line lacks only its line end, as in an edited file."""
    try:
        return len(_cells(line.decode(), strict=True)) == columns
    except (UnicodeDecodeError, csv.Error):
        return False


def _cells(line: str, *, strict: bool = False) -> list[str]:
    return next(csv.reader([line], strict=strict), [])


def _result_line(cells: list[str], columns: int) -> ResultLine:
    """Read a line. If it lacks cells, or its status is not one of RowStatus, the outcome is unknown."""
    if len(cells) != columns:
        return ResultLine(cells[1], RowOutcome("unknown"))
    _, to, status, email_id, group_id, error, *rest = cells
    try:
        outcome = RowOutcome(msgspec.convert(status, RowStatus), email_id, group_id, error)
    except msgspec.ValidationError:
        outcome = RowOutcome("unknown", email_id, group_id, error)
    return ResultLine(to, outcome, rest[0] if rest else "")
