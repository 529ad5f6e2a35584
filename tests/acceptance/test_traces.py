# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A mail is one trace, from its caller to KV, and the spans of its events link to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance import services
from tests.acceptance.caller import SEND_EMAIL, email
from tests.acceptance.event_cases import at
from tests.stack import otlp_receiver, ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tests.stack.console import Console

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {
    "tracecontext": {"Traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"},  # Go's clients write it with a capital
    "jaeger": {"uber-trace-id": f"{TRACE_ID}:{SPAN_ID}:0:1"},
}
RELAY_SPANS = (SEND_EMAIL, "SMTP transaction", "put email-recipients", "put email-group-index")
SERVER, CLIENT, CONSUMER = 2, 3, 5


def exporting(endpoint: str, protocol: str, **more: str) -> dict[str, str]:
    """Return variables as the charts render them."""
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_PROPAGATORS": "tracecontext,baggage,jaeger",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        **more,
    }


def opentelemetry_modules(process: Console) -> bool:
    """Return whether a process has loaded the compiled code of gRPC, which OpenTelemetry needs (from /proc)."""
    return "grpc" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("protocol", "propagator", "scheme"),
    [("grpc", "tracecontext", "http://"), ("http/protobuf", "jaeger", "http://"), ("http", "tracecontext", "")],
)
async def test_a_mail_and_its_events_are_traced(protocol: str, propagator: str, scheme: str) -> None:
    async with (
        otlp_receiver.running() as collector,
        services.platform() as platform,
        smtp_servers.running() as smtp,
        sqs_endpoints.running() as sqs,
    ):
        variables = exporting(f"{scheme}127.0.0.1:{collector.port(protocol)}", protocol)
        async with (
            services.relay(platform.nats, smtp, SES_CONFIGURATION_SET="lfx", **variables) as relay,
            services.tracker(platform.nats, sqs, **variables) as tracker,
        ):
            body = json.dumps(email(to="ada@example.com", subject="Secret", tags={"a": "b"})).encode()
            await platform.caller.client.request(SEND_EMAIL, body, timeout=10, headers=HEADERS[propagator])
            spans = await collector.wait_for(RELAY_SPANS)
            request, transaction = spans[SEND_EMAIL], spans["SMTP transaction"]
            assert {span.trace_id for span in spans.values()} == {TRACE_ID}
            assert (request.parent_id, request.kind, request.service) == (SPAN_ID, SERVER, "lfx-email-relay")
            assert {spans[name].parent_id for name in RELAY_SPANS[1:]} == {request.span_id}
            assert (transaction.kind, transaction.attributes["server.port"]) == (CLIENT, smtp.port)
            line = await relay.wait_for_log("email.sent")
            assert (line["trace_id"], line["span_id"]) == (TRACE_ID, request.span_id)

            [mail] = smtp.mails
            tags = f"email_id={line['email_id']}, a=b, traceparent=00-{TRACE_ID}-{request.span_id}-01"
            assert f"X-SES-MESSAGE-TAGS: {tags}\r\n".encode() in mail.content
            event = ses_events.delivery(f"{line['group_id']}/{line['email_id']}", at(1))
            event["mail"]["tags"]["traceparent"] = [f"00-{TRACE_ID}-{request.span_id}-01"]
            sqs.send(ses_events.notification(event))
            applied = (await collector.wait_for(["apply events"]))["apply events"]
            assert applied.links == ((TRACE_ID, request.span_id),)
            assert (applied.kind, applied.service) == (CONSUMER, "lfx-email-tracker")
            assert (await tracker.wait_for_log("event.applied"))["trace_id"] == applied.trace_id != TRACE_ID
            assert (await platform.buckets.record(line["email_id"]) or {})["tags"] == {"a": "b"}
            assert not any("ada@" in str(span) or "Secret" in str(span) for span in collector.spans)


async def test_a_refused_request_is_a_failed_span_and_the_last_spans_are_exported_at_the_stop() -> None:
    async with (
        otlp_receiver.running() as collector,
        services.platform() as platform,
        smtp_servers.running() as smtp,
    ):
        variables = exporting(f"127.0.0.1:{collector.grpc_port}", "grpc", OTEL_SERVICE_NAME="mail")
        variables |= {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_RESOURCE_ATTRIBUTES": "service.version=7,team=lfx"}
        async with services.relay(platform.nats, smtp, **variables) as relay:
            assert await platform.caller.send(to="nobody") == {"error": "invalid to address"}
            relay.terminate()
            assert await relay.wait() == 0
        [span] = collector.spans
        assert (span.failed, span.attributes["error.type"]) == (True, "invalid to address")
        [resource] = collector.resources
        assert (resource["service.name"], resource["service.version"], resource["team"]) == ("mail", "7", "lfx")


async def test_with_the_sampler_always_off_no_span_is_exported_and_no_mail_is_tagged() -> None:
    async with (
        otlp_receiver.running() as collector,
        services.platform() as platform,
        smtp_servers.running() as smtp,
    ):
        variables = exporting(f"127.0.0.1:{collector.grpc_port}", "grpc", OTEL_TRACES_SAMPLER="always_off")
        async with services.relay(platform.nats, smtp, SES_CONFIGURATION_SET="lfx", **variables) as relay:
            await platform.caller.sent()
            relay.terminate()
            assert await relay.wait() == 0
        assert collector.spans == []
        assert b"traceparent" not in smtp.mails[0].content


async def test_without_a_collector_mail_is_sent_and_few_lines_are_logged() -> None:
    variables = exporting(f"127.0.0.1:{free_port()}", "http", OTEL_BSP_EXPORT_TIMEOUT="500")
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, **variables) as relay,
    ):
        for _ in range(20):
            await platform.caller.sent()
        relay.terminate()
        assert await relay.wait() == 0
        assert len(smtp.mails) == 20
        assert len(relay.logged("traces.export_failed")) <= 1
        assert all(line["level"] in {"INFO", "WARN", "ERROR"} for line in relay.logs)


async def test_without_an_exporter_opentelemetry_is_not_loaded() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as relay,
    ):
        await platform.caller.sent()
        assert not opentelemetry_modules(relay)

        async def logged() -> bool:
            return bool(relay.logged("email.sent"))

        await until(logged)
        assert "trace_id" not in relay.logged("email.sent")[0]
