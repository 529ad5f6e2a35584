# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both services while a reload of the nats-server lowers and raises `max_payload`."""

from __future__ import annotations

from typing import Any, Final

from tests.acceptance import caller as callers
from tests.acceptance import services
from tests.acceptance.buckets import Buckets
from tests.stack import nats_server
from tests.stack import smtp_server as smtp_servers
from tests.stack.waiting import until

EMAILS: Final = 40
LOW, HIGH = "max_payload: 8KB", "max_payload: 1MB"


async def test_groups_are_answered_and_mails_recorded_under_each_limit() -> None:
    async with (
        nats_server.running(HIGH) as nats,
        callers.connected(nats.url) as caller,
        smtp_servers.running() as smtp,
    ):
        buckets = Buckets(caller.client)
        await buckets.create()
        url = nats.url  # without a user: at a reload, this server disconnects clients whose user it does not know
        async with (
            services.relay(nats, smtp, NATS_URL=url) as relay,
            services.tracker(nats, NATS_URL=url) as tracker,
        ):

            async def whole_group() -> Any:
                return await caller.status(group_id="g")

            sent = [await caller.sent(group_id="g") for _ in range(EMAILS)]
            assert [one["email_id"] for one in await whole_group()] == sent
            await nats.load(LOW)
            too_large = {"error": "response too large", "total": EMAILS}
            replies: list[Any] = []

            async def ask() -> Any:
                replies.append(await whole_group())
                return replies[-1]

            await until(ask, too_large.__eq__)
            assert all(isinstance(one, list) or one["error"] == "response too large" for one in replies)
            sent += [await caller.sent(group_id="g") for _ in range(300)]  # the index has more than 8 kB
            assert 0 < len(await buckets.email_ids("g")) < len(sent), "it goes on in a further value"
            assert [one["email_id"] for one in await caller.status(group_id="g", offset=330)] == sent[330:]
            await nats.load(HIGH)
            assert [one["email_id"] for one in await until(whole_group, lambda one: isinstance(one, list))] == sent
            for process in (relay, tracker):
                assert not process.logged("record.lost")
                assert (await process.get("/readyz"))[0] == 200
