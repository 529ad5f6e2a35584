# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Request bytes to reply bytes for `send_email`: the conductor of the relay, and the table error -> wire string."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType

from relay import idempotency, mime, submission
from relay.errors import Barred, ConnectionStale, Deferred, DeliveryError, Rejected, Suppressed, Uncertain, Unscreened
from relay.records import idempotency_store as claims
from relay.smtp.connection import Envelope
from relay.submission import Filtered, Refused, Submission
from shared import contract, decoding, redaction
from shared.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relay.idempotency import Claim, State
    from relay.records.idempotency_store import Held
    from relay.screening import Deliver
    from relay.submission import Policy

log = logging.getLogger(__name__)

REASONS: Final[dict[type[DeliveryError], str]] = {
    Deferred: contract.DELIVERY_FAILED,
    ConnectionStale: contract.DELIVERY_FAILED,
    Rejected: contract.DELIVERY_FAILED,
    Barred: contract.DELIVERY_FAILED,
    Uncertain: contract.DELIVERY_FAILED,
    Suppressed: contract.RECIPIENT_SUPPRESSED,
    Unscreened: contract.INTERNAL_ERROR,
}

_read = decoding.decoder(contract.SendEmailRequest)
_encode = msgspec.json.Encoder().encode
_NOTHING_SENT: Final = _encode(contract.SendEmailResponse(email_id="", group_id=""))


class Records(Protocol):
    """Stores the record of a sent email, now or later."""

    @property
    def has_room(self) -> bool: ...  # noqa: D102

    async def write(self, record: contract.EmailRecipientRecord, *, deadline: float) -> None: ...  # noqa: D102


class Claims(Protocol):
    """Keeps the promise that a key sends one mail."""

    async def make(self, key: str, claim: Claim) -> Held | Claim: ...  # noqa: D102

    async def settle(self, held: Held, state: State | None, *, deadline: float) -> None: ...  # noqa: D102


class Options(NamedTuple):
    """What the operator decides about sending."""

    policy: Policy
    configuration_set: str
    send_retry_seconds: float
    longest_request: timedelta
    traceparent: Callable[[], str] = str  # of the span of the request, where traces are on


class SendEmailHandler:
    """Checks, claims the key if there is one, sends, records, answers; in this order."""

    def __init__(self, deliver: Deliver, records: Records, claims_: Claims, options: Options) -> None:
        """Send through `deliver`, then record in `records`; once for each key in `claims_`."""
        self._deliver = deliver
        self._records = records
        self._claims = claims_
        self._options = options
        self.results: Counter[str] = Counter()

    async def __call__(self, data: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Answer one request."""
        deadline = asyncio.get_running_loop().time() + self._options.send_retry_seconds
        try:
            request = _read(data)
        except decoding.Malformed as error:
            log.warning("email.refused", extra={"reason": contract.INVALID_REQUEST_PAYLOAD, "error": str(error)})
            return self._refusal(contract.INVALID_REQUEST_PAYLOAD)
        new_group_id = "" if request.group_id else str(uuid4())
        match submission.accept(request, self._options.policy, email_id=str(uuid4()), new_group_id=new_group_id):
            case Refused(reason):
                log.warning("email.refused", extra={"reason": reason, "to": redaction.address(request.to or "")})
                return self._refusal(reason)
            case Filtered(recipient):
                log.info("email.filtered", extra={"to": redaction.address(recipient.address)})
                self.results["filtered"] += 1
                return _NOTHING_SENT
            case Submission() as accepted:
                return await self._accepted(accepted, request, headers, deadline)

    async def _accepted(
        self,
        accepted: Submission,
        request: contract.SendEmailRequest,
        headers: Mapping[str, str] | None,
        deadline: float,
    ) -> bytes:
        if not self._records.has_room:
            log.error("email.refused", extra={"reason": contract.SERVICE_BUSY, "error": "too many records are kept"})
            return self._refusal(contract.SERVICE_BUSY)
        try:
            key = idempotency.key_in(request, headers)
        except idempotency.Malformed:
            log.warning("email.refused", extra={"reason": contract.INVALID_IDEMPOTENCY_KEY})
            return self._refusal(contract.INVALID_IDEMPOTENCY_KEY)
        if key is None:
            return await self._send(accepted, deadline)
        return await self._send_once(key, idempotency.fingerprint(request), accepted, deadline)

    async def _send_once(self, key: str, fingerprint: str, accepted: Submission, deadline: float) -> bytes:
        claim = claims.started(fingerprint, email_id=accepted.email_id, group_id=accepted.group_id)
        try:
            held = await self._claims.make(key, claim)
        except StoreUnavailable as error:
            log.error("email.refused", extra={"reason": contract.INTERNAL_ERROR, "error": str(error)})
            return self._refusal(contract.INTERNAL_ERROR)
        if isinstance(held, idempotency.Claim):
            return self._repeat(held, claim)
        return await self._send(accepted, deadline, held)

    def _repeat(self, known: Claim, claim: Claim) -> bytes:
        longest = self._options.longest_request
        answer = idempotency.answer(known, claim.fingerprint, now=claim.started_at, longest=longest)
        if isinstance(answer, str):
            log.warning("email.refused", extra={"reason": answer, "email_id": known.email_id})
            return self._refusal(answer)
        log.info("email.repeated", extra={"email_id": known.email_id, "group_id": redaction.identifier(known.group_id)})
        self.results["repeated"] += 1
        return _encode(answer)

    async def _send(self, accepted: Submission, deadline: float, held: Held | None = None) -> bytes:
        now = datetime.now(UTC)
        message = mime.build(
            accepted,
            configuration_set=self._options.configuration_set,
            now=now,
            traceparent=self._options.traceparent(),
        )
        envelope = Envelope(accepted.sender.address, accepted.recipient.address)
        try:
            await self._deliver(envelope, message, deadline=deadline)
        except (DeliveryError, asyncio.CancelledError) as error:
            if held:
                await self._claims.settle(held, "unknown" if isinstance(error, Uncertain) else None, deadline=deadline)
            if isinstance(error, asyncio.CancelledError):
                raise
            _log_failure(accepted, error)
            why = error.reason if isinstance(error, Suppressed) else UNSET
            return self._refusal(REASONS[type(error)], why)
        log.info(
            self._deliver.event,
            extra={
                "email_id": accepted.email_id,
                "group_id": redaction.identifier(accepted.group_id),
                "to": redaction.address(accepted.recipient.address),
            },
        )
        with contextlib.suppress(asyncio.CancelledError):  # of a stop: the mail is sent, and the log names what is lost
            await self._store(accepted, held, deadline)
        self.results["sent"] += 1
        return _encode(contract.SendEmailResponse(email_id=accepted.email_id, group_id=accepted.group_id))

    async def _store(self, accepted: Submission, held: Held | None, deadline: float) -> None:
        recorded = self._records.write(_record(accepted), deadline=deadline)
        if held:
            await asyncio.gather(recorded, self._claims.settle(held, "sent", deadline=deadline))
        else:
            await recorded

    def _refusal(self, error: str, reason: str | UnsetType = UNSET) -> bytes:
        self.results[error] += 1
        return _encode(contract.ErrorResponse(error, reason=reason))


def _record(accepted: Submission) -> contract.EmailRecipientRecord:
    return contract.EmailRecipientRecord(
        email_id=accepted.email_id,
        group_id=accepted.group_id,
        to=accepted.to,
        subject=accepted.subject,
        sent_at=datetime.now(UTC),
        tags=dict(accepted.tags) if accepted.tags else UNSET,
    )


def _log_failure(accepted: Submission, error: DeliveryError) -> None:
    if isinstance(error, Suppressed):
        to = redaction.address(accepted.recipient.address)
        log.info("email.suppressed", extra={"to": to, "reason": error.reason})
        return
    log.error(
        "email.uncertain" if isinstance(error, Uncertain) else "email.failed",
        extra={
            "email_id": accepted.email_id,
            "group_id": redaction.identifier(accepted.group_id),
            "to": redaction.address(accepted.recipient.address),
            "kind": type(error).__name__.lower(),
            "code": error.code,
            "error": error.text,
        },
    )
