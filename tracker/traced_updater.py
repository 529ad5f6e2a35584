# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Makes the events of one email a span, linked to the span that sent it; imported only where traces are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from shared import tracing
from tracker.record_updater import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.tracing import Tracing
    from tracker.poller import Updater
    from tracker.ses_event import EngagementEvent


class TracedUpdater:
    """Applies events as what it wraps does."""

    def __init__(self, updater: Updater, tracer: Tracing) -> None:
        """Wrap `updater`."""
        self._updater = updater
        self._tracing = tracer

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Verdict:
        """Apply events of one email."""
        kinds = [event.kind for event in events]
        parents = dict.fromkeys(event.traceparent for event in events if event.traceparent)
        links = [link for parent in parents if (link := tracing.link_to(parent))]
        attributes = {"messaging.system": "aws_sqs", "lfx.email_id": email_id, "lfx.event_kinds": kinds}
        with self._tracing.span("apply events", SpanKind.CONSUMER, attributes, links) as span:
            verdict = await self._updater.apply(email_id, events)
            if verdict not in {Verdict.SETTLED, Verdict.UNMATCHED}:
                tracing.fail(span, verdict.name.lower())
            return verdict
