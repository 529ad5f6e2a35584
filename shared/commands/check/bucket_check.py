# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: tries one bucket as the process uses it.

Reading is tried with a key that no bucket has. Writing is tried with a revision that no key has: the server refuses
that as a conflict after it has checked the permission, and stores nothing, so that nobody ever meets the key. In the
same way a consumer is asked for that the server refuses.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from shared.commands import formatting
from shared.commands.check.checkup import Finding, Probe
from shared.errors import BucketMissing, KeyMissing, NotPermitted, RevisionConflict, StoreError
from shared.kv import jetstream
from shared.kv.bucket import Bucket

if TYPE_CHECKING:
    from shared.commands.check.checkup import Tell, Verdict
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

NO_KEY: Final = "=check"  # no group and no email has it: group_index escapes such ids, and ids of emails are UUIDs
NO_REVISION: Final = 1 << 62
NEARLY_FULL: Final = 0.9
LEAST_RECORD_BYTES: Final = 8192
PROBE_SECONDS: Final = 20.0


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How a process uses a bucket.

    It `finds` one value past the leader, reads `many` in one request, `follows` the writes of others. `without` is what
    happens without the bucket.
    """

    bucket: str
    writes: bool = False
    finds: bool = False
    many: bool = False
    follows: bool = False
    optional: bool = False
    without: str = ""
    expires: bool = False


class Config(jetstream.StreamConfig, frozen=True):
    """What else is told of a bucket: bytes with -1 for no limit, `max_age` in nanoseconds with 0 for ever."""

    max_bytes: int = -1
    max_age: int = 0
    max_msgs_per_subject: int = 1
    storage: str = "file"


class State(jetstream.StreamState, frozen=True):
    """What is in it."""

    messages: int = 0
    bytes: int = 0


class Replica(msgspec.Struct, frozen=True):
    """One that follows the leader."""

    name: str = ""
    current: bool = True
    offline: bool = False


class Cluster(msgspec.Struct, frozen=True):
    """Who leads and who follows."""

    leader: str = ""
    name: str = ""
    replicas: tuple[Replica, ...] = ()


class Info(jetstream.StreamInfo, frozen=True):
    """The answer to $JS.API.STREAM.INFO."""

    config: Config = Config()
    state: State = State()
    cluster: Cluster | None = None


_decode = msgspec.json.Decoder(Info).decode


def probe(use: Use, inbox: Inbox, connection: Connection) -> Probe:
    """Return the probe of a bucket."""
    about = f"bucket {use.bucket}"

    async def try_out(tell: Tell) -> None:
        bucket = Bucket(inbox, connection, use.bucket)
        try:
            info = _decode((await inbox.request(f"$JS.API.STREAM.INFO.{bucket.stream_name}")).data)
        except StoreError as error:
            tell(_unusable(about, use, error))
            return
        if info.error:
            tell(_absent(about, use, info.error))
            return
        try:
            await _use(bucket, use, inbox)
        except StoreError as error:
            tell(_unusable(about, use, error, _described(info)))
            return
        verdict, advice = _judged(use, info)
        able = "readable and writable" if use.writes else "readable"
        tell(Finding(verdict, about, f"{_described(info)}, {able}", advice))

    return Probe(about, PROBE_SECONDS, try_out)


def _unusable(about: str, use: Use, error: StoreError, *known: str) -> Finding:
    """Tell of a bucket that cannot be used; what an optional feature needs has to be granted only to who uses it."""
    why = str(error).removeprefix(f"{about}: ")
    if not isinstance(error, NotPermitted):
        return Finding("failed", about, "; ".join((why, *known)), "look after JetStream")
    if use.optional:
        return Finding("warning", about, f"{why}; {use.without}", "grant the permission, unless nobody needs it")
    return Finding("failed", about, why, "grant the permission")


async def _use(bucket: Bucket, use: Use, inbox: Inbox) -> None:
    with suppress(KeyMissing):
        await bucket.get_from_leader(NO_KEY)
    if use.finds:
        await bucket.find(NO_KEY)
    if use.many:
        await bucket.get_many([NO_KEY])
    if use.follows:  # refused, since the stream is not that of the subject
        await inbox.request(f"$JS.API.CONSUMER.CREATE.{bucket.stream_name}", jetstream.encode({"stream_name": NO_KEY}))
    if use.writes:
        await _write(bucket)


async def _write(bucket: Bucket) -> None:
    with suppress(RevisionConflict):  # refused for its revision, not for a permission
        await bucket.update(NO_KEY, b"", NO_REVISION)


def _absent(about: str, use: Use, error: jetstream.ApiError) -> Finding:
    if error.err_code != jetstream.NO_STREAM:
        return Finding("failed", about, f"{error.description} ({error.err_code})", "look after JetStream")
    found = f"there is none; {use.without}" if use.without else "there is none"
    return Finding("warning" if use.optional else "failed", about, found, BucketMissing.advice)


def _described(info: Info) -> str:
    config, state = info.config, info.state
    room = (
        f"room for {formatting.size(max(config.max_bytes - state.bytes, 0))} more"
        if config.max_bytes > 0
        else "no limit of size"
    )
    parts = [
        f"{state.messages} values, {formatting.size(state.bytes)}, {room}",
        f"values up to {formatting.size(config.max_msg_size)}" if config.max_msg_size > 0 else "values of any size",
        f"{config.num_replicas} replica{'s' if config.num_replicas > 1 else ''} in {config.storage}",
        f"history {config.max_msgs_per_subject}",
        f"TTL {formatting.duration(config.max_age / 1e9)}" if config.max_age else "no TTL",
    ]
    return ", ".join(parts if config.allow_direct else [*parts, "no direct reads"])


def _judged(use: Use, info: Info) -> tuple[Verdict, str]:
    """Return the worst that can be said of a bucket that works."""
    config = info.config
    behind = [one.name for one in info.cluster.replicas if one.offline or not one.current] if info.cluster else []
    remarks = (
        (0 < config.max_bytes * NEARLY_FULL <= info.state.bytes, "nearly full: raise its max_bytes"),
        (bool(behind), f"not up to date: {', '.join(behind)}: look after these servers"),
        (config.storage == "memory", "in memory: a restart of NATS loses it; make it anew with file storage"),
        (bool(info.cluster and info.cluster.name) and config.num_replicas == 1, "in a cluster, 3 replicas are safer"),
        (not config.allow_direct and use.many, "set allow_direct: without it each record is read alone"),
        (0 < config.max_msg_size < LEAST_RECORD_BYTES, "values this small cannot hold a record with its events"),
        (bool(config.max_age) and not use.expires, "its values expire, and what was sent is forgotten: set no TTL"),
        (not config.max_age and use.expires, "its keys never expire: set a TTL of 24 hours"),
    )
    advice = "; ".join(advice for applies, advice in remarks if applies)
    return ("warning", advice) if advice else ("ok", "")
