# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Nobody in the suppression list gets a mail, and nobody else waits for more than one exchange with KV."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import nats
import pytest
from nats.js.api import KeyValueConfig

from relay.errors import Suppressed, Unscreened
from relay.screening import Screening
from relay.smtp.connection import Envelope
from shared import suppression_list
from shared.contract import Suppression
from shared.kv.bucket import Bucket
from tests.relay.test_send_email_handler import Mails
from tests.stack import nats_proxy as proxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

ADA = suppression_list.key_of("ada@example.com")
ENTRY = Suppression(
    address="ada@example.com", reason="complaint", detail="abuse", suppressed_at=datetime(2026, 1, 2, tzinfo=UTC)
)


@pytest.fixture(params=[True, False], ids=["direct", "through-the-leader"])
async def suppressions(
    nats_server: NatsServer, inbox: Inbox, nats_connection: Connection, request: pytest.FixtureRequest
) -> AsyncIterator[Bucket]:
    """A list of this test's own, with direct gets and without."""
    name = f"suppressions-{uuid4().hex}"
    async with await nats.connect(nats_server.url) as client:
        await client.jetstream().create_key_value(KeyValueConfig(name, direct=request.param))
        yield Bucket(inbox, nats_connection, name)
        await client.jetstream().delete_key_value(name)


async def deliver(mails: Mails, suppressions: Bucket, recipient: str = "ada@example.com") -> None:
    deadline = asyncio.get_running_loop().time() + 5
    await Screening(mails, suppressions)(Envelope("a@example.org", recipient), b"", deadline=deadline)


async def test_whoever_is_not_in_the_list_gets_the_mail_after_one_exchange(
    suppressions: Bucket, nats_proxy: NatsProxy
) -> None:
    mails = Mails()
    await deliver(mails, suppressions)
    before = len(nats_proxy.published)
    await deliver(mails, suppressions)
    assert len(mails.sent) == 2
    assert len(nats_proxy.published) == before + 1


@pytest.mark.parametrize("recipient", ["ada@example.com", "Ada@EXAMPLE.com"])
async def test_whoever_is_in_the_list_gets_none_and_the_reason_is_told(suppressions: Bucket, recipient: str) -> None:
    await suppressions.create(ADA, msgspec.json.encode(ENTRY))
    mails = Mails()
    with pytest.raises(Suppressed) as told:
        await deliver(mails, suppressions, recipient)
    assert (told.value.reason, told.value.text) == ("complaint", "abuse")
    assert not mails.sent


async def test_whoever_was_taken_out_of_the_list_gets_mail_again(suppressions: Bucket) -> None:
    revision = await suppressions.create(ADA, msgspec.json.encode(ENTRY))
    await suppressions.delete(ADA, revision)
    mails = Mails()
    await deliver(mails, suppressions)
    assert mails.sent


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"{}", b"\xff"])
async def test_an_entry_that_cannot_be_read_lets_nothing_through(suppressions: Bucket, value: bytes) -> None:
    await suppressions.create(ADA, value)
    mails = Mails()
    with pytest.raises(Unscreened):
        await deliver(mails, suppressions)
    assert not mails.sent


async def test_a_list_that_does_not_answer_lets_nothing_through(suppressions: Bucket, nats_proxy: NatsProxy) -> None:
    nats_proxy.answer("$JS.API.", 10, proxies.no_responders())
    mails = Mails()
    with pytest.raises(Unscreened):
        await deliver(mails, suppressions)
    assert not mails.sent
