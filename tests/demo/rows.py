# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The rows and lines that the demo prints; without I/O."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from tests.demo.caller import PUSH_SUBJECTS
from tests.demo.stack import RELAY, TRACKER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.demo.caller import Push
    from tests.demo.events import Notification, Script
    from tests.demo.stack import Stack
    from tests.stack.received_mail import ReceivedMail

ID_CHARACTERS = 8

Row = tuple[str, ...]


def parts(stack: Stack) -> list[Row]:
    """Return all processes and their addresses."""
    return [
        ("nats-server", stack.nats.url, "JetStream"),
        ("SMTP server", f"localhost:{stack.smtp.port}", "STARTTLS, AUTH"),
        ("SQS endpoint", stack.sqs.endpoint_url, "queue engagement-events"),
        (RELAY, f"http://localhost:{stack.relay.port}", f"pid {stack.relay.pid}"),
        (TRACKER, f"http://localhost:{stack.tracker.port}", f"pid {stack.tracker.pid}"),
    ]


def beginning(mail: ReceivedMail, body_lines: int) -> Iterable[str]:
    """Yield the header of a mail, and some lines of its body."""
    lines = mail.content.decode("ascii", "backslashreplace").split("\r\n")
    end = lines.index("") + 1 + body_lines
    yield from lines[:end]
    yield f"… {len(lines) - end} more lines"


def timeline(some: Sequence[Notification], script: Script) -> list[Row]:
    """Return the events in the order of the queue."""
    return [
        (
            event.kind,
            event.mail.to,
            f"{event.at:%H:%M:%S}",
            short(event.message_id),
            "again" if event is script.repeated and some is script.afterwards else "",
        )
        for event in some
    ]


def fields(answer: Mapping[str, object]) -> list[Row]:
    """Return a JSON object, one row for each field, and one for each element of a list."""
    return [row for name, value in answer.items() for row in _field(name, value)]


def push_counts(pushes: Sequence[Push]) -> list[Row]:
    """Return the number of push events on each subject."""
    counts = Counter(push.subject for push in pushes)
    return [(subject, str(counts[subject])) for subject in PUSH_SUBJECTS]


def short(message_id: str) -> str:
    """Return the beginning of an id."""
    return f"{message_id[:ID_CHARACTERS]}…"


def _field(name: str, value: object) -> Iterable[Row]:
    if not (isinstance(value, list) and value):
        return [(name, _text(value))]
    names = [name, *[""] * (len(value) - 1)]
    return zip(names, map(_element, value), strict=True)


def _element(value: Mapping[str, str]) -> str:
    return "  ".join(short(text) if name == "event_id" else text for name, text in reversed([*value.items()]))


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
