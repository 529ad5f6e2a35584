# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `check` prints, and how it ends: first the configuration, then each finding as soon as it is known."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

from shared import __version__, redaction
from shared.commands import command, formatting
from shared.commands.check import checkup
from shared.commands.check.checkup import Finding
from shared.service import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shared.commands.check.checkup import Probe, Verdict
    from shared.service.settings import S, Variable

    Plan = Callable[[S], Sequence[Probe]]

COLOURS: Final[dict[Verdict, str]] = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
ABOUT_WIDTH: Final = 26
SECRETS: Final = ("SECRET", "TOKEN", "PASSWORD")  # in the name of a variable that others read


class Report(msgspec.Struct, frozen=True):
    """All of it, for machines."""

    process: str
    version: str
    failed: bool
    configuration: list[settings.Variable]
    checks: list[Finding]


def run(process: str, kind: type[S], plan: Plan[S], *, others: Sequence[str], as_json: bool) -> None:
    """Check a process by its settings and a plan; end with status 1 if anything failed.

    `others` are the variables of libraries: shown where they are set.
    """
    config, variables = settings.describe(os.environ, kind)
    variables += _of_libraries(os.environ, others)
    if not as_json:
        rows = [(one.variable, one.value, one.error or one.source) for one in variables]
        command.print_table(rows, ("VARIABLE", "VALUE", "SOURCE"))
        click.echo()
    findings = command.run(_carried_out(_configuration(variables), plan(config), aloud=not as_json))
    failed = any(one.verdict == "failed" for one in findings)
    if as_json:
        command.print_json(Report(process, __version__, failed, variables, findings))
    sys.exit(int(failed))


async def _carried_out(findings: list[Finding], probes: Sequence[Probe], *, aloud: bool) -> list[Finding]:
    for finding in findings if aloud else ():
        _print(finding)
    async for finding in checkup.run(probes):
        findings.append(finding)
        if aloud:
            _print(finding)
    return findings


def _configuration(variables: Sequence[Variable]) -> list[Finding]:
    wrong = [one for one in variables if one.error]
    advice = "serve would not start; what follows is tried with the default"
    return [Finding("failed", "configuration", one.error, advice) for one in wrong]


def _of_libraries(environ: Mapping[str, str], names: Sequence[str]) -> list[Variable]:
    def shown(name: str) -> str:
        return "***" if any(word in name for word in SECRETS) else redaction.urls(environ[name])

    return [settings.Variable(name, shown(name), "environment") for name in names if environ.get(name)]


def _print(finding: Finding) -> None:
    verdict = click.style(f"{finding.verdict:8}", fg=COLOURS[finding.verdict])
    advice = f" -> {finding.advice}" if finding.advice else ""
    click.echo(f"{verdict} {finding.about:{ABOUT_WIDTH}} {formatting.printable(finding.found + advice)}")
