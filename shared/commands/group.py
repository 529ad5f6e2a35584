# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A program's group of commands. `serve` imports it, so it imports nothing slow."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from shared.commands import output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


LIKENESS: Final = 0.6  # of a name to that of a command; 1 is equal


class Group(output.GuardedHelp, click.Group):
    """Import a command only when it is called: `serve`, `--help` and the completion of names need none of them."""

    command_class = output.GuardedHelp

    def __init__(self, *args: Any, commands: Mapping[str, tuple[str, str]] | None = None, **more: Any) -> None:
        """Take `commands`: where each one is (`package.module:function`), and its short help."""
        super().__init__(*args, **more)
        self._not_imported = commands or {}

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run the program; the exit status is the same if its messages cannot be printed."""
        output.prepare_streams()
        if os.environ.get("NO_COLOR"):
            more.setdefault("color", False)
        run: Any = super().main  # its overloads do not accept any arguments
        if not standalone_mode:
            return run(*args, standalone_mode=False, **more)
        try:
            status = run(*args, standalone_mode=False, **more)
        except click.ClickException as error:
            output.show(error)
            status = error.exit_code
        except click.Abort:
            output.say("Aborted!")
            status = 1
        sys.exit(status)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self._not_imported})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import it."""
        if cmd_name not in self._not_imported:
            return super().get_command(ctx, cmd_name)
        module, _, function = self._not_imported[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), function)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; suggest a similar one if there is none."""
        name = args[0]
        if self.get_command(ctx, name) is None and name[:1].isalnum():
            similar = difflib.get_close_matches(name.lower(), self.list_commands(ctx), 3, LIKENESS)
            question = f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""
            ctx.fail(f"No such command {name!r}.{question}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._short_helps(ctx)))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command, without importing it, or an option of the group."""
        names = [
            CompletionItem(name, help=text) for name, text in self._short_helps(ctx) if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def _short_helps(self, ctx: click.Context) -> Iterator[tuple[str, str]]:
        for name in self.list_commands(ctx):
            if name in self._not_imported:
                yield name, self._not_imported[name][1]
            else:
                yield name, self.commands[name].get_short_help_str(limit=200)
