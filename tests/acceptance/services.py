# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The two services and their NATS server, started by the console scripts, as the users of docs/security.md."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tests.acceptance import caller, permissions
from tests.acceptance.buckets import Buckets
from tests.acceptance.permissions import RELAY as RELAY_USER
from tests.acceptance.permissions import TRACKER as TRACKER_USER
from tests.stack import console

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.caller import Caller
    from tests.stack.console import Console
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint

RELAY, TRACKER = "lfx-email-relay", "lfx-email-tracker"


class Smtp(Protocol):
    """What the relay needs of an SMTP server."""

    @property
    def port(self) -> int:
        """Its address."""


class Nats(Protocol):
    """What a service needs of a NATS server, or of a proxy to it."""

    @property
    def url(self) -> str:
        """Its address."""


class Platform(NamedTuple):
    """A NATS server with the two buckets, and a caller."""

    nats: NatsServer
    caller: Caller
    buckets: Buckets


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Run a NATS server and create the buckets; at the end assert that the server refused no operation."""
    async with permissions.server(permissions.users().values()) as nats, caller.connected(nats.url) as asking:
        buckets = Buckets(asking.client)
        await buckets.create()
        yield Platform(nats, asking, buckets)
        assert "Violation" not in nats.log


@asynccontextmanager
async def relay(nats: Nats, smtp: Smtp, **variables: str) -> AsyncIterator[Console]:
    """Run a relay that sends through `smtp`; enter the block when it is ready.

    It is killed at the end unless the test has stopped it: a graceful stop waits for buckets that the test has deleted.
    """
    async with console.running(RELAY, "serve", env=relay_environment(nats, smtp, **variables)) as process:
        await process.wait_until_ready()
        yield process
        process.kill()


@asynccontextmanager
async def tracker(nats: Nats, sqs: SqsEndpoint | None = None, **variables: str) -> AsyncIterator[Console]:
    """Run a tracker, with the events of `sqs` if given; enter the block when it is ready.

    It is killed at the end unless the test has stopped it: a graceful stop waits for the last long poll.
    """
    async with console.running(TRACKER, "serve", env=tracker_environment(nats, sqs, **variables)) as process:
        await process.wait_until_ready()
        yield process
        process.kill()


def relay_environment(nats: Nats, smtp: Smtp, **variables: str) -> dict[str, str]:
    """Return the variables of a relay."""
    user = permissions.variables(nats.url, RELAY_USER)
    return {**user, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port), **variables}


def tracker_environment(nats: Nats, sqs: SqsEndpoint | None, **variables: str) -> dict[str, str]:
    """Return the variables of a tracker."""
    eventing = (
        {
            "SES_EVENTING_ENABLED": "true",
            "SES_ENGAGEMENT_SQS_QUEUE_URL": sqs.queue_url,
            "AWS_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": "acceptance",
            "AWS_SECRET_ACCESS_KEY": "acceptance",
        }
        if sqs
        else {}
    )
    return {**permissions.variables(nats.url, TRACKER_USER), **eventing, **variables}
