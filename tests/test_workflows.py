# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Workflows pin their actions, have the least permissions, and use existing targets of make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from shared import __version__

ROOT: Final = Path(__file__).parent.parent
FILES: Final = sorted((ROOT / ".github" / "workflows").glob("*"))
EACH: Final = pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
MAY_WRITE: Final = {
    ("release.yaml", "images"): {"packages", "id-token", "attestations"},
    ("release.yaml", "charts"): {"packages", "id-token", "attestations"},
    ("release.yaml", "release"): {"contents"},
}


@EACH
def test_each_action_is_pinned_by_its_commit_and_names_its_version(file: Path) -> None:
    uses = [line.strip() for line in file.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


def test_one_action_has_one_version_everywhere() -> None:
    pins = {pin for file in FILES for pin in re.findall(r"uses: (\S+)@(\S+)", file.read_text())}
    assert len({name for name, _ in pins}) == len(pins)


@EACH
def test_each_job_has_the_least_permissions(file: Path) -> None:
    workflow = read(file)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        written = {scope for scope, access in job.get("permissions", {}).items() if access == "write"}
        assert written == MAY_WRITE.get((file.name, name), set())


@EACH
def test_each_job_has_a_timeout_and_leaves_no_token_in_the_checkout(file: Path) -> None:
    for job in read(file)["jobs"].values():
        assert job["timeout-minutes"] <= 60
        (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert checkout["with"]["persist-credentials"] is False


@EACH
def test_no_script_contains_an_expression(file: Path) -> None:
    for job in read(file)["jobs"].values():
        assert [step["run"] for step in job["steps"] if "${{" in step.get("run", "")] == []


@EACH
def test_each_target_of_make_exists(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\bmake (?:--silent )?([a-z-]+)", file.read_text()))
    assert asked
    assert asked <= targets


def test_a_change_is_checked_and_tested_with_every_python_that_the_package_names() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "check.yaml")["jobs"]
    assert {step.get("run") for job in jobs.values() for step in job["steps"]} >= {"make check", "make test"}
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == "3.11"


def test_the_changelog_begins_with_unreleased_or_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", __version__}


def read(file: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load(file.read_text())
    return workflow
