# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A replay applies each event once, as the tracker does, also with broken text in the file and with outages of KV."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from shared import contract, suppression_list
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.service.settings import ProcessSettings
from tests.stack import child, nats_proxy, probe, ses_events
from tests.tracker.commands import operators
from tests.tracker.commands.operators import Operator, documents
from tests.tracker.examples import at, record
from tracker.commands.replay import command, replayer
from tracker.events import records
from tracker.events.push_events import publish_nothing
from tracker.events.record_updater import RecordUpdater
from tracker.events.ses_event import EngagementEvent, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint

SCRIPT = Path(sys.executable).parent / "lfx-email-tracker"


def bodies(email_id: str) -> list[str]:
    """Return four events of an email, the last open twice."""
    tracking_id = f"g/{email_id}"
    delivery, *opens = ses_events.delivery(tracking_id, at(1)), *(ses_events.open_(tracking_id, at(n)) for n in (2, 3))
    bounce = ses_events.bounce(tracking_id, at(4), to=f"{email_id}@x.org")
    numbered = enumerate([delivery, *opens, bounce])
    in_order = [ses_events.notification(event, f"{email_id}-{number}") for number, event in numbered]
    return [*in_order, in_order[2]]


async def send(recipients: Bucket, *email_ids: str) -> None:
    """Create the records of emails, as the relay does."""
    for email_id in email_ids:
        sent = record(email_id=email_id, group_id="g", to=f"{email_id}@x.org")
        await recipients.create(email_id, records.encode(sent))


async def stored(recipients: Bucket, email_ids: Sequence[str]) -> dict[str, bytes]:
    return {email_id: (await recipients.get(email_id)).value for email_id in email_ids}


async def last_sequence(bucket: Bucket) -> int:
    return (await bucket.info()).state.last_seq


@asynccontextmanager
async def pushed(connection: Connection) -> AsyncIterator[list[tuple[str, Any]]]:
    """Collect push events."""
    heard: list[tuple[str, Any]] = []

    def on_message(msg: Msg) -> None:
        heard.append((msg.subject.rpartition(".")[2], json.loads(msg.data)))

    subscription = await connection.subscribe("lfx.email-service.>", on_message)
    await connection.flush()
    yield heard
    await connection.drain(subscription)


@pytest.fixture
def operator(nats: NatsServer) -> Operator:
    """An operator who is connected to NATS."""
    return Operator(nats.url)


@pytest.fixture
async def suppressions(connection: Connection, inbox: Inbox) -> Bucket:
    """The suppression list, empty."""
    await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    return Bucket(inbox, connection, contract.EMAIL_SUPPRESSIONS_BUCKET)


async def test_a_replay_has_the_effect_of_live_events_and_the_second_one_changes_nothing(
    operator: Operator, recipients: Bucket, connection: Connection
) -> None:
    emails = [f"e{number}" for number in range(20)]
    await send(recipients, *emails, "live")
    text = "\n".join(body for email_id in emails for body in bodies(email_id))
    async with pushed(connection) as heard:
        first = await operator.run("replay", "-", text=text)
        await connection.flush()
    assert first.exit_code == 0
    assert first.stdout.splitlines() == [
        "OUTCOME    EVENTS  MEANING",
        "applied        80  changed the record of its email",
        "duplicate      20  was applied before",
        "unmatched       0  there is no record of its email",
        "ignored         0  of a type that is not counted",
        "malformed       0  cannot be read as an event",
        "failed          0  could not be applied",
    ]
    live = [parse(body, message_id="", received_at=at(0)) for body in bodies("live")]
    await RecordUpdater(recipients, publish_nothing).apply(
        "live", [one for one in live if isinstance(one, EngagementEvent)]
    )
    after = await stored(recipients, emails)
    expected = (await stored(recipients, ["live"]))["live"]
    assert {email_id: value.replace(email_id.encode(), b"live") for email_id, value in after.items()} == dict.fromkeys(
        emails, expected
    )
    of_one = [(kind, event.get("open_count")) for kind, event in heard if event["email_id"] == "e7"]
    assert of_one == [("email_delivered", None), ("email_opened", 1), ("email_opened", 2), ("email_failed", None)]
    assert len(heard) == 80

    sequence = await last_sequence(recipients)
    async with pushed(connection) as heard:
        second = await operator.run("replay", "-", "--json", text=text)
        await connection.flush()
    assert documents(second)[-1]["duplicate"] == 100
    assert (heard, await last_sequence(recipients)) == ([], sequence)


async def test_a_dry_run_reports_the_effect_of_each_event_and_writes_nothing(
    operator: Operator, recipients: Bucket, suppressions: Bucket, connection: Connection
) -> None:
    await send(recipients, "e1")
    operator.variables["SUPPRESSION_ENABLED"] = "true"
    before = await last_sequence(recipients), await last_sequence(suppressions)
    text = "\n".join([*bodies("e1"), *bodies("e2")])
    async with pushed(connection) as heard:
        result = await operator.run("replay", "-", "--dry-run", text=text)
        as_json = await operator.run("replay", "-", "--dry-run", "--json", text=text)
        await connection.flush()
    assert (result.exit_code, heard) == (0, [])
    assert (await last_sequence(recipients), await last_sequence(suppressions)) == before
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("line")]
    assert [(words[1], words[2], words[3]) for words in lines] == [
        (str(number), "unmatched" if number > 5 else "duplicate" if number == 5 else "applied", kind)
        for number, kind in enumerate(["delivery", "open", "open", "bounce", "open"] * 2, 1)
    ]
    assert lines[0][4:] == ["e1", "changes", "delivered,", "delivered_at"]
    assert "would be added to the suppression list: 2." in result.stderr
    assert "nothing was written" in result.stderr
    *events, counts = documents(as_json)
    assert events[3]["suppressed"] == 1
    assert (counts["dry_run"], counts["applied"], counts["unmatched"], counts["suppressed"]) == (True, 4, 5, 2)


async def test_malformed_text_is_reported_by_its_line_and_all_events_are_applied(
    operator: Operator, recipients: Bucket
) -> None:
    await send(recipients, "e1")
    first, *rest = bodies("e1")
    sent = ses_events.notification(ses_events.send("g/e1", at(1)))
    unnamed = json.dumps({"MessageId": "\ud800", "Body": json.dumps(ses_events.open_("g/e1", at(9)))})
    text = "\n".join([first, first[:90], "", sent, "{}", bodies("gone")[0], unnamed, *rest])
    result = await operator.run("replay", "-", text=text)
    assert result.exit_code == 1
    assert [line.split(maxsplit=3)[1:3] for line in result.stdout.splitlines() if line.startswith("line")] == [
        ["2", "malformed"],
        ["4", "ignored"],
        ["5", "malformed"],
        ["6", "unmatched"],
        ["7", "malformed"],
    ]
    assert "applied         4" in result.stdout
    assert result.stderr == "Error: 3 of 10 events failed or were malformed\n"


async def test_bounces_are_added_to_the_suppression_list_only_where_it_is_enabled(
    operator: Operator, recipients: Bucket, suppressions: Bucket
) -> None:
    await send(recipients, "e1")
    text = "\n".join(bodies("e1"))
    await operator.run("replay", "-", text=text)
    key = suppression_list.key_of("e1@x.org")
    assert await suppressions.find(key) is None
    operator.variables["SUPPRESSION_ENABLED"] = "true"
    result = await operator.run("replay", "-", text=text)
    assert "added to the suppression list: 1." in result.stderr
    assert await suppressions.find(key)


async def test_messages_saved_from_a_dead_letter_queue_are_applied(
    operator: Operator, recipients: Bucket, sqs: SqsEndpoint, tmp_path: Path
) -> None:
    await send(recipients, "e1")
    queue = sqs.add_queue("dead-letters")
    for body in bodies("e1"):
        queue.send(body)
    saved = tmp_path / "saved.json"

    def save() -> None:
        client = boto3.client("sqs", endpoint_url=sqs.endpoint_url, region_name="us-west-2")
        with saved.open("a") as file:
            for _ in range(5):
                answer = client.receive_message(QueueUrl=sqs.url_of("dead-letters"), AttributeNames=["All"])
                file.write(json.dumps(answer, indent=4) + "\n")

    await asyncio.to_thread(save)
    result = await operator.run("replay", str(saved), "--json", "--no-announce")
    assert (result.exit_code, documents(result)[-1]["applied"]) == (0, 4)
    assert [one.get("event_id") for one in documents(result)[:-1]] == [*(f"e1-{n}" for n in range(4)), "e1-2"]
    assert records.decode((await recipients.get("e1")).value).open_count == 2


async def test_the_saved_events_of_a_function_are_duplicates_of_the_live_events(
    operator: Operator, recipients: Bucket, connection: Connection
) -> None:
    await send(recipients, "e1")
    live = [parse(body, message_id="", received_at=at(0)) for body in bodies("e1")]
    await RecordUpdater(recipients, publish_nothing).apply(
        "e1", [one for one in live if isinstance(one, EngagementEvent)]
    )
    of_sqs = [{"messageId": "m", "body": body, "eventSource": "aws:sqs"} for body in bodies("e1")]
    of_sns = [{"EventSource": "aws:sns", "Sns": json.loads(body)} for body in bodies("e1")]
    sequence = await last_sequence(recipients)
    async with pushed(connection) as heard:
        text = "\n".join(json.dumps({"Records": records}) for records in (of_sqs, of_sns))
        result = await operator.run("replay", "-", "--json", text=text)
        await connection.flush()
    assert (result.exit_code, documents(result)[-1]["duplicate"]) == (0, 10)
    assert (heard, await last_sequence(recipients)) == ([], sequence)


async def test_no_announce_publishes_nothing(operator: Operator, recipients: Bucket, connection: Connection) -> None:
    await send(recipients, "e1")
    async with pushed(connection) as heard:
        assert (await operator.run("replay", "-", "--no-announce", text=bodies("e1")[0])).exit_code == 0
        await connection.flush()
    assert heard == []


async def test_a_short_outage_of_kv_loses_no_event(nats: NatsServer, recipients: Bucket) -> None:
    await send(recipients, "e1", "e2")
    async with nats_proxy.running(nats.url) as proxy:
        proxy.answer("$KV.email-recipients.", 2, nats_proxy.no_responders())
        result = await Operator(proxy.url).run("replay", "-", text="\n".join(bodies("e1") + bodies("e2")))
    assert (result.exit_code, "applied         8" in result.stdout) == (0, True)
    assert result.stderr == ""


async def test_a_long_outage_of_kv_fails_the_rest_which_can_be_replayed(
    nats: NatsServer, operator: Operator, recipients: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replayer, "PATIENCE_SECONDS", 0.3)
    await send(recipients, "e1", "e2", "e3")
    rest = tmp_path / "rest.json"
    arguments = ("replay", "-", "--failed-to", str(rest))
    text = "\n".join(bodies("e1") + bodies("e2") + bodies("e3"))
    async with nats_proxy.running(nats.url) as proxy:
        proxy.answer("$KV.email-recipients.e2", 1000, nats_proxy.no_responders())
        result = await Operator(proxy.url).run(*arguments, "--json", text=text)
    *events, first = documents(result)
    assert result.exit_code == 1
    assert "KV does not answer" in [event.get("detail") for event in events if event["email_id"] == "e2"]
    assert f"The messages that failed are in {rest}:" in result.stderr
    again = await operator.run("replay", str(rest), "--json")
    second = documents(again)[-1]
    assert (again.exit_code, second["events"], second["failed"]) == (0, first["failed"], 0)
    assert first["applied"] + second["applied"] == 12  # on a busy machine, more than those of e2 have failed
    whole = await operator.run("replay", "-", "--json", text=text)
    assert documents(whole)[-1]["duplicate"] == 15
    refused = await operator.run(*arguments, text=text)
    assert (refused.exit_code, "the file exists already" in refused.stderr) == (2, True)


async def test_a_file_for_failed_messages_that_cannot_be_created_is_wrong_usage(
    operator: Operator, tmp_path: Path
) -> None:
    result = await operator.run("replay", "-", "--failed-to", str(tmp_path / "nowhere" / "rest.json"), text="{}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no file can be created in" in result.stderr


async def test_a_corrupt_record_fails_its_own_events_only(operator: Operator, recipients: Bucket) -> None:
    await send(recipients, "e1")
    await recipients.create("e2", b"{")
    text = "\n".join(bodies("e2") + bodies("e1"))
    for arguments in (("replay", "-"), ("replay", "-", "--dry-run")):
        result = await operator.run(*arguments, "--json", text=text)
        counts = documents(result)[-1]
        assert (result.exit_code, counts["failed"], counts["failed"] + counts["applied"] + counts["duplicate"]) == (
            1,
            5,
            10,
        )


async def test_a_file_that_is_cut_off_is_reported_after_its_events(
    operator: Operator, recipients: Bucket, tmp_path: Path
) -> None:
    await send(recipients, "e1")
    file = tmp_path / "saved.gz"
    file.write_bytes(gzip.compress(("\n".join(bodies("e1") * 200)).encode())[:-100])
    result = await operator.run("replay", str(file))
    assert (result.exit_code, "applied         4" in result.stdout) == (1, True)
    assert result.stderr == f"Error: {file}: the gzip file is cut off; all events before that place are done\n"


async def test_a_missing_bucket_is_reported_with_advice(operator: Operator) -> None:
    result = await operator.run("replay", "-", text="{}")
    assert (result.exit_code, result.stdout.count("\n")) == (1, 0)
    assert "bucket email-recipients: stream not found (10059): install the relay's chart" in result.stderr


async def test_ctrl_c_finishes_the_events_under_way_and_reports_the_last_line(
    nats: NatsServer, recipients: Bucket, connection: Connection, tmp_path: Path
) -> None:
    emails = [f"e{number}" for number in range(600)]
    await send(recipients, *emails)
    file = tmp_path / "saved.json"
    file.write_text("\n".join(body for email_id in emails for body in bodies(email_id)))
    async with pushed(connection) as heard:
        process = await child.start(
            SCRIPT, "replay", str(file), "--json", env={"NATS_URL": nats.url}, output=asyncio.subprocess.PIPE
        )
        assert process.stdout
        for _ in range(300):
            await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.wait_for(process.communicate(), 20)
        await connection.flush()
        counts = json.loads(output.splitlines()[-1])
        assert process.returncode == 130
        assert (
            f"all events up to line {counts['up_to_line']} are done. To continue, replay the whole file"
            in errors.decode()
        )
        assert 300 <= counts["up_to_line"] <= counts["events"] < 3000
        assert len(heard) == counts["applied"]
        again = await Operator(nats.url).run("replay", str(file), "--json")
        assert documents(again)[-1]["applied"] + counts["applied"] == 4 * len(emails)


async def test_a_reader_that_ends_early_does_not_end_the_replay(
    nats: NatsServer, recipients: Bucket, tmp_path: Path
) -> None:
    emails = [f"e{number}" for number in range(300)]
    await send(recipients, *emails)
    file = tmp_path / "saved.json"
    file.write_text("\n".join(bodies(email_id)[0] for email_id in emails))
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "replay", str(file), "--json", env={"NATS_URL": nats.url}, stdout=writing, stderr=-1
    )
    os.close(writing)
    os.close(reading)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors) == (0, b"")
    assert all(b'"delivered":true' in value for value in (await stored(recipients, emails)).values())


async def has_connected(nats: NatsServer) -> bool:
    """Return whether a replay has connected; while nats-py connects, wait_for of Python 3.11 may lose a Ctrl-C."""
    _, connections = await probe.get(nats.monitor_port, "/connz")
    return any(one["in_msgs"] for one in json.loads(connections)["connections"] if one.get("name") == command.NAME)


async def test_ctrl_c_ends_a_replay_that_waits_for_standard_input(nats: NatsServer, recipients: Bucket) -> None:
    await send(recipients, "e1")
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as terminal:
        process = await asyncio.create_subprocess_exec(
            SCRIPT, "replay", "-", env={"NATS_URL": nats.url}, stdin=reading, stdout=-1, stderr=-1
        )
        terminal.write(bodies("e1")[0] + "\n")
        terminal.flush()
        async with asyncio.timeout(20):
            while not await has_connected(nats):
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, b"Interrupted" in errors) == (130, True)


async def test_the_documented_permissions_are_enough() -> None:
    async with (
        operators.restricted(operators.subjects_of("tracker")) as (admin, url),
        nats_connection.opened(ProcessSettings(nats_url=admin), "test") as connection,
    ):
        await create_missing(connection, contract.BUCKETS)
        kv = await connection.client.jetstream().key_value(contract.EMAIL_RECIPIENTS_BUCKET)
        await kv.put("e1", records.encode(record(email_id="e1", group_id="g")))
        operator = Operator(url, SUPPRESSION_ENABLED="true")
        async with pushed(connection) as heard:
            for arguments in (("--dry-run",), ()):
                result = await operator.run("replay", "-", *arguments, text="\n".join(bodies("e1") + bodies("e2")))
                assert (result.exit_code, "violation" in result.stderr.lower()) == (0, False)
            await connection.flush()
            assert len(heard) == 4
            result = await operator.run("replay", "-", "--rebuild", "--dry-run", text="\n".join(bodies("e2")))
            assert (result.exit_code, "violation" in result.stderr.lower()) == (0, False)
            result = await operator.run("replay", "-", "--rebuild", "--json", text="\n".join(bodies("e2")))
            assert (documents(result)[-1]["rebuilt"], "violation" in result.stderr.lower()) == (1, False)
