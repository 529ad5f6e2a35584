# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An OTLP collector: receives traces over gRPC and over HTTP, and stores the spans."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

# Set before the import of gRPC: its fork handlers would run in each child process before exec.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

TRACES = "/v1/traces"


class Span(NamedTuple):
    """A received span; ids in hexadecimal."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    failed: bool


class OtlpReceiver:
    """The listening collector and the received spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.tokens: set[str] = set()  # of the header authorization
        self._lock = threading.Lock()
        self.http_port = free_port()
        self.grpc_port = free_port()
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(_Servicer(self), self._grpc)
        self._grpc.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        self._http = ThreadingHTTPServer(("127.0.0.1", self.http_port), _handler(self))

    def port(self, protocol: str) -> int:
        """Return the port of a protocol."""
        return self.grpc_port if protocol == "grpc" else self.http_port

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Store the spans of an export."""
        with self._lock:
            for group in request.resource_spans:
                resource = _attributes(group.resource.attributes)
                self.resources.append(resource)
                self.spans += [
                    _span(resource["service.name"], one) for scope in group.scope_spans for one in scope.spans
                ]

    async def wait_for(self, names: Sequence[str], timeout: float = 30.0) -> dict[str, Span]:
        """Return the last span of each of these names when all are there."""
        await until(lambda: {span.name for span in self.spans}, lambda seen: seen >= set(names), timeout=timeout)
        return {span.name: span for span in self.spans if span.name in names}

    def start(self) -> None:
        """Listen."""
        self._grpc.start()
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._grpc.stop(0)
        self._http.shutdown()
        self._http.server_close()


class _Servicer(TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:  # noqa: N802 - gRPC's name
        self._receiver.tokens |= {
            str(value) for name, value in context.invocation_metadata() if name == "authorization"
        }
        self._receiver.take(request)
        return ExportTraceServiceResponse()


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.tokens |= set(self.headers.get_all("authorization", []))
            if self.path == TRACES:
                receiver.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if self.path == TRACES else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def _span(service: str, one: Any) -> Span:
    return Span(
        service=service,
        name=one.name,
        kind=one.kind,
        trace_id=one.trace_id.hex(),
        span_id=one.span_id.hex(),
        parent_id=one.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in one.links),
        attributes=_attributes(one.attributes),
        failed=one.status.code == 2,  # STATUS_CODE_ERROR
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def running() -> AsyncIterator[OtlpReceiver]:
    """Run a collector during the block."""
    receiver = OtlpReceiver()
    receiver.start()
    try:
        yield receiver
    finally:
        await asyncio.to_thread(receiver.stop)
