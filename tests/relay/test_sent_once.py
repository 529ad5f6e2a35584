# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Two relays and one real bucket, in any schedule of repeats, outcomes, faults and deaths, compared with a model."""

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
from relay.records.idempotency_store import Claims
from relay.send_email_handler import SendEmailHandler
from shared import contract
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection
from shared.nats import inbox as inboxes
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.relay.test_send_email_handler import OPTIONS, REQUEST, Store
from tests.stack import nats_proxy, nats_server
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from relay.smtp.connection import Envelope
    from tests.stack.nats_proxy import NatsProxy

T = TypeVar("T")
Reply = dict[str, Any]

LOST_SECONDS = 0.1
CLAIM_SUBJECT = f"$KV.{contract.EMAIL_IDEMPOTENCY_BUCKET}."
TEXTS = ("one text", "another")
FAILED = {"error": contract.DELIVERY_FAILED}
IN_PROGRESS = {"error": contract.REQUEST_IN_PROGRESS}
UNKNOWN = {"error": contract.OUTCOME_UNKNOWN}
REUSED = {"error": contract.IDEMPOTENCY_KEY_REUSED}
NO_PROMISE = {"error": contract.INTERNAL_ERROR}

outcomes = st.sampled_from(["accepted", "accepted", "refused", "unanswered", "dies"])
faults = st.sampled_from(["none", "none", "none", "claim refused", "claim lost", "claim unanswered", "outcome lost"])


class MailServer:
    """Takes mails of both relays as the test says, and counts those it may have taken."""

    event = "email.sent"

    def __init__(self) -> None:
        self.outcome = "accepted"
        self.taken = 0

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float) -> None:  # noqa: ARG002 - the face
        """Take a mail, or not."""
        await asyncio.sleep(0)
        if self.outcome == "refused":
            raise Rejected("no such user", 550)
        self.taken += 1
        if self.outcome == "unanswered":
            raise Uncertain("no answer after the final dot")
        if self.outcome == "dies":
            await asyncio.Event().wait()


class Relay:
    """What of a relay keeps the promise, on a connection of its own through a proxy of its own."""

    def __init__(self, url: str, mails: MailServer) -> None:
        self._url = url
        self._mails = mails
        self._open = AsyncExitStack()
        self.proxy: NatsProxy

    async def start(self) -> None:
        """Begin with nothing known from before."""
        self.proxy = await self._open.enter_async_context(nats_proxy.running(self._url))
        opened = await self._open.enter_async_context(
            connection.opened(ProcessSettings(nats_url=self.proxy.url), "relay")
        )
        inbox = await self._open.enter_async_context(Inbox(opened))
        await create_missing(opened, [contract.EMAIL_IDEMPOTENCY_BUCKET])
        bucket = Bucket(inbox, opened, contract.EMAIL_IDEMPOTENCY_BUCKET)
        self.claims = await self._open.enter_async_context(Claims(bucket))
        self.believe(OPTIONS.longest_request)

    def believe(self, longest: timedelta) -> None:
        """Take it that a request may be under way for so long."""
        options = OPTIONS._replace(longest_request=longest)
        self._handler = SendEmailHandler(self._mails, Store(), self.claims, options)

    async def answer(self, key: str, text: str) -> Reply:
        """Answer a request."""
        body = json.dumps({**REQUEST, "text": text, "idempotency_key": key}).encode()
        reply: Reply = json.loads(await self._handler(body))
        return reply

    async def stop(self) -> None:
        """Disconnect."""
        await self._open.aclose()


class TwoRelays(RuleBasedStateMachine):
    """The model is what one careful relay would know of one key."""

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
        """One request, while KV does not do what it should."""
        self.mails.outcome = outcome
        self._run(self._ask(first, text, fault))

    @rule(text=st.sampled_from(TEXTS), outcome=outcomes, repeats=st.integers(2, 8))
    def many_ask_at_once(self, text: str, outcome: str, repeats: int) -> None:
        """The same request at both relays, again and again."""
        self.mails.outcome = outcome
        self._run(self._ask_at_once(text, repeats))

    @rule()
    def time_passes(self) -> None:
        """So much of it that nothing of before can be under way still."""
        if self.state == "dead":
            self.state = "unknown"
        for relay in self.relays:
            relay.believe(timedelta(0) if self.state == "unknown" else OPTIONS.longest_request)

    def teardown(self) -> None:
        """Whatever happened: one mail at most."""
        try:
            assert self.mails.taken <= 1
        finally:
            for task in self.abandoned:
                task.cancel()
            for relay in self.relays:
                self._run(relay.stop())

    async def _ask(self, which: int, text: str, fault: str) -> None:
        relay = self.relays[which]
        _plan(relay.proxy, fault)
        with pytest.MonkeyPatch.context() as patch:
            if fault != "none":  # else KV may take its time
                patch.setattr(inboxes, "TIMEOUT_SECONDS", LOST_SECONDS)
            reply = await self._reply(asyncio.create_task(relay.answer(self.key, text)))
            await until(lambda: not relay.claims.unsettled)
        relay.proxy.forget_plans()
        if reply == NO_PROMISE:  # nothing was sent, whoever had the key
            assert fault != "none"
            return
        self._check_first([reply], text)

    async def _ask_at_once(self, text: str, repeats: int) -> None:
        asked = [asyncio.create_task(relay.answer(self.key, text)) for relay in self.relays for _ in range(repeats)]
        replies = await asyncio.gather(*map(self._reply, asked))
        self._check_first(replies, text)

    async def _reply(self, asked: asyncio.Task[Reply]) -> Reply | None:
        """The reply, or None where the relay died over it."""
        taken = self.mails.taken
        while not asked.done():
            await asyncio.wait({asked}, timeout=0.01)
            if self.mails.outcome == "dies" and self.mails.taken > taken and not asked.done():
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
        """The key was free: one request had it, and the others saw that it was under way or how it ended."""
        self.text = text
        others = [reply for reply in seen if reply != IN_PROGRESS]
        if self.mails.outcome == "refused":
            assert others == [FAILED]
        elif self.mails.outcome == "dies":
            assert others == [None]
            assert known["null"] == 1
            self.state = "dead"
        elif self.mails.outcome == "unanswered":
            assert FAILED in others
            assert all(reply in (FAILED, UNKNOWN) for reply in others)
            assert known[json.dumps(FAILED)] == 1
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
        case "claim refused":
            proxy.answer(CLAIM_SUBJECT, 1, nats_proxy.js_error(503, 10077, "maximum bytes exceeded"))
        case "claim lost":
            proxy.lose_request(CLAIM_SUBJECT, 1)
        case "claim unanswered":
            proxy.lose_reply(CLAIM_SUBJECT, 1)
        case "outcome lost":
            proxy.rewrite(CLAIM_SUBJECT, 1, lambda publication: publication)
            proxy.lose_reply(CLAIM_SUBJECT, 1)


def test_no_schedule_sends_two_mails_under_one_key() -> None:
    async def machine_on(url: str) -> None:
        TwoRelays.url = url
        TwoRelays.loop = asyncio.new_event_loop()
        limits = settings(max_examples=40, stateful_step_count=12, deadline=None)
        await asyncio.to_thread(run_state_machine_as_test, TwoRelays, settings=limits)
        TwoRelays.loop.close()

    async def main() -> None:
        async with nats_server.running() as server:
            await machine_on(server.url)

    asyncio.run(main())
