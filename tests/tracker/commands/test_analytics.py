# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`analytics` shows the counts of a group, once or repeatedly."""

from __future__ import annotations

import json
import signal
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import nats as nats_py

from shared import contract
from tests.acceptance import services
from tests.acceptance.buckets import fresh_record
from tests.stack import console
from tests.stack.nats_flush import flush
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
    """Answer as a tracker with one more delivered email in each answer; `errors` replace some of the answers."""
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
        await flush(client)
        yield


@asynccontextmanager
async def watching(url: str, *more: str) -> AsyncIterator[Console]:
    """Run `analytics --watch`, with a request every 0.1 seconds."""
    arguments = ("analytics", "--group-id", "speakers", "--watch", "--interval", "0.1", *more)
    async with console.running("lfx-email-tracker", *arguments, env={"NATS_URL": url}) as process:
        yield process


async def test_the_counts_of_the_running_tracker_are_printed() -> None:
    async with services.platform() as platform, services.tracker(platform.nats):
        email_ids = [str(uuid.uuid4()) for _ in range(3)]
        records = [fresh_record(one, "speakers", delivered=True) for one in email_ids[:2]]
        await platform.buckets.put_records(*records)
        await platform.buckets.put_group("speakers", email_ids)
        operator = Operator(platform.nats.url)
        result = await operator.run("analytics", "--group-id", "speakers")
        assert (result.exit_code, result.stderr) == (0, "")
        assert [line.split() for line in result.stdout.splitlines()] == [
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
            unknown = await operator.run("analytics", "--group-id", "unknown", *arguments)
            assert (unknown.exit_code, unknown.stdout) == (1, "")
            assert unknown.stderr.startswith("Error: nothing was sent under the group unknown. Is it an email?")
        as_argument = await operator.run("analytics", "speakers")  # the older way
        assert as_argument.stdout == result.stdout


async def test_watch_prints_a_line_for_each_answer_and_waits_for_a_tracker_that_goes_away(nats: NatsServer) -> None:
    async with AsyncExitStack() as there, AsyncExitStack() as away:
        await away.enter_async_context(counting(nats.url))
        process = await there.enter_async_context(watching(nats.url))
        head, first, *_ = await process.wait_for_lines(3)
        assert head.split() == ["TIME", "TOTAL", "SENT", "DELIVERED", "OPENED", "UNIQUE", "OPENED", "FAILED"]
        assert len(head) <= 80
        assert first.split()[1:] == ["9", "1", "0", "0", "0"]
        await away.aclose()
        await process.wait_for_error(SUBJECT)
        before = len(process.output.splitlines())
        async with counting(nats.url):
            assert (await process.wait_for_lines(before + 1))[before].split()[1:] == ["9", "1", "0", "0", "0"]
        assert process.output.count("TIME") == 1


async def test_watch_continues_after_a_passing_error_and_ends_with_any_other(nats: NatsServer) -> None:
    errors = {2: contract.SERVICE_BUSY, 3: contract.INTERNAL_ERROR, 5: contract.NOT_FOUND}
    async with counting(nats.url, errors), watching(nats.url, "--json") as process:
        assert [json.loads(line)["delivered"] for line in await process.wait_for_lines(2)] == [1, 4]
        await process.wait_for_error("Error: nothing was sent under the group speakers")
        assert await process.wait() == 1
        assert process.errors.splitlines()[:2] == [errors[2], errors[3]]


async def test_a_tracker_that_does_not_give_the_first_answer_is_not_waited_for(nats: NatsServer) -> None:
    result = await Operator(nats.url).run("analytics", "speakers", "--watch")
    assert (result.exit_code, result.stdout) == (3, "")


async def test_ctrl_c_ends_watch_with_130(nats: NatsServer) -> None:
    async with counting(nats.url), watching(nats.url, "--json") as process:
        answers = [json.loads(line) for line in await process.wait_for_lines(3)]
        assert [one["delivered"] for one in answers[:3]] == [1, 2, 3]
        process.send(signal.SIGINT)
        assert (await process.wait(), process.errors) == (130, "")


async def test_the_documented_permissions_are_enough() -> None:
    async with operators.restricted(operators.subjects_of("caller")) as (admin, url), counting(admin):
        result = await Operator(url).run("analytics", "speakers")
        assert (result.exit_code, result.stderr) == (0, "")
