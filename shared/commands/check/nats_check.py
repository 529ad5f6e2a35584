# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks NATS, JetStream and the buckets as a process uses them. Leaves nothing behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import nats.errors

from shared import redaction
from shared.commands import formatting
from shared.commands.check import bucket_check, checks
from shared.commands.check.checks import Check, Finding
from shared.errors import LoginRefused, NotPermitted, ServiceUnreachable, StoreError
from shared.kv import jetstream
from shared.nats import connection, credentials, permissions
from shared.nats.inbox import Inbox
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shared.commands.check.bucket_check import BucketUse
    from shared.commands.check.checks import AddFinding
    from shared.nats.connection import Connection
    from shared.nats.permissions import Denial
    from shared.service.settings import NatsSettings

    MoreChecks = Mapping[str, Callable[[Inbox], Check]]
    """Further checks that need the connection, by what they are about."""

CONNECT_SECONDS: Final = 6.0
CHECK_SECONDS: Final = 20.0  # up to six requests for each bucket, each within the inbox's own time limit
ROUND_TRIPS: Final = 3
SLOW_SECONDS: Final = 0.05
FREE_BYTES: Final = 8192  # one record
ACCOUNT: Final = "JetStream account"
NO_SERVER_ADVICE: Final = "check NATS_URL, and that the server runs and can be reached from here"
LOGIN_ADVICE: Final = "check NATS_CREDS, or the user and password in NATS_URL: the server runs, and knows no such login"
NO_CREDENTIALS_ADVICE: Final = "mount the file, or correct NATS_CREDS: a server that asks for a login will refuse serve"
NO_JETSTREAM_ADVICE: Final = "enable JetStream for this account"


_NO_MORE: Final[MoreChecks] = {}


def check(settings: NatsSettings, name: str, uses: Sequence[BucketUse], more: MoreChecks = _NO_MORE) -> Check:
    """Return the check of NATS, of the buckets that the process uses, and of what else it uses there."""

    async def run(add: AddFinding) -> None:
        if settings.nats_creds and (problem := credentials.problem(settings.nats_creds)):
            add(Finding("warning", "NATS credentials", f"NATS_CREDS: {problem}", NO_CREDENTIALS_ADVICE))
        try:
            async with connection.opened(settings, name, patience_seconds=CONNECT_SECONDS) as opened:
                await _with_connection(opened, uses, more, add)
        except (ServiceUnreachable, SettingsError, OSError) as error:
            advice = LOGIN_ADVICE if isinstance(error, LoginRefused) else NO_SERVER_ADVICE
            add(Finding("failed", "NATS", str(error), advice))
            _skip(uses, more, "not checked without NATS", add)

    return Check("NATS", CONNECT_SECONDS + CHECK_SECONDS + CONNECT_SECONDS, run)


async def _with_connection(opened: Connection, uses: Sequence[BucketUse], more: MoreChecks, add: AddFinding) -> None:
    denials: list[Denial] = []
    opened.on_error(lambda error: denials.extend(filter(None, [permissions.denial_in(error)])))
    async with Inbox(opened) as inbox:
        add(await _round_trip(opened))
        if denials:  # of the subscription to the inbox: nothing else was requested yet
            advice = "set NATS_INBOX_PREFIX to a prefix that this user may subscribe to"
            add(Finding("failed", "NATS inbox", str(denials[0]), advice))
            _skip(uses, more, "not checked without an inbox", add)
            return
        account = Check(ACCOUNT, CHECK_SECONDS, lambda add: _account(inbox, add))
        of_buckets = [bucket_check.check(use, inbox, opened) for use in uses]
        async for finding in checks.run([account, *of_buckets, *(make(inbox) for make in more.values())]):
            add(finding)


def _skip(uses: Sequence[BucketUse], more: MoreChecks, why: str, add: AddFinding) -> None:
    for about in [ACCOUNT, *(f"bucket {use.bucket}" for use in uses), *more]:
        add(Finding("skipped", about, why))


async def _round_trip(opened: Connection) -> Finding:
    fastest = min([await _timed_flush(opened) for _ in range(ROUND_TRIPS)])
    found = (
        f"nats-server {opened.server_version} at {opened.server}, "
        f"round trip {fastest * 1000:.1f} ms, messages up to {formatting.size(opened.max_payload)}"
    )
    if fastest > SLOW_SECONDS:
        return Finding("warning", "NATS", found, "each email needs several round trips: run this process near NATS")
    return Finding("ok", "NATS", found)


async def _timed_flush(opened: Connection) -> float:
    started = time.perf_counter()
    try:
        await opened.flush(int(CONNECT_SECONDS))
    except nats.errors.Error as error:
        raise ServiceUnreachable(f"connected, but the server does not answer: {redaction.in_words(error)}") from error
    return time.perf_counter() - started


async def _account(inbox: Inbox, add: AddFinding) -> None:
    try:
        account = jetstream.decode_account((await inbox.request("$JS.API.INFO")).data)
    except NotPermitted as error:  # the process itself does not need this permission
        add(Finding("skipped", ACCOUNT, str(error)))
        return
    except StoreError as error:
        add(Finding("failed", ACCOUNT, f"JetStream: {error}", NO_JETSTREAM_ADVICE))
        return
    if account.error:
        found = f"{account.error.description} ({account.error.err_code})"
        add(Finding("failed", ACCOUNT, found, NO_JETSTREAM_ADVICE))
        return
    for name, tier in (account.tiers or {"": account}).items():
        add(_storage(f"{ACCOUNT} {name}".strip(), tier))


def _storage(about: str, tier: jetstream.Tier) -> Finding:
    limit = tier.limits.max_storage
    found = f"{formatting.size(tier.storage)} stored, {tier.streams} stream{'' if tier.streams == 1 else 's'}"
    found += f", of {formatting.size(limit)}" if limit > 0 else ", no storage limit"
    if 0 < limit < tier.storage + FREE_BYTES:
        return Finding(
            "failed", about, f"{found}, full", f"raise max_storage of the account, {bucket_check.MAKE_SPACE}"
        )
    if limit > 0 and max(tier.storage, tier.reserved_storage) >= limit * bucket_check.NEARLY_FULL:
        return Finding("warning", about, found, "raise max_storage of the account before the server refuses writes")
    return Finding("ok", about, found)
