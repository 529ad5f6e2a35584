# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: asks the services over NATS request and reply, as any caller does. For the commands."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import nats.errors

from shared import contract
from shared.errors import RequestRefused, RequestUnanswered, ServiceUnreachable
from shared.nats import connection, permissions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from shared.nats.permissions import Denial
    from shared.service.settings import NatsSettings

PATIENCE_SECONDS: Final = 10.0
"""Callers give up after as long; so do the commands, in connecting and in asking."""

T = TypeVar("T")


class Caller:
    """Somebody who asks; `connection` is for what is no question, such as a subscription."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self.connection = connection
        self._asking: list[tuple[str, asyncio.Future[Denial]]] = []
        connection.on_error(self._deny)

    async def ask(
        self, subject: str, request: msgspec.Struct, reply_type: type[T], *, timeout: float = PATIENCE_SECONDS
    ) -> T:
        """Send a request and return its answer.

        Raises:
            RequestRefused: the answer is an error.
            ServiceUnreachable: nobody serves the subject, or we may not publish there.
            RequestUnanswered: no answer in time, or none that can be read.
        """
        try:
            reply = await self._request(subject, msgspec.json.encode(request), timeout)
        except nats.errors.NoRespondersError:
            raise ServiceUnreachable(f"nobody serves {subject}: is the service running, on this NATS?") from None
        except nats.errors.TimeoutError:
            raise RequestUnanswered(f"no answer from {subject} within {timeout:g} s") from None
        except nats.errors.MaxPayloadError as error:
            raise RequestRefused(f"the request is too large for NATS: {error}") from None
        except nats.errors.Error as error:
            raise RequestUnanswered(f"{subject}: {error}") from error
        return _answer(subject, reply.data, reply_type)

    async def _request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """Wait for the answer, but not where the server says that there will be none."""
        denied: asyncio.Future[Denial] = asyncio.get_running_loop().create_future()
        asked = subject, denied
        self._asking.append(asked)
        request = asyncio.ensure_future(self.connection.request(subject, payload, timeout))
        try:
            either: set[asyncio.Future[Any]] = {request, denied}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if request.done():
                return request.result()
            denial = denied.result()
            raise (ServiceUnreachable if denial.verb == "publish" else RequestUnanswered)(str(denial))
        finally:
            request.cancel()
            self._asking.remove(asked)

    def _deny(self, error: Exception) -> None:
        denial = permissions.denial_in(error)
        if denial is None:
            return
        for subject, denied in self._asking:
            if not denied.done() and (denial.verb == "subscription" or denial.is_of("publish", subject)):
                denied.set_result(denial)


@asynccontextmanager
async def connected(settings: NatsSettings, name: str) -> AsyncIterator[Caller]:
    """Connect for as long as the block lasts.

    Raises:
        SettingsError: NATS_URL is no list of URLs, or NATS_CREDS no file of credentials.
        ServiceUnreachable: no NATS server in time.
    """
    async with connection.opened(settings, name, patience_seconds=PATIENCE_SECONDS) as opened:
        yield Caller(opened)


def _answer(subject: str, data: bytes, reply_type: type[T]) -> T:
    try:
        decoded: Any = msgspec.json.decode(data)
        if isinstance(decoded, dict) and "error" in decoded:
            failed = msgspec.convert(decoded, contract.ErrorResponse)
            raise RequestRefused(failed.error, reason=failed.reason or "", total=failed.total or 0)
        return msgspec.convert(decoded, reply_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestUnanswered(f"{subject}: the answer cannot be read: {error}") from error
