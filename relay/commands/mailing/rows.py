# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Turns a CSV file and a template into one request for each row, or into a list of problems with line numbers.

The rows are stored with their values only. A request is made when its row is checked, and again when it is sent, so
that memory does not grow with the rows or the bodies.

A column that has the name of a request field replaces the option of that name. Every column fills its placeholder in
the tags and in the fields of TEMPLATED.
"""

from __future__ import annotations

import csv
import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from relay import idempotency, submission
from relay.commands.mailing import placeholders, unfilled
from relay.commands.mailing.storage import FirstLines, Values
from relay.commands.mailing.template import FIELDS, Template
from shared import addresses
from shared.contract import INVALID_IDEMPOTENCY_KEY, SendEmailRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from relay.commands.mailing.unfilled import Finder

REQUIRED: Final = ("to", "subject")
DIGEST_CHARACTERS: Final = 16
MAX_SHOWN_PROBLEMS: Final = 20
_ANY_DOMAIN = submission.Policy(
    sender=addresses.Mailbox("", "", ""),
    display_name="",
    from_domains=frozenset(),
    reply_to_domains=(),
    recipient_domains=(),
)
"""A policy that allows every recipient: only the relay knows the allowed domains."""


class InvalidMailing(Exception):
    """The file or the template is not valid, so nothing may be sent.

    Each of `problems` is one line for the user. They are the first of `count`.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        """Keep the first problems, and count all."""
        self.problems: list[str] = []
        self.count = 0
        for problem in problems:
            self.count += 1
            if self.count <= MAX_SHOWN_PROBLEMS:
                self.problems.append(problem)
        super().__init__("; ".join(self.problems))


class Row(msgspec.Struct, frozen=True):
    """One email to send; `number` counts the rows from 1. `digest` is that of the request of its stored row."""

    number: int
    request: SendEmailRequest
    digest: str = ""

    @property
    def to(self) -> str:
        """The recipient."""
        return self.request.to or ""

    def in_group(self, group_id: str) -> Row:
        """Return the row in this group, unless it has a group of its own."""
        if self.request.group_id:
            return self
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, group_id=group_id))


class StoredRow(msgspec.Struct, frozen=True, array_like=True):
    """The cells of a row, and the line where it ends in the file; the rest is empty until the row was checked.

    `digest` is that of the request without the group that the run chooses.
    """

    line: int
    cells: list[str]
    to: str = ""
    digest: str = ""
    has_group: bool = False


class Mailing(msgspec.Struct, frozen=True):
    """All rows by their numbers; `unused` names the columns that are neither a field nor a placeholder."""

    stored: Values[StoredRow]
    header: Sequence[str]
    template: Template
    unused: list[str]

    def rows(self) -> Iterator[Row]:
        """Return the rows with their requests, one at a time."""
        return (self.row(number, stored) for number, stored in self.stored.pairs())

    def row(self, number: int, stored: StoredRow) -> Row:
        """Return a row with its request."""
        request = self.template.request(dict(zip(self.header, stored.cells, strict=True)))
        return Row(number, request, stored.digest)


def read(lines: Iterable[str], given: Mapping[str, str], tags: Mapping[str, str]) -> Mailing:
    """Read a whole file; `given` holds the fields that all rows share, also html and text.

    Raises:
        InvalidMailing: the header, the template or a row is not valid.
    """
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        stripped = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
        stored = _stored(StoredRow(line, cells) for line, cells in stripped if any(cells))
    except csv.Error as error:
        raise InvalidMailing([f"line {reader.line_num}: {error}"]) from error
    template = Template(given, tags, header)
    finder = template.finder(unfilled.numeric(dict(zip(header, one.cells, strict=False)) for _, one in stored.pairs()))
    _refuse([*_header_problems(header, given), *template.problems(finder)])
    _refuse(_row_problems(stored, header, template, finder))
    if not stored:
        raise InvalidMailing(["there are no rows below the header"])
    unused = [name for name in header if name not in FIELDS and name not in template.used]
    return Mailing(stored, header, template, unused)


def _stored(rows: Iterable[StoredRow]) -> Values[StoredRow]:
    stored = Values(StoredRow)
    for number, row in enumerate(rows, 1):
        stored[number] = row
    return stored


def _refuse(problems: Iterable[str]) -> None:
    found = InvalidMailing(problems)
    if found.count:
        raise found


def _header_problems(header: Sequence[str], given: Mapping[str, str]) -> list[str]:
    if not any(header):
        raise InvalidMailing(["line 1: there is no header"])
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise InvalidMailing(["line 1: columns must be separated by commas"])
    problems = [f"line 1: column {at} has no name" for at, name in enumerate(header, 1) if not name]
    problems += [f"line 1: column {name} appears twice" for name in placeholders.duplicates(header)]
    problems += [
        f"line 1: column {name!r} must be named {field}"
        for name in header
        if (field := re.sub(r"[\s-]+", "_", name.lower())) in FIELDS and field != name
    ]
    problems += [
        f"{field!r} is missing: add a column or an option"
        for field in REQUIRED
        if field not in header and not given.get(field)
    ]
    return problems


def _row_problems(
    stored: Values[StoredRow], header: Sequence[str], template: Template, finder: Finder
) -> Iterator[str]:
    """Check each row, and complete it in `stored`."""
    keys = FirstLines()
    for number, row in stored.pairs():
        line = row.line
        if len(row.cells) != len(header):
            yield f"line {line}: {len(row.cells)} cells, but the header has {len(header)}"
            continue
        values = dict(zip(header, row.cells, strict=True))
        request = template.request(values)
        yield from (f"line {line}: {one}" for one in [*_problems(request), *template.cell_problems(finder, values)])
        if (key := request.idempotency_key) and (first := keys.add(key, line)) != line:
            yield f"line {line}: same idempotency_key as line {first}: {key}"
        stored[number] = StoredRow(line, row.cells, request.to or "", _digest(request), bool(request.group_id))


def _digest(request: SendEmailRequest) -> str:
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:DIGEST_CHARACTERS]


def _problems(request: SendEmailRequest) -> list[str]:
    mailboxes = {"to": request.to, "from": request.from_, "reply_to": request.reply_to}
    problems = [
        f"{name} is not one mailbox: {text}" for name, text in mailboxes.items() if text and not _is_mailbox(text)
    ]
    problems += [f"{name} is empty" for name in REQUIRED if not getattr(request, name)]
    return problems or _refusals(request)


def _refusals(request: SendEmailRequest) -> list[str]:
    """Return the errors that the relay would answer with any settings."""
    unrestricted = msgspec.structs.replace(request, from_=None, reply_to=None)
    found = submission.accept(unrestricted, _ANY_DOMAIN, email_id="", new_group_id="")
    refusals = [found.reason] if isinstance(found, submission.Refused) else []
    if len(request.idempotency_key or "") > idempotency.MAX_KEY_CHARACTERS:
        refusals.append(INVALID_IDEMPOTENCY_KEY)
    return refusals


def _is_mailbox(text: str) -> bool:
    try:
        addresses.parse(text)
    except (addresses.Malformed, addresses.TooLong):
        return False
    return True
