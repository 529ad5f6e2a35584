# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Every write is handed on in order, and a follower that may have missed one is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats.errors
import pytest
from nats.aio.subscription import Subscription

from shared.errors import StoreUnavailable
from shared.kv.bucket import Bucket
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy as proxies
from tests.stack.waiting import until
from tracker.queries import stream_follower
from tracker.queries.stream_follower import StreamFollower, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer


@pytest.fixture
def seen() -> list[Write]:
    """The writes that were handed on."""
    return []


@pytest.fixture
async def follower(
    connection: Connection, inbox: Inbox, recipients: Bucket, seen: list[Write]
) -> AsyncIterator[StreamFollower]:
    """A follower of the records, with their values."""
    follower = StreamFollower(connection, inbox, recipients, seen.append, values=True)
    await follower.start()
    yield follower
    await follower.stop()


@pytest.fixture
def jetstream(connection: Connection) -> JetStreamContext:
    """The JetStream context of nats-py."""
    return connection.client.jetstream()


async def test_every_write_since_the_start_is_handed_on_in_order(
    connection: Connection, inbox: Inbox, recipients: Bucket, seen: list[Write]
) -> None:
    await recipients.create("before", b"0")
    follower = StreamFollower(connection, inbox, recipients, seen.append, values=True)
    await follower.start()
    revisions = [await recipients.create(f"k{number}", b"%d" % number) for number in range(100)]
    await follower.caught_up()
    assert seen == [Write(f"k{number}", b"%d" % number, revisions[number], 0) for number in range(100)]
    await follower.stop()


async def test_a_deletion_is_a_write_without_a_value(
    follower: StreamFollower, recipients: Bucket, seen: list[Write], jetstream: JetStreamContext
) -> None:
    revision = await recipients.create("k", b"v")
    await follower.caught_up()  # the server does not deliver a revision that was overwritten before its delivery
    kv = await jetstream.key_value(recipients.name)
    await kv.delete("k")
    await follower.caught_up()
    await kv.purge("k")
    await follower.caught_up()
    assert seen == [Write("k", b"v", revision, 0), Write("k", None, revision + 1), Write("k", None, revision + 2)]


async def test_without_values_only_keys_are_sent(
    connection: Connection, inbox: Inbox, recipients: Bucket, seen: list[Write]
) -> None:
    follower = StreamFollower(connection, inbox, recipients, seen.append, values=False)
    await follower.start()
    revision = await recipients.create("k", b"v" * 1000)
    await follower.caught_up()
    assert seen == [Write("k", b"", revision, 0)]
    await follower.stop()


async def test_a_gap_in_the_delivered_messages_is_noticed(
    follower: StreamFollower, recipients: Bucket, seen: list[Write], jetstream: JetStreamContext
) -> None:
    [consumer] = await jetstream.consumers_info(f"KV_{recipients.name}")
    assert consumer.config.deliver_subject
    client = jetstream._nc  # noqa: SLF001 - the connection of the context
    fifth = "ack.7.5.0.0"  # where the first is expected; only the server may use the subject of a real one
    await client.publish(consumer.config.deliver_subject, b"", reply=fifth)
    async with asyncio.timeout(20):
        while not follower.is_lost:
            await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable):
        await follower.caught_up()
    assert seen == []


@pytest.mark.parametrize("reply", ["other", "ack.x.1.0.0", "ack.7.x.0.0"])
async def test_a_write_whose_position_cannot_be_read_loses_the_follower(
    follower: StreamFollower, recipients: Bucket, seen: list[Write], jetstream: JetStreamContext, reply: str
) -> None:
    [consumer] = await jetstream.consumers_info(f"KV_{recipients.name}")
    assert consumer.config.deliver_subject
    client = jetstream._nc  # noqa: SLF001 - the connection of the context
    await client.publish(consumer.config.deliver_subject, b"", reply=reply)
    await until(lambda: follower.is_lost)
    with pytest.raises(StoreUnavailable):
        await follower.caught_up()
    assert seen == []


async def test_a_recreated_bucket_is_another_one(
    follower: StreamFollower, recipients: Bucket, jetstream: JetStreamContext
) -> None:
    await recipients.create("k", b"v")
    await follower.caught_up()
    await jetstream.delete_key_value(recipients.name)
    await jetstream.create_key_value(bucket=recipients.name)
    with pytest.raises(StoreUnavailable):
        await follower.caught_up()
    assert follower.is_lost


async def test_a_follower_without_a_heartbeat_for_long_is_lost(
    follower: StreamFollower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.caught_up()
    monkeypatch.setattr(stream_follower, "SILENCE_SECONDS", -1.0)
    with pytest.raises(StoreUnavailable):
        await follower.caught_up()


async def test_a_consumer_that_the_server_dropped_is_noticed_at_the_next_write(
    follower: StreamFollower, recipients: Bucket, jetstream: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_follower, "CATCH_UP_SECONDS", 0.1)
    [consumer] = await jetstream.consumers_info(f"KV_{recipients.name}")
    await jetstream.delete_consumer(f"KV_{recipients.name}", consumer.name)
    await recipients.create("k", b"v")
    with pytest.raises(StoreUnavailable):
        await follower.caught_up()
    assert follower.is_lost


async def test_a_follower_stopped_while_disconnected_does_not_disturb_the_next_one(
    nats: NatsServer, recipients: Bucket, seen: list[Write]
) -> None:
    async with proxies.running(nats.url) as proxy:
        settings = ProcessSettings(nats_url=proxy.url)
        async with nats_connection.opened(settings, "tracker") as broken, Inbox(broken) as inbox:
            bucket = Bucket(inbox, broken, recipients.name)
            follower = StreamFollower(broken, inbox, bucket, seen.append, values=False)
            await follower.start()
            proxy.drop_link()
            await until(lambda: not broken.connected)
            await follower.stop()
            await until(lambda: broken.connected)
            await follower.start()
            revisions = [await recipients.create(f"k{number}", b"v") for number in range(3)]
            await follower.caught_up()
            assert [write.revision for write in seen] == revisions
            await follower.stop()


async def test_a_lost_follower_starts_again_with_the_next_write(
    follower: StreamFollower, recipients: Bucket, seen: list[Write]
) -> None:
    await recipients.create("k", b"v")
    await follower.stop()
    await recipients.create("missed", b"v")
    await follower.start()
    revision = await recipients.create("l", b"v")
    await follower.caught_up()
    assert seen[-1] == Write("l", b"v", revision, 0)
    assert "missed" not in {write.key for write in seen}


async def test_a_start_that_fails_leaves_the_follower_lost(
    connection: Connection, inbox: Inbox, recipients: Bucket, seen: list[Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = StreamFollower(connection, inbox, recipients, seen.append, values=True)
    with monkeypatch.context() as patched:
        patched.setattr(connection.client, "subscribe", raising(nats.errors.ConnectionClosedError()))
        with pytest.raises(nats.errors.ConnectionClosedError):
            await follower.start()
    assert follower.is_lost


@pytest.mark.parametrize("fault", ["never answers", "fails"])
async def test_an_end_of_the_subscription_that_fails_does_not_hold_up_the_next_start(
    follower: StreamFollower, recipients: Bucket, seen: list[Write], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(stream_follower, "UNSUBSCRIBE_SECONDS", 0.05)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with monkeypatch.context() as patched:
        unsubscribe = raising(OSError("broken pipe")) if fault == "fails" else lambda *_: never
        patched.setattr(Subscription, "unsubscribe", unsubscribe)
        await follower.stop()
    await follower.start()
    revision = await recipients.create("k", b"v")
    await follower.caught_up()
    assert [write.revision for write in seen] == [revision]


def raising(error: Exception) -> Callable[..., Awaitable[None]]:
    """Return a coroutine function that raises an error."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail


async def test_a_wait_that_is_cancelled_does_not_affect_the_others(
    follower: StreamFollower, recipients: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = follower._take  # noqa: SLF001 - the writes come when the test lets them
    held: list[Msg] = []
    monkeypatch.setattr(follower, "_take", held.append)
    await recipients.create("k", b"v")
    waits = [asyncio.create_task(follower.caught_up()) for _ in range(3)]
    await until(lambda: held)
    await asyncio.sleep(0.05)
    waits[0].cancel()
    await asyncio.wait({waits[0]})
    for msg in held:
        read(msg)
    await asyncio.gather(*waits[1:])
    assert not follower.is_lost
