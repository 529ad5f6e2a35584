# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: turns a CSV file and a template into one request for each row, or into a list of problems with line numbers.

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
from relay.commands.mailing.template import FIELDS, Template
from shared import addresses
from shared.contract import INVALID_IDEMPOTENCY_KEY, SendEmailRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relay.commands.mailing.unfilled import Finder

    Table = Sequence[tuple[int, list[str]]]  # the line on which each row ends, and its cells

REQUIRED: Final = ("to", "subject")
DIGEST_CHARACTERS: Final = 16
_ANY_DOMAIN = submission.Policy(
    sender=addresses.Mailbox("", "", ""),
    display_name="",
    from_domains=frozenset(),
    reply_to_domains=(),
    recipient_domains=(),
)
"""A policy that allows every recipient: only the relay knows the allowed domains."""


class InvalidMailing(Exception):
    """The file or the template is not valid, so nothing may be sent. Each of `problems` is one line for the user."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep the problems."""
        super().__init__("; ".join(problems))
        self.problems = problems


class Row(msgspec.Struct, frozen=True):
    """One email to send; `number` counts the rows from 1, `line` is where the row ends in the file.

    `digest` is that of the request without the group that the run chooses.
    """

    number: int
    line: int
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


class Mailing(msgspec.Struct, frozen=True):
    """All rows; `unused` names the columns that are neither a field nor a placeholder."""

    rows: list[Row]
    unused: list[str]


def read(lines: Iterable[str], given: Mapping[str, str], tags: Mapping[str, str]) -> Mailing:
    """Read a whole file; `given` holds the fields that all rows share, also html and text.

    Raises:
        InvalidMailing: the header, the template or a row is not valid.
    """
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        stripped = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
        table = [(line, cells) for line, cells in stripped if any(cells)]
    except csv.Error as error:
        raise InvalidMailing([f"line {reader.line_num}: {error}"]) from error
    template = Template(given, tags, header)
    finder = template.finder(_numeric(header, table))
    if problems := [*_header_problems(header, given), *template.problems(finder)]:
        raise InvalidMailing(problems)
    rows, problems = _rows(header, table, template, finder)
    if problems:
        raise InvalidMailing(problems)
    if not rows:
        raise InvalidMailing(["there are no rows below the header"])
    return Mailing(rows, [name for name in header if name not in FIELDS and name not in template.used])


def _numeric(header: Sequence[str], table: Table) -> set[str]:
    return unfilled.numeric([dict(zip(header, cells, strict=False)) for _, cells in table], header)


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


def _rows(header: Sequence[str], table: Table, template: Template, finder: Finder) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems: list[str] = []
    keys: dict[str, int] = {}
    for line, cells in table:
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} cells, but the header has {len(header)}")
            continue
        values = dict(zip(header, cells, strict=True))
        request = template.request(values)
        problems += [f"line {line}: {one}" for one in [*_problems(request), *template.cell_problems(finder, values)]]
        if (key := request.idempotency_key) and (first := keys.setdefault(key, line)) != line:
            problems.append(f"line {line}: same idempotency_key as line {first}: {key}")
        rows.append(Row(len(rows) + 1, line, request, _digest(request)))
    return rows, problems


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
