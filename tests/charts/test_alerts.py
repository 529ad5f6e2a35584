# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each alert fires and is silent in the cases of alerts/*.yaml, watches its own release, and names its runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests import operations_page as page
from tests.charts import chart

if TYPE_CHECKING:
    from pathlib import Path

EACH: Final = pytest.mark.parametrize("process", chart.PROCESSES)
PROMTOOL: Final = shutil.which("promtool")
EVALUATED: Final = {"30s": "1m", "1m": "1m", "5m": "10m"}  # cases of more than a day are scraped each 5 minutes
RUNBOOK: Final = "https://example.org/runbook"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; it is in Debian's package prometheus")
@EACH
def test_prometheus_accepts_the_rules_and_each_alert_fires_when_it_must(process: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(group(process)))
    all_cases = yaml.safe_load(cases(process).read_text())
    files = [file for name, interval in EVALUATED.items() if (file := write_cases(tmp_path, all_cases, name, interval))]
    assert {case["interval"] for case in all_cases["tests"]} <= set(EVALUATED)
    for arguments in (["check", "rules", "rules.yaml"], ["test", "rules", *files]):
        run = subprocess.run([str(PROMTOOL), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        assert run.returncode == 0, run.stdout + run.stderr


@EACH
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(process: str) -> None:
    tested = set()
    for case in yaml.safe_load(cases(process).read_text())["tests"]:
        name, verb = case["name"].partition(": ")[0].split(" ", 1)
        (expected,) = case["promql_expr_test"]
        assert f'"{name}"' in expected["expr"]
        assert bool(expected["exp_samples"]) == (verb == "fires")
        tested.add((name, verb))
    assert tested == {(rule["alert"], verb) for rule in rules(process) for verb in ("fires", "is silent")}


@EACH
def test_each_alert_watches_only_its_own_namespace(process: str) -> None:
    for rule in rules(process):
        metrics = re.findall(r"(?:\bup|(?:email|process)_\w+)(\{[^}]*\})?", rule["expr"])
        assert metrics
        assert all(f'namespace="{chart.NAMESPACE}"' in matchers for matchers in metrics), rule["alert"]
        assert "$" not in str(rule)


@EACH
def test_two_releases_in_one_namespace_watch_their_own_pods(process: str) -> None:
    other = group(process, name="other")["groups"][0]["rules"]
    pods = [re.findall(r'pod=~"([^"]+)"', rule["expr"]) for rule in (*rules(process), *other)]
    names = {"lfx-v2-email-" + process, "other"}
    assert {found for every in pods for found in every} == {f"{name}-[a-z0-9]+-[a-z0-9]+" for name in names}


@EACH
def test_each_alert_goes_to_the_section_that_the_page_lists(process: str) -> None:
    listed = {
        name: re.findall(r"\(#([\w-]+)\)", link) for names, link in page.rows("Alert") for name in page.spans(names)
    }
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page.TEXT, re.MULTILINE)
    }
    for rule in group(process, runbook=RUNBOOK)["groups"][0]["rules"]:
        url, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert url == RUNBOOK
        assert listed[rule["alert"]] == [anchor]
        assert anchor in anchors


def test_the_default_runbook_is_the_page_in_the_repository_of_the_chart() -> None:
    for process in chart.PROCESSES:
        home = chart.load(process).metadata["home"]
        for rule in rules(process):
            assert rule["annotations"]["runbook_url"].startswith(f"{home}/blob/main/docs/operations.md#")


def write_cases(folder: Path, all_cases: dict[str, Any], scraped: str, evaluated: str) -> str:
    """Write the cases with one scrape interval to a file of its own; return its name, which is empty without a case."""
    chosen = [case for case in all_cases["tests"] if case["interval"] == scraped]
    file = folder / f"cases-{scraped}.yaml"
    file.write_text(yaml.safe_dump({**all_cases, "evaluation_interval": evaluated, "tests": chosen}))
    return file.name if chosen else ""


def rules(process: str) -> list[dict[str, Any]]:
    """Return the alerts of a release."""
    found: list[dict[str, Any]] = group(process)["groups"][0]["rules"]
    return found


def group(process: str, *, runbook: str = "", name: str = "") -> dict[str, Any]:
    """Return the rules of a release, as Prometheus reads them; with this URL and name, or the default ones."""
    rule = {"enabled": True} | ({"runbookUrl": runbook} if runbook else {})
    given = {"metrics": {"prometheusRule": rule}, "fullnameOverride": name}
    (rendered,) = chart.of_kind(chart.render(process, given), "PrometheusRule")
    found: dict[str, Any] = rendered["spec"]
    return found


def cases(process: str) -> Path:
    """Return the input of promtool."""
    return chart.ROOT / "tests" / "charts" / "alerts" / f"{process}.yaml"
