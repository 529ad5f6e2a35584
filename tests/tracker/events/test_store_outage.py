# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The wait for a record starts again after an outage of KV."""

from __future__ import annotations

import time

from tracker.events.store_outage import StoreOutage

AN_HOUR_AGO = time.monotonic() - 3600


async def test_without_an_outage_the_wait_counts_from_the_event() -> None:
    outage = StoreOutage()
    outage.end()
    assert outage.is_over.is_set()
    assert outage.waited_seconds(AN_HOUR_AGO) >= 3600


async def test_an_outage_is_over_only_when_kv_answers() -> None:
    outage = StoreOutage()
    outage.begin()
    assert not outage.is_over.is_set()
    outage.end()
    assert outage.is_over.is_set()
    assert outage.waited_seconds(AN_HOUR_AGO) < 60


async def test_a_suspected_outage_delays_nothing_and_ends_with_the_next_answer() -> None:
    outage = StoreOutage()
    outage.suspect()
    assert outage.is_over.is_set()
    assert outage.waited_seconds(AN_HOUR_AGO) >= 3600
    outage.end()
    assert outage.waited_seconds(AN_HOUR_AGO) < 60


async def test_without_kv_or_without_the_stream_the_outage_lasts_until_both_are_back() -> None:
    outage = StoreOutage()
    outage.begin()
    outage.begin_of_stream()
    outage.end()
    assert not outage.is_over.is_set()
    outage.begin()
    outage.end_of_stream()
    assert not outage.is_over.is_set()
    outage.end()
    assert outage.is_over.is_set()
    assert outage.reports == 3


async def test_an_outage_of_the_stream_does_not_start_the_wait_for_records_again() -> None:
    outage = StoreOutage()
    outage.begin_of_stream()
    outage.end_of_stream()
    assert outage.is_over.is_set()
    assert outage.waited_seconds(AN_HOUR_AGO) >= 3600
