# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An operator manages the suppression list with the commands `suppressions …`."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import nats as nats_py
import pytest

from shared import contract, suppression_list
from shared.contract import Suppression
from shared.kv import scan as bucket_scan
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.service.settings import ProcessSettings
from tests.stack import console, nats_proxy
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents
from tracker.commands.suppressions import importing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.js.kv import KeyValue

    from tests.stack.nats_server import NatsServer

NAMES = "EmailAddress,Reason,LastUpdateTime\n"


@asynccontextmanager
async def bucket_at(url: str) -> AsyncIterator[KeyValue]:
    """Create the bucket as the process does; return that of nats-py."""
    async with nats_connection.opened(ProcessSettings(nats_url=url), "test") as connection:
        await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    async with await nats_py.connect(url) as client:
        yield await client.jetstream().key_value(contract.EMAIL_SUPPRESSIONS_BUCKET)


@pytest.fixture
async def bucket(nats: NatsServer) -> AsyncIterator[KeyValue]:
    """The list, empty."""
    async with bucket_at(nats.url) as made:
        yield made


@pytest.fixture
def operator(nats: NatsServer, bucket: KeyValue) -> Operator:
    """An operator who manages the list."""
    assert bucket
    return Operator(nats.url)


async def put(bucket: KeyValue, address: str, reason: str = "bounce", at: datetime | None = None) -> None:
    entry = Suppression(address=address, reason=reason, suppressed_at=at or datetime(2026, 1, 2, tzinfo=UTC))
    await bucket.put(suppression_list.key_of(address), msgspec.json.encode(entry))


async def test_an_address_is_added_shown_and_removed_in_any_spelling(operator: Operator) -> None:
    added = await operator.run("suppressions", "add", '"ada"@Bücher.example', "--detail", "asked by mail")
    assert added.exit_code == 0
    assert added.stdout.splitlines()[:4] == [
        "outcome        added",
        "address        ada@xn--bcher-kva.example",
        "reason         manual",
        "detail         asked by mail",
    ]
    shown = await operator.run("suppressions", "show", "Ada <ADA@bücher.example>", "--json")
    assert documents(shown)[0]["detail"] == "asked by mail"
    removed = await operator.run("suppressions", "remove", "ada@XN--bcher-kva.example")
    assert (removed.exit_code, removed.stdout) == (0, "ada@xn--bcher-kva.example is not suppressed any more\n")
    gone = await operator.run("suppressions", "show", "ada@bücher.example")
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert gone.stderr == "Error: ada@xn--bcher-kva.example is not suppressed\n"
    again = await operator.run("suppressions", "remove", "ada@bücher.example", "--json")
    assert (again.exit_code, documents(again)[0]["removed"]) == (1, False)


async def test_an_existing_entry_is_kept_unless_it_is_to_be_replaced(operator: Operator) -> None:
    await operator.run("suppressions", "add", "ada@x.org", "--reason", "BOUNCE")
    kept = await operator.run("suppressions", "add", "ada@x.org", "--detail", "other")
    assert (kept.exit_code, "its entry is unchanged" in kept.stderr) == (0, True)
    assert "reason         bounce" in kept.stdout
    replaced = await operator.run("suppressions", "add", "ada@x.org", "--detail", "other", "--replace", "--json")
    [document] = documents(replaced)
    assert (document["outcome"], document["entry"]["reason"], document["entry"]["detail"]) == (
        "replaced",
        "manual",
        "other",
    )


async def test_the_list_is_read_in_pages_and_selected_by_reason_and_time(
    operator: Operator, bucket: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_scan, "PAGE", 2)
    now = datetime.now(UTC)
    for number in range(5):
        at = now - timedelta(days=10 - 2 * number)
        await put(bucket, f"p{number}@x.org", ("bounce", "manual")[number % 2], at)
    everything = await operator.run("suppressions", "list")
    assert (
        everything.stdout.splitlines()[0] == "SUPPRESSED AT         REASON     ADDRESS                           DETAIL"
    )
    assert [line.split()[2] for line in everything.stdout.splitlines()[1:]] == [f"p{n}@x.org" for n in range(5)]
    assert everything.stderr == "5 addresses\n"
    lately = await operator.run("suppressions", "list", "--since", "5d", "--reason", "manual", "--json")
    assert [one["address"] for one in documents(lately)] == ["p3@x.org"]
    by_date = await operator.run("suppressions", "list", "--since", (now - timedelta(days=7)).isoformat(), "--json")
    assert len(documents(by_date)) == 3


async def test_a_corrupt_entry_is_reported_and_can_be_replaced(operator: Operator, bucket: KeyValue) -> None:
    await put(bucket, "ada@x.org")
    await bucket.put(suppression_list.key_of("bob@x.org"), b"{")
    listed = await operator.run("suppressions", "list")
    assert (listed.exit_code, "ada@x.org" in listed.stdout) == (1, True)
    assert f"key {suppression_list.key_of('bob@x.org')}: not an entry" in listed.stderr
    shown = await operator.run("suppressions", "show", "bob@x.org")
    assert (shown.exit_code, "so the relay refuses its mail" in shown.stderr) == (1, True)
    replaced = await operator.run("suppressions", "add", "bob@x.org", "--json")
    assert documents(replaced)[0]["outcome"] == "replaced"


async def test_an_export_is_imported_again_without_a_change(operator: Operator, tmp_path: Path) -> None:
    for address in ("ada@x.org", '"a,b"@x.org', "=1+1@x.org"):
        await operator.run("suppressions", "add", address, "--reason", "complaint")
    file = tmp_path / "list.csv"
    file.write_text("older")
    exported = await operator.run("suppressions", "export", str(file))
    assert (exported.exit_code, exported.stdout, exported.stderr) == (0, "", f"3 addresses in {file}\n")
    text = file.read_text()
    assert text.startswith(NAMES + "ada@x.org,COMPLAINT,2")
    for address in ("ada@x.org", "=1+1@x.org"):
        await operator.run("suppressions", "remove", address)
    back = await operator.run("suppressions", "import", str(file), "--json")
    assert documents(back) == [{"added": 2, "kept": 1, "replaced": 0, "wrong": 0, "up_to_line": 4}]
    again = await operator.run("suppressions", "export", "-")
    assert sorted(again.stdout.splitlines()) == sorted(text.splitlines())


async def test_a_backup_has_all_fields_and_can_be_imported(operator: Operator) -> None:
    await operator.run("suppressions", "add", "ada@x.org", "--detail", "asked, twice")
    before = await operator.run("suppressions", "show", "ada@x.org")
    backup = await operator.run("suppressions", "export", "-", "--json")
    await operator.run("suppressions", "remove", "ada@x.org")
    assert (await operator.run("suppressions", "import", "-", text=backup.stdout)).exit_code == 0
    assert (await operator.run("suppressions", "show", "ada@x.org")).stdout == before.stdout


async def test_wrong_rows_are_reported_by_line_and_the_others_added_once(operator: Operator) -> None:
    rows = f"{NAMES}ada@x.org,BOUNCE,\nada,BOUNCE,\nADA@x.org,MANUAL,\nbob@x.org,spam,\neve@x.org,,\n"
    result = await operator.run("suppressions", "import", "-", text=rows)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "line 3: not a valid email address: ada",
        "line 5: the reason is not one of bounce, complaint, manual: spam",
        "Error: rows that are wrong: 2; all others are in the list",
    ]
    assert result.stdout.split() == ["added", "2", "kept", "1", "replaced", "0", "wrong", "2", "up_to_line", "6"]
    again = await operator.run(
        "suppressions", "import", "-", "--replace", "--json", text=rows.replace(",\n", ",2026-01-02\n")
    )
    assert documents(again)[0] | {"up_to_line": 0} == {
        "added": 0,
        "kept": 0,
        "replaced": 3,
        "wrong": 2,
        "up_to_line": 0,
    }
    shown = await operator.run("suppressions", "show", "ada@x.org", "--json")
    assert documents(shown)[0]["reason"] == "manual"  # of the last row


@pytest.mark.parametrize("page", ['{{"NextToken": "t", {}}}', '{{{}, "NextToken": "t"}}', '[{{{}, "NextToken": "t"}}]'])
async def test_a_page_of_an_answer_of_aws_is_refused_and_nothing_is_imported(operator: Operator, page: str) -> None:
    entries = '"SuppressedDestinationSummaries": [{"EmailAddress": "ada@x.org", "Reason": "BOUNCE"}]'
    refused = await operator.run("suppressions", "import", "-", "--json", text=page.format(entries))
    assert (refused.exit_code, documents(refused)[0]["added"]) == (1, 0)
    assert refused.stderr.startswith(
        "Error: the last answer of AWS has a NextToken, so the list has more pages. None of"
    )
    assert "--no-paginate --next-token" in refused.stderr
    assert (await operator.run("suppressions", "list")).stdout == ""
    text = page.format(entries) + "{" + entries + "}"
    complete = await operator.run("suppressions", "import", "-", "--json", text=text)
    assert (complete.exit_code, documents(complete)[0]["added"], documents(complete)[0]["kept"]) == (0, 1, 1)


async def test_an_export_that_fails_does_not_change_the_file(
    operator: Operator, bucket: KeyValue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await put(bucket, f"p{number}@x.org")
    file = tmp_path / "list.csv"
    file.write_text("older")
    monkeypatch.setattr(bucket_scan, "PAGE_SECONDS", 0)
    result = await operator.run("suppressions", "export", str(file))
    assert (result.exit_code, "no more values within" in result.stderr) == (3, True)
    assert (file.read_text(), os.listdir(tmp_path)) == ("older", ["list.csv"])  # noqa: PTH208


async def test_a_dry_run_of_an_import_counts_and_writes_nothing(operator: Operator, bucket: KeyValue) -> None:
    await operator.run("suppressions", "add", "known@x.org")
    before = (await bucket.status()).values
    text = "known@x.org\nnew@x.org\nNew@X.org\nnobody\n"
    result = await operator.run("suppressions", "import", "-", "--dry-run", "--json", text=text)
    assert documents(result) == [{"added": 1, "kept": 2, "replaced": 0, "wrong": 1, "up_to_line": 4}]
    assert result.stderr.splitlines()[-2:] == [
        "Dry run: nothing was written.",
        "Error: rows that are wrong: 1; nothing was written",
    ]
    replaced = await operator.run(
        "suppressions", "import", "-", "--dry-run", "--replace", "--json", text="known@x.org\n"
    )
    assert (replaced.exit_code, documents(replaced)[0]["replaced"]) == (0, 1)
    assert (await bucket.status()).values == before


async def test_an_export_keeps_all_characters_in_a_terminal_of_ascii(nats: NatsServer, operator: Operator) -> None:
    await operator.run("suppressions", "add", "a@x.org", "--detail", "gr\u00fc\u00dfe")
    env = {"NATS_URL": nats.url, "PYTHONIOENCODING": "ascii"}
    async with console.running("lfx-email-tracker", "suppressions", "export", "-", "--json", env=env) as process:
        assert await process.wait() == 0
        assert '"detail":"gr\u00fc\u00dfe"' in process.output


async def test_an_import_that_kv_interrupts_reports_how_to_continue(
    nats: NatsServer, bucket: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket
    monkeypatch.setattr(importing, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(importing, "BATCH", 1)
    async with nats_proxy.running(nats.url) as proxy:
        key = suppression_list.key_of("b@x.org")
        proxy.answer(f"$KV.{contract.EMAIL_SUPPRESSIONS_BUCKET}.{key}", 100, nats_proxy.no_responders())
        operator = Operator(proxy.url)
        result = await operator.run("suppressions", "import", "-", text="a@x.org\nb@x.org\nc@x.org\n")
        assert (result.exit_code, result.stdout.split()) == (
            3,
            ["added", "1", "kept", "0", "replaced", "0", "wrong", "0", "up_to_line", "1"],
        )
        assert (
            "has no leader). To continue, repeat the command: entries that are in the list are kept." in result.stderr
        )
        proxy.rules.forget()
        again = await operator.run("suppressions", "import", "-", "--json", text="a@x.org\nb@x.org\nc@x.org\n")
        assert (documents(again)[0]["added"], documents(again)[0]["kept"]) == (2, 1)


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "a@x.org"), ("add", "a@x.org"), ("import", "-"), ("export", "-")]
)
async def test_a_missing_bucket_is_reported_with_advice_by_each_command(
    nats: NatsServer, arguments: tuple[str, ...]
) -> None:
    result = await Operator(nats.url).run("suppressions", *arguments, text="a@x.org")
    assert result.exit_code == 1
    assert "bucket email-suppressions: stream not found (10059): install the relay's chart" in result.stderr


async def test_the_documented_permissions_are_enough() -> None:
    async with operators.restricted(operators.subjects_of("tracker")) as (admin, url), bucket_at(admin):
        operator = Operator(url)
        for arguments in (("add", "a@x.org"), ("show", "a@x.org"), ("list",), ("export", "-"), ("import", "-")):
            result = await operator.run("suppressions", *arguments, text="b@x.org")
            assert (result.exit_code, "violation" in result.stderr.lower()) == (0, False), arguments
        assert (await operator.run("suppressions", "remove", "b@x.org")).exit_code == 0
