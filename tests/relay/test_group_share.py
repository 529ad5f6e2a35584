# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How much of the limits one group may take."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Self

import nats
import pytest

from relay.group_share import GroupShare
from shared.nats.endpoint import BUSY, ByteLimit, Endpoint
from tests.shared.connections import connected
from tests.stack.waiting import until

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.stack.nats_server import NatsServer

SUBJECT = "lfx.email-service.test"


def request(group_id: str | None, size: int = 0) -> bytes:
    """A request of a group, at least so large."""
    return json.dumps({"html": "x" * size, "group_id": group_id}).encode()


@pytest.mark.parametrize(("limit", "share"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 6), (1024, 768)])
def test_a_group_may_take_three_quarters_of_the_requests(limit: int, share: int) -> None:
    groups = GroupShare(limit)
    taken = 0
    while groups.admits(request("g")):
        groups.enter("g", 1)
        taken += 1
    assert taken == share
    assert groups.admits(request("another"))
    assert groups.admits(request(None))
    assert groups.admits(b"no JSON")
    groups.leave("g", 1)
    assert groups.admits(request("g"))


def test_a_group_may_take_three_quarters_of_the_bytes_or_one_larger_request() -> None:
    groups = GroupShare(100, 1000)
    assert groups.admits(request("g", 5000))
    groups.enter("g", 700)
    assert not groups.admits(request("g", 100))
    assert groups.admits(request("another", 100))


def test_a_request_is_held_until_its_end_is_called_once_or_twice() -> None:
    groups = GroupShare(1)
    end = groups.hold(request("g"))
    assert not groups.admits(request("g"))
    end()
    end()
    assert groups.admits(request("g"))


class Stalled:
    """A handler that counts requests in a share, and answers when it may, at the latest at the end of its context."""

    def __init__(self, share: GroupShare) -> None:
        self._share = share
        self._places: list[asyncio.Event] = []
        self._is_over = False

    async def __aenter__(self) -> Self:
        """Begin without requests."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answer all requests, also later ones: an endpoint waits for them without limit."""
        self._is_over = True
        self.end()

    @property
    def waiting(self) -> int:
        """How many requests wait for their answer."""
        return len(self._places)

    async def __call__(self, data: bytes, _headers: object) -> bytes:
        """Answer a request."""
        group_id, may_end = json.loads(data)["group_id"] or "", asyncio.Event()
        if self._is_over:
            may_end.set()
        self._places.append(may_end)
        self._share.enter(group_id, len(data))
        try:
            await may_end.wait()
        finally:
            self._share.leave(group_id, len(data))
        return b"served"

    def end(self, count: int = 1000) -> None:
        """Answer some requests."""
        for may_end in self._places[:count]:
            may_end.set()
        del self._places[:count]


async def test_a_place_that_falls_free_is_given_to_one_request_of_its_group(nats_server: NatsServer) -> None:
    share = GroupShare(8)
    handler = Stalled(share)
    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, handler, max_in_flight=8, share=share) as endpoint,
        await nats.connect(nats_server.url) as client,
        handler,
    ):
        for _ in range(20):
            await client.publish(SUBJECT, request("g"), reply="there")
        await until(lambda: (endpoint.busy, handler.waiting) == (14, 6))
        handler.end(1)
        await until(lambda: endpoint.in_flight == 5)
        for _ in range(10):
            await client.publish(SUBJECT, request("g"), reply="there")
        await until(lambda: endpoint.busy == 23)
        assert endpoint.in_flight == 6


async def test_large_requests_of_one_group_leave_the_last_quarter_of_the_bytes(nats_server: NatsServer) -> None:
    share, limit = GroupShare(100, 4_000_000), ByteLimit(4_000_000)
    handler = Stalled(share)
    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, handler, max_in_flight=100, byte_limit=limit, share=share) as endpoint,
        await nats.connect(nats_server.url) as client,
        handler,
    ):

        def ask(group_id: str | None) -> asyncio.Future[Msg]:
            return asyncio.ensure_future(client.request(SUBJECT, request(group_id, 480_000), timeout=10))

        of_group = [ask("g") for _ in range(12)]
        await until(lambda: endpoint.busy == 6)
        others = [ask(None) for _ in range(2)]
        await until(lambda: handler.waiting == 8)
        handler.end()
        replies = [(await one).data for one in (*of_group, *others)]
        assert (replies.count(BUSY), replies.count(b"served")) == (6, 8)
        await until(lambda: limit.in_flight == 0)
