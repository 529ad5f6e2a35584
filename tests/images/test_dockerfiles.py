# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each Dockerfile has no shell before the process, no root user, and only the required files."""

from __future__ import annotations

import pytest

from tests.charts import chart
from tests.images import container, dockerfile

EACH = pytest.mark.parametrize("process", chart.PROCESSES)


@EACH
def test_the_process_gets_signals_without_a_shell_in_between(process: str) -> None:
    read = dockerfile.read(process)
    entry, command = read.the("ENTRYPOINT"), read.the("CMD")
    assert (entry.is_exec_form, command.is_exec_form) == (True, True)
    assert entry.words == [f"/opt/venv/bin/lfx-email-{process}"]
    assert command.words == ["serve"]


@EACH
def test_the_user_is_a_number_so_that_kubernetes_can_refuse_root(process: str) -> None:
    assert dockerfile.read(process).the("USER").words == [f"{container.UID}:{container.UID}"]
    assert chart.pod(chart.render(process))["securityContext"]["runAsUser"] == container.UID


@EACH
def test_both_stages_have_one_base_that_a_build_can_pin(process: str) -> None:
    read = dockerfile.read(process)
    (base,) = read.arguments
    assert base.words[0].startswith("BASE=python:3.")
    assert "-slim" in base.words[0]
    assert [stage[0].words[0] for stage in read.stages] == ["${BASE}", "${BASE}"]


@EACH
def test_the_image_has_its_labels(process: str) -> None:
    read = dockerfile.read(process)
    assert read.pairs("ARG") == {"VERSION": "0.0.0", "COMMIT": "unknown"}
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in read.pairs("LABEL").items()}
    assert labels["title"] == f"lfx-v2-email-{process}"
    assert labels["version"] == "${VERSION}"
    assert labels["revision"] == "${COMMIT}"
    assert labels["licenses"] == "MIT"
    assert {"description", "source", "vendor"} <= set(labels)


@EACH
def test_the_image_has_only_the_environment_of_its_process(process: str) -> None:
    read = dockerfile.read(process)
    assert [one.words for one in read.final if one.keyword == "COPY"] == [["--from=build", "/opt/venv", "/opt/venv"]]
    assert [one for one in read.final if one.keyword in {"RUN", "ADD"}] == []
    copied = [word for one in read.stages[0] if one.keyword == "COPY" for word in one.words[:-1]]
    assert [name for name in copied if name.startswith("requirements")] == [
        "requirements-build.txt",
        f"requirements-{process}.txt",
    ]


@EACH
def test_the_port_is_that_of_the_probes(process: str) -> None:
    assert dockerfile.read(process).the("EXPOSE").words == [str(chart.values(process)["service"]["port"])]


def test_the_dockerfiles_differ_only_in_the_process() -> None:
    relay, tracker = (dockerfile.path(process).read_text().splitlines() for process in chart.PROCESSES)
    different = [(one, other) for one, other in zip(relay, tracker, strict=True) if one != other]
    for one, other in different:
        assert one.replace("relay", "tracker") == other or "image.description" in one


def test_the_context_holds_exactly_the_copied_files() -> None:
    copied = {
        word
        for process in chart.PROCESSES
        for one in dockerfile.read(process).stages[0]
        if one.keyword == "COPY"
        for word in one.words[:-1]
    }
    assert copied == dockerfile.context()
