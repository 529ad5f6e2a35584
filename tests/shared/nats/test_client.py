# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The client against servers that require credentials, refuse, do not answer or send invalid data."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from shared.nats import connection, transport
from tests.shared.connections import as_user, events, has_reconnected, opening, publish, received, was_never_lost
from tests.shared.connections import connected as connect
from tests.shared.nats_credentials import Credentials
from tests.stack import nats_server as servers
from tests.stack.certificates import Certificates
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.msg import Msg

    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("impatience")


@pytest.mark.parametrize("password", ["s3cret", "p@ss:w/o#rd?%", "blank inside"])
async def test_user_and_password_of_the_url_are_sent_decoded(password: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in password.encode())
    async with servers.running(f'authorization {{ user: "re@lay", password: "{password}" }}') as server:
        url = as_user(server.url, f"re%40lay:{quoted}")
        async with asyncio.timeout(20), connect(url) as connected:
            assert connected.server == f"127.0.0.1:{server.port}"


async def test_a_wrong_password_is_tried_again_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        servers.running('authorization { user: "u", password: "right" }') as server,
        opening(as_user(server.url, "u:wr0ng")) as connecting,
    ):
        await until(lambda: len(events(caplog, "nats.error")) > 1)
        assert not connecting.done()
    assert any("authorization violation" in error.lower() for error in events(caplog, "nats.error"))
    assert "wr0ng" not in caplog.text + repr([record.__dict__ for record in caplog.records])


async def test_a_missing_credentials_file_is_logged_and_used_when_it_appears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, file = Credentials(), tmp_path / "relay.creds"
    async with servers.running(made.server_config) as server, opening(server.url, str(file)) as connecting:
        await until(lambda: len(events(caplog, "nats.error")) > 1)
        assert str(file) in events(caplog, "nats.error")[-1]
        assert not connecting.done()
        file.write_text(made.user())
        assert (await asyncio.wait_for(connecting, 20)).connected


@pytest.mark.parametrize(
    "content",
    [
        "",
        "neither\n",
        "-----BEGIN NATS USER JWT-----\n",
        "-----BEGIN NATS USER JWT-----\nx\n-----BEGIN USER NKEY SEED-----\nSUNOSEED\n",
        Credentials().user().partition("\n\n")[2],
    ],
    ids=["empty", "neither", "no seed", "no right seed", "no JWT"],
)
async def test_a_broken_credentials_file_does_not_block_and_can_be_replaced(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, file = Credentials(), tmp_path / "relay.creds"
    file.write_text(content)
    async with servers.running(made.server_config) as server, opening(server.url, str(file)) as connecting:
        await until(lambda: len(events(caplog, "nats.error")) > 1)
        assert not connecting.done()
        file.write_text(made.user())
        assert (await asyncio.wait_for(connecting, 20)).connected


async def test_a_credentials_file_of_any_editor_is_read(tmp_path: Path) -> None:
    made, file = Credentials(), tmp_path / "relay.creds"
    text = made.user()
    async with servers.running(made.server_config) as server:
        for saved in (
            text.replace("\n", "\r\n"),
            text.replace("\n", " \t\n"),
            "".join(f"    {line}\n" for line in text.splitlines()),
            "\ufeff" + text.replace("\n", "\n\n").rstrip("\n"),
        ):
            file.write_bytes(saved.encode())
            async with asyncio.timeout(20), connect(server.url, str(file)) as connected:
                assert connected.connected


async def test_tls_is_checked_against_the_systems_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(tmp_path)
    async with servers.running(certificates.nats_tls()) as server, opening(server.url) as connecting:
        await until(lambda: any("CERTIFICATE_VERIFY_FAILED" in error for error in events(caplog, "nats.error")))
        assert not connecting.done()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        for url in (server.url, server.url.replace("nats://", "tls://")):
            async with asyncio.timeout(20), connect(url) as connected:
                assert (await connected.client.rtt()) > 0


async def test_a_tls_url_sends_no_password_to_a_server_without_tls(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opening(nats_server.url.replace("nats://", "tls://u:p@")) as connecting:
        await until(lambda: any("none" in error for error in events(caplog, "nats.error")))
        assert not connecting.done()


async def test_a_connection_comes_back_after_its_credentials_were_revoked_and_restored(tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.conf"
    accounts.write_text("authorization { user: u, password: p }")
    async with (
        servers.running(f'include "../../../../../../..{accounts}"') as server,
        connect(as_user(server.url, "u:p")) as connected,
    ):
        payloads = await received(connected, "news")
        accounts.write_text("authorization { user: other, password: p }")
        server.reload()
        await until(lambda: not connected.connected)
        assert not connected.closed
        accounts.write_text("authorization { user: u, password: p }")
        server.reload()
        await until(lambda: connected.connected)
        await connected.publish("news", b"alive")
        await until(lambda: payloads == [b"alive"])


async def test_credentials_that_expire_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, file = Credentials(), tmp_path / "relay.creds"
    file.write_text(made.user(valid_seconds=2))
    async with servers.running(made.server_config) as server, connect(server.url, str(file)) as connected:
        payloads = await received(connected, "news")
        file.write_text(made.user())
        await until(lambda: has_reconnected(connected))
        await connected.publish("news", b"alive")
        await until(lambda: payloads == [b"alive"])
    assert any("User Authentication Expired" in error for error in events(caplog, "nats.error"))


async def test_a_denied_permission_does_not_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    users = "authorization { users: [ {user: u, password: p, permissions: {subscribe: news, publish: news}} ] }"
    async with (
        servers.running(users) as server,
        connect(as_user(server.url, "u:p")) as connected,
    ):
        payloads = await received(connected, "news")
        await connected.publish("$KV.b.Secret", b"")
        await connected.subscribe("Other.>", lambda _: None, "Queue")
        await connected.publish("news", b"1")
        await until(lambda: payloads == [b"1"])
        assert was_never_lost(connected)
    assert [error for error in events(caplog, "nats.denied") if "may not" in error] == [
        "the NATS user may not publish to $KV.b.Secret",
        "the NATS user may not subscribe to Other.> in the queue group Queue",
    ]


@pytest.mark.parametrize("waves", [0, 1, 2], ids=["nothing unsent", "the socket full", "the client's buffer full too"])
async def test_a_silent_server_is_left_after_unanswered_pings(
    waves: int, nats_server: NatsServer, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PING_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(transport, "CLOSE_TIMEOUT_SECONDS", 0.2)
    async with connect(nats_proxy.url) as connected:
        payloads = await received(connected, "news")
        disconnected = asyncio.Event()
        connected.on_disconnect(disconnected.set)
        nats_proxy.freeze()
        sending: list[asyncio.Task[None]] = []
        for _ in range(waves):
            sending += [asyncio.create_task(connected.publish("bulk", bytes(1_000_000))) for _ in range(20)]
            await asyncio.wait(sending, timeout=0.05)
        async with asyncio.timeout(20):
            await disconnected.wait()
        nats_proxy.thaw()
        await until(lambda: connected.connected)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        await connected.flush()
        await publish(nats_server, "news", b"1")
        await until(lambda: payloads == [b"1"])


async def test_failed_attempts_to_connect_leave_no_sockets_or_tasks(
    nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "PING_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.05)
    async with connect(nats_proxy.url) as connected:
        tasks = len(asyncio.all_tasks()) - 3 * nats_proxy.links
        nats_proxy.freeze()
        await until(lambda: len(events(caplog, "nats.error")) > 10)
        assert nats_proxy.links <= 2, "the frozen link, and the current attempt"
        nats_proxy.thaw()
        await until(lambda: connected.connected and nats_proxy.links == 1)
        await until(lambda: len(asyncio.all_tasks()) - 3 * nats_proxy.links <= tasks)


@pytest.mark.parametrize(
    ("unreadable", "arrives"),
    [
        (b"PUB news \xff 0\r\n\r\n", False),
        (b"HPUB news r 8 8\r\nNATS/1.0\r\n", True),
        (b"HPUB news r 26 26\r\nNATS/1.0 503 \xff\r\nKey: k\r\n\r\n\r\n", True),
        (b"PUB news a\x0bb\x0cc 0\r\n\r\n", True),
        (b"HPUB news a\x0bb\x0cc 20 20\r\nNATS/1.0\r\nKey: k\r\n\r\n\r\n", True),
    ],
    ids=["reply", "headers", "status", "white", "white with headers"],
)
async def test_a_message_that_cannot_be_read_does_not_stop_the_others(
    nats_server: NatsServer,
    unreadable: bytes,
    arrives: bool,  # noqa: FBT001 - a column of the table
) -> None:
    async with connect(nats_server.url) as connected:
        messages: list[Msg] = []
        await connected.subscribe("news", messages.append)
        await connected.flush()
        _, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + unreadable)
        writer.write(b"PUB news 1000\r\n%s\r\n" % bytes(1000) * 9)
        await until(lambda: len(messages) == 9 + arrives)
        writer.close()
        assert was_never_lost(connected)
        assert {msg.reply for msg in messages} <= {"", "r", "a\x0bb\x0cc"}
        assert all(msg.headers["Key"] == "k" for msg in messages if msg.headers)


async def test_a_server_that_sends_an_unreadable_protocol_line_is_left() -> None:
    """Such a connection would stay open, but no message would be read."""
    greeted = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        writer.write(b'INFO {"max_payload": 1000}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n-ERR \r\n")
        await reader.read()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(greet, "127.0.0.1", port), connect(f"nats://127.0.0.1:{port}"):
        await until(lambda: greeted > 1)


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"x" * 200_000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO \xff\xfe\r\n",
        b"INFO []\r\n",
        b"INFO {}\r\n-ERR 'no'\r\n",
        b"INFO {}\r\nPONG\r\n\x00\x01\r\n",
    ],
)
async def test_a_connection_comes_back_after_another_program_used_the_port(greeting: bytes) -> None:
    greeted = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        with contextlib.suppress(OSError):
            writer.write(greeting)
            await writer.drain()
            while greeting and await reader.read(4096):
                pass
        writer.close()

    port = free_port()
    async with (
        servers.running(port=port) as server,
        connect(server.url) as connected,
        opening(server.url) as second,
    ):
        await asyncio.wait_for(second, 20)
        payloads = await received(connected, "news")
        await server.kill()
        impostor = await asyncio.start_server(greet, "127.0.0.1", port)
        await until(lambda: greeted > 5)
        async with opening(server.url) as third:
            impostor.close()
            await server.start()
            await asyncio.wait_for(third, 20)
        await until(lambda: connected.connected and second.result().connected)
        await connected.flush()
        await publish(server, "news", b"1")
        await until(lambda: payloads == [b"1"])


async def test_each_server_of_a_cluster_is_known_once_with_its_credentials(
    nats_cluster: list[NatsServer],
) -> None:
    first = nats_cluster[0]
    async with connect(as_user(first.url, "relay:s3cret")) as connected:
        payloads = await received(connected, "news")
        assert sorted(f"nats://127.0.0.1:{server.uri.port}" for server in connected.client.server_pool) == sorted(
            server.url for server in nats_cluster
        )
        await first.kill()
        await until(lambda: connected.connected and connected.server != f"127.0.0.1:{first.port}")
        await connected.flush()
        await connected.publish("news", b"1")
        await until(lambda: payloads == [b"1"])
