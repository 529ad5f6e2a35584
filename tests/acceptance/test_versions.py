# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""This version and an earlier one work side by side on one set of buckets, as during an upgrade or after a rollback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance import services
from tests.acceptance.event_cases import HARD_BOUNCE, at
from tests.stack import ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.caller import Caller

ROOT = Path(__file__).parents[2]
BEFORE_RELEASES = "7dc5f3f60aeea4e8a99d6a23346e316d90022692"
"""The version that is run while there is no release: records have no `complained_at`, and there are no seals."""
EMAILS = 48


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The code of the last release."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tags = _git("tag", "--list", "v*", "--sort=-version:refname").decode().split()
    revision = tags[0] if tags else BEFORE_RELEASES
    try:
        code = _git("archive", revision, "relay", "tracker", "shared")
    except subprocess.CalledProcessError:
        pytest.skip(f"{revision} is not in this clone: fetch the whole history")
    with tarfile.open(fileobj=BytesIO(code)) as archive:
        archive.extractall(tmp_path, filter="data")
    where = [sys.executable, "-P", "-c", "import shared; print(shared.__file__)"]
    imported = subprocess.run(where, check=True, capture_output=True, env={"PYTHONPATH": str(tmp_path)}).stdout  # noqa: S603
    assert Path(imported.decode().strip()).is_relative_to(tmp_path)
    return tmp_path


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 - our own checkout


def happened(tracking_id: str, number: int) -> list[ses_events.Event]:
    """Return the events of an email; each kind is among them."""
    if number % 8 == 7:
        return [ses_events.bounce(tracking_id, at(5)), ses_events.complaint(tracking_id, at(9))]
    delay = [ses_events.delivery_delay(tracking_id, at(1))] if number % 8 == 3 else []
    opens = [ses_events.open_(tracking_id, at(10 + nth)) for nth in range(number % 3)]
    return [*delay, ses_events.delivery(tracking_id, at(2)), *opens]


def assert_all_applied(record: dict[str, Any], number: int) -> None:
    if number % 8 == 7:
        assert (record["failed"], record["failure"], record["delivered"]) == (True, HARD_BOUNCE, False)
    else:
        assert (record["failed"], record["delivered"], record["open_count"]) == (False, True, number % 3)


async def test_two_versions_share_the_buckets_without_a_lost_email_or_event(earlier: Path) -> None:
    other = {"PYTHONPATH": str(earlier)}
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        sqs_endpoints.running() as sqs,
        services.relay(platform.nats, smtp) as relay,
        services.relay(platform.nats, smtp, **other) as earlier_relay,
        services.tracker(platform.nats, sqs, ENGAGEMENT_REBUILD_RECORDS="true") as tracker,
        services.tracker(platform.nats, sqs, **other) as earlier_tracker,
    ):
        caller: Caller = platform.caller
        email_ids = await asyncio.gather(*(caller.sent(group_id="shared") for _ in range(EMAILS)))
        assert Counter(await platform.buckets.email_ids("shared")) == Counter(email_ids)
        for number, email_id in enumerate(email_ids):
            for event in happened(f"shared/{email_id}", number):
                sqs.send(ses_events.notification(event))
        await sqs.wait_until_empty(30)
        for _ in range(4):  # either tracker answers
            records = {record["email_id"]: record for record in await caller.status(group_id="shared")}
            for number, email_id in enumerate(email_ids):
                assert_all_applied(records[email_id], number)
            counts = await caller.analytics(group_id="shared")
            opened = sum(number % 3 for number in range(EMAILS) if number % 8 != 7)
            assert (counts["total_sent"], counts["opened"], counts["failed"]) == (EMAILS, opened, EMAILS // 8)
        for sender in (relay, earlier_relay):
            await sender.wait_for_log("email.sent")

        async def both_have_applied() -> bool:
            """Send one more email and its delivery, since on a busy machine one tracker may have taken all events."""
            email_id = await caller.sent(group_id="more")
            sqs.send(ses_events.notification(ses_events.delivery(f"more/{email_id}", at(1))))
            return all(applier.logged("event.applied") for applier in (tracker, earlier_tracker))

        await until(both_have_applied)
