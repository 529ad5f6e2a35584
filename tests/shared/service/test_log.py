# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Log lines, as a collector reads them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import redaction
from shared.service import log

ROOT = Path(__file__).parents[3]
PROPERTY = settings(max_examples=100)


class Printed:
    """The lines that a handler passes on."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def put(self, line: bytes, *, is_important: bool = False) -> None:
        """Keep a line."""
        assert is_important == (b'"log.held_back"' in line)
        self.lines.append(line)

    def close(self) -> None:
        """Nothing is buffered."""


class Unspeakable:
    """A value that cannot be converted to text."""

    def __str__(self) -> str:
        raise RuntimeError


def record(msg: str = "email.sent", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    """Make an event as `logging` does for `extra`."""
    made = logging.LogRecord("relay.x", level, "/srv/relay/x.py", 7, msg, None, None, "send")
    made.__dict__.update(fields)
    return made


def line(event: logging.LogRecord, *, add_source: bool = False) -> dict[str, Any]:
    """Format an event, which has to become one line."""
    text = log.JsonFormatter(add_source=add_source).format(event)
    assert "\n" not in text
    assert "\r" not in text
    read: dict[str, Any] = json.loads(text)
    return read


def failure(error: BaseException) -> logging.LogRecord:
    """Make an event about an error that was raised."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - the test chooses it
        event = record("request.failed", logging.ERROR)
        event.exc_info = (type(caught), caught, caught.__traceback__)
        return event


def test_a_line_has_the_keys_of_slog_and_then_the_fields_of_the_event() -> None:
    read = line(record(email_id="e1", count=2, ok=True, nothing=None))
    assert list(read) == ["time", "level", "msg", "email_id", "count", "ok", "nothing"]
    assert {**read, "time": ""} == {
        "time": "",
        "level": "INFO",
        "msg": "email.sent",
        "email_id": "e1",
        "count": 2,
        "ok": True,
        "nothing": None,
    }


def test_the_time_is_that_of_the_event_in_utc() -> None:
    event = record()
    read = line(event)["time"]
    assert read.endswith("Z")
    difference = datetime.fromisoformat(read) - datetime.fromtimestamp(event.created, UTC)
    assert abs(difference) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("level", "shown"),
    [(logging.DEBUG, "DEBUG"), (logging.INFO, "INFO"), (logging.WARNING, "WARN"), (logging.ERROR, "ERROR")],
)
def test_levels_have_the_names_of_slog(level: int, shown: str) -> None:
    assert line(record(level=level))["level"] == shown


def test_the_source_is_added_on_request() -> None:
    assert line(record(), add_source=True)["source"] == {"function": "send", "file": "/srv/relay/x.py", "line": 7}
    assert "source" not in line(record())


@PROPERTY
@given(st.text(), st.text())
def test_any_event_is_one_line(msg: str, value: str) -> None:
    read = line(record(msg, value=value))
    assert (read["msg"], read["value"]) == (redaction.identifier(msg), value)


def test_an_error_and_its_stack_are_on_the_same_line() -> None:
    read = line(failure(ValueError("first\nsecond\r\nthird")))
    assert read["error"] == repr(ValueError("first\nsecond\r\nthird"))
    assert read["stack"].startswith("Traceback (most recent call last):\n")
    assert read["stack"].endswith("ValueError: first\nsecond\r\nthird\n")


def test_the_error_field_of_an_event_is_kept() -> None:
    event = failure(ValueError("x"))
    event.__dict__["error"] = "own text"
    assert line(event)["error"] == "own text"


def test_an_address_that_an_error_quotes_is_redacted() -> None:
    read = line(failure(LookupError("no user ada@example.com")))
    assert read["error"] == repr(LookupError("no user a***@example.com"))
    assert "ada@" not in read["stack"]


SESSION = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQ=="


@pytest.mark.parametrize(
    "event",
    [
        record("queue.receive_failed", error=f"receive_message: Invalid header value b'{SESSION}\\\\n'"),
        failure(ValueError(f"Invalid header value {SESSION.encode()!r}")),
        failure(LookupError(f"x-amz-security-token:{SESSION}")),
    ],
)
def test_a_session_token_that_an_error_quotes_is_redacted(event: logging.LogRecord) -> None:
    assert SESSION[:20] not in json.dumps(line(event))


def test_a_header_that_a_message_of_a_library_quotes_is_redacted() -> None:
    event = record("Header format invalid! Header values in environment variables must be URL encoded: %s")
    event.name, event.args = "opentelemetry.util.re", ("Bearer s3cret",)
    assert "s3cret" not in line(event)["msg"]


def test_an_address_in_a_message_of_a_library_is_redacted() -> None:
    assert line(record("Task exception was never retrieved: ada@example.com"))["msg"].endswith(": a***@example.com")


def test_a_message_of_a_library_that_does_not_fit_its_arguments_is_written() -> None:
    event = record("%d bytes")
    event.args = ("many",)
    assert line(event)["msg"] == "'%d bytes'"


def test_an_event_without_an_error_has_none() -> None:
    event = record()
    event.exc_info = (None, None, None)
    assert line(event).keys() == {"time", "level", "msg"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": {1: ("b", datetime(2025, 1, 2, tzinfo=UTC))}}, {"a": {"1": ["b", "2025-01-02T00:00:00Z"]}}),
        (ValueError("x"), "x"),
        (1 + 2j, "(1+2j)"),
        (2**80, 2**80),
        (float("nan"), None),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ({"inside": ValueError("x")}, {"inside": "x"}),
        ("half \ud83d", r"'half \ud83d'"),
        (["half \ud83d"], r"['half \ud83d']"),
        ({"half \ud83d": 1}, r"{'half \ud83d': 1}"),
    ],
    ids=repr,
)
def test_a_value_that_json_cannot_hold_is_shown_as_text(value: object, shown: object) -> None:
    """A server's reply in Latin-1 has lone surrogates (aiosmtplib decodes with surrogateescape)."""
    read = line(record(value=value, email_id="e1"))
    assert read["value"] == shown
    assert read["email_id"] == "e1"


def test_an_event_with_fields_that_cannot_be_shown_is_written() -> None:
    endless: list[object] = []
    endless.append(endless)
    read = line(record("half \udcff", endless=endless, unspeakable=Unspeakable(), email_id="e1"))
    assert read["msg"] == r"'half \udcff'"
    assert read["endless"] == "[[...]]"
    assert "Unspeakable" in read["unspeakable"]
    assert read["email_id"] == "e1"


def run(program: str) -> list[dict[str, Any]]:
    """Run a program, since logging is configured for a whole process; return its log lines."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=30, cwd=ROOT)  # noqa: S603 - ours
    assert done.stderr == b""
    return [json.loads(one) for one in done.stdout.decode().splitlines()]


WRITE_LINES = """
import logging
from shared.service import log
log.configure({level!r}, add_source={add_source})
for name in ("relay.x", "tracker.x", "shared.x", "botocore"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "line.%s", name)
"""


@pytest.mark.parametrize(
    ("level", "ours", "libraries"),
    [
        ("debug", ["DEBUG", "INFO", "WARN", "ERROR"], ["WARN", "ERROR"]),
        ("info", ["INFO", "WARN", "ERROR"], ["WARN", "ERROR"]),
        ("warn", ["WARN", "ERROR"], ["WARN", "ERROR"]),
        ("error", ["ERROR"], ["ERROR"]),
    ],
)
def test_events_are_written_from_the_level_on_and_of_libraries_only_warnings(
    level: str, ours: list[str], libraries: list[str]
) -> None:
    """At debug level botocore and aiosmtplib log credentials and mail."""
    lines = run(WRITE_LINES.format(level=level, add_source=False))
    for name in ("relay.x", "tracker.x", "shared.x"):
        assert [one["level"] for one in lines if one["msg"] == f"line.{name}"] == ours
    assert [one["level"] for one in lines if one["msg"] == "line.botocore"] == libraries
    assert not any("source" in one for one in lines)


def test_a_configured_process_adds_the_source_on_request() -> None:
    lines = run(WRITE_LINES.format(level="error", add_source=True))
    assert {(one["source"]["function"], one["source"]["file"]) for one in lines} == {("<module>", "<string>")}
    assert {one["source"]["line"] for one in lines} == {7}


def test_configuring_twice_writes_each_line_once() -> None:
    again = "\nlog.configure('info', add_source=False)\nlogging.getLogger('relay').info('once')"
    assert [one["msg"] for one in run(WRITE_LINES.format(level="error", add_source=False) + again)].count("once") == 1


UNCAUGHT = """
import threading, warnings
from shared.service import log
class Finalized:
    def __del__(self):
        raise ValueError("in a finalizer")
def work():
    raise LookupError("in a thread, of ada@example.com")
log.configure("info", add_source=False)
thread = threading.Thread(target=work)
thread.start()
thread.join()
Finalized()
warnings.warn("a warning", UserWarning)
raise OSError("at the end")
"""


def test_errors_and_warnings_that_python_would_print_are_log_lines() -> None:
    """Standard error may be a full pipe, too."""
    done = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, check=False, timeout=30, cwd=ROOT)  # noqa: S603 - ours
    assert (done.returncode, done.stderr) == (1, b"")
    read = [json.loads(one) for one in done.stdout.splitlines()]
    assert [(one["msg"].partition(":")[0], one.get("error")) for one in read] == [
        ("error.uncaught", repr(LookupError("in a thread, of a***@example.com"))),
        ("error.uncaught", repr(ValueError("in a finalizer"))),
        ("<string>", None),
        ("process.failed", repr(OSError("at the end"))),
    ]
    assert "Traceback" in read[3]["stack"]


FLOOD = """
import logging
from shared.service import log
log.configure("debug", add_source=False)
log_ = logging.getLogger("relay.x")
for number in range(log.FLOOD_LINES + 7):
    log_.warning("email.refused", extra={"reason": "invalid to address"})
    log_.error("email.uncertain", extra={"email_id": number})
    log_.info("email.sent", extra={"email_id": number})
log_.warning("email.refused", extra={"reason": "invalid from address"})
"""
DROPPED = {"level": "WARN", "msg": "log.held_back", "event": "email.refused", "about": "invalid to address"}


def without_time(read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the key that is never the same."""
    return [{key: value for key, value in one.items() if key != "time"} for one in read]


def test_a_flood_of_one_kind_is_cut_and_the_number_of_dropped_lines_is_logged_at_the_end() -> None:
    read = without_time(run(FLOOD))
    refused = [one for one in read if one["msg"] == "email.refused"]
    assert [one["reason"] for one in refused].count("invalid to address") == log.FLOOD_LINES
    assert [one["reason"] for one in refused].count("invalid from address") == 1
    assert read[-1] == {**DROPPED, "lines": 7}


def test_events_about_uncertain_emails_and_information_are_never_dropped() -> None:
    said = [one["msg"] for one in run(FLOOD)]
    assert said.count("email.uncertain") == said.count("email.sent") == log.FLOOD_LINES + 7


def test_after_a_flood_the_number_of_dropped_lines_is_logged_before_the_next_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    printed = Printed()
    handler = log.LineHandler(printed, log.JsonFormatter(add_source=False))
    monkeypatch.setattr(log.log, "handlers", [handler])
    for _ in range(log.FLOOD_LINES + 3):
        handler.handle(record("queue.entry_failed", logging.WARNING))
    handler.handle(record("event.applied"))
    now += log.FLOOD_SECONDS
    handler.handle(record("event.applied"))
    handler.handle(record("queue.entry_failed", logging.WARNING))
    said = [json.loads(line)["msg"] for line in printed.lines]
    assert said[log.FLOOD_LINES :] == ["event.applied", "log.held_back", "event.applied", "queue.entry_failed"]
