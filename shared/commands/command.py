# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Common parts of all commands but `serve`: the connection, standard output and standard error, and exit statuses.

The answer goes to standard output and everything else to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from shared import error_texts, redaction
from shared.commands import caller, formatting, output
from shared.errors import (
    LoginRefused,
    NotPermitted,
    PublishDenied,
    ReplyDenied,
    RequestRefused,
    ServiceError,
    SetupIncomplete,
    StoreError,
)
from shared.nats import connection, credentials
from shared.service import settings, signals
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

EXIT_CODES: Final = (
    ("0", "Done."),
    ("1", "The answer is negative, or something failed."),
    ("2", "Wrong usage, or an environment variable with an invalid value."),
    ("3", "NATS or the service cannot be reached, or does not answer in time."),
)

NOT_PERMITTED: Final = (NotPermitted, LoginRefused, PublishDenied, ReplyDenied)
"""Errors of a NATS user without the permission, or without access: another try would not help."""

VARIABLES: Final = {"server": "NATS_URL", "creds": "NATS_CREDS"}
OVERRIDES: Final = "lfx.nats"

NICENESS: Final = 10  # a process with it gets a tenth of the time of one without it

NOTICE_SECONDS: Final = 1.0  # of connecting, after which the user is informed

EVENTS: Final = {
    "nats.disconnected": "The connection to NATS was lost. Connecting again ...",
    "nats.reconnected": "Connected to NATS again.",
    "nats.error": "NATS",
    "nats.denied": "Not permitted",
    "nats.permitted": "Permitted again",
}
"""The log events of the connection, as words for the user of a command."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")

T = TypeVar("T")


class Failed(click.ClickException):
    """The answer is negative, or something failed: one line on standard error."""

    exit_code = 1


class WrongUsage(click.ClickException):
    """A variable or a file is not valid. Unlike click's UsageError it shows no hint about the options."""

    exit_code = 2


class Unreachable(click.ClickException):
    """NATS or the service cannot be reached, or does not answer in time."""

    exit_code = 3


class Seconds(click.FloatRange):
    """A number of seconds. Refuses `nan`, which click finds within any range, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert the value of an option."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


class HiddenArgument(click.Argument):
    """An older way to give an option, which is not in the help."""

    def get_usage_pieces(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base class passes it
        """Return nothing for the line of usage."""
        return []


def _override(ctx: click.Context, option: click.Parameter, given: str | None) -> None:
    if given:
        ctx.meta.setdefault(OVERRIDES, {})[VARIABLES[str(option.name)]] = given


def connection_options() -> list[click.Parameter]:
    """Return the options of the `nats` CLI that replace variables; each command has them."""
    return [
        click.Option(
            ["-s", "--server"], metavar="URL", expose_value=False, callback=_override, help="Instead of NATS_URL."
        ),
        click.Option(
            ["--creds"], metavar="FILE", expose_value=False, callback=_override, help="Instead of NATS_CREDS."
        ),
    ]


def overrides() -> dict[str, str]:
    """Return the variables that the options `--server` and `--creds` replace."""
    context = click.get_current_context(silent=True)
    return context.meta.get(OVERRIDES, {}) if context else {}


def environ() -> dict[str, str]:
    """Return the variables of the environment, as the options replace them, or the files that hold their values."""
    given = overrides()
    replaced = {f"{variable}_FILE" for variable in given}
    return {name: value for name, value in os.environ.items() if name not in replaced} | given


class Command(output.GuardedHelp):
    """A command that reports each of our errors as one line on standard error, with the exit status for it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Add the options that all commands have."""
        super().__init__(*args, **more)
        self.params += connection_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an argument that is not UTF-8: Python reads it as half characters, which can't be sent or printed."""
        for one in args:
            try:
                one.encode()
            except UnicodeEncodeError:
                raise click.UsageError(f"an argument is not UTF-8: {one!r}", ctx) from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn our errors into exit statuses."""
        signals.end_as_usual()
        try:
            with output.guarded():
                return super().invoke(ctx)
        except SettingsError as error:
            raise WrongUsage(str(error)) from error
        except RequestRefused as error:
            raise Failed(str(error)) from error
        except SetupIncomplete as error:
            raise Failed(f"{error}: {error.advice}") from error
        except NOT_PERMITTED as error:
            raise Failed(str(error)) from error
        except (ServiceError, StoreError) as error:
            raise Unreachable(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(signals.SIGNALLED + 2)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the exit statuses at the end of the help."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit status"):
            formatter.write_dl(EXIT_CODES)


def give_way() -> None:
    """Let the services on this machine go first, for a command that reads a whole bucket. Not undone."""
    if threading.current_thread() is threading.main_thread():  # else the command is not the whole process
        with suppress(OSError):
            os.nice(NICENESS)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command; a signal cancels it and sets the exit status."""
    logging.getLogger().addHandler(logging.NullHandler())  # a command reports failures itself, not in log lines
    return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task
    with signals.cancelling(task, asyncio.get_running_loop()) as came:
        try:
            return await work
        except asyncio.CancelledError:
            if came:
                sys.exit(signals.SIGNALLED + came[0])
            raise


@asynccontextmanager
async def connected(name: str) -> AsyncIterator[caller.Caller]:
    """Connect to the NATS server of the environment for as long as the block runs.

    Raises:
        SettingsError: NATS_URL or NATS_CREDS has an invalid value.
        ServiceUnreachable: no NATS server answered in time.
    """
    config = settings.load(environ(), settings.NatsSettings)
    if config.nats_creds and (problem := credentials.problem(config.nats_creds)):
        raise settings.SettingsError(f"NATS_CREDS: {problem}")
    servers = redaction.urls(config.nats_url)
    slow = asyncio.get_running_loop().call_later(NOTICE_SECONDS, say, f"Connecting to {servers} ...")
    async with connection.opened(config, name, patience_seconds=caller.PATIENCE_SECONDS) as opened:
        slow.cancel()
        with _log_on_standard_error():  # not earlier: ServiceUnreachable has the reason why there was no connection
            yield caller.Caller(opened)


@contextmanager
def _log_on_standard_error() -> Iterator[None]:
    """Show warnings, and also that the connection to NATS or a permission was lost or restored."""
    handler, of_nats = _StandardErrorHandler(logging.INFO), logging.getLogger(connection.__package__)
    logging.getLogger().addHandler(handler)
    of_nats.setLevel(logging.INFO)
    try:
        yield
    finally:
        of_nats.setLevel(logging.NOTSET)
        logging.getLogger().removeHandler(handler)


class _StandardErrorHandler(logging.Handler):
    """Writes a log record as one line: its event in words, and its error if it has one."""

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage()
        error = error_texts.reworded(str(getattr(record, "error", "")))
        message = ": ".join(filter(None, (EVENTS.get(event, event), error)))
        say(redaction.secrets(message))


def print_json(value: object) -> None:
    """Print one JSON document as one line, and flush: the reader of a stream of them waits for it."""
    click.echo(msgspec.json.encode(value))


def print_table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> None:
    """Print aligned columns; below a head, long cells are cut to fit the terminal."""
    click.echo(formatting.table(rows, head, output.columns() if head else None))


def say(message: str) -> None:
    """Print a message that is not part of the answer."""
    output.say(message)
