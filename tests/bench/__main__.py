# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`python -m tests.bench [SCENARIO ...]`: by default all scenarios except those that take minutes."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import uvloop
from msgspec.structs import replace

from tests.bench import compare, machine, scenarios, table
from tests.bench.machine import Machine  # noqa: TC001 - msgspec needs the types of a struct's fields
from tests.bench.options import Options
from tests.bench.row import Result  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULTS = Options()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the JSON file."""

    machine: Machine
    options: Options
    results: list[Result]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(scenarios.ALL)), metavar="[SCENARIO]...")
@click.option("--runs", default=DEFAULTS.runs, show_default=True, help="Number of measurements of each row, in turn.")
@click.option("--scale", default=DEFAULTS.scale, show_default=True, help="Factor for all counts.")
@click.option("--callers", default=DEFAULTS.callers, show_default=True, help="Number of concurrent callers.")
@click.option("--groups", default="100,1000,20000,100000", show_default=True, help="Sizes of groups for analytics.")
@click.option("--duration", default=DEFAULTS.duration, show_default=True, help="Seconds of the soak.")
@click.option("--records", default=DEFAULTS.records, show_default=True, help="Records of `growth` and `status_to`.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file.")
@click.option("--base", help="Compare this code with a git revision.")
@click.option(
    "--program",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Compare this code with an executable that serves all subjects, as the Go service does.",
)
def main(
    *,
    names: tuple[str, ...],
    groups: str,
    json_file: Path | None,
    base: str | None,
    program: Path | None,
    **given: float,
) -> None:
    """Measure the services, the raw limit and a naive version."""
    gc.disable()  # the load generator keeps many small objects until its end
    logging.basicConfig(handlers=[logging.NullHandler()])
    options = msgspec.convert({**given, "groups": groups.split(",")}, Options, strict=False)
    chosen = names or tuple(name for name in scenarios.ALL if name not in scenarios.ONLY_WHEN_ASKED)
    described = machine.describe()
    click.echo(f"{described}\n")
    if base:
        with compare.checked_out(base) as directory:
            uvloop.run(_compare(chosen, options, replace(options, code=directory)))
        return
    if program:
        uvloop.run(_compare(chosen, options, replace(options, program=program)))
        return
    results = uvloop.run(_measure(chosen, options))
    click.echo(table.markdown(results))
    if json_file:
        report = Report(machine=described, options=options, results=results)
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report, enc_hook=str)))


async def _measure(names: Sequence[str], options: Options) -> list[Result]:
    results: list[Result] = []
    for name in names:
        results.append(await scenarios.run(name, options))
        click.echo(table.plain(results[-1]))
    return results


async def _compare(names: Sequence[str], options: Options, base: Options) -> None:
    for name in names:
        click.echo(compare.summary(name, await compare.in_turn(name, options, base)))


if __name__ == "__main__":
    main()
