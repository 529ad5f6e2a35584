# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Compares what callers were promised with what the SMTP server, the buckets and the trackers have in the end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.chaos import callers, events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nats.aio.client import Client

    from tests.chaos.callers import Callers
    from tests.chaos.events import Ses
    from tests.chaos.processes import Replica
    from tests.stack.received_mail import ReceivedMail

RECIPIENTS, GROUP_INDEX = "email-recipients", "email-group-index"
SETTLE_SECONDS = 30.0
ANSWERS = 24  # so many answers in a row come from both trackers
SHOWN = 5


class Stored:
    """What the buckets hold."""

    def __init__(self, records: dict[str, dict[str, Any]], groups: dict[str, list[str]]) -> None:
        self.records = records
        self.groups = groups


async def stored(client: Client) -> Stored:
    """Read both buckets as a whole."""
    records = {key: json.loads(value) for key, value in (await _values(client, RECIPIENTS)).items()}
    groups: dict[str, list[str]] = {}
    for key, value in (await _values(client, GROUP_INDEX)).items():
        group_id = key.split(".", 2)[2] if key.startswith("=.") else key
        groups.setdefault(group_id, []).extend(json.loads(value))
    return Stored(records, groups)


async def problems(
    client: Client, sent: Callers, ses: Ses, mails: Sequence[ReceivedMail], trackers: Sequence[Replica]
) -> list[str]:
    """Return every broken promise as a line; look again for a while, since the last writes may be under way."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while (found := _broken(await stored(client), sent, ses, mails)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.5)
    return found or await _wrong_counts(client, await stored(client), sent.groups, trackers)


def _broken(now: Stored, sent: Callers, ses: Ses, mails: Sequence[ReceivedMail]) -> list[str]:
    delivered = Counter(events.tracking_id(mail).rpartition("/")[2] for mail in mails)
    by_subject = Counter(map(events.subject, mails))
    places = {group_id: Counter(email_ids) for group_id, email_ids in now.groups.items()}
    acknowledged = sent.acknowledged
    return [
        *_line("mails sent more than once", (name for name, count in by_subject.items() if count > 1)),
        *_line("acknowledged and not at the SMTP server", (one for one in acknowledged if not delivered[one])),
        *_line("acknowledged and without a record", (one for one in acknowledged if one not in now.records)),
        *_line(
            "acknowledged and not once in the group",
            (one for one, group_id in acknowledged.items() if places.get(group_id, Counter())[one] != 1),
        ),
        *_line(
            "delivered, with a record that does not say so",
            (one for one in delivered if one in now.records and not now.records[one]["delivered"]),
        ),
        *_line(
            "opens that are not counted once",
            (
                one
                for one in delivered
                if one in now.records and now.records[one]["open_count"] != ses.opens.get(one, 0)
            ),
        ),
        *_line("bounces that are not in the record", (one for one in ses.failed if not _failed(now, one))),
    ]


def _opens(now: Stored, email_id: str) -> int:
    return int(now.records[email_id]["open_count"])


def _failed(now: Stored, email_id: str) -> bool:
    return email_id not in now.records or bool(now.records[email_id]["failed"])


async def _wrong_counts(
    client: Client, now: Stored, group_ids: Sequence[str], trackers: Sequence[Replica]
) -> list[str]:
    found: list[str] = []
    before = [await tracker.metric("email_tracker_queries_total") for tracker in trackers]
    for group_id in group_ids:
        expected = _counts(group_id, now)
        answers = [await callers.analytics(client, group_id) for _ in range(ANSWERS)]
        found += [f"{group_id}: {answer} instead of {expected}" for answer in answers if answer != expected][:1]
    after = [await tracker.metric("email_tracker_queries_total") for tracker in trackers]
    silent = [tracker.name for tracker, was, is_ in zip(trackers, before, after, strict=True) if was == is_]
    return [*found, *_line("trackers that were not asked", silent)]


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


def _line(what: str, which: Iterable[str]) -> list[str]:
    listed = sorted(which)
    return [f"{what}: {len(listed)}, such as {', '.join(listed[:SHOWN])}"] if listed else []


async def _values(client: Client, bucket: str) -> dict[str, bytes]:
    js = client.jetstream(timeout=10)
    info = await js.stream_info(f"KV_{bucket}")
    subscription = await js.subscribe(
        f"$KV.{bucket}.>", ordered_consumer=True, deliver_policy=_last_per_subject(), pending_msgs_limit=-1
    )
    values: dict[str, bytes] = {}
    left = info.state.messages
    while left:
        msg = await subscription.next_msg(timeout=10)
        left = msg.metadata.num_pending
        if "KV-Operation" not in (msg.headers or {}):
            values[msg.subject.removeprefix(f"$KV.{bucket}.")] = msg.data
    await subscription.unsubscribe()
    return values


def _last_per_subject() -> Any:
    from nats.js.api import DeliverPolicy  # noqa: PLC0415 - takes 16 ms

    return DeliverPolicy.LAST_PER_SUBJECT
