# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Turns a CSV file and a template into one request for each row, or into a list of problems with line numbers.

The rows are stored with their values only. A request is made when its row is checked, and again when it is sent, so
that memory does not grow with the rows or the bodies.

A column that has the name of a request field replaces the option of that name. Every column fills its placeholder in
the tags and in the fields of TEMPLATED.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from relay import idempotency, submission
from relay.commands.mailing import csv_rows, placeholders, unfilled
from relay.commands.mailing.storage import FirstLines, Values
from relay.commands.mailing.template import Template, field_of
from shared import addresses
from shared.contract import INVALID_IDEMPOTENCY_KEY, SendEmailRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from relay.commands.mailing.unfilled import Finder

REQUIRED: Final = ("to", "subject")
DIGEST_CHARACTERS: Final = 16
MAX_SHOWN_PROBLEMS: Final = 20
MAX_SHOWN_REPEATS: Final = 5
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
    """One email to send; `number` counts the rows from 1, `line` is where it begins in the file.

    `digest` is that of the request of its stored row.
    """

    number: int
    request: SendEmailRequest
    digest: str = ""
    line: int = 0

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
    """The cells of a row, and the line where it begins in the file; the rest is empty until the row was checked.

    `digest` is that of the request without the group that the run chooses.
    """

    line: int
    cells: list[str]
    to: str = ""
    digest: str = ""
    has_group: bool = False


class Repeated(msgspec.Struct):
    """How many rows have the recipient of an earlier row, and a line for the user on each of the first ones."""

    count: int = 0
    shown: list[str] = []

    def add(self, line: int, first: int, to: str) -> None:
        """Note a row."""
        self.count += 1
        if len(self.shown) < MAX_SHOWN_REPEATS:
            self.shown.append(f"line {line}: {to}, as in line {first}")


class Mailing(msgspec.Struct, frozen=True):
    """All rows by their numbers; `unused` names the columns that are neither a field nor a placeholder."""

    stored: Values[StoredRow]
    header: Sequence[str]
    template: Template
    unused: list[str]
    repeated: Repeated

    def rows(self) -> Iterator[Row]:
        """Return the rows with their requests, one at a time."""
        return (self.row(number, stored) for number, stored in self.stored.pairs())

    def row(self, number: int, stored: StoredRow) -> Row:
        """Return a row with its request."""
        request = self.template.request(dict(zip(self.header, stored.cells, strict=True)))
        return Row(number, request, stored.digest, stored.line)


def read(lines: Iterable[str], given: Mapping[str, str], tags: Mapping[str, str], delimiter: str = "") -> Mailing:
    """Read a whole file; `given` holds the fields that all rows share, also html and text.

    Without a `delimiter` it is found in the header.

    Raises:
        InvalidMailing: the header, the template or a row is not valid.
    """
    found = csv_rows.read(lines, delimiter)
    try:
        first_line, header = next(found, (1, []))
        stored = _stored(StoredRow(line, cells) for line, cells in found)
    except csv_rows.Malformed as error:
        raise InvalidMailing([str(error)]) from error
    template = Template(given, tags, header)
    finder = template.finder(unfilled.numeric(dict(zip(header, one.cells, strict=False)) for _, one in stored.pairs()))
    _refuse([*_header_problems(header, first_line, given), *template.problems(finder)])
    repeated = Repeated()
    _refuse(_row_problems(stored, header, template, finder, repeated))
    if not stored:
        raise InvalidMailing(["there are no rows below the header"])
    unused = [name for name in header if not field_of(name) and name not in template.used]
    return Mailing(stored, header, template, unused, repeated)


def _stored(rows: Iterable[StoredRow]) -> Values[StoredRow]:
    stored = Values(StoredRow)
    for number, row in enumerate(rows, 1):
        stored[number] = row
    return stored


def _refuse(problems: Iterable[str]) -> None:
    found = InvalidMailing(problems)
    if found.count:
        raise found


def _header_problems(header: Sequence[str], line: int, given: Mapping[str, str]) -> list[str]:
    if not any(header):
        raise InvalidMailing([f"line {line}: there is no header"])
    problems = [f"line {line}: column {at} has no name" for at, name in enumerate(header, 1) if not name]
    twice = placeholders.duplicates([field_of(name) or name for name in header])
    problems += [f"line {line}: column {name} appears twice" for name in twice]
    fields = set(map(field_of, header))
    problems += [
        f"{field!r} is missing: add a column or an option; the columns are {_quoted(header)}"
        for field in REQUIRED
        if field not in fields and not given.get(field)
    ]
    return problems


def _quoted(header: Sequence[str]) -> str:
    return ", ".join(map(repr, header[:MAX_SHOWN_PROBLEMS]))


def _row_problems(
    stored: Values[StoredRow], header: Sequence[str], template: Template, finder: Finder, repeated: Repeated
) -> Iterator[str]:
    """Check each row, and complete it in `stored`; note repeated recipients."""
    keys, recipients = FirstLines(), FirstLines()
    for number, row in stored.pairs():
        line = row.line
        if len(row.cells) != len(header):
            yield f"line {line}: {len(row.cells)} cells, but the header has {len(header)}"
            continue
        values = dict(zip(header, row.cells, strict=True))
        request = template.request(values)
        yield from (f"line {line}: {one}" for one in [*problems(request), *template.cell_problems(finder, values)])
        if (key := request.idempotency_key) and (first := keys.add(key, line)) != line:
            yield f"line {line}: same idempotency_key as line {first}: {key}"
        if request.to and (first := recipients.add(_address(request.to), line)) != line:
            repeated.add(line, first, request.to)
        stored[number] = StoredRow(line, row.cells, request.to or "", _digest(request), bool(request.group_id))


def _digest(request: SendEmailRequest) -> str:
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:DIGEST_CHARACTERS]


def _address(mailbox: str) -> str:
    """Return what equal recipients have in common."""
    return mailbox.rpartition("<")[2].strip("> ").casefold()


def problems(request: SendEmailRequest) -> list[str]:
    """Return why the relay would refuse a request with any settings."""
    mailboxes = {"to": request.to, "from": request.from_, "reply_to": request.reply_to}
    found = [f"{name} is not one mailbox: {text}" for name, text in mailboxes.items() if text and not _is_mailbox(text)]
    found += [f"{name} is empty" for name in REQUIRED if not getattr(request, name)]
    return found or _refusals(request)


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
