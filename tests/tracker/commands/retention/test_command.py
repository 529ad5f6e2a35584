# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`lfx-email-tracker retention` on a real server: old emails go, their counts stay, and the buckets shrink."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared import contract, group_index
from shared.erasure import Erasures
from shared.errors import KeyMissing, StoreFull
from shared.index_writer import IndexWriter
from tests.stack import child, nats_proxy
from tests.stack.nats_rules import Rules
from tests.stack.waiting import until
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents
from tests.tracker.commands.retention import mails as mails_module
from tests.tracker.commands.retention.mails import OLD, RECENT, Mails
from tests.tracker.examples import TO, stored
from tracker.commands.retention import sealing
from tracker.commands.retention.run import Retention
from tracker.queries import seal
from tracker.queries.email_status_handler import EmailStatusHandler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.stack.nats_frames import Publication
    from tests.stack.nats_rules import Planned
    from tests.stack.nats_server import NatsServer

REMOVE = ("retention", "--older-than", "180d", "--yes")
OPENED = {"delivered": True, "delivered_at": OLD, "opened": True, "open_count": 3, "last_opened_at": OLD}


class FirstWrites(Rules):
    """Forwards the first writes of records; drops the later ones and all that follows."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count
        self.are_over = False

    def decide(self, publication: Publication) -> Sequence[Planned]:
        """Return what becomes of a publication of the client."""
        if publication.subject.startswith(f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}."):
            self._left -= 1
            self.are_over = self._left < 0
        return [] if self.are_over else super().decide(publication)


@pytest.fixture
async def mails(nats: NatsServer) -> AsyncIterator[Mails]:
    """Both buckets, empty."""
    async with mails_module.opened(nats.url) as made:
        yield made


@pytest.fixture
def operator(nats: NatsServer) -> Operator:
    """An operator of this server."""
    return Operator(nats.url)


@pytest.mark.parametrize("group_id", ["g", "a.b", "Spring 2025"])
async def test_old_emails_go_and_the_counts_stay(mails: Mails, operator: Operator, group_id: str) -> None:
    old, recent = {"sent_at": OLD, **OPENED}, {"sent_at": RECENT}
    await mails.send(group_id, [old, {"sent_at": OLD, "failed": True}, recent, {**old, "last_opened_at": RECENT}])
    await mails.send("other", [old])
    before = await mails.live.count(group_id), await mails.live.count("other")
    result = await operator.run(*REMOVE, "--json")
    assert result.exit_code == 0, result.output
    [summary] = documents(result)
    assert (summary["dry_run"], summary["emails"], summary["groups"], summary["unreadable"]) == (False, 3, 2, 0)
    for after in (mails.live.count, mails.counts):
        assert (await after(group_id), await after("other")) == before
    assert len(await mails.reader.email_ids(group_id)) == 2
    status = EmailStatusHandler(mails.recipients, mails.reader, mails.connected[0].payload_limit)
    assert await status(b'{"group_id":"other"}') == b"[]"
    assert await status(b'{"email_id":"other-00000"}') == b'{"error":"not found"}'


async def test_without_space_for_the_counts_the_error_has_an_advice(
    mails: Mails, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PATIENCE_SECONDS", 0.1)
    await mails.send("g", [{"sent_at": OLD}])
    js = mails.connected[0].client.jetstream()
    info = await js.stream_info(f"KV_{contract.EMAIL_GROUP_INDEX_BUCKET}")
    await js.update_stream(info.config, max_bytes=info.state.bytes)
    result = await operator.run(*REMOVE)
    assert result.exit_code == 1
    assert StoreFull.advice in result.stderr
    await js.update_stream(info.config, max_bytes=-1)
    assert (await operator.run(*REMOVE)).exit_code == 0


async def test_without_yes_nothing_is_written(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": OLD}, {"sent_at": RECENT}])
    last = [(await bucket.info()).state for bucket in (mails.recipients, mails.index)]
    result = await operator.run(*REMOVE[:-1])
    assert (result.exit_code, result.stderr) == (0, "Nothing was removed. Use --yes to remove these emails.\n")
    assert "emails to remove      1\n" in result.stdout
    assert [(await bucket.info()).state for bucket in (mails.recipients, mails.index)] == last


async def test_both_buckets_shrink_and_keep_no_deletion_marker(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": OLD}] * 900 + [{"sent_at": RECENT}] * 100, segment_sizes=[600, 300])
    await asyncio.gather(*(mails.send(f"single-{number}", [{"sent_at": OLD}]) for number in range(50)))
    [summary] = documents(await operator.run(*REMOVE, "--json"))
    assert (summary["emails"], summary["groups"]) == (950, 51)
    for bucket, left in ((mails.recipients, 100), (mails.index, 3 + 2 + 50)):
        info = await bucket.info()
        assert info.state.messages == left
        assert info.state.bytes == summary["bytes_after"][bucket.name] < summary["bytes_before"][bucket.name] * 2 / 3


async def test_a_group_is_continued_after_all_its_emails_are_sealed(mails: Mails, operator: Operator) -> None:
    await mails.send("large", [{"sent_at": OLD}] * 300, segment_sizes=[200])
    await mails.send("small", [{"sent_at": OLD}])
    await operator.run(*REMOVE)
    assert await mails.reader.email_ids("large") == await mails.reader.email_ids("small") == []
    writer = IndexWriter(mails.index)
    for group_id in ("large", "small"):
        await mails.write(f"new-{group_id}", group_id=group_id, sent_at=RECENT, delivered=True)
        await writer.append(group_id, f"new-{group_id}")
        assert await mails.reader.email_ids(group_id) == [f"new-{group_id}"]
        counted = await mails.live.count(group_id)
        assert (counted.total_sent, counted.delivered) == (301 if group_id == "large" else 2, 1)
    assert (await operator.run("retention", "--older-than", "24h", "--yes")).exit_code == 0
    for group_id in ("large", "small"):
        assert await mails.reader.email_ids(group_id) == []
        assert (await mails.live.count(group_id)).delivered == 1


async def test_a_record_that_no_group_lists_goes_without_being_counted(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": RECENT}])
    await mails.write("lost", group_id="g", sent_at=OLD, delivered=True)
    await mails.write("alone", group_id="unknown", sent_at=OLD)
    [summary] = documents(await operator.run(*REMOVE, "--json"))
    assert summary["emails"] == 2
    assert (await mails.recipients.info()).state.messages == 1
    assert (await mails.counts("g")).delivered == 0


async def test_what_cannot_be_read_stays_and_is_reported(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": OLD}])
    await mails.recipients.create("corrupt", b"{")
    await mails.recipients.create("timeless", stored(sent_at="0001-01-01T00:00:00Z"))
    await mails.index.create("broken", b"{")
    await mails.index.create("=seal.0.other", b"{")
    result = await operator.run(*REMOVE)
    assert result.exit_code == 1
    assert "cannot be read, and stay: 4" in result.stderr
    assert (await mails.recipients.info()).state.messages == 2


async def test_an_id_that_two_segments_list_keeps_its_count(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": OLD, "delivered": True}] * 3, segment_sizes=[2])
    later = await mails.index.get_from_leader("=.1.g")
    await mails.index.update("=.1.g", group_index.encode(["g-00001", "g-00002"]), later.revision)
    before = await mails.counts("g")
    assert (before.total_sent, before.delivered) == (3, 3)
    for _ in range(2):
        await operator.run(*REMOVE)
        assert await mails.counts("g") == before


async def test_a_run_that_is_killed_anywhere_is_continued_by_the_next(
    mails: Mails, nats: NatsServer, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "SMALL_GROUP", 0)
    await mails.send("g", [{"sent_at": OLD, "delivered": True}] * 500, segment_sizes=[250, 125])
    before = await mails.live.count("g")
    program = Path(sys.executable).parent / "lfx-email-tracker"
    for written in (1, 100, 225):  # requests of the recipients' bucket before the kill
        async with nats_proxy.running(nats.url) as proxy:
            proxy.decides = writes = FirstWrites(written)
            environ = {**os.environ, "NATS_URL": proxy.url}
            process = await child.start(program, *REMOVE, env=environ, output=asyncio.subprocess.DEVNULL)
            await until(lambda: writes.are_over)  # noqa: B023 - awaited in this turn of the loop
            assert await mails.live.count("g") == before
            process.kill()
            await process.wait()
        assert await mails.counts("g") == await mails.live.count("g") == before
    last = await operator.run(*REMOVE)
    assert last.exit_code == 0
    assert await mails.counts("g") == await mails.live.count("g") == before
    assert await mails.reader.email_ids("g") == []
    assert (await mails.recipients.info()).state.messages == 0


async def test_two_runs_at_once_count_each_email_once(mails: Mails) -> None:
    await mails.send("g", [{"sent_at": OLD, "delivered": True}] * 700, segment_sizes=[400])
    before = await mails.live.count("g")
    runs = [Retention(*mails.connected, RECENT, lambda _: None) for _ in range(2)]
    await asyncio.gather(*(run.remove() for run in runs))
    assert sum(run.progress.emails for run in runs) == 700
    assert await mails.counts("g") == await mails.live.count("g") == before


async def test_a_step_that_an_earlier_run_left_is_completed_even_if_nothing_else_is_due(
    mails: Mails, operator: Operator
) -> None:
    await mails.send("g", [{"sent_at": RECENT, "delivered": True}])
    leaving = {"g-00000": seal.Leaving(1, 1, 0, 0, 0)}
    await mails.index.create(group_index.seal_key("g", 0), seal.encode(seal.Seal(leaving=leaving)))
    assert (await operator.run(*REMOVE)).exit_code == 0
    assert (await mails.counts("g")).delivered == 1
    assert await mails.reader.email_ids("g") == []
    with pytest.raises(KeyMissing):
        await mails.recipients.get("g-00000")


@pytest.mark.parametrize("age", ["", "180", "0d", "-1d", "1.5d", "180m", "5s", "d", "999999w", "1 d", "٣d"])
async def test_an_age_that_is_none_is_refused(operator: Operator, age: str) -> None:
    result = await operator.run("retention", "--older-than", age, "--yes")
    assert result.exit_code == 2
    assert "age such as 180d" in result.stderr or "first year" in result.stderr


async def test_an_age_below_a_day_needs_its_own_option(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": RECENT + timedelta(days=2) - timedelta(hours=2)}])
    refused = await operator.run("retention", "--older-than", "1h", "--yes")
    assert refused.exit_code == 2
    assert "--allow-recent" in refused.stderr
    allowed = await operator.run("retention", "--older-than", "1h", "--yes", "--allow-recent", "--json")
    assert documents(allowed)[0]["emails"] == 1


async def test_without_a_bucket_it_fails_and_without_a_server_it_ends_with_3(nats: NatsServer) -> None:
    missing = await Operator(nats.url).run(*REMOVE)
    assert missing.exit_code == 1
    assert contract.EMAIL_RECIPIENTS_BUCKET in missing.stderr


@pytest.mark.parametrize("missing", ["$JS.API.CONSUMER.MSG.NEXT.KV_email-recipients", "$KV.email-recipients"])
async def test_a_missing_permission_is_named_at_once(missing: str) -> None:
    subjects = [one for one in operators.subjects_of("retention") if not one.startswith(missing)]
    async with operators.restricted(subjects) as (admin, url), mails_module.opened(admin) as mails:
        await mails.send("g", [{"sent_at": OLD, "delivered": True}])
        started = time.monotonic()
        result = await Operator(url).run(*(REMOVE if "NEXT" not in missing else REMOVE[:3]))
        assert result.exit_code == 1
        assert f"the NATS user may not publish to {missing}." in result.stderr
        assert time.monotonic() - started < sealing.PATIENCE_SECONDS
        assert (await mails.counts("g")).delivered == 1


async def test_the_subjects_in_the_docs_are_enough() -> None:
    async with (
        operators.restricted(operators.subjects_of("retention")) as (admin, url),
        mails_module.opened(admin) as mails,
    ):
        await mails.send("g", [{"sent_at": OLD}, {"sent_at": RECENT}])
        for options in ((), ("--yes",)):
            result = await Operator(url).run(*REMOVE[:3], *options)
            assert result.exit_code == 0, result.stderr
        assert (await mails.recipients.info()).state.messages == 1


async def test_a_note_of_erase_is_not_a_record_and_stays(mails: Mails, operator: Operator) -> None:
    await mails.send("g", [{"sent_at": OLD}])
    assert (await operator.run("erase", "--to", TO, "--yes")).exit_code == 0
    for options in (REMOVE[:-1], REMOVE):
        result = await operator.run(*options, "--json")
        assert (result.exit_code, documents(result)[0]["unreadable"]) == (0, 0), result.output
    assert await Erasures(mails.recipients).erased_at(TO)
