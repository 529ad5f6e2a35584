# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: a CSV file and a template become one request for each row; whatever is wrong is told by its line.

The columns that are fields of a request take the place of the options. Every column fills `{column}` in the tags and
in the fields that FILLED names.
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
FILLED: Final[Mapping[str, Encode]] = {
    "subject": str,
    "text": str,
    "html": html.escape,
    "unsubscribe_url": partial(quote, safe=""),
    "idempotency_key": str,
}
"""The fields with placeholders, and how a value is written there."""

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_ANY_DOMAIN = submission.Policy(
    sender=addresses.Mailbox("", "", ""),
    display_name="",
    from_domains=frozenset(),
    reply_to_domains=(),
    recipient_domains=(),
)
"""What the relay allows is the relay's to say; everything else about a request can be known before it is asked."""


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


def read(lines: Iterable[str], given: Mapping[str, str], tags: Mapping[str, str]) -> Mailing:
    """Read a whole file; `given` holds the fields of a request that are the same for all rows, also html and text.

    The lines are decoded with `surrogateescape`, so that what is not UTF-8 is found on the line where it is.

    Raises:
        Unusable: something is wrong with the header, the template or any row.
    """
    reader = csv.reader(_utf8(lines), strict=True)
    asked = _placeholders([*(given.get(name, "") for name in FILLED), *tags.values()])
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, given, asked)
        rows, problems = _rows(reader, header, given, tags)
    except csv.Error as error:
        raise Unusable([f"line {reader.line_num}: {error}"]) from error
    if problems:
        raise Unusable(problems)
    if not rows:
        raise Unusable(["there are no rows below the header"])
    return Mailing(rows, [name for name in header if name not in FIELDS and name not in asked])


def _utf8(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if wrong := _ESCAPED_BYTE.search(line):
            byte = wrong[0].encode(errors="surrogateescape").hex()
            raise Unusable([f"line {number}: byte 0x{byte} is not UTF-8"])
        yield line


def _placeholders(templates: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for template in templates for name in _PLACEHOLDER.findall(template)))


def _check_header(header: Sequence[str], given: Mapping[str, str], asked: Iterable[str]) -> None:
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
    problems += [f"{{{name}}} is used, and there is no such column" for name in asked if name not in header]
    if problems:
        raise Unusable(problems)


def _rows(
    reader: Iterator[list[str]], header: Sequence[str], given: Mapping[str, str], tags: Mapping[str, str]
) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems: list[str] = []
    keys: dict[str, int] = {}
    for cells in reader:
        line = reader.line_num  # type: ignore[attr-defined]  # csv's own reader
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} cells, and the header has {len(header)}")
            continue
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        request = _request(values, given, tags)
        problems += [f"line {line}: {problem}" for problem in _problems(request)]
        if (key := request.idempotency_key) and (first := keys.setdefault(key, line)) != line:
            problems.append(f"line {line}: idempotency_key is that of line {first}: {key}")
        rows.append(Row(len(rows) + 1, line, request))
    return rows, problems


def _request(values: Mapping[str, str], given: Mapping[str, str], tags: Mapping[str, str]) -> SendEmailRequest:
    fields = {**given, **{name: said for name in FIELDS if (said := values.get(name))}}
    filled = {name: fill(fields[name], values, encode) for name, encode in FILLED.items() if name in fields}
    filled_tags = {name: fill(value, values) for name, value in tags.items()}
    return msgspec.convert({**fields, **filled, "tags": filled_tags or None}, SendEmailRequest)


def fill(template: str, values: Mapping[str, str], encode: Encode = str) -> str:
    """Put values where the template has `{name}`; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda match: encode(values[match[1]]) if match[1] in values else match[0], template)


def _problems(request: SendEmailRequest) -> list[str]:
    mailboxes = {"to": request.to, "from": request.from_, "reply_to": request.reply_to}
    problems = [
        f"{name} is not one mailbox: {said}" for name, said in mailboxes.items() if said and _is_no_mailbox(said)
    ]
    problems += [f"{name} is empty" for name in REQUIRED if not getattr(request, name)]
    return problems or _refusals(request)


def _refusals(request: SendEmailRequest) -> list[str]:
    """Return what the relay would answer whatever it allows."""
    unrestricted = msgspec.structs.replace(request, from_=None, reply_to=None)
    found = submission.accept(unrestricted, _ANY_DOMAIN, email_id="", new_group_id="")
    refusals = [found.reason] if isinstance(found, submission.Refused) else []
    if len(request.idempotency_key or "") > idempotency.MAX_KEY_CHARACTERS:
        refusals.append(INVALID_IDEMPOTENCY_KEY)
    return refusals


def _is_no_mailbox(text: str) -> bool:
    try:
        addresses.parse(text)
    except (addresses.Malformed, addresses.TooLong):
        return True
    return False
