# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` reports the step that fails with the SMTP server and what to do about it, and sends no mail."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

from relay.commands import smtp_addresses, smtp_check
from relay.settings import RelaySettings
from relay.smtp import connection as smtp_connection
from shared.commands.check import checks
from tests.stack import scripted_smtp, smtp_scripts
from tests.stack.ports import free_port
from tests.stack.scripted_smtp import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.commands.check.checks import Finding
    from tests.stack.certificates import Certificates

ACCOUNT: dict[str, Any] = {"smtp_username": "AKIA", "smtp_password": "s3cret"}


async def found(port: int, **settings: Any) -> dict[str, Finding]:
    """Check a server on this machine; return each finding under its `about`."""
    config = RelaySettings(**{"email_enabled": True, "smtp_host": "localhost", "smtp_port": port, **settings})
    return {finding.about: finding async for finding in checks.run([smtp_check.check(config)])}


def statuses(findings: dict[str, Finding]) -> dict[str, str]:
    return {about.removeprefix("SMTP "): finding.status for about, finding in findings.items()}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("implicit_tls", [False, True])
async def test_a_healthy_server_is_described_and_gets_no_mail(
    certificates: Certificates, implicit_tls: Literal[True, False], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificates.server_context()
    options = Options(tls=tls, username="AKIA", password="s3cret", implicit_tls=implicit_tls)
    async with scripted_smtp.running(options=options) as server:
        ports = frozenset({server.port} if implicit_tls else ())
        monkeypatch.setattr(smtp_check, "IMPLICIT_TLS_PORTS", ports)
        monkeypatch.setattr(smtp_connection, "IMPLICIT_TLS_PORTS", ports)
        findings = await found(server.port, **ACCOUNT)
        assert server.mails == []
    assert statuses(findings) == {"name": "ok", "server": "ok", "TLS": "ok", "login": "ok"}
    assert "127.0.0.1" in findings["SMTP name"].found
    assert "accepts up to 41,943,040 bytes" in findings["SMTP server"].found
    assert findings["SMTP TLS"].found.startswith("TLSv1.3, certificate valid until 3000-01-01, for ")
    assert findings["SMTP login"].found == "the server accepts the credentials"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("fault", "found_text", "advice"),
    [
        ("expired", "certificate has expired", "renew the server's certificate"),
        ("wrong host", "Hostname mismatch", "set SMTP_HOST"),
        ("unknown authority", "unable to get local issuer", "SSL_CERT_FILE"),
    ],
)
async def test_a_certificate_that_is_not_accepted_is_a_failure_with_advice(
    certificates: Certificates, fault: str, found_text: str, advice: str
) -> None:
    tls = {
        "expired": lambda: certificates.context_valid_for(timedelta(days=-1)),
        "wrong host": certificates.wrong_host_context,
        "unknown authority": certificates.unknown_ca_context,
    }[fault]()
    async with scripted_smtp.running(options=Options(tls=tls)) as server:
        findings = await found(server.port)
    assert statuses(findings) == {"name": "ok", "server": "ok", "TLS": "failed"}
    assert found_text in findings["SMTP TLS"].found
    assert advice in findings["SMTP TLS"].advice


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_that_expires_soon_is_a_warning(certificates: Certificates) -> None:
    tls = certificates.context_valid_for(timedelta(days=5))
    async with scripted_smtp.running(options=Options(tls=tls)) as server:
        findings = await found(server.port)
    assert findings["SMTP TLS"].status == "warning"
    assert ", for 4 days" in findings["SMTP TLS"].found


@pytest.mark.usefixtures("trusted")
async def test_wrong_credentials_fail_at_the_login_and_are_not_shown(certificates: Certificates) -> None:
    options = Options(tls=certificates.server_context(), username="AKIA", password="other")
    async with scripted_smtp.running(options=options) as server:
        findings = await found(server.port, **ACCOUNT)
    assert statuses(findings) == {"name": "ok", "server": "ok", "TLS": "ok", "login": "failed"}
    assert findings["SMTP login"].found.startswith("535 ")
    assert "SMTP_PASSWORD" in findings["SMTP login"].advice
    assert "s3cret" not in str(findings)


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.usefixtures("trusted")
async def test_a_server_that_offers_no_auth_is_not_blamed_on_the_credentials(
    certificates: Certificates, is_encrypted: Literal[True, False]
) -> None:
    async with scripted_smtp.running(
        options=Options(tls=certificates.server_context() if is_encrypted else None)
    ) as server:
        findings = await found(server.port, **ACCOUNT)
    assert statuses(findings) == {"name": "ok", "server": "ok", "TLS": "ok", "login": "failed"}
    assert findings["SMTP login"].found == f"the server offers no AUTH, {'with' if is_encrypted else 'without'} TLS"
    assert findings["SMTP login"].advice.startswith("set SMTP_PORT to a port for submission (587 or 465), or leave")


@pytest.mark.usefixtures("trusted")
async def test_a_server_that_offers_auth_only_after_starttls_needs_smtp_tls(certificates: Certificates) -> None:
    options = Options(tls=certificates.server_context(), username="AKIA", password="s3cret")
    async with scripted_smtp.running(options=options) as server:
        findings = await found(server.port, smtp_tls="off", **ACCOUNT)
    assert findings["SMTP login"].found == "the server offers no AUTH before STARTTLS, and SMTP_TLS is off"
    assert findings["SMTP login"].advice == "set SMTP_TLS to auto"


@pytest.mark.usefixtures("trusted")
async def test_a_server_that_offers_auth_only_before_starttls_is_described(certificates: Certificates) -> None:
    replies = ["250-localhost\n250-STARTTLS\n250 AUTH PLAIN LOGIN", "250-localhost\n250 SIZE 41943040"]

    def script(moment: smtp_scripts.Moment) -> smtp_scripts.Action | None:
        return smtp_scripts.Reply(replies.pop(0)) if moment.stage == "ehlo" else None

    async with scripted_smtp.running(script, options=Options(tls=certificates.server_context())) as server:
        findings = await found(server.port, **ACCOUNT)
    assert findings["SMTP login"].found == "the server offers AUTH PLAIN, LOGIN before STARTTLS, and none after it"


async def test_the_check_greets_with_the_name_of_the_relay() -> None:
    greetings: set[str] = set()

    def script(moment: smtp_scripts.Moment) -> None:
        if moment.stage == "ehlo":
            greetings.add(moment.line)

    async with scripted_smtp.running(script) as server:
        await found(server.port, smtp_helo_name="mail.example.org")
        assert greetings == {"EHLO mail.example.org"}
        greetings.clear()
        await found(server.port)
    assert len(greetings) == 1  # the check and the relay's own connection
    assert "EHLO localhost" not in greetings or socket.gethostname() == "localhost"


@pytest.mark.parametrize("offer", ["AUTH GSSAPI XOAUTH2", "AUTH=GSSAPI XOAUTH2", "auth gssapi xoauth2"])
async def test_auth_methods_that_the_relay_does_not_support_are_listed(offer: str) -> None:
    async with scripted_smtp.running(options=Options(advertise=("SIZE 41943040", offer))) as server:
        findings = await found(server.port, **ACCOUNT)
    assert findings["SMTP login"].found == (
        "the server offers only AUTH GSSAPI, XOAUTH2, and the relay supports PLAIN, LOGIN, CRAM-MD5"
    )


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        ("454 4.7.0 Temporary authentication failure", "try again later"),
        ("421 4.7.0 Too many connections", "try again later"),
        ("432 4.7.12 A password transition is needed", "try again later"),
        ("435 Unable to authenticate at present", "try again later"),
        ("502 5.5.1 Command not implemented", "leave SMTP_USERNAME empty"),
        ("504 5.5.4 Unrecognized authentication type", "the AUTH method that it offers"),
        ("530 5.7.0 Must issue a STARTTLS command first", "set SMTP_TLS to auto"),
        ("534 5.7.9 Application-specific password required", "an application password"),
        ("538 5.7.11 Encryption required", "set SMTP_TLS to auto"),
        ("535 5.7.8 Authentication Credentials Invalid", "check SMTP_USERNAME and SMTP_PASSWORD"),
        ("550 5.7.1 Account disabled", "check SMTP_USERNAME and SMTP_PASSWORD"),
    ],
)
async def test_the_advice_follows_the_reply_to_auth(reply: str, advice: str) -> None:
    script = smtp_scripts.always("auth", smtp_scripts.Reply(reply))
    async with scripted_smtp.running(script, options=Options(username="AKIA", password="s3cret")) as server:
        findings = await found(server.port, **ACCOUNT)
    assert findings["SMTP login"].status == "failed"
    assert reply[:3] in findings["SMTP login"].found
    assert advice in findings["SMTP login"].advice
    assert ("SMTP_PASSWORD" in findings["SMTP login"].advice) == ("SMTP_PASSWORD" in advice)


async def test_a_server_without_tls_is_a_failure_only_if_encryption_is_required(other_host: str) -> None:
    async with scripted_smtp.running() as server:
        here = await found(server.port)
        required = await found(server.port, smtp_tls="required")
    assert here["SMTP TLS"].status == "ok"
    assert (required["SMTP TLS"].status, required["SMTP login"].status) == ("failed", "failed")
    server.host = other_host
    await server.start()
    try:
        elsewhere = await found(server.port, smtp_host=other_host)
        with_password = await found(server.port, smtp_host=other_host, **ACCOUNT)
    finally:
        await server.stop()
    assert elsewhere["SMTP TLS"].status == "warning"
    assert elsewhere["SMTP login"].found == "no credentials are set"
    assert with_password["SMTP TLS"].status == "failed"


async def test_a_closed_port_and_a_name_without_address_are_distinguished() -> None:
    refused = await found(free_port())
    assert statuses(refused) == {"name": "ok", "server": "failed"}
    assert "SMTP_PORT" in refused["SMTP server"].advice
    unknown = await found(25, smtp_host="smtp.invalid")
    assert statuses(unknown) == {"name": "failed"}
    assert unknown["SMTP name"].found.startswith("smtp.invalid has no address: ")


@contextmanager
def silent(port: int) -> Iterator[str]:
    """Occupy the port of another address of this machine, and do not answer connections; yield the address."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.3", port))
        listener.listen(0)
        for _ in range(4):  # the kernel drops further connections without an answer
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.3", port))
        yield "127.0.0.3"


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let names have these addresses, as a DNS server would."""

    async def resolve(_: str, port: int) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for address in addresses]

    monkeypatch.setattr(smtp_addresses, "resolve", resolve)


async def test_an_address_that_does_not_answer_is_a_warning_and_the_others_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smtp_addresses, "CONNECT_SECONDS", 0.2)
    async with scripted_smtp.running() as server:
        with silent(server.port) as address:
            resolve_to(monkeypatch, address, "127.0.0.1")
            findings = await found(server.port)
            resolve_to(monkeypatch, address)
            unreachable = await found(server.port)
    assert statuses(findings) == {"name": "warning", "server": "ok", "TLS": "ok", "login": "ok"}
    assert findings["SMTP name"].found.endswith(f"; no answer within 0.2 s from {address}")
    assert statuses(unreachable) == {"name": "warning", "server": "failed"}
    assert unreachable["SMTP server"].found == f"{address} port {server.port}: no answer within 0.2 s"


async def test_an_address_that_refuses_connections_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_smtp.running() as server:
        resolve_to(monkeypatch, "127.0.0.3", "127.0.0.1")
        findings = await found(server.port)
    assert statuses(findings) == {"name": "ok", "server": "ok", "TLS": "ok", "login": "ok"}


@pytest.mark.parametrize(
    "action", [smtp_scripts.Silence(), smtp_scripts.Close(), smtp_scripts.Reply("421 4.3.2 too busy", close=True)]
)
async def test_a_server_without_a_greeting_is_a_failure_in_time(
    action: smtp_scripts.Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_check, "HANDSHAKE_SECONDS", 0.2)
    async with scripted_smtp.running(smtp_scripts.always("greeting", action)) as server:
        findings = await found(server.port)
    assert findings["SMTP server"].status == "failed"


async def test_a_server_that_accepts_only_small_mails_is_a_warning() -> None:
    async with scripted_smtp.running(options=Options(advertise=("SIZE 100000",))) as server:
        findings = await found(server.port)
    assert findings["SMTP server"].status == "warning"
    assert "accepts up to 100,000 bytes" in findings["SMTP server"].found


async def test_with_email_disabled_no_server_is_checked() -> None:
    findings = await found(free_port(), email_enabled=False)
    assert statuses(findings) == {"server": "skipped"}
    assert "EMAIL_ENABLED is false" in findings["SMTP server"].found
