# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each probe of a checkup has its own time and its own failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.commands.check import checkup
from shared.commands.check.checkup import Finding, Probe

if TYPE_CHECKING:
    from shared.commands.check.checkup import Tell

FINE = Finding("ok", "fine", "there")


async def fine(tell: Tell) -> None:
    tell(FINE)


async def silent(tell: Tell) -> None:
    tell(FINE)
    await asyncio.Event().wait()


async def broken(_tell: Tell) -> None:
    raise LookupError("nobody thought of this")


async def test_a_probe_that_hangs_or_breaks_hides_no_other_finding() -> None:
    probes = [Probe("silent", 0.05, silent), Probe("broken", 5, broken), Probe("fine", 5, fine)]
    findings = [finding async for finding in checkup.run(probes)]
    assert [(one.verdict, one.about) for one in findings] == [
        ("ok", "fine"),
        ("failed", "silent"),
        ("failed", "broken"),
        ("ok", "fine"),
    ]
    assert findings[1].found == "no answer within 0.05 s"
    assert "nobody thought of this" in findings[2].found
