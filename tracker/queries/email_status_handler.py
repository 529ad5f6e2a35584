# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Answers `get_email_status`, request bytes to reply bytes: one record by its id, or those of a group in pages.

A page needs memory of some times its size, so few are read at once; the other requests wait. Large pages have a line of
their own, so that small ones do not wait behind them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from shared import contract, group_index
from shared.errors import KeyMissing
from tracker.events import records
from tracker.queries import replies
from tracker.queries.replies import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from shared.kv.bucket import Bucket
    from tracker.queries.group_reader import GroupReader

SMALL_PAGE: Final = 500  # emails
SMALL_PAGES_AT_ONCE: Final = 8
LARGE_PAGES_AT_ONCE: Final = 2  # one is encoded while the other is read

_decode = replies.decoder(contract.GetEmailStatusRequest, lambda asked: asked.email_id or asked.group_id)


class EmailStatusHandler:
    """Answers from KV, with at most as many bytes as one reply may have."""

    def __init__(
        self,
        recipients: Bucket,
        groups: GroupReader,
        payload_limit: Callable[[int], Awaitable[int]],
        *,
        by_both_ids: bool = False,
    ) -> None:
        """Call `payload_limit` with the size of each answer: the server may have another limit than at the start.

        With `by_both_ids` a query for an email may name the group that the email must belong to.
        """
        self._recipients = recipients
        self._groups = groups
        self._payload_limit = payload_limit
        self._by_both_ids = by_both_ids
        self._small_pages = asyncio.Semaphore(SMALL_PAGES_AT_ONCE)
        self._large_pages = asyncio.Semaphore(LARGE_PAGES_AT_ONCE)
        self.results: Counter[str] = Counter()

    async def __call__(self, data: bytes, _headers: object = None) -> bytes:
        """Answer one request."""
        return await replies.reply(self._answer(data), contract.GET_EMAIL_STATUS_SUBJECT, self.results)

    async def _answer(self, data: bytes) -> bytes:
        request = _decode(data)
        if request.email_id and request.group_id and not self._by_both_ids:
            raise Refused(contract.ONLY_ONE_ID)
        if request.email_id:
            return await self._record(group_index.email_id_of(request.email_id), request.group_id)
        if request.group_id:
            return await self._page(request.group_id, *_bounds(request))
        raise Refused(contract.EMAIL_OR_GROUP_REQUIRED)

    async def _record(self, email_id: str, group_id: str | None) -> bytes:
        if not group_index.is_email_id(email_id):
            raise KeyMissing(email_id)
        record = records.decode((await self._recipients.get(email_id)).value)
        if group_id and record.group_id != group_id:
            raise KeyMissing(email_id)
        return await self._checked(records.encode(record), total=1)

    async def _page(self, group_id: str, offset: int, limit: int | None) -> bytes:
        end = None if limit is None else offset + limit
        async with self._small_pages:
            email_ids = await self._groups.email_ids(group_id)
            if len(email_ids[offset:end]) <= SMALL_PAGE:
                return await self._records(email_ids[offset:end], total=len(email_ids))
        del email_ids  # they would stay in memory while this request waits
        async with self._large_pages:
            email_ids = await self._groups.email_ids(group_id)
            return await self._records(email_ids[offset:end], total=len(email_ids))

    async def _records(self, email_ids: Sequence[str], total: int) -> bytes:
        reply = bytearray(b"[")
        async for some in self._groups.records(email_ids):
            for record in some:
                reply += records.encode(record)
                reply += b","
            if len(reply) > await self._payload_limit(len(reply)):  # the other records need not be read
                break
        return await self._checked(bytes(reply).removesuffix(b",") + b"]", total)

    async def _checked(self, reply: bytes, total: int) -> bytes:
        if len(reply) > await self._payload_limit(len(reply)):
            raise Refused(contract.RESPONSE_TOO_LARGE, total=total)
        return reply


def _bounds(request: contract.GetEmailStatusRequest) -> tuple[int, int | None]:
    """Return offset and limit; a missing limit, or 0, is None: up to the end."""
    offset = _whole(request.offset, contract.INVALID_OFFSET)
    limit = _whole(request.limit, contract.INVALID_LIMIT)
    return offset, limit or None


def _whole(number: float | None, otherwise: str) -> int:
    if number is None:
        return 0
    if number != number // 1 or number < 0:
        raise Refused(otherwise)
    return int(number)
