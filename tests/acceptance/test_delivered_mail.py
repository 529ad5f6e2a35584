# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""send_email: the mail at the SMTP server, its connection, and its record."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.acceptance import mails, services
from tests.acceptance.caller import EMAIL, SEND_EMAIL, delivery_failed
from tests.acceptance.mails import Content
from tests.stack import smtp_server as smtp_servers
from tests.stack.certificates import Certificates
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller
    from tests.acceptance.services import Platform
    from tests.stack.smtp_server import ReceivedMail, SmtpServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("relay")]

SENDER = "noreply@lfx.linuxfoundation.org"
DEFAULT_FROM = [("LFX Self Serve", SENDER)]
PLAIN = Content(DEFAULT_FROM, [("", "ada@example.com")], [], "Hello Ada", b"Hello Ada", b"<p>Hello Ada</p>")
IMPLICIT_TLS_PORT = 2465
RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority that a relay trusts through SSL_CERT_FILE."""
    directory: Path = tmp_path_factory.mktemp("certificates")
    return Certificates(directory)


async def deliver(caller: Caller, smtp: SmtpServer, changes: dict[str, object]) -> ReceivedMail:
    """Send an email and return the received mail."""
    before = len(smtp.mails)
    reply = await caller.ask(SEND_EMAIL, EMAIL | changes)
    assert reply.get("email_id"), reply
    [mail] = smtp.mails[before:]
    return mail


def text(value: str) -> tuple[dict[str, object], Content]:
    """Return a request with the same text in both bodies, and its content."""
    return {"text": value, "html": value}, PLAIN._replace(text=value.encode(), html=value.encode())


def subject(value: str) -> tuple[dict[str, object], Content]:
    """Return a request with a subject, and its content."""
    return {"subject": value}, PLAIN._replace(subject=value)


def display_name(value: str) -> tuple[dict[str, object], Content]:
    """Return a request with a display name in From, and its content."""
    return {"from_display_name": value}, PLAIN._replace(sender=[(value, SENDER)])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, PLAIN, id="plain"),
        pytest.param(*subject("🎉 Ihr Vortrag in 東京"), id="subject-emoji"),
        pytest.param(*subject("Hëllo " + "word " * 40 + "end"), id="subject-long"),
        pytest.param(*subject("two  blanks, =?utf-8?q?no?= word"), id="subject-looks-encoded"),
        pytest.param(*subject("é" * 499), id="subject-longest"),
        pytest.param(*text("Zoë\n.\n.. dots\r\nFrom here\rand " + "x" * 3000), id="text-hard-to-carry"),
        pytest.param(*text("<p>a\0b</p>"), id="text-with-nul"),
        pytest.param(*text("日本語 " * 500), id="text-not-latin"),
        pytest.param(*text("no line end"), id="text-without-line-end"),
        pytest.param(*text("line ends\r\n\r\n"), id="text-with-line-ends"),
        pytest.param(*display_name('Doe, Jane (LFX) "J" <x@y>; a@b'), id="name-with-specials"),
        pytest.param(*display_name("Zoë, LFX Events"), id="name-not-ascii"),
        pytest.param({"from_display_name": "  "}, PLAIN, id="name-blank"),
        pytest.param(
            {"from": "jane@lfx.linuxfoundation.org"},
            PLAIN._replace(sender=[("LFX Self Serve", "jane@lfx.linuxfoundation.org")]),
            id="from",
        ),
        pytest.param(
            {"from": '"Doe, Jane" <jane@lfx.linuxfoundation.org>'},
            PLAIN._replace(sender=[("Doe, Jane", "jane@lfx.linuxfoundation.org")]),
            id="from-with-name",
        ),
        pytest.param(
            {"from": "Jane <jane@lfx.linuxfoundation.org>", "from_display_name": "The Team"},
            PLAIN._replace(sender=[("The Team", "jane@lfx.linuxfoundation.org")]),
            id="from-with-two-names",
        ),
        pytest.param(
            {"reply_to": "Events <events@linuxfoundation.org>"},
            PLAIN._replace(reply_to=[("Events", "events@linuxfoundation.org")]),
            id="reply_to",
        ),
        pytest.param(
            {"to": "Anna <anna@bücher.example>"},
            PLAIN._replace(to=[("Anna", "anna@xn--bcher-kva.example")]),
            id="to-with-name-and-idna",
        ),
    ],
)
async def test_mail_arrives_exactly_as_it_was_sent(
    caller: Caller, smtp_server: SmtpServer, changes: dict[str, object], expected: Content
) -> None:
    mail = await deliver(caller, smtp_server, changes)
    assert mails.content(mail) == expected
    assert (mail.mail_from, mail.recipients) == (expected.sender[0][1], (expected.to[0][1],))
    assert mails.is_safe_on_the_wire(mail)


async def test_each_header_is_there_once_and_no_ses_header_without_a_configuration_set(
    caller: Caller, smtp_server: SmtpServer
) -> None:
    changes: dict[str, object] = {
        "from": f"Jane <{SENDER}>",
        "reply_to": "events@linuxfoundation.org",
        "group_id": "batch",
    }
    mail = await deliver(caller, smtp_server, changes)
    message = mails.parsed(mail)
    names = "From To Reply-To Subject Date Message-ID MIME-Version Content-Type X-LFX-TRACKING-ID"
    assert Counter(name.lower() for name in message) == Counter(names.lower().split())
    for part in message.iter_parts():
        assert Counter(part) == {"Content-Type": 1, "Content-Transfer-Encoding": 1}
    assert abs(parsedate_to_datetime(message["Date"]) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_unsubscribe_url_becomes_the_two_headers_of_one_click_unsubscribe(
    caller: Caller, smtp_server: SmtpServer
) -> None:
    url = "https://lfx.dev/unsubscribe?token=a%2Bb&list=" + "x" * 800
    message = mails.parsed(await deliver(caller, smtp_server, {"unsubscribe_url": url}))
    assert message.get_all("List-Unsubscribe") == [f"<{url}>"]
    assert message.get_all("List-Unsubscribe-Post") == ["List-Unsubscribe=One-Click"]


async def test_message_ids_and_email_ids_are_unique(caller: Caller, smtp_server: SmtpServer) -> None:
    sent = [await deliver(caller, smtp_server, {"group_id": "same"}) for _ in range(5)]
    assert len({mails.parsed(mail)["Message-ID"] for mail in sent}) == 5
    assert len({mails.email_id(mail) for mail in sent}) == 5
    assert all(re.fullmatch(r"<[^@<>\s]+@[^@<>\s]+>", str(mails.parsed(mail)["Message-ID"])) for mail in sent)


@pytest.mark.parametrize(
    ("group_id", "shown"),
    [
        pytest.param("invite-batch-abc123", "invite-batch-abc123", id="plain"),
        pytest.param("g" * 22, "g" * 22, id="22"),
        pytest.param("g" * 255, "g" * 255, id="255"),
        pytest.param("project/2025:a+b=~\"<>'", "project/2025:a+b=~\"<>'", id="printable"),
        pytest.param("a b", "a%20b", id="blank"),
        pytest.param("100%", "100%25", id="percent"),
        pytest.param("Zoë/東京", "Zo%C3%AB/%E6%9D%B1%E4%BA%AC", id="utf-8"),
        pytest.param("\t\x7f", "%09%7F", id="controls"),
        pytest.param("é" * 127, "%C3%A9" * 127, id="utf-8-longest"),
    ],
)
async def test_tracking_header_is_one_line_with_group_and_id(
    caller: Caller, smtp_server: SmtpServer, group_id: str, shown: str
) -> None:
    before = len(smtp_server.mails)
    reply = await caller.send(group_id=group_id)
    assert reply["group_id"] == group_id
    [mail] = smtp_server.mails[before:]
    assert f"X-LFX-TRACKING-ID: {shown}/{reply['email_id']}".encode() in mails.header_lines(mail)


async def test_a_new_record_has_the_fields_of_the_request_and_no_engagement(caller: Caller, buckets: Buckets) -> None:
    before = datetime.now(UTC)
    to, about = "Anna <anna@bücher.example>", "Zoë <&> \u2028 🎉"
    email_id = await caller.sent(to=to, subject=about, group_id="a group/1")
    record = await buckets.record(email_id)
    assert record
    sent_at = record.pop("sent_at")
    assert record == {
        "email_id": email_id,
        "group_id": "a group/1",
        "to": to,
        "subject": about,
        "delivered": False,
        "opened": False,
        "open_count": 0,
        "clicked": False,
        "click_count": 0,
        "failed": False,
    }
    assert RFC_3339_UTC.fullmatch(sent_at)
    assert before <= datetime.fromisoformat(sent_at) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("group_id", "key"),
    [
        pytest.param("invite-batch-abc124", "invite-batch-abc124", id="plain"),
        pytest.param("a.b/c_d=e", "a.b/c_d=e", id="every-legal-kind"),
        pytest.param("a..b", "=a=2E=2Eb", id="two-dots"),
        pytest.param(".a", "=.a".replace(".", "=2E"), id="dot-first"),
        pytest.param("Spring 2025", "=Spring=202025", id="blank"),
        pytest.param("=x", "==3Dx", id="equals-first"),
        pytest.param("é*>", "==C3=A9=2A=3E", id="utf-8-and-wildcards"),
    ],
)
async def test_group_index_is_one_array_of_ids_in_send_order(
    caller: Caller, buckets: Buckets, group_id: str, key: str
) -> None:
    sent = [await caller.sent(group_id=group_id) for _ in range(3)]
    assert await buckets.email_ids(key) == sent
    entry = await (await buckets.group_index()).get(key)
    assert json.loads(entry.value or b"") == sent


async def test_a_group_of_the_go_service_continues_in_the_same_array(caller: Caller, buckets: Buckets) -> None:
    await buckets.put_group("begun", ["one", "two"])
    await (await buckets.group_index()).put("emptied", b"[]")
    await (await buckets.group_index()).put("never", b"null")
    await (await buckets.group_index()).put("deleted", b'["one"]')
    await (await buckets.group_index()).delete("deleted")
    for group, known in (("begun", ["one", "two"]), ("emptied", []), ("never", []), ("deleted", [])):
        email_id = await caller.sent(group_id=group)
        assert await buckets.email_ids(group) == [*known, email_id]


async def test_a_group_of_more_than_10_000_continues_in_a_second_segment(caller: Caller, buckets: Buckets) -> None:
    first = [f"{number:036}" for number in range(9_999)]
    await buckets.put_group("large", first)
    sent = [await caller.sent(group_id="large") for _ in range(3)]
    assert await buckets.email_ids("large") == [*first, sent[0]]
    assert await buckets.email_ids("=.1.large") == sent[1:]


USERNAME = "AKIAEXAMPLE"
PASSWORD = "pass word/+="  # noqa: S105 - of a server that lives for a second
PRODUCTION = {
    "SMTP_USERNAME": USERNAME,
    "SMTP_PASSWORD": f"{PASSWORD}\n",
    "SES_CONFIGURATION_SET": "lfx-engagement",
    "SMTP_FROM": "other@lfx.linuxfoundation.org",
    "DEFAULT_SMTP_FROM": "platform@example.org",
    "DEFAULT_SMTP_FROM_DISPLAY_NAME": "The Platform",
    "SEND_RETRY_SECONDS": "2",
}


@asynccontextmanager
async def production(
    certificates: Certificates, *, server: Mapping[str, Any], **variables: str
) -> AsyncIterator[tuple[Platform, SmtpServer]]:
    """Run a relay with credentials, and an SMTP server that requires them and TLS."""
    async with (
        services.platform() as platform,
        smtp_servers.running(tls=certificates.server_context(), username=USERNAME, password=PASSWORD, **server) as smtp,
        services.relay(
            platform.nats,
            smtp,
            **PRODUCTION | {"SSL_CERT_FILE": str(certificates.ca_file)} | variables,
        ),
    ):
        yield platform, smtp


async def test_mail_to_ses_uses_starttls_and_auth_and_has_the_headers_of_the_configuration_set(
    certificates: Certificates,
) -> None:
    async with production(certificates, server={"require_starttls": True}) as (platform, smtp):
        reply = await platform.caller.send(group_id="batch", tags={"campaign": "spring", "kind": "invite"})
        [mail] = smtp.mails
        assert (mail.tls, mail.authenticated_as) == (True, USERNAME)
        assert (mail.mail_from, mails.content(mail).sender) == (
            "platform@example.org",
            [("The Platform", "platform@example.org")],
        )
        email_id = reply["email_id"]
        assert {line for line in mails.header_lines(mail) if line.lower().startswith(b"x-")} == {
            f"X-LFX-TRACKING-ID: batch/{email_id}".encode(),
            b"X-SES-CONFIGURATION-SET: lfx-engagement",
            f"X-SES-MESSAGE-TAGS: email_id={email_id}, campaign=spring, kind=invite".encode(),
        }
        record = await platform.buckets.record(email_id)
        assert record
        assert record["tags"] == {"campaign": "spring", "kind": "invite"}


async def implicit_tls_port_is_free() -> bool:
    """Return whether no other run of this test uses the port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", IMPLICIT_TLS_PORT))
        except OSError:
            return False
        return True


async def test_mail_uses_implicit_tls_on_the_tls_wrapper_port(certificates: Certificates) -> None:
    await until(implicit_tls_port_is_free)
    server = {"implicit_tls": True, "port": IMPLICIT_TLS_PORT}
    async with production(certificates, server=server) as (platform, smtp):
        assert (await platform.caller.send())["email_id"]
        assert [(mail.tls, mail.authenticated_as) for mail in smtp.mails] == [(True, USERNAME)]


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        pytest.param({"SMTP_PASSWORD": "wrong"}, {"smtp_code": 535}, id="wrong-password"),
        pytest.param({"SSL_CERT_FILE": ""}, {}, id="unknown-authority"),
    ],
)
async def test_an_untrusted_certificate_or_a_refused_login_fails_the_delivery(
    certificates: Certificates, variables: dict[str, str], code: dict[str, Any]
) -> None:
    async with production(certificates, server={"require_starttls": True}, **variables) as (platform, smtp):
        assert await platform.caller.send(group_id="g") == delivery_failed(**code)
        assert smtp.mails == []
        assert await platform.buckets.writes() == [0, 0]
