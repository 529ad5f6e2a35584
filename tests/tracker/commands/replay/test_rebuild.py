# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`replay --rebuild` brings back records and groups from saved events, also when it is run again after a crash."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from shared import contract, group_index
from shared.errors import KeyMissing
from shared.kv.setup import create_missing
from tests.stack import ses_events
from tests.tracker.commands.operators import Operator, documents
from tests.tracker.examples import at, record
from tracker.events import records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("recipients", "index")


@pytest.fixture
def operator(nats: NatsServer) -> Operator:
    """An operator who is connected to NATS."""
    return Operator(nats.url)


def archive(email_ids: Iterable[str], group_id: str = "g") -> str:
    """Return the saved events of emails: a delivery and an open each."""
    return "\n".join(
        ses_events.notification(make(f"{group_id}/{email_id}", at(3)), f"{email_id}-{make.__name__}")
        for email_id in email_ids
        for make in (ses_events.delivery, ses_events.open_)
    )


async def restored(operator: Operator, text: str, *options: str) -> dict[str, int]:
    """Replay with --rebuild; return the counts."""
    result = await operator.run("replay", "-", "--rebuild", "--json", *options, text=text)
    counts: dict[str, int] = documents(result)[-1]
    return counts


async def held(recipients: Bucket, email_id: str) -> EmailRecipientRecord:
    return records.decode((await recipients.get_from_leader(email_id)).value)


async def ids(index: Bucket, group_id: str = "g") -> list[str]:
    """Return the ids of all segments of a group."""
    found: list[str] = []
    number = 0
    while value := await index.find(group_index.segment_key(group_index.key_of(group_id), number)):
        found += group_index.decode(value)
        number += 1
    return found


async def test_lost_buckets_are_made_again_from_the_archive_and_a_second_run_changes_nothing(
    operator: Operator, recipients: Bucket, index: Bucket
) -> None:
    emails = [str(uuid4()) for _ in range(30)]
    text = archive(emails)
    counts = await restored(operator, text)
    assert (counts["applied"], counts["unmatched"], counts["rebuilt"]) == (60, 0, 30)
    assert sorted(await ids(index)) == sorted(emails)
    for email_id in emails:
        found = await held(recipients, email_id)
        assert (found.to, found.delivered, found.open_count) == (ses_events.RECIPIENT, True, 1)
    sequences = [(await bucket.info()).state.last_seq for bucket in (recipients, index)]
    again = await restored(operator, text)
    assert (again["duplicate"], again["rebuilt"]) == (60, 0)
    assert [(await bucket.info()).state.last_seq for bucket in (recipients, index)] == sequences


async def test_records_whose_index_is_lost_are_listed_again(
    operator: Operator, recipients: Bucket, index: Bucket
) -> None:
    emails = [str(uuid4()) for _ in range(10)]
    for email_id in emails:
        await recipients.create(email_id, records.encode(record(email_id=email_id, group_id="g")))
    counts = await restored(operator, archive(emails))
    assert (counts["applied"], counts["rebuilt"]) == (20, 0)
    assert sorted(await ids(index)) == sorted(emails)
    await restored(operator, archive(emails))
    assert sorted(await ids(index)) == sorted(emails)


async def test_a_dry_run_shows_what_would_be_made_and_writes_nothing(
    operator: Operator, recipients: Bucket, index: Bucket
) -> None:
    result = await operator.run("replay", "-", "--rebuild", "--dry-run", text=archive(["e1"]))
    lines = [line.split(maxsplit=5) for line in result.stdout.splitlines() if line.startswith("line")]
    assert [line[5] for line in lines] == [
        "rebuilds the record, changes delivered, delivered_at",
        "changes opened, open_count, opened_at_list, last_opened_at",
    ]
    assert "Records that would be made from an event: 1." in result.stderr
    assert [(await bucket.info()).state.last_seq for bucket in (recipients, index)] == [0, 0]


async def test_a_record_that_was_deleted_stays_away_and_the_reason_is_shown(
    operator: Operator, recipients: Bucket, index: Bucket
) -> None:
    await recipients.delete("e1", await recipients.create("e1", b"{}"))
    for options in ((), ("--dry-run",)):
        result = await operator.run("replay", "-", "--rebuild", *options, text=archive(["e1"]))
        assert result.stdout.count("the record was deleted") == 2
    with pytest.raises(KeyMissing):
        await recipients.get_from_leader("e1")
    assert await ids(index) == []


async def test_without_the_index_bucket_a_rebuild_does_not_begin(operator: Operator, connection: Connection) -> None:
    await connection.client.jetstream().delete_stream(f"KV_{contract.EMAIL_GROUP_INDEX_BUCKET}")
    result = await operator.run("replay", "-", "--rebuild", text=archive(["e1"]))
    assert result.exit_code != 0
    assert "email-group-index" in result.stderr
    assert (await operator.run("replay", "-", text=archive(["e1"]))).exit_code == 0


async def test_no_announce_holds_for_rebuilt_records(operator: Operator, connection: Connection) -> None:
    heard: list[object] = []
    await connection.subscribe("lfx.email-service.>", heard.append)
    await connection.flush()
    await restored(operator, archive(["e1"]), "--no-announce")
    await connection.flush()
    assert heard == []
    await restored(operator, archive(["e2"]))
    await connection.flush()
    assert len(heard) == 2


async def test_emails_of_a_large_group_are_listed_without_a_read_of_the_whole_group_for_each(
    operator: Operator, connection: Connection, index: Bucket
) -> None:
    await create_missing(connection, contract.BUCKETS)
    key, listed = group_index.key_of("g"), 10_000
    await index.create(key, json.dumps([str(uuid4()) for _ in range(listed)]).encode())
    emails = [str(uuid4()) for _ in range(200)]
    began = time.monotonic()
    await restored(operator, archive(emails))
    assert time.monotonic() - began < 30
    assert sorted((await ids(index))[listed:]) == sorted(emails)
