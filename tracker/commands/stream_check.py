# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks the stream of push events as the tracker and its consumers depend on it. Publishes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared import push_stream
from shared.commands import formatting
from shared.commands.check.checks import Check, Finding
from shared.errors import NotPermitted, SetupIncomplete, StoreError

if TYPE_CHECKING:
    from shared.commands.check.checks import AddFinding
    from shared.nats.inbox import Inbox
    from shared.push_stream import PushStreamInfo

ABOUT: Final = f"stream {push_stream.NAME}"
CHECK_SECONDS: Final = 20.0
NEARLY_FULL: Final = 0.9
LARGEST_EVENT_BYTES: Final = 4096
SHORTEST_AGE_SECONDS: Final = 86_400
NANOSECONDS: Final = 1_000_000_000


def check(inbox: Inbox) -> Check:
    """Return the check of the stream."""

    async def run(add: AddFinding) -> None:
        add(await _finding(inbox))

    return Check(ABOUT, CHECK_SECONDS, run)


async def _finding(inbox: Inbox) -> Finding:
    stream = push_stream.PushStream(inbox)
    try:
        others = await stream.others()
        info = await stream.info()
    except SetupIncomplete as error:
        return Finding("failed", ABOUT, _without_name(error), error.advice)
    except NotPermitted as error:
        return Finding("failed", ABOUT, str(error), "grant the permission")
    except StoreError as error:
        return Finding("failed", ABOUT, _without_name(error), "check JetStream on the server")
    if _fill(info) >= 1:
        return Finding("failed", ABOUT, f"{_described(info)}; it is full: events wait in the queue", _MORE_SPACE)
    advice = "; ".join([*(["remove the subjects from " + ", ".join(others)] if others else []), *_advice(info)])
    return Finding("warning" if advice else "ok", ABOUT, _described(info), advice)


_MORE_SPACE: Final = "raise its max_bytes (natsStream.maxBytes of the tracker's chart) or lower its max_age"


def _without_name(error: StoreError) -> str:
    return str(error).removeprefix(ABOUT).removeprefix(":").strip()


def _described(info: PushStreamInfo) -> str:
    config, state = info.config, info.state
    free = (
        f"{formatting.size(max(config.max_bytes - state.bytes, 0))} free" if config.max_bytes > 0 else "no size limit"
    )
    kept = f"kept for {formatting.duration(config.max_age / NANOSECONDS)}" if config.max_age else "kept without limit"
    replicas = f"{config.num_replicas} replica{'s' if config.num_replicas > 1 else ''} in {config.storage}"
    window = f"repeats recognized for {formatting.duration(config.duplicate_window / NANOSECONDS)}"
    return f"{state.messages} events, {formatting.size(state.bytes)}, {free}, {kept}, {window}, {replicas}"


def _fill(info: PushStreamInfo) -> float:
    """Return how full the stream is, from 0 to 1; an event that does not fit counts as full."""
    config, state = info.config, info.state
    by_size = state.bytes / max(config.max_bytes - LARGEST_EVENT_BYTES, 1) if config.max_bytes > 0 else 0
    return (
        max(by_size, state.messages / config.max_msgs if config.max_msgs > 0 else 0) if config.discard == "new" else 0
    )


def _advice(info: PushStreamInfo) -> list[str]:
    """Return advice on everything that may lose events or store them twice."""
    config, cluster = info.config, info.cluster
    limited = config.max_bytes > 0 or config.max_msgs > 0
    behind = cluster.behind if cluster else []
    window = push_stream.DUPLICATE_WINDOW_SECONDS
    advice = (
        (_fill(info) >= NEARLY_FULL, f"nearly full: {_MORE_SPACE}"),
        (config.discard == "old" and limited, "when it is full it deletes unread events: set discard to new"),
        (config.max_msgs_per_subject > 0, "it deletes unread events: set max_msgs_per_subject to -1"),
        (config.retention != "limits", f"retention {config.retention} deletes events at once: set it to limits"),
        (not config.max_age, "its events never expire: set max_age, such as 7 days"),
        (0 < config.max_age < SHORTEST_AGE_SECONDS * NANOSECONDS, "a consumer that is away for a day misses events"),
        (config.duplicate_window < window * NANOSECONDS, f"set duplicate_window to {window} s, or repeats are stored"),
        (0 < config.max_msg_size < LARGEST_EVENT_BYTES, "raise max_msg_size: an event may not fit"),
        (bool(behind), f"replicas that are not up to date: {', '.join(behind)}: check these servers"),
        (config.storage == "memory", "in memory: a restart of NATS deletes it; create it again with file storage"),
        (bool(cluster and cluster.name) and config.num_replicas == 1, "in a cluster, 3 replicas are safer"),
    )
    return [text for applies, text in advice if applies]
