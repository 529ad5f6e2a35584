# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Simulated relays that share a rate over a simulated NATS server, with faults; no real time passes."""

from __future__ import annotations

import heapq
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from relay.rate_share import HEARTBEAT_SECONDS, SHARING, Heartbeat, RateShare

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

RATE = 60.0
HOLD_SECONDS = 9.0
RECONNECT_SECONDS = 1.5


class Relay:
    """One relay: it may be killed or paused, and its link may be cut (the server notices) or frozen (it does not)."""

    def __init__(self, world: World, name: str, rate: float) -> None:
        self.model = RateShare(name, rate, HOLD_SECONDS)
        self.alive = True
        self.cut_at = 0.0
        self.paused = self.cut = self.frozen = self.shows_share = False
        self._world = world
        self._to_send: list[Heartbeat] = []
        self._inbox: list[Heartbeat] = []
        world.after(0, self.beat)

    @property
    def name(self) -> str:
        """The id."""
        return self.model.relay

    @property
    def share(self) -> float:
        """The rate at which it may be sending now."""
        return self.model.share(self._world.now) if self.alive and not self.paused else 0.0

    def beat(self) -> None:
        """Send a heartbeat and probe, as `Presence` does."""
        if not self.alive:
            return
        self._world.after(HEARTBEAT_SECONDS, self.beat)
        if not self.paused:
            self.model.wake(self._world.now)
        if not self.paused and not self.cut:
            self.send(self.model.beat(self._world.now))
            self.shows_share = self.model.is_sharing
            self._probe()

    def send(self, heartbeat: Heartbeat) -> None:
        """Send, or keep it until the link thaws."""
        if self.frozen:
            self._to_send.append(heartbeat)
        elif not self.cut:
            self._world.publish(heartbeat)

    def receive(self, heartbeat: Heartbeat) -> None:
        """Take a message from the server, now or when it can be read."""
        if not self.alive or self.cut:
            return
        if self.paused or self.frozen:
            self._inbox.append(heartbeat)
        elif self.model.receive(heartbeat, self._world.now):
            self.send(self.model.beat(self._world.now))

    def kill(self) -> None:
        """End without a word."""
        self.alive = False

    def leave(self) -> None:
        """End as at SIGTERM."""
        if not self.paused:
            self.send(self.model.leave(self._world.now))
            self.alive = False

    def cut_link(self) -> None:
        """Disconnect; the server notices it."""
        self.cut_at = self._world.now
        self.cut, self._to_send, self._inbox = True, [], []
        self.model.disconnect()

    def go_on(self) -> None:
        """End every fault; what was kept back is sent and read now."""
        self.paused = self.frozen = False
        self._world.check()
        self.cut = not self._world.server_runs
        sent, read, self._to_send, self._inbox = self._to_send, self._inbox, [], []
        for heartbeat in sent:
            self.send(heartbeat)
        for heartbeat in read:
            self.receive(heartbeat)

    def _probe(self) -> None:
        for probe in self.model.probes(self._world.now):
            self._world.answer(self, probe)


class World:
    """The clock, the server and all relays. `check` is called at each event."""

    def __init__(self, chance: Random, check: Callable[[World], None]) -> None:
        self.now = 1000.0
        self.relays: dict[str, Relay] = {}
        self.server_runs = True
        self._chance = chance
        self._check = check
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._arrivals: dict[tuple[str, str], float] = {}

    def check(self) -> None:
        """Check the shares now."""
        self._check(self)

    @property
    def alive(self) -> list[Relay]:
        """The relays that have not ended."""
        return [relay for relay in self.relays.values() if relay.alive]

    def start(self, rate: float = RATE) -> Relay:
        """Start one more relay; without the server it waits for it."""
        name = f"{self._chance.getrandbits(96):x}".zfill(24) + f"{len(self.relays):08x}"
        relay = self.relays[name] = Relay(self, name, rate)
        relay.cut = not self.server_runs
        return relay

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Act later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), act))

    def stop_server(self, seconds: float) -> None:
        """Disconnect all; after the time each connects again within `RECONNECT_SECONDS`."""
        self.server_runs = False
        for relay in self.alive:
            relay.cut_link()
        self.after(seconds, self._start_server)

    def _start_server(self) -> None:
        self.server_runs = True
        for relay in self.alive:
            self.after(self._chance.random() * RECONNECT_SECONDS, relay.go_on)

    def publish(self, heartbeat: Heartbeat) -> None:
        """Pass a message to all relays, each after a delay of its own; those of one sender stay in order."""
        for name, relay in self.relays.items():
            way = heartbeat.relay, name
            self._arrivals[way] = max(self.now + self._delay(), self._arrivals.get(way, 0.0))
            self.after(self._arrivals[way] - self.now, partial(relay.receive, heartbeat))

    def answer(self, relay: Relay, probe: str) -> None:
        """Let the server answer a probe, unless the link is broken by then."""
        targets = self.relays.values() if probe == SHARING else [self.relays[probe]]
        subscribed = [one for one in targets if one.alive and not one.cut and (probe != SHARING or one.shows_share)]

        def arrive() -> None:
            if not relay.alive or relay.paused or relay.cut or relay.frozen:
                return
            if subscribed:
                relay.model.note_present(probe)
            elif relay.model.note_absent(probe, self.now):
                relay.send(relay.model.beat(self.now))

        self.after(self._delay(), arrive)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, act = heapq.heappop(self._events)
            self.now = at
            act()
            self.check()
        self.now = end
        self.check()

    def _delay(self) -> float:
        return self._chance.choice((0.001, 0.01, 0.05)) * self._chance.random()
