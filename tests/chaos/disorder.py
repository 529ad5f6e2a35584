# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Kills, pauses and restarts nodes and processes in an order that a seed decides."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from tests.stack import nats_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.stack.nats_server import NatsServer
    from tests.system.processes import Replica

AWAY_SECONDS = (0.2, 4.0)
NODE_PAUSE_SECONDS = (0.5, 4.0)
PROCESS_PAUSE_SECONDS = (0.3, 2.5)
KILLED = 0.7  # of the processes that may be killed; the others are terminated


class Disorder:
    """What happens to a cluster and the processes at the same time.

    One node is away at a time, so that a majority can elect leaders; that takes up to 9 s.
    """

    def __init__(
        self,
        seed: int,
        nodes: Sequence[NatsServer],
        replicas: Sequence[Replica],
        kills: Sequence[Replica],
        report: Callable[[str], None],
    ) -> None:
        """Terminate any of `replicas`; kill only those in `kills`."""
        self._seed = seed
        self._nodes = nodes
        self._replicas = replicas
        self._kills = kills
        self._report = report

    async def run(self, seconds: float) -> None:
        """Cause disorder for a while; at the end every node is back."""
        end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hit_nodes(random.Random(f"nodes {self._seed}"), end))  # noqa: S311 - a seed is the point
            tasks.create_task(self._hit_processes(random.Random(f"processes {self._seed}"), end))  # noqa: S311

    async def _hit_nodes(self, chance: random.Random, end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            await self._hit_node(chance.choice(self._nodes), chance.uniform(*AWAY_SECONDS), chance.random())
            await nats_server.wait_for_leader(self._nodes, timeout=60)
            await asyncio.sleep(chance.uniform(*NODE_PAUSE_SECONDS))

    async def _hit_node(self, node: NatsServer, seconds: float, how: float) -> None:
        if how < 1 / 3:
            self._report(f"pause node {node.name} for {seconds:.1f} s")
            node.pause()
            await asyncio.sleep(seconds)
            node.resume()
            return
        self._report(f"kill node {node.name} for {seconds:.1f} s")
        await node.kill()
        await asyncio.sleep(seconds)
        await node.start()

    async def _hit_processes(self, chance: random.Random, end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            replica, how = chance.choice(self._replicas), chance.random()
            if replica in self._kills and how < KILLED:
                self._report(f"kill {replica.name}")
                replica.kill()
            else:
                self._report(f"terminate {replica.name}")
                replica.terminate()
            await asyncio.sleep(chance.uniform(*PROCESS_PAUSE_SECONDS))
