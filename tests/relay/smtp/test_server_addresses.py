# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Several addresses of the mail server's name, of which some are dead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from relay.errors import Deferred
from relay.smtp import connection as smtp_connection
from shared.service import server_addresses, threads
from shared.service.server_addresses import ServerAddresses
from tests.relay.inputs import ENVELOPE, MAIL, connector
from tests.relay.smtp.senders import sending
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import Close, Reply, Silence, always
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohappyeyeballs import AddrInfoType

    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action

NAME = "mail.example"
WORKS = "127.0.0.1"
REFUSES = "127.0.0.2"
DROPS = "127.0.0.3"
UNROUTABLE = "fe80::1"  # link-local without an interface: the kernel refuses to connect
SOON = 20.0  # seconds on a busy machine; far below the time of a connection here
AGAIN = 5  # connections: with a dead address first, each of them would take long; of the others the machine delays some


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the addresses of the name."""

    def resolve_to(*addresses: str) -> None:
        def look_up(host: str, port: int, **_: Any) -> list[AddrInfoType]:
            if host != NAME:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [info(address, port) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return resolve_to


def info(address: str, port: int) -> AddrInfoType:
    """An address as getaddrinfo returns it."""
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


@pytest.fixture
def dropping(smtp: ScriptedSmtp) -> Iterator[None]:
    """At the server's port of another address, the queue of connections is full: the kernel drops SYNs."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind((DROPS, smtp.port))
        listener.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((DROPS, smtp.port))
        yield


@pytest.mark.usefixtures("dropping")
@pytest.mark.parametrize(
    "addresses",
    [
        (WORKS,),
        (REFUSES, WORKS),
        (DROPS, WORKS),
        (UNROUTABLE, WORKS),
        ("::1", WORKS),
        (WORKS, DROPS),
        (UNROUTABLE, DROPS, REFUSES, WORKS),
        (DROPS, DROPS, DROPS, WORKS),
        (WORKS, WORKS),
    ],
)
async def test_a_dead_address_of_the_name_does_not_hold_up_a_connection(
    smtp: ScriptedSmtp, resolve: Callable[..., None], addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_addresses, "CONNECT_SECONDS", 10 * SOON)
    resolve(*addresses)
    opener = connector(smtp, smtp_host=NAME, smtp_timeout_seconds=10 * SOON)
    started = time.monotonic()
    connection = await opener.connect()
    assert time.monotonic() - started < SOON
    await connection.send(ENVELOPE, MAIL)
    taken = []
    for _ in range(AGAIN):
        again = time.monotonic()
        await opener.connect()
        taken.append(time.monotonic() - again)
    assert min(taken) < server_addresses.NEXT_ADDRESS_SECONDS, "the dead ones are tried last"


@pytest.mark.usefixtures("dropping")
@pytest.mark.parametrize(
    ("addresses", "text"),
    [
        ((REFUSES,), "Connect"),
        ((DROPS,), "no connection within 2 s"),
        ((UNROUTABLE, REFUSES), "Connect"),
        ((UNROUTABLE, DROPS), r"no connection within 2\.25 s"),
    ],
)
async def test_without_a_working_address_the_connection_is_deferred_in_time(
    smtp: ScriptedSmtp, resolve: Callable[..., None], addresses: tuple[str, ...], text: str
) -> None:
    resolve(*addresses)
    started = time.monotonic()
    with pytest.raises(Deferred, match=text) as failure:
        await connector(smtp, smtp_host=NAME, smtp_timeout_seconds=30).connect()
    assert str(smtp.port) in failure.value.text
    assert NAME in failure.value.text
    assert time.monotonic() - started < server_addresses.CONNECT_SECONDS + SOON


@pytest.mark.parametrize("action", [Silence(), Close(), Reply("421 4.3.2 busy", close=True)], ids=repr)
async def test_an_address_that_accepts_and_fails_is_tried_after_the_others(
    smtp: ScriptedSmtp, resolve: Callable[..., None], action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "STALLED_SECONDS", 0.1)
    other = scripted_smtp.ScriptedSmtp(always("greeting", action), scripted_smtp.Options(), smtp.port)
    other.host = REFUSES
    await other.start()
    try:
        resolve(REFUSES, WORKS)
        opener = connector(smtp, smtp_host=NAME, smtp_timeout_seconds=30)
        stalled = asyncio.create_task(opener.connect())
        await until(lambda: other.sessions)
        await asyncio.sleep(0.2)
        connection = await opener.connect()
        await connection.send(ENVELOPE, MAIL)
        stalled.cancel()
        await asyncio.wait([stalled])
        assert (other.sessions, smtp.sessions) == (1, 1)
    finally:
        await other.stop()


async def test_a_mail_is_sent_to_the_second_address_though_the_first_never_greets(
    smtp: ScriptedSmtp, resolve: Callable[..., None]
) -> None:
    mute = scripted_smtp.ScriptedSmtp(always("greeting", Silence()), scripted_smtp.Options(), smtp.port)
    mute.host = REFUSES
    await mute.start()
    try:
        resolve(REFUSES, WORKS)
        async with sending(smtp, smtp_host=NAME, smtp_timeout_seconds=60) as sender:
            started = time.monotonic()
            await sender.send_all(range(20))
            assert time.monotonic() - started < 30
    finally:
        await mute.stop()


async def test_a_suspicion_ends(
    smtp: ScriptedSmtp, resolve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(REFUSES, WORKS)
    addresses = ServerAddresses(NAME, smtp.port)

    async def connected() -> str:
        opened, address = await addresses.connect()
        opened.close()
        return address

    assert await connected() == WORKS
    other = scripted_smtp.ScriptedSmtp(lambda _: None, scripted_smtp.Options(), smtp.port)
    other.host = REFUSES
    await other.start()
    try:
        assert await connected() == WORKS
        monkeypatch.setattr(server_addresses, "SUSPECT_SECONDS", 0)
        assert await connected() == REFUSES
    finally:
        await other.stop()


# Looking up


async def test_a_name_without_an_address_is_deferred(smtp: ScriptedSmtp, resolve: Callable[..., None]) -> None:
    resolve()
    with pytest.raises(Deferred, match=r"no-such-host\.example has no address: .*not known"):
        await connector(smtp, smtp_host="no-such-host.example").connect()


async def test_a_slow_look_up_blocks_neither_the_loop_nor_the_end_of_the_process(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, over = threading.Event(), threading.Event()
    daemons: list[bool] = []

    def look_up(*_: Any, **__: Any) -> list[AddrInfoType]:
        daemons.append(threading.current_thread().daemon)
        asked.set()
        over.wait(30)
        return [info(WORKS, smtp.port)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(Deferred, match="in time"):
            await connector(smtp, smtp_host=NAME, smtp_timeout_seconds=0.2).connect()
        stopped = asyncio.create_task(connector(smtp, smtp_host=NAME).connect())
        asked.clear()
        await until(asked.is_set)
        stopped.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait([stopped])
        assert daemons == [True, True]
    finally:
        over.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_an_address_is_connected_to_without_a_look_up_thread(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(threads, "run", None)
    connection = await connector(smtp, smtp_host=host).connect()
    await connection.send(ENVELOPE, MAIL)
