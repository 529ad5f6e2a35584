# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each value is declared, explained, checked and used, and the process gets exactly the variables of its settings."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from relay import settings as relay_settings
from relay.settings import RelaySettings
from shared.service import settings
from tests.charts import chart, features, readme, template_paths
from tracker import settings as tracker_settings
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.service.settings import ProcessSettings

Path = tuple[str, ...]

SETTINGS: Final[dict[str, type[ProcessSettings]]] = {"relay": RelaySettings, "tracker": TrackerSettings}

# Read by libraries inside the process, not by its settings: OpenTelemetry's own variables, and boto3's for the region.
LIBRARIES: Final = {"relay": r"OTEL_\w+", "tracker": r"OTEL_\w+|AWS_REGION"}
QUEUE_URL: Final = "https://sqs.us-west-2.amazonaws.com/1/q"
# SMTP_FROM has the same meaning and is app.email.smtpFrom.
NOT_OFFERED: Final = {"DEFAULT_SMTP_FROM"}

# Settings whose default in the chart, for a cluster, differs from that of the code.
OTHERWISE: Final = {
    "nats_url": "the platform's NATS, not that of this machine",
    "log_add_source": "as in the old chart",
    "email_enabled": "a release is meant to send",
    "smtp_host": "SES",
    "smtp_username": "from the Secret",
    "smtp_password": "from the Secret",
    "ses_configuration_set": "from the Secret",
}

# Accepted without an effect: values of Kubernetes, of umbrella charts and of the Go service's chart.
NOT_USED: Final = {
    ("resources", "claims"),
    ("enabled",),
    ("app", "ses", "configurationSetName"),
    ("app", "ses", "engagementQueueURL"),
}
OF_THE_RELAY: Final = {("app", "email"), ("natsKVBuckets",)}

# All that the chart of the Go service has.
GO_CHART: Final[dict[str, Any]] = {
    "image": {"repository": "ghcr.io/linuxfoundation/lfx-v2-email-service/email-service", "tag": ""},
    "replicaCount": 2,
    "podAnnotations": {},
    "podLabels": {},
    "podDisruptionBudget": {"enabled": False},
    "resources": {"limits": {"cpu": "200m", "memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}},
    "service": {"port": 8080},
    "app": {
        "logLevel": "info",
        "logAddSource": True,
        "email": {
            "enabled": True,
            "smtpHost": "email-smtp.us-west-2.amazonaws.com",
            "smtpPort": "587",
            "smtpFrom": "noreply@lfx.linuxfoundation.org",
            "smtpFromDisplayName": "LFX Self Serve",
            "smtpAllowedFromDomains": "lfx.linuxfoundation.org",
            "smtpAllowedReplyToDomains": "linuxfoundation.org",
            "smtpAllowedRecipientDomains": "",
            "smtpSecretName": "lfx-v2-email-service",
        },
        "ses": {
            "eventingEnabled": True,
            "configurationSetName": "",
            "engagementQueueURL": "",
            "engagementSecretName": "lfx-v2-email-service-engagement",
        },
        "extraEnv": [],
        "otel": {"serviceName": "", "protocol": "grpc", "endpoint": "", "insecure": "false", "tracesExporter": "none"},
    },
    "natsKVBuckets": {"enabled": True},
    "nats": {"url": "nats://lfx-platform-nats.lfx.svc.cluster.local:4222"},
    "serviceAccount": {"create": True, "name": "lfx-v2-email-service", "annotations": {}},
    "global": {"awsRegion": "us-west-2"},
    "externalSecretsOperator": {"enabled": False, "externalSecret": {"refreshInterval": "10m", "data": []}},
}

# Values of every kind: for each key at least one is valid and differs from the default.
OTHERS: Final[tuple[Any, ...]] = (
    "other",
    "7",
    "7m",
    3,
    70,
    "http",
    "debug",
    "Never",
    "memory",
    "workload",
    "always_on",
    "tracecontext",
    "otlp",
    0.5,
    "other@example.org",
    "0 4 * * *",
    "https://example.org/page",
    f"sha256:{'1' * 64}",
    "7w",
    {"cpu": "7"},
    {"other": "value"},
    {"MAX_IN_FLIGHT": 7},
    [{"name": "OTHER"}],
    [{"topologyKey": "other"}],
    [
        {"secretKey": key, "remoteRef": {"key": "other"}}
        for key in ("smtp-username", "smtp-password", "ses_configuration_set_name", "sqs_queue_url")
    ],
)


def leaves(values: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(values, dict) and values:
        for name, inner in values.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


def meets(path: Path, other: Path) -> bool:
    """Return whether the paths are equal or one lies within the other."""
    length = min(len(path), len(other))
    return path[:length] == other[:length]


def leaves_of_schema(schema: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    if path and "properties" not in schema:
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from leaves_of_schema(inner, (*path, name))


ALL_LEAVES: Final = [
    pytest.param(process, path, id=f"{process}-{'.'.join(path)}")
    for process in chart.PROCESSES
    for path in leaves(chart.values(process))
]


@pytest.mark.parametrize(("process", "path"), ALL_LEAVES)
def test_each_declared_value_changes_what_is_rendered(process: str, path: Path) -> None:
    cases = features.CASES[process]
    likely = sorted((cases["full"], *cases.values()), key=lambda case: path[0] not in case)
    assert any(_renders(process, case, path) for case in likely)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_each_value_that_a_template_uses_is_declared(process: str) -> None:
    declared = {path[:length] for path in leaves(chart.values(process)) for length in range(1, len(path) + 1)}
    texts = {template["name"]: template["data"] for template in chart.load(process).templates}
    used = {path for text in texts.values() for path in template_paths.used(text)}
    assert len(used) > 20
    assert used - declared == set()


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_each_value_is_explained(process: str) -> None:
    explained = {value.path for value in readme.documented(process)}
    for path in leaves(chart.values(process)):
        assert any(path[:length] in explained for length in range(1, len(path) + 1)), path


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_readme_of_a_chart_has_the_table_of_its_values(process: str) -> None:
    assert readme.page(process).read_text() == readme.with_table(process), "make chart-docs"


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_schema_has_each_value_and_no_other(process: str) -> None:
    known = set(leaves_of_schema(chart.schema(process)))
    declared = set(leaves(chart.values(process)))
    assert {path for path in declared if not any(meets(path, other) for other in known)} == set()
    assert {path for path in known if not any(meets(path, other) for other in declared)} == (
        NOT_USED if process == "relay" else NOT_USED | OF_THE_RELAY
    )


@pytest.mark.parametrize(
    ("process", "given"),
    [
        ("relay", {"image": {"tga": "1"}}),
        ("relay", {"fullnameOverride": "n" * 47}),
        ("tracker", {"fullnameOverride": "Mail_Tracker"}),
        ("relay", {"app": {"email": {"smtphost": "mail"}}}),
        ("relay", {"app": {"settings": {"SMTP_MAX_CONECTIONS": 1}}}),
        ("relay", {"app": {"settings": {"SMTP_HOST": "has its own value"}}}),
        ("relay", {"app": {"settings": {"SMTP_TLS": False}}}),
        ("relay", {"app": {"logLevel": "verbose"}}),
        ("relay", {"app": {"otel": {"propagators": "b3"}}}),
        ("relay", {"natsKVBuckets": {"buckets": {"another": {"maxValueSize": 1}}}}),
        ("relay", {"replicaCount": "two"}),
        ("relay", {"podAnnotations": {"prometheus.io/scrape": True}}),
        ("tracker", {"keda": {"minReplicaCount": 0}}),
        ("relay", {"replicacount": 3}),
        ("tracker", {"Image": {"tag": "1"}}),
        ("tracker", {"app": {"emial": {"enabled": True}}}),
        ("tracker", {"app": {"ses": {"queue": "https://…"}}}),
        ("tracker", {"nats": {"url": ""}}),
        ("tracker", {"natsStream": {"maxBytes": 0}}),
        ("tracker", {"natsStream": {"maxAge": ""}}),
        ("tracker", {"natsStream": {"subjects": ["lfx.>"]}}),
    ],
)
def test_a_value_that_no_template_uses_is_refused(process: str, given: dict[str, Any]) -> None:
    with pytest.raises(chart.Refused):
        chart.render(process, given)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_a_misspelt_key_at_the_top_level_is_named(process: str) -> None:
    with pytest.raises(chart.Refused, match="replicacount"):
        chart.render(process, {"replicacount": 3})


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_values_of_the_go_chart_render(process: str) -> None:
    assert chart.variables(chart.render(process, GO_CHART))["SES_EVENTING_ENABLED" if process == "tracker" else "PORT"]


@pytest.mark.parametrize("process", chart.PROCESSES)
@pytest.mark.parametrize("name", ["configurationSetName", "engagementQueueURL"])
def test_a_value_that_the_go_chart_ignored_is_an_error_that_names_the_secret(process: str, name: str) -> None:
    with pytest.raises(chart.Refused, match=rf"app\.ses\.{name} has no effect.*engagementSecretName"):
        chart.render(process, {"app": {"ses": {name: "lfx-email"}}})


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_an_umbrella_chart_may_add_values_at_the_top_level(process: str) -> None:
    umbrella = {
        "lfx": {"domain": "example.org"},
        "lfx-v2-email-relay": {"replicaCount": 1},
        "enabled": True,
        "global": {"imageRegistry": "example.org"},
    }
    assert chart.render(process, umbrella) == chart.render(process)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_pods_get_exactly_the_variables_of_the_settings(process: str) -> None:
    known = {name.upper() for name in SETTINGS[process].__struct_fields__}
    named = set(chart.schema(process)["properties"]["app"]["properties"]["settings"]["properties"])
    own = {
        name.removesuffix("_FILE")
        for case in features.CASES[process].values()
        for name in chart.variables(chart.render(process, case))
    }
    own -= named | {
        variable["name"].removesuffix("_FILE") for case in features.CASES[process].values() for variable in _extra(case)
    }
    libraries = {name for name in own if re.fullmatch(LIBRARIES[process], name)}
    assert (own - libraries) | named == known - NOT_OFFERED
    assert libraries - known


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_defaults_are_those_of_the_code(process: str) -> None:
    kind = SETTINGS[process]
    given = settings.load(_environment(chart.render(process)), kind)
    for name in kind.__struct_fields__:
        assert name in OTHERWISE or getattr(given, name) == getattr(kind(), name), name


@pytest.mark.parametrize(("process", "case"), features.ALL)
def test_the_settings_accept_the_variables(process: str, case: str) -> None:
    environment = _environment(chart.render(process, features.CASES[process][case]))
    if process == "relay":
        relay_settings.policy(settings.load(environment, RelaySettings))
    else:
        tracker_settings.check(settings.load(environment, TrackerSettings))


def test_a_large_whole_number_stays_a_whole_number() -> None:
    given = chart.render(
        "relay", {"app": {"settings": {"MAX_IN_FLIGHT_BYTES": 10_000_000, "SMTP_MAX_IDLE_SECONDS": 2.5}}}
    )
    variables = chart.variables(given)
    assert variables["MAX_IN_FLIGHT_BYTES"]["value"] == "10000000"
    assert variables["SMTP_MAX_IDLE_SECONDS"]["value"] == "2.5"


@pytest.mark.parametrize("name", ["SMTP_HOST", "SMTP_PASSWORD", "SMTP_PASSWORD_FILE"])
@pytest.mark.parametrize("as_files", [True, False])
def test_a_variable_that_is_given_twice_is_refused(name: str, as_files: bool) -> None:  # noqa: FBT001 - a value of the chart
    given = {"email": {"smtpSecretAsFiles": as_files}, "extraEnv": [{"name": name, "value": "mail"}]}
    with pytest.raises(chart.Refused, match=f"{name.removesuffix('_FILE')} is set twice"):
        chart.render("relay", {"app": given})


@pytest.mark.parametrize(
    ("given", "endpoint", "protocol"),
    [
        ({"protocol": "grpc", "endpoint": "collector:4317"}, "https://collector:4317", "grpc"),
        ({"protocol": "grpc", "endpoint": "collector:4317", "insecure": "true"}, "http://collector:4317", "grpc"),
        (
            {"protocol": "http", "endpoint": "collector:4318", "insecure": True},
            "http://collector:4318",
            "http/protobuf",
        ),
        ({"protocol": "http", "endpoint": "https://collector"}, "https://collector", "http/protobuf"),
    ],
)
def test_the_old_values_for_telemetry_become_those_of_opentelemetry(
    given: dict[str, Any], endpoint: str, protocol: str
) -> None:
    for process in chart.PROCESSES:
        variables = chart.variables(chart.render(process, {"app": {"otel": given}}))
        assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == endpoint
        assert variables["OTEL_EXPORTER_OTLP_PROTOCOL"]["value"] == protocol


def _renders(process: str, case: dict[str, Any], path: Path) -> bool:
    """Return whether another value at this path changes a rendered text."""
    before = chart.texts(process, case)
    now = chart.load(process).merge_values(case)
    for name in path:
        now = now[name]
    fits = jsonschema.Draft202012Validator(
        _schema_of(process, path)
    ).is_valid  # faster than Helm, which checks all values
    for other in sorted(filter(fits, (not now, *OTHERS)), key=lambda other: type(other) is not type(now)):
        with contextlib.suppress(*chart.Refused):
            if other != now and chart.texts(process, _with(case, path, other)) != before:
                return True
    return False


def _schema_of(process: str, path: Path) -> dict[str, Any]:
    """Return the schema of the value at a path; it accepts anything if the chart's schema does not go so deep."""
    found = whole = chart.schema(process)
    for name in path:
        found = found.get("properties", {}).get(name, {})
    return {"$defs": whole["$defs"], **found}


def _with(values: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    inner = changed
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    return changed


def _extra(case: dict[str, Any]) -> list[dict[str, Any]]:
    extra: list[dict[str, Any]] = case.get("app", {}).get("extraEnv", [])
    return extra


def _environment(objects: list[chart.Object]) -> dict[str, str]:
    """Return the variables of the container, those from Secrets and their files with a valid text."""
    environment = {
        name: variable.get("value", QUEUE_URL if name.endswith("_URL") else "some-text")
        for name, variable in chart.variables(objects).items()
    }
    for name in [name for name in environment if name.startswith("SMTP_") and name.endswith("_FILE")]:
        environment[name.removesuffix("_FILE")] = "some-text"
        del environment[name]
    return environment
