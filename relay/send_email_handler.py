# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Answers `send_email`: request bytes to reply bytes, and the table from errors to the contract's error strings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from relay import idempotency, mime, submission
from relay.envelope import Envelope
from relay.errors import DeliveryError, HeldBack, Uncertain
from relay.group_share import GroupShare
from relay.new_id import new_id
from relay.submission import Filtered, Refused, Submission
from shared import contract, decoding, redaction
from shared.errors import StoreError
from shared.service.log import request_failed
from shared.suppression_list import EntryCorrupt
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from relay.idempotency import KeyState, Repeat
    from relay.submission import Policy
    from shared.contract import EmailRecipientRecord, Outcome, SendEmailRequest, Suppression
    from shared.telemetry.spans import Spans

log = logging.getLogger(__name__)

ERROR_STRINGS: Final[dict[type[Exception], str]] = {
    decoding.Malformed: contract.INVALID_REQUEST_PAYLOAD,
    idempotency.Malformed: contract.INVALID_IDEMPOTENCY_KEY,
    HeldBack: contract.SERVICE_BUSY,
    DeliveryError: contract.DELIVERY_FAILED,
    StoreError: contract.INTERNAL_ERROR,
    EntryCorrupt: contract.INTERNAL_ERROR,
}

_read = decoding.request_decoder(
    contract.SendEmailRequest, lambda sent: sent.to and sent.subject and sent.html and sent.text
)
_encode = msgspec.json.Encoder().encode
UNEXPECTED: Final = (Exception, asyncio.CancelledError)
"""Errors, or the end of the time to stop, that the reply of an accepted request has to name with its outcome."""

_NOTHING_SENT: Final = _encode(contract.SendEmailResponse(email_id="", group_id=""))


class Deliver(Protocol):
    """Hands a message to the mail server, or raises DeliveryError; `event` is the log event of a success."""

    event: str

    async def __call__(  # noqa: D102
        self, envelope: Envelope, message: bytes, *, deadline: float, group: str
    ) -> None: ...


class Records(Protocol):
    """Stores the record of a sent email, now or later."""

    @property
    def is_full(self) -> bool: ...  # noqa: D102

    async def write(  # noqa: D102
        self, record: EmailRecipientRecord, *, deadline: float, again: bool = False
    ) -> None: ...


class HeldKey(Protocol):
    """An idempotency key that the request holds until it settles it."""

    async def settle(self, state: KeyState | None, *, deadline: float) -> None: ...  # noqa: D102


class IdempotencyStore(Protocol):
    """Gives each idempotency key to one request; see `relay.records.idempotency_store`."""

    async def begin(  # noqa: D102
        self, request: SendEmailRequest, headers: Mapping[str, str] | None, *, email_id: str, group_id: str
    ) -> HeldKey | Repeat | None: ...


class SuppressionList(Protocol):
    """Finds the entry of an address in lower case."""

    async def find(self, address: str) -> Suppression | None: ...  # noqa: D102


class Steps(NamedTuple):
    """What a request passes through; without a suppression list nothing is looked up."""

    deliver: Deliver
    records: Records
    idempotency_store: IdempotencyStore
    suppression_list: SuppressionList | None = None


class Options(NamedTuple):
    """The settings of the operator that concern a request."""

    policy: Policy
    configuration_set: str
    send_retry_seconds: float


class Email(msgspec.Struct):
    """A submission without its bodies, and the message that was made of it, until it is delivered."""

    accepted: Submission
    message: bytes


class SendEmailHandler:
    """Checks a request, takes its idempotency key, looks up the suppression list, delivers, records, answers."""

    def __init__(
        self, options: Options, steps: Steps, spans: Spans = NO_SPANS, share: GroupShare | None = None
    ) -> None:
        """Answer requests by these steps; an email carries the id of its span in `spans`, and counts in `share`."""
        self._options = options
        self._steps = steps
        self._spans = spans
        self._share = share or GroupShare()
        self.results: Counter[str] = Counter()

    async def __call__(self, data: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Answer one request."""
        deadline = time.monotonic() + self._options.send_retry_seconds
        try:
            request = _read(data)
        except decoding.Malformed as error:
            return self._refuse(error_string(error), error=str(error))
        del data  # while the request waits, only its message is in memory
        new_group_id = "" if request.group_id else new_id()
        match submission.accept(request, self._options.policy, email_id=new_id(), new_group_id=new_group_id):
            case Refused(reason):
                return self._refuse(reason, to=redaction.address(request.to or ""))
            case Filtered(recipient):
                log.info("email.filtered", extra={"to": redaction.address(recipient.address)})
                self.results["filtered"] += 1
                return _NOTHING_SENT
            case Submission() as accepted:
                if self._steps.records.is_full:
                    return self._refuse(contract.SERVICE_BUSY, logging.ERROR, error="too many records are kept")
                try:
                    email = self._email(accepted)
                except UNEXPECTED as error:
                    return self._end_early(accepted, error, "not_sent")
                taking_key = self._steps.idempotency_store.begin(
                    request, headers, email_id=accepted.email_id, group_id=accepted.group_id
                )
                group_id, size = accepted.group_id, len(email.message)
                del request, headers, accepted
                self._share.enter(group_id, size)
                try:
                    return await self._send_once(email, taking_key, deadline)
                finally:
                    self._share.leave(group_id, size)

    def _email(self, accepted: Submission) -> Email:
        message = mime.build(
            accepted,
            configuration_set=self._options.configuration_set,
            now=datetime.now(UTC),
            traceparent=self._spans.traceparent(),
        )
        return Email(replace(accepted, text="", html=""), message)

    async def _send_once(self, email: Email, taking_key: Awaitable[HeldKey | Repeat | None], deadline: float) -> bytes:
        try:
            key = await taking_key
        except idempotency.Malformed as error:
            return self._refuse(error_string(error))
        except StoreError as error:
            return self._refuse(error_string(error), logging.ERROR, outcome="not_sent", error=str(error))
        except UNEXPECTED as error:
            return self._end_early(email.accepted, error, "not_sent")
        if isinstance(key, idempotency.Repeat):
            return await self._answer_repeat(key, email.accepted, deadline)
        return await self._send(email, key, deadline)

    async def _answer_repeat(self, repeat: Repeat, accepted: Submission, deadline: float) -> bytes:
        if repeat.error:
            return self._refuse(repeat.error, email_id=repeat.email_id)
        first = replace(accepted, email_id=repeat.email_id, group_id=repeat.group_id)
        try:
            await self._steps.records.write(_record(first, repeat.sent_at), deadline=deadline, again=True)
        except UNEXPECTED as error:
            return self._end_early(first, error, "unknown")
        group_id = redaction.identifier(repeat.group_id)
        log.info("email.repeated", extra={"email_id": repeat.email_id, "group_id": group_id})
        self.results["repeated"] += 1
        return _encode(contract.SendEmailResponse(email_id=repeat.email_id, group_id=repeat.group_id))

    async def _send(self, email: Email, key: HeldKey | None, deadline: float) -> bytes:
        accepted = email.accepted
        was_tried = False
        try:
            suppression = await self._find_suppression(accepted)
            if suppression is None:
                was_tried = True
                await self._deliver(email, deadline)
        except UNEXPECTED as error:
            outcome = _outcome(error, was_tried=was_tried)
            if key:
                await key.settle("unknown" if outcome == "unknown" else None, deadline=deadline)
            return self._fail(accepted, error, outcome)
        if suppression:
            if key:
                await key.settle(None, deadline=deadline)
            to = redaction.address(accepted.recipient.address)
            log.info("email.suppressed", extra={"to": to, "reason": suppression.reason})
            return self._error(contract.ErrorResponse(contract.RECIPIENT_SUPPRESSED, reason=suppression.reason))
        log.info(self._steps.deliver.event, extra=_names(accepted))
        with contextlib.suppress(asyncio.CancelledError):  # at a stop: it is sent, and the log names lost records
            await self._store(accepted, key, deadline)
        self.results["sent"] += 1
        return _encode(contract.SendEmailResponse(email_id=accepted.email_id, group_id=accepted.group_id))

    async def _find_suppression(self, accepted: Submission) -> Suppression | None:
        suppression_list = self._steps.suppression_list
        return await suppression_list.find(accepted.recipient.address.lower()) if suppression_list else None

    async def _deliver(self, email: Email, deadline: float) -> None:
        envelope = Envelope(email.accepted.sender.address, email.accepted.recipient.address)
        try:
            group = email.accepted.group_id  # a new one if the request has none
            await self._steps.deliver(envelope, email.message, deadline=deadline, group=group)
        finally:
            email.message = b""

    async def _store(self, accepted: Submission, key: HeldKey | None, deadline: float) -> None:
        """Store the record, or keep it, before the key: a repeat is answered once the key says that it was sent.

        An error does not change the reply, since the email is sent.
        """
        try:
            await self._steps.records.write(_record(accepted, datetime.now(UTC)), deadline=deadline)
        except Exception as error:  # noqa: BLE001 - logged
            request_failed(log, error, {"subject": contract.SEND_EMAIL_SUBJECT, **_names(accepted)})
        finally:
            if key:
                await key.settle("sent", deadline=deadline)

    def _fail(self, accepted: Submission, error: BaseException, outcome: Outcome) -> bytes:
        match error:
            case HeldBack():
                return self._refuse(error_string(error), error=error.text)
            case DeliveryError():
                _log_failure(accepted, error)
                return self._error(_delivery_failed(error, outcome))
            case StoreError() | EntryCorrupt():
                _log_failure(accepted, error)
                return self._error(contract.ErrorResponse(error_string(error), outcome=outcome))
            case _:
                return self._end_early(accepted, error, outcome)

    def _end_early(self, accepted: Submission, error: BaseException, outcome: Outcome) -> bytes:
        """Answer a request that ended by an unexpected error, or because the time to stop was over."""
        if not isinstance(error, asyncio.CancelledError):
            request_failed(log, error, {"subject": contract.SEND_EMAIL_SUBJECT, **_names(accepted)})
        return self._error(contract.ErrorResponse(contract.INTERNAL_ERROR, outcome=outcome))

    def _refuse(
        self, reason: str, level: int = logging.WARNING, outcome: Outcome | UnsetType = UNSET, **fields: str
    ) -> bytes:
        log.log(level, "email.refused", extra={"reason": reason, **fields})
        return self._error(contract.ErrorResponse(reason, outcome=outcome))

    def _error(self, reply: contract.ErrorResponse) -> bytes:
        self.results[reply.error] += 1
        return _encode(reply)


def error_string(error: Exception) -> str:
    """Return the contract's string for an error."""
    return next(string for kind, string in ERROR_STRINGS.items() if isinstance(error, kind))


def _outcome(error: BaseException, *, was_tried: bool) -> Outcome:
    if isinstance(error, Uncertain):
        return "unknown"
    is_known = isinstance(error, DeliveryError | StoreError | EntryCorrupt | asyncio.CancelledError)
    return "unknown" if was_tried and not is_known else "not_sent"


def _delivery_failed(error: DeliveryError, outcome: Outcome) -> contract.ErrorResponse:
    return contract.ErrorResponse(
        error_string(error), outcome=outcome, permanent=error.is_permanent, smtp_code=error.code or UNSET
    )


def _record(accepted: Submission, sent_at: datetime) -> EmailRecipientRecord:
    return contract.EmailRecipientRecord(
        email_id=accepted.email_id,
        group_id=accepted.group_id,
        to=accepted.to,
        subject=accepted.subject,
        sent_at=sent_at,
        tags=dict(accepted.tags) if accepted.tags else UNSET,
    )


def _log_failure(accepted: Submission, error: Exception) -> None:
    if isinstance(error, DeliveryError):
        why = {"kind": error.outcome, "code": error.code, "error": error.text}
    else:
        why = {"kind": "suppression_list", "code": 0, "error": str(error)}
    log.error("email.uncertain" if isinstance(error, Uncertain) else "email.failed", extra=_names(accepted) | why)


def _names(accepted: Submission) -> dict[str, object]:
    return {
        "email_id": accepted.email_id,
        "group_id": redaction.identifier(accepted.group_id),
        "to": redaction.address(accepted.recipient.address),
    }
