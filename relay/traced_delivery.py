# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Makes each SMTP transaction a span; imported only where traces are on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from relay.delivery import Delivery
from relay.errors import DeliveryError
from shared import tracing

if TYPE_CHECKING:
    from relay.smtp_connection import Envelope, SmtpConnection
    from relay.smtp_pool import Pool
    from shared.tracing import Tracing


class TracedDelivery(Delivery):
    """Delivers as its base does."""

    def __init__(
        self, pool: Pool[SmtpConnection], tracer: Tracing, server: tuple[str, int], *, max_send_rate: float
    ) -> None:
        """Name the mail server in each span."""
        super().__init__(pool, max_send_rate=max_send_rate)
        self._tracing = tracer
        self._attributes: dict[str, Any] = {"server.address": server[0], "server.port": server[1]}

    async def transact(self, connection: SmtpConnection, envelope: Envelope, message: bytes) -> None:
        """Hand over one message; see Delivery."""
        attributes = {**self._attributes, "messaging.message.body.size": len(message)}
        with self._tracing.span("SMTP transaction", SpanKind.CLIENT, attributes) as span:
            try:
                await super().transact(connection, envelope, message)
            except DeliveryError as error:
                tracing.fail(span, type(error).__name__.lower())
                span.set_attribute("smtp.response.status_code", error.code)
                raise
