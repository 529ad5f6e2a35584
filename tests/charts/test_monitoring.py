# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Alerts and dashboards use existing metrics, in expressions that Prometheus can parse."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Final

import promql_parser
import pytest

from tests import operations_page as page
from tests.charts import chart

if TYPE_CHECKING:
    from collections.abc import Iterator

EACH: Final = pytest.mark.parametrize("process", chart.PROCESSES)
GRAFANA: Final = {"$__rate_interval": "5m", "$namespace": "lfx"}
FROM_PROMETHEUS: Final = {"namespace", "pod", "le"}  # Prometheus adds the first two; every histogram has the last
ENABLED: Final = {"metrics": {name: {"enabled": True} for name in ("podMonitor", "prometheusRule", "grafanaDashboard")}}


@EACH
def test_prometheus_scrapes_the_port_of_the_pods(process: str) -> None:
    objects = chart.render(process, ENABLED)
    (monitor,) = chart.of_kind(objects, "PodMonitor")
    (deployment,) = chart.of_kind(objects, "Deployment")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {port["name"] for port in chart.container(objects)["ports"]}


@EACH
def test_grafana_gets_the_dashboard_unchanged(process: str) -> None:
    (dashboard,) = chart.of_kind(chart.render(process, ENABLED), "ConfigMap")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    ((name, text),) = dashboard["data"].items()
    assert name.endswith(".json")
    assert json.loads(text) == json.loads((chart.path(process) / "dashboard.json").read_text())


@EACH
def test_prometheus_can_parse_each_expression(process: str) -> None:
    for expression in expressions(process):
        promql_parser.parse(expression)


@EACH
def test_each_alert_has_a_severity_a_summary_and_a_description(process: str) -> None:
    (rule,) = chart.of_kind(chart.render(process, ENABLED), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    assert len({alert["alert"] for alert in group["rules"]}) == len(group["rules"])
    for alert in group["rules"]:
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}


@EACH
def test_alerts_and_dashboard_use_existing_metrics_labels_and_values(process: str) -> None:
    """tests/test_operations.py compares the page with the running processes."""
    known = page.metrics(process)
    for expression in expressions(process):
        for name, matchers in used(expression):
            _, labels = known[re.sub(r"_bucket$", "", name)]
            for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                assert label in labels | FROM_PROMETHEUS, expression
                assert label in FROM_PROMETHEUS or set(value.split("|")) <= page.values(name, label), expression
        for label in re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]+)\)", expression))):
            assert label in FROM_PROMETHEUS.union(
                *(known[re.sub(r"_bucket$", "", name)][1] for name, _ in used(expression))
            )


@EACH
def test_the_dashboard_shows_each_metric(process: str) -> None:
    shown = {re.sub(r"_bucket$", "", name) for expression in expressions(process) for name, _ in used(expression)}
    assert {name for name in page.metrics(process) if name.startswith("email_")} <= shown


@EACH
def test_each_panel_has_a_title_a_description_and_its_own_place(process: str) -> None:
    panels = json.loads((chart.path(process) / "dashboard.json").read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    places = [place for panel in panels for place in cells(**panel["gridPos"])]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert re.fullmatch(r"[A-Z0-9].*[.]", panel["description"]), panel["title"]


@EACH
def test_the_top_row_of_the_dashboard_has_only_single_numbers(process: str) -> None:
    panels = json.loads((chart.path(process) / "dashboard.json").read_text())["panels"]
    assert {panel["gridPos"]["y"]: panel["type"] for panel in panels}[0] == "stat"
    assert [panel["gridPos"]["y"] for panel in panels if panel["type"] == "stat"] == [0] * 6


def cells(*, x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int]]:
    """Yield each cell of the grid that a panel covers."""
    yield from itertools.product(range(x, x + w), range(y, y + h))


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


def used(expression: str) -> list[tuple[str, str]]:
    """Return each metric of an expression with its matchers."""
    found: list[tuple[str, str]] = re.findall(r"((?:email_(?:relay|tracker)|process)_\w+)(\{[^}]*\})?", expression)
    assert found or "up{" in expression
    return found
