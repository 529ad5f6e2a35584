# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A command ends with one clear line and the status that fits, whatever NATS and the services do."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import nats
import pytest
import pytest_asyncio
from click.testing import CliRunner

from shared import contract
from shared.commands import caller, command
from tests.stack import nats_server as nats_servers
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from click.testing import Result
    from nats.aio.msg import Msg

    from tests.stack.nats_server import NatsServer

SUBJECT = contract.GET_EMAIL_STATUS_SUBJECT
USERS = """
authorization { users: [
  { user: mute, password: s3cret, permissions: { publish: "another", subscribe: "_INBOX.>" } }
  { user: deaf, password: s3cret, permissions: { publish: "lfx.>", subscribe: "another" } }
] }
"""


class Sum(msgspec.Struct):
    """An answer."""

    total: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[NatsServer]:
    """A nats-server for all tests here."""
    async with nats_servers.running() as running:
        yield running


@click.group(
    cls=command.Group,
    rooms={"ask": f"{__name__}:ask", "wait": f"{__name__}:wait"},
)
def main() -> None:
    """A program of two commands."""


@click.command(cls=command.Command)
@click.option("--patience", default=0.2)
@command.json_option
def ask(patience: float, *, as_json: bool) -> None:
    """Ask the service for a sum."""

    async def work() -> Sum:
        async with command.connected("tests") as asking:
            request = contract.GetEmailStatusRequest(email_id="e")
            return await asking.ask(SUBJECT, request, Sum, timeout=patience)

    answer = command.run(work())
    if as_json:
        command.print_json(answer)
    else:
        command.print_table([("total", answer.total)])


@click.command(cls=command.Command)
def wait() -> None:
    """Wait for a signal."""

    async def work() -> None:
        click.echo("waiting")
        await asyncio.Event().wait()

    command.run(work())


async def run(*arguments: str, env: Mapping[str, str]) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)


async def answered(server: NatsServer, reply: bytes | None, *arguments: str) -> Result:
    """Run `ask` where the service gives this reply, or none."""

    async def on_message(msg: Msg) -> None:
        if reply is not None:
            await msg.respond(reply)

    async with await nats.connect(server.url) as service:
        await service.subscribe(SUBJECT, cb=on_message)
        await service.flush()
        return await run("ask", *arguments, env={"NATS_URL": server.url})


async def test_the_answer_is_a_table_or_one_json_document(server: NatsServer) -> None:
    for_people = await answered(server, b'{"total": 3, "more": 1}')
    assert (for_people.exit_code, for_people.output) == (0, "total  3\n")
    for_machines = await answered(server, b'{"total": 3}', "--json")
    assert json.loads(for_machines.stdout) == {"total": 3}


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        (b'{"error": "not found"}', 1, "not found"),
        (b'{"error": "recipient suppressed", "reason": "bounce"}', 1, "recipient suppressed (bounce)"),
        (None, 3, f"no answer from {SUBJECT} within 0.2 s"),
        (b"", 3, f"{SUBJECT}: the answer cannot be read: Input data was truncated"),
        (b'{"total": "many"}', 3, "the answer cannot be read: Expected `int`, got `str`"),
        (b'{"error": 5}', 3, "the answer cannot be read"),
    ],
)
async def test_a_bad_answer_is_one_line_and_a_status(
    server: NatsServer, reply: bytes | None, status: int, said: str
) -> None:
    result = await answered(server, reply)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


async def test_a_subject_that_nobody_serves_is_status_3(server: NatsServer) -> None:
    result = await run("ask", env={"NATS_URL": server.url})
    assert (result.exit_code, result.stderr) == (
        3,
        f"Error: nobody serves {SUBJECT}: is the service running, on this NATS?\n",
    )


@pytest.mark.parametrize(
    ("user", "said"), [("mute", f"may not publish to {SUBJECT}"), ("deaf", "may not subscribe to _inbox.")]
)
async def test_what_the_user_may_not_do_is_told_at_once(user: str, said: str) -> None:
    async with nats_servers.running(USERS) as server:
        url = server.url.replace("//", f"//{user}:s3cret@")
        result = await run("ask", "--patience", "10", env={"NATS_URL": url})
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith(f"Error: the NATS user {said}")


async def test_nats_that_is_not_there_is_status_3_and_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.2)
    port = free_port()
    result = await run("ask", env={"NATS_URL": f"nats://relay:s3cret@127.0.0.1:{port}"})
    assert result.exit_code == 3
    assert result.stderr.startswith(f"Error: cannot connect to NATS at nats://***@127.0.0.1:{port}: ")
    assert "refused" in result.stderr.lower() or "Connect call failed" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize("env", [{"NATS_URL": "http://localhost"}, {"NATS_URL": ","}])
async def test_a_variable_that_means_nothing_is_status_2(env: Mapping[str, str]) -> None:
    result = await run("ask", env=env)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: NATS_URL: ")


@pytest.mark.parametrize("arguments", [("wait", "\udcff"), ("ask", "--patience=\udcff")])
def test_an_argument_that_is_not_utf8_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: an argument is not UTF-8: {arguments[-1]!r}"


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "soon", "0", "-1"])
def test_a_while_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        command.Seconds(min=0, min_open=True).convert(text, None, None)


def test_help_names_each_command_and_the_exit_statuses() -> None:
    assert "ask " in CliRunner().invoke(main, ["--help"]).output
    text = CliRunner().invoke(main, ["ask", "--help"]).output
    for status, meaning in command.EXIT_CODES:
        assert f"  {status}  {meaning}" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_a_word(number: signal.Signals) -> None:
    code = f"from shared.service import signals; signals.exit_at_once(); from {__name__} import main; main()"
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", code, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (128 + number, b"", b"")


def test_an_output_that_cannot_be_written_is_one_line_and_status_1() -> None:
    code = f"from {__name__} import main; main()"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code, "wait"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=20
        )
    assert (done.returncode, done.stderr) == (1, b"Error: cannot read or write: No space left on device\n")


def test_a_reader_that_leaves_early_is_no_failure_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(click, "echo", gone)
    result = CliRunner().invoke(wait)
    assert (result.exit_code, result.stderr) == (1, "")
