# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sends one email to each address of a file, such as 5,000, and may be run again after any failure.

    python send_many.py addresses.txt spring-2026

Each email has its own idempotency key, made of the name of the mailing and the address. So a request may be repeated:
without a reply, after a crash, by a second run within 24 hours. No email is sent twice. Needs only nats-py.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nats
import nats.errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nats.aio.client import Client

SUBJECT = "lfx.email-service.send_email"
CONCURRENCY = 32  # emails under way: as many as the relay has SMTP connections by default
REPLY_SECONDS = 45  # the relay tries for 8 s, and the last attempt may take 30 s
PATIENCE_SECONDS = 900  # how long one email is tried before it is reported
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
TRY_AGAIN = {"service busy", "request in progress", "internal error"}


class Result(NamedTuple):
    """What became of one email: `sent`, `filtered`, `failed`, `unknown`, or `unsent` when the patience was over."""

    to: str
    status: str
    detail: str = ""


def email(mailing: str, to: str) -> dict[str, object]:
    """Return the request for one address: the same one each time, since a key belongs to its content."""
    return {
        "to": to,
        "subject": "The programme is out",
        "html": "<p>See you in spring!</p>",
        "text": "See you in spring!",
        "group_id": mailing,
        "idempotency_key": f"{mailing}/{to}",
    }


async def send(nc: Client, mailing: str, to: str) -> Result:
    """Send one email, and repeat the request until its outcome is known."""
    payload = json.dumps(email(mailing, to)).encode()
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while True:
        result = await ask(nc, to, payload)
        if result.status not in {"again", "no reply"}:
            return result
        if time.monotonic() + pause > deadline:
            return result._replace(status="unsent" if result.status == "again" else "unknown")
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads the requests, guards no secret
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


async def ask(nc: Client, to: str, payload: bytes) -> Result:
    """Ask once. `again`: nothing was sent by this request. `no reply`: the key makes a repeat safe."""
    try:
        reply = json.loads((await nc.request(SUBJECT, payload, timeout=REPLY_SECONDS)).data)
    except nats.errors.NoRespondersError:
        return Result(to, "again", "no relay is running")
    except nats.errors.Error as error:
        return Result(to, "no reply", str(error))
    if "error" not in reply:
        return Result(to, "sent" if reply["email_id"] else "filtered", reply["email_id"])
    return Result(to, status_of(reply), str(reply["error"]))


def status_of(reply: dict[str, object]) -> str:
    """Decide what a failure means for the email."""
    error, outcome = reply["error"], reply.get("outcome")
    if error == "delivery outcome unknown" or outcome == "unknown":
        return "unknown"  # it may be in the mailbox: keep what it is about, and do not send it under another key
    if error in TRY_AGAIN:
        return "again"
    if error == "email delivery failed" and outcome is None:
        return "unknown"  # a relay of an older version, which does not report the outcome
    if error == "email delivery failed" and not reply.get("permanent"):
        return "again"
    return "failed"


async def send_all(nc: Client, mailing: str, addresses: Iterable[str]) -> list[Result]:
    """Send all emails, CONCURRENCY at a time."""
    waiting, results = iter(addresses), []

    async def work() -> None:
        for to in waiting:
            result = await send(nc, mailing, to)
            results.append(result)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(work())
    return results


def read(path: str) -> list[str]:
    """Return each address of a file once."""
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    return list(dict.fromkeys(line for line in lines if line))


async def main(addresses: list[str], mailing: str) -> int:
    """Print what was not sent, and how many there are of each status."""
    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://localhost:4222"),
        inbox_prefix=os.environ.get("NATS_INBOX_PREFIX", "_INBOX"),
        max_reconnect_attempts=-1,
    )
    results = await send_all(nc, mailing, addresses)
    await nc.close()
    for result in results:
        if result.status not in {"sent", "filtered"}:
            print(f"{result.status}: {result.to}: {result.detail}")
    counts = Counter(result.status for result in results)
    print(", ".join(f"{status} {count}" for status, count in sorted(counts.items())))
    return 0 if counts.keys() <= {"sent", "filtered"} else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(read(sys.argv[1]), sys.argv[2])))
