# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""send_email: the reply to each request; a refused request sends and records nothing."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import nats.errors
import pytest
import pytest_asyncio

from tests.acceptance import mails, services
from tests.acceptance.caller import EMAIL, SEND_EMAIL, delivery_failed, email
from tests.stack import scripted_smtp, smtp_scripts
from tests.stack import smtp_server as smtp_servers
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller
    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("relay")]

INVALID_PAYLOAD = "invalid request payload"
REQUIRED = "to, subject, html, and text are required"
FILTERED = {"email_id": "", "group_id": ""}
FIELDS = ("to", "subject", "html", "text", "group_id", "from", "from_display_name", "reply_to")
HOME = "lfx.linuxfoundation.org"  # the default allows `from` and `reply_to` here

# One of each kind; tests/shared/test_addresses.py has all of them.
NOT_A_MAILBOX = {
    "no-at": "ada",
    "blank": " \t ",
    "two": f"a@{HOME}, b@{HOME}",
    "two-ats": f"a@evil.example@{HOME}",
    "route": f"<@evil.example:j@{HOME}>",
    "non-ascii-local-part": f"jörg@{HOME}",
    "command-in-quotes": f'"a\r\nRCPT TO:<x@evil.example>\r\n"@{HOME}',
    "line-break-in-name": f"Jane\r\nBcc: x@evil.example <j@{HOME}>",
    "nul": f"a\0@{HOME}",
}
LONG_DOMAIN = ".".join(["d" * 63] * 2 + ["e" * 45, HOME])  # 197 bytes
TOO_LONG = {
    "field": f"{'N' * 479} <noreply@{HOME}>",
    "field-in-utf-8": f"N{'é' * 239} <noreply@{HOME}>",
    "address": f"{'a' * 57}@{LONG_DOMAIN}",
    "local-part": f"{'a' * 65}@{HOME}",
}


def refused() -> Iterable[Any]:
    """Yield requests with one invalid field, and their errors."""
    for field in ("to", "subject", "html", "text"):
        yield pytest.param({field: None}, REQUIRED, id=f"{field}-null")
        yield pytest.param({field: ""}, REQUIRED, id=f"{field}-empty")
    for field, name in (("to", "to"), ("from", "from"), ("reply_to", "reply_to")):
        for what, mailbox in NOT_A_MAILBOX.items():
            yield pytest.param({field: mailbox}, f"invalid {name} address", id=f"{field}-{what}")
        for what, mailbox in TOO_LONG.items():
            yield pytest.param({field: mailbox}, f"{name} address too long", id=f"{field}-too-long-{what}")
    for what, value in (("cr", "a\rb"), ("ends-in-lf", "a\n"), ("nul", "a\0b")):
        yield pytest.param({"group_id": value}, "invalid group_id", id=f"group_id-{what}")
    yield pytest.param({"subject": "\r\n \0"}, REQUIRED, id="subject-of-line-breaks")
    for field, limit, error in (
        ("subject", 998, "subject too long"),
        ("from_display_name", 256, "from_display_name too long"),
        ("group_id", 255, "invalid group_id"),
    ):
        yield pytest.param({field: "x" * (limit + 1)}, error, id=f"{field}-too-long")
        yield pytest.param({field: "é" * (limit // 2 + 1)}, error, id=f"{field}-too-long-in-utf-8")
    for domain in ("example.com", "linuxfoundation.org", f"x.{HOME}", f"x{HOME}", f"{HOME}.example.com"):
        yield pytest.param({"from": f"a@{domain}"}, "from address domain not allowed", id=f"from-{domain}")
    for domain in ("example.com", "evillinuxfoundation.org", "linuxfoundation.org.example.com", "org"):
        yield pytest.param({"reply_to": f"a@{domain}"}, "reply_to address domain not allowed", id=f"reply_to-{domain}")


def malformed() -> Iterable[Any]:
    """Yield bodies that are not a request."""
    good = json.dumps(EMAIL)
    for what, text in {
        "empty": "",
        "no-json": "to=ada@example.com",
        "half": good[:-1],
        "more-behind": f"{good} {{}}",
        "null": "null",
        "array": f"[{good}]",
        "string": json.dumps(good),
        "number": "1",
        "single-quotes": "{'to': 'ada@example.com'}",
        "half-a-surrogate-pair": good.replace("Hello Ada", "\\ud83d cut", 1),
        "other-half": good.replace("Hello Ada", "cut \\ude00", 1),
        "two-first-halves": good.replace("Hello Ada", "\\ud83d\\ud83d", 1),
        "half-a-surrogate-pair-in-an-unknown-field": f'{good[:-1]}, "x": "\\ud800"}}',
        "deep": f'{{"to": {"[" * 100_000}{"]" * 100_000}}}',
        "deep-in-an-unknown-field": f'{{"x": {"[" * 100_000}{"]" * 100_000}}}',
        "deep-objects": '{"x":' * 50_000 + "1" + "}" * 50_000,
    }.items():
        yield pytest.param(text.encode(), id=what)
    yield pytest.param(good.encode("utf-16"), id="utf-16")
    yield pytest.param(b"\xef\xbb\xbf" + good.encode(), id="byte-order-mark")
    yield pytest.param(good.replace("Hello Ada", "Zo\xeb").encode("latin-1"), id="latin-1")
    yield pytest.param(good.encode()[:-1] + b', "x": "\xff"}', id="not-utf-8-in-an-unknown-field")
    for field, value in [(field, 1) for field in FIELDS] + [("to", value) for value in (True, ["x"], {"x": "y"})]:
        yield pytest.param(json.dumps(EMAIL | {field: value}).encode(), id=f"{field}-{type(value).__name__}")


@pytest_asyncio.fixture(loop_scope="module")
async def nothing_happens(buckets: Buckets, smtp_server: SmtpServer) -> AsyncIterator[None]:
    """Assert that the test sends nothing and records nothing."""
    before = (len(smtp_server.mails), await buckets.writes())
    yield
    assert (len(smtp_server.mails), await buckets.writes()) == before


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize(("changes", "error"), list(refused()))
async def test_an_invalid_field_gets_its_error(caller: Caller, changes: dict[str, object], error: str) -> None:
    assert await caller.ask(SEND_EMAIL, EMAIL | changes) == {"error": error}


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("field", ["to", "subject", "html", "text"])
async def test_a_missing_required_field_is_an_error(caller: Caller, field: str) -> None:
    request = {name: value for name, value in EMAIL.items() if name != field}
    assert await caller.ask(SEND_EMAIL, request) == {"error": REQUIRED}
    assert await caller.ask(SEND_EMAIL, {}) == {"error": REQUIRED}


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("body", list(malformed()))
async def test_a_malformed_body_is_an_invalid_payload(caller: Caller, body: bytes) -> None:
    assert await caller.ask(SEND_EMAIL, body) == {"error": INVALID_PAYLOAD}


@pytest.mark.usefixtures("nothing_happens")
async def test_the_reply_is_the_first_error_in_the_order_of_the_checks(caller: Caller) -> None:
    faults: dict[str, tuple[object, str]] = {
        "html": ("", REQUIRED),
        "group_id": ("a\nb", "invalid group_id"),
        "to": ("nobody", "invalid to address"),
        "from": ("ada@example.com", "from address domain not allowed"),
        "from_display_name": ("x" * 257, "from_display_name too long"),
        "reply_to": ("ada@example.com", "reply_to address domain not allowed"),
        "subject": ("x" * 999, "subject too long"),
    }
    request = EMAIL | {field: value for field, (value, _) in faults.items()}
    errors = []
    for field in faults:
        errors.append((await caller.ask(SEND_EMAIL, request))["error"])
        request |= {field: EMAIL.get(field)}
    assert errors == [error for _, error in faults.values()]


LONGEST_ADDRESS = f"{'a' * 56}@{LONG_DOMAIN}"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"to": f"{'N' * 478} <noreply@{HOME}>"}, id="to-of-512-bytes"),
        pytest.param({"to": LONGEST_ADDRESS}, id="address-of-254-bytes"),
        pytest.param({"to": f"{'a' * 64}@example.com"}, id="local-part-of-64-bytes"),
        pytest.param({"subject": "x" * 998}, id="subject-of-998-bytes"),
        pytest.param({"subject": "é" * 499}, id="subject-of-998-bytes-of-utf-8"),
        pytest.param({"from_display_name": "x" * 256}, id="name-of-256-bytes"),
        pytest.param({"group_id": "g" * 255}, id="group-of-255-bytes"),
        pytest.param({"group_id": "é" * 127}, id="group-of-254-bytes-of-utf-8"),
        pytest.param({"to": " \tada@example.com \t"}, id="blanks-around"),
        pytest.param({"to": "Ada <ada@example.com>"}, id="with-name"),
        pytest.param({"to": '"Doe, Jane" <j@example.com>'}, id="with-quoted-name"),
        pytest.param({"to": '"a b"@example.com'}, id="quoted-local-part"),
        pytest.param({"from": f"a@{HOME.upper()}"}, id="from-in-capitals"),
        pytest.param({"from": f"Ada <a@{HOME}>"}, id="from-with-name"),
        pytest.param({"reply_to": "a@linuxfoundation.org"}, id="reply_to-listed"),
        pytest.param({"reply_to": "a@deep.below.LinuxFoundation.org"}, id="reply_to-below-a-listed-one"),
        pytest.param({"unknown": {"x": [1, None]}, "To": "x", "idempotency": 1}, id="unknown-fields"),
        pytest.param(dict.fromkeys(("group_id", "from", "from_display_name", "reply_to")), id="optional-null"),
        pytest.param(dict.fromkeys(("group_id", "from", "from_display_name", "reply_to"), ""), id="optional-empty"),
    ],
)
async def test_request_within_the_limits_is_sent(
    caller: Caller, smtp_server: SmtpServer, changes: dict[str, object]
) -> None:
    before = len(smtp_server.mails)
    reply = await caller.ask(SEND_EMAIL, EMAIL | changes)
    assert list(reply) == ["email_id", "group_id"]
    [mail] = smtp_server.mails[before:]
    assert mails.email_id(mail) == reply["email_id"]


async def test_line_breaks_in_subject_and_name_are_cleaned_in_mail_and_record(
    caller: Caller, smtp_server: SmtpServer, buckets: Buckets
) -> None:
    typed = {"subject": "Welcome\r\nBcc: x@evil.example\0", "from_display_name": "Ada\nLovelace"}
    email_id = (await caller.ask(SEND_EMAIL, EMAIL | typed))["email_id"]
    mail = smtp_server.mails[-1]
    assert mail.recipients == (EMAIL["to"],)
    assert mails.content(mail).subject == "Welcome Bcc: x@evil.example"
    assert b"\r\nFrom: Ada Lovelace <" in b"\r\n" + mail.content
    [record] = await buckets.records([email_id])
    assert record["subject"] == "Welcome Bcc: x@evil.example"


async def test_ids_are_uuids_and_the_group_is_the_callers_own_or_a_new_uuid(caller: Caller) -> None:
    named, first, second = await caller.send(group_id="batch/1"), await caller.send(), await caller.send()
    assert named["group_id"] == "batch/1"
    ids = [named["email_id"], *first.values(), *second.values()]
    assert [str(uuid.UUID(one)) for one in ids] == ids
    assert len(set(ids)) == 5


async def test_the_last_value_of_a_repeated_field_is_used(caller: Caller) -> None:
    body = json.dumps(EMAIL)[:-1] + ', "group_id": "first", "group_id": "last"}'
    assert (await caller.ask(SEND_EMAIL, body.encode()))["group_id"] == "last"


async def test_every_request_gets_exactly_one_reply_with_a_body(caller: Caller) -> None:
    bodies = [json.dumps(EMAIL | {"to": to}).encode() for to in ("ada@example.com", "", "nobody")] + [
        b"",
        b"[",
        b"\xff",
    ]
    replies = await caller.publish_all(SEND_EMAIL, bodies * 20)
    await replies.wait_for(len(bodies) * 20)
    await caller.send()  # its reply comes after all other replies of the relay
    assert [len(bodies) for bodies in replies.bodies.values()] == [1] * len(replies.bodies)
    assert all(json.loads(body) for [body] in replies.bodies.values())


async def test_a_request_without_a_reply_subject_is_served(caller: Caller, smtp_server: SmtpServer) -> None:
    before = len(smtp_server.mails)
    for body in (b"", json.dumps(email(subject="No reply")).encode()):
        await caller.client.publish(SEND_EMAIL, body)
    mail = (await smtp_server.wait_for_mails(before + 1))[-1]
    assert mails.content(mail).subject == "No reply"
    assert (await caller.send())["email_id"]


async def test_a_refused_recipient_fails_the_delivery_and_has_no_record(
    caller: Caller, smtp_server: SmtpServer, buckets: Buckets, relay: Console
) -> None:
    smtp_server.refuse("nobody@example.com", "550 5.1.1 <nobody@example.com>: no such user")
    before = await buckets.writes()
    assert await caller.send(to="nobody@example.com", group_id="nobody") == delivery_failed(
        permanent=True, smtp_code=550
    )
    assert await caller.send(to="ada@example.com")  # the connection is still good
    assert await buckets.email_ids("nobody") == []
    assert [last - first for first, last in zip(before, await buckets.writes(), strict=True)] == [1, 1]
    (failure,) = await until(lambda: [line for line in relay.logged("email.failed") if line["group_id"] == "nobody"])
    assert (failure["code"], failure["error"]) == (550, "5.1.1 <n***@example.com>: no such user")
    assert "nobody@example.com" not in relay.output


async def test_recipient_outside_the_allowlist_is_answered_with_empty_ids() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, SMTP_ALLOWED_RECIPIENT_DOMAINS=" Example.com, bücher.example "),
    ):
        send = platform.caller.send
        outside = ("a@example.org", "a@notexample.com", "a@example.com.evil.example", "a@com", "Ada <a@example.net>")
        assert [await send(to=to, group_id="g") for to in outside] == [FILTERED] * 5
        assert await send(to="nobody") == {"error": "invalid to address"}
        assert await platform.buckets.writes() == [0, 0]
        assert smtp.mails == []
        inside = ("a@example.com", "a@EXAMPLE.COM", "a@deep.example.com", "a@xn--bcher-kva.example", "a@Bücher.example")
        assert [(await send(to=to, group_id="g"))["group_id"] for to in inside] == ["g"] * 5
        assert len(await platform.buckets.email_ids("g")) == len(smtp.mails) == 5


async def test_allowlists_set_to_empty_allow_no_from_and_no_reply_to() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, SMTP_ALLOWED_FROM_DOMAINS="", SMTP_ALLOWED_REPLY_TO_DOMAINS=" "),
    ):
        send = platform.caller.send
        assert await send(from_=f"a@{HOME}") == {"error": "from address domain not allowed"}
        assert await send(reply_to=f"a@{HOME}") == {"error": "reply_to address domain not allowed"}
        assert (await send())["email_id"]
        assert [mail.mail_from for mail in smtp.mails] == [f"noreply@{HOME}"]


async def test_allowlists_replace_the_defaults_and_compare_what_goes_on_the_wire() -> None:
    lists = {"SMTP_ALLOWED_FROM_DOMAINS": "A.example,bücher.example", "SMTP_ALLOWED_REPLY_TO_DOMAINS": "a.example"}
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, **lists),
    ):
        send = platform.caller.send
        assert await send(from_=f"a@{HOME}") == {"error": "from address domain not allowed"}
        assert await send(from_="a@sub.a.example") == {"error": "from address domain not allowed"}
        assert await send(reply_to=f"a@{HOME}") == {"error": "reply_to address domain not allowed"}
        assert await send(reply_to="a@bücher.example") == {"error": "reply_to address domain not allowed"}
        for sender in ("a@a.EXAMPLE", "a@xn--bcher-kva.example", "Anna <a@BÜCHER.example>"):
            assert (await send(from_=sender, reply_to="a@sub.a.example"))["email_id"]
        assert [mail.mail_from.lower() for mail in smtp.mails] == ["a@a.example"] + 2 * ["a@xn--bcher-kva.example"]


async def test_with_sending_disabled_requests_are_checked_and_nothing_is_sent_or_recorded() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, EMAIL_ENABLED="", SMTP_ALLOWED_RECIPIENT_DOMAINS="example.com") as relay,
    ):
        send = platform.caller.send
        first, second = await send(group_id="g"), await send()
        assert first["group_id"] == "g"
        assert len({*first.values(), *second.values()}) == 4
        assert await send(to="nobody") == {"error": "invalid to address"}
        assert await send(to="a@example.org") == FILTERED
        logged = await relay.wait_for_log("email.disabled", count=2)
        assert logged["email_id"] == second["email_id"]
        assert await platform.buckets.writes() == [0, 0]
        assert (smtp.mails, smtp.connections) == ([], 0)


async def test_a_request_above_the_limit_is_refused_at_once_and_not_sent() -> None:
    slow = smtp_scripts.always("dot", smtp_scripts.Delay(1.0))
    async with (
        services.platform() as platform,
        scripted_smtp.running(slow) as smtp,
        services.relay(platform.nats, smtp, MAX_IN_FLIGHT="2"),
    ):
        bodies = [json.dumps(email(group_id="g")).encode()] * 5
        replies = await platform.caller.publish_all(SEND_EMAIL, bodies)
        await replies.wait_for(3)
        assert [json.loads(body) for [body] in replies.bodies.values()] == [{"error": "service busy"}] * 3
        assert smtp.mails == []
        await replies.wait_for(5)
        assert len(smtp.mails) == 2
        assert sorted(await platform.buckets.email_ids("g")) == sorted(map(mails.email_id, smtp.mails))


async def test_a_mail_with_an_unknown_outcome_is_not_sent_again() -> None:
    async with (
        services.platform() as platform,
        scripted_smtp.running(smtp_scripts.first(1, "dot", smtp_scripts.STORE_THEN_CLOSE)) as smtp,
        services.relay(platform.nats, smtp) as relay,
    ):
        assert await platform.caller.send() == delivery_failed("unknown")
        logged = await relay.wait_for_log("email.uncertain")
        assert [logged["email_id"]] == [mails.email_id(mail) for mail in smtp.mails]
        sent = await platform.caller.sent()
        assert [mails.email_id(mail) for mail in smtp.mails] == [logged["email_id"], sent]


async def test_temporary_refusals_are_retried_within_the_time_of_the_request() -> None:
    throttled = smtp_scripts.Reply("454 Throttling failure: Maximum sending rate exceeded.")
    async with (
        services.platform() as platform,
        scripted_smtp.running(smtp_scripts.first(2, "dot", throttled)) as smtp,
        services.relay(platform.nats, smtp),
    ):
        email_id = await platform.caller.sent()
        assert [mails.email_id(mail) for mail in smtp.mails] == [email_id]


async def test_a_request_fails_at_its_deadline_and_later_ones_are_sent() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, SEND_RETRY_SECONDS="0.5"),
    ):
        await smtp.stop()
        assert await platform.caller.send() == delivery_failed()
        await smtp.start()
        email_id = await platform.caller.sent()
        assert [mails.email_id(mail) for mail in smtp.mails] == [email_id]


async def test_a_stopped_relay_has_no_subscription() -> None:
    async with services.platform() as platform, smtp_servers.running() as smtp:
        async with services.relay(platform.nats, smtp) as relay:
            assert (await platform.caller.send())["email_id"]
            relay.terminate()
            assert await relay.wait() == 0
        with pytest.raises(nats.errors.NoRespondersError):
            await platform.caller.send()
