# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Spans: those that do nothing, and those that are exported."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.telemetry import tracing
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


class Exported:
    """Tracing whose spans can be read after `close`."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.spans = tracing.Tracing(self._exporter, TraceContextTextMapPropagator(), Resource({}))

    async def close(self) -> dict[str, ReadableSpan]:
        """Export the spans and return them by name."""
        await self.spans.aclose()
        return {span.name: span for span in self._exporter.get_finished_spans()}


def test_without_tracing_a_span_does_nothing() -> None:
    with NO_SPANS.start("put b", "client", {"a": 1}, headers={"traceparent": TRACEPARENT}, links=[TRACEPARENT]) as span:
        span.fail("internal error", {"a": 2})
        assert NO_SPANS.traceparent() == ""


async def test_a_span_is_exported_with_kind_attributes_and_error_below_the_span_around_it() -> None:
    exported = Exported()
    assert exported.spans.traceparent() == ""
    with exported.spans.start("outer", "server", {"a": "1"}):
        outer = exported.spans.traceparent()
        with exported.spans.start("inner", "client", {}) as inner:
            inner.fail("internal error", {"smtp_code": 451})
    spans = await exported.close()
    assert (spans["outer"].kind, spans["outer"].attributes) == (SpanKind.SERVER, {"a": "1"})
    assert spans["outer"].status.status_code is StatusCode.UNSET
    assert (spans["inner"].status.status_code, spans["inner"].status.description) == (
        StatusCode.ERROR,
        "internal error",
    )
    assert spans["inner"].attributes == {"error.type": "internal error", "smtp_code": 451}
    parent = spans["inner"].parent
    assert parent
    assert outer.startswith(f"00-{parent.trace_id:032x}-{parent.span_id:016x}-")


async def test_a_span_is_below_the_span_in_the_headers_of_a_request_and_linked_to_others() -> None:
    exported = Exported()
    with exported.spans.start("request", "server", {}, headers={"Traceparent": TRACEPARENT}):
        pass
    with exported.spans.start("event", "consumer", {}, headers={}, links=[TRACEPARENT, "not one"]):
        pass
    spans = await exported.close()
    parent = spans["request"].parent
    assert parent
    assert (f"{parent.trace_id:032x}", f"{parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert spans["event"].parent is None
    [link] = spans["event"].links
    assert f"{link.context.span_id:016x}" == SPAN_ID


async def test_an_error_in_a_step_is_raised_and_marks_its_span() -> None:
    exported = Exported()
    with pytest.raises(ZeroDivisionError), exported.spans.start("step", "client", {}):
        raise ZeroDivisionError
    assert (await exported.close())["step"].status.status_code is StatusCode.ERROR


async def test_a_collector_that_does_not_answer_does_not_delay_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered = threading.Event()

    class Silent(InMemorySpanExporter):
        def shutdown(self) -> None:
            answered.wait()

    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.05)
    await tracing.Tracing(Silent(), TraceContextTextMapPropagator(), Resource({})).aclose()
    assert [record.msg for record in caplog.records] == ["traces.lost"]
    answered.set()


async def test_log_lines_have_the_ids_of_the_span_and_those_of_opentelemetry_are_limited() -> None:
    exported, log_filter = Exported(), tracing.LogFilter()
    outside, inside = line("relay.x"), line("relay.x")
    assert log_filter.filter(outside)
    with exported.spans.start("request", "server", {}, headers={"traceparent": TRACEPARENT}):
        assert log_filter.filter(inside)
    assert "trace_id" not in vars(outside)
    assert vars(inside)["trace_id"] == TRACE_ID
    assert len(vars(inside)["span_id"]) == 16
    first, second = line("opentelemetry.sdk"), line("opentelemetry.sdk")
    assert (log_filter.filter(first), log_filter.filter(second)) == (True, False)
    assert (first.getMessage(), vars(first)["error"]) == ("traces.export_failed", "no answer")
    await exported.close()


def line(name: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, "no %s", ("answer",), None)
