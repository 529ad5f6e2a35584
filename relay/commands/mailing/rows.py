# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: turns a CSV file and a template into one request for each row, or into a list of problems with line numbers.

A column that has the name of a request field replaces the option of that name. Every column fills `{column}` in the
tags and in the fields of TEMPLATED.
"""

from __future__ import annotations

import csv
import html
import re
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from relay import idempotency, submission
from shared import addresses
from shared.contract import INVALID_IDEMPOTENCY_KEY, SendEmailRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Encode = Callable[[str], str]

FIELDS: Final = (
    "to",
    "subject",
    "group_id",
    "from",
    "from_display_name",
    "reply_to",
    "unsubscribe_url",
    "idempotency_key",
)
REQUIRED: Final = ("to", "subject")
TEMPLATED: Final[Mapping[str, Encode]] = {
    "subject": str,
    "text": str,
    "html": html.escape,
    "unsubscribe_url": partial(quote, safe=""),
    "idempotency_key": str,
}
"""The fields with placeholders, and how a value is encoded in them."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
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
    """One email to send; `number` counts the rows from 1, `line` is where the row ends in the file."""

    number: int
    line: int
    request: SendEmailRequest

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
    used = _placeholders([*(given.get(name, "") for name in TEMPLATED), *tags.values()])
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, given, used)
        rows, problems = _rows(reader, header, given, tags)
    except csv.Error as error:
        raise InvalidMailing([f"line {reader.line_num}: {error}"]) from error
    if problems:
        raise InvalidMailing(problems)
    if not rows:
        raise InvalidMailing(["there are no rows below the header"])
    return Mailing(rows, [name for name in header if name not in FIELDS and name not in used])


def _placeholders(templates: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for template in templates for name in _PLACEHOLDER.findall(template)))


def _check_header(header: Sequence[str], given: Mapping[str, str], used: Iterable[str]) -> None:
    if not any(header):
        raise InvalidMailing(["line 1: there is no header"])
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise InvalidMailing(["line 1: columns must be separated by commas"])
    problems = [f"line 1: column {at} has no name" for at, name in enumerate(header, 1) if not name]
    problems += [
        f"line 1: column {name} appears twice"
        for name in sorted({one for one in header if header.count(one) > 1})
        if name
    ]
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
    problems += [f"{{{name}}} is used, but there is no such column" for name in used if name not in header]
    if problems:
        raise InvalidMailing(problems)


def _rows(
    reader: Iterator[list[str]], header: Sequence[str], given: Mapping[str, str], tags: Mapping[str, str]
) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems: list[str] = []
    keys: dict[str, int] = {}
    for cells in reader:
        line = reader.line_num  # type: ignore[attr-defined]  # the protocol of csv.reader has it
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} cells, but the header has {len(header)}")
            continue
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        request = _request(values, given, tags)
        problems += [f"line {line}: {problem}" for problem in _problems(request)]
        if (key := request.idempotency_key) and (first := keys.setdefault(key, line)) != line:
            problems.append(f"line {line}: same idempotency_key as line {first}: {key}")
        rows.append(Row(len(rows) + 1, line, request))
    return rows, problems


def _request(values: Mapping[str, str], given: Mapping[str, str], tags: Mapping[str, str]) -> SendEmailRequest:
    fields = {**given, **{name: value for name in FIELDS if (value := values.get(name))}}
    filled = {name: fill(fields[name], values, encode) for name, encode in TEMPLATED.items() if name in fields}
    filled_tags = {name: fill(value, values) for name, value in tags.items()}
    return msgspec.convert({**fields, **filled, "tags": filled_tags or None}, SendEmailRequest)


def fill(template: str, values: Mapping[str, str], encode: Encode = str) -> str:
    """Replace each `{name}` of a value; other braces stay unchanged."""
    return _PLACEHOLDER.sub(lambda match: encode(values[match[1]]) if match[1] in values else match[0], template)


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
