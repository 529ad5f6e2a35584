# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Runs the checks of `check` at the same time, each within its own time limit, and collects their findings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from shared import redaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    AddFinding = Callable[["Finding"], None]

Status = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """The state of one thing, what was found, and what to do about it."""

    status: Status = msgspec.field(name="verdict")  # its name in the output of --json, which scripts read
    about: str
    found: str
    advice: str = ""


class Check(NamedTuple):
    """One check: `run` adds its findings, and is cancelled after `seconds`."""

    about: str
    seconds: float
    run: Callable[[AddFinding], Awaitable[None]]


class Plan(NamedTuple):
    """The findings about the settings themselves, and the checks to run with them."""

    findings: list[Finding]
    checks: list[Check]


async def run(checks: Sequence[Check]) -> AsyncIterator[Finding]:
    """Run all checks at the same time; yield their findings in the order of the checks."""
    tasks = [asyncio.create_task(_findings(check)) for check in checks]
    for task in tasks:
        for finding in await task:
            yield finding


async def _findings(check: Check) -> list[Finding]:
    """Return the findings of a check; those before its failure or timeout are kept."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(check.seconds):
            await check.run(findings.append)
    except TimeoutError:
        slow = f"no answer within {check.seconds:g} s"
        findings.append(Finding("failed", check.about, slow, "is it overloaded, or does a firewall drop packets?"))
    except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the findings of the others
        findings.append(
            Finding("failed", check.about, redaction.in_words(error), "please report this as a bug of `check`")
        )
    return findings
