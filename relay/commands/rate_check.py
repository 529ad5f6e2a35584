# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: shows how the running relays share the send rate of the account: listens to them for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import nats.errors

from relay import presence
from relay.rate_share import HEARTBEAT_SECONDS
from shared import decoding
from shared.commands.check.checks import Check, Finding
from shared.errors import ServiceUnreachable
from shared.nats import connection, permissions
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from relay.rate_share import Heartbeat
    from relay.settings import RelaySettings
    from shared.commands.check.checks import AddFinding
    from shared.nats.connection import Connection
    from shared.nats.permissions import Denial

SEND_RATE: Final = "send rate"
LISTEN_SECONDS: Final = 3 * HEARTBEAT_SECONDS
CONNECT_SECONDS: Final = 6.0
PERMIT: Final = f"let the NATS user publish and subscribe to {presence.PREFIX}.*"


def check(settings: RelaySettings, name: str) -> Check:
    """Return the check of the rate that the relays share."""

    async def run(add: AddFinding) -> None:
        try:
            async with connection.opened(settings, name, patience_seconds=CONNECT_SECONDS) as opened:
                add(await _finding(opened, settings.ses_account_send_rate))
        except (ServiceUnreachable, SettingsError, OSError):
            add(Finding("skipped", SEND_RATE, "not checked without NATS"))

    return Check(SEND_RATE, 2 * CONNECT_SECONDS + LISTEN_SECONDS, run)


async def _finding(opened: Connection, rate: float) -> Finding:
    denials: list[Denial] = []
    opened.on_error(lambda error: denials.extend(filter(None, [permissions.denial_in(error)])))
    heard: dict[str, Heartbeat] = {}

    def receive(msg: Msg) -> None:
        try:
            heartbeat = presence.decode(msg.data)
        except decoding.Malformed:
            return
        heard[heartbeat.relay] = heartbeat

    try:
        await opened.subscribe(presence.ALL, receive)
        await opened.publish(presence.ALL, b"")  # the relays ignore it; the server checks the permission
        await opened.flush(int(CONNECT_SECONDS))
    except nats.errors.Error as error:
        return Finding("failed", SEND_RATE, str(error), "check that the NATS server is not overloaded")
    if not denials:
        await asyncio.sleep(LISTEN_SECONDS)
    if denials:
        return Finding("failed", SEND_RATE, str(denials[0]), PERMIT)
    return describe([one for one in heard.values() if one.state != "left"], rate)


def describe(heard: list[Heartbeat], rate: float) -> Finding:
    """Return what the heartbeats of all running relays show, compared with the rate of this configuration."""
    if not heard:
        return Finding("ok", SEND_RATE, f"no relay shares it now; the first one gets {rate:g} emails a second")
    shares = sorted({f"{one.share:.4g}" for one in heard})
    found = f"{len(heard)} relays share {rate:g} emails a second: {', '.join(shares)} each"
    if len(heard) == 1:
        found = f"1 relay shares {rate:g} emails a second: {shares[0]}"
    rates = sorted({one.rate for one in heard} | {rate})
    if len(rates) > 1:
        differ = f"{found}; their rates differ: {', '.join(f'{one:g}' for one in rates)}"
        return Finding("warning", SEND_RATE, differ, "set the same SES_ACCOUNT_SEND_RATE for all: the lowest one holds")
    if any(len(one.relays) != len(heard) - 1 or one.state != "sharing" for one in heard):
        advice = "repeat it: relays that come or go agree within seconds; otherwise look at the NATS cluster"
        return Finding("warning", SEND_RATE, f"{found}; they do not count the same relays", advice)
    return Finding("ok", SEND_RATE, found)
