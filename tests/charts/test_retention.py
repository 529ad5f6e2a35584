# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The CronJob of retention is off by default, as restricted as the pods, and selected by nothing that selects them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.charts import chart, features
from tracker.commands.retention.command import Age

ENABLED: Final[dict[str, Any]] = {"retention": {"enabled": True}}


def template(given: dict[str, Any]) -> chart.Object:
    """Return the template of its pods."""
    (job,) = chart.of_kind(chart.render("tracker", given), "CronJob")
    found: chart.Object = job["spec"]["jobTemplate"]["spec"]["template"]
    return found


def test_it_is_off_by_default() -> None:
    assert not chart.of_kind(chart.render("tracker"), "CronJob")


@pytest.mark.parametrize("case", ["full", "retention"])
def test_its_pods_are_as_restricted_as_those_of_the_tracker(case: str) -> None:
    given = features.CASES["tracker"][case]
    pod, of_tracker = template(given)["spec"], chart.pod(chart.render("tracker", given))
    for field in ("securityContext", "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"):
        assert pod[field] == of_tracker[field]
    (container,) = pod["containers"]
    assert container["securityContext"] == of_tracker["containers"][0]["securityContext"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["memory"] == "256Mi"


def test_nothing_selects_its_pods_for_those_of_the_tracker() -> None:
    given = {**ENABLED, "networkPolicy": {"enabled": True}}
    labels = template(given)["metadata"]["labels"]
    objects = chart.render("tracker", given)
    (deployment,) = chart.of_kind(objects, "Deployment")
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= labels.items()
    policies = [policy["spec"]["podSelector"]["matchLabels"] for policy in chart.of_kind(objects, "NetworkPolicy")]
    assert sum(one.items() <= labels.items() for one in policies) == 1


def test_it_may_have_a_nats_user_of_its_own() -> None:
    own = {"url": "nats://retention.example:4223", "credsSecretName": "own", "inboxPrefix": "_INBOX.retention"}
    given = {"retention": {"enabled": True, "nats": own}, "networkPolicy": {"enabled": True}}
    (container,) = template(given)["spec"]["containers"]
    assert {one["name"]: one["value"] for one in container["env"]} == {
        "NATS_URL": own["url"],
        "NATS_CREDS": "/var/run/secrets/nats/nats.creds",
        "NATS_INBOX_PREFIX": "_INBOX.retention",
    }
    assert template(given)["spec"]["volumes"][0]["secret"]["secretName"] == "own"
    assert "4223" in str(chart.of_kind(chart.render("tracker", given), "NetworkPolicy"))


def test_its_urls_may_be_in_a_secret_of_its_own() -> None:
    given: dict[str, Any] = {
        "nats": {"urlSecretName": "of-the-tracker", "urlSecretKey": "url"},
        "retention": {"enabled": True, "nats": {"url": "nats://ports.only:4223", "urlSecretName": "of-retention"}},
        "networkPolicy": {"enabled": True},
    }
    (container,) = template(given)["spec"]["containers"]
    (url,) = [one for one in container["env"] if one["name"] == "NATS_URL"]
    assert url == {"name": "NATS_URL", "valueFrom": {"secretKeyRef": {"name": "of-retention", "key": "url"}}}
    assert "4223" in str(chart.of_kind(chart.render("tracker", given), "NetworkPolicy"))


@pytest.mark.parametrize("age", ["1d", "180d", "26w", "24h", "100h"])
def test_an_age_is_one_that_the_command_accepts(age: str) -> None:
    (container,) = template({"retention": {"enabled": True, "olderThan": age}})["spec"]["containers"]
    assert container["args"] == ["retention", f"--older-than={age}", "--yes"]
    assert Age().convert(age, None, None).days >= 1


@pytest.mark.parametrize("age", ["", "180", "0d", "23h", "6m", "180d --allow-recent"])
def test_another_age_is_refused(age: str) -> None:
    with pytest.raises(chart.Refused, match="olderThan"):
        chart.render("tracker", {"retention": {"enabled": True, "olderThan": age}})
