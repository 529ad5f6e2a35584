# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`send` sends one email through the running relay, and prints its ids."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.relay.commands.sending import SCRIPT, service

if TYPE_CHECKING:
    from tests.relay.commands.sending import Folder
    from tests.stack.nats_server import NatsServer


async def test_every_option_is_a_field_of_the_request(nats_server: NatsServer, folder: Folder) -> None:
    options = ["--to", "Ada <a@b.org>", "--subject", "Hi {x}", "--from", "c@d.org", "--reply-to", "e@f.org"]
    async with service(nats_server) as relay:
        more = ["--unsubscribe-url", "https://b.org/u", "--idempotency-key", "k", "--tag", "a=1", "--tag", "b=x=y"]
        result = await folder.send(*options, "--group-id", "g", "--from-display-name", "C", *more, *folder.bodies)
        assert (result.exit_code, result.output) == (0, "email_id  id-Ada <a@b.org>\ngroup_id  g\n")
        from_stdin = await folder.send(*options, "--html", "-", *folder.bodies[2:], "--json", text="<b>")
    assert json.loads(from_stdin.stdout) == {"email_id": "id-Ada <a@b.org>", "group_id": "new"}
    fields = {"to": "Ada <a@b.org>", "subject": "Hi {x}", "from": "c@d.org", "reply_to": "e@f.org"}
    bodies = {"html": "<p>Hello {name}</p>", "text": "Hello {name}"}
    beyond = {"unsubscribe_url": "https://b.org/u", "idempotency_key": "k", "tags": {"a": "1", "b": "x=y"}}
    assert relay.requests[0] == fields | bodies | beyond | {"group_id": "g", "from_display_name": "C"}
    assert relay.requests[1] == fields | bodies | {"html": "<b>"}


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf<b>\xef\xbb\xbf", "<b>".encode("utf-16"), b"<b>"])
async def test_a_byte_order_mark_on_standard_input_is_not_sent(
    nats_server: NatsServer, folder: Folder, content: bytes
) -> None:
    async with service(nats_server) as relay:
        result = await folder.send(*folder.one, "--text", "-", text=content)
    assert (result.exit_code, relay.requests[0]["text"]) == (0, "<b>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf", "--text is empty"),
        (b"a\n\xe4", "--text: line 2: byte 0xe4 is not UTF-8"),
        ("a".encode("utf-16-le"), "--text: line 1: this is UTF-16 without a byte order mark"),
    ],
)
async def test_a_body_that_is_not_text_is_wrong_usage(folder: Folder, content: bytes, message: str) -> None:
    result = await folder.send(*folder.one, "--text", "-", text=content)
    assert (result.exit_code, message in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        ({"error": "recipient suppressed", "reason": "bounce"}, 1, "recipient suppressed (bounce)"),
        ({"email_id": "", "group_id": ""}, 1, "outside SMTP_ALLOWED_RECIPIENT_DOMAINS"),
        (None, 3, "no answer from lfx.email-service.send_email within 0.1 s"),
    ],
)
async def test_an_email_that_is_not_sent_is_an_error(
    nats_server: NatsServer, folder: Folder, reply: dict[str, str] | None, status: int, message: str
) -> None:
    async with service(nats_server, lambda _: reply):
        result = await folder.send(*folder.one, "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr


@pytest.mark.parametrize("output", [[], ["--json"]])
async def test_ids_are_printed_on_standard_error_if_standard_output_cannot_be_written(
    nats_server: NatsServer, folder: Folder, output: list[str]
) -> None:
    env = {"NATS_URL": nats_server.url}
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
        async with service(nats_server):
            process = await asyncio.create_subprocess_exec(
                SCRIPT, "send", *folder.one, *output, env=env, stdout=full, stderr=asyncio.subprocess.PIPE
            )
            _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert errors.startswith(b"The relay has answered: email_id id-a@b.org, group_id new\nError: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tag", "a"], "--tag"),
        (["--tag", "a="], "--tag"),
        (["--tag", "a=1", "--tag", "a=2"], "--tag"),
        (["--timeout", "nan"], "'nan' is not a number of seconds"),
        (["--delimiter", ";"], "--delimiter needs --csv."),
        (["--result", "r.csv", "--dry-run"], "--result needs --csv."),
        (["--concurrency", "8"], "--concurrency needs --csv."),
        (["--retry-refused"], "--retry-refused needs --csv."),
        (["--retry-unknown"], "--retry-unknown needs --csv."),
    ],
)
async def test_an_invalid_option_is_wrong_usage(folder: Folder, options: list[str], message: str) -> None:
    result = await folder.send(*folder.one, *options)
    assert (result.exit_code, message in result.stderr) == (2, True)


@pytest.mark.parametrize("missing", ["--to", "--subject", "--html", "--text"])
async def test_a_missing_option_is_wrong_usage(folder: Folder, missing: str) -> None:
    at = folder.one.index(missing)
    result = await folder.send(*folder.one[:at], *folder.one[at + 2 :])
    assert (result.exit_code, missing in result.stderr) == (2, True)


def test_closed_standard_input_is_wrong_usage(folder: Folder) -> None:
    words = ["send", "--to", "a@b.org", "--subject", "s", "--html", "-", *folder.bodies[2:]]
    closed = ["sh", "-c", 'exec "$0" "$@" <&-', str(SCRIPT), *words]
    done = subprocess.run(closed, capture_output=True, check=False, timeout=20)  # noqa: S603 - our own words
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.endswith(b"Error: Invalid value for '--html': standard input is closed\n")
