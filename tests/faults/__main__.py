# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`python -m tests.faults`: one experiment with a seed."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.faults import experiment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.faults.experiment import Result


@click.command()
@click.option("--duration", default=60.0, show_default=True, help="Seconds of faults.")
@click.option("--seed", type=int, help="Repeat the faults of an earlier run.")
@click.option("--rate", default=experiment.RATE, show_default=True, help="The probability of a fault for each message.")
@click.option("--verbose", is_flag=True, help="Print each fault.")
@click.option(
    "--logs", type=click.Path(file_okay=False, path_type=Path), help="Write faults and logs into this directory."
)
def main(duration: float, seed: int | None, rate: float, logs: Path | None, *, verbose: bool) -> None:
    """Delay, drop, repeat, garble and answer single messages between NATS and the processes, and look for losses."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}")
    started = time.monotonic()
    result = asyncio.run(experiment.run(seed, duration, rate=rate))
    faults = [str(fault) for fault in result.faults]
    if verbose:
        click.echo("\n".join(f"    {fault}" for fault in faults))
    if logs:
        _write(logs, faults, result.logs)
    _print(result, time.monotonic() - started)
    sys.exit(bool(result.problems))


def _print(result: Result, seconds: float) -> None:
    click.echo(
        f"  {len(result.faults)} faults: {_counted(experiment.by_name(result.faults))}\n"
        f"  {result.acknowledged} emails acknowledged, {result.events} messages settled, {result.queries} queries, "
        f"{result.unanswered} sends without an answer, {seconds:.0f} s\n"
        f"  other answers: {_counted(result.errors)}\n"
        f"  unexpected errors in the logs: {_counted(result.unexpected)}"
    )
    for problem in result.problems:
        click.secho(f"  {problem}", fg="red")
    click.echo(f"  {'FAILED' if result.problems else 'nothing was lost, doubled or miscounted'}")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "none"


def _write(directory: Path, faults: list[str], logs: Mapping[str, list[dict[str, object]]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "faults.log").write_text("\n".join(faults) + "\n")
    for name, lines in logs.items():
        (directory / f"{name.replace(' ', '-')}.log").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


if __name__ == "__main__":
    main()
