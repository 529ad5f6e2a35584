# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the commands have in common, beside `serve`: they ask, print and end, with an exit status that says how.

The answer goes to standard output and everything else to standard error. Imports nothing that `serve` does not need.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shared.errors import BucketMissing, RequestRefused, ServiceError, StoreError
from shared.service import signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence

    from shared.commands.caller import Caller

EXIT_CODES: Final = (
    ("0", "Done."),
    ("1", "The answer is negative, or something failed."),
    ("2", "Wrong usage, or a variable that means nothing."),
    ("3", "NATS or the service cannot be reached, or does not answer in time."),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")

T = TypeVar("T")


class Failed(click.ClickException):
    """The answer is negative, or something failed: one line on standard error."""

    exit_code = 1


class WrongUsage(click.ClickException):
    """A variable or a file means nothing; unlike click's UsageError it is no matter of the options."""

    exit_code = 2


class Unreachable(click.ClickException):
    """NATS or the service cannot be reached, or does not answer in time."""

    exit_code = 3


class Seconds(click.FloatRange):
    """A while; `nan`, which is in any range, and `inf` are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Group(click.Group):
    """A group whose commands are imported when they are asked for, so that `serve` waits for none of them."""

    def __init__(self, *args: Any, rooms: Mapping[str, str], **more: Any) -> None:
        """Take `rooms`: where each command lies, `name: package.module:function`."""
        super().__init__(*args, **more)
        self._rooms = rooms

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all commands."""
        return sorted({*super().list_commands(ctx), *self._rooms})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._rooms:
            return super().get_command(ctx, cmd_name)
        module, _, function = self._rooms[cmd_name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), function)
        return found


class Command(click.Command):
    """A command that ends with one clear line on standard error where it has to, and with the status that fits."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is not UTF-8: it comes as half characters, which can be neither sent nor printed."""
        for one in args:
            try:
                one.encode()
            except UnicodeEncodeError:
                raise click.UsageError(f"an argument is not UTF-8: {one!r}", ctx) from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; turn our errors into exit statuses."""
        from shared.service.settings import SettingsError  # noqa: PLC0415 - not before a command runs

        signals.end_as_usual()
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise WrongUsage(str(error)) from error
        except RequestRefused as error:
            raise Failed(str(error)) from error
        except BucketMissing as error:
            raise Failed(f"{error}: {error.advice}") from error
        except (ServiceError, StoreError) as error:
            raise Unreachable(str(error)) from error
        except BrokenPipeError:
            raise  # whoever reads has seen enough; click ends without a word
        except OSError as error:
            _give_up_output()
            raise Failed(_why(error)) from error
        except KeyboardInterrupt:
            sys.exit(signals.SIGNALLED + 2)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Tell the exit statuses below everything else."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit status"):
            formatter.write_dl(EXIT_CODES)


def _why(error: OSError) -> str:
    return f"{error.filename or 'cannot read or write'}: {error.strerror or repr(error)}"


def _give_up_output() -> None:
    """Throw away what standard output does not take; else Python would try again at its end, and end with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - no path, but a device
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what a command does; a signal cancels it, and the process ends with the status that says so."""
    import asyncio  # noqa: PLC0415 - 30 ms that --help and completion do without

    logging.getLogger().addHandler(logging.NullHandler())  # our edges log; a command says by itself what went wrong
    return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    import asyncio  # noqa: PLC0415 - as above

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
async def connected(name: str) -> AsyncIterator[Caller]:
    """Connect to the NATS of the environment, for as long as the block lasts.

    Raises:
        SettingsError: NATS_URL or NATS_CREDS means nothing.
        ServiceUnreachable: no NATS server in time.
    """
    from shared.commands import caller  # noqa: PLC0415 - not before a command runs
    from shared.nats import connection  # noqa: PLC0415 - not before a command runs
    from shared.service import settings  # noqa: PLC0415 - not before a command runs

    async with caller.connected(settings.load(os.environ, settings.NatsSettings), name) as asking:
        told = _ToPeople(logging.INFO)  # only now: why there was no server is in the exception
        logging.getLogger().addHandler(told)
        logging.getLogger(connection.__name__).setLevel(logging.INFO)  # of the others only what is a warning
        try:
            yield asking
        finally:
            logging.getLogger(connection.__name__).setLevel(logging.NOTSET)
            logging.getLogger().removeHandler(told)


class _ToPeople(logging.Handler):
    """What our edges log while a command works, such as a connection that is lost or back, as a line for people."""

    def emit(self, record: logging.LogRecord) -> None:
        why = getattr(record, "error", "")
        say(f"{record.getMessage()}: {why}" if why else record.getMessage())


def print_json(value: object) -> None:
    """Print one JSON document as one line, at once: whoever reads a stream of them waits for it."""
    import msgspec  # noqa: PLC0415 - not before a command runs

    click.echo(msgspec.json.encode(value))


def print_table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> None:
    """Print aligned columns."""
    from shared.commands import formatting  # noqa: PLC0415 - not before a command runs

    click.echo(formatting.render(rows, head))


def say(message: str) -> None:
    """Tell people something that is no part of the answer."""
    click.echo(message, err=True)
