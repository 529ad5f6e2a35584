# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`erase` makes the records of one person anonymous, may be repeated at any time, and names what it does not reach."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import nats as nats_py
import pytest

from shared import contract, erasure, suppression_list
from shared.errors import StoreFull
from shared.kv import scan as bucket_scan
from shared.kv.setup import create_missing
from tests.acceptance import services
from tests.acceptance.buckets import RECIPIENTS, Buckets, fresh_record
from tests.stack import console, nats_proxy
from tests.stack.bucket import stored
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents
from tracker.commands.erase import UNREACHED
from tracker.queries import counts

if TYPE_CHECKING:
    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer

ADA = "ada@example.com"
CLICK = {"event_id": "c1", "link": "https://ada.example/token", "clicked_at": "2026-01-02T03:04:05Z"}


async def suppress(connection: Connection, address: str) -> None:
    await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    bucket = await connection.jetstream().key_value(contract.EMAIL_SUPPRESSIONS_BUCKET)
    entry = {"address": address, "reason": "bounce", "suppressed_at": "2026-01-02T03:04:05Z"}
    await bucket.put(suppression_list.key_of(address), json.dumps(entry).encode())


async def values(connection: Connection) -> dict[str, bytes]:
    """Return all values of the bucket of the records, without the notes of erasures."""
    left = await stored(connection.jetstream(), RECIPIENTS)
    values = {(msg.subject or "").removeprefix(f"$KV.{RECIPIENTS}."): msg.data or b"" for msg in left}
    return {key: value for key, value in values.items() if not key.startswith(erasure.KEY_PREFIX)}


def of_ada(email_id: str, **changes: Any) -> dict[str, Any]:
    fields = {"subject": "Dear Ada", "tags": {"who": "ada"}, "clicked": True, "click_count": 1, "click_list": [CLICK]}
    return fresh_record(email_id, "g", **{**fields, "open_count": 2, "opened": True, **changes})


async def test_the_records_of_a_person_lose_their_data_and_all_others_keep_theirs(
    operator: Operator, buckets: Buckets, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_scan, "PAGE", 2)
    await buckets.put_records(
        *(of_ada(f"a{number}", to=to) for number, to in enumerate((ADA, "Ada <ADA@Example.com>", '"ada"@example.com'))),
        fresh_record("b", "g", to="bob@example.com", subject="about ada@example.com"),
    )
    before = await values(connection)
    result = await operator.run("erase", "--to", "Ada <ada@EXAMPLE.com>", "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert documents(result) == [
        {
            "address": ADA,
            "dry_run": False,
            "found": 3,
            "erased": 3,
            "failed": [],
            "suppression": "none",
            "not_reached": list(UNREACHED),
        }
    ]
    after = await values(connection)
    assert after.pop("b") == before.pop("b")
    assert b"ada" not in b"".join(after.values()).lower()
    for email_id, value in after.items():
        record, known = json.loads(value), json.loads(before[email_id])
        assert (record["to"], record["subject"], "tags" in record) == ("erased", "erased", False)
        assert [record[name] for name in ("email_id", "group_id", "sent_at", "open_count", "click_count")] == [
            known[name] for name in ("email_id", "group_id", "sent_at", "open_count", "click_count")
        ]
    again = await operator.run("status", "--to", ADA)
    assert again.exit_code == 1


async def test_without_yes_nothing_is_changed(operator: Operator, buckets: Buckets, connection: Connection) -> None:
    await buckets.put_records(of_ada("a1"), of_ada("a2"))
    await suppress(connection, ADA)
    writes = await buckets.writes()
    result = await operator.run("erase", "--to", ADA, "--with-suppression")
    assert (result.exit_code, await buckets.writes()) == (0, writes)
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        f"address {ADA}",
        "found 2",
        "erased 0",
        "suppression kept",
    ]
    assert "Nothing was changed. Run it again with --yes to erase." in result.stderr
    assert all(one in result.stderr for one in UNREACHED)


@pytest.mark.parametrize(("more", "outcome"), [((), "kept"), (("--with-suppression",), "removed")])
async def test_the_address_stays_suppressed_unless_the_operator_wants_it_removed(
    operator: Operator, connection: Connection, more: tuple[str, ...], outcome: str
) -> None:
    await suppress(connection, ADA)
    result = await operator.run("erase", "--to", ADA, "--yes", "--json", *more)
    assert documents(result)[0]["suppression"] == outcome
    shown = await operator.run("suppressions", "show", ADA)
    assert shown.exit_code == (0 if outcome == "kept" else 1)


async def test_a_second_run_changes_nothing_but_what_another_program_brought_back(
    operator: Operator, buckets: Buckets, connection: Connection
) -> None:
    await buckets.put_records(of_ada("a1"), of_ada("a2"))
    assert (await operator.run("erase", "--to", ADA, "--yes")).exit_code == 0
    before = await values(connection)
    [second] = documents(await operator.run("erase", "--to", ADA, "--yes", "--json"))
    assert ((second["found"], second["erased"]), await values(connection)) == ((0, 0), before)
    await buckets.put_records(json.loads(before["a1"]) | {"click_list": [CLICK, CLICK | {"event_id": "c2"}]})
    [third] = documents(await operator.run("erase", "--to", "bob@example.com", "--yes", "--json"))
    assert (third["found"], third["erased"]) == (1, 1)
    record = json.loads((await values(connection))["a1"])
    assert [click["link"] for click in record["click_list"]] == ["", ""]


async def test_two_at_once_erase_everything(operator: Operator, buckets: Buckets, connection: Connection) -> None:
    await buckets.put_records(*(of_ada(f"a{number}") for number in range(100)))
    command = ("erase", "--to", ADA, "--yes", "--json")
    async with (
        console.running(services.TRACKER, *command, env=operator.variables) as one,
        console.running(services.TRACKER, *command, env=operator.variables) as other,
    ):
        assert [await each.wait(30) for each in (one, other)] == [0, 0]
        assert sum(json.loads(each.output)["erased"] for each in (one, other)) == 100
    assert b"ada" not in b"".join((await values(connection)).values()).lower()


async def test_records_that_change_during_the_erasure_are_erased_and_keep_the_change(
    nats: NatsServer, buckets: Buckets, connection: Connection
) -> None:
    await buckets.put_records(of_ada("a1"))
    async with nats_proxy.running(nats.url) as proxy, await nats_py.connect(nats.url) as client:
        conflict = nats_proxy.js_error(400, 10071, "wrong last sequence")

        def count_an_open(publication: nats_proxy.Publication) -> nats_proxy.Answer:
            record = json.dumps(of_ada("a1", open_count=3)).encode()
            changes.append(asyncio.ensure_future(client.publish(f"$KV.{RECIPIENTS}.a1", record)))
            return conflict(publication)

        changes: list[asyncio.Future[None]] = []
        proxy.answer(f"$KV.{RECIPIENTS}.a1", 1, count_an_open)
        result = await Operator(proxy.url).run("erase", "--to", ADA, "--yes")
        await asyncio.gather(*changes)
    assert (result.exit_code, len(changes)) == (0, 1)
    record = json.loads((await values(connection))["a1"])
    assert (record["to"], record["open_count"]) == ("erased", 3)


async def test_a_run_that_broke_off_is_completed_by_the_next_one(
    nats: NatsServer, buckets: Buckets, connection: Connection, operator: Operator
) -> None:
    await buckets.put_records(*(of_ada(f"a{number}") for number in range(40)))
    async with nats_proxy.running(nats.url) as proxy:
        proxy.answer(f"$KV.{RECIPIENTS}.a2", 11, nats_proxy.no_responders())
        broken = await Operator(proxy.url).run("erase", "--to", ADA, "--yes")
    assert broken.exit_code == 3
    left = [value for value in (await values(connection)).values() if b"Dear Ada" in value]
    assert 11 <= len(left) < 40
    [second] = documents(await operator.run("erase", "--to", ADA, "--yes", "--json"))
    assert second["erased"] == len(left)
    assert b"ada" not in b"".join((await values(connection)).values()).lower()


async def test_a_record_that_cannot_be_read_is_named_and_all_others_are_erased(
    operator: Operator, buckets: Buckets, connection: Connection
) -> None:
    await buckets.put_records(of_ada("a1"))
    await buckets.put_values({"torn": b'{"to":"ada@example.com"'})
    result = await operator.run("erase", "--to", ADA, "--yes")
    assert (result.exit_code, "Error: records that could not be erased: torn" in result.stderr) == (1, True)
    assert b"ada" not in (await values(connection))["a1"].lower()


async def test_without_space_for_the_note_the_error_has_an_advice(
    operator: Operator, buckets: Buckets, connection: Connection
) -> None:
    await buckets.put_records(of_ada("a"))
    js = connection.client.jetstream()
    info = await js.stream_info(f"KV_{RECIPIENTS}")
    await js.update_stream(info.config, max_bytes=info.state.bytes)
    result = await operator.run("erase", "--to", ADA, "--yes")
    assert result.exit_code == 1
    assert StoreFull.advice in result.stderr
    await js.update_stream(info.config, max_bytes=-1)
    assert (await operator.run("erase", "--to", ADA, "--yes")).exit_code == 0


async def test_old_values_go_too_and_those_of_deleted_records_are_named(
    nats: NatsServer, connection: Connection
) -> None:
    bucket = await connection.jetstream().create_key_value(bucket=RECIPIENTS, history=5)
    for _ in range(3):
        await bucket.put("a1", json.dumps(of_ada("a1")).encode())
    result = await Operator(nats.url).run("erase", "--to", ADA, "--yes", "--json")
    left = await stored(connection.jetstream(), RECIPIENTS, "a1")
    assert [b"ada" in (msg.data or b"").lower() for msg in left] == [False]
    assert "old values of deleted records" in documents(result)[0]["not_reached"][-1]


async def test_an_erased_record_counts_and_is_shown_as_before(
    operator: Operator, buckets: Buckets, recipients: Bucket
) -> None:
    await buckets.put_records(of_ada("a1"))
    await operator.run("erase", "--to", ADA, "--yes")
    assert counts.of_record((await recipients.get("a1")).value) == (False, 2, True, False)


async def test_the_note_of_an_erasure_is_not_an_email(operator: Operator, buckets: Buckets) -> None:
    assert (await operator.run("erase", "--to", ADA, "--yes")).exit_code == 0
    assert (await buckets.writes())[0] == 1


async def test_the_documented_permissions_are_enough() -> None:
    async with operators.restricted(operators.subjects_of("tracker")) as (admin, url):
        await operators.create_buckets(admin)
        async with await nats_py.connect(admin) as client:
            await Buckets(client).put_records(of_ada("a1"))
        await Operator(admin).run("suppressions", "add", ADA)
        result = await Operator(url).run("erase", "--to", ADA, "--yes", "--with-suppression", "--json")
        assert (result.exit_code, documents(result)[0]["erased"]) == (0, 1), result.output
        assert documents(result)[0]["suppression"] == "removed"
