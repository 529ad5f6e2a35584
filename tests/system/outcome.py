# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Compares what callers were promised with what the SMTP server, the buckets and the trackers have in the end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.system import ses
from tests.system.processes import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nats.aio.client import Client

    from tests.stack.received_mail import ReceivedMail
    from tests.system.callers import Callers
    from tests.system.processes import Replica
    from tests.system.requests import Requests
    from tests.system.ses import Ses

RECIPIENTS, GROUP_INDEX, KEYS, SUPPRESSIONS = BUCKETS
SETTLE_SECONDS = 30.0
ANSWERS = 24  # so many answers in a row come from both trackers
SHOWN = 5


class Facts(NamedTuple):
    """What happened outside the processes: the acknowledged emails, the events, the mails at the SMTP server."""

    callers: Callers
    ses: Ses
    mails: Sequence[ReceivedMail]


class Stored(NamedTuple):
    """What the buckets hold, decoded."""

    records: dict[str, dict[str, Any]]
    groups: dict[str, list[str]]  # the key is the group id
    keys: dict[str, dict[str, Any]]
    suppressions: dict[str, dict[str, Any]]


Promises = Callable[[Stored, Facts], "list[str]"]
"""Returns every broken promise as a line."""


async def stored(client: Client) -> Stored:
    """Read all buckets as a whole."""
    groups: dict[str, list[str]] = {}
    for key, email_ids in (await _values(client, GROUP_INDEX)).items():
        group_id = key.split(".", 2)[2] if key.startswith("=.") else key
        groups.setdefault(group_id, []).extend(email_ids)
    return Stored(
        await _values(client, RECIPIENTS), groups, await _values(client, KEYS), await _values(client, SUPPRESSIONS)
    )


async def problems(
    client: Client, requests: Requests, facts: Facts, trackers: Sequence[Replica], promises: Promises | None = None
) -> list[str]:
    """Return every broken promise as a line; look again for a while, since the last writes may be under way."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while True:
        now = await stored(client)
        found = (promises or broken)(now, facts)
        if not found or asyncio.get_running_loop().time() > deadline:
            return [*found, *await _wrong_counts(requests, now, facts.callers.groups, trackers)]
        await asyncio.sleep(0.5)


def broken(now: Stored, facts: Facts) -> list[str]:
    """Return the promises about acknowledged emails, mails and events that are broken."""
    delivered = Counter(map(email_id, facts.mails))
    by_subject = Counter(map(ses.subject, facts.mails))
    return [
        *line("mails sent more than once", (name for name, count in by_subject.items() if count > 1)),
        *without_a_trace(now, facts.callers.acknowledged, delivered),
        *miscounted(now, facts.ses, delivered),
    ]


def without_a_trace(now: Stored, acknowledged: Mapping[str, str], delivered: Counter[str]) -> list[str]:
    """Return what is missing of the acknowledged emails (email_id -> group_id)."""
    places = {group_id: Counter(email_ids) for group_id, email_ids in now.groups.items()}
    return [
        *line("acknowledged and not at the SMTP server", (one for one in acknowledged if not delivered[one])),
        *line("acknowledged and without a record", (one for one in acknowledged if one not in now.records)),
        *line(
            "acknowledged and not in the group",
            (one for one, group_id in acknowledged.items() if not places.get(group_id, Counter())[one]),
        ),
        *line(
            "more than once in the group",
            (one for one, group_id in acknowledged.items() if places.get(group_id, Counter())[one] > 1),
        ),
    ]


def miscounted(now: Stored, reported: Ses, delivered: Iterable[str]) -> list[str]:
    """Return the events that are not in the record once."""
    records = {one: now.records[one] for one in delivered if one in now.records}
    return [
        *line("delivered, with a record that is not", (one for one in records if not records[one]["delivered"])),
        *line(
            "opens that are not counted once",
            (one for one in records if records[one]["open_count"] != reported.opens.get(one, 0)),
        ),
        *line(
            "bounces that are not in the record",
            (one for one in reported.failed if one in records and not records[one]["failed"]),
        ),
    ]


def email_id(mail: ReceivedMail) -> str:
    """Return the id of a mail's email."""
    return ses.tracking_id(mail).rpartition("/")[2]


def line(what: str, which: Iterable[str]) -> list[str]:
    """Return a broken promise with some of the cases; nothing without a case."""
    listed = sorted(which)
    return [f"{what}: {len(listed)}, such as {', '.join(listed[:SHOWN])}"] if listed else []


async def _wrong_counts(
    requests: Requests, now: Stored, group_ids: Sequence[str], trackers: Sequence[Replica]
) -> list[str]:
    found: list[str] = []
    before = [await tracker.metric("email_tracker_queries_total") for tracker in trackers]
    for group_id in group_ids:
        expected = _counts(group_id, now)
        answers = [await requests.analytics(group_id) for _ in range(ANSWERS)]
        found += [f"{group_id}: {answer} instead of {expected}" for answer in answers if answer != expected][:1]
    after = [await tracker.metric("email_tracker_queries_total") for tracker in trackers]
    silent = [tracker.name for tracker, was, is_ in zip(trackers, before, after, strict=True) if was == is_]
    return [*found, *line("trackers that were not asked", silent)]


def _counts(group_id: str, now: Stored) -> dict[str, Any]:
    email_ids = dict.fromkeys(now.groups.get(group_id, []))
    records = [now.records[one] for one in email_ids if one in now.records]
    return {
        "group_id": group_id,
        "total_sent": len(email_ids),
        "delivered": sum(record["delivered"] for record in records),
        "opened": sum(record["open_count"] for record in records),
        "unique_opened": sum(record["opened"] for record in records),
        "failed": sum(record["failed"] for record in records),
    }


async def _values(client: Client, bucket: str) -> dict[str, Any]:
    js = client.jetstream(timeout=10)
    info = await js.stream_info(f"KV_{bucket}")
    subscription = await js.subscribe(
        f"$KV.{bucket}.>", ordered_consumer=True, deliver_policy=_last_per_subject(), pending_msgs_limit=-1
    )
    values: dict[str, Any] = {}
    left = info.state.messages
    while left:
        msg = await subscription.next_msg(timeout=10)
        left = msg.metadata.num_pending
        if not {"KV-Operation", "Nats-Marker-Reason"} & set(msg.headers or {}):
            values[msg.subject.removeprefix(f"$KV.{bucket}.")] = json.loads(msg.data)
    await subscription.unsubscribe()
    return values


def _last_per_subject() -> Any:
    from nats.js.api import DeliverPolicy  # noqa: PLC0415 - takes 16 ms

    return DeliverPolicy.LAST_PER_SUBJECT
