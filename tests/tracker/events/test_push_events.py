# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Subscribers get a push event for each kind of event, over a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shared.contract import Failure
from shared.nats import connection as nats_connection
from shared.service.settings import ProcessSettings
from tests.tracker.examples import EMAIL, GROUP, at, event, record
from tracker.events.push_events import PushEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.contract import EmailRecipientRecord
    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer
    from tracker.events.ses_event import EngagementEvent

IDS = {"email_id": EMAIL, "group_id": GROUP}


@pytest.fixture
async def subscription(nats: NatsServer) -> AsyncIterator[Subscription]:
    """A subscription to all push events, on the server before the first one is published."""
    async with nats_connection.opened(ProcessSettings(nats_url=nats.url), "caller") as connection:
        subscription = await connection.client.subscribe("lfx.email-service.>")
        await connection.flush()  # the flush of nats-py does not wait for the server, see shared/nats/client.py
        yield subscription


async def pushed(subscription: Subscription) -> tuple[str, dict[str, Any]]:
    msg: Msg = await subscription.next_msg(5)
    return msg.subject, json.loads(msg.data)


@pytest.mark.parametrize(
    ("happened", "left", "subject", "payload"),
    [
        (
            event("delivery", 2),
            record(delivered=True, delivered_at=at(1)),
            "lfx.email-service.email_delivered",
            {**IDS, "delivered_at": "2026-01-02T03:04:07Z"},
        ),
        (
            event("open", 2.06),
            record(opened=True, open_count=7, last_opened_at=at(9)),
            "lfx.email-service.email_opened",
            {**IDS, "open_count": 7, "opened_at": "2026-01-02T03:04:07.060000Z"},
        ),
        (
            event("click", 2, "sns-id", link="https://lfx.dev/meeting?token=secret#part"),
            record(clicked=True, click_count=4, last_clicked_at=at(9)),
            "lfx.email-service.email_link_clicked",
            {
                **IDS,
                "event_id": "sns-id",
                "link": "https://lfx.dev/meeting",
                "click_count": 4,
                "clicked_at": "2026-01-02T03:04:07Z",
            },
        ),
        (
            event("bounce", 2, failure=Failure(kind="bounce", type="Permanent", diagnostic="smtp; 550 5.1.1")),
            record(failed=True, failed_at=at(1), failure=Failure(kind="complaint")),
            "lfx.email-service.email_failed",
            {
                **IDS,
                "reason": "bounce",
                "failed_at": "2026-01-02T03:04:07Z",
                "failure": {"kind": "bounce", "type": "Permanent", "diagnostic": "smtp; 550 5.1.1"},
            },
        ),
        (
            event("complaint", 2, failure=Failure(kind="complaint", sub_type="OnAccountSuppressionList")),
            record(failed=True, failed_at=at(2)),
            "lfx.email-service.email_failed",
            {
                **IDS,
                "reason": "complaint",
                "failed_at": "2026-01-02T03:04:07Z",
                "failure": {"kind": "complaint", "sub_type": "OnAccountSuppressionList"},
            },
        ),
        (
            event("reject", 2, failure=Failure(kind="reject", diagnostic="Bad content")),
            record(failed=True, failed_at=at(2)),
            "lfx.email-service.email_failed",
            {
                **IDS,
                "reason": "reject",
                "failed_at": "2026-01-02T03:04:07Z",
                "failure": {"kind": "reject", "diagnostic": "Bad content"},
            },
        ),
        (
            event("delivery", 2),
            record(delivered=True, delivered_at=at(2), tags={"campaign": "spring"}),
            "lfx.email-service.email_delivered",
            {**IDS, "delivered_at": "2026-01-02T03:04:07Z", "tags": {"campaign": "spring"}},
        ),
        (
            event("open", 2),
            record(opened=True, open_count=1, tags={"campaign": "spring"}),
            "lfx.email-service.email_opened",
            {**IDS, "open_count": 1, "opened_at": "2026-01-02T03:04:07Z", "tags": {"campaign": "spring"}},
        ),
        (
            event("click", 2, "sns-id", link="https://lfx.dev"),
            record(clicked=True, click_count=1, tags={"campaign": "spring"}),
            "lfx.email-service.email_link_clicked",
            {
                **IDS,
                "event_id": "sns-id",
                "link": "https://lfx.dev",
                "click_count": 1,
                "clicked_at": "2026-01-02T03:04:07Z",
                "tags": {"campaign": "spring"},
            },
        ),
        (
            event("bounce", 2, failure=None),
            record(failed=True, failed_at=at(2), tags={"campaign": "spring"}),
            "lfx.email-service.email_failed",
            {**IDS, "reason": "bounce", "failed_at": "2026-01-02T03:04:07Z", "tags": {"campaign": "spring"}},
        ),
        (
            event("complaint", 2, failure=None),
            record(failed=True, failed_at=at(2)),
            "lfx.email-service.email_failed",
            {**IDS, "reason": "complaint", "failed_at": "2026-01-02T03:04:07Z"},
        ),
    ],
)
async def test_each_kind_of_event_is_published_on_its_subject(  # noqa: PLR0913, PLR0917 - a table's columns and two servers
    connection: Connection,
    subscription: Subscription,
    happened: EngagementEvent,
    left: EmailRecipientRecord,
    subject: str,
    payload: dict[str, Any],
) -> None:
    await PushEvents(connection)(happened, left)
    assert await pushed(subscription) == (subject, payload)


LINKS = {
    "https://lfx.dev/a/b": "https://lfx.dev/a/b",
    "https://lfx.dev": "https://lfx.dev",
    "https://lfx.dev/?token=secret": "https://lfx.dev/",
    "https://lfx.dev?token=secret": "https://lfx.dev",
    "https://lfx.dev/a#secret": "https://lfx.dev/a",
    "https://lfx.dev/a#x?token=secret": "https://lfx.dev/a",
    "https://lfx.dev/a?x=y#secret": "https://lfx.dev/a",
    "https://user:secret@lfx.dev:8443/a": "https://lfx.dev:8443/a",
    "https://user@lfx.dev/a@b": "https://lfx.dev/a@b",
    "https://us@er:secret@lfx.dev/a": "https://lfx.dev/a",
    "https://user:secret@[2001:db8::1]:8443/a?b": "https://[2001:db8::1]:8443/a",
    "https://[not-an-address/a?token=secret": "https://[not-an-address/a",
    "https://user:secret@[not-an-address/a#x": "https://[not-an-address/a",
    "https://user:secret@lfx℀.dev/a?token=secret": "https://lfx℀.dev/a",
    "mailto:team@lfx.dev?subject=secret": "mailto:team@lfx.dev",
    "/relative?token=secret": "/relative",
    "//user:secret@lfx.dev/a": "//lfx.dev/a",
    "?token=secret": "",
    "": "",
    "not a link": "not a link",
}


async def test_query_fragment_and_credentials_of_a_link_are_not_published(
    connection: Connection, subscription: Subscription
) -> None:
    published = {}
    for link in LINKS:
        await PushEvents(connection)(event("click", link=link), record())
        _, payload = await pushed(subscription)
        published[link] = payload["link"]
    assert published == LINKS


async def test_a_delay_is_not_published(connection: Connection, subscription: Subscription) -> None:
    await PushEvents(connection)(event("delay"), record())
    await PushEvents(connection)(event("open"), record())
    assert (await pushed(subscription))[0] == "lfx.email-service.email_opened"


async def test_an_event_without_subscribers_is_published_without_an_error(connection: Connection) -> None:
    await PushEvents(connection)(event("open"), record())


async def test_an_event_that_cannot_be_published_is_logged_without_an_error(
    nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with nats_connection.opened(ProcessSettings(nats_url=nats.url), "closed") as connection:
        pass
    await PushEvents(connection)(event("open"), record())
    assert [one.message for one in caplog.records] == ["event.unannounced"]


async def test_an_event_over_the_limit_of_the_server_is_logged(
    connection: Connection, subscription: Subscription, caplog: pytest.LogCaptureFixture
) -> None:
    push_events = PushEvents(connection)
    await push_events(event("click", link="https://lfx.dev/" + "x" * connection.max_payload), record())
    assert [one.message for one in caplog.records] == ["event.unannounced"]
    await push_events(event("open"), record())
    assert (await pushed(subscription))[0] == "lfx.email-service.email_opened"


@pytest.mark.parametrize(
    ("happened", "message_id"),
    [
        (event("open", 1, "0e1f6c2a-77aa"), f"{EMAIL}/open/0e1f6c2a-77aa"),
        (event("bounce", 1, "a/b c\r\nX: y"), f"{EMAIL}/bounce/a%2Fb%20c%0D%0AX%3A%20y"),
        (
            event("click", 1, "\u00fc" * 20),
            f"{EMAIL}/click/47dfc3de359eb6313bbb3bacf263ace2c25a064fc369838aab8e6c309acfac36",
        ),
    ],
)
async def test_each_push_event_has_an_id_that_depends_on_its_event_alone(
    subscription: Subscription, connection: Connection, happened: EngagementEvent, message_id: str
) -> None:
    await PushEvents(connection)(happened, record())
    await PushEvents(connection)(happened, record(open_count=5, click_count=5))
    first, second = [await subscription.next_msg(5) for _ in range(2)]
    assert first.headers == second.headers
    assert (first.headers or {})["Nats-Msg-Id"] == message_id
