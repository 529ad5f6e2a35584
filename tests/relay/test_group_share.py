# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How much of the limits one group may take."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import nats
import pytest

from relay.group_share import GroupShare
from shared.nats.endpoint import BUSY, ByteLimit, Endpoint
from tests.shared.connections import connected
from tests.stack.waiting import until

if TYPE_CHECKING:
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


async def test_large_requests_of_one_group_leave_the_last_quarter_of_the_bytes(nats_server: NatsServer) -> None:
    share, limit, may_end = GroupShare(100, 4_000_000), ByteLimit(4_000_000), asyncio.Event()

    async def stall(data: bytes, _headers: object) -> bytes:
        group_id, size = json.loads(data)["group_id"] or "", len(data)
        share.enter(group_id, size)
        try:
            await may_end.wait()
        finally:
            share.leave(group_id, size)
        return b"served"

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, stall, max_in_flight=100, byte_limit=limit, share=share) as endpoint,
        await nats.connect(nats_server.url) as client,
    ):
        ask = [client.request(SUBJECT, request("g", 480_000), timeout=10) for _ in range(12)]
        of_group = [asyncio.ensure_future(one) for one in ask]
        await until(lambda: endpoint.busy == 6)
        others = [asyncio.ensure_future(client.request(SUBJECT, request(None, 480_000), timeout=10)) for _ in range(2)]
        await until(lambda: endpoint.in_flight == 8)
        may_end.set()
        replies = [(await one).data for one in (*of_group, *others)]
        assert (replies.count(BUSY), replies.count(b"served")) == (6, 8)
        assert limit.in_flight == 0
