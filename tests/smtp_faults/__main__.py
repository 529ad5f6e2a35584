# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`python -m tests.smtp_faults`: one experiment with a seed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from typing import TYPE_CHECKING

import click
import uvloop

from tests.smtp_faults import experiment

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command()
@click.option("--count", default=10_000, show_default=True, help="Emails to send.")
@click.option("--seed", type=int, help="Repeat the faults of an earlier run.")
@click.option("--rate", default=experiment.RATE, show_default=True, help="The probability of a fault at each step.")
@click.option("--pipelining/--single-commands", default=True, show_default=True, help="Offer PIPELINING.")
def main(count: int, seed: int | None, rate: float, *, pipelining: bool) -> None:
    """Send emails over a mail server that misbehaves, and compare each reply with the mails of the server."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    click.echo(f"seed {seed}")
    started = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(experiment.run(seed, count, is_pipelined=pipelining, rate=rate))
    click.echo(f"  faults: {_counted(result.faults)}")
    click.echo(f"  replies: {_counted(result.replies)}, {time.monotonic() - started:.0f} s")
    for problem in result.problems:
        click.secho(f"  {problem}", fg="red")
    click.echo(f"  {'FAILED' if result.problems else 'each reply is true'}")
    sys.exit(bool(result.problems))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    main()
