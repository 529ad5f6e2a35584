# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each counter of an alert exists from the start: Prometheus sees no increase in a series that begins with 1."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import operations_page as page
from tests.acceptance import services
from tests.stack import smtp_server, sqs_endpoint
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stack.console import Console

Series = tuple[str, frozenset[tuple[str, str]]]

COUNTERS: Final = re.compile(r"(email_\w+_total)\{([^}]*)\}")


async def test_each_series_that_an_alert_counts_exists_before_the_first_event() -> None:
    async with (
        services.platform() as platform,
        smtp_server.running() as smtp,
        sqs_endpoint.running() as sqs,
        services.relay(platform.nats, smtp) as relay,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        assert await missing(relay, "relay") == set()
        assert await missing(tracker, "tracker") == set()


async def missing(process: Console, name: str) -> set[Series]:
    """Return the counters of the alerts that a process does not have."""

    async def scraped() -> set[Series]:
        _, text = await process.get("/metrics")
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, frozenset(sample.labels.items())) for sample in samples}

    there, counted = await until(scraped), set(counted_by_alerts(name))
    assert len(counted) > 3
    return {one for one in counted if not any(one[0] == other and one[1] <= labels for other, labels in there)}


def counted_by_alerts(process: str) -> Iterator[Series]:
    """Yield each counter of the alerts with its labels; of a pattern each alternative."""
    file = page.ROOT / "charts" / f"lfx-v2-email-{process}" / "alerts.yaml"
    for rule in yaml.safe_load(file.read_text())["groups"][0]["rules"]:
        for metric, matchers in COUNTERS.findall(rule["expr"]):
            chosen: list[frozenset[tuple[str, str]]] = [frozenset()]
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                if label != "namespace":
                    chosen = [labels | {(label, value)} for labels in chosen for value in values.split("|")]
            yield from ((metric, labels) for labels in chosen)
