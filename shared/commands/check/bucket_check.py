# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks one bucket as the process uses it. Stores nothing.

It reads a key that no bucket has. It writes with a revision that no key has: the server checks the permission, then
refuses the write as a conflict. In the same way it requests a consumer that the server refuses.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract
from shared.commands import formatting
from shared.commands.check.checks import Check, Finding
from shared.errors import BucketMissing, BucketUnfit, KeyMissing, NotPermitted, RevisionConflict, StoreError
from shared.kv import jetstream
from shared.kv.bucket import Bucket

if TYPE_CHECKING:
    from shared.commands.check.checks import AddFinding, Status
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

NO_KEY: Final = "=check"  # no group or email has it: group_index escapes such ids, and ids of emails are UUIDs
NO_REVISION: Final = 1 << 62
NEARLY_FULL: Final = 0.8  # as in the alert of the tracker's chart
VALUE_BYTES: Final = {
    contract.EMAIL_RECIPIENTS_BUCKET: 8192,
    contract.EMAIL_GROUP_INDEX_BUCKET: 1024,
    contract.EMAIL_IDEMPOTENCY_BUCKET: 2048,
    contract.EMAIL_SUPPRESSIONS_BUCKET: 4096,
}
"""What the largest new value takes, with headers; records grow with events, but their lists are cut as needed."""
CHECK_JETSTREAM_ADVICE: Final = "check JetStream on the server"
EXPIRING: Final = "its values expire, and counts with them: set no TTL (lfx-email-tracker retention keeps counts)"
MAKE_SPACE: Final = "or remove old emails with lfx-email-tracker retention"
CHECK_SECONDS: Final = 20.0


class BucketUse(msgspec.Struct, frozen=True, kw_only=True):
    """How a process uses a bucket.

    `finds`: it reads one value from any replica. `many`: it reads many values in one request. `follows`: it consumes
    the writes of other processes. `expires`: its values need a TTL. `without`: what happens without the bucket.
    """

    bucket: str
    writes: bool = False
    finds: bool = False
    many: bool = False
    follows: bool = False
    optional: bool = False
    without: str = ""
    expires: bool = False

    @property
    def value_bytes(self) -> int:
        """What one more value takes at most."""
        return VALUE_BYTES[self.bucket]


class BucketConfig(jetstream.StreamConfig, frozen=True):
    """The configuration: -1 is no limit, `max_age` is in nanoseconds and 0 is no TTL."""

    max_msgs: int = -1
    max_age: int = 0
    discard: str = "new"
    max_msgs_per_subject: int = 1
    storage: str = "file"
    subjects: tuple[str, ...] = ()
    mirror: dict[str, object] | None = None
    sealed: bool = False
    discard_new_per_subject: bool = False


class BucketInfo(jetstream.StreamInfo, frozen=True):
    """The answer to $JS.API.STREAM.INFO."""

    config: BucketConfig = BucketConfig()
    cluster: jetstream.Cluster | None = None


_decode = msgspec.json.Decoder(BucketInfo).decode


def check(use: BucketUse, inbox: Inbox, connection: Connection) -> Check:
    """Return the check of a bucket."""
    about = f"bucket {use.bucket}"

    async def run(add: AddFinding) -> None:
        bucket = Bucket(inbox, connection, use.bucket)
        try:
            info = _decode((await inbox.request(f"$JS.API.STREAM.INFO.{bucket.stream_name}")).data)
        except StoreError as error:
            add(_unusable(about, use, error))
            return
        if info.error:
            add(_absent(about, use, info.error))
            return
        faults = _faults(use, info)
        able = "readable and writable" if use.writes else "readable"
        try:
            await _use(bucket, use, inbox)
        except StoreError as error:
            if not faults or isinstance(error, NotPermitted):
                add(_unusable(about, use, error, _described(use, info)))
                return
            able = "unusable" if isinstance(error, BucketUnfit) else str(error).removeprefix(f"{about}: ")
        advice = _advice(use, info)
        status: Status = "failed" if faults else "warning" if advice else "ok"
        add(Finding(status, about, f"{_described(use, info)}, {able}", "; ".join([*faults, *advice])))

    return Check(about, CHECK_SECONDS, run)


def _unusable(about: str, use: BucketUse, error: StoreError, *known: str) -> Finding:
    """Describe a bucket that cannot be used. A missing permission is only a warning if the bucket is optional."""
    why = str(error).removeprefix(f"{about}: ")
    if not isinstance(error, NotPermitted):
        return Finding("failed", about, "; ".join((why, *known)), CHECK_JETSTREAM_ADVICE)
    if use.optional:
        return Finding("warning", about, f"{why}; {use.without}", "grant the permission if callers use this feature")
    return Finding("failed", about, why, "grant the permission")


async def _use(bucket: Bucket, use: BucketUse, inbox: Inbox) -> None:
    with suppress(KeyMissing):
        await bucket.get_from_leader(NO_KEY)
    if use.finds:
        await bucket.find(NO_KEY)
    if use.many:
        await bucket.get_many([NO_KEY])
    if use.follows:  # refused, since the stream named in the request is not that of the subject
        await inbox.request(f"$JS.API.CONSUMER.CREATE.{bucket.stream_name}", jetstream.encode({"stream_name": NO_KEY}))
    if use.writes:
        with suppress(RevisionConflict):  # refused because of its revision, so the permission is there
            await bucket.update(NO_KEY, b"", NO_REVISION)


def _absent(about: str, use: BucketUse, error: jetstream.ApiError) -> Finding:
    if error.err_code != jetstream.NO_STREAM:
        return Finding("failed", about, f"{error.description} ({error.err_code})", CHECK_JETSTREAM_ADVICE)
    found = f"does not exist; {use.without}" if use.without else "does not exist"
    return Finding("warning" if use.optional else "failed", about, found, BucketMissing.advice)


def _described(use: BucketUse, info: BucketInfo) -> str:
    config, state = info.config, info.state
    values = f"{state.messages} value{'' if state.messages == 1 else 's'}"
    parts = [
        f"{values}, {formatting.size(state.bytes)}, {_free(use, info)}",
        f"values up to {formatting.size(config.max_msg_size)}" if config.max_msg_size > 0 else "values of any size",
        f"{config.num_replicas} replica{'s' if config.num_replicas > 1 else ''} in {config.storage}",
        f"history {config.max_msgs_per_subject}",
        f"TTL {formatting.duration(config.max_age / 1e9)}" if config.max_age else "no TTL",
    ]
    return ", ".join(parts if config.allow_direct else [*parts, "no direct reads"])


def _free(use: BucketUse, info: BucketInfo) -> str:
    config, state = info.config, info.state
    if config.max_bytes <= 0:
        return f"full: its max_msgs is {config.max_msgs}" if _is_full(use, info) else "no size limit"
    free = f"{formatting.size(max(config.max_bytes - state.bytes, 0))} free"
    return f"full: {free}" if _is_full(use, info) else free


def _is_full(use: BucketUse, info: BucketInfo) -> bool:
    """Return whether there is no space for one more value."""
    config, state = info.config, info.state
    no_bytes = 0 < config.max_bytes < state.bytes + use.value_bytes
    return no_bytes or 0 < config.max_msgs <= state.messages


def _faults(use: BucketUse, info: BucketInfo) -> list[str]:
    """Return advice on everything that keeps values from being stored."""
    config, needed = info.config, formatting.size(use.value_bytes)
    faults = [
        (0 < config.max_msg_size < use.value_bytes, f"too small for a value: raise max_value_size to {needed} or more"),
        (0 < config.max_bytes < use.value_bytes, f"too small for a value: raise max_bytes, {needed} is one value"),
        (_is_full(use, info), f"full: raise its {'max_bytes' if config.max_bytes > 0 else 'max_msgs'}, {MAKE_SPACE}"),
    ]
    if use.writes:
        keys = f"$KV.{use.bucket}.>"
        takes_none = not config.mirror and not {keys, "$KV.>", ">"} & {*config.subjects}
        faults += [
            (bool(config.mirror), f"a mirror, which accepts no writes: replace it with a stream for {keys}"),
            (takes_none, f"a stream without the subjects of its keys: add {keys}"),
            (config.sealed, "sealed, so it accepts no values: create it again"),
            (config.discard_new_per_subject, "no value can be replaced: switch discard_new_per_subject off"),
        ]
    unfit = jetstream.unfit(config)
    return [*[text for applies, text in faults if applies], *([f"{unfit}: {BucketUnfit.advice}"] if unfit else [])]


def _advice(use: BucketUse, info: BucketInfo) -> list[str]:
    """Return advice on everything else that is unusual about a bucket."""
    config = info.config
    behind = info.cluster.behind if info.cluster else []
    advice = (
        (
            0 < config.max_bytes * NEARLY_FULL <= info.state.bytes and not _is_full(use, info),
            f"nearly full: raise its max_bytes, {MAKE_SPACE}",
        ),
        (bool(behind), f"replicas that are not up to date: {', '.join(behind)}: check these servers"),
        (config.storage == "memory", "in memory: a restart of NATS deletes it; create it again with file storage"),
        (bool(info.cluster and info.cluster.name) and config.num_replicas == 1, "in a cluster, 3 replicas are safer"),
        (not config.allow_direct and use.many, "set allow_direct: without it each record is one request"),
        (bool(config.max_age) and not use.expires, EXPIRING),
        (config.discard == "old", "its oldest values are deleted when it is full: set its discard policy to new"),
        (not config.max_age and use.expires, "its keys never expire: set a TTL of 24 hours"),
    )
    return [text for applies, text in advice if applies]
