# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Request bytes to reply bytes for `get_email_engagement_analytics`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract, decoding
from shared.errors import BucketMissing, KeyMissing, StoreUnavailable
from tracker.errors import IndexCorrupt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Count = Callable[[str], Awaitable[contract.GetEmailEngagementAnalyticsResponse]]

log = logging.getLogger(__name__)

REASONS: Final[dict[type[Exception], str]] = {
    KeyMissing: contract.NOT_FOUND,
    StoreUnavailable: contract.INTERNAL_ERROR,
    BucketMissing: contract.INTERNAL_ERROR,
    IndexCorrupt: contract.INTERNAL_ERROR,
}

_read = decoding.decoder(contract.GetEmailEngagementAnalyticsRequest)
_encode = msgspec.json.Encoder().encode


class EmailAnalyticsHandler:
    """Answers with the counts of a group."""

    def __init__(self, count: Count) -> None:
        """Ask `count` for each group."""
        self._count = count
        self.results: Counter[str] = Counter()

    async def __call__(self, data: bytes, _headers: object = None) -> bytes:
        """Answer one request."""
        try:
            request = _read(data)
        except decoding.Malformed:
            return self._refusal(contract.INVALID_REQUEST_PAYLOAD)
        if not request.group_id:
            return self._refusal(contract.INVALID_REQUEST_PAYLOAD)
        try:
            counted = _encode(await self._count(request.group_id))
        except tuple(REASONS) as error:
            if not isinstance(error, KeyMissing):
                subject = contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT
                log.error("query.failed", extra={"subject": subject, "error": str(error)})
            return self._refusal(REASONS[type(error)])
        self.results["ok"] += 1
        return counted

    def _refusal(self, reason: str) -> bytes:
        self.results[reason] += 1
        return _encode(contract.ErrorResponse(reason))
