# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Fixtures of the tests of `relay/records`."""

from __future__ import annotations

import pytest

from shared.nats import inbox as inboxes


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lost reply only for a short time."""
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.4)
