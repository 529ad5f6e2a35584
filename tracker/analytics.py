# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: records become the counts of their group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.contract import EmailRecipientRecord, GetEmailEngagementAnalyticsResponse

if TYPE_CHECKING:
    from collections.abc import Iterable


def count(
    group_id: str, total_sent: int, records: Iterable[EmailRecipientRecord]
) -> GetEmailEngagementAnalyticsResponse:
    """Count the records that could be read, of `total_sent` emails that the group's index names."""
    delivered = opened = unique_opened = failed = 0
    for record in records:
        delivered += record.delivered
        opened += record.open_count
        unique_opened += record.opened
        failed += record.failed
    return GetEmailEngagementAnalyticsResponse(
        group_id=group_id,
        total_sent=total_sent,
        delivered=delivered,
        opened=opened,
        unique_opened=unique_opened,
        failed=failed,
    )
