# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The variables of OpenTelemetry: what each of them may hold, and what is told where it holds something else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared import lifecycle
from shared.service.settings import SettingsError
from shared.telemetry import tracing

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
    ],
)
def test_a_value_that_means_nothing_ends_the_start_and_names_its_variable(
    variables: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as told:
        lifecycle._tracing({"OTEL_TRACES_EXPORTER": "otlp", **variables}, "name")  # noqa: SLF001 - the start's own
    assert str(told.value).startswith(named)


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
def test_traces_are_off_unless_they_are_asked_for(variables: dict[str, str]) -> None:
    assert lifecycle._tracing(variables, "name") is None  # noqa: SLF001


@pytest.mark.parametrize("sampler", ["", *sorted(tracing.SAMPLERS)])
@pytest.mark.parametrize("propagators", ["", "none", "tracecontext", "tracecontext,baggage,jaeger", "jaeger, baggage"])
async def test_each_sampler_and_propagator_of_the_charts_is_taken(
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


def test_a_process_without_the_extra_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from shared import lifecycle\n"
        "from shared.service.settings import SettingsError\n"
        "try: lifecycle._tracing({'OTEL_TRACES_EXPORTER': 'otlp'}, 'name')\n"
        "except SettingsError as error: print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert told.startswith("OTEL_TRACES_EXPORTER: otlp needs the extra `otel`")


@pytest.mark.parametrize("text", ["", "x", "00-0-0-01", f"{PARENT}-extra-", PARENT.replace("0af7", "ZZZZ")])
def test_what_names_no_span_links_to_none(text: str) -> None:
    assert tracing._link_to(text) is None  # noqa: SLF001


def test_what_names_a_span_links_to_it() -> None:
    link = tracing._link_to(PARENT)  # noqa: SLF001
    assert link
    assert f"{link.context.trace_id:032x}" in PARENT
