# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each error that a read can raise has one reply, which is the same for both queries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from shared import contract
from shared import errors as shared_errors
from tests.tracker.examples import EMAIL
from tracker import errors as tracker_errors
from tracker.queries import replies
from tracker.queries.email_analytics_handler import EmailAnalyticsHandler
from tracker.queries.email_status_handler import EmailStatusHandler

if TYPE_CHECKING:
    from shared.kv.bucket import Bucket
    from tracker.queries.group_reader import GroupReader

OF_WRITES = {
    shared_errors.StoreError,
    shared_errors.KeyTaken,
    shared_errors.RevisionConflict,
    shared_errors.ValueTooLarge,
    tracker_errors.QueueUnavailable,
    tracker_errors.RecordFull,
    tracker_errors.Stopping,
}
OF_CALLERS = shared_errors.ServiceError
INTERNAL: tuple[type[Exception], ...] = (
    shared_errors.StoreUnavailable,
    shared_errors.SetupIncomplete,
    shared_errors.BucketMissing,
    shared_errors.BucketUnfit,
    shared_errors.StoreFull,
    shared_errors.StreamMissing,
    shared_errors.StreamUnfit,
    shared_errors.NotPermitted,
    shared_errors.NoReply,
    tracker_errors.RecordCorrupt,
    tracker_errors.IndexCorrupt,
)
EXPECTED: dict[type[Exception], str] = {
    shared_errors.KeyMissing: contract.NOT_FOUND,
    **dict.fromkeys(INTERNAL, contract.INTERNAL_ERROR),
}


class Failing:
    """Stands for a bucket, a group reader or the counts: each call raises the error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def get(self, *_: object) -> Any:
        """Raise it."""
        raise self._error

    email_ids = count = get


def status_handler(error: Exception) -> EmailStatusHandler:
    failing = Failing(error)
    return EmailStatusHandler(cast("Bucket", failing), cast("GroupReader", failing), failing.get)


def analytics_handler(error: Exception) -> EmailAnalyticsHandler:
    return EmailAnalyticsHandler(Failing(error).count)


def kinds() -> set[type[Exception]]:
    """The errors of both modules."""
    found = [*vars(shared_errors).values(), *vars(tracker_errors).values()]
    return {kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)}


def test_each_error_has_a_reply_or_cannot_come_from_a_read() -> None:
    of_reads = {kind for kind in kinds() - OF_WRITES if not issubclass(kind, OF_CALLERS)}
    assert of_reads == set(EXPECTED)
    assert {kind: replies.reason_for(kind("x")) for kind in of_reads} == EXPECTED
    assert not any(issubclass(kind, tuple(replies.REASONS)) for kind in OF_WRITES)


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize(
    ("make", "query"),
    [
        (status_handler, {"email_id": EMAIL}),
        (status_handler, {"group_id": "g"}),
        (analytics_handler, {"group_id": "g"}),
    ],
)
async def test_both_queries_reply_to_each_error(
    make: Any, query: dict[str, str], kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    handler = make(kind("x"))
    assert json.loads(await handler(json.dumps(query).encode())) == {"error": EXPECTED[kind]}
    assert handler.results == {EXPECTED[kind]: 1}
    assert [one.message for one in caplog.records] == ["query.failed"] * (kind in INTERNAL)


@pytest.mark.parametrize("make", [status_handler, analytics_handler])
async def test_a_malformed_request_is_refused_and_counted(make: Any) -> None:
    handler = make(AssertionError())
    assert json.loads(await handler(b"{")) == {"error": contract.INVALID_REQUEST_PAYLOAD}
    assert handler.results == {contract.INVALID_REQUEST_PAYLOAD: 1}


@pytest.mark.parametrize("make", [status_handler, analytics_handler])
async def test_an_unexpected_error_is_left_to_the_endpoint(make: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        await make(ZeroDivisionError())(b'{"group_id":"g"}')
