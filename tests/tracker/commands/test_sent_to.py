# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`status --to` lists the emails to an address from the bucket, without a running tracker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from shared.kv import scan as bucket_scan
from tests.acceptance.buckets import Buckets, fresh_record
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents
from tracker.commands import sent_to

if TYPE_CHECKING:
    from tests.stack.nats_server import NatsServer

ADA = "ada@example.com"


async def put(buckets: Buckets, **sent: str) -> None:
    """Write a record to Ada for each id, with its time."""
    await buckets.put_records(*(fresh_record(one, "g", sent_at=at) for one, at in sent.items()))


async def test_the_emails_to_an_address_are_listed_in_send_order(
    operator: Operator, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_scan, "PAGE", 2)
    await put(buckets, b="2026-01-02T00:00:00Z", c="2026-01-03T00:00:00Z", a="2026-01-01T00:00:00Z")
    await buckets.put_records(
        fresh_record("d", "g", to='"Ada" <ADA@Example.com>', sent_at="2026-01-04T00:00:00Z"),
        fresh_record("x", "g", to="bob@example.com"),
    )
    result = await operator.run("status", "--to", "Ada <Ada@EXAMPLE.com>")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["SENT", "AT", "STATE", "OPENS", "CLICKS", "EMAIL", "ID", "TO"]
    assert [line.split()[4] for line in lines] == ["a", "b", "c", "d"]
    assert lines[3].endswith('  "Ada" <ADA@Example.com>')
    as_json = await operator.run("status", "--to", ADA, "--json")
    assert [one["email_id"] for one in documents(as_json)] == ["a", "b", "c", "d"]


async def test_only_emails_since_a_time_are_listed(operator: Operator, buckets: Buckets) -> None:
    now = datetime.now(UTC)
    times = {f"{hours}h": (now - timedelta(hours=hours)).isoformat() for hours in (1, 30, 24 * 8)}
    await put(buckets, **times)
    for since, found in (("12h", ["1h"]), ("7d", ["30h", "1h"]), (times["192h"], ["192h", "30h", "1h"])):
        result = await operator.run("status", "--to", ADA, "--since", since, "--json")
        assert [one["email_id"] for one in documents(result)] == found
    result = await operator.run("status", "--to", ADA, "--since", "30m")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: no email to {ADA} is recorded since then\n"


async def test_a_large_number_of_emails_is_listed_in_several_runs(
    operator: Operator, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_to, "MAX_SORTED_BYTES", 500)
    await put(buckets, **{f"e{number}": f"2026-01-0{9 - number}T00:00:00Z" for number in range(1, 6)})
    result = await operator.run("status", "--to", ADA, "--json")
    assert sorted(one["email_id"] for one in documents(result)) == [f"e{number}" for number in range(1, 6)]


async def test_an_address_without_emails_ends_with_1(operator: Operator) -> None:
    result = await operator.run("status", "--to", ADA)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: no email to {ADA} is recorded\n"


async def test_a_record_that_cannot_be_read_is_named_after_the_others(operator: Operator, buckets: Buckets) -> None:
    await put(buckets, a="2026-01-01T00:00:00Z")
    await buckets.put_values({"torn": b'{"to":"ada@example.com"', "wrong": b'{"to":"ada@example.com","sent_at":1}'})
    await buckets.put_values({"other": b"{"})
    result = await operator.run("status", "--to", ADA, "--json")
    assert (result.exit_code, [one["email_id"] for one in documents(result)]) == (1, ["a"])
    assert result.stderr == "Error: records that cannot be read: torn, wrong\n"


async def test_a_missing_bucket_ends_with_1_and_advice(nats: NatsServer) -> None:
    result = await Operator(nats.url).run("status", "--to", ADA)
    assert (result.exit_code, "email-recipients" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--to", "nobody"), "not a valid email address: nobody"),
        (("--to", ""), "not a valid email address"),
        (("--to", f"{ADA}, bob@example.com"), "not a valid email address"),
        (("--to", ADA, "--group-id", "g"), "Give one of"),
        (("--to", ADA, "e1"), "Give one of"),
        (("e1", "--since", "7d"), "--since needs --to"),
        (("--to", ADA, "--since", "soon"), "is neither a time such as"),
    ],
)
async def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], error: str) -> None:
    result = await Operator("nats://127.0.0.1:1").run("status", *arguments)
    assert (result.exit_code, error in result.stderr) == (2, True)


async def test_the_documented_permissions_are_enough() -> None:
    async with operators.restricted(operators.subjects_of("tracker")) as (admin, url):
        await operators.create_buckets(admin)
        result = await Operator(url).run("status", "--to", ADA)
        assert (result.exit_code, "is recorded" in result.stderr) == (1, True), result.output
