# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`watch` prints push events as they are published."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import nats as nats_py
import pytest
from click.testing import CliRunner

from shared import contract
from shared.commands import output
from shared.contract import Failure
from shared.nats import connection as nats_connection
from shared.service.settings import ProcessSettings
from tests.shared.nats import permissions_reload
from tests.stack import console, nats_server
from tests.stack.ports import free_port
from tests.tracker.commands.operators import Operator
from tests.tracker.examples import EMAIL, GROUP, event, record
from tracker.cli import main
from tracker.commands import watch
from tracker.events.push_events import PushEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from tests.stack.console import Console
    from tests.stack.nats_server import NatsServer

READY: Final = "Watching; Ctrl-C ends it.\n"
DENIED: Final = """
authorization { users: [
  { user: operator, password: o, permissions: { publish: ">", subscribe: { deny: "lfx.>" } } }
] }
"""


@asynccontextmanager
async def watching(url: str, *arguments: str) -> AsyncIterator[Console]:
    """Run `watch`; the block begins when it has subscribed."""
    async with console.running("lfx-email-tracker", "watch", *arguments, env={"NATS_URL": url}) as process:
        await process.wait_for_error(READY)
        yield process


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    """A client that publishes."""
    async with await nats_py.connect(nats.url) as connected:
        yield connected


async def publish(client: Client, kind: str, **fields: Any) -> None:
    subject = next(subject for subject, one in watch.KINDS.items() if one == kind)
    await client.publish(subject, json.dumps({"email_id": EMAIL, "group_id": GROUP, **fields}).encode())
    await client.flush()


async def test_each_kind_is_printed_as_the_tracker_publishes_it(nats: NatsServer) -> None:
    ids, why = f"{EMAIL}  {GROUP:36}", "failure.kind=bounce  failure.type=Permanent"
    async with (
        watching(nats.url, "--count", "4") as process,
        nats_connection.opened(ProcessSettings(nats_url=nats.url), "test") as connection,
    ):
        publish_event, known = PushEvents(connection), record(open_count=2, click_count=3, tags={"campaign": "spring"})
        await publish_event(event("delivery", 1), known)
        await publish_event(event("open", 2), known)
        await publish_event(event("click", 3, link="https://x.org/a?b"), known)
        await publish_event(event("bounce", 4, failure=Failure(kind="bounce", type="Permanent")), known)
        assert await process.wait_for_lines(4) == [
            f"2026-01-02T03:04:06Z  delivered  {ids}  tags.campaign=spring\n",
            f"2026-01-02T03:04:07Z  opened     {ids}  open_count=2  tags.campaign=spring\n",
            f"2026-01-02T03:04:08Z  clicked    {ids}  link=https://x.org/a  click_count=3  tags.campaign=spring\n",
            f"2026-01-02T03:04:09Z  failed     {ids}  reason=bounce  {why}  tags.campaign=spring\n",
        ]
        assert await process.wait() == 0


def test_an_event_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "columns", lambda: 80)
    failed = {"email_id": EMAIL, "group_id": GROUP, "failed_at": "2026-01-02T04:04:05+01:00", "reason": "no " * 40}
    lines = click.unstyle(watch._line("failed", failed)).splitlines()  # noqa: SLF001 - the terminal cannot be tested otherwise
    assert lines[0].split() == ["2026-01-02T03:04:05Z", "failed", EMAIL]
    assert lines[1].startswith(f"    {GROUP}  reason=no no")
    assert max(map(len, lines)) <= 80


async def test_only_selected_events_are_printed_and_counted(nats: NatsServer, client: Client) -> None:
    arguments = ("--kind", "opened", "--kind", "failed", "--group-id", GROUP, "--count", "2", "--json")
    async with watching(nats.url, *arguments) as process:
        await publish(client, "delivered")
        await publish(client, "opened", group_id="another")
        await publish(client, "opened", open_count=1)
        await publish(client, "failed", reason="bounce")
        assert (await process.wait(), process.errors) == (0, READY)
        events = [json.loads(line) for line in process.output.splitlines()]
        assert events == [
            {"kind": "opened", "email_id": EMAIL, "group_id": GROUP, "open_count": 1},
            {"kind": "failed", "email_id": EMAIL, "group_id": GROUP, "reason": "bounce"},
        ]


async def test_one_email_is_watched_by_its_id(nats: NatsServer, client: Client) -> None:
    async with watching(nats.url, "--email-id", f" {EMAIL.upper()}", "--count", "1") as process:
        await publish(client, "clicked", email_id="another")
        await publish(client, "clicked", link="https://x.org/\x1b[2J", clicked_at="2026-01-02T03:04:05Z")
        assert await process.wait() == 0
        assert process.output.split() == [
            "2026-01-02T03:04:05Z",
            "clicked",
            EMAIL,
            GROUP,
            r"link=https://x.org/\x1b[2J",
        ]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"\xff"', b"[" * 100_000], ids=range(6))
async def test_a_message_that_is_not_an_event_is_reported_and_the_next_one_printed(
    nats: NatsServer, client: Client, body: bytes
) -> None:
    async with watching(nats.url, "--count", "1") as process:
        await client.publish(contract.EMAIL_OPENED_SUBJECT, body)
        await publish(client, "opened")
        assert await process.wait() == 0
        assert f"{contract.EMAIL_OPENED_SUBJECT}: not a push event: " in process.errors
        assert len(process.output.splitlines()) == 1


async def test_ctrl_c_ends_it_with_130(nats: NatsServer) -> None:
    async with watching(nats.url) as process:
        process.send(signal.SIGINT)
        assert (await process.wait(), process.output, process.errors) == (130, "", READY)


async def test_it_continues_after_an_outage_of_nats() -> None:
    port = free_port()
    async with nats_server.running(port=port) as first, watching(first.url, "--count", "1") as process:
        await first.stop()
        await process.wait_for_error("The connection to NATS was lost")
        async with nats_server.running(port=port) as second, await nats_py.connect(second.url) as client:
            await process.wait_for_error("Connected to NATS again")
            await publish(client, "opened")
            assert await process.wait() == 0


async def test_a_denied_subscription_is_reported() -> None:
    async with nats_server.running(DENIED) as server:
        result = await Operator(server.url.replace("//", "//operator:o@")).run("watch")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "Error: the NATS user may not subscribe to lfx.email-service.email_" in result.stderr


async def test_events_are_shown_again_after_their_permission_was_revoked_and_granted() -> None:
    async with (
        permissions_reload.running() as permissions,
        watching(permissions.url, "--count", "1") as process,
        await nats_py.connect(permissions.admin_url) as client,
    ):
        await permissions.deny(subscribe=[contract.EMAIL_OPENED_SUBJECT])
        await process.wait_for_error("Not permitted: the NATS user")
        await publish(client, "opened", group_id="not seen")
        await permissions.allow()
        await process.wait_for_error("Permitted again")
        await publish(client, "opened")
        assert await process.wait() == 0
        assert (len(process.output.splitlines()), GROUP in process.output) == (1, True)


@pytest.fixture
async def js(client: Client) -> JetStreamContext:
    """JetStream with the stream of push events."""
    js = client.jetstream()
    await js.add_stream(name=contract.PUSH_EVENTS_STREAM, subjects=list(contract.PUSH_EVENT_SUBJECTS))
    return js


async def test_since_begins_with_the_stored_events_and_goes_on_live_with_none_twice_or_left_out(
    nats: NatsServer, client: Client, js: JetStreamContext
) -> None:
    assert js
    for number in range(1200):
        await client.publish(contract.EMAIL_OPENED_SUBJECT, json.dumps({"email_id": str(number)}).encode())
    await client.flush()
    async with watching(nats.url, "--since", "1h", "--count", "1300", "--json") as process:
        for number in range(1200, 1300):
            await client.publish(contract.EMAIL_OPENED_SUBJECT, json.dumps({"email_id": str(number)}).encode())
        assert (await process.wait(), process.errors) == (0, READY)
    assert [json.loads(line)["email_id"] for line in process.output.splitlines()] == [str(one) for one in range(1300)]


async def test_since_leaves_out_earlier_events_and_kinds_that_are_not_selected(
    nats: NatsServer, client: Client, js: JetStreamContext
) -> None:
    await js.publish(contract.EMAIL_OPENED_SUBJECT, b'{"open_count":1}')
    await asyncio.sleep(0.002)  # the clock of the server is read to the microsecond
    at = datetime.now(UTC).isoformat()
    await js.publish(contract.EMAIL_OPENED_SUBJECT, b'{"open_count":2}')
    await publish(client, "failed", reason="bounce")
    arguments = ("--since", at, "--kind", "failed", "--kind", "delivered", "--count", "1", "--json")
    async with watching(nats.url, *arguments) as process:
        assert await process.wait() == 0
        assert json.loads(process.output)["kind"] == "failed"
    async with watching(nats.url, "--since", at, "--count", "1", "--json") as process:
        assert await process.wait() == 0
        assert json.loads(process.output)["open_count"] == 2


async def test_since_continues_after_outages_and_a_lost_consumer_with_the_events_that_came_meanwhile(
    nats: NatsServer, client: Client, js: JetStreamContext
) -> None:
    await publish(client, "opened", open_count=1)
    async with watching(nats.url, "--since", "1d", "--count", "4", "--json") as process:
        await process.wait_for_lines(1)
        (consumer,) = await js.consumers_info(contract.PUSH_EVENTS_STREAM)
        await js.delete_consumer(contract.PUSH_EVENTS_STREAM, consumer.name)
        await process.wait_for_error("Interrupted: the server has ended the reading (409 Consumer Deleted)")
        await publish(client, "opened", open_count=2)
        await process.wait_for_lines(2)
        await nats.kill()
        await process.wait_for_error("The connection to NATS was lost")
        await nats.start()
        async with await nats_py.connect(nats.url) as again:
            await publish(again, "opened", open_count=3)
            await process.wait_for_lines(3, timeout=20)
            js = again.jetstream()
            await js.delete_stream(contract.PUSH_EVENTS_STREAM)
            await js.add_stream(name=contract.PUSH_EVENTS_STREAM, subjects=list(contract.PUSH_EVENT_SUBJECTS))
            await publish(again, "opened", open_count=4)
            assert await process.wait(30) == 0
    assert [json.loads(line)["open_count"] for line in process.output.splitlines()] == [1, 2, 3, 4]


def test_since_in_the_future_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["watch", "--since", "9999-01-02T03:04:05Z"])
    assert (result.exit_code, "is in the future" in result.output) == (2, True), result.output


async def test_since_reads_also_a_stream_with_other_subjects(nats: NatsServer, client: Client) -> None:
    js = client.jetstream()
    await js.add_stream(name=contract.PUSH_EVENTS_STREAM, subjects=["lfx.email-service.>"])
    await js.publish(contract.GET_EMAIL_STATUS_SUBJECT, b"{}")
    await js.publish(contract.EMAIL_FAILED_SUBJECT, b"{}")
    result = await Operator(nats.url).run("watch", "--since", "2h", "--count", "1", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"kind": "failed"})


async def test_since_without_a_stream_ends_with_1_and_the_way_to_get_one(nats: NatsServer) -> None:
    result = await Operator(nats.url).run("watch", "--since", "2h")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "stream email-events does not exist: install the tracker's chart" in result.stderr


@pytest.mark.parametrize("subject", ["INFO.email-events", "CREATE.email-events", "MSG.NEXT.>"])
async def test_since_names_the_permission_that_is_missing(subject: str) -> None:
    denied = f"$JS.API.{'STREAM' if subject.startswith('INFO') else 'CONSUMER'}.{subject}"
    users = f"""authorization {{ users: [
      {{ user: admin, password: a }}
      {{ user: operator, password: o, permissions: {{ publish: {{ deny: "{denied}" }} }} }}
    ] }}"""
    async with (
        nats_server.running(users) as server,
        await nats_py.connect(server.url.replace("//", "//admin:a@")) as client,
    ):
        await client.jetstream().add_stream(name="email-events", subjects=list(contract.PUSH_EVENT_SUBJECTS))
        result = await Operator(server.url.replace("//", "//operator:o@")).run("watch", "--since", "2h")
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"the NATS user may not publish to {denied.removesuffix('>')}" in result.stderr
