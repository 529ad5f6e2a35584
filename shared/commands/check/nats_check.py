# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: tries NATS, JetStream and the buckets as a process uses them, and leaves nothing behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
import nats.errors

from shared.commands import formatting
from shared.commands.check import bucket_check, checkup
from shared.commands.check.checkup import Finding, Probe
from shared.errors import NotPermitted, ServiceUnreachable, StoreError
from shared.kv import jetstream  # noqa: TC001 - msgspec reads it
from shared.nats import connection, permissions
from shared.nats.inbox import Inbox
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.commands.check.bucket_check import Use
    from shared.commands.check.checkup import Tell
    from shared.nats.connection import Connection
    from shared.nats.permissions import Denial
    from shared.service.settings import NatsSettings

CONNECT_SECONDS: Final = 6.0
PROBE_SECONDS: Final = 20.0  # a bucket is asked up to six things, each within the inbox's own time
ROUND_TRIPS: Final = 3
SLOW_SECONDS: Final = 0.05
NEARLY_FULL: Final = 0.9
ACCOUNT: Final = "JetStream account"


class Limits(msgspec.Struct, frozen=True):
    """Of an account, in bytes; -1 for none."""

    max_storage: int = -1


class Tier(msgspec.Struct, frozen=True):
    """What an account may use, and uses; with replicas there may be a tier for each number of them."""

    storage: int = 0
    reserved_storage: int = 0
    streams: int = 0
    limits: Limits = Limits()


class Account(Tier, frozen=True):
    """The answer to $JS.API.INFO."""

    tiers: dict[str, Tier] = {}
    error: jetstream.ApiError | None = None


_decode_account = msgspec.json.Decoder(Account).decode


def probe(settings: NatsSettings, name: str, uses: Sequence[Use]) -> Probe:
    """Return the probe of NATS and of the buckets that the process uses."""

    async def try_out(tell: Tell) -> None:
        try:
            async with connection.opened(settings, name, patience_seconds=CONNECT_SECONDS) as opened:
                denied: list[Denial] = []
                opened.on_error(lambda error: denied.extend(filter(None, [permissions.denial_in(error)])))
                async with Inbox(opened) as box:
                    tell(await _round_trip(opened))
                    if denied:  # nothing but the inbox was asked for yet
                        advice = "set NATS_INBOX_PREFIX to where it may subscribe"
                        tell(Finding("failed", "NATS inbox", str(denied[0]), advice))
                        skip(tell, "an inbox")
                        return
                    probes = [Probe(ACCOUNT, PROBE_SECONDS, lambda tell: _account(box, tell))]
                    probes += [bucket_check.probe(use, box, opened) for use in uses]
                    async for finding in checkup.run(probes):
                        tell(finding)
        except (ServiceUnreachable, SettingsError, OSError) as error:
            tell(Finding("failed", "NATS", str(error), "check NATS_URL and NATS_CREDS, and that the server runs"))
            skip(tell, "NATS")

    def skip(tell: Tell, missing: str) -> None:
        for about in [ACCOUNT, *(f"bucket {use.bucket}" for use in uses)]:
            tell(Finding("skipped", about, f"not tried without {missing}"))

    return Probe("NATS", CONNECT_SECONDS + PROBE_SECONDS + CONNECT_SECONDS, try_out)


async def _round_trip(opened: Connection) -> Finding:
    fastest = min([await _timed_flush(opened) for _ in range(ROUND_TRIPS)])
    found = (
        f"nats-server {opened.server_version} at {opened.server}, "
        f"round trip {fastest * 1000:.1f} ms, messages up to {formatting.size(opened.max_payload)}"
    )
    if fastest > SLOW_SECONDS:
        return Finding("warning", "NATS", found, "each email needs several round trips: run close to NATS")
    return Finding("ok", "NATS", found)


async def _timed_flush(opened: Connection) -> float:
    started = time.perf_counter()
    try:
        await opened.flush(int(CONNECT_SECONDS))
    except nats.errors.Error as error:
        raise ServiceUnreachable(f"connected, but does not answer: {error}") from error
    return time.perf_counter() - started


async def _account(box: Inbox, tell: Tell) -> None:
    try:
        account = _decode_account((await box.request("$JS.API.INFO")).data)
    except NotPermitted as error:  # the process itself needs no such permission
        tell(Finding("skipped", ACCOUNT, str(error)))
        return
    except StoreError as error:
        tell(Finding("failed", ACCOUNT, f"JetStream: {error}", "switch JetStream on for this account"))
        return
    if account.error:
        said = f"{account.error.description} ({account.error.err_code})"
        tell(Finding("failed", ACCOUNT, said, "switch JetStream on for this account"))
        return
    for tier, used in (account.tiers or {"": account}).items():
        tell(_used(f"{ACCOUNT} {tier}".strip(), used))


def _used(about: str, used: Tier) -> Finding:
    limit = used.limits.max_storage
    stored = max(used.storage, used.reserved_storage)
    found = f"{formatting.size(used.storage)} stored, {used.streams} streams"
    found += f", of {formatting.size(limit)}" if limit > 0 else ", no limit of storage"
    if limit > 0 and stored >= limit * NEARLY_FULL:
        return Finding("warning", about, found, "raise max_storage of the account before writes are refused")
    return Finding("ok", about, found)
