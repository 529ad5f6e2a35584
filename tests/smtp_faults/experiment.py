# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One experiment: many requests over a server that misbehaves; then each reply is compared with the server's mails."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest import mock

from relay.smtp import delivery, pipelining
from shared import contract
from tests.relay import misbehaviour
from tests.smtp_faults.chance import STALL_SECONDS, Chance
from tests.stack import scripted_smtp
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

AT_ONCE: Final = 64
CONNECTIONS: Final = 16
RETRY_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = STALL_SECONDS * 0.8
CIRCUIT_OPEN_SECONDS: Final = 0.05  # 5 s would fail most requests without an attempt
PIPELINING_PAUSE_SECONDS: Final = 0.05  # 600 s would leave it off after the first fault
DISTURBANCE_SECONDS: Final = 1.0
RATE: Final = 0.05


class Result(NamedTuple):
    """What happened: the replies by kind, the faults by step, and each broken promise."""

    replies: Mapping[str, int]
    faults: Mapping[str, int]
    problems: list[str]


async def run(seed: int, count: int, *, is_pipelined: bool = True, rate: float = RATE) -> Result:
    """Send `count` emails; `is_pipelined`: the server offers PIPELINING."""
    chance = Chance(seed, rate)
    options = scripted_smtp.Options(username="u", password="p", advertise=("PIPELINING",) if is_pipelined else ())
    with (
        mock.patch.object(delivery, "CIRCUIT_OPEN_SECONDS", CIRCUIT_OPEN_SECONDS),
        mock.patch.object(pipelining, "PAUSE_SECONDS", PIPELINING_PAUSE_SECONDS),
    ):
        async with scripted_smtp.running(chance.script, options=options) as smtp:
            account: dict[str, Any] = {
                "smtp_username": "u",
                "smtp_password": "p",
                "smtp_timeout_seconds": PATIENCE_SECONDS,
            }
            async with misbehaviour.relay(
                smtp, retry_seconds=RETRY_SECONDS, connections=CONNECTIONS, **account
            ) as relay:
                disturbing = asyncio.create_task(chance.disturb(smtp, DISTURBANCE_SECONDS))
                replies = await _send_all(relay, count)
                if not disturbing.cancel():
                    disturbing.result()  # it failed
                await asyncio.wait([disturbing])
            await until(lambda: smtp.open_sessions == 0)  # a server that was late may still accept a mail
            stored = misbehaviour.stored(smtp)
    recorded = {record.subject for record in relay.store.records}
    problems = [*_broken_promises(replies, stored, recorded), *(f"an attempt {late:.4f} s late" for late in relay.late)]
    return Result(Counter(map(_kind, replies)), chance.faults, problems)


async def _send_all(relay: misbehaviour.Relay, count: int) -> list[dict[str, Any]]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> dict[str, Any]:
        async with places:
            return await relay.send(number)

    return await asyncio.gather(*map(one, range(count)))


def _kind(reply: Mapping[str, Any]) -> str:
    if "email_id" in reply:
        return "sent"
    if reply["error"] != contract.DELIVERY_FAILED:
        return str(reply["error"])
    return f"{reply['outcome']}{', permanent' if reply['permanent'] else ''}"


def _broken_promises(replies: list[dict[str, Any]], stored: Mapping[int, int], recorded: set[str]) -> Iterator[str]:
    for number, reply in enumerate(replies):
        kind, mails = _kind(reply), stored[number]
        if mails > 1:
            yield f"mail {number} is there {mails} times: {reply}"
        if kind == "sent" and not mails:
            yield f"mail {number} was accepted and is not there"
        if kind.startswith("not_sent") and mails:
            yield f"mail {number} is there: {reply}"
        if kind not in {"sent", "unknown", "not_sent", "not_sent, permanent"}:
            yield f"mail {number}: {reply}"
        if (kind == "sent") != (f"mail {number}" in recorded):
            yield f"mail {number} has a wrong record: {reply}"
        if kind.endswith("permanent") and reply.get("smtp_code") not in {550, 554}:
            yield f"mail {number} was not refused permanently: {reply}"
