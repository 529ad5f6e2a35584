# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""JSON log lines with the keys of Go's slog: `time`, `level`, `msg`, `source`, then the event's own fields.

A handler formats each line where it is logged; `log_writer` writes it in another thread.

There are two limits. RateLimit is for a line that callers or servers can cause at any rate, and of which one is enough.
FloodLimit is the safety net for all warnings and errors, and lets enough lines of a kind through to compare them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import msgspec

from shared import redaction
from shared.service.log_writer import LineWriter

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

FLOOD_LINES: Final = 50
FLOOD_SECONDS: Final = 10.0
NEVER_HELD_BACK: Final = frozenset(
    {"email.uncertain", "record.kept", "record.lost", "record.too_large", "record.full", "claim.lost", "log.held_back"}
)
"""Events that are never dropped: each is the only trace of an email that an operator may have to check."""

_OUR_PACKAGES: Final = ("relay", "tracker", "shared")
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "taskName"}
_json = msgspec.json.Encoder(enc_hook=str)


def configure(level: str, *, add_source: bool) -> LineWriter:
    """Write every event of `level` and above to standard output, one line each; return the writer.

    Of libraries, only warnings and errors: their debug lines contain credentials and mail (botocore, aiosmtplib).
    """
    if not add_source:  # saves time; see "Optimization" in the logging howto
        logging._srcfile = None  # noqa: SLF001 - named by that page
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    formatter = JsonFormatter(add_source=add_source)
    writer = LineWriter(_output(), lambda lines: formatter.encode(_loss(lines)))
    root = logging.getLogger()
    for old in root.handlers:
        old.close()
    root.handlers[:] = [LineHandler(writer, formatter)]
    root.setLevel(max(logging.WARNING, _LEVELS[level]))
    for package in _OUR_PACKAGES:
        logging.getLogger(package).setLevel(_LEVELS[level])
    _log_uncaught()
    return writer


def _output() -> int | None:
    """Return the descriptor for the lines: standard output, standard error if that is closed, None if both are."""
    output = _descriptor(sys.stdout) if sys.__stdout__ else None
    output = _descriptor(sys.stderr) if output is None and sys.__stderr__ else output  # else it may be the null device
    while (unused := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - no socket may become standard output
        pass
    os.close(unused)
    return output


def _descriptor(stream: TextIO | None) -> int | None:
    return stream.fileno() if stream else None


def _loss(lines: int) -> logging.LogRecord:
    return log.makeRecord(log.name, logging.ERROR, __file__, 0, "log.lost", (), None, extra={"lines": lines})


def _log_uncaught() -> None:
    """Log errors and warnings that Python would write to standard error, where a full pipe stops the process."""

    def end(kind: type[BaseException], error: BaseException, stack: TracebackType | None) -> None:
        log.error("process.failed", exc_info=(kind, error, stack))

    def fail(args: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        log.error("error.uncaught", exc_info=args.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = end, fail, fail
    logging.captureWarnings(capture=True)


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
        is_limited = record.levelno >= logging.WARNING and not _is_important(record)
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


class Lines(Protocol):
    """Where lines are written."""

    def put(self, line: bytes, *, is_important: bool = False) -> None:
        """Write a line, perhaps later."""

    def close(self) -> None:
        """Write what was not written yet."""


class LineHandler(logging.Handler):
    """Formats lines, within the FloodLimit, and passes them to a writer."""

    def __init__(self, lines: Lines, formatter: JsonFormatter) -> None:
        """Write to `lines`."""
        super().__init__()
        self._lines = lines
        self._encode = formatter.encode
        self._limit = FloodLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line may be written."""
        return bool(super().filter(record)) and self._limit.allows(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Format a line and pass it on."""
        self._lines.put(self._encode(record), is_important=_is_important(record))

    def close(self) -> None:
        """Log how many lines were dropped last, and flush; logging calls this when the process ends."""
        self._limit.report()
        self._lines.close()
        super().close()


def _is_important(record: logging.LogRecord) -> bool:
    return isinstance(record.msg, str) and record.msg in NEVER_HELD_BACK


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, *, add_source: bool) -> None:
        """Add `source` (function, file, line) to each line if asked."""
        super().__init__()
        self._add_source = add_source

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        return self.encode(record)[:-1].decode()

    def encode(self, record: logging.LogRecord) -> bytes:
        """Return the line, with its line end."""
        try:
            line = self._fields(record)
        except Exception:  # noqa: BLE001 - a library's message may not fit its arguments
            line = {"time": _time(record), "level": record.levelname, "msg": ascii(record.msg)}
        try:
            return _json.encode(line) + b"\n"
        except Exception:  # noqa: BLE001 - a field must not make the event fail
            return _json.encode({key: _encodable(value) for key, value in line.items()}) + b"\n"

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": "WARN" if record.levelno == logging.WARNING else record.levelname,
            "msg": _message(record),
        }
        if self._add_source:
            line["source"] = {"function": record.funcName, "file": record.pathname, "line": record.lineno}
        line.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1]:
            line.setdefault("error", repr(record.exc_info[1]))
            line["stack"] = redaction.secrets("".join(traceback.format_exception(record.exc_info[1])))
        if isinstance(line.get("error"), str):  # it may have the text of a library or a server
            line["error"] = redaction.secrets(line["error"])
        return line


def _message(record: logging.LogRecord) -> str:
    """Return the event; a message of a library is redacted."""
    message = record.getMessage()
    return redaction.identifier(message) if record.name.startswith(_OUR_PACKAGES) else redaction.secrets(message)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _encodable(value: Any) -> Any:
    """Return a value that JSON can hold, such as a text for a lone surrogate or for a list that contains itself."""
    try:
        _json.encode(value)
    except Exception:  # noqa: BLE001
        return ascii(value)
    return value


def request_failed(log: logging.Logger, error: BaseException, fields: dict[str, object]) -> None:
    """Log an unexpected error of a request, with its stack trace."""
    log.error("request.failed", extra=fields, exc_info=error)
