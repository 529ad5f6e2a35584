# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An address in the suppression list gets no email; every other email costs one exchange with KV more."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import nats
import pytest
from nats.js.api import KeyValueConfig

from shared import suppression_list
from shared.contract import Suppression
from shared.kv.bucket import Bucket
from shared.suppression_list import SuppressionList
from tests.relay.steps import REQUEST, Keys, Mails, Store, answer
from tests.stack import nats_proxy as proxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

ANNA = suppression_list.key_of("anna@example.com")
ENTRY = Suppression(
    address="anna@example.com", reason="complaint", detail="abuse", suppressed_at=datetime(2026, 1, 2, tzinfo=UTC)
)
INTERNAL_ERROR = {"error": "internal error", "outcome": "not_sent"}


@pytest.fixture(params=[True, False], ids=["direct", "through-the-leader"])
async def bucket(
    nats_server: NatsServer, inbox: Inbox, nats_connection: Connection, request: pytest.FixtureRequest
) -> AsyncIterator[Bucket]:
    """The bucket of a list for this test, with direct gets and without."""
    name = f"suppressions-{uuid4().hex}"
    async with await nats.connect(nats_server.url) as client:
        await client.jetstream().create_key_value(KeyValueConfig(name, direct=request.param))
        yield Bucket(inbox, nats_connection, name)
        await client.jetstream().delete_key_value(name)


class Sender:
    """Sends to Anna with a key, after a look at the list."""

    def __init__(self, bucket: Bucket) -> None:
        self.mails, self.store, self.keys = Mails(), Store(), Keys()
        self._list = SuppressionList(bucket)

    async def send(self, to: str = "anna@example.com") -> dict[str, Any]:
        """Return the reply."""
        return await answer(self.mails, self.store, {**REQUEST, "to": to}, self.keys, self._list)


@pytest.fixture
def sender(bucket: Bucket) -> Sender:
    """A handler with this list."""
    return Sender(bucket)


async def test_an_address_outside_the_list_gets_the_mail_after_one_exchange(
    sender: Sender, nats_proxy: NatsProxy
) -> None:
    await sender.send()
    before = len(nats_proxy.published)
    await sender.send()
    assert len(sender.mails.sent) == 2
    assert len(nats_proxy.published) == before + 1


@pytest.mark.parametrize("to", ["anna@example.com", "Anna <Anna@EXAMPLE.com>"])
async def test_an_address_in_the_list_gets_no_mail_and_the_reply_has_the_reason(
    sender: Sender, bucket: Bucket, to: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await bucket.create(ANNA, msgspec.json.encode(ENTRY))
    assert await sender.send(to) == {"error": "recipient suppressed", "reason": "complaint"}
    assert not sender.mails.sent
    assert not sender.store.records
    assert sender.keys.settled == [None], "the key is free"
    [line] = caplog.records
    assert (line.message, line.__dict__["reason"]) == ("email.suppressed", "complaint")
    assert "anna@" not in str(line.__dict__).lower()


async def test_an_address_that_was_removed_from_the_list_gets_mail_again(sender: Sender, bucket: Bucket) -> None:
    revision = await bucket.create(ANNA, msgspec.json.encode(ENTRY))
    await bucket.delete(ANNA, revision)
    await sender.send()
    assert sender.mails.sent


async def test_a_corrupt_entry_sends_nothing(sender: Sender, bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    await bucket.create(ANNA, b"{")
    assert await sender.send() == INTERNAL_ERROR
    assert not sender.mails.sent
    assert sender.keys.settled == [None], "the key is free"
    [line] = caplog.records
    assert (line.message, line.__dict__["kind"]) == ("email.failed", "suppression_list")
    assert line.__dict__["email_id"]


async def test_a_list_that_cannot_be_read_sends_nothing(sender: Sender, nats_proxy: NatsProxy) -> None:
    nats_proxy.answer("$JS.API.", 10, proxies.no_responders())
    assert await sender.send() == INTERNAL_ERROR
    assert not sender.mails.sent
    assert sender.keys.settled == [None], "the key is free"


class StuckList:
    """Never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def find(self, _address: str) -> Suppression | None:
        """Begin to look."""
        self.asked.set()
        await asyncio.Event().wait()
        return None


async def test_a_stop_during_the_lookup_frees_the_key() -> None:
    mails, keys, stuck = Mails(), Keys(), StuckList()
    answering = asyncio.create_task(answer(mails, Store(), REQUEST, keys, stuck))
    await stuck.asked.wait()
    answering.cancel()
    assert await answering == INTERNAL_ERROR
    assert keys.settled == [None]
    assert not mails.sent
