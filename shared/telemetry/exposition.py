# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Formats counts as the text of /metrics. Imported at the first scrape, since it brings the Prometheus client."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from prometheus_client import (
    GC_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from shared.telemetry.histogram import Histogram

L = TypeVar("L", bound=tuple[str, ...])
"""The values of the labels, in the order of their names."""


def counter(name: str, explanation: str, labels: Sequence[str], values: Mapping[L, float]) -> Metric:
    """Return a counter; `name` is without its `_total`."""
    family = CounterMetricFamily(name, explanation, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def gauge(name: str, explanation: str, labels: Sequence[str], values: Mapping[L, float]) -> Metric:
    """Return a gauge."""
    family = GaugeMetricFamily(name, explanation, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def histogram(name: str, explanation: str, labels: Sequence[str], values: Mapping[L, Histogram]) -> Metric:
    """Return a histogram."""
    family = HistogramMetricFamily(name, explanation, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value.buckets(), value.total)
    return family


def of_the_interpreter() -> Iterator[Metric]:
    """Yield the metrics of the operating system's process (only on Linux) and of Python's garbage collector."""
    for collector in (PROCESS_COLLECTOR, GC_COLLECTOR):
        yield from collector.collect()


def text(metrics: Iterable[Metric]) -> bytes:
    """Return the metrics in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    return generate_latest(registry)


class _Once:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
