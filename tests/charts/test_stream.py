# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The tracker's chart declares the stream of push events if asked, as the code creates it, and nothing deletes it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from shared import contract, push_stream
from tests.charts import chart

ENABLED: Final = {"natsStream": {"enabled": True}}
UNITS: Final = {"h": "hours", "m": "minutes"}


def test_there_is_no_stream_by_default_and_never_one_in_the_relays_chart() -> None:
    assert chart.of_kind(chart.render("tracker"), "Stream") == []
    assert chart.of_kind(chart.render("relay"), "Stream") == []


def test_the_stream_is_the_one_that_the_code_creates() -> None:
    (stream,) = chart.of_kind(chart.render("tracker", ENABLED), "Stream")
    spec = stream["spec"]
    assert spec["name"] == contract.PUSH_EVENTS_STREAM
    assert tuple(spec["subjects"]) == contract.PUSH_EVENT_SUBJECTS
    assert (spec["retention"], spec["discard"], spec["storage"]) == ("limits", "new", "file")
    assert seconds(spec["maxAge"]) == push_stream.MAX_AGE_SECONDS
    assert seconds(spec["duplicateWindow"]) == push_stream.DUPLICATE_WINDOW_SECONDS
    assert spec["maxBytes"] == push_stream.MAX_BYTES


def test_neither_helm_nor_argo_cd_nor_nack_deletes_the_stream() -> None:
    (stream,) = chart.of_kind(chart.render("tracker", ENABLED), "Stream")
    assert stream["metadata"]["annotations"] == {
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
    }
    assert stream["spec"]["preventDelete"] is True


def test_limits_and_replicas_are_values() -> None:
    given = {"enabled": True, "replicas": 3, "maxAge": "720h", "maxBytes": 1 << 40, "duplicateWindow": "1h30m"}
    (stream,) = chart.of_kind(chart.render("tracker", {"natsStream": given}), "Stream")
    assert {name: stream["spec"][name] for name in given if name != "enabled"} == {
        name: value for name, value in given.items() if name != "enabled"
    }


def test_the_notes_warn_of_durable_push_events_without_the_stream() -> None:
    durable = {"app": {"ses": {"eventingEnabled": True}, "pushEvents": {"durable": True}}}
    assert "natsStream.enabled is false" in chart.notes("tracker", durable)
    assert "natsStream.enabled is false" not in chart.notes("tracker", {**durable, **ENABLED})


def seconds(duration: str) -> float:
    """Return the seconds of a duration of Go."""
    return sum(
        timedelta(**{UNITS[unit]: int(count)}).total_seconds() for count, unit in re.findall(r"(\d+)([hm])", duration)
    )
