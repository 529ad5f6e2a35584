# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Helm, Kubernetes and the operators accept the objects of every case, and these match their snapshots."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Final

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from shared import __version__
from tests.charts import chart, custom_resources, features, snapshots

if TYPE_CHECKING:
    from pathlib import Path

OLDEST: Final = "1.27"
WARNING: Final = 2  # Helm's number for it
SHARED_TEMPLATES: Final = (
    "_helpers.tpl",
    "deployment.yaml",
    "externalsecret.yaml",
    "grafana-dashboard.yaml",
    "networkpolicy.yaml",
    "podmonitor.yaml",
    "poddisruptionbudget.yaml",
    "prometheusrule.yaml",
    "service.yaml",
    "serviceaccount.yaml",
)


@pytest.fixture(scope="module")
def objects() -> list[chart.Object]:
    """Every different object of all cases."""
    found = {
        json.dumps(one, sort_keys=True): one
        for process, case in features.ALL
        for one in chart.render(process, features.CASES[process][case])
    }
    return list(found.values())


@pytest.mark.parametrize(("process", "case"), features.ALL)
def test_helm_lint_has_no_warnings(process: str, case: str) -> None:
    report = helm_python.lint(chart.path(process), features.CASES[process][case], strict=True)
    assert [message for message in report["messages"] if message["severity"] >= WARNING] == []
    assert report["errors"] == []


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(objects: list[chart.Object], version: str) -> None:
    for one in objects:
        if (one["apiVersion"], one["kind"]) not in custom_resources.SCHEMAS:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_charts_require_the_oldest_tested_kubernetes() -> None:
    for process in chart.PROCESSES:
        assert chart.load(process).metadata["kubeVersion"] == f">={OLDEST}.0-0"


def test_the_operators_know_every_field(objects: list[chart.Object]) -> None:
    custom = [one for one in objects if (one["apiVersion"], one["kind"]) in custom_resources.SCHEMAS]
    for one in custom:
        jsonschema.validate(one, custom_resources.SCHEMAS[one["apiVersion"], one["kind"]])
    assert {(one["apiVersion"], one["kind"]) for one in custom} == set(custom_resources.SCHEMAS)


@pytest.mark.parametrize(("process", "case"), features.ALL)
def test_each_feature_renders_its_snapshot(process: str, case: str) -> None:
    assert snapshots.take(process, case) == snapshots.file(process, case).read_text()


def test_each_snapshot_has_a_feature() -> None:
    assert {snapshots.file(process, case) for process, case in features.ALL} == set(snapshots.FOLDER.glob("*"))


@pytest.mark.parametrize("template", SHARED_TEMPLATES)
def test_the_shared_templates_are_the_same_in_both_charts(template: str) -> None:
    relay, tracker = ((chart.path(process) / "templates" / template).read_text() for process in chart.PROCESSES)
    assert relay.replace("email-relay", "email-tracker") == tracker


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_each_template_name_begins_with_the_name_of_its_chart(process: str) -> None:
    for template in chart.load(process).templates:
        for line in template["data"].splitlines():
            assert "define " not in line or f'define "lfx-v2-email-{process}.' in line


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_charts_have_the_version_of_the_code(process: str) -> None:
    metadata = chart.load(process).metadata
    assert (metadata["version"], metadata["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_notes_show_no_password(process: str) -> None:
    notes = chart.notes(process, {"nats": {"url": "nats://user:s3cret@nats:4222,nats://user:s3cret@other:4222"}})
    assert "nats://nats:4222,nats://other:4222" in notes
    assert "s3cret" not in notes


def test_each_chart_renders_the_same_inside_an_umbrella_chart(tmp_path: Path) -> None:
    dependencies = [{"name": f"lfx-v2-email-{process}", "version": __version__} for process in chart.PROCESSES]
    umbrella = {"apiVersion": "v2", "name": "lfx-platform", "version": "1.0.0", "dependencies": dependencies}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(umbrella))
    for process in chart.PROCESSES:
        shutil.copytree(chart.path(process), tmp_path / "charts" / f"lfx-v2-email-{process}")
    given = {"lfx": {"domain": "example.org"}, "global": {"awsRegion": "us-west-2"}}
    with helm_python.Chart.load(tmp_path) as loaded:
        texts = loaded.render(given, name="lfx-platform", namespace=chart.NAMESPACE)
    for process in chart.PROCESSES:
        (text,) = (text for name, text in texts.items() if name.endswith(f"email-{process}/templates/deployment.yaml"))
        together = yaml.load(text, Loader=yaml.CSafeLoader)
        alone = chart.render(process, {"global": {"awsRegion": "us-west-2"}})
        assert chart.container([together]) == chart.container(alone)
