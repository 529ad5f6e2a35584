# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The limit of a reply: each message to `bench.echo` is returned at once. `python -m tests.bench.nats_echo URL`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import uvloop

from tests.bench import caller

if TYPE_CHECKING:
    from nats.aio.msg import Msg

SUBJECT = "bench.echo"


async def main(url: str) -> None:
    """Serve until killed."""
    async with caller.connected(url) as connected:
        client = connected.client

        async def answer(msg: Msg) -> None:
            await client.publish(msg.reply, msg.data)

        await client.subscribe(SUBJECT, cb=answer)
        await client.flush()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
