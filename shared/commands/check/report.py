# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Prints the configuration, then each finding as it comes in, and sets the exit status of `check`."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

import click
import msgspec

from shared import __version__, redaction
from shared.commands import command, formatting, output
from shared.commands.check import checks
from shared.commands.check.checks import Finding
from shared.service import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shared.commands.check.checks import Check, Plan, Status
    from shared.service.settings import S, Variable

CONFIGURATION: Final = "configuration"
VALID_CONFIGURATION: Final = Finding("ok", CONFIGURATION, "all variables are valid, also together")
COLOURS: Final[dict[Status, str]] = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
INDENT: Final = 9  # of the lines below a status
ABOUT_WIDTH: Final = 26
SECRET_WORDS: Final = ("SECRET", "TOKEN", "PASSWORD")


class Report(msgspec.Struct, frozen=True):
    """The output of `check --json`."""

    process: str
    version: str
    failed: bool
    configuration: list[settings.Variable]
    checks: list[Finding]


def run(
    process: str, kind: type[S], plan: Callable[[S], Plan], *, library_variables: Sequence[str], as_json: bool
) -> None:
    """Check a process with its settings; exit with status 1 if any check failed.

    `library_variables` are not settings of ours; those that are set are shown.
    """
    config, variables = settings.describe(command.environ(), kind)
    variables = [
        msgspec.structs.replace(one, source="option") if one.variable in command.overrides() else one
        for one in variables
    ]
    variables += _of_libraries(command.environ(), library_variables)
    if not as_json:
        rows = [(one.variable, one.value, one.error or one.source) for one in variables]
        command.print_table(rows, ("VARIABLE", "VALUE", "SOURCE"))
        click.echo()
    planned = plan(config)
    findings = command.run(_run(_invalid(variables) + planned.findings, planned.checks, printing=not as_json))
    failed = any(one.status == "failed" for one in findings)
    if not as_json:
        click.echo(f"\n{summary(findings)}")
    else:
        command.print_json(Report(process, __version__, failed, variables, findings))
    sys.exit(int(failed))


async def _run(findings: list[Finding], to_run: Sequence[Check], *, printing: bool) -> list[Finding]:
    for finding in findings if printing else ():
        _print(finding)
    async for finding in checks.run(to_run):
        findings.append(finding)
        if printing:
            _print(finding)
    return findings


def _invalid(variables: Sequence[Variable]) -> list[Finding]:
    advice = "serve would not start; the checks below use the default"
    return [Finding("failed", CONFIGURATION, one.error, advice) for one in variables if one.error]


def _of_libraries(environ: Mapping[str, str], names: Sequence[str]) -> list[Variable]:
    def shown(name: str) -> str:
        return "***" if any(word in name for word in SECRET_WORDS) else redaction.urls(environ[name])

    return [settings.Variable(name, shown(name), "environment") for name in names if environ.get(name)]


def _print(finding: Finding) -> None:
    status = click.style(f"{finding.status:8}", fg=COLOURS[finding.status])
    head = f"{status} {finding.about:{ABOUT_WIDTH - 1}}"
    click.echo(formatting.hanging(head, formatting.printable(finding.found), INDENT, output.columns()))
    if finding.advice:
        advice = f"-> {formatting.printable(finding.advice)}"
        click.echo(formatting.hanging(" " * (INDENT - 2), advice, INDENT + 3, output.columns()))


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each status: `6 ok, 1 warning, 1 failed`."""
    counts = Counter(finding.status for finding in findings)
    return ", ".join(
        f"{count} {'warnings' if status == 'warning' and count > 1 else status}"
        for status in COLOURS
        if (count := counts[status])
    )
