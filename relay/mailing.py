# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: a CSV file and a template become one request for each row; whatever is wrong is told by its line.

The columns that are fields of a request take the place of the options. Every column fills `{column}` in subject, html
and text.
"""

from __future__ import annotations

import csv
import html
import re
from typing import TYPE_CHECKING, Final

import msgspec

from relay import addresses
from shared.contract import SendEmailRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
MAILBOXES: Final = ("to", "from", "reply_to")
REQUIRED: Final = ("to", "subject")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_LINE_BREAKS = re.compile(r"[\r\n\0]")


class Unusable(Exception):
    """The file or the template is wrong; nothing may be sent. Each of `problems` is one line for people."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep all of them."""
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


class Mailing(msgspec.Struct, frozen=True):
    """All rows; `unused` names the columns that are neither a field nor a placeholder."""

    rows: list[Row]
    unused: list[str]


def read(lines: Iterable[str], given: Mapping[str, str], *, html: str, text: str) -> Mailing:
    """Read a whole file; `given` holds the fields that the options say, and the template is `subject`, html and text.

    Raises:
        Unusable: something is wrong with the header, the template or any row.
    """
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        templates = (given.get("subject", ""), html, text)
        _check_header(header, given, templates)
        rows, problems = _rows(reader, header, given, html=html, text=text)
    except csv.Error as error:
        raise Unusable([f"line {reader.line_num}: {error}"]) from error
    except UnicodeDecodeError as error:
        raise Unusable([f"line {reader.line_num + 1}: not UTF-8: {error}"]) from error
    if problems:
        raise Unusable(problems)
    if not rows:
        raise Unusable(["there are no rows below the header"])
    used = {name for template in templates for name in _PLACEHOLDER.findall(template)}
    return Mailing(rows, [name for name in header if name not in FIELDS and name not in used])


def _check_header(header: Sequence[str], given: Mapping[str, str], templates: Iterable[str]) -> None:
    problems = []
    if not any(header):
        raise Unusable(["line 1: there is no header"])
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise Unusable(["line 1: columns are separated by commas"])
    problems += [f"line 1: column {at} has no name" for at, name in enumerate(header, 1) if not name]
    problems += [
        f"line 1: column {name} is there twice"
        for name in sorted({one for one in header if header.count(one) > 1})
        if name
    ]
    problems += [
        f"line 1: column {name!r} is called {field}"
        for name in header
        if (field := re.sub(r"[\s-]+", "_", name.lower())) in FIELDS and field != name
    ]
    problems += [
        f"neither a column nor an option says {field!r}"
        for field in REQUIRED
        if field not in header and not given.get(field)
    ]
    asked = dict.fromkeys(name for template in templates for name in _PLACEHOLDER.findall(template))
    problems += [f"{{{name}}} is used, and there is no such column" for name in asked if name not in header]
    if problems:
        raise Unusable(problems)


def _rows(
    reader: Iterator[list[str]], header: Sequence[str], given: Mapping[str, str], *, html: str, text: str
) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems: list[str] = []
    for cells in reader:
        line = reader.line_num  # type: ignore[attr-defined]  # csv's own reader
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} cells, and the header has {len(header)}")
            continue
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        request = _request(values, given, html=html, text=text)
        problems += [f"line {line}: {problem}" for problem in _problems(request)]
        rows.append(Row(len(rows) + 1, line, request))
    return rows, problems


def _request(values: Mapping[str, str], given: Mapping[str, str], *, html: str, text: str) -> SendEmailRequest:
    fields = {name: said for name in FIELDS if (said := values.get(name) or given.get(name))}
    fields["subject"] = fill(fields.get("subject", ""), values)
    fields["html"] = fill(html, values, escaped=True)
    fields["text"] = fill(text, values)
    return msgspec.convert(fields, SendEmailRequest)


def fill(template: str, values: Mapping[str, str], *, escaped: bool = False) -> str:
    """Put values where the template has `{name}`; other braces stay as they are."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1], match[0])
        return html.escape(found) if escaped else found

    return _PLACEHOLDER.sub(value, template)


def _problems(request: SendEmailRequest) -> Iterator[str]:
    for name in MAILBOXES:
        given = getattr(request, f"{name}_" if name == "from" else name)
        if given and _is_no_mailbox(given):
            yield f"{name} is not one mailbox: {given}"
    if not request.to:
        yield "to is empty"
    if not request.subject:
        yield "subject is empty"
    elif _LINE_BREAKS.search(request.subject):
        yield "subject has a line break"


def _is_no_mailbox(text: str) -> bool:
    try:
        addresses.parse(text)
    except (addresses.Malformed, addresses.TooLong):
        return True
    return False
