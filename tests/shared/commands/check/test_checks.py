# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each check has its own time limit, and its failure hides no other finding."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.commands.check import checks
from shared.commands.check.checks import Check, Finding

if TYPE_CHECKING:
    from shared.commands.check.checks import AddFinding

FINE = Finding("ok", "fine", "there")


async def fine(add: AddFinding) -> None:
    add(FINE)


async def silent(add: AddFinding) -> None:
    add(FINE)
    await asyncio.Event().wait()


async def broken(_add: AddFinding) -> None:
    raise LookupError("unexpected")


async def test_a_check_that_hangs_or_raises_hides_no_other_finding() -> None:
    planned = [Check("silent", 0.05, silent), Check("broken", 5, broken), Check("fine", 5, fine)]
    findings = [finding async for finding in checks.run(planned)]
    assert [(one.status, one.about) for one in findings] == [
        ("ok", "fine"),
        ("failed", "silent"),
        ("failed", "broken"),
        ("ok", "fine"),
    ]
    assert findings[1].found == "no answer within 0.05 s"
    assert "unexpected" in findings[2].found
