# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: standard output and standard error that lack a character, have no reader any more, or are full or closed.

`serve` imports it, so it imports nothing but click.
"""

from __future__ import annotations

import codecs
import io
import os
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
from click.exceptions import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator

CLEAR_LINE: Final = "\r\x1b[K"  # a bar may be in it


def prepare_streams() -> None:
    """Replace characters that an encoding lacks: with `?` on standard output, with an escape on standard error.

    If standard error is closed, discard messages.
    """
    sys.stdout = _lossy(sys.stdout, "replace")
    sys.stderr = _lossy(sys.stderr, "backslashreplace")
    if sys.stderr is None:  # else click prints errors on standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - a device, until the program ends


def _lossy(stream: Any, errors: str) -> Any:
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, _Ascii):
        return stream
    if codecs.lookup(stream.encoding).name != "ascii":
        stream.reconfigure(errors=errors)
        return stream
    line_buffering = stream.line_buffering
    return _Ascii(stream.detach(), "ascii", errors, line_buffering=line_buffering)


class _Ascii(io.TextIOWrapper):
    """A stream of ASCII. click writes UTF-8 to a stream whose encoding has the name ASCII."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has an attribute
        return "ascii with replacements"


class GuardedHelp(click.Command):
    """A command whose help, or version, may be written where it cannot be written."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read the arguments; `--help` and `--version` write already here."""
        with guarded():
            return super().make_context(*args, **more)


def columns() -> int | None:
    """Return the width of the terminal to which standard output goes; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None


@contextmanager
def guarded() -> Iterator[None]:
    """End with 0 if the reader has gone, and with 1 and one line on standard error if the output is not writable.

    Raises:
        Exit: the reader has gone, such as `head`.
        ClickException: the output cannot be written, or a file cannot be read.
    """
    try:
        yield
    except BrokenPipeError:
        discard_unwritten()
        raise Exit(0) from None
    except OSError as error:
        discard_unwritten()
        name = error.filename or "cannot read or write"
        raise click.ClickException(f"{name}: {error.strerror or str(error) or 'the operation failed'}") from error


@contextmanager
def without_reader() -> Iterator[None]:
    """Go on if the reader of standard output has gone: the command has more to do, or its exit status to set."""
    try:
        yield
    except BrokenPipeError:
        discard_unwritten()


def say(message: str) -> None:
    """Print a message on standard error; if that is not possible, nobody can be informed about it."""
    try:
        is_terminal = bool(sys.stderr) and sys.stderr.isatty()
        click.echo(f"{CLEAR_LINE if is_terminal else ''}{_escaped(message)}", err=True)
    except OSError:
        discard_unwritten()


def show(error: click.ClickException) -> None:
    """Print an error on standard error; if that is not possible, the exit status remains."""
    message = io.StringIO()
    error.show(message)
    try:
        click.echo(_escaped(message.getvalue()), err=True, nl=False)
    except OSError:
        discard_unwritten()


def _escaped(message: str) -> str:
    """Messages may quote a file of somebody else, or a server."""
    from shared.commands import formatting  # noqa: PLC0415 - `serve` does not need it

    return formatting.escaped(message, keep="\n")


def discard_unwritten() -> None:
    """Discard unwritten output; else Python tries to write it again at exit, and exits with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
                os.dup2(nowhere.fileno(), stream.fileno())
