# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Which requests are accepted, their defaults, and the order of the checks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import header_text, submission
from relay.submission import Filtered, Policy, Refused, Submission
from shared import contract
from shared.addresses import Mailbox
from shared.contract import SendEmailRequest

PROPERTY = settings(max_examples=100)
EMAIL_ID = "550e8400-e29b-41d4-a716-446655440000"
NEW_GROUP_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

REQUEST = SendEmailRequest(to="user@example.com", subject="Hi", html="<p>Hi</p>", text="Hi")
POLICY = Policy(
    sender=Mailbox("noreply", "lfx.linuxfoundation.org"),
    display_name="LFX Self Serve",
    from_domains=frozenset({"lfx.linuxfoundation.org", "xn--bcher-kva.example"}),
    reply_to_domains=("linuxfoundation.org",),
    recipient_domains=(),
)
STAGING = msgspec.structs.replace(POLICY, recipient_domains=("linuxfoundation.org", "example.org"))


def accept(policy: Policy = POLICY, /, **changes: Any) -> Submission | Refused | Filtered:
    request = msgspec.structs.replace(REQUEST, **changes)
    return submission.accept(request, policy, email_id=EMAIL_ID, new_group_id=NEW_GROUP_ID)


def accepted(policy: Policy = POLICY, /, **changes: Any) -> Submission:
    """Return the submission of a request that is not refused."""
    answer = accept(policy, **changes)
    if not isinstance(answer, Submission):
        raise TypeError(answer)
    return answer


def test_the_four_required_fields_are_enough() -> None:
    assert accept() == Submission(
        email_id=EMAIL_ID,
        group_id=NEW_GROUP_ID,
        sender=Mailbox("noreply", "lfx.linuxfoundation.org", "LFX Self Serve"),
        recipient=Mailbox("user", "example.com"),
        reply_to=None,
        to="user@example.com",
        subject="Hi",
        text="Hi",
        html="<p>Hi</p>",
    )


def test_every_field_is_accepted_unchanged() -> None:
    assert accept(
        to="Anna <user@Example.com>",
        subject=" Two  blanks ",
        text=" \n",
        html="\0",
        group_id="invite batch/1",
        from_="Team <team@lfx.linuxfoundation.org>",
        from_display_name="LFX",
        reply_to="Help <help@linuxfoundation.org>",
        unsubscribe_url="https://lfx.dev/é",
        tags={"campaign": "spring_2025"},
    ) == Submission(
        email_id=EMAIL_ID,
        group_id="invite batch/1",
        sender=Mailbox("team", "lfx.linuxfoundation.org", "LFX"),
        recipient=Mailbox("user", "Example.com", "Anna"),
        reply_to=Mailbox("help", "linuxfoundation.org", "Help"),
        to="Anna <user@Example.com>",
        subject=" Two  blanks ",
        text=" \n",
        html="\0",
        unsubscribe_url="https://lfx.dev/%C3%A9",
        tags={"campaign": "spring_2025"},
    )


@pytest.mark.parametrize("name", ["to", "subject", "html", "text"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_required_field_is_reported_before_any_other_error(name: str, value: str | None) -> None:
    others = {"to": "no address", "subject": "x" * 999, "group_id": "\n", "from_": "x", "reply_to": "x"}
    assert accept(**{**others, name: value}) == Refused("to, subject, html, and text are required")


@pytest.mark.parametrize("value", [None, ""])
def test_an_optional_field_that_is_null_or_empty_counts_as_absent(value: str | None) -> None:
    absent = dict.fromkeys(("group_id", "from_", "from_display_name", "reply_to", "unsubscribe_url"), value)
    assert accept(**absent, tags={} if value == "" else None) == accept()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # group_id
        ({"group_id": "é" * 128}, "invalid group_id"),
        ({"group_id": "a\rb"}, "invalid group_id"),
        ({"group_id": "\0"}, "invalid group_id"),
        # to
        ({"to": "nobody"}, "invalid to address"),
        ({"to": "jörg@example.com"}, "invalid to address"),
        ({"to": '"a\r\nRCPT TO:<x@evil.example>\r\n"@example.com'}, "invalid to address"),
        ({"to": f"{'x' * 497} <a@example.com>"}, "to address too long"),
        # from
        ({"from_": "nobody"}, "invalid from address"),
        ({"from_": "Anna\r\nBcc: x@evil.example\r\n <a@lfx.linuxfoundation.org>"}, "invalid from address"),
        ({"from_": f"{'x' * 512} <a@lfx.linuxfoundation.org>"}, "from address too long"),
        ({"from_": f"{'l' * 65}@evil.example"}, "from address too long"),
        ({"from_": "a@evil.example"}, "from address domain not allowed"),
        ({"from_": "a@sub.lfx.linuxfoundation.org"}, "from address domain not allowed"),
        ({"from_": "a@linuxfoundation.org"}, "from address domain not allowed"),
        ({"from_": "a@lfx.linuxfoundation.org.evil.example"}, "from address domain not allowed"),
        ({"from_": '"lfx.linuxfoundation.org" <a@evil.example>'}, "from address domain not allowed"),
        ({"from_": '"a@lfx.linuxfoundation.org"@evil.example'}, "from address domain not allowed"),
        ({"from_": "a@evil.example (@lfx.linuxfoundation.org)"}, "from address domain not allowed"),
        # from_display_name
        ({"from_display_name": "x" * 257}, "from_display_name too long"),
        ({"from_display_name": "é" * 128 + "x"}, "from_display_name too long"),
        # reply_to
        ({"reply_to": "nobody"}, "invalid reply_to address"),
        ({"reply_to": "a@linuxfoundation.org\r\nBcc: x@evil.example"}, "invalid reply_to address"),
        ({"reply_to": f"{'x' * 512} <a@linuxfoundation.org>"}, "reply_to address too long"),
        ({"reply_to": "a@evil.example"}, "reply_to address domain not allowed"),
        ({"reply_to": "a@notlinuxfoundation.org"}, "reply_to address domain not allowed"),
        ({"reply_to": "a@linuxfoundation.org.evil.example"}, "reply_to address domain not allowed"),
        ({"reply_to": "a@org"}, "reply_to address domain not allowed"),
        # subject
        ({"subject": "x" * 999}, "subject too long"),
        ({"subject": "é" * 499 + "x"}, "subject too long"),
        ({"subject": "a\n" + "x" * 997}, "subject too long"),
        # unsubscribe_url
        ({"unsubscribe_url": "http://lfx.dev/u"}, "invalid unsubscribe_url"),
        ({"unsubscribe_url": "https://lfx.dev/u>\r\nBcc: x@evil.example"}, "invalid unsubscribe_url"),
        ({"unsubscribe_url": "x", "list_unsubscribe_url": "https://lfx.dev/u"}, "invalid unsubscribe_url"),
        ({"list_unsubscribe_url": "http://lfx.dev/u"}, "invalid unsubscribe_url"),
        ({"list_unsubscribe_url": "mailto:u@lfx.dev", "list_unsubscribe_post": False}, "invalid unsubscribe_url"),
        ({"list_unsubscribe_url": "<https://lfx.dev/u>"}, "invalid unsubscribe_url"),
        ({"list_unsubscribe_url": "https://lfx.dev/u\r\nBcc: x@evil.example"}, "invalid unsubscribe_url"),
        # tags
        ({"tags": {str(number): "x" for number in range(11)}}, "invalid tags"),
        ({"tags": {"": "x"}}, "invalid tags"),
        ({"tags": {"x": ""}}, "invalid tags"),
        ({"tags": {"x" * 129: "x"}}, "invalid tags"),
        ({"tags": {"x": "x" * 129}}, "invalid tags"),
        ({"tags": {"x": "a\r\nBcc: x@evil.example"}}, "invalid tags"),
        ({"tags": {"x": "a\n"}}, "invalid tags"),
        ({"tags": {"x": "a,ses:b=c"}}, "invalid tags"),
        ({"tags": {"é": "x"}}, "invalid tags"),
        ({"tags": {"x": "٣"}}, "invalid tags"),
        ({"tags": {"email_id": "x"}}, "invalid tags"),
    ],
    ids=lambda it: next(iter(it)) if isinstance(it, dict) else it,
)
def test_a_wrong_field_is_refused_with_its_error_string(changes: dict[str, Any], reason: str) -> None:
    assert accept(**changes) == Refused(reason)


@pytest.mark.parametrize(
    ("changes", "field", "taken"),
    [
        ({"group_id": "x" * 255}, "group_id", "x" * 255),
        ({"group_id": "é" * 127}, "group_id", "é" * 127),
        ({"group_id": "=.1.a"}, "group_id", "=.1.a"),
        ({"group_id": " "}, "group_id", " "),
        ({"subject": "x" * 998}, "subject", "x" * 998),
        ({"subject": "é" * 499}, "subject", "é" * 499),
        ({"subject": "😀" * 249 + "ab"}, "subject", "😀" * 249 + "ab"),
        ({"subject": " "}, "subject", " "),
        ({"subject": "\0" * 2000 + "x" * 998}, "subject", "x" * 998),
        ({"to": f"{'x' * 496} <a@example.com>"}, "recipient", Mailbox("a", "example.com", "x" * 496)),
        ({"to": f"{'l' * 64}@example.com"}, "recipient", Mailbox("l" * 64, "example.com")),
        ({"to": f"ab@{'d.' * 125}d"}, "recipient", Mailbox("ab", f"{'d.' * 125}d")),
        ({"text": "x" * 1_000_000}, "text", "x" * 1_000_000),
        (
            {"tags": {f"{number}" * 128: "Az_-" * 32 for number in range(10)}},
            "tags",
            {f"{number}" * 128: "Az_-" * 32 for number in range(10)},
        ),
    ],
    ids=lambda it: next(iter(it)) if isinstance(it, dict) else None,
)
def test_a_field_at_its_limit_is_accepted_unchanged(changes: dict[str, Any], field: str, taken: object) -> None:
    assert getattr(accepted(**changes), field) == taken


@pytest.mark.parametrize("subject", ["\n", "\0", " \r\n\t ", "\x1c\x85\x7f"])
def test_a_subject_of_which_cleaning_leaves_nothing_is_missing(subject: str) -> None:
    assert accept(subject=subject, to="no address") == Refused("to, subject, html, and text are required")


@pytest.mark.parametrize("name", ["\n", "\0", " \r\n\t ", "\x1c\x85\x7f"])
def test_a_display_name_of_which_cleaning_leaves_nothing_is_absent(name: str) -> None:
    assert accept(from_display_name=name) == accept()


def test_line_breaks_and_controls_in_subject_and_display_name_are_cleaned() -> None:
    taken = accepted(subject="Invitation:\r\n\tBcc: x@evil.example\0\n", from_display_name="Ada\r\nLovelace\x1b")
    assert taken.subject == "Invitation: Bcc: x@evil.example"
    assert taken.sender.name == "Ada Lovelace"


def test_the_limits_are_those_of_the_cleaned_text() -> None:
    taken = accepted(subject="x" * 499 + "\r\n" * 9999 + "y" * 498, from_display_name="\n" * 9999 + "é" * 128)
    assert len(taken.subject) == 998
    assert taken.sender.name == "é" * 128


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("post", [None, False, True])
def test_the_alias_of_the_unsubscribe_url_needs_a_url(value: str | None, post: bool | None) -> None:  # noqa: FBT001 - as in JSON
    assert accept(list_unsubscribe_url=value, list_unsubscribe_post=post) == accept()


URL = "https://lfx.dev/u"


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({"unsubscribe_url": URL}, (URL, True)),
        ({"unsubscribe_url": URL, "list_unsubscribe_post": False}, (URL, True)),
        ({"unsubscribe_url": URL, "list_unsubscribe_url": "http://other", "list_unsubscribe_post": False}, (URL, True)),
        ({"list_unsubscribe_url": URL, "list_unsubscribe_post": True}, (URL, True)),
        ({"unsubscribe_url": "", "list_unsubscribe_url": URL, "list_unsubscribe_post": True}, (URL, True)),
        ({"list_unsubscribe_url": URL, "list_unsubscribe_post": False}, (URL, False)),
        ({"list_unsubscribe_url": f"{URL}/é", "list_unsubscribe_post": None}, (f"{URL}/%C3%A9", False)),
        ({"list_unsubscribe_url": URL}, (URL, False)),
    ],
)
def test_one_click_needs_the_url_by_its_own_name_or_the_alias_with_post(
    changes: dict[str, Any], sent: tuple[str, bool]
) -> None:
    taken = accepted(**changes)
    assert (taken.unsubscribe_url, taken.one_click) == sent


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "😀" * 64])
def test_a_display_name_at_its_limit_is_accepted_unchanged(name: str) -> None:
    assert accepted(from_display_name=name).sender.name == name


WRONG = {
    "group_id": ("\n", "invalid group_id"),
    "to": ("nobody", "invalid to address"),
    "from_": ("nobody", "invalid from address"),
    "from_display_name": ("x" * 257, "from_display_name too long"),
    "reply_to": ("nobody", "invalid reply_to address"),
    "subject": ("x" * 999, "subject too long"),
    "unsubscribe_url": ("http://lfx.dev", "invalid unsubscribe_url"),
    "tags": ({"": ""}, "invalid tags"),
}
"""In the order of the checks."""

REASONS = {value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)}


@pytest.mark.parametrize("first", range(len(WRONG)))
def test_of_several_errors_the_first_is_reported(first: int) -> None:
    wrong = list(WRONG.items())[first:]
    assert accept(**{name: value for name, (value, _) in wrong}) == Refused(wrong[0][1][1])


@pytest.mark.parametrize("to", ["user@linuxfoundation.org", "user@sub.EXAMPLE.org", "Anna <user@example.org>"])
def test_a_recipient_inside_the_allowlist_is_accepted(to: str) -> None:
    assert accepted(STAGING, to=to).to == to


@pytest.mark.parametrize("to", ["user@example.com", "user@notexample.org", "user@example.org.evil.example", "user@org"])
def test_a_recipient_outside_the_allowlist_is_filtered(to: str) -> None:
    local_part, domain = to.split("@")
    assert accept(STAGING, to=to) == Filtered(Mailbox(local_part, domain))


@pytest.mark.parametrize("name", ["from_", "from_display_name", "reply_to", "subject"])
def test_for_a_recipient_outside_the_allowlist_no_further_field_is_checked(name: str) -> None:
    assert accept(STAGING, **{name: WRONG[name][0]}) == Filtered(Mailbox("user", "example.com"))


@pytest.mark.parametrize("name", ["group_id", "to"])
def test_the_group_id_and_the_recipient_are_checked_before_the_allowlist(name: str) -> None:
    value, reason = WRONG[name]
    assert accept(STAGING, **{name: value}) == Refused(reason)


@pytest.mark.parametrize(
    ("from_", "from_display_name", "default_name", "sender"),
    [
        (None, None, "", "noreply@lfx.linuxfoundation.org|LFX Self Serve"),
        (None, None, "Own", "noreply@lfx.linuxfoundation.org|Own"),
        (None, "Given", "Own", "noreply@lfx.linuxfoundation.org|Given"),
        (None, " Given ", "", "noreply@lfx.linuxfoundation.org|Given"),
        (None, " ", "", "noreply@lfx.linuxfoundation.org|LFX Self Serve"),
        ("a@lfx.linuxfoundation.org", None, "Own", "a@lfx.linuxfoundation.org|LFX Self Serve"),
        ("Anna <a@lfx.linuxfoundation.org>", None, "Own", "a@lfx.linuxfoundation.org|Anna"),
        ("Anna <a@lfx.linuxfoundation.org>", "Given", "Own", "a@lfx.linuxfoundation.org|Given"),
        ("Anna <a@LFX.LinuxFoundation.org>", "\t", "", "a@LFX.LinuxFoundation.org|Anna"),
        ("<a@bücher.example>", None, "", "a@xn--bcher-kva.example|LFX Self Serve"),
    ],
)
def test_sender_and_display_name_come_from_the_request_or_from_the_operator(
    from_: str | None, from_display_name: str | None, default_name: str, sender: str
) -> None:
    address, _, name = sender.partition("|")
    local_part, _, domain = address.partition("@")
    default = msgspec.structs.replace(POLICY.sender, name=default_name)
    policy = msgspec.structs.replace(POLICY, sender=default)
    assert accepted(policy, from_=from_, from_display_name=from_display_name).sender == Mailbox(
        local_part, domain, name
    )


def test_the_default_sender_needs_no_allowlist() -> None:
    policy = msgspec.structs.replace(POLICY, from_domains=frozenset(), reply_to_domains=())
    assert accepted(policy).sender.address == "noreply@lfx.linuxfoundation.org"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"from_": "noreply@lfx.linuxfoundation.org"}, "from address domain not allowed"),
        ({"reply_to": "a@linuxfoundation.org"}, "reply_to address domain not allowed"),
    ],
)
def test_an_empty_allowlist_allows_nothing(changes: dict[str, str], reason: str) -> None:
    policy = msgspec.structs.replace(POLICY, from_domains=frozenset(), reply_to_domains=())
    assert accept(policy, **changes) == Refused(reason)


def test_the_domain_is_punycode_and_the_recorded_address_is_unchanged() -> None:
    taken = accepted(to="Anna <anna@bücher.example>")
    assert taken.recipient == Mailbox("anna", "xn--bcher-kva.example", "Anna")
    assert taken.to == "Anna <anna@bücher.example>"


requests = st.fixed_dictionaries(
    {"to": st.one_of(st.just("user@example.com"), st.text())},
    optional={
        "subject": st.text(),
        "text": st.text(),
        "group_id": st.text(),
        "from_": st.one_of(st.just("a@lfx.linuxfoundation.org"), st.text()),
        "from_display_name": st.text(),
        "reply_to": st.one_of(st.just("a@linuxfoundation.org"), st.text()),
    },
)


@PROPERTY
@given(requests)
def test_any_request_is_refused_or_accepted_unchanged(changes: dict[str, str]) -> None:
    answer = accept(**changes)
    if isinstance(answer, Submission):
        request = msgspec.structs.replace(REQUEST, **changes)
        assert (answer.to, answer.text) == (request.to, request.text)
        assert answer.subject == header_text.one_line(request.subject or "")
        assert answer.group_id == (request.group_id or NEW_GROUP_ID)
    else:
        assert isinstance(answer, Refused)
        assert answer.reason in REASONS
