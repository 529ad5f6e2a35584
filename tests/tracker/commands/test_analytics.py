# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`analytics` shows the counts of a group, once or again and again."""

from __future__ import annotations

import json
import signal
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import nats as nats_py
import pytest

from shared import contract
from shared.commands import caller
from tests.acceptance import services
from tests.acceptance.buckets import fresh_record
from tests.stack import console
from tests.stack.ports import free_port
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from nats.aio.msg import Msg

    from tests.stack.console import Console
    from tests.stack.nats_server import NatsServer

SUBJECT: Final = contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT


@asynccontextmanager
async def counting(url: str, errors: Mapping[int, str] = MappingProxyType({})) -> AsyncIterator[None]:
    """Stand for a tracker, where one more email was delivered at each question; `errors` answer some of them."""
    asked = 0

    async def answer(msg: Msg) -> None:
        nonlocal asked
        asked += 1
        if error := errors.get(asked):
            await msg.respond(json.dumps({"error": error}).encode())
            return
        counts = {"group_id": "speakers", "total_sent": 9, "delivered": asked}
        await msg.respond(json.dumps({**counts, "opened": 0, "unique_opened": 0, "failed": 0}).encode())

    async with await nats_py.connect(url) as client:
        await client.subscribe(SUBJECT, contract.QUEUE_GROUP, cb=answer)
        await client.flush()
        yield


@asynccontextmanager
async def watching(url: str, *more: str) -> AsyncIterator[Console]:
    """Run `analytics --watch`, with a question every 0.1 seconds."""
    arguments = ("analytics", "speakers", "--watch", "--interval", "0.1", *more)
    async with console.running("lfx-email-tracker", *arguments, env={"NATS_URL": url}) as process:
        yield process


async def test_the_counts_of_the_running_tracker_are_told() -> None:
    async with services.platform() as platform, services.tracker(platform.nats):
        email_ids = [str(uuid.uuid4()) for _ in range(3)]
        records = [fresh_record(one, "speakers", delivered=True) for one in email_ids[:2]]
        await platform.buckets.put_records(*records)
        await platform.buckets.put_group("speakers", email_ids)
        operator = Operator(platform.nats.url)
        told = await operator.run("analytics", "speakers")
        assert (told.exit_code, told.stderr) == (0, "")
        assert [line.split() for line in told.stdout.splitlines()] == [
            ["group_id", "speakers"],
            ["total_sent", "3"],
            ["delivered", "2"],
            ["opened", "0"],
            ["unique_opened", "0"],
            ["failed", "0"],
        ]
        as_json = await operator.run("analytics", "speakers", "--json")
        assert documents(as_json) == [await platform.caller.analytics(group_id="speakers")]
        for arguments in ((), ("--watch",)):
            nobody = await operator.run("analytics", "nobody", *arguments)
            assert (nobody.exit_code, nobody.stdout, nobody.stderr) == (1, "", "Error: not found\n")


async def test_watch_tells_a_line_each_time_and_waits_for_a_tracker_that_goes_away(nats: NatsServer) -> None:
    async with AsyncExitStack() as there, AsyncExitStack() as away:
        await away.enter_async_context(counting(nats.url))
        process = await there.enter_async_context(watching(nats.url))
        head, first, *_ = await process.wait_for_lines(3)
        assert head.split() == ["TIME", "TOTAL_SENT", "DELIVERED", "OPENED", "UNIQUE_OPENED", "FAILED"]
        assert first.split()[1:] == ["9", "1", "0", "0", "0"]
        await away.aclose()
        await process.wait_for_error(f"no service answers on {SUBJECT}")
        before = len(process.output.splitlines())
        async with counting(nats.url):
            assert (await process.wait_for_lines(before + 1))[before].split()[1:] == ["9", "1", "0", "0", "0"]
        assert process.output.count("TIME") == 1


async def test_watch_goes_on_after_an_error_that_passes_and_ends_with_any_other(nats: NatsServer) -> None:
    errors = {2: contract.SERVICE_BUSY, 3: contract.INTERNAL_ERROR, 5: contract.NOT_FOUND}
    async with counting(nats.url, errors), watching(nats.url, "--json") as process:
        assert [json.loads(line)["delivered"] for line in await process.wait_for_lines(2)] == [1, 4]
        await process.wait_for_error(f"Error: {errors[5]}\n")
        assert await process.wait() == 1
        assert process.errors.splitlines() == [errors[2], errors[3], f"Error: {errors[5]}"]


async def test_a_tracker_that_never_was_there_is_not_waited_for(nats: NatsServer) -> None:
    told = await Operator(nats.url).run("analytics", "speakers", "--watch")
    assert (told.exit_code, told.stdout) == (3, "")


async def test_watch_ends_by_ctrl_c_with_130(nats: NatsServer) -> None:
    async with counting(nats.url), watching(nats.url, "--json") as process:
        told = [json.loads(line) for line in await process.wait_for_lines(3)]
        assert [one["delivered"] for one in told[:3]] == [1, 2, 3]
        process.send(signal.SIGINT)
        assert (await process.wait(), process.errors) == (130, "")


@pytest.mark.parametrize(
    "arguments", [(), *(("speakers", "--watch", "--interval", seconds) for seconds in ("0", "soon", "nan", "inf"))]
)
async def test_what_means_nothing_is_wrong_usage(nats: NatsServer, arguments: tuple[str, ...]) -> None:
    told = await Operator(nats.url).run("analytics", *arguments)
    assert (told.exit_code, told.stdout) == (2, "")


async def test_nobody_there_ends_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.2)
    told = await Operator(f"nats://127.0.0.1:{free_port()}").run("analytics", "speakers")
    assert (told.exit_code, told.stdout) == (3, "")


async def test_the_permissions_of_the_page_are_enough() -> None:
    async with operators.restricted(operators.subjects_of("analytics")) as (admin, url), counting(admin):
        told = await Operator(url).run("analytics", "speakers")
        assert (told.exit_code, told.stderr) == (0, "")
