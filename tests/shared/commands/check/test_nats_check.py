# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` describes NATS and the buckets as the process uses them, and leaves nothing behind."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import nats
import pytest
import pytest_asyncio
import yaml
from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, SubjectTransform

from shared import contract
from shared.commands.check import bucket_check, checks, nats_check
from shared.commands.check.bucket_check import BucketUse
from shared.service.settings import NatsSettings
from tests.shared.connections import as_user
from tests.stack import nats_proxy
from tests.stack import nats_server as servers
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js.client import JetStreamContext

    from shared.commands.check.checks import Finding
    from tests.stack.nats_frames import Delivery
    from tests.stack.nats_server import NatsServer

NAME = contract.EMAIL_RECIPIENTS_BUCKET
ABOUT = f"bucket {NAME}"
B = BucketUse(bucket=NAME, writes=True, finds=True, many=True, follows=True)
ROOT = Path(__file__).parents[4]
CONFIG = """
accounts {
  KV {
    jetstream: { max_file: 20000000, max_mem: 20000000 }
    users: [
      { user: all, password: s3cret }
      { user: reader, password: s3cret, permissions: { publish: { deny: "$KV.email-recipients.>" } } }
      { user: writer, password: s3cret, permissions: { publish: { deny: "$JS.API.STREAM.MSG.GET.*" } } }
      { user: single, password: s3cret, permissions: { publish: { deny: "$JS.API.DIRECT.GET.*" } } }
      { user: batch, password: s3cret, permissions: { publish: { deny: "$JS.API.DIRECT.GET.KV_email-recipients.>" } } }
      { user: inboxless, password: s3cret, permissions: { subscribe: "_INBOX.mine.>" } }
      { user: deaf, password: s3cret, permissions: { publish: { deny: "$JS.API.CONSUMER.CREATE.*" } } }
      {
        user: blind, password: s3cret
        permissions: { publish: { deny: ["$JS.API.INFO", "$JS.API.STREAM.INFO.KV_email-recipients"] } }
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
        await js.create_key_value(KeyValueConfig(**{"bucket": NAME, "history": 1, "direct": True, **config}))  # type: ignore[arg-type]
        try:
            yield js
        finally:
            await js.delete_key_value(NAME)


async def found(url: str, *uses: BucketUse) -> dict[str, Finding]:
    """Run the check; return each finding under its `about`."""
    planned = [nats_check.check(NatsSettings(nats_url=url), "tests", uses)]
    return {finding.about: finding async for finding in checks.run(planned)}


async def test_a_healthy_bucket_is_described_and_nothing_is_left_in_it(server: NatsServer) -> None:
    async with with_bucket(server, max_value_size=65536, max_bytes=1_000_000) as js:
        findings = await found(as_user(server.url, "all:s3cret"), B)
        info = await js.stream_info("KV_email-recipients")
    assert {one.status for one in findings.values()} == {"ok"}
    assert findings["NATS"].found.startswith("nats-server 2.")
    assert "round trip" in findings["NATS"].found
    assert findings["JetStream account"].found.endswith("1 stream, of 19.07 MiB")
    assert findings[ABOUT].found == (
        "0 values, 0 B, 976.6 KiB free, values up to 64 KiB, 1 replica in file, history 1, no TTL, "
        "readable and writable"
    )
    assert (info.state.messages, info.state.last_seq, info.state.consumer_count) == (0, 0, 0)


async def test_a_missing_bucket_is_a_failure_unless_it_is_optional(server: NatsServer) -> None:
    uses = (B, BucketUse(bucket=contract.EMAIL_IDEMPOTENCY_BUCKET, optional=True, without="some requests fail"))
    findings = await found(as_user(server.url, "all:s3cret"), *uses)
    assert (findings[ABOUT].status, findings[ABOUT].found) == ("failed", "does not exist")
    assert "--create-missing" in findings[ABOUT].advice
    assert (findings["bucket email-idempotency"].status, findings["bucket email-idempotency"].found) == (
        "warning",
        "does not exist; some requests fail",
    )


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("reader", "$KV.email-recipients.=check"),
        ("writer", "$JS.API.STREAM.MSG.GET.KV_email-recipients"),
        ("blind", "$JS.API.STREAM.INFO.KV_email-recipients"),
        ("single", "$JS.API.DIRECT.GET.KV_email-recipients"),
        ("batch", "$JS.API.DIRECT.GET.KV_email-recipients.$KV.email-recipients.=check"),
        ("deaf", "$JS.API.CONSUMER.CREATE.KV_email-recipients"),
    ],
)
async def test_a_missing_permission_is_named(server: NatsServer, user: str, subject: str) -> None:
    async with with_bucket(server):
        findings = await found(as_user(server.url, f"{user}:s3cret"), B)
    assert findings[ABOUT].status == "failed"
    assert findings[ABOUT].found == f"the NATS user may not publish to {subject}"


async def test_without_permission_for_the_inbox_nothing_else_is_checked(server: NatsServer) -> None:
    findings = await found(as_user(server.url, "inboxless:s3cret"), B)
    assert [one.status for one in findings.values()] == ["ok", "failed", "skipped", "skipped"]
    assert findings["NATS inbox"].found.startswith("the NATS user may not subscribe to _INBOX.")
    assert "NATS_INBOX_PREFIX" in findings["NATS inbox"].advice


async def test_missing_permissions_for_an_optional_bucket_are_only_a_warning(server: NatsServer) -> None:
    async with with_bucket(server):
        optional = BucketUse(bucket=NAME, writes=True, optional=True, without="some requests fail")
        findings = await found(as_user(server.url, "reader:s3cret"), optional)
    assert findings[ABOUT].status == "warning"
    assert findings[ABOUT].found.endswith("; some requests fail")


async def test_without_permission_for_the_account_it_is_skipped(server: NatsServer) -> None:
    findings = await found(as_user(server.url, "blind:s3cret"))
    assert findings["JetStream account"].status == "skipped"
    assert findings["JetStream account"].found == "the NATS user may not publish to $JS.API.INFO"


async def test_a_reader_needs_no_permission_to_write(server: NatsServer) -> None:
    async with with_bucket(server):
        findings = await found(as_user(server.url, "reader:s3cret"), BucketUse(bucket=NAME, many=True))
    assert findings[ABOUT].status == "ok"
    assert findings[ABOUT].found.endswith(", readable")


async def test_there_is_advice_on_everything_unusual_about_a_bucket(server: NatsServer) -> None:
    odd = {"storage": StorageType.MEMORY, "ttl": 60, "max_bytes": 100_000, "direct": False}
    async with with_bucket(server, **odd) as js:
        await js.publish(f"$KV.{NAME}.k", b"x" * 85_000)
        findings = await found(as_user(server.url, "all:s3cret"), B)
    bucket = findings[ABOUT]
    assert bucket.status == "warning"
    assert "TTL 60 seconds, no direct reads" in bucket.found
    for advice in ("nearly full: raise its max_bytes", "file storage", "allow_direct", "counts with them: set no TTL"):
        assert advice in bucket.advice


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        ({"max_value_size": 4096}, "too small for a value: raise max_value_size to 8 KiB or more"),
        ({"max_bytes": 1000}, "too small for a value: raise max_bytes, 8 KiB is one value"),
    ],
)
async def test_a_bucket_too_small_for_a_record_is_a_failure(
    server: NatsServer, limits: dict[str, int], advice: str
) -> None:
    async with with_bucket(server, **limits):
        bucket = (await found(as_user(server.url, "all:s3cret"), B))[ABOUT]
    assert bucket.status == "failed"
    assert advice in bucket.advice


def test_the_sizes_that_the_chart_gives_to_the_buckets_are_large_enough() -> None:
    values = yaml.safe_load((ROOT / "charts" / "lfx-v2-email-relay" / "values.yaml").read_text())
    sizes = {name: options["maxValueSize"] for name, options in values["natsKVBuckets"]["buckets"].items()}
    assert set(sizes) == set(bucket_check.VALUE_BYTES)
    assert all(sizes[name] >= needed for name, needed in bucket_check.VALUE_BYTES.items())


async def test_a_full_bucket_is_a_failure(server: NatsServer) -> None:
    async with with_bucket(server, max_bytes=100_000) as js:
        await js.publish(f"$KV.{NAME}.k", bytes(60_000))
        await js.publish(f"$KV.{NAME}.l", bytes(39_000))
        bucket = (await found(as_user(server.url, "all:s3cret"), B))[ABOUT]
    assert bucket.status == "failed"
    assert "full: " in bucket.found
    assert bucket.advice == "full: raise its max_bytes, or remove old emails with lfx-email-tracker retention"


async def test_a_bucket_with_as_many_values_as_it_may_have_is_full(server: NatsServer) -> None:
    async with with_bucket(server) as js:
        config = (await js.stream_info(f"KV_{NAME}")).config
        await js.update_stream(config.evolve(max_msgs=1))
        await js.publish(f"$KV.{NAME}.k", b"x")
        bucket = (await found(as_user(server.url, "all:s3cret"), B))[ABOUT]
    assert (bucket.status, "its max_msgs is 1" in bucket.found) == ("failed", True)
    assert bucket.advice.startswith("full: raise its max_msgs")


async def test_a_bucket_that_deletes_old_values_when_it_is_full_is_a_warning(server: NatsServer) -> None:
    async with with_bucket(server) as js:
        config = (await js.stream_info(f"KV_{NAME}")).config
        await js.update_stream(config.evolve(discard=DiscardPolicy.OLD))
        bucket = (await found(as_user(server.url, "all:s3cret"), B))[ABOUT]
    assert (bucket.status, "discard policy" in bucket.advice) == ("warning", True)


async def test_a_sealed_bucket_is_a_failure_with_its_reason(server: NatsServer) -> None:
    async with with_bucket(server) as js:
        config = (await js.stream_info(f"KV_{NAME}")).config
        await js.update_stream(config.evolve(sealed=True, deny_purge=True, allow_rollup_hdrs=False))
        bucket = (await found(as_user(server.url, "all:s3cret"), B))[ABOUT]
    assert (bucket.status, bucket.advice) == ("failed", "sealed, so it accepts no values: create it again")


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"retention": RetentionPolicy.INTEREST}, "its retention is interest, not limits"),
        ({"retention": RetentionPolicy.WORK_QUEUE}, "its retention is workqueue, not limits"),
        ({"no_ack": True}, "no_ack"),
        ({"discard": DiscardPolicy.NEW, "discard_new_per_subject": True}, "switch discard_new_per_subject off"),
        ({"subject_transform": SubjectTransform(src="$KV.*.>", dest="x.{{wildcard(1)}}.>")}, "subject_transform"),
    ],
)
async def test_a_stream_that_loses_the_values_of_a_bucket_is_a_failure(
    server: NatsServer, change: dict[str, Any], advice: str
) -> None:
    async with await nats.connect(as_user(server.url, "all:s3cret")) as client:
        js = client.jetstream()
        await js.add_stream(name=f"KV_{NAME}", subjects=[f"$KV.{NAME}.>"], max_msgs_per_subject=1, **change)
        try:
            bucket = (await found(as_user(server.url, "all:s3cret"), B))[ABOUT]
        finally:
            await js.delete_stream(f"KV_{NAME}")
    assert (bucket.status, advice in bucket.advice) == ("failed", True)


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        ({"subjects": None, "mirror": {"name": "KV_origin"}}, "a mirror, which accepts no writes"),
        ({"subjects": ["$KV.other.>"]}, f"add $KV.{NAME}.>"),
    ],
)
async def test_a_stream_that_accepts_no_values_of_a_bucket_is_a_failure(
    server: NatsServer, config: dict[str, Any], advice: str
) -> None:
    """As after `nats kv add --mirror` (nats-io/natscli#928)."""

    def changed(reply: Delivery) -> Delivery:
        info = json.loads(reply.payload)
        settings = {name: value for name, value in {**info["config"], **config}.items() if value is not None}
        return msgspec.structs.replace(reply, payload=json.dumps({**info, "config": settings}).encode())

    async with with_bucket(server), nats_proxy.running(server.url) as proxy:
        proxy.rewrite_reply("$JS.API.STREAM.INFO.", 1, changed)
        bucket = (await found(as_user(proxy.url, "all:s3cret"), B))[ABOUT]
    assert (bucket.status, advice in bucket.advice) == ("failed", True)


async def test_one_replica_in_a_cluster_is_a_warning(server: NatsServer) -> None:
    def clustered(reply: Delivery) -> Delivery:
        info = {**json.loads(reply.payload), "cluster": {"name": "three", "leader": "n1"}}
        return msgspec.structs.replace(reply, payload=json.dumps(info).encode())

    async with with_bucket(server), nats_proxy.running(server.url) as proxy:
        proxy.rewrite_reply("$JS.API.STREAM.INFO.", 1, clustered)
        bucket = (await found(as_user(proxy.url, "all:s3cret"), B))[ABOUT]
    assert (bucket.status, bucket.advice) == ("warning", "in a cluster, 3 replicas are safer")


async def test_a_full_account_is_a_failure(server: NatsServer) -> None:
    async with with_bucket(server) as js:
        for key in range(23):
            await js.publish(f"$KV.{NAME}.{key}", bytes(869_300))
        account = (await found(as_user(server.url, "all:s3cret")))["JetStream account"]
    assert (account.status, account.found.endswith("full")) == ("failed", True)
    assert "max_storage" in account.advice


async def test_an_account_that_is_nearly_full_is_a_warning(server: NatsServer) -> None:
    async with with_bucket(server, max_bytes=19_000_000):
        findings = await found(as_user(server.url, "all:s3cret"))
    assert findings["JetStream account"].status == "warning"
    assert "max_storage" in findings["JetStream account"].advice


async def test_an_account_without_jetstream_is_a_failure(server: NatsServer) -> None:
    findings = await found(as_user(server.url, "none:s3cret"), B)
    assert findings["NATS"].status == "ok"
    assert findings["JetStream account"].status == findings[ABOUT].status == "failed"
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
