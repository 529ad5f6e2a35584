# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The commands of a program are listed without importing them, and the list shows the same text as their help."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from relay import cli as relay
from tracker import cli as tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_IMPORTED = {"asyncio", "msgspec", "nats", "relay.commands", "tracker.commands", "shared.commands.command"}


@pytest.mark.parametrize(
    ("program", "name"), [(program, name) for program in (relay, tracker) for name in program.COMMANDS]
)
def test_the_short_help_is_the_first_sentence_of_the_commands_help(program: Any, name: str) -> None:
    command = program.main.get_command(click.Context(program.main), name)
    assert program.COMMANDS[name][1] == command.get_short_help_str(limit=1000)


@pytest.mark.parametrize("program", [relay, tracker])
def test_each_short_help_is_one_line_of_80_columns(program: Any) -> None:
    lines = (
        CliRunner().invoke(program.main, ["--help"], terminal_width=80).stdout.partition("Commands:\n")[2].splitlines()
    )
    assert [line.split()[0] for line in lines] == program.main.list_commands(click.Context(program.main))
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statu"], "No such command 'statu'. Did you mean 'status'?"),
        (["suppression"], "No such command 'suppression'. Did you mean 'suppressions'?"),
        (["suppressions", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["zzz"], "No such command 'zzz'."),
    ],
)
def test_a_similar_command_is_suggested(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(tracker.main, arguments)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, f"Error: {message}")


@pytest.mark.parametrize(
    ("program", "listed"), [("relay", ["check", "send", "serve"]), ("tracker", ["analytics", "serve", "watch"])]
)
def test_the_list_of_commands_imports_none_of_them(program: str, listed: list[str]) -> None:
    output, imported = run_main(program, "--help", env={})
    assert [name for name in listed if f"\n  {name} " not in output] == []
    assert not imported & NOT_IMPORTED


def test_completing_the_name_of_a_command_imports_none_of_them() -> None:
    env = {"_LFX_COMPLETE": "zsh_complete", "COMP_WORDS": "lfx se", "COMP_CWORD": "1"}
    output, imported = run_main("relay", env=env)
    assert output.splitlines()[1::3] == ["send", "serve"]
    assert not imported & NOT_IMPORTED


def run_main(program: str, *arguments: str, env: Mapping[str, str]) -> tuple[str, set[str]]:
    """Run a program; return its output, and the modules that it has imported at its end."""
    code = (
        "import atexit, sys; from importlib import import_module;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        f"import_module('{program}.cli').main(prog_name='lfx')"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code, *arguments], env=dict(env), capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout, set(done.stderr.split())
