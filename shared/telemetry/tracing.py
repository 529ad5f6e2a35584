# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Exports trace spans over OTLP. Imported only if OTEL_TRACES_EXPORTER asks for it; needs the extra `otel`.

Sources: the OpenTelemetry specification on environment variables, and its semantic conventions for messaging. No span
contains an address, a subject line or a body.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers

from shared import __version__
from shared.service import threads
from shared.service.log import RateLimit
from shared.service.settings import SettingsError, secret_in_file
from shared.telemetry import spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

SAMPLERS: Final = frozenset(
    f"{parent}{name}" for parent in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)
PROPAGATORS: Final[Mapping[str, type[TextMapPropagator]]] = {
    "tracecontext": TraceContextTextMapPropagator,
    "baggage": W3CBaggagePropagator,
    "jaeger": JaegerPropagator,
}
DEFAULT_PROPAGATORS: Final = "tracecontext,baggage"
PROTOCOLS: Final = ("grpc", "http", "http/protobuf")
FLUSH_SECONDS: Final = 2.0  # a collector that does not answer may delay the stop by this time
KINDS: Final[Mapping[spans.Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}

_w3c = TraceContextTextMapPropagator()


class Tracing(spans.Spans):
    """Makes spans and exports them in the background; `aclose` exports the rest within FLUSH_SECONDS."""

    def __init__(self, exporter: SpanExporter, propagator: TextMapPropagator, resource: Resource) -> None:
        """Export to `exporter` in batches; if its queue is full, spans are dropped and no request waits."""
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lfx-v2-email-service", __version__)
        self._propagator = propagator

    async def aclose(self) -> None:
        """Export the remaining spans, but wait at most FLUSH_SECONDS for the collector."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await threads.run(self._provider.shutdown)
        except Exception:  # noqa: BLE001 - an error of the exporter must not change how the process ends
            logging.getLogger(__name__).warning("traces.lost")

    @contextmanager
    def start(
        self,
        name: str,
        kind: spans.Kind,
        attributes: spans.Attributes,
        *,
        headers: Mapping[str, str] | None = None,
        links: Iterable[str] = (),
    ) -> Iterator[spans.Span]:
        """Start a span, as described in `Spans`."""
        with self._tracer.start_as_current_span(
            name,
            context=self._context(headers),
            kind=KINDS[kind],
            attributes=attributes,
            links=[link for one in links if (link := _link_to(one))],
            record_exception=False,
        ) as span:
            yield _Started(span)

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of the current span; empty if it is not sampled."""
        carrier: dict[str, str] = {}
        if trace.get_current_span().get_span_context().trace_flags.sampled:
            _w3c.inject(carrier)
        return carrier.get("traceparent", "")

    def _context(self, headers: Mapping[str, str] | None) -> Context | None:
        if headers is None:
            return None
        return self._propagator.extract({name.lower(): value for name, value in headers.items()})


class _Started(spans.Span):
    def __init__(self, span: Span) -> None:
        self._span = span

    def fail(self, error: str, attributes: spans.Attributes | None = None) -> None:
        self._span.set_attributes({"error.type": error, **(attributes or {})})
        self._span.set_status(Status(StatusCode.ERROR, error))


class LogFilter(logging.Filter):
    """Adds the ids of the current span to each log line, and limits the lines of OpenTelemetry itself."""

    def __init__(self) -> None:
        """Begin without lines."""
        super().__init__()
        self._own_lines = RateLimit(lines=1, seconds=60)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids; return whether the line may be written."""
        if record.name.startswith("opentelemetry"):
            fields = self._own_lines.allows()
            record.__dict__.update(fields or {}, error=record.getMessage())
            record.msg, record.args = "traces.export_failed", None
            return fields is not None
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
            record.span_id = trace.format_span_id(context.span_id)
        return True


def configured(environ: Mapping[str, str], name: str) -> Tracing:
    """Return the exporter that OpenTelemetry's variables describe; those that are empty count as not set.

    Raises:
        SettingsError: a variable has an invalid value.
    """
    for variable in [one for one, value in os.environ.items() if one.startswith("OTEL_") and not value.strip()]:
        del os.environ[variable]  # OpenTelemetry reads it itself, and takes an empty endpoint for an address
    _check_sampler(environ)
    try:
        return _configured(environ, name)
    except SettingsError:
        raise
    except Exception as error:  # OpenTelemetry's own errors do not name the variable
        given = ", ".join(sorted(one for one in environ if one.startswith("OTEL_")))
        raise SettingsError(f"{error}: correct one of {given}") from error


def _configured(environ: Mapping[str, str], name: str) -> Tracing:
    resource = Resource.create(
        {SERVICE_NAME: environ.get("OTEL_SERVICE_NAME") or name, SERVICE_VERSION: __version__}
        | dict(_resource_attributes(environ))
    )
    tracing = Tracing(_exporter(environ), _propagator(environ), resource)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogFilter())
    return tracing


def _link_to(traceparent: str) -> Link | None:
    context = trace.get_current_span(_w3c.extract({"traceparent": traceparent})).get_span_context()
    return Link(context) if context.is_valid else None


def _check_sampler(environ: Mapping[str, str]) -> None:
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if sampler and sampler not in SAMPLERS:
        raise SettingsError(f"OTEL_TRACES_SAMPLER: {sampler!r} is not one of {', '.join(sorted(SAMPLERS))}")
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        if argument and not 0 <= float(argument) <= 1:
            raise ValueError(argument)
    except ValueError:
        raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG: {argument!r} is not a number from 0 to 1") from None


def _propagator(environ: Mapping[str, str]) -> TextMapPropagator:
    names = [one.strip() for one in (environ.get("OTEL_PROPAGATORS") or DEFAULT_PROPAGATORS).split(",")]
    unknown = [one for one in names if one not in PROPAGATORS and one not in {"", "none"}]
    if unknown:
        raise SettingsError(f"OTEL_PROPAGATORS: {unknown[0]!r} is not one of {', '.join(PROPAGATORS)}, none")
    return CompositePropagator([PROPAGATORS[one]() for one in names if one in PROPAGATORS])


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    protocol = _first(environ, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    if protocol not in PROTOCOLS:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    insecure = _first(environ, "OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE").lower() == "true"
    own, common = (environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT", "").strip() for kind in ("TRACES_", ""))
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - one of the two
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=_url(own or common, insecure=insecure) or None, headers=_headers(environ))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter as HttpExporter,
    )

    if own:
        return HttpExporter(endpoint=_url(own, insecure=insecure), headers=_headers(environ))
    url = f"{_url(common, insecure=insecure).rstrip('/')}/v1/traces" if common else None
    return HttpExporter(endpoint=url, headers=_headers(environ))


def _headers(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the headers of a file, which has the collector's token; those of variables are read by OpenTelemetry."""
    given = secret_in_file(environ, "OTEL_EXPORTER_OTLP_HEADERS")
    return None if given is None else dict(parse_env_headers(given.strip(), liberal=True))


def _url(endpoint: str, *, insecure: bool) -> str:
    """Return an endpoint with a scheme; the Go service accepts endpoints without one."""
    if not endpoint or "://" in endpoint:
        return endpoint
    return f"{'http' if insecure else 'https'}://{endpoint}"


def _resource_attributes(environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield the attributes that this module sets too and that OTEL_RESOURCE_ATTRIBUTES overrides."""
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = pair.strip().partition("=")
        if name == SERVICE_VERSION and value:
            yield name, value


def _first(environ: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")
