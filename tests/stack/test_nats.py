# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The real nats-server, the cluster, and the proxy."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import nats
import pytest
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from tests.stack import nats_proxy, nats_server
from tests.stack.certificates import Certificates
from tests.stack.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from tests.stack.nats_server import NatsServer


async def put_and_get(client: Client, replicas: int = 1) -> bytes | None:
    """Write a value into a new bucket and read it back."""
    bucket = await client.jetstream().create_key_value(bucket="b", replicas=replicas)
    await bucket.put("key", b"value")
    return (await bucket.get("key")).value


async def read(server: NatsServer) -> bytes | None:
    """Read the value with a new client."""
    async with await nats.connect(server.url) as client:
        return (await (await client.jetstream().key_value("b")).get("key")).value


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_nats_server_keeps_its_port_and_its_values_over_a_restart(end: str) -> None:
    async with nats_server.running() as server:
        async with await nats.connect(server.url) as client:
            await put_and_get(client)
        await getattr(server, end)()
        assert not server.is_running
        await server.start()
        assert await read(server) == b"value"


async def test_nats_server_answers_nothing_while_paused() -> None:
    async with nats_server.running() as server, await nats.connect(server.url) as client:
        server.pause()
        with pytest.raises(nats.errors.TimeoutError):
            await client.request("$JS.API.INFO", timeout=0.1)
        server.resume()
        await client.request("$JS.API.INFO", timeout=20)


async def test_nats_server_starts_with_authorization_and_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    extra = f"authorization {{ user: u, password: p }}\n{certificates.nats_tls()}"
    async with nats_server.running(extra) as server:
        url, tls = server.url.replace("nats://", "tls://u:p@"), certificates.client_context()
        async with await nats.connect(url, tls=tls) as client:
            assert await put_and_get(client) == b"value"


async def test_nats_cluster_works_without_one_of_its_servers() -> None:
    async with nats_server.cluster() as servers:
        leader = await nats_server.wait_for_leader(servers)
        async with await nats.connect(leader.url) as client:
            await put_and_get(client, replicas=3)
            info = await client.jetstream().stream_info("KV_b")
            assert info.cluster
            leaders = {leader.name, info.cluster.leader}
            follower = next(server for server in servers if server.name not in leaders)
            await follower.kill()
            bucket = await client.jetstream().key_value("b")
            assert await bucket.put("key", b"later") > 1
        await follower.start()
        await follower.wait_until_healthy()
        assert await nats_server.wait_for_leader(servers) is leader


async def test_proxy_answers_requests_a_number_of_times() -> None:
    async with (
        nats_server.running() as server,
        nats_proxy.running(server.url) as proxy,
        await nats.connect(proxy.url) as client,
    ):
        await put_and_get(client)
        bucket = await client.jetstream().key_value("b")
        proxy.answer("$KV.b.", 1, nats_proxy.js_error(400, 10164, "wrong last sequence"))
        with pytest.raises(APIError, match="wrong last sequence"):
            await bucket.put("key", b"other")
        proxy.answer("no.", 1, nats_proxy.no_responders())
        with pytest.raises(NoRespondersError):
            await client.request("no.one", timeout=2)
        assert await bucket.put("key", b"other") == 2
        assert proxy.published.count("$KV.b.key") == 3


async def test_proxy_drops_and_changes_publications() -> None:
    async with (
        nats_server.running() as server,
        nats_proxy.running(server.url) as proxy,
        await nats.connect(proxy.url) as client,
    ):
        await put_and_get(client)
        jetstream = client.jetstream(timeout=0.2)
        proxy.lose_reply("$KV.b.", 1)
        with pytest.raises(nats.errors.TimeoutError):
            await jetstream.publish("$KV.b.key", b"done")
        assert await read(server) == b"done"
        proxy.rewrite("$KV.b.", 1, lambda it: nats_proxy.Publication(it.subject, it.reply, b"changed", it.headers))
        await jetstream.publish("$KV.b.key", b"original", headers={"X": "1"})
        assert await read(server) == b"changed"
        proxy.lose_request("$KV.b.", 1)
        with pytest.raises(nats.errors.TimeoutError):
            await jetstream.publish("$KV.b.key", b"lost")
        assert await read(server) == b"changed"
        proxy.garble_reply("$KV.b.", 1)
        garbled = await client.request("$KV.b.key", b"written")
        assert (garbled.data, await read(server)) == (b"no JSON", b"written")


async def test_proxy_delays_single_publications() -> None:
    async with (
        nats_server.running() as server,
        nats_proxy.running(server.url) as proxy,
        await nats.connect(proxy.url) as client,
    ):
        await put_and_get(client)
        proxy.delay_request("$KV.b.", 1, 0.2)
        late = asyncio.create_task(client.request("$KV.b.key", b"late", timeout=20))
        await until(lambda: proxy.delayed)
        await client.request("$KV.b.key", b"early")
        assert await read(server) == b"early"
        await late
        assert await read(server) == b"late"
        assert not proxy.delayed


async def test_proxy_delays_repeats_and_changes_single_messages() -> None:
    async with (
        nats_server.running() as server,
        nats_proxy.running(server.url) as proxy,
        await nats.connect(proxy.url) as client,
    ):
        await put_and_get(client)
        jetstream = client.jetstream(timeout=0.2)
        proxy.delay_request("$KV.b.", 1, 0.4)
        with pytest.raises(nats.errors.TimeoutError):
            await jetstream.publish("$KV.b.key", b"overtaken")
        await jetstream.publish("$KV.b.key", b"overtaking")
        assert await until(lambda: read(server), lambda value: value == b"overtaken")
        proxy.delay_reply("$KV.b.", 1, 0.4)
        with pytest.raises(nats.errors.TimeoutError):
            await jetstream.publish("$KV.b.key", b"stored")
        assert await read(server) == b"stored"
        proxy.repeat_request("$KV.b.", 1)
        first = await jetstream.publish("$KV.b.key", b"twice")
        assert (await jetstream.publish("$KV.b.key", b"next")).seq == first.seq + 2
        proxy.rewrite_reply("$KV.b.", 1, lambda it: nats_proxy.Delivery(it.subject, it.sid, it.reply, b"{"))
        with pytest.raises(json.JSONDecodeError):
            await jetstream.publish("$KV.b.key", b"answered with half of a reply")


async def test_proxy_freezes_thaws_and_drops_the_link() -> None:
    async with (
        nats_server.running() as server,
        nats_proxy.running(server.url) as proxy,
        await nats.connect(proxy.url, reconnect_time_wait=0.01) as client,
    ):
        proxy.freeze()
        with pytest.raises(nats.errors.TimeoutError):
            await client.request("$JS.API.INFO", timeout=0.1)
        proxy.thaw()
        await client.request("$JS.API.INFO")
        reconnected = asyncio.Event()

        async def note() -> None:
            reconnected.set()

        client._reconnected_cb = note  # noqa: SLF001 - only connect() takes it
        proxy.drop_link()
        async with asyncio.timeout(20):
            await reconnected.wait()
        proxy.delay = 0.1
        started = time.monotonic()
        await client.request("$JS.API.INFO")
        assert time.monotonic() - started >= 0.2
