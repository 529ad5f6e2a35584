# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""JSON log lines with the keys of Go's slog: `time`, `level`, `msg`, `source`, then the event's own fields.

There are two limits. RateLimit is for a line that callers or servers can cause at any rate, and of which one is enough.
FloodLimit is the safety net for all warnings and errors, and lets enough lines of a kind through to compare them.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from shared import redaction

log = logging.getLogger(__name__)

FLOOD_LINES: Final = 50
FLOOD_SECONDS: Final = 10.0
NEVER_HELD_BACK: Final = frozenset(
    {"email.uncertain", "record.kept", "record.lost", "record.too_large", "record.full", "claim.lost", "log.held_back"}
)
"""Events that are never dropped: each is the only trace of an email that an operator may have to check."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "taskName"}
_json = msgspec.json.Encoder(enc_hook=str)


def configure(level: str, *, add_source: bool) -> None:
    """Write every event of `level` and above to standard output, one line each.

    Of libraries, only warnings and errors: their debug lines contain credentials and mail (botocore, aiosmtplib).
    """
    if not add_source:  # saves time; see "Optimization" in the logging howto
        logging._srcfile = None  # noqa: SLF001 - named by that page
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = LineHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(add_source=add_source))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, _LEVELS[level]))
    for package in ("relay", "tracker", "shared"):
        logging.getLogger(package).setLevel(_LEVELS[level])


class RateLimit:
    """Limits one kind of line; the next line that is written has the number of those that were not."""

    def __init__(self, lines: int, seconds: float) -> None:
        """Allow `lines` in each period of `seconds`."""
        self._lines = lines
        self._seconds = seconds
        self._period_ends = 0.0
        self._allowed = 0
        self._unlogged = 0

    def allows(self) -> dict[str, int] | None:
        """Return the fields to add to the line, or None if it must not be written."""
        now = time.monotonic()
        if now >= self._period_ends:
            self._period_ends, self._allowed = now + self._seconds, self._lines
        if not self._allowed:
            self._unlogged += 1
            return None
        self._allowed -= 1
        unlogged, self._unlogged = self._unlogged, 0
        return {"unlogged_before": unlogged} if unlogged else {}


class FloodLimit:
    """Drops warnings and errors of one kind when there are too many, and logs how many were dropped.

    Lines are of one kind if they have the same level, the same event, and the same `kind` or `reason`. The numbers are
    logged (`log.held_back`) before the first line of any kind after the period.
    """

    def __init__(self, lines: int = FLOOD_LINES, seconds: float = FLOOD_SECONDS) -> None:
        """Allow `lines` of each kind in each period of `seconds`."""
        self._lines = lines
        self._seconds = seconds
        self._period_ends = 0.0
        self._counted: Counter[tuple[int, str, str]] = Counter()

    def allows(self, record: logging.LogRecord) -> bool:
        """Count a line; return whether it may be written."""
        is_limited = record.levelno >= logging.WARNING and str(record.msg) not in NEVER_HELD_BACK
        if not is_limited and not self._counted:
            return True
        now = time.monotonic()
        if now >= self._period_ends:
            self.report()
            self._period_ends = now + self._seconds
        if not is_limited:
            return True
        about = record.__dict__.get("kind") or record.__dict__.get("reason") or ""
        kind = record.levelno, str(record.msg), str(about)
        self._counted[kind] += 1
        return self._counted[kind] <= self._lines

    def report(self) -> None:
        """Log how many lines of each kind were dropped since the last report."""
        counted, self._counted = self._counted, Counter()
        for (level, event, about), lines in counted.items():
            if lines > self._lines:
                log.log(level, "log.held_back", extra={"event": event, "about": about, "lines": lines - self._lines})


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream, within the FloodLimit."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._limit = FloodLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line may be written."""
        return bool(super().filter(record)) and self._limit.allows(record)

    def close(self) -> None:
        """Log how many lines were dropped last; logging calls this when the process ends."""
        self._limit.report()
        super().close()


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, *, add_source: bool) -> None:
        """Add `source` (function, file, line) to each line if asked."""
        super().__init__()
        self._add_source = add_source

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": "WARN" if record.levelno == logging.WARNING else record.levelname,
            "msg": redaction.identifier(record.getMessage()),  # a library's message may quote an address
        }
        if self._add_source:
            line["source"] = {"function": record.funcName, "file": record.pathname, "line": record.lineno}
        line.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1]:
            line.setdefault("error", redaction.text(repr(record.exc_info[1])))  # it may quote an address
            line["stack"] = redaction.text("".join(traceback.format_exception(record.exc_info[1])))
        try:
            return _json.encode(line).decode()
        except Exception:  # noqa: BLE001 - a field must not make the event fail
            return _json.encode({key: _encodable(value) for key, value in line.items()}).decode()


def _encodable(value: Any) -> Any:
    """Return a value that JSON can hold, such as a text for a lone surrogate or for a list that contains itself."""
    try:
        _json.encode(value)
    except Exception:  # noqa: BLE001
        return ascii(value)
    return value
