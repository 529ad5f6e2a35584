# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The checks of the events: the record, the counts, the push events."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from shared import contract
from tests.demo import events, mails
from tests.demo.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.demo.caller import Push
    from tests.demo.events import Notification, Script

SUBJECTS = {
    "delivery": contract.EMAIL_DELIVERED_SUBJECT,
    "open": contract.EMAIL_OPENED_SUBJECT,
    "click": contract.EMAIL_LINK_CLICKED_SUBJECT,
    "bounce": contract.EMAIL_FAILED_SUBJECT,
    "complaint": contract.EMAIL_FAILED_SUBJECT,
}
COUNTS = {"total_sent": 4, "delivered": 3, "opened": 3, "unique_opened": 2, "failed": 2}


def of_record(record: contract.EmailRecipientRecord, script: Script) -> Iterable[Check]:
    """The record of the plain mail has its events."""
    [delivery] = _events_of(script, "delivery")
    opens = _events_of(script, "open")
    [click] = _events_of(script, "click")
    yield Check(
        "delivered at the time of SES, although an open came first",
        (True, delivery.at),
        (record.delivered, record.delivered_at),
    )
    yield Check(
        "opened twice: the repeated event is not counted",
        (True, 2, tuple(contract.OpenEvent(event_id=one.message_id, opened_at=one.at) for one in opens)),
        (record.opened, record.open_count, record.opened_at_list),
    )
    yield Check(
        "clicked once, with the link of the event",
        (True, 1, (contract.ClickEvent(event_id=click.message_id, link=events.CLICKED, clicked_at=click.at),)),
        (record.clicked, record.click_count, record.click_list),
    )
    yield Check("not failed", (False, msgspec.UNSET), (record.failed, record.failure))


def of_analytics(counts: Mapping[str, Any]) -> Iterable[Check]:
    """The counts are those of the events."""
    yield Check("the group's counts are those of the events", {"group_id": mails.GROUP, **COUNTS}, counts)


def of_pushes(pushes: Sequence[Push], script: Script, email_ids: Mapping[str, str]) -> Iterable[Check]:
    """Each new event was pushed once."""
    new = script.distinct
    yield Check(
        f"{len(new)} push events: one for each event, none for the repeated one",
        Counter((SUBJECTS[one.kind], email_ids[one.mail.to], _reason(one)) for one in new),
        Counter(_pushed(push) for push in pushes),
    )


def _events_of(script: Script, kind: str) -> list[Notification]:
    return sorted(
        (one for one in script.distinct if one.mail is mails.PLAIN and one.kind == kind), key=lambda one: one.at
    )


def _reason(event: Notification) -> str:
    return event.kind if SUBJECTS[event.kind] == contract.EMAIL_FAILED_SUBJECT else ""


def _pushed(push: Push) -> tuple[str, str, str]:
    event = msgspec.json.decode(push.data)
    return push.subject, event.get("email_id", ""), event.get("reason", "")
