# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A checkup tries each dependency for real, within its own time, and tells each finding in one line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    Tell = Callable[["Finding"], None]

Verdict = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """What was found about one thing, and what to do about it."""

    verdict: Verdict
    about: str
    found: str
    advice: str = ""


class Probe(NamedTuple):
    """Something to be tried; it tells what it finds, and is broken off when its time is over."""

    about: str
    seconds: float
    try_out: Callable[[Tell], Awaitable[None]]


async def run(probes: Sequence[Probe]) -> AsyncIterator[Finding]:
    """Try all at once; yield their findings in the order of the probes."""
    tasks = [asyncio.create_task(_findings(probe)) for probe in probes]
    for task in tasks:
        for finding in await task:
            yield finding


async def _findings(probe: Probe) -> list[Finding]:
    """Return what a probe finds: one that fails hides neither what it has found before nor another probe."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(probe.seconds):
            await probe.try_out(findings.append)
    except TimeoutError:
        slow = f"no answer within {probe.seconds:g} s"
        findings.append(Finding("failed", probe.about, slow, "is it overloaded, or does a firewall drop packets?"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other findings are told
        findings.append(Finding("failed", probe.about, repr(error), "please report this"))
    return findings
