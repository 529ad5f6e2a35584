# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The histogram, compared with the one of the Prometheus client."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Theirs

from shared.telemetry.histogram import AGES_SECONDS, MESSAGES, SECONDS, Histogram

PROPERTY = settings(max_examples=50)
bounds = st.sampled_from([SECONDS, AGES_SECONDS, MESSAGES])
values = st.one_of(st.floats(0, 1e6), st.sampled_from([*SECONDS, *AGES_SECONDS, *MESSAGES]))


def test_a_new_histogram_is_empty() -> None:
    ours = Histogram()
    assert (ours.count, ours.total) == (0, 0.0)
    assert {count for _, count in ours.buckets()} == {0.0}


def test_a_bucket_counts_the_values_up_to_its_bound() -> None:
    ours = Histogram((1.0, 2.5))
    for value in (0.5, 1.0, 2.5, 2.6):
        ours.observe(value)
    assert ours.buckets() == [("1", 2.0), ("2.5", 3.0), ("+Inf", 4.0)]
    assert (ours.count, ours.total) == (4, 6.6)


@PROPERTY
@given(bounds, st.lists(values, max_size=20))
def test_the_counts_are_those_of_the_prometheus_client(limits: tuple[float, ...], observed: list[float]) -> None:
    ours, theirs = Histogram(limits), Theirs("h", "h", registry=CollectorRegistry(), buckets=limits)
    for value in observed:
        ours.observe(value)
        theirs.observe(value)
    (family,) = theirs.collect()
    samples = {float(sample.labels["le"]): sample.value for sample in family.samples if sample.name == "h_bucket"}
    assert {float(bound): count for bound, count in ours.buckets()} == samples
    assert [ours.total] == [sample.value for sample in family.samples if sample.name == "h_sum"]
