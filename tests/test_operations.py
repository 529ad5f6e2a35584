# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""docs/operations.md names each metric, label, alert and log event of the code, and no others."""

from __future__ import annotations

import ast
import asyncio
import re
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import pytest_asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from relay import errors
from relay.records import record_writer
from relay.smtp import pool as smtp_pool
from shared import contract
from shared.commands.check import bucket_check
from shared.nats import denied_subscriptions
from shared.service import log, log_writer, probes
from tests import operations_page as page
from tests.acceptance import services
from tests.acceptance.caller import SEND_EMAIL
from tests.stack import ses_events, smtp_server, sqs_endpoint
from tests.stack.waiting import until
from tracker.events import ses_event
from tracker.queries import live_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

    from tests.acceptance.caller import Caller
    from tests.stack.console import Console
    from tests.stack.sqs_endpoint import SqsEndpoint

PROCESSES: Final = ("relay", "tracker")
LOG_IMPORTS: Final = {"PYTHONPROFILEIMPORTTIME": "1"}
NOT_YET: Final = {"prometheus_client", "opentelemetry", "grpc", "idna"}
LEVELS: Final = {
    "debug": "debug",
    "info": "info",
    "warning": "warn",
    "error": "error",
    "exception": "error",
    "log": "any",
}
ANOTHER_PAGE: Final = ("failures", "contract", "security", "commands", "performance")
EMAILS: Final = 100
EXAMPLE: Final = {
    "to": "firstname.lastname@example.com",
    "subject": "You've been added as a Writer on Demo Project",
}
FIGURE: Final = re.compile(r"(\d+)(?: bytes)?(?=[ ,])")
OUTCOMES: Final = {
    kind.outcome
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.DeliveryError) and kind is not errors.DeliveryError
}
OBVIOUS: Final = {"version", "python_version", "generation"}
ENUMERATED: Final = (
    ("email_relay_smtp_transactions_total", "outcome", OUTCOMES | {"accepted"}),
    ("email_relay_smtp_connections", "state", set(smtp_pool.PoolState._fields)),
    ("email_tracker_events_total", "kind", ses_event.KINDS | {"none"}),
    ("email_tracker_suppressions_total", "reason", set(contract.SUPPRESSION_REASONS)),
)
NUMBERS: Final = (
    f"{log.FLOOD_LINES} are written in {log.FLOOD_SECONDS:g} seconds",
    f"At {record_writer.MAX_KEPT:,} sends are refused",
    f"up to {record_writer.MAX_KEPT:,} in each relay",
    f"A stop writes for {record_writer.FLUSH_SECONDS:g} s",
    f"as long as it reads, at most {log_writer.FLUSH_SECONDS:g} s",
    f"up to {log_writer.QUEUE_BYTES >> 20} MB of lines wait in memory",
    f"at most {live_counts.MAX_EMAILS:,}.",
    f"At most {probes.MAX_CONNECTIONS} clients are connected to `PORT`",
    f"each for {probes.REQUEST_TIMEOUT_SECONDS} seconds and with {probes.MAX_HEAD_BYTES >> 10} KB of headers",
    f"comes at {bucket_check.NEARLY_FULL * 100:.0f} % of a limit",
    f"`check` warns at {bucket_check.NEARLY_FULL * 100:.0f} %, and fails",
    f"it subscribes again every {denied_subscriptions.RETRY_SECONDS:g} seconds",
)


class Running(NamedTuple):
    """Both processes as users start them, the modules that each had imported when it was ready, and their servers."""

    processes: dict[str, Console]
    imported: dict[str, set[str]]
    caller: Caller
    sqs: SqsEndpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Running]:
    """Both processes with all features on that have metrics, after requests, events and queries of all kinds."""
    async with (
        services.platform() as platform,
        smtp_server.running() as smtp,
        sqs_endpoint.running() as sqs,
    ):
        for bucket in (contract.EMAIL_IDEMPOTENCY_BUCKET, contract.EMAIL_SUPPRESSIONS_BUCKET):
            await platform.caller.client.jetstream().create_key_value(bucket=bucket)
        features = {"SUPPRESSION_ENABLED": "true", "ENGAGEMENT_REBUILD_RECORDS": "true"}
        more = {**LOG_IMPORTS, **features, "ENGAGEMENT_RECORD_WAIT_SECONDS": "0.01"}
        async with (
            services.relay(platform.nats, smtp, SES_ACCOUNT_SEND_RATE="1000", **LOG_IMPORTS) as relay,
            services.tracker(platform.nats, sqs, **more) as tracker,
        ):
            imported = {"relay": modules(relay), "tracker": modules(tracker)}
            smtp.refuse("nobody@example.com", "550 5.1.1 no such user")
            email_id = await send_all(platform.caller)
            await send_events(email_id, sqs)
            await query_all(platform.caller, email_id)
            yield Running({"relay": relay, "tracker": tracker}, imported, platform.caller, sqs)


async def send_all(caller: Caller) -> str:
    """Send requests of many kinds; return the id of the email that was sent."""
    email_id = await caller.sent(group_id="g", idempotency_key="k")
    await caller.ask(SEND_EMAIL, b"no JSON")
    await caller.send(to="nobody@example.com")
    await caller.send(to="nobody")
    return email_id


async def send_events(email_id: str, sqs: SqsEndpoint) -> None:
    """Send events of all outcomes to the tracker."""
    at, known, unknown = datetime.now(UTC), f"g/{email_id}", "/unknown"
    events = [ses_events.delivery(known, at), ses_events.open_(known, at), ses_events.bounce(known, at)]
    bodies = [ses_events.notification(event, str(number)) for number, event in enumerate(events)]
    bodies += [bodies[0], ses_events.notification(ses_events.click(unknown, at)), "no event"]
    for body in [*bodies, ses_events.notification(ses_events.send(known, at))]:
        sqs.send(body)
    await sqs.wait_until_empty()


async def query_all(caller: Caller, email_id: str) -> None:
    """Send queries to the tracker."""
    for _ in range(2):
        await caller.analytics(group_id="g")
    await caller.status(email_id=email_id)
    await caller.status()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("process", PROCESSES)
async def test_the_page_names_each_metric_with_its_type_and_labels(process: str, running: Running) -> None:
    scraped = await scrape(running.processes[process])
    assert {name: (family.type, labels(family)) for name, family in scraped.items()} == page.metrics(process)
    for name, (_, names) in page.metrics(process).items():
        for label in names:
            seen = {sample.labels[label] for sample in scraped[name].samples}
            assert seen, f"{name} was never counted here"
            assert label in OBVIOUS or seen <= page.values(name, label), f"{label} of {name}"


@pytest.mark.parametrize(("metric", "label", "values"), ENUMERATED)
def test_the_page_names_each_value_that_the_code_knows(metric: str, label: str, values: set[str]) -> None:
    assert page.values(metric, label) == values


@pytest.mark.parametrize("process", PROCESSES)
def test_each_metric_has_a_dimension_in_its_name(process: str) -> None:
    for name, (kind, _) in page.metrics(process).items():
        assert name.endswith("_total") == (kind == "counter"), name
        if kind == "histogram":
            assert name.endswith(("_seconds", "_messages")), name


def test_the_page_names_each_alert_of_the_charts() -> None:
    files = [page.ROOT / "charts" / f"lfx-v2-email-{process}" / "alerts.yaml" for process in PROCESSES]
    rules = [rule for file in files for rule in yaml.safe_load(file.read_text())["groups"][0]["rules"]]
    assert sorted(page.alerts()) == sorted(rule["alert"] for rule in rules)


@pytest.mark.parametrize(
    ("headings", "packages"),
    [
        (("Of both", "Of the relay", "Of the tracker"), ("relay", "tracker", "shared")),
        (("Of the relay",), ("relay",)),
        (("Of the tracker",), ("tracker",)),
        (("Of both",), ("shared",)),
    ],
)
def test_the_page_names_each_log_event_with_its_level(headings: tuple[str, ...], packages: tuple[str, ...]) -> None:
    listed, logged = page.events(*headings), logged_in(*packages)
    assert set(listed) == set(logged)
    for event, levels in logged.items():
        assert levels <= listed[event] | {"any"}, event
        assert "any" in levels or listed[event] == levels, event


@pytest.mark.parametrize("name", ANOTHER_PAGE)
def test_no_other_page_names_an_event_that_is_never_logged(name: str) -> None:
    assert events_in((page.ROOT / "docs" / f"{name}.md").read_text()) <= set(page.events())


@pytest.mark.parametrize("process", PROCESSES)
def test_no_alert_names_an_event_that_is_never_logged(process: str) -> None:
    text = (page.ROOT / "charts" / f"lfx-v2-email-{process}" / "alerts.yaml").read_text()
    assert set(re.findall(r"log (?:of the \w+ )?has (\w+\.\w+)", text)) <= set(page.events())


def test_the_page_on_security_names_the_user_of_each_command_of_the_runbook() -> None:
    users = (page.ROOT / "docs" / "security.md").read_text().partition("\n### The commands\n")[2].partition("\n## ")[0]
    listed = {
        span.removeprefix("nats ").split()[0]
        for command, _ in page.rows("Command", users)
        for span in page.spans(command)
    }
    used = set(re.findall(r"\b(?:lfx-email-(?:relay|tracker)|nats) ([a-z]+)", page.TEXT.partition("\n## Runbook\n")[2]))
    assert used <= listed
    assert len(used) > 8


def test_each_event_that_is_never_held_back_is_listed_and_is_logged() -> None:
    (line,) = [line for line in page.TEXT.splitlines() if line.startswith("- **Floods.**")]
    assert {name for name in page.spans(line) if "." in name} == log.NEVER_HELD_BACK
    assert set(page.events()) >= log.NEVER_HELD_BACK


@pytest.mark.parametrize("number", NUMBERS)
def test_the_numbers_of_the_page_are_those_of_the_code(number: str) -> None:
    assert number in page.TEXT


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_on_performance_has_the_bytes_that_emails_and_events_take_in_kv(running: Running) -> None:
    rows = page.rows("Resource", (page.ROOT / "docs" / "performance.md").read_text())
    listed = [int(figure) for row in rows if row[0].startswith("KV, an") for figure in FIGURE.findall(row[1])]
    measured = [figure async for figure in growth(running.caller, running.sqs)]
    assert measured == [pytest.approx(figure, rel=0.1, abs=8) for figure in listed]


async def growth(caller: Caller, sqs: SqsEndpoint) -> AsyncIterator[float]:
    """Yield by how many bytes records and group grow with an email, then the record with each kind of event."""
    records, groups = await stored(caller)
    ids = await asyncio.gather(*(caller.sent(**EXAMPLE, group_id="invite-batch-abc123") for _ in range(EMAILS)))
    more_records, more_groups = await stored(caller)
    yield (more_records - records) / EMAILS
    yield (more_groups - groups) / EMAILS
    for event in (ses_events.delivery, ses_events.open_, ses_events.open_, ses_events.click):
        for email_id in ids:
            sqs.send(ses_events.notification(event(f"g/{email_id}", datetime.now(UTC))))
        await sqs.wait_until_empty()
        records, (more_records, _) = more_records, await stored(caller)
        yield (more_records - records) / EMAILS


async def stored(caller: Caller) -> tuple[int, int]:
    """Return the bytes of both buckets."""
    info = caller.client.jetstream().stream_info
    records, groups = await info("KV_email-recipients"), await info("KV_email-group-index")
    return records.state.bytes, groups.state.bytes


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_is_imported_before_it_is_needed(running: Running) -> None:
    relay, tracker = running.imported["relay"], running.imported["tracker"]
    assert not (relay | tracker) & NOT_YET
    assert not relay & {"boto3", "botocore", "tracker", "relay.metrics", "shared.telemetry.tracing"}
    assert not tracker & {"aiosmtplib", "relay", "tracker.metrics", "shared.telemetry.tracing"}
    await scrape(running.processes["relay"])
    assert {"prometheus_client", "relay.metrics"} <= modules(running.processes["relay"])


async def test_a_tracker_without_events_imports_nothing_of_aws() -> None:
    async with services.platform() as platform, services.tracker(platform.nats, None, **LOG_IMPORTS) as tracker:
        assert not modules(tracker) & {
            "boto3",
            "botocore",
            "tracker.events.sqs",
            "tracker.events.suppression",
            "prometheus_client",
        }


async def scrape(process: Console) -> dict[str, Metric]:
    """Return the families of /metrics by the name of their metric; the parser removes the suffix of counters."""

    async def families() -> dict[str, Metric]:
        _, text = await process.get("/metrics")
        found = text_string_to_metric_families(text)
        return {family.name + "_total" * (family.type == "counter"): family for family in found}

    return await until(families)


def labels(family: Metric) -> set[str]:
    """Return the names of a family's labels; `le` is every histogram's."""
    return {label for sample in family.samples for label in sample.labels} - {"le"}


def modules(process: Console) -> set[str]:
    """Return the modules that a process has imported, with their top-level packages."""
    names = {line.rpartition("|")[2].strip() for line in process.errors.splitlines() if line.startswith("import time:")}
    return names | {name.partition(".")[0] for name in names}


def logged_in(*packages: str) -> dict[str, set[str]]:
    """Return each event that the packages log, with its levels; "any" where the code decides."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for package in packages:
        for path in (page.ROOT / package).rglob("*.py"):
            for event, level in logged_by(path):
                found[event].add(level)
    return found


def logged_by(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=logger, attr=method), args=args) if method in LEVELS:
                if ast.unparse(logger) in {"log", "events", "logging.getLogger(__name__)"}:
                    yield from ((event, LEVELS[method]) for event in constants(args[method == "log"], tree))
            case ast.Call(
                func=ast.Attribute(attr="makeRecord"), args=[_, level, _, _, ast.Constant(value=str(event)), *_]
            ):
                yield event, LEVELS[ast.unparse(level).removeprefix("logging.").lower()]
            case ast.Assign(
                targets=[ast.Tuple(elts=[ast.Attribute(attr="msg"), *_])], value=ast.Tuple(elts=[event_of, *_])
            ):
                yield from ((event, "any") for event in constants(event_of, tree))


def constants(expression: ast.expr, tree: ast.Module) -> set[str]:
    """Return the events that an expression may name: itself, the values of a table, or those of an attribute."""
    match expression:
        case ast.Subscript(value=ast.Name(id=table)):
            values = [
                node.value for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and names(node.target, table)
            ]
        case ast.Attribute(attr=attribute):
            values = [node.value for node in attributes() if names(node.targets[0], attribute)]
        case _:
            values = [expression]
    found = {node.value for value in values if value for node in ast.walk(value) if isinstance(node, ast.Constant)}
    events = {event for event in found if isinstance(event, str) and re.fullmatch(r"\w+\.\w+", event)}
    assert events, f"no event in {ast.unparse(expression)}"
    return events


def attributes() -> Iterator[ast.Assign]:
    """Yield the class attributes of `relay/smtp/delivery.py`, which hold the events of each email."""
    tree = ast.parse((page.ROOT / "relay" / "smtp" / "delivery.py").read_text())
    for kind in tree.body:
        if isinstance(kind, ast.ClassDef):
            yield from (node for node in kind.body if isinstance(node, ast.Assign))


def names(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def events_in(text: str) -> set[str]:
    """Return the spans in backticks that begin like an event of the page."""
    begins = {event.partition(".")[0] for event in page.events()}
    files = {"md", "py", "csv", "json"}
    found = [span.partition(".") for span in page.spans(text) if re.fullmatch(r"\w+\.[a-z_]+", span)]
    return {f"{first}.{last}" for first, _, last in found if first in begins and last not in files}
