# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An import ends when KV does not answer, however many addresses wait for their turn."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from shared.errors import StoreUnavailable
from tracker.commands.suppressions import file as file_format
from tracker.commands.suppressions import importing
from tracker.commands.suppressions.importing import Imported, Options

ADDRESSES = [f"a{number}@example.com" for number in range(200)]


class Unavailable:
    """A suppression list whose bucket does not answer."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    async def add(self, entry: Any, *, replace: bool) -> None:  # noqa: ARG002 - as the list
        """Fail."""
        self.tried.append(entry.address)
        raise StoreUnavailable("bucket b: no answer")


async def test_the_addresses_that_wait_are_not_tried_after_one_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be tried for 30 seconds: with a NATS server that was stopped, an import ended after minutes."""
    monkeypatch.setattr(importing, "PATIENCE_SECONDS", 0.0)
    listed, options = Unavailable(), Options(replace=False, dry_run=False, as_json=False)
    rows = file_format.read(["\n".join(ADDRESSES)], reason="manual", now=datetime(2026, 1, 2, tzinfo=UTC))
    with pytest.raises(StoreUnavailable):
        await importing._Import(listed, Imported(), options).add(rows)  # type: ignore[arg-type]  # noqa: SLF001
    assert listed.tried == ADDRESSES[:1]
