# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Fixtures of the relay's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.relay.commands.sending import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.nats_server import NatsServer


@pytest.fixture
def folder(tmp_path: Path, nats_server: NatsServer) -> Folder:
    """A folder with the files of `send`, which connects to the NATS server."""
    return Folder(tmp_path, nats_server.url)
