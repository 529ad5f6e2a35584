# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Three NATS servers with three replicas of each bucket restart one after the other, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.acceptance import caller, load, mails, services
from tests.acceptance.buckets import Buckets
from tests.acceptance.event_cases import at, text
from tests.stack import nats_server, ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.stack.nats_server import NatsServer
    from tests.stack.received_mail import ReceivedMail

SENT_MEANWHILE = 40


class Cluster(NamedTuple):
    """The servers in the form that a service needs."""

    servers: Sequence[NatsServer]

    @property
    def url(self) -> str:
        """The URLs of all servers."""
        return ",".join(server.url for server in self.servers)


async def leader_first(buckets: Buckets, servers: Sequence[NatsServer]) -> list[NatsServer]:
    """Return the servers, the leader of the group index first."""
    leader = await buckets.leader_of_group_index()
    return sorted(servers, key=lambda server: server.name != leader)


def deliveries(received: Sequence[ReceivedMail]) -> list[str]:
    """Return the delivery events of these mails."""
    return [
        ses_events.notification(ses_events.delivery(mails.tracking_id(mail), at(2)), f"{mails.email_id(mail)}-d")
        for mail in received
    ]


async def test_a_rolling_restart_of_the_servers_loses_no_email_and_no_event() -> None:
    async with (
        nats_server.cluster() as servers,
        caller.connected([server.url for server in servers]) as asking,
        smtp_servers.running() as smtp,
        sqs_endpoints.running() as sqs,
    ):
        buckets = Buckets(asking.client)
        await buckets.create(replicas=len(servers))
        cluster = Cluster(servers)
        async with (
            services.relay(cluster, smtp) as first,
            services.relay(cluster, smtp) as second,
            services.tracker(cluster, sqs),
        ):
            reported = 0
            async with load.running(asking, senders=8, groups=2, patience=2.0, pause=0.05) as under:
                leader, *followers = await leader_first(buckets, servers)
                for server, end in ((leader, leader.kill), *((one, one.stop) for one in followers)):
                    await under.wait_for(SENT_MEANWHILE)
                    await end()
                    for body in deliveries(smtp.mails[reported:]):
                        sqs.send(body)
                        reported += 1
                    await under.wait_for(SENT_MEANWHILE)
                    await server.start()
                    await nats_server.wait_for_leader(servers)
            for body in deliveries(smtp.mails[reported:]):
                sqs.send(body)
            await sqs.wait_until_empty(60)
            assert under.errors == []
            sent = Counter(map(mails.email_id, smtp.mails))
            assert set(sent.values()) == {1}
            assert sent >= Counter(under.email_ids)

            async def index() -> Counter[str]:
                return Counter([one for group in under.acknowledged for one in await buckets.email_ids(group)])

            assert await until(index, lambda seen: seen == sent, timeout=20) == sent

            async def records() -> list[dict[str, Any]]:
                return await buckets.records(sorted(sent))

            assert {record["delivered_at"] for record in await records()} == {text(2)}
            assert len(await records()) == len(sent)
            assert [*first.logged("record.lost"), *second.logged("record.lost")] == []
