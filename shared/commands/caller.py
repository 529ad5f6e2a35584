# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: sends the commands' requests to the services over NATS, as any caller does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import nats.errors

from shared import contract, decoding, redaction
from shared.errors import PublishDenied, ReplyDenied, RequestRefused, RequestUnanswered, ServiceUnreachable
from shared.nats import permissions

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from shared.nats.permissions import Denial

PATIENCE_SECONDS: Final = 10.0
"""How long a command waits for a connection, and for an answer. The service's callers wait as long."""

T = TypeVar("T")

_decode = decoding.decoder(object)


class Caller:
    """Sends requests and waits for the answers. For subscriptions there is `connection`."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection, and watch it for permissions that the server denies."""
        self.connection = connection
        self._waiting: list[tuple[str, asyncio.Future[Denial]]] = []
        connection.on_error(self._on_error)

    async def ask(
        self, subject: str, request: msgspec.Struct, reply_type: type[T], *, timeout: float = PATIENCE_SECONDS
    ) -> T:
        """Send a request and return its answer.

        Raises:
            RequestRefused: the answer is an error, or the request exceeds max_payload.
            ServiceUnreachable: no service answers on the subject.
            PublishDenied, ReplyDenied: the NATS user may not publish to the subject, or not subscribe to replies.
            RequestUnanswered: no answer within `timeout` seconds, or an answer that cannot be decoded.
        """
        try:
            reply = await self._request(subject, msgspec.json.encode(request), timeout)
        except nats.errors.NoRespondersError:
            raise ServiceUnreachable(
                f"no service answers on {subject}: is it running, with the same NATS_URL?"
            ) from None
        except nats.errors.TimeoutError:
            raise RequestUnanswered(f"no answer from {subject} within {timeout:g} s") from None
        except nats.errors.MaxPayloadError as error:
            raise RequestRefused(f"the request is too large for NATS: {redaction.in_words(error)}") from None
        except nats.errors.Error as error:
            raise RequestUnanswered(f"{subject}: {redaction.in_words(error)}") from error
        return _answer(subject, reply.data, reply_type)

    async def _request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """Wait for the answer, or for the server's denial: then no answer will come."""
        denied: asyncio.Future[Denial] = asyncio.get_running_loop().create_future()
        entry = subject, denied
        self._waiting.append(entry)
        request = asyncio.ensure_future(self.connection.request(subject, payload, timeout))
        try:
            either: set[asyncio.Future[Any]] = {request, denied}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if request.done():
                return request.result()
            denial = denied.result()
            raise (PublishDenied if denial.verb == "publish" else ReplyDenied)(str(denial))
        finally:
            request.cancel()
            self._waiting.remove(entry)

    def _on_error(self, error: Exception) -> None:
        denial = permissions.denial_in(error)
        if denial is None:
            return
        for subject, denied in self._waiting:
            if not denied.done() and (denial.verb == "subscription" or denial.is_of("publish", subject)):
                denied.set_result(denial)


def _answer(subject: str, data: bytes, reply_type: type[T]) -> T:
    try:
        decoded = _decode(data)
        if isinstance(decoded, dict) and "error" in decoded:
            failed = msgspec.convert(decoded, contract.ErrorResponse)
            raise RequestRefused(
                failed.error, reason=_reason(failed), total=failed.total or 0, outcome=failed.outcome or ""
            )
        return msgspec.convert(decoded, reply_type)
    except (decoding.Malformed, msgspec.ValidationError) as error:
        why = redaction.in_words(error)
        raise RequestUnanswered(
            f"{subject}: the answer cannot be decoded: {why}; does the service have another version?"
        ) from error


def _reason(failed: contract.ErrorResponse) -> str:
    """Return what the reply says about an error: its reason, or what became of the email."""
    if failed.reason:
        return failed.reason
    outcome = {"not_sent": "not sent", "unknown": "may have been sent"}.get(failed.outcome or "")
    code = f"SMTP {failed.smtp_code}" if failed.smtp_code else ""
    return ", ".join(filter(None, (outcome, code, "permanent" if failed.permanent else "")))
