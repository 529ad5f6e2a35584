# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: lets the relays hear of each other over NATS, so that they share one send rate. `rate_share` decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Self
from uuid import uuid4

import msgspec
import nats.errors

from relay import rate_share
from relay.rate_share import HEARTBEAT_SECONDS, Heartbeat, RateShare
from shared import decoding
from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.nats.connection import Connection

log = logging.getLogger(__name__)

PREFIX: Final = "lfx.email-service.relay_presence"
ALL: Final = f"{PREFIX}.all"
SHARING: Final = f"{PREFIX}.{rate_share.SHARING}"
"""Subscribed to by the relays that use a share. Each relay also subscribes to its own id."""
PROBE_SECONDS: Final = 0.3
WAITING_LOG_SECONDS: Final = 5.0

_encode = msgspec.json.Encoder().encode
decode = decoding.decoder(Heartbeat)


class Presence:
    """Sends and receives heartbeats as long as its context is open."""

    def __init__(self, connection: Connection, rate: float, hold_seconds: float) -> None:
        """Share `rate` emails a second; after NATS is lost there are emails to send for `hold_seconds`."""
        self._connection = connection
        self._share = RateShare(uuid4().hex, rate, hold_seconds)
        self._own = f"{PREFIX}.{self._share.relay}"
        self._subscriptions: list[Subscription] = []
        self._sharing: Subscription | None = None
        self._is_due = asyncio.Event()
        self._has_share = asyncio.Event()
        self._logged = (0.0, 0)
        self._tasks = Tasks()
        self._probes: set[str] = set()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def share(self) -> float:
        """The emails a second that this relay may send now."""
        return self._share.share(time.monotonic())

    @property
    def relays(self) -> int:
        """How many relays share the rate; 0 if this one does not hear even itself."""
        return self._share.relays(time.monotonic())

    async def __aenter__(self) -> Self:
        """Subscribe, and begin to send heartbeats."""
        self._connection.on_disconnect(self._share.disconnect)
        for subject, on_message in ((ALL, self._receive), (self._own, self._answer)):
            self._subscriptions.append(await self._connection.subscribe(subject, on_message, required=True))
        self._tasks.start(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the share to the others."""
        self._tasks.cancel()
        try:
            await self._connection.publish(ALL, _encode(self._share.leave(time.monotonic())))
            for subscription in [*self._subscriptions, *filter(None, [self._sharing])]:
                await subscription.unsubscribe()
        except nats.errors.Error as error:  # the others notice it themselves
            log.debug("send_rate.unpublished", extra={"error": repr(error)})

    async def wait_for_share(self) -> None:
        """Return when this relay may send: about a second after its start."""
        waiting = asyncio.get_running_loop().call_later(WAITING_LOG_SECONDS, self._log_waiting)
        try:
            await self._has_share.wait()
        finally:
            waiting.cancel()

    async def _beat(self) -> None:
        while True:
            self._share.wake(time.monotonic())
            if self._connection.connected:
                try:
                    await self._connection.publish(ALL, _encode(self._share.beat(time.monotonic())))
                    await self._show_share()
                except (nats.errors.Error, OSError) as error:  # the connection was lost
                    log.debug("send_rate.unpublished", extra={"error": repr(error)})
                self._probe_others()
            self._apply()
            self.on_change()  # also if the share ended and came back in between
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._is_due.wait()
            self._is_due.clear()

    def _receive(self, msg: Msg) -> None:
        try:
            heartbeat = decode(msg.data)
        except decoding.Malformed:  # `check` sends an empty one
            return
        if self._share.receive(heartbeat, time.monotonic()):
            self._is_due.set()
        self._apply()

    def _answer(self, _: Msg) -> None:
        """Send a heartbeat: another relay has not heard this one."""
        self._is_due.set()

    def _apply(self) -> None:
        """Let the sender and those that wait know of a changed share."""
        share, relays = self.share, self.relays
        if share:
            self._has_share.set()
        if (share, relays) != self._logged:
            self._logged = share, relays
            log.info("send_rate.changed", extra={"share": round(share, 3), "relays": relays})
            self.on_change()

    def _probe_others(self) -> None:
        """Ask the server for subscriptions; for each of them there is one request at a time."""
        for probe in self._share.probes(time.monotonic()):
            if probe not in self._probes:
                self._probes.add(probe)
                self._tasks.start(self._probe(probe), at_end=partial(self._probes.discard, probe))

    async def _probe(self, probe: str) -> None:
        try:
            await self._connection.request(f"{PREFIX}.{probe}", b"", PROBE_SECONDS)
        except nats.errors.NoRespondersError:
            if self._share.note_absent(probe, time.monotonic()):
                self._is_due.set()
                self._apply()
        except nats.errors.Error:  # a subscriber does not reply, but sends a heartbeat
            self._share.note_present(probe)

    async def _show_share(self) -> None:
        """Subscribe to SHARING while this relay uses a share."""
        if self._share.is_sharing and not self._sharing:
            self._sharing = await self._connection.subscribe(SHARING, self._answer)
        elif self._sharing and not self._share.is_sharing:
            subscription, self._sharing = self._sharing, None
            await subscription.unsubscribe()

    def _log_waiting(self) -> None:
        log.warning("send_rate.waiting", extra={"relays": self.relays})
