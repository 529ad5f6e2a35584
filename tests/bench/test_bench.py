# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each scenario runs at a small scale, so that the benchmark keeps working. Its figures are not checked."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from tests.bench import compare, scenarios, table
from tests.bench.options import Options
from tests.bench.program import ROOT, SCRIPTS
from tests.bench.row import Result, Row

if TYPE_CHECKING:
    from pathlib import Path

TINY = Options(runs=1, scale=0.004, callers=8, groups=(20,), duration=0.3, records=50_000)
COMPARED = ("--runs", "1", "--scale", "0.002", "--callers", "4")
ROLES = {
    "account_rate": {"service", "part"},
    "fair": {"service", "part"},
    "hot_group": {"service", "limit", "part"},
    "fast_paths": {"service", "naive"},
    "start": {"service", "limit"},
    "growth": {"service", "part"},
    "soak": {"service", "part"},
    "status_to": {"service", "part"},
}


@pytest.mark.parametrize("name", scenarios.ALL)
async def test_scenario_measures_the_service(name: str) -> None:
    result = await scenarios.run(name, TINY)
    roles = {row.role for row in result.rows}
    assert roles >= ROLES.get(name, {"service", "limit", "naive"})
    assert all(row.value > 0 for row in result.rows)
    assert result.title in table.plain(result)


def test_command_writes_every_figure_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    shown = run_bench("lookup", *COMPARED, "--json", str(file))
    report = msgspec.json.decode(file.read_bytes())
    assert next(row["name"] for row in report["results"][0]["rows"]) == "tracker"
    assert report["machine"]["nats_server"] in shown
    assert "| `lookup` | 1 caller | tracker |" in shown


async def test_two_versions_are_run_in_turn_and_compared() -> None:
    pairs = await compare.in_turn("lookup", replace(TINY, runs=2), replace(TINY, code=ROOT))
    assert len(pairs) == 2
    shown = compare.summary("lookup", pairs)
    assert "1 caller tracker" in shown
    assert " x  (" in shown


async def test_another_program_is_compared(tmp_path: Path) -> None:
    program = tmp_path / "email-service"
    program.write_text(f"#!/bin/sh\nexec {SCRIPTS}/lfx-email-tracker serve\n")
    program.chmod(0o755)
    [(base, ours)] = await compare.in_turn("lookup", TINY, replace(TINY, program=program))
    assert [row.name for row in base.rows] == [row.name for row in ours.rows]


def test_a_ratio_above_one_is_better_in_any_unit() -> None:
    fast, slow = (Row(case="", name="", role="service", unit="/s", value=v, low=v, high=v) for v in (200.0, 100.0))
    short, long = (Row(case="", name="", role="service", unit="ms", value=v, low=v, high=v) for v in (5.0, 10.0))
    assert fast.times(slow) == short.times(long) == 2
    result = Result(scenario="s", title="t", rows=[fast, slow])
    assert table.markdown([result]).count("\n") == 4


def run_bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603
