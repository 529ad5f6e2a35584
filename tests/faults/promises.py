# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What must hold after faults of single messages: all of `tests.system.outcome` and more, since no process died."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.faults import pushes
from tests.system import outcome, ses
from tests.system.callers import OUTCOME_UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.faults.pushes import Pushes
    from tests.faults.queries import Queries
    from tests.system.outcome import Facts, Stored
    from tests.system.requests import Requests


class Promises:
    """Compares what happened with what was stored; `touched` and `repeated` are those of `Chance`."""

    def __init__(
        self, requests: Requests, pushed: Pushes, queries: Queries, *, touched: set[str], repeated: set[str]
    ) -> None:
        self._touched = touched
        self._repeated = repeated
        self._requests = requests
        self._pushed = pushed
        self._queries = queries

    def __call__(self, now: Stored, facts: Facts) -> list[str]:
        """Return every broken promise as a line."""
        sent = Counter(map(outcome.email_id, facts.mails))
        return [
            *outcome.line("mails sent more than once", self._sent_again(facts)),
            *outcome.without_a_trace(now, facts.callers.acknowledged, sent),
            *_not_recorded(now, sent),
            *outcome.miscounted(now, facts.ses, sent),
            *_wrong_keys(now, facts),
            *self._wrong_replies(),
            *self._wrong_pushes(facts, sent),
            *outcome.line("answers that went back behind an earlier one", self._queries.backwards),
            *outcome.line("bounced and not on the suppression list", _not_suppressed(now, facts)),
        ]

    def _sent_again(self, facts: Facts) -> Iterable[str]:
        """Return the subjects of mails that were sent again, except where the proxy repeated a request without key."""
        requests = [self._requests.asked[inbox] for inbox in self._repeated if inbox in self._requests.asked]
        allowed = {request.get("subject") for request in requests if "idempotency_key" not in request}
        by_subject = Counter(map(ses.subject, facts.mails))
        return (name for name, count in by_subject.items() if count > 1 and name not in allowed)

    def _wrong_replies(self) -> list[str]:
        asked, replies = self._requests.asked, self._requests.replies
        wrong = {
            inbox: f"{replies[inbox]} to {_short(asked[inbox])}"
            for inbox in asked
            if inbox not in self._touched and (replies[inbox] != 1 or inbox in self._requests.unanswered)
        }
        return outcome.line("requests without exactly one reply in time", wrong.values())

    def _wrong_pushes(self, facts: Facts, sent: Iterable[str]) -> list[str]:
        expected = {f"{pushes.DELIVERED} {one}": 1 for one in sent}
        expected |= {f"{pushes.OPENED} {one}": count for one, count in facts.ses.opens.items()}
        expected |= {f"{pushes.FAILED} {one}": 1 for one in facts.ses.failed}
        return outcome.line(
            "push events that were not published once",
            (
                f"{name} ({self._pushed.counts[name]} of {count})"
                for name, count in expected.items()
                if name not in self._touched and self._pushed.counts[name] != count
            ),
        )


def _not_recorded(now: Stored, sent: Iterable[str]) -> list[str]:
    """Return the emails without record or place, also those whose callers got no reply, and the other way round."""
    places = Counter(one for email_ids in now.groups.values() for one in email_ids)
    sent = set(sent)
    return [
        *outcome.line("sent and without a record", (one for one in sent if one not in now.records)),
        *outcome.line("sent and not once in its group", (one for one in sent if places[one] != 1)),
        *outcome.line("recorded or in a group and not sent", {*now.records, *places} - sent),
    ]


def _wrong_keys(now: Stored, facts: Facts) -> list[str]:
    """Return the idempotency keys that are used up although the mail server has answered each time."""
    unfinished = (f"{key[:8]} ({one['email_id']})" for key, one in now.keys.items() if one["state"] != "sent")
    unknown = [OUTCOME_UNKNOWN] * facts.callers.replies[OUTCOME_UNKNOWN]
    return [
        *outcome.line("idempotency keys that are neither free nor sent", unfinished),
        *outcome.line("replies of an unknown outcome", unknown),
    ]


def _not_suppressed(now: Stored, facts: Facts) -> Iterable[str]:
    listed = {one["address"] for one in now.suppressions.values()}
    return (to for to in facts.ses.failed.values() if to not in listed)


def _short(request: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in request.items() if name not in {"html", "text", "to"})
