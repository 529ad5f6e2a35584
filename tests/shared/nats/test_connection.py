# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The connection to a real server that starts late, is killed and comes back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import nats
import pytest
from nats.aio.client import DEFAULT_MAX_RECONNECT_ATTEMPTS

from shared.nats import connection
from shared.nats import servers as nats_servers
from shared.service.settings import SettingsError
from tests.shared.connections import connected as connect
from tests.shared.connections import events, has_reconnected, opening, publish, received, was_never_lost
from tests.stack import nats_server as servers
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("impatience")


async def test_subscriptions_are_restored_after_a_server_was_killed_and_restarted(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connect(nats_server.url) as connected:
        lost: list[bool] = []
        connected.on_disconnect(lambda: lost.append(connected.connected))
        payloads = await received(connected, "news")
        for count in (1, 2):
            await nats_server.kill()
            await until(lambda: not connected.connected)
            await nats_server.start()
            await until(lambda: connected.connected)
            await connected.flush()
            await publish(nats_server, "news", b"again")
            await until(payloads.copy, [b"again"].__mul__(count).__eq__)
    assert lost == [False, False, False], "lost twice, closed once"
    assert len(events(caplog, "nats.reconnected")) == len(events(caplog, "nats.disconnected")) == 2


async def test_a_server_is_found_after_more_attempts_than_the_default_of_the_library(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RECONNECT_WAIT_SECONDS", 0.001)
    async with connect(nats_server.url) as connected:
        payloads = await received(connected, "news")
        await nats_server.stop()
        await until(lambda: len(events(caplog, "nats.error")) > 2 * DEFAULT_MAX_RECONNECT_ATTEMPTS)
        assert not connected.connected
        await nats_server.start()
        await until(lambda: connected.connected)
        await connected.flush()
        await publish(nats_server, "news", b"again")
        await until(lambda: payloads == [b"again"])


async def test_a_connection_waits_for_a_server_that_starts_later(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    async with opening(f"nats://127.0.0.1:{port}") as connecting:
        await until(lambda: len(events(caplog, "nats.error")) > 3)
        assert str(port) in events(caplog, "nats.error")[0]
        assert not connecting.done()
        async with servers.running(port=port):
            connected = await asyncio.wait_for(connecting, 5)
            assert connected.connected
            assert connected.server == f"127.0.0.1:{port}"


async def test_of_several_urls_those_without_a_server_are_skipped(nats_server: NatsServer) -> None:
    urls = f" nats://127.0.0.1:{free_port()} ,, 127.0.0.1:{free_port()},{nats_server.url}\n"
    async with asyncio.timeout(5), connect(urls) as connected:
        assert connected.server == f"127.0.0.1:{nats_server.port}"
        payloads = await received(connected, "news")
        await nats_server.kill()
        await nats_server.start()
        await until(lambda: has_reconnected(connected))
        await publish(nats_server, "news", b"1")
        await until(lambda: payloads == [b"1"])


@pytest.mark.parametrize(
    "url",
    [
        ",",
        " , ,",
        "nats://",
        "nats://relay:s3cret@",
        "nats://relay:s3cret@[::1",
        "nats://relay:s3cret@localhost:99999",
        "nats://relay:s3cret@localhost:port",
        "nats://relay:s3cret#x@localhost:4222",
        "http://relay:s3cret@localhost:4222",
        "ws://relay:s3cret@localhost:4222",
        "nats://localhost:4222,redis://relay:s3cret@localhost",
    ],
)
async def test_an_invalid_list_of_urls_is_a_settings_error_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="NATS_URL") as raised:
        async with asyncio.timeout(2), connect(url):
            pass
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "nats://relay:p#ss@localhost:4222",
        "nats://relay:p/ss@localhost:4222",
        "nats://relay:p?ss@localhost:4222",
        "nats://a:4222;nats://b:4222",
        "nats://a:4222 nats://b:4222",
        "nats://a:4222\nnats://b:4222",
    ],
)
def test_a_password_that_is_not_encoded_and_other_separators_are_explained(url: str) -> None:
    with pytest.raises(SettingsError, match=r"commas.*%23") as raised:
        nats_servers.urls(url)
    assert "ss@" not in str(raised.value)


async def test_a_flush_that_timed_out_does_not_stop_the_reading(
    nats_server: NatsServer,
    nats_proxy: NatsProxy,
    nats_connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    payloads = await received(nats_connection, "news")
    monkeypatch.setattr(connection, "FLUSH_TIMEOUT_SECONDS", 0.05)
    nats_proxy.freeze()
    await nats_connection.flush()
    assert events(caplog, "nats.flush_failed")
    nats_proxy.thaw()
    await publish(nats_server, "news", b"1", b"2")
    await until(lambda: payloads == [b"1", b"2"], timeout=3)
    monkeypatch.setattr(connection, "FLUSH_TIMEOUT_SECONDS", 5)
    await nats_connection.flush()
    assert len(events(caplog, "nats.flush_failed")) == 1
    assert was_never_lost(nats_connection)


async def test_an_error_in_a_callback_does_not_stop_the_reading(
    nats_server: NatsServer, nats_connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    payloads: list[bytes] = []

    def take(msg: Msg) -> None:
        payloads.append(msg.data)
        if msg.data == b"bad":
            raise ValueError(msg.data)

    await nats_connection.subscribe("news", take)
    await nats_connection.flush()
    await publish(nats_server, "news", b"bad", b"good")
    await until(lambda: payloads == [b"bad", b"good"])
    assert [record.exc_info is not None for record in caplog.records if record.msg == "nats.message_failed"] == [True]


async def test_an_error_in_a_callback_for_a_lost_connection_stops_neither_the_others_nor_the_reconnect(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with connect(nats_server.url) as connected:
        for callback in (fail, lambda: called.append("lost")):
            connected.on_disconnect(callback)
        for on_error in (fail, lambda _: called.append("error")):
            connected.on_error(on_error)
        await nats_server.kill()
        await until(lambda: {"lost", "error"} <= set(called))
        await nats_server.start()
        await until(lambda: has_reconnected(connected))
    assert events(caplog, "task.failed")


async def test_every_message_is_passed_on_with_reply_and_headers_before_the_next_is_read(
    nats_server: NatsServer, nats_connection: Connection
) -> None:
    """`Dispatch` depends on this: nats-py calls `set_result` of the given future for each message."""
    messages: list[Msg] = []
    await nats_connection.subscribe("news.*", messages.append, "queue")
    await nats_connection.flush()
    async with await nats.connect(nats_server.url) as publisher:
        for number in range(2000):
            headers = {"Number": str(number)} if number % 2 else None
            await publisher.publish(f"news.{number}", b"%d" % number, reply=f"reply.{number}", headers=headers)
        await publisher.flush()
        await until(lambda: len(messages) == 2000)
    assert [msg.data for msg in messages] == [b"%d" % number for number in range(2000)]
    assert {msg.subject.replace("news", "reply") == msg.reply for msg in messages} == {True}
    assert messages[1999].headers == {"Number": "1999"}
    assert not messages[1998].headers


async def test_a_drained_subscription_has_passed_on_all_messages_of_the_server(
    nats_server: NatsServer, nats_connection: Connection
) -> None:
    count = 0

    def take(_: Msg) -> None:
        nonlocal count
        count += 1

    subscription = await nats_connection.subscribe("news", take)
    await nats_connection.flush()
    await publish(nats_server, "news", *[bytes(1000)] * 5000)
    await nats_connection.drain(subscription)
    assert count == 5000
    await publish(nats_server, "news", b"after")
    await nats_connection.flush()
    assert count == 5000


@pytest.mark.usefixtures("impatience")
async def test_a_subscription_whose_drain_failed_is_not_subscribed_again(
    nats_server: NatsServer, nats_proxy: NatsProxy, nats_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT_SECONDS", 1)
    subscription = await nats_connection.subscribe("news", lambda _: None)
    await nats_connection.flush()
    nats_proxy.freeze()
    draining = asyncio.create_task(nats_connection.drain(subscription))
    await asyncio.sleep(0.05)  # it has begun
    nats_proxy.drop_link()
    nats_proxy.thaw()
    await draining
    await until(lambda: nats_connection.connected)
    await nats_connection.flush()
    async with await nats.connect(nats_server.url) as caller:
        with pytest.raises(nats.errors.NoRespondersError):
            await caller.request("news", b"", timeout=5)


async def test_up_to_two_megabytes_are_kept_while_disconnected(
    nats_server: NatsServer, nats_proxy: NatsProxy, nats_connection: Connection
) -> None:
    await nats_proxy.stop()
    await until(lambda: not nats_connection.connected)
    await nats_connection.publish("news", b"kept")
    for _ in range(20):
        await nats_connection.publish("bulk", bytes(100_000))
    with pytest.raises(nats.errors.Error):
        await nats_connection.publish("bulk", bytes(100_000))
    async with await nats.connect(nats_server.url) as other:
        news = await other.subscribe("news")
        await other.flush()
        await other.flush()  # the ping of nats-py's first flush overtakes the subscription
        await nats_proxy.start()
        assert (await news.next_msg(5)).data == b"kept"


@pytest.mark.parametrize("down", [False, True], ids=["server up", "server down"])
async def test_leaving_closes_the_connection_in_time_and_logs_no_disconnect(
    down: bool,  # noqa: FBT001 - a parameter of the test
    nats_server: NatsServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connect(nats_server.url) as connected:
        if down:
            await nats_server.kill()
            await until(lambda: not connected.connected)
        caplog.clear()
        leaving = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - leaving < 2.5
    assert connected.closed
    assert not events(caplog, "nats.disconnected")
