# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Runs the tracker's commands as an operator does, also with the NATS permissions of the docs; asserts nothing."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from click.testing import CliRunner

from shared import contract
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.service.settings import ProcessSettings
from tests.acceptance import permissions
from tests.stack import nats_server
from tracker.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from click.testing import Result

_USERS: Final = """
authorization {{ users: [
  {{ user: admin, password: a }}
  {{ user: operator, password: o, permissions: {{ publish: {subjects}, subscribe: "_INBOX.>" }} }}
] }}
"""


class Operator:
    """A person at a terminal, where these variables are set."""

    def __init__(self, url: str, **variables: str) -> None:
        self.variables = {"NATS_URL": url, **variables}

    async def run(self, *arguments: str, text: str | bytes | None = None) -> Result:
        """Run `lfx-email-tracker`."""
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=self.variables, input=text)


def documents(result: Result) -> list[dict[str, Any]]:
    """Return the JSON documents that a command has printed, one a line."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def subjects_of(user: str) -> list[str]:
    """Return the subjects that a user of docs/security.md may publish to."""
    return permissions.users()[user].publish


@asynccontextmanager
async def restricted(subjects: list[str]) -> AsyncIterator[tuple[str, str]]:
    """Run a server; return the URL of an admin and that of an operator who may publish to these subjects."""
    async with nats_server.running(_USERS.format(subjects=json.dumps(subjects))) as server:
        yield server.url.replace("//", "//admin:a@"), server.url.replace("//", "//operator:o@")


async def create_buckets(url: str) -> None:
    """Create all buckets as the relay's chart does."""
    async with nats_connection.opened(ProcessSettings(nats_url=url), "test") as connection:
        await create_missing(connection, contract.BUCKETS)
