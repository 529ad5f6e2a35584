# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A command ends with the right exit status and at most one line on standard error."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
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
from tests.stack.nats_flush import flush
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


@click.group()
def main() -> None:
    """A program with two commands."""


@main.command(cls=command.Command)
@click.option("--patience", default=0.2)
@command.json_option
def ask(patience: float, *, as_json: bool) -> None:
    """Ask the service for a sum."""

    async def work() -> Sum:
        async with command.connected("tests") as service:
            request = contract.GetEmailStatusRequest(email_id="e")
            return await service.ask(SUBJECT, request, Sum, timeout=patience)

    answer = command.run(work())
    if as_json:
        command.print_json(answer)
    else:
        command.print_table([("total", answer.total)])


@main.command(cls=command.Command)
def wait() -> None:
    """Wait for a signal."""

    async def work() -> None:
        click.echo("waiting")
        await asyncio.Event().wait()

    command.run(work())


async def run(*arguments: str, env: Mapping[str, str]) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)


async def answered(server: NatsServer, reply: bytes | None, *arguments: str) -> Result:
    """Run `ask` while a service answers with this reply, or does not answer."""

    async def on_message(msg: Msg) -> None:
        if reply is not None:
            await msg.respond(reply)

    async with await nats.connect(server.url) as service:
        await service.subscribe(SUBJECT, cb=on_message)
        await flush(service)
        return await run("ask", *arguments, env={"NATS_URL": server.url})


async def test_the_answer_is_a_table_or_one_json_document(server: NatsServer) -> None:
    as_table = await answered(server, b'{"total": 3, "more": 1}')
    assert (as_table.exit_code, as_table.output) == (0, "total  3\n")
    as_json = await answered(server, b'{"total": 3}', "--json")
    assert json.loads(as_json.stdout) == {"total": 3}


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (b'{"error": "not found"}', 1, "not found"),
        (b'{"error": "recipient suppressed", "reason": "bounce"}', 1, "recipient suppressed (bounce)"),
        (None, 3, f"no answer from {SUBJECT} within 0.2 s"),
        (b"", 3, f"{SUBJECT}: the answer cannot be decoded: it is empty, or cut off"),
        (b'{"total": "many"}', 3, "the answer cannot be decoded: total is not a whole number"),
        (b'{"error": 5}', 3, "the answer cannot be decoded"),
    ],
)
async def test_an_error_or_an_invalid_answer_is_one_line_and_an_exit_status(
    server: NatsServer, reply: bytes | None, status: int, message: str
) -> None:
    result = await answered(server, reply)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


async def test_options_of_the_nats_cli_replace_the_variables(server: NatsServer) -> None:
    async def answer(msg: Msg) -> None:
        await msg.respond(b'{"total": 3}')

    async with await nats.connect(server.url) as service:
        await service.subscribe(SUBJECT, cb=answer)
        await flush(service)
        for option in ("-s", "--server"):
            assert (await run("ask", option, server.url, env={"NATS_URL": "nats://127.0.0.1:1"})).output == "total  3\n"


async def test_a_credentials_file_of_the_option_is_used(server: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    result = await run("ask", "--creds", str(file), env={"NATS_URL": server.url, "NATS_CREDS": "/another"})
    assert (result.exit_code, result.stderr) == (2, f"Error: NATS_CREDS: {file}: No such file or directory\n")


async def test_a_subject_without_a_service_is_status_3(server: NatsServer) -> None:
    result = await run("ask", env={"NATS_URL": server.url})
    assert (result.exit_code, result.stderr) == (
        3,
        f"Error: no service answers on {SUBJECT}: is it running, with the same NATS_URL?\n",
    )


@pytest.mark.parametrize(
    ("user", "denial"), [("mute", f"may not publish to {SUBJECT}"), ("deaf", "may not subscribe to _INBOX.")]
)
async def test_a_missing_permission_is_reported_at_once(user: str, denial: str) -> None:
    async with nats_servers.running(USERS) as server:
        url = server.url.replace("//", f"//{user}:s3cret@")
        result = await run("ask", "--patience", "10", env={"NATS_URL": url})
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"Error: the NATS user {denial}")


async def test_a_refused_connection_fails_at_once_and_no_password_is_shown() -> None:
    port = free_port()
    result = await run("ask", env={"NATS_URL": f"nats://relay:s3cret@127.0.0.1:{port}"})
    assert result.exit_code == 3
    assert (
        result.stderr
        == f"Error: cannot connect to NATS at nats://***@127.0.0.1:{port}: connection refused: 127.0.0.1:{port}\n"
    )


async def test_a_refused_login_fails_at_once_with_status_1() -> None:
    async with nats_servers.running(USERS) as server:
        result = await run("ask", env={"NATS_URL": server.url.replace("//", "//mute:wr0ng@")})
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(": the login was refused")


async def test_a_connection_that_takes_long_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(caller, "PATIENCE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = await run("ask", env={"NATS_URL": f"nats://u:s3cret@127.0.0.1:{port}"})
    assert result.exit_code == 3
    first, *_, last = result.stderr.splitlines()
    assert first == f"Connecting to nats://***@127.0.0.1:{port} ..."
    assert last.endswith(": no answer")


@pytest.mark.parametrize("env", [{"NATS_URL": "http://localhost"}, {"NATS_URL": ","}])
async def test_an_invalid_variable_is_status_2(env: Mapping[str, str]) -> None:
    result = await run("ask", env=env)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: NATS_URL: ")


@pytest.mark.parametrize("arguments", [("wait", "\udcff"), ("ask", "--patience=\udcff")])
def test_an_argument_that_is_not_utf8_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: an argument is not UTF-8: {arguments[-1]!r}"


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "soon", "0", "-1"])
def test_an_invalid_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        command.Seconds(min=0, min_open=True).convert(text, None, None)


def test_the_help_of_a_command_lists_the_exit_statuses() -> None:
    text = CliRunner().invoke(main, ["ask", "--help"]).output
    for status, meaning in command.EXIT_CODES:
        assert f"  {status}  {meaning}" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_without_a_message(number: signal.Signals) -> None:
    code = f"from shared.service import signals; signals.exit_at_once(); from {__name__} import main; main()"
    with subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", code, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (128 + number, b"", b"")


def test_output_that_cannot_be_written_is_one_line_and_status_1() -> None:
    code = f"from {__name__} import main; main()"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code, "wait"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=20
        )
    assert (done.returncode, done.stderr) == (1, b"Error: cannot read or write: No space left on device\n")


def test_a_reader_that_closes_the_pipe_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(click, "echo", closed)
    result = CliRunner().invoke(wait)
    assert (result.exit_code, result.stderr) == (0, "")


async def test_a_command_that_reads_a_whole_bucket_lowers_its_priority_if_it_is_the_whole_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lowered: list[int] = []
    monkeypatch.setattr("os.nice", lowered.append)
    await asyncio.to_thread(command.give_way)
    assert lowered == []
    command.give_way()
    assert lowered == [command.NICENESS]
