# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Log lines, as whoever collects them reads them."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import redaction
from shared.service import log

ROOT = Path(__file__).parents[3]
PROPERTY = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


class Unspeakable:
    """Something that cannot even be printed."""

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
    except BaseException as caught:  # noqa: BLE001 - whatever it is
        event = record("request.failed", logging.ERROR)
        event.exc_info = (type(caught), caught, caught.__traceback__)
        return event


def test_a_line_begins_with_the_keys_of_slog_and_goes_on_with_the_events_fields() -> None:
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
def test_levels_are_called_as_slog_calls_them(level: int, shown: str) -> None:
    assert line(record(level=level))["level"] == shown


def test_the_source_is_shown_where_asked_for() -> None:
    assert line(record(), add_source=True)["source"] == {"function": "send", "file": "/srv/relay/x.py", "line": 7}
    assert "source" not in line(record())


@PROPERTY
@given(st.text(), st.text())
def test_an_event_is_one_line_whatever_it_says(msg: str, value: str) -> None:
    read = line(record(msg, value=value))
    assert (read["msg"], read["value"]) == (redaction.identifier(msg), value)


def test_an_error_is_told_with_its_stack_on_the_same_line() -> None:
    read = line(failure(ValueError("first\nsecond\r\nthird")))
    assert read["error"] == repr(ValueError("first\nsecond\r\nthird"))
    assert read["stack"].startswith("Traceback (most recent call last):\n")
    assert read["stack"].endswith("ValueError: first\nsecond\r\nthird\n")


def test_an_events_own_word_for_its_error_is_kept() -> None:
    event = failure(ValueError("x"))
    event.__dict__["error"] = "in our words"
    assert line(event)["error"] == "in our words"


def test_an_address_that_an_error_quotes_is_redacted() -> None:
    read = line(failure(LookupError("nobody is called ada@example.com")))
    assert read["error"] == repr(LookupError("nobody is called a***@example.com"))
    assert "ada@" not in read["stack"]


def test_an_address_in_the_words_of_a_library_is_redacted() -> None:
    assert line(record("Task exception was never retrieved: ada@example.com"))["msg"].endswith(": a***@example.com")


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
def test_a_field_that_json_has_no_form_for_is_shown_as_text(value: object, shown: object) -> None:
    """A server's reply in Latin-1 comes with half characters (aiosmtplib decodes with surrogateescape)."""
    read = line(record(value=value, email_id="e1"))
    assert read["value"] == shown
    assert read["email_id"] == "e1"


def test_an_event_is_not_lost_over_a_field_that_cannot_be_shown_at_all() -> None:
    endless: list[object] = []
    endless.append(endless)
    read = line(record("half \udcff", endless=endless, unspeakable=Unspeakable(), email_id="e1"))
    assert read["msg"] == r"'half \udcff'"
    assert read["endless"] == "[[...]]"
    assert "Unspeakable" in read["unspeakable"]
    assert read["email_id"] == "e1"


def run(program: str) -> list[dict[str, Any]]:
    """Run a program of its own, since what is configured belongs to the process; return its lines."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=30, cwd=ROOT)  # noqa: S603 - ours
    assert done.stderr == b""
    return [json.loads(one) for one in done.stdout.decode().splitlines()]


SPEAK = """
import logging
from shared.service import log
log.configure({level!r}, add_source={add_source})
for name in ("relay.x", "tracker.x", "shared.x", "botocore"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "said.%s", name)
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
def test_our_events_go_to_standard_output_from_the_level_on_and_libraries_only_warn(
    level: str, ours: list[str], libraries: list[str]
) -> None:
    """At debug level botocore and aiosmtplib show credentials and mail."""
    lines = run(SPEAK.format(level=level, add_source=False))
    for name in ("relay.x", "tracker.x", "shared.x"):
        assert [one["level"] for one in lines if one["msg"] == f"said.{name}"] == ours
    assert [one["level"] for one in lines if one["msg"] == "said.botocore"] == libraries
    assert not any("source" in one for one in lines)


def test_a_configured_process_names_the_source_where_asked_for() -> None:
    lines = run(SPEAK.format(level="error", add_source=True))
    assert {(one["source"]["function"], one["source"]["file"]) for one in lines} == {("<module>", "<string>")}
    assert {one["source"]["line"] for one in lines} == {7}


def test_configuring_twice_says_nothing_twice() -> None:
    again = "\nlog.configure('info', add_source=False)\nlogging.getLogger('relay').info('once')"
    assert [one["msg"] for one in run(SPEAK.format(level="error", add_source=False) + again)].count("once") == 1


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
HELD_BACK = {"level": "WARN", "msg": "log.held_back", "event": "email.refused", "about": "invalid to address"}


def without_time(read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the one key that is never the same."""
    return [{key: value for key, value in one.items() if key != "time"} for one in read]


def test_of_a_flood_of_one_kind_some_lines_are_written_and_the_end_of_the_process_says_how_many_were_not() -> None:
    read = without_time(run(FLOOD))
    refused = [one for one in read if one["msg"] == "email.refused"]
    assert [one["reason"] for one in refused].count("invalid to address") == log.FLOOD_LINES
    assert [one["reason"] for one in refused].count("invalid from address") == 1
    assert read[-1] == {**HELD_BACK, "lines": 7}


def test_what_nothing_else_tells_and_what_is_no_warning_is_never_held_back() -> None:
    said = [one["msg"] for one in run(FLOOD)]
    assert said.count("email.uncertain") == said.count("email.sent") == log.FLOOD_LINES + 7


def test_once_a_flood_is_over_the_next_line_of_any_kind_comes_after_the_number_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    printed = io.StringIO()
    handler = log.LineHandler(printed)
    monkeypatch.setattr(log.log, "handlers", [handler])
    for _ in range(log.FLOOD_LINES + 3):
        handler.handle(record("queue.entry_failed", logging.WARNING))
    handler.handle(record("event.applied"))
    now += log.FLOOD_SECONDS
    handler.handle(record("event.applied"))
    handler.handle(record("queue.entry_failed", logging.WARNING))
    said = printed.getvalue().split()
    assert said[log.FLOOD_LINES :] == ["event.applied", "log.held_back", "event.applied", "queue.entry_failed"]
