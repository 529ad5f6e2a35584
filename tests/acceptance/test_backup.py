# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A lost NATS server loses no email and no count: docs/backup.md, with a backup and an archive of the events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from nats.js.api import KeyValueConfig

from shared import contract
from tests.acceptance import services
from tests.acceptance.event_cases import at
from tests.stack import nats_backup, ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.tracker.commands.operators import Operator, documents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.client import Client

    from tests.acceptance.caller import Caller
    from tests.stack.sqs_endpoint import SqsEndpoint

ORDER = (
    contract.EMAIL_SUPPRESSIONS_BUCKET,
    contract.EMAIL_IDEMPOTENCY_BUCKET,
    contract.EMAIL_RECIPIENTS_BUCKET,
    contract.EMAIL_GROUP_INDEX_BUCKET,
)
"""The order of the page: the records before the index."""
GROUPS = ("before", "across", "Later group")
EVENT_FIELDS = ("delivered", "open_count", "opened_at_list", "click_count", "failed", "failure")
REBUILT = ("email_id", "group_id", "to", *EVENT_FIELDS)


class Archive:
    """Events as they go to the queue, and as a second subscriber of the topic keeps them."""

    def __init__(self, sqs: SqsEndpoint) -> None:
        self._sqs = sqs
        self.bodies: list[str] = []

    async def report(self, *events: ses_events.Event) -> None:
        """Report events; return when the tracker has applied them."""
        for event in events:
            body = ses_events.notification(event)
            self.bodies.append(body)
            self._sqs.send(body)
        await self._sqs.wait_until_empty()


class Mail(NamedTuple):
    """A mail that was sent."""

    tracking_id: str
    to: str

    def event(self, make: Callable[..., ses_events.Event], seconds: float) -> ses_events.Event:
        """Return an event of the mail."""
        return make(self.tracking_id, at(seconds), to=self.to)


async def send(caller: Caller, group_id: str, count: int) -> list[Mail]:
    """Send emails to a group, each to another reader."""
    readers = [f"{uuid4()}@example.com" for _ in range(count)]
    email_ids = [await caller.sent(group_id=group_id, to=reader) for reader in readers]
    group = group_id.replace(" ", "%20")
    return [Mail(f"{group}/{email_id}", reader) for email_id, reader in zip(email_ids, readers, strict=True)]


async def found(caller: Caller) -> dict[str, Any]:
    """Return what callers see of the groups: the counts, and what events have changed in each record."""
    seen: dict[str, Any] = {}
    for group_id in GROUPS:
        records: Sequence[dict[str, Any]] = await caller.status(group_id=group_id)
        known = [{name: record.get(name) for name in REBUILT} for record in records]
        seen[group_id] = await caller.analytics(group_id=group_id), sorted(known, key=lambda one: str(one["email_id"]))
    return seen


async def make_remaining_buckets(client: Client) -> None:
    for name in ORDER[:2]:
        await client.jetstream().create_key_value(KeyValueConfig(name, direct=True))


async def test_after_the_loss_of_the_server_every_email_and_count_is_there() -> None:
    async with smtp_servers.running() as smtp, sqs_endpoints.running() as sqs:
        archive = Archive(sqs)
        async with (
            services.platform() as platform,
            services.relay(platform.nats, smtp, SUPPRESSION_ENABLED="true"),
            services.tracker(platform.nats, sqs, SUPPRESSION_ENABLED="true"),
        ):
            caller = platform.caller
            await make_remaining_buckets(caller.client)
            early = [*await send(caller, "before", 4), *await send(caller, "across", 3)]
            await archive.report(*(one.event(ses_events.delivery, 1) for one in early[:6]))
            await archive.report(early[6].event(ses_events.bounce, 1))
            snapshots = [await nats_backup.backup(caller.client, f"KV_{name}") for name in ORDER]

            late = [*await send(caller, "across", 3), *await send(caller, "Later group", 2)]
            await archive.report(
                *(one.event(ses_events.delivery, 2) for one in late),
                *(one.event(ses_events.open_, 3) for one in (early[0], early[4], late[0], late[4])),
                late[4].event(ses_events.complaint, 4),
            )
            before = await found(caller)
            await platform.nats.kill()

        async with services.platform() as platform:
            caller = platform.caller
            await platform.buckets.delete()
            for snapshot in snapshots:
                await nats_backup.restore(caller.client, snapshot)
            async with (
                services.relay(platform.nats, smtp, SUPPRESSION_ENABLED="true"),
                services.tracker(platform.nats, sqs, SUPPRESSION_ENABLED="true") as tracker,
            ):
                operator = Operator("", **services.tracker_environment(platform.nats, None, SUPPRESSION_ENABLED="true"))
                for rebuilt in (5, 0):
                    text = "\n".join(archive.bodies)
                    replayed = await operator.run("replay", "-", "--rebuild", "--no-announce", "--json", text=text)
                    counts = documents(replayed)[-1]
                    assert (counts["failed"], counts["unmatched"], counts["rebuilt"]) == (0, 0, rebuilt)
                    assert await found(caller) == before
                for mail, reason in ((early[6], "bounce"), (late[4], "complaint")):
                    answer = await caller.send(to=mail.to)
                    assert answer == {"error": contract.RECIPIENT_SUPPRESSED, "reason": reason}
                [new] = await send(caller, "across", 1)
                await archive.report(new.event(ses_events.delivery, 5))
                counts = await caller.analytics(group_id="across")
                assert counts["delivered"] == before["across"][0]["delivered"] + 1
                assert not tracker.logged("event.unmatched")
