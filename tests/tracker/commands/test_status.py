# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`status` shows the record of an email, and those of a group of any size, as the running tracker returns them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import nats as nats_py
import pytest
import pytest_asyncio

from shared import contract
from shared.commands import output
from tests.acceptance import services
from tests.acceptance.buckets import Buckets, fresh_record
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents
from tracker.commands import status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.services import Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "3f333df6-90a4-4fda-8dd3-9485d27cee36"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform() -> AsyncIterator[Platform]:
    """A NATS server, and a tracker that is connected to it."""
    async with services.platform() as running, services.tracker(running.nats):
        yield running


@pytest.fixture
def buckets(platform: Platform) -> Buckets:
    """The buckets that the tracker reads."""
    return platform.buckets


@pytest.fixture
def operator(platform: Platform) -> Operator:
    """An operator who is connected to the platform."""
    return Operator(platform.nats.url)


async def email(buckets: Buckets, **changes: Any) -> str:
    """Write a record; return its id."""
    email_id = str(uuid.uuid4())
    await buckets.put_records(fresh_record(email_id, "speakers", **changes))
    return email_id


async def group(buckets: Buckets, count: int, missing: int = 0, **changes: Any) -> tuple[str, list[str]]:
    """Write a group; return its id and those of its emails, the last of which have no record."""
    group_id, email_ids = f"group-{uuid.uuid4()}", [str(uuid.uuid4()) for _ in range(count)]
    await buckets.put_records(*(fresh_record(one, group_id, **changes) for one in email_ids[: count - missing]))
    await buckets.put_group(group_id, email_ids)
    return group_id, email_ids


async def test_a_record_is_printed_field_by_field(operator: Operator, buckets: Buckets) -> None:
    email_id = await email(
        buckets,
        subject="Dear\x1b[2J",
        opened=True,
        open_count=2,
        opened_at_list=[
            {"event_id": "e1", "opened_at": "2025-01-15T11:00:00Z"},
            {"event_id": "e2", "opened_at": "2025-01-15T12:00:00Z"},
        ],
        click_event_ids=["c1"],
        click_list=[{"event_id": "c2", "link": "https://x.org/a", "clicked_at": "2025-01-15T13:00:00Z"}],
        failed=True,
        failure={"kind": "bounce", "type": "Permanent"},
        complained_at="2025-01-15T14:00:00Z",
        delay={"type": "MailboxFull", "at": "2025-01-15T10:40:00Z"},
        tags={"campaign": "spring"},
    )
    result = await operator.run("status", email_id)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["email_id", email_id]
    printed = [" ".join(line.split()) for line in lines]
    for line in (
        r"subject Dear\x1b[2J",
        "delivered no",
        "open_count 2",
        "opened_at_list 2025-01-15T11:00:00Z",
        "opened_at_list 2025-01-15T12:00:00Z",
        "click_event_ids c1",
        "click_list https://x.org/a 2025-01-15T13:00:00Z",
        "failure.kind bounce",
        "failure.type Permanent",
        "complained_at 2025-01-15T14:00:00Z",
        "delay.type MailboxFull",
        "delay.at 2025-01-15T10:40:00Z",
        "tags.campaign spring",
    ):
        assert line in printed


async def test_json_is_the_answer_of_the_tracker(operator: Operator, buckets: Buckets, platform: Platform) -> None:
    email_id = await email(buckets, failed=True, failure={"kind": "complaint"})
    result = await operator.run("status", f" {email_id.upper()}", "--json")
    assert documents(result) == [await platform.caller.status(email_id=email_id)]


async def test_a_group_of_many_pages_is_printed_in_the_order_of_sending(
    operator: Operator, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "PAGE", 3)
    group_id, email_ids = await group(buckets, 8)
    result = await operator.run("status", "--group-id", group_id)
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["SENT", "AT", "STATE", "OPENS", "CLICKS", "EMAIL", "ID", "TO"]
    assert lines[0].split() == ["2025-01-15T10:30:00Z", "sent", "0", "0", email_ids[0], "ada@example.com"]
    assert [line.split()[4] for line in lines] == email_ids
    as_json = await operator.run("status", "--group-id", group_id, "--json")
    assert [one["email_id"] for one in documents(as_json)] == email_ids


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"delivered": True}, "delivered"),
        ({"delivered": True, "failed": True, "failure": {"kind": "complaint"}}, "complaint"),
        ({"failed": True, "failure": {"kind": "reject"}}, "reject"),
        ({"failed": True, "failure": {"kind": "bounce"}, "complained_at": "2025-01-15T12:00:00Z"}, "complaint"),
        ({"delay": {"at": "2025-01-15T12:00:00Z"}}, "delayed"),
        ({"delivered": True, "delay": {"at": "2025-01-15T12:00:00Z"}}, "delivered"),
        ({"failed": True}, "failed"),  # by the Go service, which keeps no details
    ],
)
async def test_the_state_of_an_email_is_its_worst_event(
    operator: Operator, buckets: Buckets, changes: dict[str, Any], state: str
) -> None:
    group_id, _ = await group(buckets, 1, **changes)
    result = await operator.run("status", "--group-id", group_id)
    assert result.stdout.splitlines()[1].split()[1] == state


async def test_missing_records_are_counted_and_the_others_printed(
    operator: Operator, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "PAGE", 2)
    group_id, email_ids = await group(buckets, 7, missing=4)
    result = await operator.run("status", "--group-id", group_id, "--json")
    assert [one["email_id"] for one in documents(result)] == email_ids[:3]
    assert (result.exit_code, result.stderr) == (
        0,
        "Emails of the group that retention has removed, or whose record is missing or cannot be read: 4\n",
    )


async def test_a_page_that_is_too_large_for_nats_is_requested_in_halves(operator: Operator, buckets: Buckets) -> None:
    group_id, email_ids = await group(buckets, 60, subject="s" * 40_000)  # 2.4 MB of 1 MiB that fit
    result = await operator.run("status", "--group-id", group_id, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [one["email_id"] for one in documents(result)] == email_ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (UNKNOWN,),
            f"there is no email {UNKNOWN}. Is it a group? Then: lfx-email-tracker status --group-id",
        ),
        (("--group-id", UNKNOWN), f"nothing was sent under the group {UNKNOWN}. Is it an email?"),
        (("--group-id", "a b"), "nothing was sent under the group a b."),
    ],
)
async def test_an_unknown_email_or_group_is_named_and_the_other_one_suggested(
    operator: Operator, arguments: tuple[str, ...], message: str
) -> None:
    result = await operator.run("status", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message}")


async def test_only_emails_in_the_given_states_are_printed(operator: Operator, buckets: Buckets) -> None:
    group_id, ids = f"group-{uuid.uuid4()}", [str(uuid.uuid4()) for _ in range(4)]
    changes: list[dict[str, Any]] = [
        {},
        {"delivered": True},
        {"failed": True, "failure": {"kind": "bounce"}},
        {"failed": True},
    ]
    await buckets.put_records(*(fresh_record(one, group_id, **more) for one, more in zip(ids, changes, strict=True)))
    await buckets.put_group(group_id, ids)

    async def shown(*states: str) -> list[int]:
        options = [word for state in states for word in ("--state", state)]
        result = await operator.run("status", "--group-id", group_id, "--json", *options)
        return [ids.index(one["email_id"]) for one in documents(result)]

    assert await shown("failed") == [2, 3]
    assert await shown("bounce", "sent") == [0, 2]
    assert (await operator.run("status", UNKNOWN, "--state", "failed")).exit_code == 2


async def test_a_group_fits_a_narrow_terminal(
    operator: Operator, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "columns", lambda: 80)
    group_id, (email_id,) = await group(buckets, 1, to="a-long-name@example.com")
    head, line = (await operator.run("status", "--group-id", group_id)).stdout.splitlines()
    assert head.split() == ["SENT", "AT", "STATE", "EMAIL", "ID", "TO"]
    assert line.split() == ["2025-01-15T10:30:00Z", "sent", email_id, "a-long-n\u2026"]


@pytest.mark.parametrize("arguments", [(), ("", "--group-id", ""), (UNKNOWN, "--group-id", UNKNOWN)])
async def test_neither_or_both_ids_are_wrong_usage(operator: Operator, arguments: tuple[str, ...]) -> None:
    result = await operator.run("status", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("Error: Give one of EMAIL_ID, --group-id and --to.\n")


async def test_the_documented_permissions_are_enough() -> None:
    async with (
        operators.restricted(operators.subjects_of("caller")) as (admin, url),
        await nats_py.connect(admin) as client,
    ):
        await Buckets(client).create()
        asked = await Operator(url).run("status", UNKNOWN)
        assert (asked.exit_code, "violation" in asked.stderr.lower()) == (3, False)
        assert contract.GET_EMAIL_STATUS_SUBJECT in asked.stderr
        of_group = await Operator(url).run("status", "--group-id", UNKNOWN)
        assert contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT in of_group.stderr
