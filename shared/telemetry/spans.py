# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The interface for trace spans around the steps of a request or an event.

`Spans` itself does nothing, and NO_SPANS is the default everywhere. `tracing.Tracing` makes real spans; `lifecycle`
creates it if OTEL_TRACES_EXPORTER asks for traces, and the process passes it to the modules that start spans.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Attributes = Mapping[str, str | int | Sequence[str]]

Kind = Literal["server", "client", "consumer"]


class Span:
    """A step that has begun; it ends with the context that `Spans.start` returns."""

    def fail(self, error: str, attributes: Attributes | None = None) -> None:
        """Mark the step as failed; `error` is one of a few strings, such as the error strings of the contract."""


class Spans:
    """Starts spans; each is a context around its step."""

    def start(
        self,
        name: str,  # noqa: ARG002 - `tracing.Tracing` uses the arguments
        kind: Kind,  # noqa: ARG002
        attributes: Attributes,  # noqa: ARG002
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
        links: Iterable[str] = (),  # noqa: ARG002
    ) -> AbstractContextManager[Span]:
        """Start a child of the current span, or of the span that is named in the NATS `headers` of a request.

        `links` are W3C `traceparent` values of spans that led to this one without being its parent.
        """
        return _NOTHING

    def traceparent(self) -> str:
        """Return the W3C `traceparent` of the current span; empty without a sampled span."""
        return ""


_NOTHING: Final = nullcontext(Span())
NO_SPANS: Final = Spans()
