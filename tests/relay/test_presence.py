# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Relays hear of each other over a real NATS server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from relay import presence
from relay.commands import rate_check
from relay.presence import Presence
from relay.rate_share import Heartbeat
from relay.settings import RelaySettings
from shared.nats import connection
from shared.service.settings import ProcessSettings
from tests.stack import nats_server as servers
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.commands.check.checks import Finding
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

RATE = 60


@asynccontextmanager
async def sharing(url: str, rate: float = RATE) -> AsyncIterator[Presence]:
    """A relay's presence on a connection of its own."""
    async with connection.opened(ProcessSettings(nats_url=url), "tests") as opened, Presence(opened, rate, 8) as one:
        yield one


async def check(url: str, rate: float = RATE) -> Finding:
    found: list[Finding] = []
    await rate_check.check(RelaySettings(nats_url=url, ses_account_send_rate=rate), "check").run(found.append)
    [finding] = found
    return finding


async def test_a_relay_that_is_cut_off_keeps_its_share_and_so_do_the_others(
    nats_server: NatsServer, nats_proxy: NatsProxy
) -> None:
    assert "no relay shares it now" in (await check(nats_server.url)).found
    async with AsyncExitStack() as stack:
        urls = [nats_server.url, nats_server.url, nats_proxy.url]
        relays = [await stack.enter_async_context(sharing(url)) for url in urls]
        await until(lambda: [one.share for one in relays], lambda shares: shares == [RATE / 3] * 3)
        finding = await check(nats_server.url, rate=50)
        assert (finding.status, "their rates differ: 50, 60" in finding.found) == ("warning", True)

        nats_proxy.freeze()
        await until(lambda: relays[2].relays == 0)
        await asyncio.sleep(1.5)  # longer than for a relay that was killed
        assert [one.share for one in relays] == [RATE / 3] * 3
        nats_proxy.thaw()
        await until(lambda: [one.relays for one in relays], lambda counts: counts == [3] * 3)
        assert [one.share for one in relays] == [RATE / 3] * 3


async def test_check_names_the_missing_permission() -> None:
    users = 'authorization { users: [ { user: u, password: p, permissions: { publish: "_INBOX.>" } } ] }'
    async with servers.running(users) as server:
        finding = await check(server.url.replace("//", "//u:p@"))
    assert finding.status == "failed"
    assert presence.ALL in finding.found
    assert presence.PREFIX in finding.advice


@pytest.mark.parametrize(
    ("counted", "status", "found"),
    [
        ([1, 1], "ok", "2 relays share 60 emails a second: 30 each"),
        ([0], "ok", "1 relay shares 60 emails a second: 30"),
        ([1, 0], "warning", "they do not count the same relays"),
    ],
)
def test_check_compares_the_relays(counted: list[int], status: str, found: str) -> None:
    heard = [
        Heartbeat(
            relay=f"{number:032x}",
            at=1.0,
            state="sharing",
            relays=["f" * 32] * others,
            rate=RATE,
            share=30.0,
            hold_seconds=9,
        )
        for number, others in enumerate(counted)
    ]
    finding = rate_check.describe(heard, RATE)
    assert finding.status == status
    assert found in finding.found
