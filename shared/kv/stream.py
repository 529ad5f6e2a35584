# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the stream behind one bucket. Knows its configuration until an answer gives a reason to ask again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from shared.errors import BucketMissing, StoreError, StoreUnavailable
from shared.kv import jetstream
from shared.nats.inbox import HEADER_ROOM_BYTES
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from shared.kv.jetstream import ApiError, MessageResponse, PublishAck, StreamConfig, StreamInfo
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from shared.telemetry.spans import Spans

BELIEVED_SECONDS: Final = 30.0  # how long what we know of the stream's configuration holds without a reason to doubt


class BucketStream:
    """Asks the stream; every question that fails makes it forget, since the bucket may come back with other limits."""

    def __init__(self, inbox: Inbox, connection: Connection, bucket: str, spans: Spans = NO_SPANS) -> None:
        """Name the bucket; it need not exist yet."""
        self.name = f"KV_{bucket}"
        self.prefix = f"$KV.{bucket}."
        self._bucket = bucket
        self._inbox = inbox
        self._connection = connection
        self._spans = spans
        self._put = f"put {bucket}"
        self._attributes = {"db.system.name": "nats", "db.operation.name": "put", "db.collection.name": bucket}
        self._info: StreamInfo | None = None
        self._believed_until = 0.0

    async def info(self) -> StreamInfo:
        """Ask the stream's leader for its configuration, state and time of creation."""
        reply = await self._inbox.request(f"$JS.API.STREAM.INFO.{self.name}")
        info = jetstream.decode_info(reply.data)
        if info.error:
            raise self.unavailable(info.error)
        self._info, self._believed_until = info, time.monotonic() + BELIEVED_SECONDS
        return info

    async def config(self) -> StreamConfig:
        """Return the configuration as far as it is known, else ask for it."""
        if self._info and time.monotonic() < self._believed_until:
            return self._info.config
        return (await self.info()).config

    async def max_value_bytes(self) -> int:
        """Return how large a value may be: the bucket's own limit or the server's max_payload."""
        config = await self.config()
        limit = self._connection.max_payload - HEADER_ROOM_BYTES
        return min(limit, config.max_msg_size - HEADER_ROOM_BYTES) if config.max_msg_size > 0 else limit

    async def get_directly(self, key: str) -> Msg:
        """Ask any server of the stream's for the last message of a key."""
        return await self._request(f"$JS.API.DIRECT.GET.{self.name}.{self.prefix}{key}")

    async def get_from_leader(self, key: str) -> MessageResponse:
        """Ask the stream's leader for the last message of a key."""
        query = jetstream.encode({"last_by_subj": self.prefix + key})
        return jetstream.decode_message((await self._request(f"$JS.API.STREAM.MSG.GET.{self.name}", query)).data)

    async def write(self, key: str, value: bytes, headers: dict[str, str]) -> PublishAck:
        """Append a message for a key."""
        with self._spans.start(self._put, "client", self._attributes):
            return jetstream.decode_ack((await self._request(self.prefix + key, value, headers)).data)

    async def _request(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        try:
            return await self._inbox.request(subject, payload, headers)
        except StoreUnavailable as error:
            raise self.unanswered(error) from error

    def forget(self) -> None:
        """Ask for the configuration before it is needed again."""
        self._info = None

    def unanswered(self, error: StoreUnavailable) -> StoreUnavailable:
        """Return what to raise for a request that had no answer: the error, with the bucket's name."""
        self.forget()
        return type(error)(f"bucket {self._bucket}: {error}")

    def unavailable(self, error: ApiError) -> StoreError:
        """Return what JetStream's error means, to be raised."""
        self.forget()
        said = f"bucket {self._bucket}: {error.description or 'no answer'} ({error.err_code})"
        return BucketMissing(said) if error.err_code == jetstream.NO_STREAM else StoreUnavailable(said)
