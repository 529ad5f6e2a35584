# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An error that no code expects costs neither the messages of other emails nor the polling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.kv.bucket import Bucket
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy
from tests.stack.waiting import until
from tests.tracker.events.polling import Verdicts, logged, of_email, polling, receives
from tests.tracker.examples import EMAIL, record
from tracker.events import records, ses_event, settlement
from tracker.events.backoff import Backoff
from tracker.events.push_events import PushEvents
from tracker.events.record_updater import Applied, RecordUpdater, Verdict
from tracker.events.sqs import Queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.ses_event import EngagementEvent, Ignored

pytestmark = pytest.mark.usefixtures("hasty")

ERRORS = [OSError("unforeseen"), ValueError("unforeseen"), KeyError("unforeseen"), RecursionError(), TimeoutError()]


class Breaking(Verdicts):
    """Raises an error for one email, at each call after the first ones, until it is repaired."""

    def __init__(self, error: Exception, email_id: str, *verdicts: Verdict) -> None:
        super().__init__(*verdicts, Verdict.SETTLED)
        self.is_repaired = False
        self._error = error
        self._email_id = email_id
        self._good_calls = len(verdicts)

    async def _applied(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        if email_id != self._email_id or self.is_repaired:
            return Applied(verdict=Verdict.SETTLED)
        if self._good_calls:
            self._good_calls -= 1
            return await super()._applied(email_id, events)
        raise self._error


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again after 0.05 s."""
    monkeypatch.setattr(settlement, "BACKOFF", Backoff(0.05, 0.05))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_for_one_email_leaves_the_others_of_its_batch_settled(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    updater = Breaking(error, "broken")
    broken = sqs.send(of_email("broken"))
    others = [sqs.send(of_email(f"email-{number}")) for number in range(5)]
    async with polling(sqs, updater) as running:
        await until(lambda: len(sqs.deleted) == 5)
        assert sorted(sqs.deleted) == sorted(others)
        assert running.outage.is_over.is_set()
        others.append(sqs.send(of_email("later")))
        await until(lambda: len(sqs.deleted) == 6)
        await updater.wait_until_asked(len(updater.asked) + 3)
        [line] = logged(caplog, "event.failed")
        assert (line["email_id"], line["exc_info"][1]) == ("broken", error)
        updater.is_repaired = True
        await sqs.wait_until_empty()
        await until(lambda: not running.settlement.held)
    assert sqs.deleted[-1] == broken
    assert set(receives(sqs)) == {"1"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_while_an_event_is_held_during_an_outage_is_tried_again_and_ends_the_outage(
    sqs: SqsEndpoint, error: Exception
) -> None:
    updater = Breaking(error, "broken", Verdict.AGAIN, Verdict.AGAIN)
    broken = sqs.send(of_email("broken"))
    async with polling(sqs, updater, long_polls=1) as running:
        await updater.wait_until_asked(4)
        await running.outage.is_over.wait()
        other = sqs.send(of_email("other"))
        await until(lambda: sqs.deleted)
        assert sqs.deleted == [other]
        assert running.settlement.held == 1
        updater.is_repaired = True
        await sqs.wait_until_empty()
    assert sqs.deleted == [other, broken]


@pytest.mark.parametrize("answer", [b"", b"{}", b"no JSON"])
async def test_polling_goes_on_after_a_full_bucket_and_an_unreadable_answer(
    sqs: SqsEndpoint, nats: NatsServer, recipients: Bucket, answer: bytes
) -> None:
    for email_id in (EMAIL, "other"):
        await recipients.create(email_id, records.encode(record()))
    async with (
        nats_proxy.running(nats.url) as proxy,
        nats_connection.opened(ProcessSettings(nats_url=proxy.url), "test") as connection,
        Inbox(connection) as inbox,
    ):
        updater = RecordUpdater(Bucket(inbox, connection, recipients.name), PushEvents(connection))
        proxy.answer("$KV.", 3, nats_proxy.js_error(503, 10077, "maximum bytes exceeded"))
        proxy.garble_reply("$KV.", 1, answer)
        sqs.send(of_email())
        async with polling(sqs, updater, long_polls=1):
            await sqs.wait_until_empty()
            sqs.send(of_email("other"))
            await sqs.wait_until_empty()
    for email_id in (EMAIL, "other"):
        assert records.decode((await recipients.get(email_id)).value).delivered


async def test_an_outage_ends_with_the_last_holder_that_dies(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settlement, "VISIBILITY_SECONDS", 0.2)

    async def change_visibility(_queue: Queue, _messages: object, _seconds: int) -> None:
        raise RuntimeError("can't start new thread")

    updater = Verdicts(Verdict.AGAIN)
    sqs.send(of_email("held"))
    async with polling(sqs, updater, long_polls=1) as running:
        await until(lambda: running.settlement.held)
        with monkeypatch.context() as patched:
            patched.setattr(Queue, "change_visibility", change_visibility)
            await until(lambda: not running.settlement.held)
        assert running.outage.is_over.is_set()
        await until(lambda: logged(caplog, "task.failed"))
        updater.settle()
        other = sqs.send(of_email("other"))
        await until(lambda: other in sqs.deleted)


async def test_a_message_whose_parser_fails_is_left_to_the_queue_and_the_others_are_settled(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parse = ses_event.parse

    def fail(body: str, **others: object) -> EngagementEvent | Ignored:
        if "broken" in body:
            raise ZeroDivisionError
        return parse(body, **others)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(ses_event, "parse", fail)
    broken = sqs.send(of_email("broken"))
    other = sqs.send(of_email("other"))
    async with polling(sqs, Verdicts(Verdict.SETTLED)):
        await until(lambda: sqs.deleted)
        assert (sqs.deleted, sqs.in_flight) == ([other], 1)
    assert [line["message_id"] for line in logged(caplog, "event.failed")] == [broken]
