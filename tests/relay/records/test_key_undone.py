# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The write that takes a key has an unknown outcome, or a stop interrupts it: nothing was sent, so the key is free."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from relay.records import idempotency_store
from relay.records.idempotency_store import IdempotencyStore
from shared.errors import StoreUnavailable
from shared.nats import inbox as inboxes
from tests.relay.records.keys import IN_PROGRESS, KEY, LONGEST_REQUEST, STORED_UNDER, begin, held, repeat_of, soon
from tests.stack import nats_proxy as proxies
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.kv.bucket import Bucket
    from tests.stack.nats_frames import Answer, Publication
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

FULL = proxies.js_error(503, 10077, "maximum bytes exceeded")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for KV only for a short time."""
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)


async def refused(store: IdempotencyStore, key: str = KEY) -> None:
    """One more request with this key, whose write fails."""
    with pytest.raises(StoreUnavailable):
        await begin(store, key)


def emails_of(event: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.__dict__["email_id"] for line in caplog.records if line.message == event]


@pytest.mark.parametrize("fault", [proxies.no_responders(), proxies.js_error(503, 10077, "maximum bytes exceeded")])
async def test_a_write_that_fails_leaves_the_key_free(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, fault: Callable[[Publication], Answer]
) -> None:
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, fault)
    with pytest.raises(StoreUnavailable):
        await begin(store)
    await until(lambda: not store.unsettled)
    await held(store)


async def test_a_key_that_was_written_without_an_answer_is_freed(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats_proxy.lose_reply(f"$KV.{bucket.name}.", 1)
    with monkeypatch.context() as hasty:
        hasty.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
        with pytest.raises(StoreUnavailable):
            await begin(store)
    await until(lambda: not store.unsettled)
    await held(store)


async def test_a_failed_write_does_not_free_the_key_of_another_request(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    first = await held(store)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.no_responders())
    with pytest.raises(StoreUnavailable):
        await begin(store)
    await until(lambda: not store.unsettled)
    assert await begin(store) == repeat_of(first, IN_PROGRESS)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("history", ["new", "freed"])
@pytest.mark.parametrize("delay", [0.35, 0.8])
async def test_a_write_that_arrives_after_its_time_does_not_take_the_key(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, history: str, delay: float
) -> None:
    if history == "freed":
        await (await held(store)).settle(None, deadline=soon())
        nats_proxy.rewrite(f"$KV.{bucket.name}.", 1, lambda publication: publication)  # the first of two writes
    nats_proxy.delay_request(f"$KV.{bucket.name}.", 1, delay)
    await refused(store)
    await until(lambda: not (store.unsettled or nats_proxy.delayed))
    await held(store)


@pytest.mark.usefixtures("hasty")
async def test_a_write_that_arrives_late_does_not_affect_the_request_that_took_the_key_meanwhile(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    nats_proxy.delay_request(f"$KV.{bucket.name}.", 1, 0.8)
    await refused(store)
    second = await held(store)
    await until(lambda: not (store.unsettled or nats_proxy.delayed))
    assert await begin(store) == repeat_of(second, IN_PROGRESS)
    await second.settle("sent", deadline=soon())
    assert await begin(store) == repeat_of(second)


@pytest.mark.usefixtures("hasty")
async def test_a_late_undo_does_not_affect_the_request_that_took_the_key_meanwhile(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    nats_proxy.lose_request(f"$KV.{bucket.name}.", 1)
    nats_proxy.delay_request(f"$KV.{bucket.name}.", 1, 0.8)
    await refused(store)
    await until(lambda: nats_proxy.delayed)
    second = await held(store)
    await until(lambda: not (store.unsettled or nats_proxy.delayed))
    assert await begin(store) == repeat_of(second, IN_PROGRESS)


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_pauses_for_longer_than_a_request_takes_no_key(
    store: IdempotencyStore, nats_server: NatsServer
) -> None:
    keys = [f"key {number}" for number in range(30)]
    nats_server.pause()
    try:
        await asyncio.gather(*(refused(store, key) for key in keys))
    finally:
        nats_server.resume()
    await until(lambda: not store.unsettled)
    await asyncio.gather(*(held(store, key) for key in keys))


@pytest.mark.parametrize("fault", ["answered", "garbled"])
async def test_an_answer_that_cannot_be_read_leaves_the_key_free(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, fault: str
) -> None:
    if fault == "answered":
        nats_proxy.answer(f"$KV.{bucket.name}.", 1, lambda _: proxies.Answer(b"no JSON"))
    else:
        nats_proxy.garble_reply(f"$KV.{bucket.name}.", 1)
    await refused(store)
    await until(lambda: not store.unsettled)
    await held(store)


async def test_an_undo_continues_after_answers_that_cannot_be_read(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    nats_proxy.garble_reply(f"$KV.{bucket.name}.", 2)
    nats_proxy.garble_reply(f"$JS.API.STREAM.MSG.GET.KV_{bucket.name}", 2)
    await refused(store)
    await until(lambda: not store.unsettled)
    await held(store)


@pytest.mark.parametrize("loss", ["lose_request", "lose_reply"])
async def test_a_request_that_is_interrupted_while_it_takes_its_key_leaves_it_free(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, loss: str
) -> None:
    before = len(nats_proxy.published)
    getattr(nats_proxy, loss)(f"$KV.{bucket.name}.", 1)
    request = asyncio.create_task(begin(store))
    await until(lambda: len(nats_proxy.published) > before)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await until(lambda: not store.unsettled)
    await held(store)


async def test_a_write_that_cannot_be_undone_in_time_is_logged(
    store: IdempotencyStore,
    bucket: Bucket,
    nats_proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(idempotency_store, "UNDO_SECONDS", 0.1)
    nats_proxy.answer(f"$KV.{bucket.name}.", 100, FULL)
    await refused(store)
    await until(lambda: not store.unsettled)
    assert len(emails_of("claim.left", caplog)) == 1


async def test_a_write_beyond_the_limit_of_undos_is_logged(
    store: IdempotencyStore,
    bucket: Bucket,
    nats_proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(idempotency_store, "MAX_UNDONE_AT_ONCE", 0)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, FULL)
    await refused(store)
    assert len(emails_of("claim.left", caplog)) == 1
    assert store.unsettled == 0


# A stop


async def test_a_stop_stores_the_missing_outcomes_and_logs_those_it_cannot_store(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)
    fault = proxies.js_error(503, 10077, "maximum bytes exceeded")
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        first = await held(store)
        nats_proxy.answer(f"$KV.{bucket.name}.", 1, fault)
        await first.settle("sent", deadline=soon(0))
    entry = await bucket.get_from_leader(STORED_UNDER)
    assert b'"sent"' in entry.value
    monkeypatch.setattr(idempotency_store, "FLUSH_SECONDS", 0.1)
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        other = await held(store, "other")
        nats_proxy.answer(f"$KV.{bucket.name}.", 100, fault)
        await other.settle("sent", deadline=soon(0))
    lost = [line for line in caplog.records if line.message == "claim.lost"]
    assert [line.__dict__["email_id"] for line in lost] == [other.stored.email_id]


async def test_a_stop_that_is_interrupted_logs_the_outcomes_it_did_not_store(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)
    leaving = asyncio.Event()

    async def serve() -> None:
        async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
            first = await held(store)
            nats_proxy.answer(f"$KV.{bucket.name}.", 100, proxies.no_responders())
            await first.settle("sent", deadline=soon(0))
            leaving.set()

    serving = asyncio.create_task(serve())
    await leaving.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert [line.message for line in caplog.records if line.levelno == logging.ERROR] == ["claim.lost"]


@pytest.mark.usefixtures("hasty")
async def test_a_stop_undoes_the_writes_of_unknown_outcome(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as stopping:
        nats_proxy.lose_reply(f"$KV.{bucket.name}.", 3)
        await refused(stopping)
        assert stopping.unsettled == 1
    assert stopping.unsettled == 0
    assert not emails_of("claim.lost", caplog)
    await held(store)


@pytest.mark.usefixtures("hasty")
async def test_a_stop_logs_the_writes_that_it_cannot_undo_in_time(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idempotency_store, "FLUSH_SECONDS", 0.1)
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        nats_proxy.lose_request(f"$KV.{bucket.name}.", 100)
        await refused(store)
    assert len(emails_of("claim.lost", caplog)) == 1


@pytest.mark.usefixtures("hasty")
async def test_the_end_of_one_request_does_not_hide_that_the_outcome_of_the_next_is_lost(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idempotency_store, "FLUSH_SECONDS", 0.1)
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        first = await held(store)
        nats_proxy.lose_reply(f"$KV.{bucket.name}.", 1)
        await first.settle(None, deadline=soon(0))
        second = await held(store)
        store.start_settling(second, None).cancel()
        assert store.unsettled == 2
        await until(lambda: store.unsettled == 1)
    assert emails_of("claim.lost", caplog) == [second.stored.email_id]


async def test_the_death_of_a_task_does_not_hide_that_an_outcome_was_not_stored(
    bucket: Bucket, nats_proxy: NatsProxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        first = await held(store)
        nats_proxy.lose_request(f"$KV.{bucket.name}.", 100)
        settling = store.start_settling(first, None)
        settling.cancel()
        await asyncio.wait({settling})
        assert store.unsettled == 1
    assert emails_of("claim.lost", caplog) == [first.stored.email_id]
