# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The two services and the NATS server they meet at, started by their scripts, as the users of docs/security.md."""

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
    """The face of an SMTP server that the relay needs."""

    @property
    def port(self) -> int:
        """Where it listens."""


class Nats(Protocol):
    """The face of a NATS server, or of a proxy before it, that a service needs."""

    @property
    def url(self) -> str:
        """Where it listens."""


class Platform(NamedTuple):
    """A NATS server with the two buckets, and somebody who asks."""

    nats: NatsServer
    caller: Caller
    buckets: Buckets


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """Run a NATS server and make the buckets; nothing that a service needs may be refused meanwhile."""
    async with permissions.server(permissions.users().values()) as nats, caller.connected(nats.url) as asking:
        buckets = Buckets(asking.client)
        await buckets.create()
        yield Platform(nats, asking, buckets)
        assert "Violation" not in nats.log


@asynccontextmanager
async def relay(nats: Nats, smtp: Smtp, **variables: str) -> AsyncIterator[Console]:
    """Run a relay that sends through `smtp`; entered when it is ready."""
    async with console.running(RELAY, "serve", env=relay_environment(nats, smtp, **variables)) as process:
        await process.wait_until_ready()
        yield process


@asynccontextmanager
async def tracker(nats: Nats, sqs: SqsEndpoint | None = None, **variables: str) -> AsyncIterator[Console]:
    """Run a tracker, with the events of `sqs` if given; entered when it is ready.

    Where a test has not stopped it, it is killed: its wait for the last long poll is of no interest there.
    """
    async with console.running(TRACKER, "serve", env=tracker_environment(nats, sqs, **variables)) as process:
        await process.wait_until_ready()
        yield process
        process.kill()


def relay_environment(nats: Nats, smtp: Smtp, **variables: str) -> dict[str, str]:
    """The variables of a relay."""
    user = permissions.variables(nats.url, RELAY_USER)
    return {**user, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port), **variables}


def tracker_environment(nats: Nats, sqs: SqsEndpoint | None, **variables: str) -> dict[str, str]:
    """The variables of a tracker."""
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
