# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the suppression list as a file, in the formats of the suppression list of an Amazon SES account.

CSV with the columns of the account's list (`EmailAddress,Reason,LastUpdateTime`), CSV without a header as for SES's
bulk import (`address,BOUNCE`), and JSON: newline-delimited, or answers of `aws sesv2 list-suppressed-destinations`.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shared import contract, suppression_list
from tracker.commands import input_file, json_documents
from tracker.commands.json_documents import Broken, Document, Wrapper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shared.contract import Suppression

HEADER: Final = ("EmailAddress", "Reason", "LastUpdateTime")
WITHOUT_HEADER: Final = ("address", "reason", "suppressed_at")
COLUMNS: Final = {
    "emailaddress": "address",
    "email": "address",
    "address": "address",
    "reason": "reason",
    "lastupdatetime": "suppressed_at",
    "suppressedat": "suppressed_at",
    "detail": "detail",
    "emailid": "email_id",
}
"""The names of columns and JSON fields, in lower case and without blanks, `_` and `-`."""
SUMMARIES: Final = "suppresseddestinationsummaries"
NEXT_PAGE: Final = "nexttoken"
MAX_LINE_CHARACTERS: Final = 64 << 10

DELIMITERS: Final = (",", ";", "\t")

_QUOTED = re.compile(r'"[^"]*"')
_SEPARATOR = re.compile(r"\s*sep=(.)\s*\Z", re.IGNORECASE | re.DOTALL)
_JSON = re.compile(r'\s*(?:\{\s*(?:"|\Z|\})|\[)')


class Incomplete(Exception):
    """The last answer of AWS is not the last page of its list. The message says what is wrong."""


class Answer(msgspec.Struct, frozen=True):
    """The beginning of an answer of AWS; `has_more` if it has a NextToken."""

    has_more: bool


class Row(msgspec.Struct, frozen=True):
    """One entry of a file, and the line where it begins, from 1."""

    line: int
    entry: Suppression


Part = Answer | dict[str, Any] | str
"""An answer of AWS begins, the fields of a row, or the error of a row."""


def read(pieces: Iterable[str], *, reason: str, now: datetime) -> Iterator[Row | Broken]:
    """Yield the rows of a file; a row without reason or time gets `reason` or `now`.

    Those in answers of AWS are yielded after the last answer was read.

    Raises:
        Incomplete: the last answer has a NextToken.
    """
    rest = iter(pieces)
    first = next(rest, "")
    joined: Iterable[str] = itertools.chain([first], rest)
    if _JSON.match(first):
        yield from _complete(_from_json(joined), reason, now)
    else:
        if "\r" in first and "\n" not in first:  # as Excel writes "CSV (Macintosh)"
            joined = (piece.replace("\r", "\n") for piece in joined)
        yield from (_row(line, fields, reason, now) for line, fields in _from_csv(joined))


def _complete(parts: Iterable[tuple[int, Part]], reason: str, now: datetime) -> Iterator[Row | Broken]:
    """Yield the rows; from the first answer of AWS on, hold them until it is known that the list is complete.

    Raises:
        Incomplete: the last answer has a NextToken.
    """
    answer: Answer | None = None
    held: list[Row | Broken] = []
    for line, part in parts:
        if isinstance(part, Answer):
            answer = part
        elif answer:
            held.append(_row(line, part, reason, now))
        else:
            yield _row(line, part, reason, now)
    if answer and answer.has_more:
        raise Incomplete(_incomplete(held))
    yield from held


def _incomplete(held: Sequence[Row | Broken]) -> str:
    broken = next((f"; line {row.line}: {row.why}" for row in held if isinstance(row, Broken)), "")
    return f"the last answer of AWS has a NextToken, so the list has more pages{broken}"


def _row(line: int, fields: dict[str, Any] | str, reason: str, now: datetime) -> Row | Broken:
    if isinstance(fields, str):
        return Broken(line, fields)
    try:
        return Row(line, _entry(fields, reason, now))
    except ValueError as error:
        return Broken(line, str(error))


def header() -> str:
    """Return the first line of an export."""
    return _line(HEADER)


def line_of(entry: Suppression) -> str:
    """Return an entry as a line of an export."""
    return _line((entry.address, entry.reason.upper(), iso(entry.suppressed_at)))


def iso(at: datetime) -> str:
    """Format a time as in the contract: ISO 8601 in UTC with `Z`."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _from_csv(pieces: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the fields of each line, or the error; a line is a row, so an open quote affects only its own line."""
    columns: Sequence[str] = ()
    delimiter = ""
    for number, text in input_file.lines(pieces, MAX_LINE_CHARACTERS):
        if not text.strip():
            continue
        if not delimiter and (separator := _SEPARATOR.match(text)):  # as Excel writes it
            delimiter = separator[1]
            continue
        delimiter = delimiter or _delimiter_of(text)
        cells = _cells(text, delimiter)
        if isinstance(cells, str):
            yield number, cells
            continue
        if not columns:
            columns = _columns(cells) or WITHOUT_HEADER
            if columns is not WITHOUT_HEADER:
                continue
        yield number, _named(columns, cells)


def _delimiter_of(line: str) -> str:
    """Return the delimiter that appears most often outside quotes: Excel in Europe writes semicolons."""
    return max(DELIMITERS, key=_QUOTED.sub("", line).count)


def _cells(text: str, delimiter: str) -> list[str] | str:
    """Split a line into cells, or return the error; quotes that are not valid CSV belong to an address."""
    if len(text) > MAX_LINE_CHARACTERS:
        return f"the line is longer than {MAX_LINE_CHARACTERS >> 10} Ki characters"
    line = text.rstrip("\r")
    try:
        [cells] = csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True)
    except csv.Error:
        cells = line.split(delimiter)
    return [cell.strip() for cell in cells]


def _columns(cells: Sequence[str]) -> list[str]:
    """Return the names of the columns if this is a header; an unknown column keeps its own name."""
    names = [_known(cell) for cell in cells]
    return names if "address" in names and not any("@" in cell for cell in cells) else []


def _known(name: str) -> str:
    folded = re.sub(r"[\s_-]", "", name).lower()
    return folded if folded in (SUMMARIES, NEXT_PAGE) else COLUMNS.get(folded, name)


def _named(columns: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | str:
    if len(cells) > len(columns):
        return f"{len(cells)} cells, but {len(columns)} columns"
    return dict(zip(columns, cells, strict=False))


def _from_json(pieces: Iterable[str]) -> Iterator[tuple[int, Part]]:
    """Yield the beginning of each answer of AWS, and the fields of each row, or the error."""
    for document in json_documents.read(pieces, wrappers=(SUMMARIES,)):
        match document:
            case Broken():
                yield document.line, document.why
            case Wrapper(value=fields):
                yield document.line, _answer(_with_known_names(fields))
            case Document(value=dict() as fields):
                yield from ((document.line, part) for part in _parts(_with_known_names(fields)))
            case _:
                yield document.line, "not a JSON object"


def _parts(fields: dict[str, Any]) -> Iterator[Part]:
    """Yield a row, or the answer and the rows of an object whose list is not its first field."""
    entries = fields.get(SUMMARIES)
    if not isinstance(entries, list):
        yield fields
        return
    yield _answer(fields)
    for entry in entries:
        yield _with_known_names(entry) if isinstance(entry, dict) else "not a JSON object"


def _answer(fields: dict[str, Any]) -> Answer:
    return Answer(has_more=bool(fields.get(NEXT_PAGE)))


def _with_known_names(fields: dict[str, Any]) -> dict[str, Any]:
    return {_known(name): field for name, field in fields.items()}


def _entry(fields: dict[str, Any], default_reason: str, now: datetime) -> Suppression:
    """Make an entry.

    Raises:
        ValueError: a field is wrong; the message names it.
    """
    given = fields.get("address")
    try:
        address = suppression_list.normalised(given if isinstance(given, str) else "")
    except ValueError:
        raise ValueError(f"not a valid email address: {given}" if given else "the address is missing") from None
    reason = str(fields.get("reason") or default_reason).lower()
    if reason not in contract.SUPPRESSION_REASONS:
        raise ValueError(f"the reason is not one of {', '.join(contract.SUPPRESSION_REASONS)}: {fields['reason']}")
    return contract.Suppression(
        address=address,
        reason=reason,
        detail=_text(fields, "detail")[: suppression_list.MAX_DETAIL_CHARACTERS],
        email_id=_text(fields, "email_id"),
        suppressed_at=_time(fields.get("suppressed_at")) or now,
    )


def _text(fields: dict[str, Any], name: str) -> str:
    """Return the text of a field.

    Raises:
        ValueError: it has half a surrogate pair, which JSON can contain but UTF-8 cannot.
    """
    text = str(fields.get(name) or "")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode text: {text}") from None
    return text


def _time(given: Any) -> datetime | None:
    """Read a time: ISO 8601, in UTC if it has no zone, or seconds since 1970 as older AWS tools write.

    Raises:
        ValueError: it is not a time.
    """
    if given is None or given == "":
        return None
    try:
        if isinstance(given, int | float):
            return datetime.fromtimestamp(given, UTC)
        at = datetime.fromisoformat(str(given))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"not a time such as 2026-01-31T12:00:00Z: {given}") from None
