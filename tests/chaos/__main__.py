# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`python -m tests.chaos [EXPERIMENT ...]`: all of them if none is named."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from typing import TYPE_CHECKING

import click

from tests.chaos import experiment, push_events

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.chaos.experiment import Result

EXPERIMENTS = ("with-keys", "without-keys", "roll-out", "push-events")
COUNTED = {"push-events": "push events in the stream"}
PUSH_EVENTS, KILLS = 10_000, 100


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(EXPERIMENTS), metavar="[EXPERIMENT]...")
@click.option("--duration", default=90.0, show_default=True, help="Seconds of disorder.")
@click.option("--restarts", default=30, show_default=True, help="Restarts of the roll-out.")
@click.option("--seed", type=int, help="Repeat the order of an earlier run.")
@click.option("--verbose", is_flag=True, help="Print each kill, pause and restart.")
def main(names: tuple[str, ...], duration: float, restarts: int, seed: int | None, *, verbose: bool) -> None:
    """Kill, pause and restart NATS nodes, relays and trackers under load, and look for what was lost."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    failed = False
    for name in names or EXPERIMENTS:
        click.echo(f"{name}: seed {seed}")
        started = time.monotonic()
        result = asyncio.run(_run(name, seed, duration, restarts, verbose=verbose))
        errors = ", ".join(f"{count} x {error}" for error, count in result.errors.items())
        click.echo(
            f"  {result.acknowledged} {COUNTED.get(name, 'emails acknowledged')}, "
            f"{result.restarts} restarts of processes, "
            f"{result.unanswered} requests without an answer, {time.monotonic() - started:.0f} s"
        )
        click.echo(f"  other answers: {errors or 'none'}")
        for problem in result.problems:
            click.secho(f"  {problem}", fg="red")
        click.echo(f"  {'FAILED' if result.problems else 'nothing was lost, doubled or miscounted'}")
        failed = failed or bool(result.problems)
    sys.exit(failed)


def _run(name: str, seed: int, duration: float, restarts: int, *, verbose: bool) -> Coroutine[object, object, Result]:
    def report(what: str) -> None:
        if verbose:
            click.echo(f"    {what}")

    match name:
        case "with-keys":
            return experiment.with_keys(seed, duration, report)
        case "without-keys":
            return experiment.without_keys(seed, duration, report)
        case "push-events":
            return push_events.run(seed, PUSH_EVENTS, KILLS, report)
        case _:
            return experiment.roll_out(restarts, report)


if __name__ == "__main__":
    main()
