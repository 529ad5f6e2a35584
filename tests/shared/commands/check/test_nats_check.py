# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` describes NATS and the buckets as the process uses them, and leaves nothing behind."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import nats
import pytest
import pytest_asyncio
from nats.js.api import KeyValueConfig, StorageType

from shared.commands.check import checks, nats_check
from shared.commands.check.bucket_check import BucketUse
from shared.service.settings import NatsSettings
from tests.shared.connections import as_user
from tests.stack import nats_server as servers
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.js.client import JetStreamContext

    from shared.commands.check.checks import Finding
    from tests.stack.nats_server import NatsServer

B = BucketUse(bucket="b", writes=True, finds=True, many=True, follows=True)
CONFIG = """
accounts {
  KV {
    jetstream: { max_file: 20000000, max_mem: 20000000 }
    users: [
      { user: all, password: s3cret }
      { user: reader, password: s3cret, permissions: { publish: { deny: "$KV.b.>" } } }
      { user: writer, password: s3cret, permissions: { publish: { deny: "$JS.API.STREAM.MSG.GET.KV_b" } } }
      { user: single, password: s3cret, permissions: { publish: { deny: "$JS.API.DIRECT.GET.KV_b" } } }
      { user: batch, password: s3cret, permissions: { publish: { deny: "$JS.API.DIRECT.GET.KV_b.>" } } }
      { user: inboxless, password: s3cret, permissions: { subscribe: "_INBOX.mine.>" } }
      { user: deaf, password: s3cret, permissions: { publish: { deny: "$JS.API.CONSUMER.CREATE.KV_b" } } }
      {
        user: blind, password: s3cret
        permissions: { publish: { deny: ["$JS.API.INFO", "$JS.API.STREAM.INFO.KV_b"] } }
      }
    ]
  }
  NONE { users: [{ user: none, password: s3cret }] }
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[NatsServer]:
    """A nats-server with an account for buckets, and one without JetStream."""
    async with servers.running(CONFIG) as running:
        yield running


@asynccontextmanager
async def with_bucket(server: NatsServer, **config: object) -> AsyncIterator[JetStreamContext]:
    """Create the bucket `b` for as long as the block runs."""
    async with await nats.connect(as_user(server.url, "all:s3cret")) as client:
        js = client.jetstream()
        await js.create_key_value(KeyValueConfig(**{"bucket": "b", "history": 1, "direct": True, **config}))  # type: ignore[arg-type]
        try:
            yield js
        finally:
            await js.delete_key_value("b")


async def found(url: str, *uses: BucketUse) -> dict[str, Finding]:
    """Run the check; return each finding under its `about`."""
    planned = [nats_check.check(NatsSettings(nats_url=url), "tests", uses)]
    return {finding.about: finding async for finding in checks.run(planned)}


async def test_a_healthy_bucket_is_described_and_nothing_is_left_in_it(server: NatsServer) -> None:
    async with with_bucket(server, max_value_size=65536, max_bytes=1_000_000) as js:
        findings = await found(as_user(server.url, "all:s3cret"), B)
        info = await js.stream_info("KV_b")
    assert {one.status for one in findings.values()} == {"ok"}
    assert findings["NATS"].found.startswith("nats-server 2.")
    assert "round trip" in findings["NATS"].found
    assert findings["JetStream account"].found.endswith("1 streams, of 19.07 MiB")
    assert findings["bucket b"].found == (
        "0 values, 0 B, 976.6 KiB free, values up to 64 KiB, 1 replica in file, history 1, no TTL, "
        "readable and writable"
    )
    assert (info.state.messages, info.state.last_seq, info.state.consumer_count) == (0, 0, 0)


async def test_a_missing_bucket_is_a_failure_unless_it_is_optional(server: NatsServer) -> None:
    uses = (B, BucketUse(bucket="c", optional=True, without="some requests fail"))
    findings = await found(as_user(server.url, "all:s3cret"), *uses)
    assert (findings["bucket b"].status, findings["bucket b"].found) == ("failed", "does not exist")
    assert "--create-missing" in findings["bucket b"].advice
    assert (findings["bucket c"].status, findings["bucket c"].found) == (
        "warning",
        "does not exist; some requests fail",
    )


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("reader", "$KV.b.=check"),
        ("writer", "$JS.API.STREAM.MSG.GET.KV_b"),
        ("blind", "$JS.API.STREAM.INFO.KV_b"),
        ("single", "$JS.API.DIRECT.GET.KV_b"),
        ("batch", "$JS.API.DIRECT.GET.KV_b.$KV.b.=check"),
        ("deaf", "$JS.API.CONSUMER.CREATE.KV_b"),
    ],
)
async def test_a_missing_permission_is_named(server: NatsServer, user: str, subject: str) -> None:
    async with with_bucket(server):
        findings = await found(as_user(server.url, f"{user}:s3cret"), B)
    assert findings["bucket b"].status == "failed"
    assert findings["bucket b"].found == f"the NATS user may not publish to {subject}"


async def test_without_permission_for_the_inbox_nothing_else_is_checked(server: NatsServer) -> None:
    findings = await found(as_user(server.url, "inboxless:s3cret"), B)
    assert [one.status for one in findings.values()] == ["ok", "failed", "skipped", "skipped"]
    assert findings["NATS inbox"].found.startswith("the NATS user may not subscribe to _INBOX.")
    assert "NATS_INBOX_PREFIX" in findings["NATS inbox"].advice


async def test_missing_permissions_for_an_optional_bucket_are_only_a_warning(server: NatsServer) -> None:
    async with with_bucket(server):
        optional = BucketUse(bucket="b", writes=True, optional=True, without="some requests fail")
        findings = await found(as_user(server.url, "reader:s3cret"), optional)
    assert findings["bucket b"].status == "warning"
    assert findings["bucket b"].found.endswith("; some requests fail")


async def test_without_permission_for_the_account_it_is_skipped(server: NatsServer) -> None:
    findings = await found(as_user(server.url, "blind:s3cret"))
    assert findings["JetStream account"].status == "skipped"
    assert findings["JetStream account"].found == "the NATS user may not publish to $JS.API.INFO"


async def test_a_reader_needs_no_permission_to_write(server: NatsServer) -> None:
    async with with_bucket(server):
        findings = await found(as_user(server.url, "reader:s3cret"), BucketUse(bucket="b", many=True))
    assert findings["bucket b"].status == "ok"
    assert findings["bucket b"].found.endswith(", readable")


async def test_there_is_advice_on_everything_unusual_about_a_bucket(server: NatsServer) -> None:
    odd = {"storage": StorageType.MEMORY, "ttl": 60, "max_value_size": 4096, "max_bytes": 1000, "direct": False}
    async with with_bucket(server, **odd) as js:
        await js.publish("$KV.b.k", b"x" * 900)
        findings = await found(as_user(server.url, "all:s3cret"), B)
    bucket = findings["bucket b"]
    assert bucket.status == "warning"
    assert "TTL 60 seconds, no direct reads" in bucket.found
    for advice in ("raise its max_bytes", "file storage", "allow_direct", "raise max_value_size", "set no TTL"):
        assert advice in bucket.advice


async def test_an_account_that_is_nearly_full_is_a_warning(server: NatsServer) -> None:
    async with with_bucket(server, max_bytes=19_000_000):
        findings = await found(as_user(server.url, "all:s3cret"))
    assert findings["JetStream account"].status == "warning"
    assert "max_storage" in findings["JetStream account"].advice


async def test_an_account_without_jetstream_is_a_failure(server: NatsServer) -> None:
    findings = await found(as_user(server.url, "none:s3cret"), B)
    assert findings["NATS"].status == "ok"
    assert findings["JetStream account"].status == findings["bucket b"].status == "failed"
    assert "JetStream" in findings["JetStream account"].found


@pytest.mark.parametrize("wrong", ["password", "port"])
async def test_without_a_connection_to_nats_everything_else_is_skipped(
    server: NatsServer, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_check, "CONNECT_SECONDS", 0.3)
    url = as_user(server.url, "all:wr0ng") if wrong == "password" else f"nats://127.0.0.1:{free_port()}"
    findings = await found(url, B)
    assert [one.status for one in findings.values()] == ["failed", "skipped", "skipped"]
    assert ("the login was refused" if wrong == "password" else "connection refused") in findings["NATS"].found
    assert ("the server runs, and" if wrong == "password" else "that the server runs") in findings["NATS"].advice
    assert "wr0ng" not in findings["NATS"].found


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file or directory"), ("text", "has no user JWT and seed")]
)
async def test_a_credentials_file_that_cannot_be_used_is_a_warning(
    server: NatsServer, tmp_path: Path, content: str | None, problem: str
) -> None:
    file = tmp_path / "user.creds"
    if content:
        file.write_text(content)
    settings = NatsSettings(nats_url=as_user(server.url, "all:s3cret"), nats_creds=str(file))
    planned = [nats_check.check(settings, "tests", [])]
    first = await anext(aiter(checks.run(planned)))
    assert (first.status, first.about) == ("warning", "NATS credentials")
    assert problem in first.found
