# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` describes the stream of push events, and names what may lose events or keeps it from working."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from shared import contract, push_stream
from shared.commands.check import checks
from tracker.commands import check, stream_check
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from shared.commands.check.checks import Finding
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

SUBJECTS = list(contract.PUSH_EVENT_SUBJECTS)
GOOD: dict[str, Any] = {
    "name": "email-events",
    "subjects": SUBJECTS,
    "discard": DiscardPolicy.NEW,
    "max_age": 7 * 86_400,
    "max_bytes": 1 << 20,
    "duplicate_window": 600,
}


async def found(inbox: Inbox) -> Finding:
    (finding,) = [finding async for finding in checks.run([stream_check.check(inbox)])]
    assert finding.about == "stream email-events"
    return finding


async def test_the_stream_that_the_service_creates_is_described_and_nothing_is_published(
    connection: Connection, inbox: Inbox
) -> None:
    await push_stream.create_missing(connection)
    finding = await found(inbox)
    assert (finding.status, finding.advice) == ("ok", "")
    assert finding.found == (
        "0 events, 0 B, 1 GiB free, kept for 7 days, repeats recognized for 10 minutes, 1 replica in file"
    )
    assert (await connection.jetstream().stream_info("email-events")).state.last_seq == 0


async def test_a_missing_stream_is_a_failure(inbox: Inbox) -> None:
    finding = await found(inbox)
    assert (finding.status, finding.found) == ("failed", "does not exist")
    assert "--create-missing" in finding.advice


async def test_a_stream_that_does_not_have_the_subjects_is_a_failure_that_names_the_other_stream(
    connection: Connection, inbox: Inbox
) -> None:
    js = connection.jetstream()
    await js.add_stream(name="email-events", subjects=SUBJECTS[:3])
    await js.add_stream(name="analytics", subjects=SUBJECTS[3:])
    finding = await found(inbox)
    assert finding.status == "failed"
    assert finding.found == (
        "does not cover lfx.email-service.email_failed; the stream analytics has its subjects: remove them there first"
    )


async def test_a_full_stream_is_a_failure_and_a_nearly_full_one_a_warning(connection: Connection, inbox: Inbox) -> None:
    js = connection.jetstream()
    await js.add_stream(StreamConfig(**{**GOOD, "max_bytes": 100_000}))
    await js.publish(SUBJECTS[0], bytes(90_000))
    nearly = await found(inbox)
    assert (nearly.status, "nearly full: raise its max_bytes" in nearly.advice) == ("warning", True)
    await js.publish(SUBJECTS[0], bytes(8_000))
    full = await found(inbox)
    assert (full.status, "it is full: events wait in the queue" in full.found) == ("failed", True)


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"discard": DiscardPolicy.OLD}, "when it is full it deletes unread events: set discard to new"),
        ({"max_msgs_per_subject": 10}, "set max_msgs_per_subject to -1"),
        ({"retention": RetentionPolicy.INTEREST}, "retention interest deletes events at once"),
        ({"max_age": 0}, "its events never expire"),
        ({"max_age": 3600}, "a consumer that is away for a day misses events"),
        ({"duplicate_window": 120}, "set duplicate_window to 600 s"),
        ({"max_msg_size": 200}, "raise max_msg_size"),
        ({"storage": StorageType.MEMORY}, "in memory"),
    ],
)
async def test_what_may_lose_or_repeat_events_is_a_warning(
    changed: dict[str, Any], advice: str, connection: Connection, inbox: Inbox
) -> None:
    await connection.jetstream().add_stream(StreamConfig(**{**GOOD, **changed}))
    finding = await found(inbox)
    assert (finding.status, advice in finding.advice) == ("warning", True), finding


def test_the_stream_is_checked_only_with_durable_push_events() -> None:
    assert check.stream_checks(TrackerSettings()) == {}
    assert list(check.stream_checks(TrackerSettings(push_events_durable=True))) == ["stream email-events"]
