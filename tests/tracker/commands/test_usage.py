# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each command ends with 2 and without output after wrong usage, and with 3 where NATS cannot be reached."""

from __future__ import annotations

import pytest

from shared.commands import caller
from tests.stack.ports import free_port
from tests.tracker.commands.operators import Operator

UNREACHABLE = f"nats://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "arguments",
    [
        "analytics",
        "analytics speakers --group-id speakers",
        "analytics speakers --watch --interval 0",
        "analytics speakers --watch --interval soon",
        "analytics speakers --watch --interval nan",
        "analytics speakers --watch --interval inf",
        "watch --kind bounced",
        "watch --count 0",
        "watch 3f333df6",
        "replay",
        "replay no-such-file",
        "suppressions show ada",
        "suppressions add a@x.org,b@x.org",
        "suppressions remove jörg@x.org",
        "suppressions list --since soon",
        "suppressions list --since 999999999d",
        "suppressions list --reason spam",
        "suppressions import no-such-file",
        f"suppressions add a@x.org --detail {'x' * 501}",
    ],
)
async def test_wrong_usage_ends_with_2(arguments: str) -> None:
    result = await Operator(UNREACHABLE).run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    ["status 3f333df6", "analytics speakers", "watch", "replay -", "suppressions list", "suppressions import -"],
)
async def test_an_unreachable_nats_ends_with_3(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.2)
    result = await Operator(UNREACHABLE).run(*arguments.split(), text="")
    assert result.exit_code == 3
    assert "NATS" in result.stderr
