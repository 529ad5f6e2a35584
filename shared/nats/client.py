# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The client of nats-py with corrections: it never hangs, stops reading or closes itself. Only `connection` uses it.

The table has each correction. Numbers are issues and pull requests of nats-io/nats.py. Read in nats-py 2.16.0.

======================  ==============================================================================================
Overridden              Reason, then the test in tests/shared/nats that fails without it, and the public report
======================  ==============================================================================================
parser.MSG_RE           A control character such as VT in a subject is taken for the end of a word; reading stops.
                        test_a_message_that_cannot_be_read_does_not_stop_the_others; not reported yet
parser.HMSG_RE          The same in a message with headers.
                        test_a_message_that_cannot_be_read_does_not_stop_the_others; not reported yet
parser.Parser           Each message is copied seven times; a server disconnects a client that reads too slowly.
                        test_messages_are_read_however_their_bytes_are_divided; not reported yet
                        A large message that will be refused is read and copied first.
                        test_a_large_message_is_refused_before_its_payload_is_read; not reported yet
_parse_server_uri       User and password in a URL are not percent-decoded.
                        test_user_and_password_of_the_url_are_sent_decoded; nats-architecture-and-design#123
_connect_to_server      No certificate matches a name with a dot at its end (RFC 6066, 3), as in Kubernetes.
                        test_a_dot_at_the_end_of_the_name_is_not_compared_with_the_certificate; nzbget/nzbget#491
                        The socket and the tasks of a failed handshake stay, and disturb the next connection.
                        test_failed_attempts_to_connect_leave_no_sockets_or_tasks; not reported yet
Transport.connect       Received bytes are copied into one buffer, and again when they are read.
                        test_bytes_are_read_into_one_buffer; not reported yet
                        With uvloop, a name is connected at its first address only if that does not answer (RFC 8305).
                        test_a_dead_address_of_a_name_does_not_hide_the_others; not reported yet
Transport.connect_tls   The same for a connection with TLS, where also nothing stops the reading ahead.
                        test_bytes_are_read_into_one_buffer_with_tls; not reported yet
_process_connect_init   Some errors of a handshake end all attempts to connect.
                        test_a_connection_comes_back_after_another_program_used_the_port; not reported yet
                        A server that begins with TLS (`handshake_first`) is waited for until the timeout.
                        test_a_tls_url_connects_in_each_order_of_the_server; #511
                        A PING from before a reconnect is sent after it, and its PONG answers a later flush.
                        test_a_ping_from_before_a_reconnect_is_not_sent_after_it; not reported yet
                        A message that is too large for the next server makes that one close the connection.
                        test_a_message_that_waits_and_is_too_large_for_the_next_server_is_dropped; not reported yet
_process_info           The limit for messages that an INFO reports later is ignored.
                        test_the_limit_of_a_later_info_is_used; not reported yet
                        A tls:// URL connects to a server without TLS.
                        test_a_tls_url_sends_no_password_to_a_server_without_tls; not reported yet
                        Servers of a cluster are listed twice, and without the credentials of the URL.
                        test_each_server_of_a_cluster_is_known_once_with_its_credentials; not reported yet
_read_creds_user_jwt    A file without a JWT is read in an endless loop, which blocks the process.
                        test_a_broken_credentials_file_does_not_block_and_can_be_replaced; #1020
_read_creds_user_nkey   A seed with CRLF or blanks behind it is invalid.
                        test_a_credentials_file_of_any_editor_is_read; not reported yet
_remove_sub (called)    A subscription whose drain failed is subscribed again at the next server.
                        test_a_subscription_whose_drain_failed_is_not_subscribed_again; not reported yet
_parse_header_lines     Replaces a loop over each character, which takes twice as long and needs UTF-8.
                        test_values_that_are_not_utf_8_stay_different; not reported yet
_process_headers        An invalid status line in the headers stops the reading.
                        test_a_message_that_cannot_be_read_does_not_stop_the_others; not reported yet
_process_msg            A reply subject that is not UTF-8 stops the reading.
                        test_a_message_that_cannot_be_read_does_not_stop_the_others; not reported yet
_read_loop              After an unexpected error nothing is read, and the connection stays open.
                        test_a_server_that_sends_an_unreadable_protocol_line_is_left; #914
_flush_pending          It catches the cancellation of a waiting publish, so that a time limit has no effect.
                        test_the_time_limit_holds_if_the_server_reads_no_more_bytes; not reported yet
publish                 Each message takes four steps, and each write a queue and a task.
                        test_messages_of_one_turn_of_the_event_loop_are_one_write; not a fault
_send_ping              The PING of a flush is sent before earlier messages.
                        test_the_ping_of_a_flush_is_sent_after_earlier_messages; not reported yet
_process_pong           The PONG for a flush that timed out stops the reading.
                        test_a_flush_that_timed_out_does_not_stop_the_reading; not reported yet
_process_err            Expired or revoked credentials and other errors close the connection permanently.
                        test_credentials_that_expire_are_read_again; #1019
                        The error is in lower case, also a denied subject.
                        test_a_denied_permission_does_not_end_the_connection; not reported yet
Transport.readline      Returns INFO, which was read to see how the server begins.
                        test_a_tls_url_connects_in_each_order_of_the_server; #511
Transport.writelines    What is written to a socket that has just been closed is lost.
                        test_what_is_published_while_the_socket_closes_goes_to_the_next_server; not reported yet
                        Writing to a closed socket raises TypeError, in asyncio of Python 3.12 and 3.13 only.
                        With Python 3.12: test_a_silent_server_is_left_after_unanswered_pings; python/cpython#136234
Transport.wait_closed   It waits without limit for a silent server to read the rest of the buffer.
                        test_a_silent_server_is_left_after_unanswered_pings; #671
======================  ==============================================================================================
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import unquote

import nats.errors
from nats.aio.client import PING_PROTO, Client
from nats.protocol import parser

from shared.nats import credentials
from shared.nats.parser import Parser, payload_bytes
from shared.nats.prompt_client import PromptClient
from shared.nats.transport import Transport
from shared.service.server_addresses import ServerAddresses

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import ParseResult

    from nats.aio.client import Srv
    from nats.aio.subscription import Subscription

Order = Literal["INFO first", "TLS first"]
Server = tuple[str, int]


class Tls(NamedTuple):
    """The context, the name in the certificate, and whether the server begins with TLS."""

    context: ssl.SSLContext
    name: str
    is_first: bool


READ_AHEAD_BYTES: Final = 1_000_000  # with twice as many, reading pauses until they are taken
INFO_SECONDS: Final = 1.0  # of silence, after which a client with a tls:// URL begins the handshake
WHITESPACE: Final = " \t\n\r\v\f"
CRLF: Final = b"\r\n"


class ReconnectingClient(PromptClient):
    """Reconnects after every loss of its connection, until its owner closes it."""

    def __init__(self) -> None:
        """Begin without a server."""
        super().__init__()
        self._ps: Parser = Parser(self)
        self.addresses: dict[Server, ServerAddresses] = {}
        self.orders: dict[Server, Order] = {}
        self._own_max_payload = 0  # if the server's limit for this user is lower than that for all

    @property
    def peer(self) -> Server:
        """Address and port of the connected server.

        Raises:
            OSError: the server is not connected.
        """
        if not isinstance(self._transport, Transport):
            raise OSError("no server")
        return self._transport.peer

    @property
    def tls(self) -> Tls | None:
        """How the connected server uses TLS; None if it does not."""
        context = self._transport.tls_context if isinstance(self._transport, Transport) else None
        if not (context and self._current_server):
            return None
        name = self._current_server.tls_name or ""
        return Tls(context, name, bool(self.options["tls_handshake_first"]))

    def limit_payload(self, max_payload: int) -> None:
        """Set the size of a message that the server accepts now, in general."""
        if max_payload == self._own_max_payload:
            self._own_max_payload = 0
        self._max_payload = min(max_payload, self._own_max_payload or max_payload)

    @property
    def unread_bytes(self) -> int:
        """How many bytes of the current connection wait in the socket."""
        return self._transport.unread_bytes if isinstance(self._transport, Transport) else 0

    @staticmethod
    def _parse_server_uri(connect_url: str) -> ParseResult:
        """Decode user and password, as the NATS clients in other languages do."""
        uri = Client._parse_server_uri(connect_url)  # noqa: SLF001 - a static method of the base class
        user_info, at, host = uri.netloc.rpartition("@")
        return uri._replace(netloc=unquote(user_info) + at + host)

    async def _connect_to_server(self, s: Srv) -> None:
        """Close the socket and cancel the tasks of a connection whose handshake failed, then connect."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task:
                task.cancel()
        self.abort()
        s.last_attempt = time.monotonic()
        host, port = s.uri.hostname or "", s.uri.port or 0
        s.tls_name = (s.tls_name or host).rstrip(".")
        addresses = self.addresses.setdefault((host, port), ServerAddresses(host, port))
        self._transport = Transport(addresses, self.take)
        await self._transport.connect(s.uri, READ_AHEAD_BYTES, self.options["connect_timeout"])
        self._ps.reset()  # the last connection may have been read until now

    async def _process_connect_init(self) -> None:
        """Raise every error of a handshake as one after which nats-py tries again."""
        assert isinstance(self._transport, Transport), "connected"
        addresses, address = self._transport.addresses, self._transport.address
        addresses.suspect(address)  # until it has answered: the next attempt prefers another one
        try:
            await self._greet()
        except (OSError, nats.errors.Error, TimeoutError):
            raise
        except Exception as error:
            raise nats.errors.Error(f"nats: handshake failed: {error!r}") from error
        addresses.trust(address)
        self._pending = [
            command
            for command in self._pending
            if command is not PING_PROTO  # its PONG would answer a later flush
            and payload_bytes(command) <= self._max_payload  # else this server would close the connection
        ]

    async def _greet(self) -> None:
        """Exchange INFO and CONNECT; remember of each server whether it begins with INFO or with TLS.

        An attempt that began with TLS and got no INFO may have met a server that was only slow: the next one waits.
        """
        assert self._current_server, "connected"
        assert isinstance(self._transport, Transport), "connected"
        uri = self._current_server.uri
        server = uri.hostname or "", uri.port or 0
        order = self.orders.pop(server, None)
        if uri.scheme == "tls" and order is None and not await self._transport.has_greeted(INFO_SECONDS):
            order = "TLS first"
        self.options["tls_handshake_first"] = begins_with_tls = order == "TLS first"
        self._server_info = {}
        try:
            await super()._process_connect_init()
        except Exception as error:
            if begins_with_tls and not self._server_info and not isinstance(error, ssl.SSLCertVerificationError):
                begins_with_tls = False
                self.orders[server] = "INFO first"
            raise
        finally:
            if begins_with_tls:
                self.orders[server] = "TLS first"

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        """Require TLS for a tls:// URL; keep each server of a cluster once, with the credentials of the URL."""
        assert self._current_server, "connected"
        if initial_connection and self._current_server.uri.scheme == "tls":
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.Error("nats: the URL asks for TLS, and the server offers none")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        self._note_max_payload(info, initial_connection=initial_connection)
        user_info, at, _ = self._current_server.uri.netloc.rpartition("@")
        known: dict[tuple[str | None, int | None], Srv] = {}
        for server in self._server_pool:
            if server.discovered and "@" not in server.uri.netloc:
                server.uri = server.uri._replace(netloc=user_info + at + server.uri.netloc)
            known.setdefault((server.uri.hostname, server.uri.port), server)
        self._server_pool[:] = known.values()

    def _note_max_payload(self, info: dict[str, Any], *, initial_connection: bool) -> None:
        """Note the limit; the INFO after the first one has that of the user."""
        limit = info.get("max_payload", self._max_payload)
        self._own_max_payload = 0 if initial_connection or limit >= self._max_payload else limit
        self._max_payload = limit

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        """Return the JWT of a credentials file."""
        return credentials.part(creds, credentials.JWT)

    def _read_creds_user_nkey(self, creds: Any) -> bytearray:
        """Return the seed of a credentials file."""
        return credentials.part(creds, credentials.SEED)

    @property
    def subscriptions(self) -> Mapping[int, Subscription]:
        """The subscriptions that have not ended, by the id that the server knows them by."""
        return self._subs

    async def subscribe_again(self, sid: int) -> None:
        """Send a subscription that the server may have dropped; one that it still has stays as it was."""
        if subscription := self._subs.get(sid):
            await self._send_subscribe(subscription)

    async def forget(self, subscription: Subscription) -> None:
        """End a subscription on the current server, and do not subscribe again on the next one."""
        self._remove_sub(subscription._id)  # noqa: SLF001 - nats-py has no public name for it
        if self.is_connected:  # perhaps with the next server already, which knows the subscription
            await self._send_unsubscribe(subscription._id)  # noqa: SLF001

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """Split a block of headers.

        Bytes that are not UTF-8 become lone surrogates, so that different values stay different.
        """
        fields = [line.partition(":") for line in raw.decode("utf-8", "surrogateescape").split("\r\n")]
        return {name.strip(WHITESPACE): value.strip(WHITESPACE) for name, colon, value in fields if colon}

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        """Parse headers also if their status line is invalid."""
        try:
            return await super()._process_headers(headers)
        except (IndexError, UnicodeDecodeError):
            return self._parse_header_lines(headers.partition(CRLF)[2]) or None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Report a message that cannot be read, such as one whose reply subject is not UTF-8, and continue."""
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001 - nats-py would stop reading
            await self._error_cb(nats.errors.Error(f"nats: a message to {subject!r} cannot be read: {error!r}"))

    async def _read_loop(self) -> None:
        """Reconnect if the reading ended while the connection is open."""
        await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and task and not task.cancelling():
            await self._process_op_err(nats.errors.Error("nats: what the server sent cannot be read"))

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: FBT001, FBT002 - nats-py's signature
        """Flush, and raise the cancellation of the current task, which nats-py catches."""
        if not force_flush and self.flushes_promptly():
            return None
        task = asyncio.current_task()
        requests = task.cancelling() if task else 0
        flushed = await super()._flush_pending(force_flush)
        if task and task.cancelling() > requests:
            raise asyncio.CancelledError
        return flushed

    async def ping(self, answered: asyncio.Future[bool]) -> None:
        """Send a PING after everything that was published; its PONG sets the result True."""
        await self._send_ping(answered)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """Send a PING after the messages that wait to be sent."""
        self._pongs.append(asyncio.get_running_loop().create_future() if future is None else future)
        self._pending.append(PING_PROTO)  # not by _send_command, which waits without limit for a silent server
        self._pending_data_size += len(PING_PROTO)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        """Ignore the PONG for a flush that was cancelled."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect after an error from the server, such as expired or revoked credentials or too many connections."""
        raw = parser.ERR_RE.match(self._ps.buf)  # the line is still there, and subjects are case-sensitive
        error = nats.errors.Error(f"nats: {raw[1].decode() if raw and raw[1] else err_msg}")
        await self._error_cb(error)
        if parser.PERMISSIONS_ERR in err_msg:
            return
        await self._process_op_err(error)
