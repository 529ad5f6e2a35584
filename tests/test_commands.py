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
OF_ALL: Final = {one for option in command.connection_options() for one in option.opts if one.startswith("--")}
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
def test_the_page_has_a_section_for_each_command_with_the_options_of_its_help(name: str) -> None:
    section = re.search(rf"^## {name}(?: .*)?$\n(.*?)(?=^## |\Z)", page(PAGE), re.MULTILINE | re.DOTALL)
    assert section, f"{PAGE} has no section '## {name}'"
    listed = {word for row in rows(section[1]) for word in re.findall(r"--[a-z-]+", row.get("Option", ""))}
    options = {one for param in COMMANDS[name].params for one in param.opts if one.startswith("--")}
    common = OF_ALL if isinstance(COMMANDS[name], command.Command) else set()
    assert listed | common == options


def test_the_options_of_all_commands_are_listed_once() -> None:
    introduction = page(PAGE).partition("\n## ")[0]
    listed = {word for row in rows(introduction) for word in re.findall(r"--[a-z-]+", row.get("Option", ""))}
    assert listed == OF_ALL


def test_each_section_of_the_page_has_a_command() -> None:
    headings = re.findall(r"^## (lfx-\S+(?: [a-z-]+)+)", page(PAGE), re.MULTILINE)
    assert set(headings) == set(COMMANDS)


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
