# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The NATS connection of the process, the only interface to nats-py: no other module uses its client.

Waits for a server, reconnects without limit, and passes each message on as it is read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import nats.errors

from shared import redaction
from shared.nats import permissions, servers
from shared.nats.client import ReconnectingClient
from shared.nats.denied_subscriptions import DeniedSubscriptions
from shared.nats.payload_limit import PayloadLimit
from shared.nats.read_receipts import ReadReceipts
from shared.nats.servers import Refusals
from shared.nats.transport import CLOSE_TIMEOUT_SECONDS
from shared.service.log import RateLimit
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext

    from shared.nats.permissions import Denial
    from shared.service.settings import NatsSettings

log = logging.getLogger(__name__)

PING_INTERVAL_SECONDS: Final = 20
UNANSWERED_PINGS: Final = 2  # with the interval: a silent server is left within a minute
RECONNECT_WAIT_SECONDS: Final = 1
CONNECT_TIMEOUT_SECONDS: Final = 5
FLUSH_TIMEOUT_SECONDS: Final = 5
ERROR_LOG_SECONDS: Final = 10
DENIED_LINES: Final = 5  # in ERROR_LOG_SECONDS
FEW_BYTES: Final = 16_384  # a socket that is not read takes only some 60,000


class Connection:
    """A connection that the modules publish, subscribe and ask through; `opened` makes one."""

    def __init__(self, client: ReconnectingClient) -> None:
        """Use a client that is connected, or will be."""
        self._client = client
        self._denied = DeniedSubscriptions(client)
        self._limit = PayloadLimit(client)
        self._receipts = ReadReceipts(client)
        self._on_disconnect: list[Callable[[], None]] = []
        self._on_error: list[Callable[[Exception], None]] = []

    @property
    def client(self) -> ReconnectingClient:
        """The client of nats-py, for tests only: they publish and manage streams with it as another process would."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether a server is connected now."""
        return bool(self._client.is_connected)

    @property
    def obstacle(self) -> str:
        """Why requests cannot be served: no connection, or no permission for a required subscription; else empty."""
        if not self.connected:
            return "NATS is not connected"
        denial = self._denied.of_required
        return str(denial) if denial else ""

    @property
    def closed(self) -> bool:
        """Whether the connection was closed by its owner, and will not come back."""
        return bool(self._client.is_closed)

    @property
    def max_payload(self) -> int:
        """The largest message that the server accepts, headers included, in bytes, as far as it is known."""
        return int(self._client.max_payload)

    async def payload_limit(self, size: int) -> int:
        """Return the current `max_payload` for a message of `size` bytes; ask the server if it may matter."""
        return await self._limit.of(size)

    @property
    def server(self) -> str:
        """Host and port of the server, without credentials."""
        url = self._client.connected_url
        return f"{url.hostname}:{url.port}" if url else ""

    @property
    def server_version(self) -> str:
        """The version of the server, such as `2.11.4`."""
        version = self._client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time the connection is lost: the answers to earlier requests will not come."""
        self._on_disconnect.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        """Call `callback` with each error that belongs to no request, such as a permission that the server denies."""
        self._on_error.append(callback)

    def report_disconnect(self) -> None:
        """Call the callbacks of `on_disconnect`."""
        self._receipts.disconnected()
        for callback in self._on_disconnect:
            _call(callback)

    def report_reconnect(self) -> None:
        """Note that a server is connected again, which may permit what the last one denied."""
        self._denied.retry_now()
        self._receipts.reconnected()

    def report_error(self, error: Exception) -> None:
        """Note a denied subscription, and call the callbacks of `on_error`."""
        denial = permissions.denial_in(error)
        if denial and denial.verb == "subscription":
            self._denied.add(denial)
        for callback in self._on_error:
            _call(callback, error)

    def new_inbox(self) -> str:
        """Return a new subject for replies, which is not yet subscribed to."""
        return str(self._client.new_inbox())

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish a message; while disconnected, up to 2 MB are kept for the next server.

        Raises:
            nats.errors.Error: the message is too large, the buffer is full, or the connection is closed.
        """
        await self._client.publish(subject, payload, reply, headers)

    async def has_read(self) -> bool:
        """Return True when the server has read everything that was published; False if the connection was lost before.

        Then it returns when a server is connected again, or after some seconds.
        """
        return await self._receipts.has_read()

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """Send a request as any NATS client does and return the reply; `Inbox` is faster for many of them.

        Raises:
            nats.errors.NoRespondersError: there is no subscriber.
            nats.errors.TimeoutError: there was no reply within `timeout` seconds.
            nats.errors.Error: the message is too large, or the connection is closed.
        """
        await self.payload_limit(len(payload))
        return await self._client.request(subject, payload, timeout=timeout)

    async def subscribe(
        self, subject: str, on_message: Callable[[Msg], None], queue: str = "", *, required: bool = False
    ) -> Subscription:
        """Call `on_message` for each message as it is read from the socket, before the next one is parsed.

        A subscription that the server denies is tried again until it is permitted. While a `required` one is denied,
        `obstacle` has the reason.
        nats-py's own callbacks wait behind a queue that drops messages when it is full, and are awaited one by one.
        """
        dispatch = _Dispatch(on_message)
        subscription = await self._client.subscribe(subject, queue=queue, future=dispatch)  # type: ignore[arg-type]
        if required:
            self._denied.require(subscription)
        return subscription

    def denial_of(self, subscription: Subscription) -> Denial | None:
        """Return why the server sends no messages for a subscription; None if it is permitted."""
        return self._denied.denial_of(subscription)

    def stop_retries(self) -> None:
        """Do not subscribe again: the connection is about to be closed."""
        self._denied.close()

    @property
    def is_behind(self) -> bool:
        """Whether many bytes wait to be read; the server closes a connection that is too far behind."""
        return self._client.unread_bytes > FEW_BYTES

    def jetstream(self) -> JetStreamContext:
        """Return nats-py's JetStream client, for creating buckets and streams."""
        return self._client.jetstream()

    async def flush(self, timeout: int | None = None) -> None:
        """Return when the server has read everything that was sent.

        Without `timeout`, a failure is only logged, and while disconnected it returns at once: subscriptions and
        buffered messages go to the next server.

        Raises:
            nats.errors.Error: the server did not answer within `timeout` seconds.
        """
        if timeout:
            await self._client.flush(timeout)
            return
        try:
            if self.connected:
                await self._client.flush(FLUSH_TIMEOUT_SECONDS)
        except nats.errors.Error as error:
            log.warning("nats.flush_failed", extra={"error": repr(error)})

    async def drain(self, subscription: Subscription) -> None:
        """End a subscription; when this returns, every message that the server had sent was passed on."""
        try:
            if self.connected:
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await subscription.drain()
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("nats.drain_failed", extra={"error": repr(error)})
        finally:
            await self._client.forget(subscription)


def _call(callback: Callable[..., None], *arguments: object) -> None:
    """Call a callback and log its error, which would end nats-py's task that reconnects."""
    try:
        callback(*arguments)
    except Exception:
        log.exception("task.failed")


class _Dispatch:
    """Takes the place of the future of a single reply; nats-py calls its `set_result` for every message."""

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        self._on_message = on_message

    def cancelled(self) -> bool:
        return False

    def set_result(self, msg: Msg) -> None:
        try:
            self._on_message(msg)
        except Exception:  # it would stop nats-py's reading permanently
            log.exception("nats.message_failed", extra={"subject": msg.subject})


class _Reports:
    """nats-py's callbacks: they log what happens to the connection and call the connection's own callbacks."""

    def __init__(self, connection: Connection, nats_url: str) -> None:
        self._connection = connection
        self._servers = redaction.urls(nats_url)
        self._lines = RateLimit(lines=1, seconds=ERROR_LOG_SECONDS)
        self.refusals: Refusals | None = None
        self._denied_lines = RateLimit(lines=DENIED_LINES, seconds=ERROR_LOG_SECONDS)

    async def error(self, error: Exception) -> None:
        self._connection.report_error(error)
        if self.refusals:
            self.refusals.add(error)
        denied = permissions.denial_in(error)
        if denied:
            self._denied(denied)
            return
        fields = self._lines.allows()
        if fields is not None:
            log.warning("nats.error", extra={"error": redaction.error(error), "servers": self._servers, **fields})

    def _denied(self, denied: Denial) -> None:
        """Log a denied message; denied subscriptions have their own lines."""
        if denied.verb == "publish" and (fields := self._denied_lines.allows()) is not None:
            log.error("nats.denied", extra={"error": str(denied), **fields})

    async def disconnected(self) -> None:
        if not self._connection.closed:
            log.warning("nats.disconnected")
        self._connection.report_disconnect()

    async def reconnected(self) -> None:
        log.info("nats.reconnected")
        self._connection.report_reconnect()


@asynccontextmanager
async def opened(
    settings: NatsSettings, name: str, *, patience_seconds: float | None = None
) -> AsyncIterator[Connection]:
    """Connect, and close the connection at the end; wait for a server without limit, or for `patience_seconds`.

    Raises:
        SettingsError: NATS_URL is not a list of URLs.
        ServiceUnreachable: no server accepted the connection within `patience_seconds`, or each has refused it;
            LoginRefused if it was because of the user.
    """
    client = ReconnectingClient()
    connection = Connection(client)
    reports = _Reports(connection, settings.nats_url)
    try:
        async with asyncio.timeout(patience_seconds) as limit:
            reports.refusals = Refusals(servers.urls(settings.nats_url), limit)
            await _connect(client, reports, settings, name)
            reports.refusals = None
    except TimeoutError:
        why = client.last_error
        await _close(client)
        client.abort()
        await asyncio.sleep(0)  # the event loop closes the socket in its next turn
        raise servers.unreachable(why, settings) from None
    except nats.errors.Error as error:
        raise SettingsError(f"NATS_URL: {redaction.in_words(error)}") from None
    try:
        yield connection
    finally:
        connection.stop_retries()
        await _close(client)


async def _connect(client: Client, reports: _Reports, settings: NatsSettings, name: str) -> None:
    await client.connect(
        servers=servers.urls(settings.nats_url),
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
        skip_subject_validation=True,  # subjects are constants, or come from the server; group_index checks keys
    )


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            if client.is_connected:
                await client.flush()
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        log.warning("nats.close_failed", extra={"error": repr(error)})
