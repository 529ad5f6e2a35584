# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Request bytes to reply bytes for `get_email_engagement_analytics`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract
from shared.errors import KeyMissing, StoreUnavailable
from tracker import analytics
from tracker.errors import IndexCorrupt

if TYPE_CHECKING:
    from tracker.group_reader import GroupReader

log = logging.getLogger(__name__)

REASONS: Final[dict[type[Exception], str]] = {
    KeyMissing: contract.NOT_FOUND,
    StoreUnavailable: contract.INTERNAL_ERROR,
    IndexCorrupt: contract.INTERNAL_ERROR,
}

_decode = msgspec.json.Decoder(contract.GetEmailEngagementAnalyticsRequest).decode
_encode = msgspec.json.Encoder().encode


class EmailAnalyticsHandler:
    """Counts the records of a group."""

    def __init__(self, groups: GroupReader) -> None:
        """Read through `groups`."""
        self._groups = groups

    async def __call__(self, data: bytes) -> bytes:
        """Answer one request."""
        try:
            request = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _error(contract.INVALID_REQUEST_PAYLOAD)
        if not request.group_id:
            return _error(contract.INVALID_REQUEST_PAYLOAD)
        try:
            return _encode(await self._count(request.group_id))
        except tuple(REASONS) as error:
            if not isinstance(error, KeyMissing):
                subject = contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT
                log.error("query.failed", extra={"subject": subject, "error": str(error)})  # noqa: TRY400
            return _error(REASONS[type(error)])

    async def _count(self, group_id: str) -> contract.GetEmailEngagementAnalyticsResponse:
        email_ids = await self._groups.email_ids(group_id)
        records = [record async for some in self._groups.records(email_ids) for record in some]
        return analytics.count(group_id, len(email_ids), records)


def _error(reason: str) -> bytes:
    return _encode(contract.ErrorResponse(reason))
