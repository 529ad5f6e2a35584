# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The stream of the durable push events: how it is configured and created, and when it cannot be used.

In production the tracker's chart creates it with the same limits. `shared.kv.setup.require` waits for it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract
from shared.decoding import Malformed, decoder
from shared.errors import NotPermitted, StoreUnavailable, StreamMissing, StreamUnfit
from shared.kv import jetstream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

log = logging.getLogger(__name__)

MAX_AGE_SECONDS: Final = 7 * 86_400
DUPLICATE_WINDOW_SECONDS: Final = 600
MAX_BYTES: Final = 1 << 30
"""The size at which the stream refuses events, so that they wait in SQS and the records keep their space.

With the usual policy (`old`) a full stream would delete events that a consumer has not read yet, without an
error. So the policy is `new`.
"""
REQUESTS: Final = (
    contract.SEND_EMAIL_SUBJECT,
    contract.GET_EMAIL_STATUS_SUBJECT,
    contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT,
)
NAME: Final = contract.PUSH_EVENTS_STREAM
INFO_SUBJECT: Final = f"$JS.API.STREAM.INFO.{NAME}"
NAMES_SUBJECT: Final = "$JS.API.STREAM.NAMES"


class PushStreamConfig(jetstream.StreamConfig, frozen=True):
    """The configuration; times in nanoseconds (0 is no limit), sizes in bytes (-1 is no limit)."""

    subjects: tuple[str, ...] = ()
    retention: str = "limits"
    discard: str = "old"
    storage: str = "file"
    max_age: int = 0
    max_bytes: int = -1
    max_msgs: int = -1
    duplicate_window: int = 0
    no_ack: bool = False
    sealed: bool = False


class PushStreamState(jetstream.StreamState, frozen=True):
    """What the stream holds."""

    bytes: int = 0


class PushStreamInfo(jetstream.StreamInfo, frozen=True):
    """The answer to INFO_SUBJECT."""

    config: PushStreamConfig = PushStreamConfig()
    state: PushStreamState = PushStreamState()
    cluster: jetstream.Cluster | None = None


class StreamNames(msgspec.Struct, frozen=True):
    """The answer to NAMES_SUBJECT."""

    streams: tuple[str, ...] | None = None
    error: jetstream.ApiError | None = None


_decode_info = decoder(PushStreamInfo)
_decode_names = decoder(StreamNames)


class PushStream:
    """The stream on the server, read only."""

    def __init__(self, inbox: Inbox) -> None:
        """Ask through `inbox`."""
        self._inbox = inbox

    async def info(self) -> PushStreamInfo:
        """Ask the stream's leader for its configuration and state.

        Raises:
            StreamMissing: it does not exist.
            StreamUnfit: it cannot hold the push events.
            StoreUnavailable: JetStream does not answer, or the NATS user may not ask.
        """
        info = await self.existing()
        if why := unfit(info.config):
            raise StreamUnfit(f"stream {NAME} {why}{await self._overlap()}")
        return info

    async def existing(self) -> PushStreamInfo:
        """Ask the same, of a stream that need not be able to hold all push events.

        Raises:
            StreamMissing: it does not exist.
            StoreUnavailable: JetStream does not answer, or the NATS user may not ask.
        """
        info = await self._ask()
        if info.error and info.error.err_code == jetstream.NO_STREAM:
            raise StreamMissing(f"stream {NAME} does not exist{await self._overlap()}")
        if info.error:
            raise StoreUnavailable(f"stream {NAME}: {info.error.description} ({info.error.err_code})")
        return info

    async def _ask(self) -> PushStreamInfo:
        """Return the answer of JetStream, which may be an error."""
        try:
            reply = await self._inbox.request(INFO_SUBJECT)
            info = _decode_info(reply.data)
        except NotPermitted:
            raise
        except StoreUnavailable as error:
            raise StoreUnavailable(f"stream {NAME}: {error}") from error
        except Malformed as error:
            raise jetstream.Unreadable from error
        if not (info.error or info.created):
            raise jetstream.Unreadable
        return info

    async def others(self) -> list[str]:
        """Return the other streams that have one of the subjects: JetStream gives a subject to one stream only.

        Raises:
            StoreUnavailable: JetStream does not answer, or the NATS user may not ask.
        """
        found: set[str] = set()
        for subject in contract.PUSH_EVENT_SUBJECTS:
            reply = await self._inbox.request(NAMES_SUBJECT, jetstream.encode({"subject": subject}))
            try:
                found.update(_decode_names(reply.data).streams or ())
            except Malformed as error:
                raise jetstream.Unreadable from error
        return sorted(found - {NAME})

    async def _overlap(self) -> str:
        """Describe what keeps the subjects from the stream; empty if nothing does, or the user may not ask."""
        try:
            others = await self.others()
        except StoreUnavailable:
            return ""
        return overlap(others) if others else ""


def overlap(others: Sequence[str]) -> str:
    """Return what other streams mean for this one."""
    return f"; the stream {', '.join(others)} has its subjects: remove them there first"


def unfit(config: PushStreamConfig) -> str:
    """Return why a stream cannot hold the push events; empty if it can."""
    missing, requests = uncovered(config.subjects), [one for one in REQUESTS if _covered(one, config.subjects)]
    reasons = (
        (missing, f"does not cover {', '.join(missing)}"),
        (requests, f"also covers {', '.join(requests)}: JetStream would answer these requests"),
        (config.no_ack, "acknowledges nothing (no_ack)"),
        (config.sealed, "is sealed, so nothing can be added"),
    )
    return "; ".join(text for applies, text in reasons if applies)


def uncovered(patterns: Sequence[str]) -> list[str]:
    """Return the subjects of push events that no pattern covers."""
    return [subject for subject in contract.PUSH_EVENT_SUBJECTS if not _covered(subject, patterns)]


def _covered(subject: str, patterns: Sequence[str]) -> bool:
    return any(covers(pattern, subject) for pattern in patterns)


def covers(pattern: str, subject: str) -> bool:
    """Return whether a subject of NATS matches a pattern."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">" and len(given) >= len(wanted):
        wanted = wanted[:-1]
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(one in {"*", other} for one, other in zip(wanted, given, strict=True))


async def create_missing(connection: Connection) -> None:
    """Create the stream if it does not exist. A failure is only logged: `require` reports later a missing stream."""
    import nats.js.errors  # noqa: PLC0415 - needed only where the stream is created
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig  # noqa: PLC0415

    js = connection.jetstream()
    try:
        try:
            await js.stream_info(NAME)
        except nats.js.errors.NotFoundError:
            await js.add_stream(
                StreamConfig(
                    name=NAME,
                    subjects=list(contract.PUSH_EVENT_SUBJECTS),
                    retention=RetentionPolicy.LIMITS,
                    storage=StorageType.FILE,
                    discard=DiscardPolicy.NEW,
                    max_age=MAX_AGE_SECONDS,
                    max_bytes=MAX_BYTES,
                    duplicate_window=DUPLICATE_WINDOW_SECONDS,
                )
            )
            log.info("stream.created", extra={"stream": NAME})
    except nats.errors.Error as error:
        log.warning("stream.not_created", extra={"stream": NAME, "error": str(error)})
