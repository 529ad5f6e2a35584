# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What a caller is answered when the SMTP server refuses, cuts, stalls or garbles each step: see docs/failures.md."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from tests.relay import misbehaviour
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import Action, Close, Delay, Garbage, Reply, Reset, Silence, Store, always
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stack.certificates import Certificates
    from tests.stack.smtp_scripts import Stage

AT_ONCE: Final = 25  # all at once would exceed their times on a busy machine
RETRY_SECONDS: Final = 4.0  # enough for an attempt on a busy machine
STALL_SECONDS: Final = 2.0  # for a server that stalls
PATIENCE_SECONDS: Final = 20.0  # for any other, on a busy machine
ACCOUNT: Final[dict[str, Any]] = {"smtp_username": "u", "smtp_password": "p"}
GARBAGE: Final = Garbage(b"\x00\xff\r\n")
CONNECTING: Final[tuple[Stage, ...]] = ("greeting", "ehlo", "starttls", "auth")
BEFORE_THE_MESSAGE: Final[tuple[Stage, ...]] = ("mail", "rcpt", "data")
LOSSES: Final[tuple[Action, ...]] = (Close(), Reset(), GARBAGE, Silence())
TEMPORARY: Final = (Reply("451 4.3.0 later"), Reply("421 4.3.2 bye"), Reply("421 4.3.2 bye", close=True))
REFUSED: Final = Reply("554 5.7.1 no")
SENDER_REFUSED: Final = Reply("554 Message rejected: Email address is not verified.")
QUOTA: Final = Reply("454 Throttling failure: Daily message quota exceeded.")
SENT: Final = {"sent": True}


class Case(NamedTuple):
    """What the server does, the reply to the caller, and how often the mail may be at the server."""

    stage: Stage
    action: Action
    reply: dict[str, Any]
    mails: tuple[int, ...] = (0,)

    @property
    def seconds(self) -> float:
        """The time for a transaction."""
        action = self.action.then if isinstance(self.action, Store) else self.action
        return STALL_SECONDS if isinstance(action, Silence | Delay | Garbage) else PATIENCE_SECONDS


def failed(outcome: str, code: int = 0, *, permanent: bool = False) -> dict[str, Any]:
    more = {"smtp_code": code} if code else {}
    return {"error": "email delivery failed", "outcome": outcome, "permanent": permanent, **more}


def code_of(action: Action) -> int:
    return int(action.text[:3]) if isinstance(action, Reply) else 0


def cases() -> Iterator[Case]:
    """Yield each step with each fault."""
    for stage in CONNECTING:
        for action in (*LOSSES, *TEMPORARY, REFUSED):
            yield Case(stage, action, failed("not_sent", code_of(action)))
    for stage in BEFORE_THE_MESSAGE:
        for action in (*LOSSES, *TEMPORARY, QUOTA):
            yield Case(stage, action, failed("not_sent", code_of(action)))
        yield Case(stage, REFUSED, failed("not_sent", 554, permanent=True))
    yield Case("data", Garbage(b"250 2.0.0 Ok\r\n"), failed("not_sent"))
    yield Case("data", Garbage(b"354 go\r\n421 bye\r\n"), failed("not_sent"))
    for action in LOSSES:
        yield Case("body", action, failed("unknown"), (0, 1))
        yield Case("dot", action, failed("unknown"))
        yield Case("dot", Store(action), failed("unknown"), (1,))
    yield Case("dot", Delay(STALL_SECONDS * 3), failed("unknown"), (0, 1))
    yield Case("dot", Store(Reply("354 go on")), failed("unknown"), (1,))
    yield Case("body", Reply("451 4.3.0 later", close=True), failed("not_sent", 451))
    yield Case("body", Reply("554 5.7.1 no", close=True), failed("not_sent", 554, permanent=True))
    for reply in (*TEMPORARY, QUOTA):
        yield Case("dot", reply, failed("not_sent", code_of(reply)))
    yield Case("dot", REFUSED, failed("not_sent", 554, permanent=True))
    yield Case("dot", SENDER_REFUSED, failed("not_sent", 554))
    for action in (*LOSSES, *TEMPORARY, REFUSED):
        yield Case("quit", action, SENT, (1,))
    yield Case("dot", Store(Garbage(b"250 Ok\r\n\xff")), SENT, (1,))
    yield Case("dot", Store(Reply("250 Ok", close=True)), SENT, (1,))


CASES: Final = list(cases())


async def observed(case: Case, certificates: Certificates, advertise: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """Return the reply to one request, and how often its mail is at the server once all connections are closed."""
    tls = certificates.server_context() if case.stage == "starttls" else None
    options = scripted_smtp.Options(tls=tls, username="u", password="p", advertise=advertise)
    async with scripted_smtp.running(always(case.stage, case.action), options=options) as smtp:
        async with misbehaviour.relay(
            smtp, retry_seconds=RETRY_SECONDS, smtp_timeout_seconds=case.seconds, **ACCOUNT
        ) as relay:
            reply = await relay.send(1)
        await until(lambda: smtp.held_sessions == 0)
        await smtp.stop()
        return (SENT if "email_id" in reply else reply), misbehaviour.stored(smtp)[1]


@pytest.mark.parametrize("advertise", [("PIPELINING",), ()], ids=["pipelining", "one-by-one"])
async def test_each_fault_at_each_step_has_its_reply_and_its_outcome(
    trusted: Certificates, advertise: tuple[str, ...]
) -> None:
    """Many at the same time: each case that is retried lasts as long as a request."""
    places = asyncio.Semaphore(AT_ONCE)

    async def found_for(case: Case) -> tuple[dict[str, Any], int]:
        async with places:
            return await observed(case, trusted, advertise)

    found = await asyncio.gather(*map(found_for, CASES))
    wrong = [
        (case, reply, mails)
        for case, (reply, mails) in zip(CASES, found, strict=True)
        if reply != case.reply or mails not in case.mails
    ]
    assert wrong == []


async def test_a_server_that_cannot_be_reached_has_no_code() -> None:
    async with scripted_smtp.running() as smtp, misbehaviour.relay(smtp, retry_seconds=0.5) as relay:
        await smtp.stop()
        assert await relay.send(1) == failed("not_sent")


async def test_a_refused_account_fails_the_next_requests_without_an_attempt() -> None:
    options = scripted_smtp.Options(username="u", password="other")
    async with (
        scripted_smtp.running(options=options) as smtp,
        misbehaviour.relay(smtp, retry_seconds=8, **ACCOUNT) as relay,
    ):
        assert [await relay.send(number) for number in range(3)] == [failed("not_sent", 535)] * 3
        assert smtp.sessions == 1


async def test_a_mail_that_waits_for_a_connection_past_its_time_is_not_sent() -> None:
    async with (
        scripted_smtp.running(always("mail", Silence())) as smtp,
        misbehaviour.relay(smtp, retry_seconds=0.5, connections=1, smtp_timeout_seconds=1.5) as relay,
    ):
        first, second = await asyncio.gather(relay.send(1), relay.send(2))
        assert (first, second) == (failed("not_sent"), failed("not_sent"))
        assert smtp.sessions <= 1, "on a busy machine the time is over before the first session"


async def test_a_mail_that_the_rate_holds_back_past_its_time_is_answered_service_busy() -> None:
    async with (
        scripted_smtp.running() as smtp,
        misbehaviour.relay(smtp, retry_seconds=0.5, rate=0.1) as relay,
    ):
        replies = await asyncio.gather(relay.send(1), relay.send(2))
        assert "email_id" in replies[0]
        assert replies[1] == {"error": "service busy"}
        assert misbehaviour.stored(smtp) == {1: 1}
