# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the wire format of JetStream's requests and answers, as far as a KV bucket needs them.

Sources: the NATS docs on "JetStream wire API", ADR-8 (key-value store), ADR-31 (direct get).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from shared.decoding import Malformed, decoder
from shared.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STATUS: Final = "Status"
EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
SEQUENCE: Final = "Nats-Sequence"
SUBJECT: Final = "Nats-Subject"
STREAM: Final = "Nats-Stream"
NUM_PENDING: Final = "Nats-Num-Pending"
LAST_SEQUENCE: Final = "Nats-Last-Sequence"  # of the message before, in the answer to the same request
UP_TO_SEQUENCE: Final = "Nats-UpTo-Sequence"
LAST_CONSUMER: Final = "Nats-Last-Consumer"
OPERATION: Final = "KV-Operation"
WRITE_ID: Final = "Lfx-Write-Id"  # ours: by it a writer recognises its write whose acknowledgement was lost
ROLLUP: Final = "Nats-Rollup"  # with the value `sub`, a message replaces all earlier ones of its subject (ADR-9)
MARKER_REASON: Final = "Nats-Marker-Reason"  # a key that expired leaves an empty message with this header

NO_RESULTS: Final = "404"
NO_MORE: Final = "408"
END_OF_BATCH: Final = "204"
CONTROL: Final = "100"

WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})  # the second with replicas (nats-io/nats.py#782)
MESSAGE_TOO_LARGE: Final = 10054
NO_MESSAGE: Final = 10037
NO_STREAM: Final = 10059
NO_SPACE: Final = re.compile(
    r"maximum (?:bytes|messages) exceeded|insufficient|limits? exceeded|no space", re.IGNORECASE
)

LONGEST_NUMBER: Final = 20  # digits of the largest sequence

_CRLF: Final = b"\r\n"

Answer = TypeVar("Answer", bound=msgspec.Struct)


class Unreadable(StoreUnavailable):
    """JetStream has answered, but not in its wire format. The outcome of a write is unknown."""

    def __init__(self, message: str = "the answer of JetStream cannot be read") -> None:
        """Name the answer."""
        super().__init__(message)


class ApiError(msgspec.Struct, frozen=True):
    """Why JetStream refused a request."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class StreamConfig(msgspec.Struct, frozen=True):
    """The part of a bucket's configuration that this code depends on; sizes in bytes, -1 for no limit.

    `max_msgs_per_subject` is the bucket's history, `max_age` its TTL in nanoseconds, 0 for none.
    """

    max_bytes: int = -1
    max_msg_size: int = -1
    max_msgs_per_subject: int = -1
    max_age: int = 0
    num_replicas: int = 1
    allow_direct: bool = False
    retention: str = "limits"
    no_ack: bool = False
    subject_transform: dict[str, str] | None = None


class StreamState(msgspec.Struct, frozen=True):
    """The sequence of a stream's last message, and how many messages, bytes and subjects it has."""

    last_seq: int = 0
    messages: int = 0
    bytes: int = 0
    num_subjects: int = 0


class Replica(msgspec.Struct, frozen=True):
    """A server that follows the leader of a stream."""

    name: str = ""
    current: bool = True
    offline: bool = False


class Cluster(msgspec.Struct, frozen=True):
    """The servers that hold a stream; without a name they are not clustered."""

    leader: str = ""
    name: str = ""
    replicas: tuple[Replica, ...] = ()

    @property
    def behind(self) -> list[str]:
        """The names of the servers that do not have all that the leader has."""
        return [one.name for one in self.replicas if one.offline or not one.current]


class StreamInfo(msgspec.Struct, frozen=True):
    """The leader's description of a stream; `created` differs if a bucket was deleted and made again."""

    config: StreamConfig = StreamConfig()
    state: StreamState = StreamState()
    created: str = ""
    cluster: Cluster | None = None
    error: ApiError | None = None

    @property
    def is_clustered(self) -> bool:
        """Whether another server than the leader may answer a direct get.

        In a cluster also with one replica: one that is being removed answers on, and does not follow the leader.
        """
        return bool(self.cluster and self.cluster.name)

    @property
    def keys(self) -> int:
        """The number of keys of a bucket, with those that are marked as deleted."""
        return self.state.messages if self.config.max_msgs_per_subject == 1 else self.state.num_subjects


class AccountLimits(msgspec.Struct, frozen=True):
    """The limits of an account, in bytes; -1 is no limit."""

    max_storage: int = -1


class Tier(msgspec.Struct, frozen=True):
    """What an account uses, and may use. There may be one tier for each number of replicas."""

    storage: int = 0
    reserved_storage: int = 0
    streams: int = 0
    limits: AccountLimits = AccountLimits()


class Account(Tier, frozen=True):
    """The use and the limits of the client's account; with tiers, the other fields mean nothing."""

    type: str = ""
    tiers: dict[str, Tier] = {}
    error: ApiError | None = None


class RawStreamInfo(msgspec.Struct, frozen=True):
    """The same, undecoded: to see whether anything has changed."""

    config: msgspec.Raw = msgspec.Raw()
    state: msgspec.Raw = msgspec.Raw()
    created: str = ""
    error: ApiError | None = None


class PublishAck(msgspec.Struct, frozen=True):
    """The answer to a write; `duplicate` if the stream had a message with the same Nats-Msg-Id already."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as the leader stores it; msgspec decodes the base64."""

    seq: int
    data: bytes = b""
    hdrs: bytes = b""


class MessageResponse(msgspec.Struct, frozen=True):
    """The answer to a read through the leader."""

    message: StoredMessage | None = None
    error: ApiError | None = None


class PurgeResponse(msgspec.Struct, frozen=True):
    """The answer to a purge; `purged` counts the removed messages."""

    success: bool = False
    purged: int = 0
    error: ApiError | None = None


class ConsumerResponse(msgspec.Struct, frozen=True):
    """The answer to the creation of a consumer; `num_pending` counts the messages that wait for it."""

    name: str = ""
    num_pending: int = 0
    error: ApiError | None = None


def _reader(kind: type[Answer], is_whole: Callable[[Answer], object]) -> Callable[[bytes], Answer]:
    """Return a function that decodes an answer, or raises Unreadable. Without its main fields it is not whole."""
    decode = decoder(kind)

    def read(data: bytes) -> Answer:
        try:
            answer = decode(data)
        except Malformed as error:
            raise Unreadable from error
        if not is_whole(answer):
            raise Unreadable
        return answer

    return read


decode_ack = _reader(PublishAck, lambda ack: ack.error or ack.seq > 0)
decode_message = _reader(MessageResponse, lambda reply: reply.error or (reply.message and reply.message.seq > 0))
decode_info = _reader(StreamInfo, lambda info: info.error or info.created)
decode_state = _reader(RawStreamInfo, lambda info: info.error or info.created)
decode_purge = _reader(PurgeResponse, lambda answer: answer.error or answer.success)
decode_account = _reader(Account, lambda account: account.error or account.type)
decode_consumer = _reader(ConsumerResponse, lambda consumer: consumer.error or consumer.name)
encode = msgspec.json.encode


def unfit(config: StreamConfig) -> str:
    """Return why a stream cannot be a bucket; empty if it can. Others accept values and lose them."""
    reasons = (
        (config.retention != "limits", f"does not keep its values: its retention is {config.retention}, not limits"),
        (config.no_ack, "does not confirm what it stores (no_ack)"),
        (config.subject_transform, "stores its values under other keys (subject_transform)"),
    )
    return "; ".join(text for applies, text in reasons if applies)


def text(headers: Mapping[str, str] | None, name: str) -> str:
    """Return the value of a header that the server always sends, or raise Unreadable."""
    value = (headers or {}).get(name)
    if not value:
        raise Unreadable
    return value


def number(headers: Mapping[str, str] | None, name: str) -> int:
    """Return the number in a header that the server always sends, or raise Unreadable."""
    value = text(headers, name)
    if not (value.isascii() and value.isdecimal() and len(value) <= LONGEST_NUMBER):
        raise Unreadable
    return int(value)


def is_deleted(headers: Mapping[str, str]) -> bool:
    """Return whether a message marks its key as deleted, purged or expired."""
    return OPERATION in headers or MARKER_REASON in headers


def was_deleted(message: StoredMessage) -> bool:
    """Return the same for a message that was read through the leader, whose headers come as one block."""
    return OPERATION.encode() in message.hdrs or MARKER_REASON.encode() in message.hdrs


def origin(headers: Mapping[str, str]) -> tuple[int, str]:
    """Return the revision that a stored write replaced (0 if it named none), and its own id (or an empty text)."""
    previous = headers.get(EXPECTED_REVISION, "")
    is_number = previous.isascii() and previous.isdecimal() and len(previous) <= LONGEST_NUMBER
    return int(previous) if is_number else 0, headers.get(WRITE_ID, "")


def origin_of(message: StoredMessage) -> tuple[int, str]:
    """Return the same for a message that was read through the leader."""
    fields = (line.partition(b":") for line in message.hdrs.split(_CRLF))
    return origin({name.decode(errors="replace"): value.strip().decode(errors="replace") for name, _, value in fields})
