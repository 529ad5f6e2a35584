# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The page on the commands matches their help, and the shell completes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import pytest

from relay import cli as relay
from shared.commands import command
from tests.test_readme import page, rows
from tracker import cli as tracker

GROUPS: Final[dict[str, click.Group]] = {"lfx-email-relay": relay.main, "lfx-email-tracker": tracker.main}
PAGE: Final = "docs/commands.md"


def leaves(name: str, group: click.Group) -> dict[str, click.Command]:
    """Return each command by the words that call it."""
    found: dict[str, click.Command] = {}
    for word in group.list_commands(click.Context(group)):
        one = group.get_command(click.Context(group), word)
        assert one
        found |= leaves(f"{name} {word}", one) if isinstance(one, click.Group) else {f"{name} {word}": one}
    return found


COMMANDS: Final = {full: one for name, group in GROUPS.items() for full, one in leaves(name, group).items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_explains_each_option_and_shows_its_examples_as_lines(name: str) -> None:
    one = COMMANDS[name]
    assert [param.name for param in one.params if isinstance(param, click.Option) and not param.help] == []
    assert "\\b" not in one.get_help(click.Context(one))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_describes_each_command(name: str) -> None:
    program, *words = name.split()
    section = section_of(f"{program} {words[0]}")
    assert section, f"{PAGE} has no section '## {program} {words[0]}'"
    assert len(words) == 1 or f"| `{' '.join(words)}` |" in section


def test_each_section_of_the_page_names_a_command_and_options_of_its_help() -> None:
    for heading in re.findall(r"^## (lfx-.+)$", page(PAGE), re.MULTILINE):
        found = [one for name, one in COMMANDS.items() if f"{name} ".startswith(f"{heading} ")]
        assert found, heading
        known = {option for one in found for param in one.params for option in param.opts + param.secondary_opts}
        assert set(re.findall(r"`(--[a-z-]+)", section_of(heading))) <= known, heading


def section_of(heading: str) -> str:
    """Return the section of the page below a heading, or an empty text."""
    found = re.search(rf"^## {heading}$\n(.*?)(?=^## |\Z)", page(PAGE), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def test_the_page_and_the_help_have_the_same_exit_statuses() -> None:
    listed = {row["Exit status"]: row["Meaning"] for row in rows(page(PAGE)) if "Exit status" in row}
    for status, meaning in command.EXIT_CODES:
        assert listed[status].startswith(meaning.rstrip("."))


@pytest.mark.parametrize("name", GROUPS)
def test_bash_completes_commands_and_options(name: str) -> None:
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("bash is missing")
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    assert variable in page(PAGE)
    script = f"""
        eval "$({variable}=bash_source {name})"
        COMP_WORDS=({name} check --js) COMP_CWORD=2
        _{name.replace("-", "_")}_completion {name}
        echo "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run(  # noqa: S603 - our own script
        [bash, "--norc", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("--json\n", "")
