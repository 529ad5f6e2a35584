# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the process's one NATS connection. Waits for the server, reconnects for ever, hands messages on at once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import nats.errors

from shared import redaction
from shared.errors import ServiceUnreachable
from shared.nats import permissions
from shared.nats.client import CLOSE_TIMEOUT_SECONDS, ReconnectingClient
from shared.service.log import RateLimit
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.service.settings import NatsSettings

log = logging.getLogger(__name__)

PING_INTERVAL_SECONDS: Final = 20
UNANSWERED_PINGS: Final = 2  # with the interval: a silent peer is given up within a minute
RECONNECT_WAIT_SECONDS: Final = 1
CONNECT_TIMEOUT_SECONDS: Final = 5
FLUSH_TIMEOUT_SECONDS: Final = 5
ERROR_LOG_SECONDS: Final = 10
DISCOVERY: Final = "$srv."  # the process can do without `nats micro`, but not without another subject
SCHEMES: Final = ("nats://", "tls://")


class Connection:
    """What the other edges see of NATS."""

    def __init__(self, client: ReconnectingClient) -> None:
        """Wrap a client that is or will be connected."""
        self.client = client
        self._on_disconnect: list[Callable[[], None]] = []
        self._on_error: list[Callable[[Exception], None]] = []

    @property
    def connected(self) -> bool:
        """Whether a server is there right now."""
        return bool(self.client.is_connected)

    @property
    def max_payload(self) -> int:
        """The largest message the server takes, headers included, in bytes."""
        return int(self.client.max_payload)

    @property
    def server(self) -> str:
        """Host and port of the server, without credentials."""
        url = self.client.connected_url
        return f"{url.hostname}:{url.port}" if url else ""

    def new_inbox(self) -> str:
        """Return a new subject under the inbox prefix of this connection."""
        return str(self.client.new_inbox())

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call back whenever the connection is lost: answers that were awaited will not come."""
        self._on_disconnect.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        """Call back with each error that belongs to no request, such as a permission that the server denies."""
        self._on_error.append(callback)

    def failed(self, error: Exception) -> None:
        """Tell everyone who wants to know."""
        for callback in self._on_error:
            callback(error)

    def disconnected(self) -> None:
        """Tell everyone who waits for an answer."""
        for callback in self._on_disconnect:
            callback()

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish; while disconnected, up to 2 MB are kept for the next server.

        Raises:
            nats.errors.Error: the message is too large, the buffer is full, or the connection is closed.
        """
        await self.client.publish(subject, payload, reply, headers)

    async def subscribe(self, subject: str, on_message: Callable[[Msg], None], queue: str = "") -> Subscription:
        """Call `on_message` for each message as it is read from the socket, before the next one is parsed.

        nats-py's own callbacks are awaited one by one behind a queue that drops messages when full.
        """
        return await self.client.subscribe(subject, queue=queue, future=_Dispatch(on_message))  # type: ignore[arg-type]

    async def flush(self) -> None:
        """Return once the server has read everything that was sent; at once if there is none."""
        if not self.connected:
            return
        try:
            await self.client.flush(FLUSH_TIMEOUT_SECONDS)
        except nats.errors.Error as error:  # subscriptions and buffered messages go to the next server
            log.warning("nats.flush_failed", extra={"error": repr(error)})

    async def drain(self, subscription: Subscription) -> None:
        """End a subscription; when this returns, every message the server had sent has been handed on."""
        try:
            if self.connected:
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await subscription.drain()
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("nats.drain_failed", extra={"error": repr(error)})
        finally:
            await self.client.forget(subscription)


class _Dispatch:
    """Stands where nats-py expects the future of a single reply; nats-py calls `set_result` for every message."""

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        self._on_message = on_message

    def cancelled(self) -> bool:
        return False

    def set_result(self, msg: Msg) -> None:
        try:
            self._on_message(msg)
        except Exception:  # it would end nats-py's reading for good
            log.exception("nats.message_failed", extra={"subject": msg.subject})


class _Reports:
    """What nats-py tells of the connection, logged and handed on."""

    def __init__(self, connection: Connection, nats_url: str) -> None:
        self._connection = connection
        self._servers = redaction.urls(nats_url)
        self._lines = RateLimit(lines=1, seconds=ERROR_LOG_SECONDS)

    async def error(self, error: Exception) -> None:
        self._connection.failed(error)
        denied = permissions.denial_in(error)
        if denied and not denied.subject.startswith(DISCOVERY):
            log.error("nats.denied", extra={"error": str(denied)})
            return
        fields = self._lines.allows()
        if fields is not None:
            said = redaction.urls(str(error) or repr(error))  # str names the file
            log.warning("nats.error", extra={"error": said, "servers": self._servers, **fields})

    async def disconnected(self) -> None:
        if not self._connection.client.is_closed:
            log.warning("nats.disconnected")
        self._connection.disconnected()

    async def reconnected(self) -> None:
        log.info("nats.reconnected")


@asynccontextmanager
async def opened(
    settings: NatsSettings, name: str, *, patience_seconds: float | None = None
) -> AsyncIterator[Connection]:
    """Connect, waiting for a server for as long as it takes unless told otherwise; close at the end what is left.

    Raises:
        SettingsError: NATS_URL is no list of URLs.
        ServiceUnreachable: patience was limited, and no server was there in time.
    """
    connection = Connection(ReconnectingClient())
    try:
        async with asyncio.timeout(patience_seconds):
            await _connect(connection, settings, name)
    except TimeoutError:
        why = connection.client.last_error
        await _close(connection.client)
        detail = (str(why) or repr(why)) if why else "no answer"
        raise ServiceUnreachable(f"cannot connect to NATS at {redaction.urls(settings.nats_url)}: {detail}") from None
    except nats.errors.Error as error:
        raise SettingsError(f"NATS_URL: {error}") from None
    try:
        yield connection
    finally:
        await _close(connection.client)


async def _connect(connection: Connection, settings: NatsSettings, name: str) -> None:
    reports = _Reports(connection, settings.nats_url)
    await connection.client.connect(
        servers=_urls(settings.nats_url),
        name=name,
        error_cb=reports.error,
        disconnected_cb=reports.disconnected,
        reconnected_cb=reports.reconnected,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_SECONDS,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        ping_interval=PING_INTERVAL_SECONDS,
        max_outstanding_pings=UNANSWERED_PINGS,
        user_credentials=settings.nats_creds or None,
        inbox_prefix=settings.nats_inbox_prefix,
        skip_subject_validation=True,  # subjects are ours or the server's; keys are checked in group_index
    )


def _urls(nats_url: str) -> list[str]:
    urls = [url.strip() for url in nats_url.split(",") if url.strip()]
    if not urls or any("://" in url and not url.startswith(SCHEMES) for url in urls):
        raise SettingsError("NATS_URL: its value (not shown) is not a list of nats:// or tls:// URLs")
    return urls


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            if client.is_connected:
                await client.flush()
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        log.warning("nats.close_failed", extra={"error": repr(error)})
