# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Spans around the steps of a request or an event. These do nothing; `tracing` makes real ones where traces are on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Attributes = Mapping[str, str | int | Sequence[str]]

Kind = Literal["server", "client", "consumer"]


class Span:
    """One step under way."""

    def fail(self, error: str, attributes: Attributes | None = None) -> None:
        """Mark the step as failed; `error` is one of a few words, such as an error string of the contract."""


class Spans:
    """Starts spans, as a context around the step."""

    def start(
        self,
        name: str,  # noqa: ARG002 - for those that make real spans
        kind: Kind,  # noqa: ARG002
        attributes: Attributes,  # noqa: ARG002
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
        links: Iterable[str] = (),  # noqa: ARG002
    ) -> AbstractContextManager[Span]:
        """Start a span below the current one, or below the one that the `headers` of a request name.

        `links` are the values of W3C `traceparent` headers, of steps that led to this one.
        """
        return _NOTHING

    def traceparent(self) -> str:
        """Return the current span as a W3C `traceparent`; empty if there is none."""
        return ""


_NOTHING: Final = nullcontext(Span())
NO_SPANS: Final = Spans()
