# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Two relays and one bucket, in any schedule of repeats, outcomes, faults and deaths, compared with a model."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from relay.errors import Rejected, Uncertain
from relay.records.idempotency_store import IdempotencyStore
from relay.send_email_handler import SendEmailHandler, Steps
from shared import contract
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection
from shared.nats import inbox as inboxes
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.relay.steps import OPTIONS, REQUEST, Store
from tests.stack import nats_proxy, nats_server
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from relay.envelope import Envelope
    from tests.stack.nats_proxy import NatsProxy

T = TypeVar("T")
Reply = dict[str, Any]

LONGEST_REQUEST = timedelta(seconds=48)
LOST_SECONDS = 0.1
LATE_SECONDS = 0.25
KEY_SUBJECT = f"$KV.{contract.EMAIL_IDEMPOTENCY_BUCKET}."
TEXTS = ("one text", "another")
REFUSED = {"error": contract.DELIVERY_FAILED, "outcome": "not_sent", "permanent": True, "smtp_code": 550}
UNANSWERED = {"error": contract.DELIVERY_FAILED, "outcome": "unknown", "permanent": False}
IN_PROGRESS = {"error": contract.REQUEST_IN_PROGRESS}
UNKNOWN = {"error": contract.OUTCOME_UNKNOWN}
REUSED = {"error": contract.IDEMPOTENCY_KEY_REUSED}
NOT_TAKEN = {"error": contract.INTERNAL_ERROR, "outcome": "not_sent"}

outcomes = st.sampled_from(["accepted", "accepted", "refused", "unanswered", "dies"])
faults = st.sampled_from(
    [
        *["none"] * 5,
        *["key refused", "key lost", "key unanswered", "key delayed", "key garbled", "undo delayed"],
        *["outcome lost", "outcome delayed", "outcome garbled"],
    ]
)
losses = st.sampled_from(["lost", "unanswered", "delayed"])


class MailServer:
    """Gives every email the outcome that the test sets, and counts the emails that it may have accepted."""

    event = "email.sent"

    def __init__(self) -> None:
        self.outcome = "accepted"
        self.accepted = 0

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float, group: str) -> None:  # noqa: ARG002 - interface
        """Accept an email, or fail."""
        await asyncio.sleep(0)
        if self.outcome == "refused":
            raise Rejected("no such user", 550)
        self.accepted += 1
        if self.outcome == "unanswered":
            raise Uncertain("no reply after the final dot")
        if self.outcome == "dies":
            await asyncio.Event().wait()


class Relay:
    """Handler and idempotency store of one relay, on a connection of its own through a proxy of its own."""

    def __init__(self, url: str, mails: MailServer) -> None:
        self._url = url
        self._mails = mails
        self._open = AsyncExitStack()
        self.proxy: NatsProxy

    async def start(self) -> None:
        """Connect, and create the bucket if it is missing."""
        self.proxy = await self._open.enter_async_context(nats_proxy.running(self._url))
        opened = await self._open.enter_async_context(
            connection.opened(ProcessSettings(nats_url=self.proxy.url), "relay")
        )
        inbox = await self._open.enter_async_context(Inbox(opened))
        await create_missing(opened, [contract.EMAIL_IDEMPOTENCY_BUCKET])
        bucket = Bucket(inbox, opened, contract.EMAIL_IDEMPOTENCY_BUCKET)
        self.keys = await self._open.enter_async_context(IdempotencyStore(bucket, LONGEST_REQUEST))
        self._handler = SendEmailHandler(OPTIONS, Steps(self._mails, Store(), self.keys))

    async def answer(self, key: str, text: str) -> Reply:
        """Answer a request."""
        body = json.dumps({**REQUEST, "text": text, "idempotency_key": key}).encode()
        reply: Reply = json.loads(await self._handler(body))
        return reply

    async def stop(self) -> None:
        """Disconnect."""
        await self._open.aclose()


class TwoRelays(RuleBasedStateMachine):
    """The model is the state of one key in a single relay without faults."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.key = str(uuid4())
        self.mails = MailServer()
        self.relays = [Relay(self.url, self.mails), Relay(self.url, self.mails)]
        self.state = "free"
        self.text = ""
        self.reply: Reply | None = None
        self.abandoned: list[asyncio.Task[Reply]] = []

    @initialize()
    def start(self) -> None:
        """Both relays run."""
        for relay in self.relays:
            self._run(relay.start())

    @rule(first=st.integers(0, 1), text=st.sampled_from(TEXTS), outcome=outcomes, fault=faults)
    def one_asks(self, first: int, text: str, outcome: str, fault: str) -> None:
        """One request, with a fault of KV."""
        self.mails.outcome = outcome
        self._run(self._ask(first, text, fault))

    @rule(text=st.sampled_from(TEXTS), outcome=outcomes, repeats=st.integers(2, 8))
    def many_ask_at_once(self, text: str, outcome: str, repeats: int) -> None:
        """The same request several times at both relays."""
        self.mails.outcome = outcome
        self._run(self._ask_at_once(text, repeats))

    @rule(first=st.integers(0, 1), text=st.sampled_from(TEXTS), fault=losses)
    def one_is_interrupted(self, first: int, text: str, fault: str) -> None:
        """A stop interrupts a request while it takes its key."""
        self._run(self._interrupt(first, text, f"key {fault}"))

    @rule()
    def time_passes(self) -> None:
        """Let more time pass than any request takes."""
        if self.state == "dead":
            self.state = "unknown"
        for relay in self.relays:
            relay.keys.longest_request = timedelta(0) if self.state == "unknown" else LONGEST_REQUEST

    def teardown(self) -> None:
        """Check that at most one email was sent."""
        try:
            assert self.mails.accepted <= 1
        finally:
            for task in self.abandoned:
                task.cancel()
            for relay in self.relays:
                self._run(relay.stop())

    async def _ask(self, which: int, text: str, fault: str) -> None:
        relay = self.relays[which]
        _plan(relay.proxy, fault)
        with pytest.MonkeyPatch.context() as patch:
            if fault != "none":  # without a fault KV may be slow
                patch.setattr(inboxes, "TIMEOUT_SECONDS", LOST_SECONDS)
            reply = await self._reply(asyncio.create_task(relay.answer(self.key, text)))
            await until(lambda: not relay.keys.unsettled)
        relay.proxy.forget_plans()
        if reply == NOT_TAKEN:  # nothing was sent
            assert fault != "none"
            return
        self._check_first([reply], text)

    async def _interrupt(self, which: int, text: str, fault: str) -> None:
        relay, sent = self.relays[which], self.mails.accepted
        _plan(relay.proxy, fault)
        before = len(relay.proxy.published)
        asked = asyncio.create_task(relay.answer(self.key, text))
        await until(lambda: len(relay.proxy.published) > before)
        asked.cancel()
        assert await asked == NOT_TAKEN
        await until(lambda: not relay.keys.unsettled)
        relay.proxy.forget_plans()
        assert self.mails.accepted == sent

    async def _ask_at_once(self, text: str, repeats: int) -> None:
        asked = [asyncio.create_task(relay.answer(self.key, text)) for relay in self.relays for _ in range(repeats)]
        replies = await asyncio.gather(*map(self._reply, asked))
        self._check_first(replies, text)

    async def _reply(self, asked: asyncio.Task[Reply]) -> Reply | None:
        """The reply, or None if the relay died first."""
        before = self.mails.accepted
        while not asked.done():
            await asyncio.wait({asked}, timeout=0.01)
            if self.mails.outcome == "dies" and self.mails.accepted > before and not asked.done():
                await asyncio.wait({asked}, timeout=0.2)
                if not asked.done():
                    self.abandoned.append(asked)
                    return None
        return asked.result()

    def _check_first(self, replies: list[Reply | None], text: str) -> None:
        known = Counter(json.dumps(reply, sort_keys=True) for reply in replies)
        seen = [json.loads(reply) for reply in known]
        if self.state != "free" and text != self.text:
            assert seen == [REUSED]
        elif self.state == "free":
            self._begin(seen, known, text)
        else:
            assert seen == [{"sent": self.reply, "unknown": UNKNOWN, "dead": IN_PROGRESS}[self.state]]

    def _begin(self, seen: list[Reply | None], known: Counter[str], text: str) -> None:
        """The key was free: one request took it, and the others got the answer of its state."""
        self.text = text
        others = [reply for reply in seen if reply != IN_PROGRESS]
        if self.mails.outcome == "refused":
            assert others == [REFUSED]
        elif self.mails.outcome == "dies":
            assert others == [None]
            assert known["null"] == 1
            self.state = "dead"
        elif self.mails.outcome == "unanswered":
            assert UNANSWERED in others
            assert all(reply in (UNANSWERED, UNKNOWN) for reply in others)
            assert known[json.dumps(UNANSWERED, sort_keys=True)] == 1
            self.state = "unknown"
        else:
            [self.reply] = others
            assert self.reply
            assert set(self.reply) == {"email_id", "group_id"}
            self.state = "sent"

    def _run(self, work: Coroutine[object, object, T]) -> T:
        return self.loop.run_until_complete(work)


def _plan(proxy: NatsProxy, fault: str) -> None:
    match fault:
        case "key refused":
            proxy.answer(KEY_SUBJECT, 1, nats_proxy.js_error(503, 10077, "maximum bytes exceeded"))
        case "key lost":
            proxy.lose_request(KEY_SUBJECT, 1)
        case "key unanswered":
            proxy.lose_reply(KEY_SUBJECT, 1)
        case "key delayed":
            proxy.delay_request(KEY_SUBJECT, 1, LATE_SECONDS)
        case "key garbled":
            proxy.garble_reply(KEY_SUBJECT, 1)
        case "undo delayed":
            proxy.lose_reply(KEY_SUBJECT, 1)
            proxy.delay_request(KEY_SUBJECT, 1, LATE_SECONDS)
        case "outcome lost":
            _spare_one(proxy)
            proxy.lose_reply(KEY_SUBJECT, 1)
        case "outcome delayed":
            _spare_one(proxy)
            proxy.delay_request(KEY_SUBJECT, 1, LATE_SECONDS)
        case "outcome garbled":
            _spare_one(proxy)
            proxy.garble_reply(KEY_SUBJECT, 1)


def _spare_one(proxy: NatsProxy) -> None:
    """Leave the write that takes the key unchanged."""
    proxy.rewrite(KEY_SUBJECT, 1, lambda publication: publication)


def test_no_schedule_sends_two_mails_under_one_key() -> None:
    async def machine_on(url: str) -> None:
        TwoRelays.url = url
        TwoRelays.loop = asyncio.new_event_loop()
        limits = settings(max_examples=20, stateful_step_count=12)
        await asyncio.to_thread(run_state_machine_as_test, TwoRelays, settings=limits)
        TwoRelays.loop.close()

    async def main() -> None:
        async with nats_server.running() as server:
            await machine_on(server.url)

    asyncio.run(main())
