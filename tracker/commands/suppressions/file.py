# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the suppression list as a file, in the forms in which Amazon SES writes and reads its own.

CSV with the columns of the account's list (`EmailAddress,Reason,LastUpdateTime`), CSV without a header as for SES's
bulk import (`address,BOUNCE`), and JSON: newline-delimited, or the answer of `aws sesv2 list-suppressed-destinations`.
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
from tracker.commands import json_documents
from tracker.commands.json_documents import Broken, Document

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
"""What a column or field may be called, without regard to case, blanks, `_` and `-`."""
SUMMARIES: Final = "SuppressedDestinationSummaries"
MAX_LINE_CHARACTERS: Final = 64 << 10
MAX_DETAIL_CHARACTERS: Final = 500

_JSON = re.compile(r'\s*(?:\{\s*(?:"|\Z|\})|\[)')


class Row(msgspec.Struct, frozen=True):
    """One entry of a file, and the line where it begins."""

    line: int
    entry: Suppression


def read(pieces: Iterable[str], *, reason: str, now: datetime) -> Iterator[Row | Broken]:
    """Return what a file holds; `reason` and `now` stand in where a row has none."""
    rest = iter(pieces)
    first = next(rest, "")
    joined = itertools.chain([first], rest)
    for line, fields in _from_json(joined) if _JSON.match(first) else _from_csv(joined):
        if isinstance(fields, str):
            yield Broken(line, fields)
            continue
        try:
            yield Row(line, _entry(fields, reason, now))
        except ValueError as error:
            yield Broken(line, str(error))


def header() -> str:
    """Return the first line of an export."""
    return _line(HEADER)


def line_of(entry: Suppression) -> str:
    """Return an entry as a line of an export."""
    return _line((entry.address, entry.reason.upper(), written(entry.suppressed_at)))


def written(at: datetime) -> str:
    """Return a time as a record shows it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _from_csv(pieces: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Return the fields of each line, or what is wrong; a line is a row, so that an open quote costs no other."""
    columns: Sequence[str] = ()
    for number, text in _lines(pieces):
        if not text.strip():
            continue
        cells = _cells(text)
        if isinstance(cells, str):
            yield number, cells
            continue
        if not columns:
            columns = _columns(cells) or WITHOUT_HEADER
            if columns is not WITHOUT_HEADER:
                continue
        yield number, _named(columns, cells)


def _lines(pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    number, rest = 1, ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield number, line
            number += 1
        rest = rest[: MAX_LINE_CHARACTERS + 1]  # of a longer one nobody needs to know more
    yield number, rest


def _cells(text: str) -> list[str] | str:
    """Split a line; quotes that are not those of CSV belong to a mailbox that nobody has quoted."""
    if len(text) > MAX_LINE_CHARACTERS:
        return f"longer than {MAX_LINE_CHARACTERS >> 10} Ki characters"
    line = text.rstrip("\r")
    try:
        [cells] = csv.reader([line], strict=True, skipinitialspace=True)
    except csv.Error:
        cells = line.split(",")
    return [cell.strip() for cell in cells]


def _columns(cells: Sequence[str]) -> list[str]:
    """Return the names of our fields if this is a header; what we do not know keeps its own name."""
    names = [_known(cell) for cell in cells]
    return names if "address" in names and not any("@" in cell for cell in cells) else []


def _known(name: str) -> str:
    return COLUMNS.get(re.sub(r"[\s_-]", "", name).lower(), name)


def _named(columns: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | str:
    if len(cells) > len(columns):
        return f"{len(cells)} cells, where there are {len(columns)} columns"
    return dict(zip(columns, cells, strict=False))


def _from_json(pieces: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for document in json_documents.split(pieces, wrapper=SUMMARIES):
        match document:
            case Broken():
                yield document.line, document.why
            case Document(value=dict() as fields):
                yield document.line, {_known(name): field for name, field in fields.items()}
            case _:
                yield document.line, "no JSON object"


def _entry(fields: dict[str, Any], default_reason: str, now: datetime) -> Suppression:
    """Make an entry.

    Raises:
        ValueError: with what is wrong.
    """
    given = fields.get("address")
    try:
        address = suppression_list.normalised(given if isinstance(given, str) else "")
    except ValueError:
        raise ValueError(f"not one mailbox: {given}" if given else "there is no address") from None
    reason = str(fields.get("reason") or default_reason).lower()
    if reason not in contract.SUPPRESSION_REASONS:
        raise ValueError(f"the reason is none of {', '.join(contract.SUPPRESSION_REASONS)}: {fields['reason']}")
    return contract.Suppression(
        address=address,
        reason=reason,
        detail=_text(fields, "detail")[:MAX_DETAIL_CHARACTERS],
        email_id=_text(fields, "email_id"),
        suppressed_at=_time(fields.get("suppressed_at")) or now,
    )


def _text(fields: dict[str, Any], name: str) -> str:
    """Return what a field says.

    Raises:
        ValueError: it holds half a character, as JSON can write it, which no record can.
    """
    text = str(fields.get(name) or "")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is no Unicode text: {text}") from None
    return text


def _time(given: Any) -> datetime | None:
    """Read a time: ISO 8601, without zone it is UTC, or seconds since 1970, as older AWS tools write it.

    Raises:
        ValueError: it is none.
    """
    if given is None or given == "":
        return None
    try:
        if isinstance(given, int | float):
            return datetime.fromtimestamp(given, UTC)
        at = datetime.fromisoformat(str(given))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"no time: {given}") from None
