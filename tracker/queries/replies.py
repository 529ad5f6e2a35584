# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The part that both query handlers share: an error becomes an error of the contract, and each reply is counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from shared import contract, decoding
from shared.errors import KeyMissing, StoreUnavailable
from tracker.errors import IndexCorrupt, RecordCorrupt

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

REASONS: Final[dict[type[Exception], str]] = {
    KeyMissing: contract.NOT_FOUND,
    StoreUnavailable: contract.INTERNAL_ERROR,
    RecordCorrupt: contract.INTERNAL_ERROR,
    IndexCorrupt: contract.INTERNAL_ERROR,
}
"""The reply for each error, and for the errors derived from it."""

S = TypeVar("S", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """The request is answered with an error of the contract."""

    def __init__(self, reason: str, *, total: int | UnsetType = UNSET) -> None:
        """Set the fields of the reply."""
        super().__init__(reason)
        self.reply = contract.ErrorResponse(reason, total)


def decoder(kind: type[S], is_whole: Callable[[S], object]) -> Callable[[bytes], S]:
    """Return a function that reads a request, and raises Refused if it is malformed."""
    read = decoding.request_decoder(kind, is_whole)

    def decode(data: bytes) -> S:
        try:
            return read(data)
        except decoding.Malformed as error:
            raise Refused(contract.INVALID_REQUEST_PAYLOAD) from error

    return decode


def reason_for(error: Exception) -> str:
    """Return the error of the contract for one of the errors in REASONS."""
    return next(reason for kind, reason in REASONS.items() if isinstance(error, kind))


async def reply(answer: Awaitable[bytes], subject: str, results: Counter[str]) -> bytes:
    """Return the answer, or the reply for its error; count it in `results` as `ok` or by its error."""
    try:
        answered = await answer
    except Refused as refused:
        error = refused.reply
    except tuple(REASONS) as failure:
        error = contract.ErrorResponse(reason_for(failure))
        if error.error == contract.INTERNAL_ERROR:
            log.error("query.failed", extra={"subject": subject, "error": str(failure)})
    else:
        results["ok"] += 1
        return answered
    results[error.error] += 1
    return _encode(error)
