# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sending: over plain SMTP, over STARTTLS and AUTH, and to a server that is 20 ms away, with PIPELINING or without."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import repeat
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared import contract
from tests.bench import buckets, mails, naive_relay, nats_echo, proc, row, smtp_load
from tests.bench.caller import Request
from tests.bench.row import Collected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.bench.program import Program
    from tests.bench.row import Row, Sample
    from tests.bench.smtp_load import Target
    from tests.bench.stage import Stage

CONNECTIONS = 32  # the relay's default
FAR = 0.02


async def plain(stage: Stage) -> list[Row]:
    """SMTP without TLS, 3 kB html."""
    return await _send(stage, emails=stage.options.count(6000), naive=stage.options.count(300))


async def tls(stage: Stage) -> list[Row]:
    """STARTTLS and AUTH, 3 kB html."""
    return await _send(stage, emails=stage.options.count(6000), naive=stage.options.count(200), is_secure=True)


async def wan(stage: Stage) -> list[Row]:
    """20 ms before every SMTP reply, default settings."""
    emails, naive = stage.options.count(1500), stage.options.count(25, least=2)
    single = await _send(stage, emails=emails, naive=naive, delay=FAR, case="single commands")
    return [*single, *await _send(stage, emails=emails, naive=naive, delay=FAR, pipelining=True, case="PIPELINING")]


async def _send(  # noqa: PLR0913 - the choices of a scenario
    stage: Stage,
    *,
    emails: int,
    naive: int,
    is_secure: bool = False,
    delay: float = 0.0,
    pipelining: bool = False,
    case: str = "",
) -> list[Row]:
    collected = Collected()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(stage.sink(delay=delay, tls=is_secure, pipelining=pipelining))
        relay = await stack.enter_async_context(stage.relay(target))
        if not stage.options.alone:
            await stack.enter_async_context(stage.helper("nats_echo", stage.nats_url))
            await stack.enter_async_context(_naive(stage, target))
        for _ in range(stage.options.runs):
            collected.add("relay", "service", await service_sample(stage, target, relay, emails))
            if not stage.options.alone:
                await _compare(stage, target, collected, emails, naive)
    return [replace(one, case=case) for one in collected.rows()]


async def service_sample(stage: Stage, target: Target, relay: Program, emails: int) -> Sample:
    """Send a number of emails through the relay when its connections are open; check that all arrived."""
    callers = stage.options.callers
    await stage.caller.load(requests(callers), callers)
    received = await smtp_load.mails_received(target)
    load = await stage.caller.load(requests(emails), callers, [relay.pid])
    arrived = await smtp_load.mails_received(target) - received
    if arrived != emails:
        raise RuntimeError(f"{arrived} of {emails} emails arrived")
    return replace(load.sample(), peak_mb=proc.peak_mb([relay.pid]))


def requests(count: int, group_id: str | None = None) -> Iterator[Request]:
    """Return a number of requests to send."""
    return repeat(Request(contract.SEND_EMAIL_SUBJECT, mails.send_request(group_id)), count)


async def _compare(stage: Stage, target: Target, collected: Collected, emails: int, naive: int) -> None:
    caller, callers = stage.caller, stage.options.callers
    smtp = await smtp_load.measure(target, CONNECTIONS, emails)
    collected.add(f"{CONNECTIONS} kept SMTP connections", "limit", smtp)
    request = Request(nats_echo.SUBJECT, mails.send_request(None))
    echo = (await caller.load(repeat(request, emails), callers)).sample()
    collected.add("NATS request and reply", "limit", echo)
    writes = (await caller.load(_kv_writes(emails), callers)).sample()
    collected.add("KV write", "limit", writes)
    collected.add("all these in turn, two writes", "limit", row.in_turn(smtp, echo, writes, writes))
    request = Request(naive_relay.SUBJECT, mails.send_request(None))
    slow = await caller.load(repeat(request, naive), callers)
    collected.add("a connection per email", "naive", slow.sample())


def _kv_writes(count: int) -> Iterator[Request]:
    """Return a number of writes of records."""
    return (Request(buckets.RECORDS + one, mails.record(one, one)) for one in mails.new_ids(count))


def _naive(stage: Stage, target: Target) -> AbstractAsyncContextManager[Program]:
    ca_file = [str(stage.certificates.ca_file)] if target.tls else []
    return stage.helper("naive_relay", stage.nats_url, str(target.port), *ca_file)
