# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reading settings from environment variables: values, defaults, errors and descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relay.settings import RelaySettings
from shared.service import settings
from shared.service.settings import Count, Domains, Password, Port, ProcessSettings, Seconds, Secret, SettingsError
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from pathlib import Path

PROPERTY = hypothesis_settings(max_examples=100)
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


def in_any_case(word: str) -> list[str]:
    return [word, word.upper(), word.title(), f" {word}\n"]


def load(**environ: str) -> Everything:
    return settings.load({name.upper(): value for name, value in environ.items()}, Everything)


def test_the_variables_of_the_specification_have_its_defaults() -> None:
    relay, tracker = RelaySettings(), TrackerSettings()
    assert (relay.nats_url, relay.port, relay.log_level, relay.log_add_source) == (
        "nats://localhost:4222",
        8080,
        "info",
        False,
    )
    assert (relay.smtp_host, relay.smtp_port, relay.smtp_username, relay.smtp_password) == ("localhost", 587, "", "")
    assert (relay.email_enabled, relay.smtp_from) == (False, "noreply@lfx.linuxfoundation.org")
    assert relay.ses_configuration_set == ""
    assert (tracker.ses_eventing_enabled, tracker.ses_engagement_sqs_queue_url) == (False, "")


@pytest.mark.parametrize("value", EMPTY)
def test_an_empty_value_means_the_default_except_for_domains_and_blanks_of_a_password(value: str) -> None:
    names = set(Everything.__struct_fields__) - {"listed", "password"}
    assert settings.load({name.upper(): value for name in names}, Everything) == Everything()


def test_unknown_variables_are_ignored() -> None:
    assert load(unknown="x", nats_urls="x") == Everything()


@pytest.mark.parametrize(("given_value", "expected"), [("x\n", "x"), ("\tx y\r\n", "x y"), ("ä", "ä"), ("0", "0")])
def test_blanks_and_line_ends_around_a_value_are_trimmed(given_value: str, expected: str) -> None:
    assert load(text=given_value).text == expected


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ("\ns3cret\r\n", "s3cret"),
        ("\t s3 cret \n", "\t s3 cret "),
        (" ", " "),
        ("\n", "default"),
        ("", "default"),
    ],
)
def test_a_password_loses_its_line_ends_and_keeps_its_blanks(given_value: str, expected: str) -> None:
    assert load(password=given_value).password == expected


def test_variables_that_end_in_a_newline_are_trimmed() -> None:
    environ = {"SMTP_USERNAME": "user\n", "SMTP_PASSWORD": "s3cret\n", "SMTP_HOST": "localhost\n", "SMTP_PORT": "25\n"}
    loaded = settings.load(environ, RelaySettings)
    assert (loaded.smtp_username, loaded.smtp_password) == ("user", "s3cret")
    assert (loaded.smtp_host, loaded.smtp_port) == ("localhost", 25)


@pytest.mark.parametrize("value", [*SPELLINGS_OF_TRUE, *SPELLINGS_OF_FALSE])
def test_a_boolean_has_several_spellings_in_any_case(value: str) -> None:
    for spelling in in_any_case(value):
        assert load(switch=spelling).switch is (value in SPELLINGS_OF_TRUE)


def test_the_log_level_is_read_in_any_case_and_may_be_called_warning() -> None:
    for value in ("debug", "info", "warn", "error"):
        for spelling in in_any_case(value):
            assert load(log_level=spelling).log_level == value
    assert load(log_level="WARNING").log_level == "warn"


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
        ("count", "1000000"),
        ("seconds", "0.001"),
        ("seconds", "86400"),
    ],
)
def test_a_number_within_its_range_is_read(name: str, value: str) -> None:
    assert getattr(load(**{name: value}), name) == float(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port_number", "0"),
        ("port_number", "65536"),
        ("port_number", "tcp://10.0.0.1:25"),
        ("port_number", "25.5"),
        ("port_number", "0x19"),
        ("port_number", "٢٥"),
        ("port_number", "true"),
        ("count", "0"),
        ("count", "-1"),
        ("count", "1000001"),
        ("count", "9" * 5000),
        ("count", "1_000"),
        ("count", "\udcff"),
        ("seconds", "0"),
        ("seconds", "nan"),
        ("seconds", "inf"),
        ("seconds", "5s"),
        ("seconds", "1,5"),
        ("seconds", "86401"),
        ("switch", "2"),
        ("switch", "tru"),
        ("switch", "null"),
        ("switch", "\uff54\uff52\uff55\uff45"),
        ("choice", "auto,off"),
        ("log_level", "20"),
        ("word", "A"),
        ("text", "\udcff"),
        ("listed", "a.example,\udcff"),
        ("listed", ","),
        ("listed", ", ,"),
    ],
)
def test_an_invalid_value_is_an_error_with_the_variable_and_the_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    assert str(caught.value).startswith(f"{name.upper()}: {value!r} is not ")


@pytest.mark.parametrize(
    ("kind", "variable", "most"),
    [
        (RelaySettings, "MAX_IN_FLIGHT", 1_000_000),
        (TrackerSettings, "MAX_IN_FLIGHT_BYTES", 1_000_000_000_000),
        (RelaySettings, "SMTP_MAX_CONNECTIONS", 10_000),
        (RelaySettings, "SMTP_MAX_MESSAGES_PER_CONNECTION", 1_000_000),
        (TrackerSettings, "SQS_RECEIVERS", 1_000),
    ],
)
def test_a_count_has_an_upper_bound(kind: type[ProcessSettings], variable: str, most: int) -> None:
    """With 100,000 receivers, the process did nothing and could not be stopped."""
    assert getattr(settings.load({variable: str(most)}, kind), variable.lower()) == most
    with pytest.raises(SettingsError, match=f"{variable}: '{most + 1}' is not a whole number from 1 up to {most}"):
        settings.load({variable: str(most + 1)}, kind)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("switch", "ja", "true or false"),
        ("choice", "on", "one of auto, off"),
        ("log_level", "trace", "one of debug, info, warn, error"),
        ("count", "many", "a whole number from 1 up to 1000000"),
        ("port_number", "65536", "a whole number from 1 up to 65535"),
        ("seconds", "0", "a number above 0 up to 86400"),
        ("word", "A", "a text that matches ^[a-z]*$"),
        ("nats_inbox_prefix", "a..b", "words of A-Z a-z 0-9 _ - with dots between them, outside lfx.email-service"),
        ("text", "\udcff", "UTF-8"),
        ("listed", ",", "a list that names a domain"),
    ],
)
def test_an_error_has_the_expected_values(name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**{name: value})
    assert str(caught.value) == f"{name.upper()}: {value!r} is not {expected}"


@pytest.mark.parametrize("prefix", ["_INBOX.relay", "relay_1-a", "lfx", "lfx.email-service-relay"])
def test_an_inbox_prefix_is_words_with_dots_between_them(prefix: str) -> None:
    assert settings.load({"NATS_INBOX_PREFIX": f" {prefix}\n"}, ProcessSettings).nats_inbox_prefix == prefix


@pytest.mark.parametrize(
    "prefix",
    ["_INBOX.", ".x", "_INBOX.*", "_INBOX.>", "$KV.x", "a b", "lfx.email-service", "lfx.email-service.x"],
)
def test_an_inbox_prefix_with_other_characters_or_of_the_service_is_refused(prefix: str) -> None:
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
def test_any_value_is_read_or_is_an_error_with_the_name(name: str, value: str) -> None:
    try:
        load(**{name: value})
    except SettingsError as error:
        assert str(error).startswith(f"{name.upper()}: ")  # noqa: PT017 - most values are read


def test_each_variable_is_described_with_its_source_even_if_another_is_invalid() -> None:
    given = {"NATS_URL": "nats://u:p@n", "PORT": "many", "LOG_LEVEL": "", "MAX_IN_FLIGHT": " 7 "}
    read, variables = settings.describe(given, ProcessSettings)
    assert (read.nats_url, read.port, read.max_in_flight) == ("nats://u:p@n", 8080, 7)
    described = {one.variable: (one.value, one.source) for one in variables}
    assert described["NATS_URL"] == ("nats://***@n", "environment")
    assert described["LOG_LEVEL"] == ("info", "empty, so the default")
    assert described["LOG_ADD_SOURCE"] == ("false", "default")
    assert described["MAX_IN_FLIGHT"] == ("7", "environment")
    assert [one.error for one in variables if one.error] == ["PORT: 'many' is not a whole number from 1 up to 65535"]


def test_a_described_password_is_redacted_and_an_empty_list_comes_from_the_environment() -> None:
    given = {"SMTP_PASSWORD": "hunter2", "SMTP_ALLOWED_FROM_DOMAINS": ""}
    variables = {one.variable: one for one in settings.describe(given, RelaySettings)[1]}
    assert variables["SMTP_PASSWORD"].value == "***"
    assert variables["SMTP_ALLOWED_FROM_DOMAINS"].source == "environment"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a file that has a secret."""
    return tmp_path / "secret"


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("s3cret", "s3cret"),
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        (" s3 cret ", " s3 cret "),
        ("s3cret\n\n", "s3cret\n"),
        ("gehe\u00efm\n", "gehe\u00efm"),
    ],
)
def test_a_file_has_the_password_without_the_line_end_of_an_editor(content: str, password: str, file: Path) -> None:
    file.write_bytes(content.encode())
    assert load(password_file=f" {file} ").password == password
    assert load(password_file=str(file), password=" \n").password == password


def test_each_secret_and_the_user_of_the_password_may_be_in_a_file(file: Path) -> None:
    file.write_text(" nats://user:hunter2@host \n")
    for kind in (RelaySettings, TrackerSettings):
        assert settings.load({"NATS_URL_FILE": str(file)}, kind).nats_url == "nats://user:hunter2@host"
    file.write_text("AKIAUSER\n")
    environ = {"SMTP_USERNAME_FILE": str(file), "SMTP_PASSWORD_FILE": str(file)}
    read = settings.load(environ, RelaySettings)
    assert (read.smtp_username, read.smtp_password) == ("AKIAUSER", "AKIAUSER")
    _, variables = settings.describe(environ, RelaySettings)
    assert {(one.variable, one.value) for one in variables if one.source == "file"} == {
        ("SMTP_USERNAME", "AKIAUSER"),
        ("SMTP_PASSWORD", "***"),
    }


def test_a_file_is_read_for_no_other_variable(file: Path) -> None:
    file.write_text("other")
    assert load(text_file=str(file), listed_file=str(file)) == Everything()


def test_a_secret_that_is_given_twice_is_an_error(file: Path) -> None:
    file.write_text("hunter2")
    with pytest.raises(SettingsError, match=r"^PASSWORD_FILE: PASSWORD is set, too"):
        load(password="hunter2", password_file=str(file))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hunter2\xff", "is not UTF-8"),
        (b"hunter2" * 10_000, "is larger than 65536 bytes"),
    ],
)
def test_a_file_that_has_no_secret_is_an_error_that_names_it(content: bytes | None, problem: str, file: Path) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(secret_file=str(file))
    assert str(caught.value).startswith("SECRET_FILE: ")
    assert str(file) in str(caught.value)
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)
    _, variables = settings.describe({"SECRET_FILE": str(file)}, Everything)
    (described,) = [one for one in variables if one.variable == "SECRET"]
    assert (described.source, described.error) == ("file", str(caught.value))


def test_a_directory_or_a_path_that_cannot_exist_is_an_error(tmp_path: Path) -> None:
    for path in (str(tmp_path), "a\0b"):
        with pytest.raises(SettingsError, match=r"^PASSWORD_FILE: cannot read"):
            load(password_file=path)
