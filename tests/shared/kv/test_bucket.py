# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Single values of one bucket: reading and writing them, conflicts, and the errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shared import group_index
from shared.errors import KeyMissing, KeyTaken, RevisionConflict, StoreUnavailable
from shared.kv import bucket as buckets
from tests.shared.connections import with_inbox
from tests.stack.nats_proxy import Answer, js_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.js.kv import KeyValue

    from shared.kv.bucket import Bucket
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

WRITE = "$KV.b."
DIRECT_GET = "$JS.API.DIRECT.GET.KV_b.$KV.b."
LEADER_GET = "$JS.API.STREAM.MSG.GET.KV_b"
MANY = 1_000_000

conflict_codes = pytest.mark.parametrize("err_code", [10071, 10164])


def appending(text: bytes) -> Callable[[bytes], tuple[bytes, bool]]:
    """Return a change for `rewrite` that appends `text` and has the result True."""
    return lambda value: (value + text, True)


async def test_a_value_is_read_back_with_the_revision_that_wrote_it(bucket: Bucket, kv: KeyValue) -> None:
    assert await bucket.create("k", b"1") == 1
    assert await bucket.update("k", b"2", 1) == 2
    for entry in (await bucket.get("k"), await bucket.get_from_leader("k")):
        assert (entry.value, entry.revision) == (b"2", 2)
    assert (await kv.get("k")).value == b"2"


async def test_an_empty_value_is_a_value(bucket: Bucket) -> None:
    await bucket.create("k", b"")
    assert (await bucket.get("k")).value == (await bucket.get_from_leader("k")).value == b""


async def test_a_key_that_was_never_written_is_missing_with_revision_0(bucket: Bucket) -> None:
    for get in (bucket.get, bucket.get_from_leader):
        with pytest.raises(KeyMissing, match="k") as missing:
            await get("k")
        assert missing.value.revision == 0


async def test_a_purge_removes_a_marker_and_no_later_value(bucket: Bucket) -> None:
    revision = await bucket.create("k", b"1")
    await bucket.delete("k", revision)
    with pytest.raises(KeyMissing) as missing:
        await bucket.get_from_leader("k")
    marker = missing.value.revision
    await bucket.create("l", b"1")
    later = await bucket.update("k", b"2", marker)
    assert not await bucket.purge("k", marker)
    assert (await bucket.get("k")).value == b"2"
    assert await bucket.purge("k", later)
    assert (await bucket.info()).state.messages == 1


@pytest.mark.parametrize("end", ["delete", "purge"])
async def test_a_deleted_key_is_missing_with_the_revision_of_its_marker_and_can_be_created(
    end: str, bucket: Bucket, kv: KeyValue
) -> None:
    await bucket.create("k", b"1")
    await getattr(kv, end)("k")
    for get in (bucket.get, bucket.get_from_leader):
        with pytest.raises(KeyMissing) as missing:
            await get("k")
        assert missing.value.revision == 2
    assert await bucket.create("k", b"again") == 3
    assert (await bucket.get("k")).value == b"again"
    with pytest.raises(KeyTaken):
        await bucket.create("k", b"once more")


async def test_creating_a_key_that_holds_a_value_raises_and_changes_nothing(bucket: Bucket) -> None:
    await bucket.create("k", b"1")
    with pytest.raises(KeyTaken, match="k"):
        await bucket.create("k", b"2")
    assert (await bucket.get("k")).value == b"1"


async def test_of_many_creates_of_one_key_one_succeeds(bucket: Bucket) -> None:
    results = await asyncio.gather(*[bucket.create("k", b"%d" % n) for n in range(20)], return_exceptions=True)
    won = [number for number, result in enumerate(results) if isinstance(result, int)]
    assert len(won) == 1
    assert {type(result) for number, result in enumerate(results) if number not in won} == {KeyTaken}
    assert (await bucket.get("k")).value == b"%d" % won[0]


@pytest.mark.parametrize("revision", [0, 1, 3])
async def test_an_update_with_another_revision_conflicts_and_changes_nothing(bucket: Bucket, revision: int) -> None:
    await bucket.update("k", b"2", await bucket.create("k", b"1"))
    with pytest.raises(RevisionConflict, match="k was changed at the same time"):
        await bucket.update("k", b"3", revision)
    assert (await bucket.get("k")).value == b"2"


@conflict_codes
async def test_both_codes_of_a_conflict_raise_the_same_error(
    bucket: Bucket, nats_proxy: NatsProxy, err_code: int
) -> None:
    await bucket.create("k", b"1")
    nats_proxy.answer(WRITE, 1, js_error(400, err_code, "wrong last sequence"))
    with pytest.raises(RevisionConflict):
        await bucket.update("k", b"2", 1)
    assert await bucket.update("k", b"2", 1) == 2


@conflict_codes
async def test_a_key_is_created_in_spite_of_conflicts_that_are_not_real(
    bucket: Bucket, nats_proxy: NatsProxy, err_code: int
) -> None:
    nats_proxy.answer(WRITE, 3, js_error(400, err_code, "wrong last sequence"))
    await bucket.create("k", b"1")
    assert (await bucket.get("k")).value == b"1"
    nats_proxy.answer(WRITE, 3, js_error(400, err_code, "wrong last sequence"))
    with pytest.raises(KeyTaken):
        await bucket.create("k", b"2")


@conflict_codes
async def test_a_rewrite_is_repeated_after_conflicts_and_changes_the_value_once(
    bucket: Bucket, nats_proxy: NatsProxy, err_code: int
) -> None:
    await bucket.create("k", b"1")
    nats_proxy.answer(WRITE, 4, js_error(400, err_code, "wrong last sequence"))
    assert await bucket.rewrite("k", appending(b"2"))
    assert (await bucket.get("k")).value == b"12"


async def test_a_write_that_conflicts_for_too_long_raises_and_changes_nothing(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "CONFLICT_PATIENCE_SECONDS", 0.1)
    await bucket.create("k", b"1")
    nats_proxy.answer(WRITE, MANY, js_error(400, 10071, "wrong last sequence"))
    async with asyncio.timeout(20):
        with pytest.raises(RevisionConflict):
            await bucket.rewrite("k", appending(b"2"))
        with pytest.raises(RevisionConflict):
            await bucket.create("new", b"1")
    assert (await bucket.get("k")).value == b"1"


async def test_no_rewrite_is_lost_among_many_at_once(bucket: Bucket, nats_server: NatsServer) -> None:
    await bucket.create("k", b"")
    async with with_inbox(nats_server.url) as (connected, inbox):
        other = buckets.Bucket(inbox, connected, "b")
        await asyncio.gather(
            *[one.rewrite("k", appending(b"%d;" % number)) for number, one in enumerate([bucket, other] * 10)]
        )
    assert sorted((await bucket.get("k")).value.split(b";")) == sorted([b"", *(b"%d" % n for n in range(20))])


async def test_a_change_that_returns_none_writes_nothing(bucket: Bucket) -> None:
    await bucket.create("k", b"1")
    assert not await bucket.rewrite("k", lambda _: (None, False))
    assert (await bucket.get("k")).revision == 1


async def test_a_rewrite_of_a_missing_key_raises_before_its_change_is_called(bucket: Bucket, kv: KeyValue) -> None:
    await bucket.create("deleted", b"1")
    await kv.delete("deleted")
    for key in ("never", "deleted"):
        with pytest.raises(KeyMissing):
            await bucket.rewrite(key, lambda _: pytest.fail("there is nothing to change"))


async def test_an_error_in_a_change_is_raised_and_nothing_is_written(bucket: Bucket) -> None:
    await bucket.create("k", b"1")
    with pytest.raises(ZeroDivisionError):
        await bucket.rewrite("k", lambda _: (b"%d" % (1 // 0), None))
    assert (await bucket.get("k")).revision == 1


async def test_a_rewrite_that_read_an_old_value_reads_again_from_the_leader(
    bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    await bucket.create("k", b"1")
    assert await bucket.rewrite("k", appending(b"2"))
    nats_proxy.answer(DIRECT_GET, MANY, lambda _: old(b"1", 1))
    before = nats_proxy.published.count("$KV.b.k")
    assert await bucket.rewrite("k", appending(b"3"))
    assert (await bucket.get_from_leader("k")).value == b"123"
    assert nats_proxy.published.count("$KV.b.k") - before == 2, "one conflict, one write"


def old(value: bytes, revision: int, *headers: bytes) -> Answer:
    """Return the answer of a follower that is behind."""
    lines = [b"NATS/1.0", b"Nats-Stream: KV_b", b"Nats-Subject: $KV.b.k", b"Nats-Sequence: %d" % revision, *headers]
    return Answer(value, b"\r\n".join([*lines, b"", b""]))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers=b"NATS/1.0 404 Message Not Found\r\n\r\n"),
        Answer(headers=b"NATS/1.0 408 Bad Request\r\n\r\n"),
        old(b"", 1, b"KV-Operation: DEL"),
        old(b"", 1, b"Nats-Marker-Reason: MaxAge"),
    ],
    ids=["not found", "bad request", "deleted", "expired"],
)
async def test_only_the_leader_can_report_a_key_as_missing(
    bucket: Bucket, nats_proxy: NatsProxy, answer: Answer
) -> None:
    await bucket.create("k", b"1")
    nats_proxy.answer(DIRECT_GET, MANY, lambda _: answer)
    assert (await bucket.get("k")).value == b"1"
    assert await bucket.rewrite("k", appending(b"2"))
    assert (await bucket.get_from_leader("k")).value == b"12"


async def test_a_bucket_without_direct_gets_is_read_through_the_leader(
    nats_server: NatsServer, nats_proxy: NatsProxy, kv: KeyValue
) -> None:
    await kv._js.create_key_value(bucket="leader", direct=False)  # noqa: SLF001 - nats-py has no public name
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = buckets.Bucket(inbox, connected, "leader")
        await bucket.create("k", b"1")
        assert await bucket.rewrite("k", appending(b"2"))
        assert (await bucket.get("k")).value == b"12"
        with pytest.raises(KeyMissing):
            await bucket.get("missing")
        assert {key: entry.value for key, entry in (await bucket.get_many(["k", "missing"])).items()} == {"k": b"12"}
        assert await bucket.get_matching("*") is None
    assert not [subject for subject in nats_proxy.published if "DIRECT" in subject]
    assert nats_server.is_running


@pytest.mark.parametrize("group_id", ["a..b", ".a", "a.", "a b", "a*", ">", "ü", "=x", "a/b"])
async def test_the_key_of_every_group_id_can_be_written_and_read(bucket: Bucket, group_id: str) -> None:
    key = group_index.key_of(group_id)
    async with asyncio.timeout(20):
        await bucket.create(key, b"1")
        assert await bucket.rewrite(key, appending(b"2"))
        assert (await bucket.get(key)).value == (await bucket.get_many([key]))[key].value == b"12"


async def test_a_lost_answer_to_a_write_leaves_its_outcome_unknown(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hasty, pytest.raises(StoreUnavailable):
        hasty.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 0.1)
        nats_proxy.lose_reply(WRITE, 1)
        await bucket.create("k", b"1")
    assert (await bucket.get("k")).value == b"1"
    with monkeypatch.context() as hasty, pytest.raises(StoreUnavailable):
        hasty.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 0.1)
        nats_proxy.lose_request(WRITE, 1)
        await bucket.update("k", b"2", 1)
    assert (await bucket.get("k")).value == b"1"


async def test_a_write_is_recognised_by_its_id_and_by_the_revision_that_it_replaced(bucket: Bucket) -> None:
    created = await bucket.create("k", b"1")
    assert (await bucket.get("k")).previous == 0
    seen: list[buckets.Entry] = []
    await bucket.rewrite("k", lambda _: (b"2", None), on_read=seen.append, write_id="mine")
    assert [one.revision for one in seen] == [created]
    for entry in (await bucket.get("k"), await bucket.get_from_leader("k")):
        assert (entry.value, entry.previous, entry.write_id) == (b"2", created, "mine")
