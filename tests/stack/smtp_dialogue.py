# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One connection of the scripted SMTP server: reads commands, asks the script, replies."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
from typing import TYPE_CHECKING, cast

from tests.stack.smtp_commands import Session, Step
from tests.stack.smtp_scripts import Action, Deaf, Delay, Garbage, Moment, Reply, Reset, Silence, Store

if TYPE_CHECKING:
    from tests.stack.scripted_smtp import ScriptedSmtp

TCP_ESTABLISHED = 1  # of Linux, tcp_states.h


class _Over(Exception):
    """The session is over."""


class Dialogue:
    """The server's side of one connection."""

    def __init__(
        self, server: ScriptedSmtp, commands: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._number = server.sessions
        self._commands = commands
        self._reader = reader
        self._writer = writer
        self._waits = False
        encrypted = writer.get_extra_info("sslcontext") is not None
        self._session = Session(server.options, writer.get_extra_info("peername")[:2], encrypted=encrypted)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a command outside a transaction."""
        return self._waits and self._session.is_idle

    @property
    def is_held_by_client(self) -> bool:
        """Whether the client has not closed its side, as the kernel knows even if the server reads nothing."""
        ours = self._writer.get_extra_info("socket")
        if ours is None or ours.fileno() < 0:  # closed by us
            return False
        return bool(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED)

    async def run(self) -> None:
        """Serve until one side ends the session."""
        try:
            await self._answer(Step("greeting", "220 localhost ESMTP scripted"), "")
            while (line := await self._command()) is not None:
                self._commands.append(line)
                await self._answer(await self._step(line), line)
        except _Over:
            return
        finally:
            self._writer.close()

    def say_unasked(self, text: str, *, close: bool) -> None:
        """Send a line without a command."""
        self._write(text)
        if close:
            self._writer.close()

    def reset(self) -> None:
        """Close with RST."""
        ours = self._writer.get_extra_info("socket")
        if ours is not None and ours.fileno() >= 0:  # not closed yet
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    async def _command(self) -> str | None:
        self._waits = True
        try:
            async with asyncio.timeout(self._server.options.idle_timeout):
                line = await self._reader.readline()
        except TimeoutError:
            self._write(self._server.options.idle_reply)
            raise _Over from None
        finally:
            self._waits = False
        return line.decode("utf-8", "surrogateescape").rstrip("\r\n") if line else None

    async def _step(self, line: str) -> Step:
        verb, _, argument = line.partition(" ")
        if verb.upper() != "AUTH":
            return self._session.step(line)
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() == "PLAIN":
            _, user, password = _decode(initial or await self._challenge("")).split("\0")
        else:
            user = _decode(initial or await self._challenge("Username:"))
            password = _decode(await self._challenge("Password:"))
        return self._session.authenticate(user, password)

    async def _challenge(self, text: str) -> str:
        self._write(f"334 {base64.b64encode(text.encode()).decode()}")
        return (await self._reader.readline()).decode().strip()

    async def _answer(self, step: Step, line: str) -> None:
        accepted = self._session.accepted
        moment = Moment(stage=step.stage, session=self._number, accepted=accepted, line=line)
        action = self._server.script(moment)
        while isinstance(action, Delay | Store):
            if isinstance(action, Delay):
                await asyncio.sleep(action.seconds)
            elif step.effect:
                step.effect()
                step = step._replace(effect=None)
            action = action.then
        if action or step.reply:
            await self._act(action or Reply(step.reply, close=step.stage == "quit"), step)

    async def _act(self, action: Action, step: Step) -> None:
        match action:
            case Reply(text, close):
                await self._reply(text, step, close=close)
            case Garbage(data):
                self._writer.write(data)
            case Silence():
                while await self._reader.read(65_536):
                    pass
            case Deaf(text):
                self._write(text)
                cast("asyncio.Transport", self._writer.transport).pause_reading()
                await asyncio.Event().wait()
            case Reset():
                self.reset()
        if not isinstance(action, Reply | Garbage):
            raise _Over

    async def _reply(self, text: str, step: Step, *, close: bool) -> None:
        if self._server.options.reply_delay:
            await asyncio.sleep(self._server.options.reply_delay)
        positive = text[:1] in "23"
        if positive and step.effect:
            step.effect()
        self._write(text)
        await self._writer.drain()
        if close:
            raise _Over
        if step.stage == "data" and text.startswith("354"):
            await self._receive_content()
        if step.stage == "starttls" and positive and self._server.options.tls:
            await self._writer.start_tls(self._server.options.tls)

    async def _receive_content(self) -> None:
        lines: list[bytes] = []
        while (line := await self._reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line.removeprefix(b"."))
            if len(lines) == 1:
                await self._answer(Step("body", ""), "")
        number = f"{self._number}-{self._session.accepted + 1}"
        await self._answer(Step("dot", f"250 2.0.0 Ok {number}", lambda: self._store(b"".join(lines))), ".")
        self._session.forget_transaction()

    def _store(self, content: bytes) -> None:
        self._session.accepted += 1
        self._server.mailbox.add(self._session.mail(content))

    def _write(self, text: str) -> None:
        self._writer.write(text.replace("\n", "\r\n").encode() + b"\r\n")


def _decode(text: str) -> str:
    return base64.b64decode(text).decode()
