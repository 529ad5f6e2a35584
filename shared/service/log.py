# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""JSON log lines with the keys of Go's slog: `time`, `level`, `msg`, `source`, then the event's own fields."""

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
"""What nothing else tells: the one trace of an email that may have to be looked after by hand."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "taskName"}
_json = msgspec.json.Encoder(enc_hook=str)


def configure(level: str, *, add_source: bool) -> None:
    """Send every event of `level` and above to standard output, one line each.

    Libraries may only warn: what they say at debug level holds credentials and mail (botocore, aiosmtplib).
    """
    if not add_source:  # what the logging howto's "Optimization" turns off when nobody asks for it
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
    """Lets a few lines of one kind through at a time, so that a flood of causes is no flood of lines."""

    def __init__(self, lines: int, seconds: float) -> None:
        """Allow `lines` in each span of `seconds`."""
        self._lines = lines
        self._seconds = seconds
        self._span_ends = 0.0
        self._allowed = 0
        self._unlogged = 0

    def allows(self) -> dict[str, int] | None:
        """Return the fields to add to a line that may be written, None for one that may not."""
        now = time.monotonic()
        if now >= self._span_ends:
            self._span_ends, self._allowed = now + self._seconds, self._lines
        if not self._allowed:
            self._unlogged += 1
            return None
        self._allowed -= 1
        unlogged, self._unlogged = self._unlogged, 0
        return {"unlogged_before": unlogged} if unlogged else {}


class FloodLimit:
    """Holds warnings and errors back that come too often, and tells how many of which; any other line passes.

    Lines are of one kind if they have the same event, and the same `kind` or `reason`. How many were held back is told
    before the next line that is written, of whatever kind, once the time is over in which they came.
    """

    def __init__(self, lines: int = FLOOD_LINES, seconds: float = FLOOD_SECONDS) -> None:
        """Allow `lines` of each kind in each span of `seconds`."""
        self._lines = lines
        self._seconds = seconds
        self._span_ends = 0.0
        self._counted: Counter[tuple[int, str, str]] = Counter()

    def allows(self, record: logging.LogRecord) -> bool:
        """Count a line; tell whether it may be written."""
        is_limited = record.levelno >= logging.WARNING and str(record.msg) not in NEVER_HELD_BACK
        if not is_limited and not self._counted:
            return True
        now = time.monotonic()
        if now >= self._span_ends:
            self.report()
            self._span_ends = now + self._seconds
        if not is_limited:
            return True
        about = record.__dict__.get("kind") or record.__dict__.get("reason") or ""
        kind = record.levelno, str(record.msg), str(about)
        self._counted[kind] += 1
        return self._counted[kind] <= self._lines

    def report(self) -> None:
        """Tell what was held back since the last report."""
        counted, self._counted = self._counted, Counter()
        for (level, event, about), lines in counted.items():
            if lines > self._lines:
                log.log(level, "log.held_back", extra={"event": event, "about": about, "lines": lines - self._lines})


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines, but no flood of them."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._limit = FloodLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line may be written."""
        return bool(super().filter(record)) and self._limit.allows(record)

    def close(self) -> None:
        """Tell what was held back last; logging calls this when the process ends."""
        self._limit.report()
        super().close()


class JsonFormatter(logging.Formatter):
    """Turns a record into one line of JSON."""

    def __init__(self, *, add_source: bool) -> None:
        """Add `source` (function, file, line) to each line if asked."""
        super().__init__()
        self._add_source = add_source

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": "WARN" if record.levelno == logging.WARNING else record.levelname,
            "msg": redaction.identifier(record.getMessage()),  # a library's may quote anything; ours have no @
        }
        if self._add_source:
            line["source"] = {"function": record.funcName, "file": record.pathname, "line": record.lineno}
        line.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1]:
            line.setdefault("error", redaction.text(repr(record.exc_info[1])))  # nobody knows what it quotes
            line["stack"] = redaction.text("".join(traceback.format_exception(record.exc_info[1])))
        try:
            return _json.encode(line).decode()
        except Exception:  # noqa: BLE001 - whatever a field holds, it does not cost the event
            return _json.encode({key: _encodable(value) for key, value in line.items()}).decode()


def _encodable(value: Any) -> Any:
    """Return what JSON can hold: not half a character in a server's words, nor a list that holds itself."""
    try:
        _json.encode(value)
    except Exception:  # noqa: BLE001
        return ascii(value)
    return value
