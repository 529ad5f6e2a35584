# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A stand-in for the relay, and a folder with the files that `send` reads and writes; asserts nothing."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nats
from click.testing import CliRunner

from relay.commands.send import send
from shared import contract
from tests.stack.nats_flush import flush

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from click.testing import Result
    from nats.aio.msg import Msg

    from tests.stack.nats_server import NatsServer

    Reply = Callable[[dict[str, Any]], Mapping[str, object] | None]

SCRIPT: Final = Path(sys.executable).parent / "lfx-email-relay"


class Service:
    """Notes each request, and answers with `reply`, or not at all."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []

    @property
    def recipients(self) -> list[str]:
        """The recipients of all requests, in order."""
        return [request["to"] for request in self.requests]

    async def on_message(self, msg: Msg) -> None:
        """Answer one request."""
        self.requests.append(json.loads(msg.data))
        answer = self.reply(self.requests[-1])
        if answer is not None:
            await msg.respond(json.dumps(answer).encode())


def sent(request: dict[str, Any]) -> dict[str, str]:
    return {"email_id": f"id-{request['to']}", "group_id": request.get("group_id", "new")}


@asynccontextmanager
async def service(server: NatsServer, reply: Reply = sent) -> AsyncIterator[Service]:
    """Serve for as long as the block runs."""
    serving = Service(reply)
    async with await nats.connect(server.url) as client:
        await client.subscribe(contract.SEND_EMAIL_SUBJECT, contract.QUEUE_GROUP, cb=serving.on_message)
        await flush(client)
        yield serving


class Folder:
    """A folder with two bodies, a list of people and the result file."""

    def __init__(self, path: Path, url: str) -> None:
        self.url = url
        self.people = path / "people.csv"
        self.result = path / "people.csv.result.csv"
        self.bodies = ["--html", str(path / "mail.html"), "--text", str(path / "mail.txt")]
        self.one = ["--to", "a@b.org", "--subject", "s", *self.bodies]
        self.mailing = ["--csv", str(self.people), "--subject", "Hello {name}", *self.bodies]
        (path / "mail.html").write_text("<p>Hello {name}</p>")
        (path / "mail.txt").write_text("Hello {name}")

    def write(self, count: int) -> None:
        """Write a list of so many people."""
        rows = [f"p{number}@example.com,P {number}" for number in range(1, count + 1)]
        self.people.write_text("\n".join(["to,name", *rows]))

    async def send(self, *arguments: str, text: str | bytes | None = None) -> Result:
        """Run the command; `text` is its standard input."""
        run = CliRunner().invoke
        return await asyncio.to_thread(run, send, arguments, env={"NATS_URL": self.url}, input=text)

    async def send_all(self, *arguments: str) -> Result:
        """Run the command with the list of people."""
        return await self.send(*self.mailing, *arguments)

    def statuses(self) -> dict[str, str]:
        """Return the last status of each recipient in the result file."""
        with self.result.open(newline="") as lines:
            return {row["to"]: row["status"] for row in csv.DictReader(lines)}
