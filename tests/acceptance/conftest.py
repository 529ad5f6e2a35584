# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Servers and services that the tests of a module share; a test that breaks one of them starts its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.acceptance import services
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller
    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform() -> AsyncIterator[Platform]:
    """A nats-server with both buckets, and a caller."""
    async with services.platform() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def smtp_server() -> AsyncIterator[SmtpServer]:
    """An SMTP server without TLS and accounts."""
    async with smtp_servers.running() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sqs_endpoint() -> AsyncIterator[SqsEndpoint]:
    """An SQS queue."""
    async with sqs_endpoints.running() as endpoint:
        yield endpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(platform: Platform, smtp_server: SmtpServer) -> AsyncIterator[Console]:
    """A relay that sends, with the default settings except for its servers."""
    async with services.relay(platform.nats, smtp_server) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tracker(platform: Platform, sqs_endpoint: SqsEndpoint) -> AsyncIterator[Console]:
    """A tracker that receives events, with the default settings except for its servers."""
    async with services.tracker(platform.nats, sqs_endpoint) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(platform: Platform) -> Caller:
    """A caller of both services."""
    return platform.caller


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def buckets(platform: Platform) -> Buckets:
    """The two KV buckets."""
    return platform.buckets
