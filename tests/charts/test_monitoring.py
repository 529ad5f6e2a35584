# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Alerts and dashboards ask for what /metrics of the running processes says, and in words that Prometheus knows."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance import services
from tests.acceptance.waiting import until
from tests.charts import chart
from tests.stack import ses_events, smtp_server, sqs_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from tests.stack.console import Console

EACH: Final = pytest.mark.parametrize("process", chart.PROCESSES)
GRAFANA: Final = {"$__rate_interval": "5m", "$namespace": "lfx"}
FROM_PROMETHEUS: Final = {"namespace", "pod", "le"}  # which it adds itself, or every histogram has
ENABLED: Final = {"metrics": {name: {"enabled": True} for name in ("podMonitor", "prometheusRule", "grafanaDashboard")}}


@EACH
def test_the_pods_are_read_where_they_listen(process: str) -> None:
    objects = chart.render(process, ENABLED)
    (monitor,) = chart.of_kind(objects, "PodMonitor")
    (deployment,) = chart.of_kind(objects, "Deployment")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {port["name"] for port in chart.container(objects)["ports"]}


@EACH
def test_the_dashboard_is_handed_to_grafana_as_it_is(process: str) -> None:
    (dashboard,) = chart.of_kind(chart.render(process, ENABLED), "ConfigMap")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    ((name, text),) = dashboard["data"].items()
    assert name.endswith(".json")
    assert json.loads(text) == json.loads((chart.path(process) / "dashboard.json").read_text())


@EACH
def test_prometheus_can_read_each_expression(process: str) -> None:
    for expression in expressions(process):
        promql_parser.parse(expression)


@EACH
def test_each_alert_says_how_urgent_it_is_and_what_to_do(process: str) -> None:
    (rule,) = chart.of_kind(chart.render(process, ENABLED), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    assert len({alert["alert"] for alert in group["rules"]}) == len(group["rules"])
    for alert in group["rules"]:
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "description"}


async def test_alerts_and_dashboard_of_the_relay_ask_for_what_it_says() -> None:
    async with (
        services.platform() as platform,
        smtp_server.running() as smtp,
        services.relay(platform.nats, smtp) as relay,
    ):
        await platform.caller.sent()
        await compare("relay", relay)


async def test_alerts_and_dashboard_of_the_tracker_ask_for_what_it_says() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoint.running() as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        sqs.send(ses_events.notification(ses_events.delivery("g/unknown", datetime.now(UTC))))
        sqs.send("no event")
        await sqs.wait_for_calls("DeleteMessageBatch")
        await platform.caller.status(email_id="unknown")
        await compare("tracker", tracker)


async def compare(process: str, running: Console) -> None:
    """Compare names and labels with what the process says."""

    async def families() -> dict[str, Metric]:
        _, said = await running.get("/metrics")
        return {family.name: family for family in text_string_to_metric_families(said)}

    said = await until(families, lambda found: any(family.samples for family in found.values()))
    for expression in expressions(process):
        for name, matchers in asked(expression):
            family = said[re.sub(r"_(total|bucket)$", "", name)]
            labels = {label for sample in family.samples for label in sample.labels}
            if family.samples:
                assert labels_of(matchers) <= labels | FROM_PROMETHEUS, expression
            else:  # counted once it happens
                assert labels_of(matchers) <= FROM_PROMETHEUS, expression


def expressions(process: str) -> Iterator[str]:
    """Yield each expression of alerts and dashboard."""
    objects = chart.render(process, ENABLED)
    (rule,) = chart.of_kind(objects, "PrometheusRule")
    (dashboard,) = chart.of_kind(objects, "ConfigMap")
    found = [alert["expr"] for alert in rule["spec"]["groups"][0]["rules"]]
    (text,) = dashboard["data"].values()
    found += [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    for expression in found:
        for variable, value in GRAFANA.items():
            expression = expression.replace(variable, value)  # noqa: PLW2901 - step by step
        yield expression


def asked(expression: str) -> list[tuple[str, str]]:
    """Return each metric of an expression with its matchers."""
    found: list[tuple[str, str]] = re.findall(r"(email_(?:relay|tracker)_\w+)(\{[^}]*\})?", expression)
    assert found
    return found


def labels_of(matchers: str) -> set[str]:
    """Return the labels that matchers name."""
    return set(re.findall(r"(\w+)=", matchers))
