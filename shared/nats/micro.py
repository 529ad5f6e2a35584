# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, so that `nats micro ls`, `info` and `stats` show this process.

Source: ADR-32, "NATS Services". The requests of the service itself are served by `endpoint`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import msgspec
import nats.errors

from shared import __version__, contract
from shared.nats.endpoint import is_inbox
from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.nats.connection import Connection
    from shared.nats.endpoint import Endpoint

log = logging.getLogger(__name__)

PREFIX: Final = "$SRV"
NANOSECONDS: Final = 1_000_000_000

_encode = msgspec.json.Encoder().encode


class Discovery:
    """Answers requests for information about the process and its endpoints, as long as its context is open."""

    def __init__(self, connection: Connection, name: str, description: str, endpoints: Sequence[Endpoint]) -> None:
        """Answer for the process `name`; its id is new each time it starts."""
        self._connection = connection
        self._description = description
        self._endpoints = endpoints
        self._started = datetime.now(UTC)
        self._identity = {"name": name, "id": uuid4().hex, "version": __version__, "metadata": {}}
        self._subscriptions: list[Subscription] = []
        self._replies = Tasks()

    async def __aenter__(self) -> Self:
        """Subscribe to the requests to all services, to those of this name and to this process."""
        name, id_ = self._identity["name"], self._identity["id"]
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for subject in (f"{PREFIX}.{verb}", f"{PREFIX}.{verb}.{name}", f"{PREFIX}.{verb}.{name}.{id_}"):
                self._subscriptions.append(await self._connection.subscribe(subject, self._answering(answer)))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unsubscribe, and wait for the replies that are being sent."""
        for subscription in self._subscriptions:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error as error:
                log.debug("discovery.unsubscribe_failed", extra={"error": repr(error)})
        await self._replies.wait()

    def _answering(self, answer: Callable[[], dict[str, Any]]) -> Callable[[Msg], None]:
        def receive(msg: Msg) -> None:
            if msg.reply and is_inbox(msg.reply):
                self._replies.start(self._reply(msg, _encode({**self._identity, **answer()})))

        return receive

    async def _reply(self, msg: Msg, body: bytes) -> None:
        try:
            await self._connection.publish(msg.reply, body)
        except nats.errors.Error as error:
            log.debug("discovery.reply_undeliverable", extra={"error": repr(error)})

    def _ping(self) -> dict[str, Any]:
        return {"type": "io.nats.micro.v1.ping_response"}

    def _info(self) -> dict[str, Any]:
        endpoints = [{**_named(endpoint), "metadata": {}} for endpoint in self._endpoints]
        return {
            "type": "io.nats.micro.v1.info_response",
            "description": self._description,
            "endpoints": endpoints,
        }

    def _stats(self) -> dict[str, Any]:
        return {
            "type": "io.nats.micro.v1.stats_response",
            "started": self._started,
            "endpoints": [{**_named(endpoint), **_counted(endpoint)} for endpoint in self._endpoints],
        }


def _named(endpoint: Endpoint) -> dict[str, str]:
    name = endpoint.subject.rpartition(".")[2]
    return {"name": name, "subject": endpoint.subject, "queue_group": contract.QUEUE_GROUP}


def _counted(endpoint: Endpoint) -> dict[str, object]:
    """Return the counts of an endpoint. Every reply with an error string counts as an error. Times are nanoseconds."""
    served, seconds = endpoint.seconds.count, endpoint.seconds.total
    return {
        "num_requests": served + endpoint.busy,
        "num_errors": endpoint.errors,
        "last_error": endpoint.last_error,
        "processing_time": int(seconds * NANOSECONDS),
        "average_processing_time": int(seconds / served * NANOSECONDS) if served else 0,
        "data": {"in_flight": endpoint.in_flight},
    }
