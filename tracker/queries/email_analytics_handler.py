# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Answers `get_email_engagement_analytics`: request bytes to reply bytes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from shared import contract
from tracker.queries import replies
from tracker.queries.replies import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Count = Callable[[str], Awaitable[contract.GetEmailEngagementAnalyticsResponse]]
    """Returns the counts of a group."""

_decode = replies.decoder(contract.GetEmailEngagementAnalyticsRequest, lambda asked: asked.group_id)
_encode = msgspec.json.Encoder().encode


class EmailAnalyticsHandler:
    """Answers with the counts of a group."""

    def __init__(self, count: Count) -> None:
        """Call `count` for each request."""
        self._count = count
        self.results: Counter[str] = Counter()

    async def __call__(self, data: bytes, _headers: object = None) -> bytes:
        """Answer one request."""
        subject = contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT
        return await replies.reply(self._answer(data), subject, self.results)

    async def _answer(self, data: bytes) -> bytes:
        request = _decode(data)
        if not request.group_id:
            raise Refused(contract.INVALID_REQUEST_PAYLOAD)
        return _encode(await self._count(request.group_id))
