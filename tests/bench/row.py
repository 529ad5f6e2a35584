# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Samples of single runs, and the rows of a table, which are medians of samples."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["service", "limit", "naive", "part"]
RATE, MILLISECONDS, SECONDS, MEGABYTES, TIMES = "/s", "ms", "s", "MB", "x"
LEAST_CPU_SECONDS = 0.05  # the kernel counts in steps of 0.01
_MS, _US = 1e3, 1e6


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement; None is not measured."""

    value: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None
    peak_mb: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The median of some samples, with the lowest and the highest value."""

    case: str
    name: str
    role: Role
    unit: str
    value: float
    low: float
    high: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None
    peak_mb: float | None = None

    def times(self, other: Row) -> float:
        """Return the factor by which this row is better than the other: a higher rate, less time, less memory."""
        ours, theirs = (self.value, other.value) if self.unit == RATE else (other.value, self.value)
        return ours / theirs if theirs else float("inf")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario and its rows."""

    scenario: str
    title: str
    rows: list[Row]


class Collected:
    """Samples of several runs by case, name and role, in the order of their first appearance."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str, Role, str], list[Sample]] = {}

    def add(self, name: str, role: Role, sample: Sample, *, case: str = "", unit: str = RATE) -> None:
        """Add a sample."""
        self._samples.setdefault((case, name, role, unit), []).append(sample)

    def rows(self) -> list[Row]:
        """Return the rows, ordered by case."""
        rows = [_row(*key, samples) for key, samples in self._samples.items()]
        cases = list(dict.fromkeys(row.case for row in rows))
        return sorted(rows, key=lambda row: cases.index(row.case))


def in_turn(*steps: Sample) -> Sample:
    """Return the rate of work that consists of several steps, one after the other."""
    return Sample(value=1 / sum(1 / step.value for step in steps))


def cpu_us(cpu_seconds: float, count: int) -> float | None:
    """Return the CPU time of one unit; None if it is below the resolution of the kernel's clock."""
    return cpu_seconds / count * _US if cpu_seconds >= LEAST_CPU_SECONDS else None


def of_rate(latencies: Sequence[float], seconds: float, cpu_seconds: float = 0.0) -> Sample:
    """Return the sample of a load: requests per second, with their latencies in seconds."""
    count = len(latencies)
    return Sample(
        value=count / seconds,
        p50_ms=percentile(latencies, 50) * _MS,
        p99_ms=percentile(latencies, 99) * _MS,
        cpu_us=cpu_us(cpu_seconds, count),
    )


def of_latency(latencies: Sequence[float], cpu_seconds: float = 0.0, peak_mb: float | None = None) -> Sample:
    """Return the sample of a load by the latency of one request."""
    return Sample(
        value=percentile(latencies, 50) * _MS,
        p50_ms=percentile(latencies, 50) * _MS,
        p99_ms=percentile(latencies, 99) * _MS,
        cpu_us=cpu_us(cpu_seconds, len(latencies)),
        peak_mb=peak_mb,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _row(case: str, name: str, role: Role, unit: str, samples: list[Sample]) -> Row:
    values = [sample.value for sample in samples]
    return Row(
        case=case,
        name=name,
        role=role,
        unit=unit,
        value=statistics.median(values),
        low=min(values),
        high=max(values),
        p50_ms=_median([sample.p50_ms for sample in samples]),
        p99_ms=_median([sample.p99_ms for sample in samples]),
        cpu_us=_median([sample.cpu_us for sample in samples]),
        peak_mb=max((sample.peak_mb for sample in samples if sample.peak_mb is not None), default=None),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
