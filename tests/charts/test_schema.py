# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The schemas of the values refuse what the processes refuse, so that no pod fails at its start, and nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, get_type_hints

import jsonschema
import pytest

from relay import settings as relay_settings
from relay.settings import Rate, RelaySettings
from shared.nats import servers
from shared.service import settings
from shared.service.settings import Bytes, Count, Seconds, SettingsError
from shared.telemetry import tracing
from tests.charts import chart
from tracker import settings as tracker_settings
from tracker.commands.retention.command import Age
from tracker.settings import TrackerSettings

Path = tuple[str, ...]
Values = tuple[Any, ...]

# For each kind of variable: values that the process accepts, and values that it refuses.
COUNTS: Final[tuple[Values, Values]] = (
    (1, 7, 1_000_000, 2.0, "7", " 7 ", "1e3", "1.0", "1e6", "1000000", ""),
    (0, -1, 1.5, True, "0", "-1", "1.5", "07", "+7", "seven", "7 MB", "1_000", "0x7", 1_000_001, "1000001", "2e6"),
)
BYTES: Final[tuple[Values, Values]] = (
    (1, 25_000_000, 10**12, "25000000", "1000000000000", "3e9", "1e12", ""),
    (0, -1, 10**12 + 1, "0", "1000000000001", "2e12", "25 MB"),
)
SECONDS: Final[tuple[Values, Values]] = (
    (1, 0.5, 86_400, 0.00001, "30", "0.5", "86400", "86400.0", "1e2", "86399.9", "0.001", " 8 ", ""),
    (0, -1, 86_401, False, "0", "0.0", "-8", "30s", "1m", "86401", "99999", "086", "+8", ".5", "5.", "inf", "nan"),
)
RATES: Final[tuple[Values, Values]] = (
    (0, 0.0, 14, 0.001, 0.5, 1_000_000, "0", "14", "0.001", "0.5", "1e3", "1000000", "999999.5", "-0", "0.0000", ""),
    (-1, 0.0009, 1_000_001, True, "-1", "14/s", "0.0009", "1000001", "fast", "inf", "+1", ".5"),
)
FLAGS: Final[tuple[Values, Values]] = (
    (True, False, 0, 1, "true", "False", "TRUE", "t", "F", "yes", "No", "on", "OFF", "1", "0", ""),
    (2, -1, 0.5, "y", "enabled", "tru", "10", "null"),
)
OF_KIND: Final = {Count: COUNTS, Bytes: BYTES, Seconds: SECONDS, Rate: RATES, bool: FLAGS}
DOMAINS: Final[tuple[Values, Values]] = (
    ("", "a.example", "a.example, b.example", " , A.example,", "a_b.example", "ä.example", "localhost", "xn--4ca.de"),
    (",", ".a.example", "*.a.example", "@a.example", "a.example;b.example", "a example", "-a.example", "a..example"),
)
URLS: Final[tuple[Values, Values]] = (
    ("nats://a", "nats://u:p@a:4222,tls://b", "a:4222", "TLS://a", " nats://a , ", "nats://a/", "nats://[::1]:4222"),
    ("http://a", "nats:/a", "nats://", ",", "nats://a,http://b", "u:p/w@a"),
)
PREFIXES: Final[tuple[Values, Values]] = (
    ("_INBOX", "_INBOX.relay", "a-b", "lfx.email", 5, "lfx.email-services", ""),
    ("a b", "a..b", ".a", "_INBOX.>", "_INBOX.*", "lfx.email-service", "lfx.email-service.x"),
)
NAMED: Final[dict[str, tuple[Values, Values]]] = {
    "NATS_INBOX_PREFIX": PREFIXES,
    "SMTP_HELO_NAME": (
        ("", "mail", "mail.example.", "[192.0.2.1]", "2001:db8::1", "[IPv6:2001:db8::1]", "ä.example", "1.example"),
        ("mail:25", "https://mail", "a b", "a_b", "-a", "25", "a@b", "a,b"),
    ),
    "SMTP_MAX_CONNECTIONS": ((1, 10_000, "10000", "5e3", ""), (0, 10_001, "10001", "2e4", "many")),
    "SQS_RECEIVERS": ((1, 1000, "1000", "2e2", ""), (0, 1001, "1001", "2e3", "many")),
    "SMTP_TLS": (("auto", "required", "off"), (False, True, "on", "starttls", "none")),
}
ELSEWHERE: Final[dict[str, tuple[Path, tuple[Values, Values]]]] = {
    "SHUTDOWN_TIMEOUT_SECONDS": (("app", "shutdownTimeoutSeconds"), ((1, 0.5, 40), (0, -1, 86_401, "25 s"))),
    "LOG_LEVEL": (("app", "logLevel"), (("debug", "warn"), ("verbose", 1))),
    "PORT": (("service", "port"), ((1, 65_535), (0, 65_536, -1))),
    "NATS_URL": (("nats", "url"), URLS),
    "SMTP_PORT": (
        ("app", "email", "smtpPort"),
        ((25, "587", 65_535, "65535"), (0, "0", 65_536, "65536", "smtp", "025")),
    ),
    "SMTP_HOST": (
        ("app", "email", "smtpHost"),
        (
            ("mail", "mail.example.", "[192.0.2.1]", "::1", "fe80::1%eth0", "a_b", "ä.example", "1.example"),
            ("mail:25", "https://mail", "a b", "-a", "25", "a@b", "mail/", "a,b"),
        ),
    ),
    "SMTP_FROM": (
        ("app", "email", "smtpFrom"),
        (
            ("a@b", "A <a@b>", '"A, B" <a@b>', "<a@b>", "", "ä <a@b>", "a@[192.0.2.1]", "a@b (c@d)", "a @ b"),
            ("a", "a@", "@b", "a@b,c@d", "a@b@c", "a\nb@c", "A <a>", "LFX"),
        ),
    ),
    "DEFAULT_SMTP_FROM_DISPLAY_NAME": (
        ("app", "email", "smtpFromDisplayName"),
        (("", "LFX", "ä" * 128, "a" * 256), ("a\nb", "a" * 257, "a\rb")),
    ),
    "SMTP_ALLOWED_FROM_DOMAINS": (("app", "email", "smtpAllowedFromDomains"), DOMAINS),
    "SMTP_ALLOWED_REPLY_TO_DOMAINS": (("app", "email", "smtpAllowedReplyToDomains"), DOMAINS),
    "SMTP_ALLOWED_RECIPIENT_DOMAINS": (("app", "email", "smtpAllowedRecipientDomains"), DOMAINS),
    "OTEL_TRACES_SAMPLER_ARG": (
        ("app", "otel", "tracesSamplerArg"),
        ((0, 1, 0.25, "0.25", "1", "1.0", "0", "1e-3", ".5", ""), (-0.1, 2, "2", "10 %", "-1", "half")),
    ),
    "OTEL_PROPAGATORS": (
        ("app", "otel", "propagators"),
        (("", "baggage", "tracecontext, jaeger", "none", "baggage,"), ("b3", "tracecontext baggage", "all")),
    ),
}
SCHEDULES: Final[tuple[Values, Values]] = (
    (
        "30 3 * * *",
        "*/5 0-6,22 1,15 * MON-fri",
        "0 0 ? jan-dec/2 0",
        "@daily",
        "@every 1h30m",
        "  0 3 * * 6  ",
        "00 03 1 1 *",
    ),
    (
        "never",
        "",
        "30 3 * *",
        "60 3 * * *",
        "0 24 * * *",
        "0 0 0 * *",
        "0 0 * 13 *",
        "0 0 * * 7",
        "*/0 * * * *",
        "3 am",
    ),
)
AGES: Final[tuple[Values, Values]] = (
    ("1d", "24h", "999999h", "729999d", "104999w", "26w"),
    ("0d", "999999d", "999999w", "1y", "180", "-1d", "180 d"),
)


def variables(process: str) -> dict[str, Path]:
    """Return each variable of app.settings with its path."""
    inner: Path = ("properties", "app", "properties", "settings", "properties")
    found: Any = chart.schema(process)
    for name in inner:
        found = found[name]
    return {name: ("app", "settings", name) for name in found}


def values_of(process: str, variable: str) -> tuple[Values, Values]:
    """Return values that the process accepts and refuses, by the variable's name or type."""
    return NAMED.get(variable) or OF_KIND[types(process)[variable.lower()]]


@cache
def types(process: str) -> dict[str, Any]:
    """Return the type of each variable of a process, with its bounds."""
    return get_type_hints(kind(process), include_extras=True)


def kind(process: str) -> type[RelaySettings | TrackerSettings]:
    """Return the settings of a process."""
    return RelaySettings if process == "relay" else TrackerSettings


def all_cases() -> list[Any]:
    """Return each value with its process, path, variable, and whether it is to be accepted."""
    found = []
    for process in chart.PROCESSES:
        listed = {name: (path, values_of(process, name)) for name, path in variables(process).items()}
        known = {name: one for name, one in ELSEWHERE.items() if process == "relay" or one[0][1:2] != ("email",)}
        for variable, (path, both) in (listed | known).items():
            for is_good, values in zip((True, False), both, strict=True):
                found += [
                    pytest.param(process, path, variable, value, is_good, id=f"{process}-{variable}-{str(value)[:20]}")
                    for value in values
                ]
    return found


@pytest.mark.parametrize(("process", "path", "variable", "value", "is_good"), all_cases())
async def test_schema_and_process_agree_on_each_value(
    process: str,
    path: Path,
    variable: str,
    value: Any,
    is_good: bool,  # noqa: FBT001 - a case
) -> None:
    assert await accepted_by_process(process, variable, text(value)) == is_good
    assert accepted_by_schema(process, path, value) == is_good


@pytest.mark.parametrize("process", chart.PROCESSES)
@pytest.mark.parametrize(
    ("path", "value"), [(("retention", "schedule"), "never"), (("app", "settings", "MAX_IN_FLIGHT"), -1)]
)
def test_helm_reads_the_schemas_as_these_tests_do(process: str, path: Path, value: Any) -> None:
    given: Any = value
    for name in reversed(path):
        given = {name: given}
    with pytest.raises(chart.Refused):
        chart.render(process, given)


def test_a_schedule_is_one_that_kubernetes_accepts() -> None:
    assert accepted("tracker", ("retention", "schedule"), SCHEDULES) == SCHEDULES[0]


def test_an_age_is_one_that_the_command_accepts() -> None:
    assert accepted("tracker", ("retention", "olderThan"), AGES) == AGES[0]
    for age in AGES[0]:
        assert Age().convert(age, None, None)


def test_retention_has_the_urls_and_the_inbox_prefix_of_a_process() -> None:
    assert accepted("tracker", ("retention", "nats", "url"), URLS) == URLS[0]
    assert accepted("tracker", ("retention", "nats", "inboxPrefix"), PREFIXES) == PREFIXES[0]


def accepted(process: str, path: Path, values: tuple[Values, Values]) -> Values:
    """Return the values that the schema accepts."""
    return tuple(value for both in values for value in both if accepted_by_schema(process, path, value))


def accepted_by_schema(process: str, path: Path, value: Any) -> bool:
    """Return whether the schema accepts a value at a path."""
    found = whole = chart.schema(process)
    for name in path:
        found = found["properties"][name]
    is_valid: bool = jsonschema.Draft202012Validator({"$defs": whole["$defs"], **found}).is_valid(value)
    return is_valid


async def accepted_by_process(process: str, variable: str, given: str) -> bool:
    """Return whether the process starts with this text in the variable."""
    environment = {variable: given}
    try:
        if variable.startswith("OTEL_"):
            await tracing.configured(environment, process).aclose()
            return True
        found = settings.load(environment, kind(process))
        servers.urls(found.nats_url)
        if isinstance(found, RelaySettings):
            relay_settings.policy(found)
        else:
            tracker_settings.check(found)
    except SettingsError:
        return False
    return True


def text(value: Any) -> str:
    """Return the text of a variable, as the charts write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
