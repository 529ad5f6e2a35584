# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Request bytes to reply bytes for `get_email_status`: one record by id, or those of a group in pages."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract, decoding, group_index
from shared.errors import BucketMissing, KeyMissing, StoreUnavailable
from tracker.errors import IndexCorrupt, RecordCorrupt
from tracker.events import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.kv.bucket import Bucket
    from tracker.queries.group_reader import GroupReader

log = logging.getLogger(__name__)

REASONS: Final[dict[type[Exception], str]] = {
    KeyMissing: contract.NOT_FOUND,
    StoreUnavailable: contract.INTERNAL_ERROR,
    BucketMissing: contract.INTERNAL_ERROR,
    RecordCorrupt: contract.INTERNAL_ERROR,
    IndexCorrupt: contract.INTERNAL_ERROR,
}

_read = decoding.decoder(contract.GetEmailStatusRequest)
_encode = msgspec.json.Encoder().encode


class _Invalid(Exception):
    pass


class EmailStatusHandler:
    """Answers from KV, and never more than one reply can hold."""

    def __init__(self, recipients: Bucket, groups: GroupReader, max_payload: Callable[[], int]) -> None:
        """Ask `max_payload` for each group: the next server may take another size."""
        self._recipients = recipients
        self._groups = groups
        self._max_payload = max_payload
        self.results: Counter[str] = Counter()

    async def __call__(self, data: bytes, _headers: object = None) -> bytes:
        """Answer one request."""
        try:
            request = _read(data)
        except decoding.Malformed:
            return self._refusal(contract.INVALID_REQUEST_PAYLOAD)
        try:
            return await self._answer(request)
        except _Invalid as invalid:
            return self._refusal(str(invalid))
        except tuple(REASONS) as error:
            if not isinstance(error, KeyMissing):
                log.error("query.failed", extra={"subject": contract.GET_EMAIL_STATUS_SUBJECT, "error": str(error)})
            return self._refusal(REASONS[type(error)])

    async def _answer(self, request: contract.GetEmailStatusRequest) -> bytes:
        if request.email_id and request.group_id:
            raise _Invalid(contract.ONLY_ONE_ID)
        if request.email_id:
            return await self._one(request.email_id)
        if request.group_id:
            return await self._page(request.group_id, *_bounds(request))
        raise _Invalid(contract.EMAIL_OR_GROUP_REQUIRED)

    async def _one(self, email_id: str) -> bytes:
        if not group_index.is_email_id(email_id):
            raise KeyMissing(email_id)
        entry = await self._recipients.get(email_id)
        return self._found(records.encode(records.decode(entry.value)), total=1)

    async def _page(self, group_id: str, offset: int, limit: int | None) -> bytes:
        email_ids = await self._groups.email_ids(group_id)
        wanted = email_ids[offset:] if limit is None else email_ids[offset : offset + limit]
        reply = b"["
        async for some in self._groups.records(wanted):
            reply += b"".join(records.encode(record) + b"," for record in some)
            if len(reply) > self._max_payload():  # the rest need not be read
                break
        return self._found((reply.removesuffix(b",") + b"]"), total=len(email_ids))

    def _found(self, reply: bytes, total: int) -> bytes:
        if len(reply) > self._max_payload():
            return self._refusal(contract.RESPONSE_TOO_LARGE, total=total)
        self.results["ok"] += 1
        return reply

    def _refusal(self, reason: str, *, total: int | msgspec.UnsetType = msgspec.UNSET) -> bytes:
        self.results[reason] += 1
        return _encode(contract.ErrorResponse(reason, total))


def _bounds(request: contract.GetEmailStatusRequest) -> tuple[int, int | None]:
    """Return offset and limit; no limit, or 0, means up to the end."""
    offset = _whole(request.offset, contract.INVALID_OFFSET)
    limit = _whole(request.limit, contract.INVALID_LIMIT)
    return offset, limit or None


def _whole(number: float | None, otherwise: str) -> int:
    if number is None:
        return 0
    if number != number // 1 or number < 0:
        raise _Invalid(otherwise)
    return int(number)
