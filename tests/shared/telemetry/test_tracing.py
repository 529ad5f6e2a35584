# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The variables of OpenTelemetry: the values that are accepted, and the errors for others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import lifecycle
from shared.service.settings import SettingsError
from shared.telemetry import tracing
from tests.stack import otlp_receiver
from tests.stack.ports import free_port

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is not one of otlp, none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "udp"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'udp' is not one of"),
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER: 'sometimes' is not one of"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG: '2' is not a number from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER_ARG": "half"}, "OTEL_TRACES_SAMPLER_ARG: 'half' is not a number from 0 to 1"),
        ({"OTEL_PROPAGATORS": "tracecontext,xray"}, "OTEL_PROPAGATORS: 'xray' is not one of"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "5s"}, "OTEL_BSP_SCHEDULE_DELAY: '5s' is not a whole number"),
        ({"OTEL_BSP_EXPORT_TIMEOUT": "unset"}, "OTEL_BSP_EXPORT_TIMEOUT: 'unset' is not a whole number"),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT: 'x' is not a whole number"),
    ],
)
def test_an_invalid_value_is_an_error_with_its_variable(variables: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as error:
        lifecycle._tracing({"OTEL_TRACES_EXPORTER": "otlp", **variables}, "name")  # noqa: SLF001 - `run` calls it
    assert str(error.value).startswith(named)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"),
    ],
)
def test_an_invalid_value_that_opentelemetry_reads_is_an_error_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        tracing.configured(os.environ, "name")


def test_a_wrong_limit_is_one_line_although_opentelemetry_reads_it_during_its_import() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "many", "PORT": str(free_port())}
    relay = Path(sys.executable).parent / "lfx-email-relay"
    done = subprocess.run([relay, "serve"], env=environ, capture_output=True, check=False, timeout=60)  # noqa: S603 - our own words
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["msg"], done.returncode, done.stderr) == ("start.failed", 1, b"")
    assert line["error"] == "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT: 'many' is not a whole number"


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_SPAN_LINK_COUNT_LIMIT", "Unset"), ("OTEL_BSP_SCHEDULE_DELAY", " 50 ")]
)
async def test_a_limit_may_be_unset(variable: str, value: str) -> None:
    traced = lifecycle._tracing({"OTEL_TRACES_EXPORTER": "otlp", variable: value}, "name")  # noqa: SLF001 - `run` calls it
    assert traced
    await traced.aclose()


@pytest.mark.parametrize("value", ["", " "])
async def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    variables = ("ENDPOINT", "TIMEOUT", "TRACES_TIMEOUT", "COMPRESSION", "HEADERS", "CERTIFICATE")
    for variable in variables:
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", value)
    await tracing.configured(os.environ, "name").aclose()
    assert not [one for one in os.environ if one.startswith("OTEL_EXPORTER_OTLP_")]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": ""},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_PROPAGATORS": "nonsense"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"},
        {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp"},
    ],
)
def test_there_are_no_traces_unless_the_variables_ask_for_them(variables: dict[str, str]) -> None:
    assert lifecycle._tracing(variables, "name") is None  # noqa: SLF001


@pytest.mark.parametrize(
    ("sampler", "propagators"),
    [
        *((sampler, "") for sampler in ["", *sorted(tracing.SAMPLERS)]),
        *(
            ("", propagators)
            for propagators in ("none", "tracecontext", "tracecontext,baggage,jaeger", "jaeger, baggage")
        ),
    ],
)
async def test_each_sampler_and_propagator_of_the_charts_is_accepted(
    sampler: str, propagators: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)  # the SDK reads it itself
    environ = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "OTEL_PROPAGATORS": propagators,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http",
    }
    made = tracing.configured(environ, "name")
    await made.aclose()


def test_the_error_without_the_extra_has_its_name() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from shared import lifecycle\n"
        "from shared.service.settings import SettingsError\n"
        "try: lifecycle._tracing({'OTEL_TRACES_EXPORTER': 'otlp'}, 'name')\n"
        "except SettingsError as error: print(error)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert printed.startswith("OTEL_TRACES_EXPORTER: otlp needs the extra `otel`")


@pytest.mark.parametrize("text", ["", "x", "00-0-0-01", f"{PARENT}-extra-", PARENT.replace("0af7", "ZZZZ")])
def test_an_invalid_traceparent_makes_no_link(text: str) -> None:
    assert tracing._link_to(text) is None  # noqa: SLF001


def test_a_traceparent_makes_a_link_to_its_span() -> None:
    link = tracing._link_to(PARENT)  # noqa: SLF001
    assert link
    assert f"{link.context.trace_id:032x}" in PARENT


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_token_of_the_collector_may_be_in_a_file(protocol: str, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("authorization=Bearer s3cret,x-team=lfx\n")
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_HEADERS_FILE": str(file)}
    async with otlp_receiver.running() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port(protocol)}"}
        made = tracing.configured(environ | endpoint, "name")
        with made.start("request", "server", {}):
            pass
        await made.aclose()
        assert collector.tokens == {"Bearer s3cret"}


def test_a_token_that_is_given_twice_is_an_error() -> None:
    environ = {f"OTEL_EXPORTER_OTLP_{name}": "x" for name in ("HEADERS", "HEADERS_FILE")}
    with pytest.raises(SettingsError, match="HEADERS is set, too"):
        tracing.configured(environ, "name")
