# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The text of /metrics, as Prometheus reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shared.telemetry import exposition
from shared.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.core import Metric

PROPERTY = settings(max_examples=50)


def read(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each sample by its name and labels, as Prometheus's own parser reads it."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_counter_is_called_total_and_a_gauge_is_not() -> None:
    text = exposition.text(
        [
            exposition.counter("emails", "Emails by result.", ("result",), {("sent",): 3, ("filtered",): 0}),
            exposition.gauge("in_flight", "Requests being served.", (), {(): 2}),
        ]
    )
    assert read(text) == {
        ("emails_total", (("result", "sent"),)): 3.0,
        ("emails_total", (("result", "filtered"),)): 0.0,
        ("in_flight", ()): 2.0,
    }
    assert b"# HELP emails_total Emails by result.\n# TYPE emails_total counter\n" in text
    assert b"# TYPE in_flight gauge\n" in text


def test_a_histogram_has_buckets_a_sum_and_a_count() -> None:
    seconds = Histogram((0.5, 1.0))
    for value in (0.25, 0.75, 3.0):
        seconds.observe(value)
    text = exposition.text([exposition.histogram("query_seconds", "Time.", ("query",), {("status",): seconds})])
    query = ("query", "status")
    assert read(text) == {
        ("query_seconds_bucket", (("le", "0.5"), query)): 1.0,
        ("query_seconds_bucket", (("le", "1"), query)): 2.0,
        ("query_seconds_bucket", (("le", "+Inf"), query)): 3.0,
        ("query_seconds_count", (query,)): 3.0,
        ("query_seconds_sum", (query,)): 4.0,
    }


@PROPERTY
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=20))
def test_any_value_of_a_label_is_kept(value: str) -> None:
    text = exposition.text([exposition.counter("emails", "Emails.", ("result",), {(value,): 1})])
    assert read(text) == {("emails_total", (("result", value),)): 1.0}


@pytest.mark.parametrize("make", [exposition.counter, exposition.gauge])
def test_a_metric_without_values_is_listed(make: Callable[..., Metric]) -> None:
    (family,) = text_string_to_metric_families(exposition.text([make("emails", "Emails.", ("result",), {})]).decode())
    assert (family.name, family.samples) == ("emails", [])
