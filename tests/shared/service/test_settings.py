# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How environment variables become settings, with the variables of both processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relay.settings import RelaySettings
from shared.service import settings
from shared.service.settings import Count, Domains, Password, Port, ProcessSettings, Seconds, Secret, SettingsError
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

PROPERTY = hypothesis_settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
SPELLINGS_OF_TRUE = ("true", "t", "1", "yes", "on")
SPELLINGS_OF_FALSE = ("false", "f", "0", "no", "off")
EMPTY = ("", " ", "\n", "\t \r\n")


class Everything(ProcessSettings, frozen=True, kw_only=True):
    """One field of each kind."""

    text: str = "default"
    password: Password = "default"  # noqa: S105
    secret: Secret = "default"  # noqa: S105
    choice: Literal["auto", "off"] = "auto"
    switch: bool = True
    port_number: Port = 25
    count: Count = 2
    seconds: Seconds = 1.5
    listed: Domains = ("default.example",)
    secret_word: Annotated[str, msgspec.Meta(pattern="^[a-z]*$", extra={"secret": True})] = ""
    word: Annotated[str, msgspec.Meta(pattern="^[a-z]*$")] = ""


def load(**environ: str) -> Everything:
    return settings.load({name.upper(): value for name, value in environ.items()}, Everything)


@pytest.mark.parametrize(
    ("kind", "name", "default"),
    [
        (RelaySettings, "nats_url", "nats://localhost:4222"),
        (RelaySettings, "port", 8080),
        (RelaySettings, "email_enabled", False),
        (RelaySettings, "smtp_host", "localhost"),
        (RelaySettings, "smtp_port", 587),
        (RelaySettings, "smtp_from", "noreply@lfx.linuxfoundation.org"),
        (RelaySettings, "smtp_username", ""),
        (RelaySettings, "smtp_password", ""),
        (RelaySettings, "ses_configuration_set", ""),
        (TrackerSettings, "ses_eventing_enabled", False),
        (TrackerSettings, "ses_engagement_sqs_queue_url", ""),
        (RelaySettings, "log_level", "info"),
        (RelaySettings, "log_add_source", False),
        (RelaySettings, "default_smtp_from_display_name", "LFX Self Serve"),
        (RelaySettings, "smtp_allowed_from_domains", ("lfx.linuxfoundation.org",)),
        (RelaySettings, "smtp_allowed_reply_to_domains", ("linuxfoundation.org",)),
        (RelaySettings, "smtp_allowed_recipient_domains", ()),
        (RelaySettings, "smtp_max_connections", 32),
        (RelaySettings, "smtp_max_idle_seconds", 5.0),
        (RelaySettings, "smtp_tls", "auto"),
        (RelaySettings, "smtp_timeout_seconds", 30.0),
        (RelaySettings, "send_retry_seconds", 8.0),
        (RelaySettings, "max_in_flight", 1024),
        (RelaySettings, "ses_max_send_rate", 0.0),
        (RelaySettings, "shutdown_timeout_seconds", 25.0),
        (RelaySettings, "nats_creds", ""),
        (RelaySettings, "nats_inbox_prefix", "_INBOX"),
    ],
)
@pytest.mark.parametrize("value", [None, *EMPTY])
def test_an_unset_or_empty_variable_means_the_documented_default(
    kind: type[ProcessSettings], name: str, default: object, value: str | None
) -> None:
    if value is not None and name in {"smtp_allowed_from_domains", "smtp_allowed_reply_to_domains"}:
        default = ()  # the two where empty counts
    if value is not None and name == "smtp_password":
        value = value.strip(" \t")  # blanks belong to it
    environ = {} if value is None else {name.upper(): value}
    assert getattr(settings.load(environ, kind), name) == default


def test_variables_that_no_field_is_named_after_change_nothing() -> None:
    assert load(unknown="x", nats_urls="x") == Everything()


@pytest.mark.parametrize(
    ("given_value", "expected"), [("x", "x"), (" x ", "x"), ("x\n", "x"), ("\tx y\r\n", "x y"), ("ä", "ä"), ("0", "0")]
)
def test_blanks_and_line_ends_around_a_value_do_not_count(given_value: str, expected: str) -> None:
    assert load(text=given_value).text == expected


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        ("\ns3cret\n\n", "s3cret"),
        (" s3 cret ", " s3 cret "),
        (" s3cret \n", " s3cret "),
        ("\ts3cret", "\ts3cret"),
        (" ", " "),
        ("\n", "default"),
        ("", "default"),
    ],
)
def test_f112_a_password_loses_its_line_ends_and_keeps_its_blanks(given_value: str, expected: str) -> None:
    assert load(password=given_value).password == expected


def test_f112_secrets_that_end_in_a_newline_work_as_trimmed() -> None:
    environ = {"SMTP_USERNAME": "user\n", "SMTP_PASSWORD": "s3cret\n", "SMTP_HOST": "localhost\n", "SMTP_PORT": "25\n"}
    loaded = settings.load(environ, RelaySettings)
    assert (loaded.smtp_username, loaded.smtp_password) == ("user", "s3cret")
    assert (loaded.smtp_host, loaded.smtp_port) == ("localhost", 25)


@pytest.mark.parametrize("form", [str.lower, str.upper, str.title, lambda word: f" {word}\n"])
@pytest.mark.parametrize("value", [*SPELLINGS_OF_TRUE, *SPELLINGS_OF_FALSE])
def test_a_boolean_is_read_in_any_spelling(value: str, form: Callable[[str], str]) -> None:
    assert load(switch=form(value)).switch is (value in SPELLINGS_OF_TRUE)


@pytest.mark.parametrize("value", ["debug", "info", "warn", "error"])
@pytest.mark.parametrize("form", [str.lower, str.upper, str.title, lambda word: f" {word}\n"])
def test_the_log_level_is_read_in_any_case(value: str, form: Callable[[str], str]) -> None:
    assert load(log_level=form(value)).log_level == value


@pytest.mark.parametrize("value", ["warning", "WARNING"])
def test_pythons_own_word_for_warn_is_understood(value: str) -> None:
    assert load(log_level=value).log_level == "warn"


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ("a.example", ("a.example",)),
        ("a.example,b.example", ("a.example", "b.example")),
        (" A.Example , b.EXAMPLE\n", ("a.example", "b.example")),
        (",a.example,,", ("a.example",)),
        ("", ()),
        ("\n", ()),
    ],
)
def test_domains_are_split_at_commas_trimmed_and_lower_cased_and_empty_means_none(
    given_value: str, expected: tuple[str, ...]
) -> None:
    assert load(listed=given_value).listed == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port_number", "1"),
        ("port_number", "65535"),
        ("count", "1"),
        ("count", "100000"),
        ("seconds", "0.001"),
        ("seconds", "30"),
        ("seconds", "86400"),
        ("seconds", " 2.5\n"),
    ],
)
def test_a_number_within_its_range_is_read(name: str, value: str) -> None:
    assert getattr(load(**{name: value}), name) == float(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port_number", "0"),
        ("port_number", "65536"),
        ("port_number", "-1"),
        ("port_number", "http"),
        ("port_number", "tcp://10.0.0.1:25"),
        ("port_number", "25.5"),
        ("port_number", "0x19"),
        ("port_number", "٢٥"),
        ("port_number", "2 5"),
        ("port_number", "true"),
        ("count", "0"),
        ("count", "-1"),
        ("count", "1_000"),
        ("count", "many"),
        ("count", "\udcff"),
        ("seconds", "0"),
        ("seconds", "-1"),
        ("seconds", "nan"),
        ("seconds", "-inf"),
        ("seconds", "5s"),
        ("seconds", "1,5"),
        ("seconds", "1e999"),
        ("seconds", "inf"),
        ("seconds", "1e300"),
        ("seconds", "86401"),
        ("switch", "2"),
        ("switch", "ja"),
        ("switch", "tru"),
        ("switch", "true false"),
        ("switch", "null"),
        ("switch", "\uff54\uff52\uff55\uff45"),
        ("choice", "on"),
        ("choice", "auto,off"),
        ("log_level", "trace"),
        ("log_level", "information"),
        ("log_level", "20"),
        ("word", "A"),
        ("text", "\udcff"),
        ("listed", "a.example,\udcff"),
        ("listed", ","),
        ("listed", ", ,"),
    ],
)
def test_anything_else_is_an_error_that_names_the_variable_and_shows_the_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    assert str(caught.value).startswith(f"{name.upper()}: {value!r} is not ")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("switch", "ja", "true or false"),
        ("choice", "on", "one of auto, off"),
        ("log_level", "trace", "one of debug, info, warn, error"),
        ("count", "0", ">= 1"),
        ("port_number", "65536", "<= 65535"),
        ("seconds", "0", "> 0"),
        ("text", "\udcff", "UTF-8"),
        ("listed", ",", "a list that names a domain"),
    ],
)
def test_an_error_says_what_is_wanted(name: str, value: str, wanted: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    assert wanted in str(caught.value)


@pytest.mark.parametrize("prefix", ["_INBOX.relay", "relay_1-a", "lfx", "lfx.email-service-relay"])
def test_an_inbox_prefix_is_words_with_dots_between_them(prefix: str) -> None:
    assert settings.load({"NATS_INBOX_PREFIX": f" {prefix}\n"}, ProcessSettings).nats_inbox_prefix == prefix


@pytest.mark.parametrize(
    "prefix",
    ["_INBOX.", ".x", "a..b", "_INBOX.*", "_INBOX.>", "$KV.x", "a b", "lfx.email-service", "lfx.email-service.x"],
)
def test_what_would_be_no_inbox_or_everybodys_is_refused(prefix: str) -> None:
    with pytest.raises(SettingsError, match=r"^NATS_INBOX_PREFIX: "):
        settings.load({"NATS_INBOX_PREFIX": prefix}, ProcessSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret_word", "hunter2"),
        ("password", "hunter2\udcff"),
        ("secret", "nats://user:hunter2\udcff@host"),
        ("nats_url", "nats://user:hunter2\udcff@host"),
    ],
)
def test_an_error_never_shows_a_secret(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    shown = "".join(str(error) for error in (caught.value, caught.value.__cause__, *caught.value.args))
    assert shown.startswith(f"{name.upper()}: its value (not shown) is not ")
    assert "hunter2" not in shown
    assert "udcff" not in shown


@pytest.mark.parametrize(
    ("kind", "secret"),
    [(RelaySettings, {"nats_url", "smtp_password"}), (TrackerSettings, {"nats_url"}), (ProcessSettings, {"nats_url"})],
)
def test_these_fields_and_no_others_are_secret(kind: type[ProcessSettings], secret: set[str]) -> None:
    _, described = settings.describe({name.upper(): "hunter2" for name in kind.__struct_fields__}, kind)
    assert {one.variable.lower() for one in described if "hunter2" not in one.value + one.error} == secret


@PROPERTY
@given(st.sampled_from(Everything.__struct_fields__), st.text(st.characters(exclude_characters="\0")))
def test_any_value_is_either_read_or_refused_by_name(name: str, value: str) -> None:
    try:
        load(**{name: value})
    except SettingsError as error:
        assert str(error).startswith(f"{name.upper()}: ")  # noqa: PT017 - most values are read


def test_each_variable_is_described_with_its_source_and_one_that_means_nothing_hides_no_other() -> None:
    given = {"NATS_URL": "nats://u:p@n", "PORT": "many", "LOG_LEVEL": "", "MAX_IN_FLIGHT": " 7 "}
    read, variables = settings.describe(given, ProcessSettings)
    assert (read.nats_url, read.port, read.max_in_flight) == ("nats://u:p@n", 8080, 7)
    described = {one.variable: (one.value, one.source) for one in variables}
    assert described["NATS_URL"] == ("nats://***@n", "environment")
    assert described["LOG_LEVEL"] == ("info", "empty, so the default")
    assert described["LOG_ADD_SOURCE"] == ("false", "default")
    assert described["MAX_IN_FLIGHT"] == ("7", "environment")
    assert [one.error for one in variables if one.error] == [
        "PORT: 'many' is not a valid value (Expected `int`, got `str`)"
    ]


def test_a_described_password_is_not_shown_and_an_empty_list_is_no_default() -> None:
    given = {"SMTP_PASSWORD": "nobody's", "SMTP_ALLOWED_FROM_DOMAINS": ""}
    variables = {one.variable: one for one in settings.describe(given, RelaySettings)[1]}
    assert variables["SMTP_PASSWORD"].value == "***"
    assert variables["SMTP_ALLOWED_FROM_DOMAINS"].source == "environment"
