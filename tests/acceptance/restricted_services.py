# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both services as the NATS users of docs/security.md, with a record of what each publishes and subscribes to."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from nats.js.api import DiscardPolicy, KeyValueConfig

from shared import contract, push_stream
from tests.acceptance import permissions, services
from tests.acceptance.permissions import ADMIN, NAMES, RELAY, TRACKER
from tests.stack import nats_proxy, probe
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from nats.aio.client import Client

    from tests.acceptance.permissions import User
    from tests.stack.console import Console
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint


class RestrictedServices(NamedTuple):
    """The services, each behind a proxy of its user, and the servers they use."""

    nats: NatsServer
    admin: Client
    links: dict[str, NatsProxy]
    smtp: SmtpServer
    sqs: SqsEndpoint
    relay: Console
    tracker: Console

    def environment(self, user: str, **more: str) -> dict[str, str]:
        """Return the variables of a command that this user runs."""
        return {**permissions.variables(self.links[user].url, user), **more}

    async def subscriptions(self, user: str) -> list[str]:
        """Return the current subscriptions of a user, in the notation of the page."""
        _, body = await probe.get(self.nats.monitor_port, "/connz?subs=detail&auth=1")
        mine = [one for one in json.loads(body)["connections"] if one.get("authorized_user") == user]
        details = [detail for one in mine for detail in one.get("subscriptions_list_detail", ())]
        return [" ".join(filter(None, (detail["subject"], detail.get("qgroup")))) for detail in details]


@asynccontextmanager
async def running(users: Iterable[User], *, eventing: bool, **variables: str) -> AsyncIterator[RestrictedServices]:
    """Run NATS, SMTP, SQS and both services."""
    async with (
        permissions.server(users) as nats,
        permissions.connected(nats.url, ADMIN) as admin,
        smtp_servers.running() as smtp,
        sqs_endpoints.running() as sqs,
        AsyncExitStack() as stack,
    ):
        await make_store(admin)
        links = {name: await stack.enter_async_context(nats_proxy.running(nats.url)) for name in NAMES}
        async with (
            services.relay(links[RELAY], smtp, **variables) as relay,
            services.tracker(links[TRACKER], sqs if eventing else None, **variables) as tracker,
        ):
            yield RestrictedServices(nats, admin, links, smtp, sqs, relay, tracker)


async def make_store(admin: Client) -> None:
    """Create the buckets and the stream of push events as the charts do."""
    for name in contract.BUCKETS:
        config = KeyValueConfig(name, history=1, direct=True, ttl=contract.BUCKET_TTL_SECONDS.get(name))
        await admin.jetstream().create_key_value(config)
    await admin.jetstream().add_stream(
        name=contract.PUSH_EVENTS_STREAM,
        subjects=list(contract.PUSH_EVENT_SUBJECTS),
        discard=DiscardPolicy.NEW,
        max_bytes=push_stream.MAX_BYTES,
        max_age=push_stream.MAX_AGE_SECONDS,
        duplicate_window=push_stream.DUPLICATE_WINDOW_SECONDS,
    )
