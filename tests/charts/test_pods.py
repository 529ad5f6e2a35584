# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The pods are restricted, stop in peace, are probed for what they can help, and are as many as one instance says."""

from __future__ import annotations

from typing import Any, Final

import pytest

from relay.settings import RelaySettings
from tests.charts import chart, features
from tracker.events import receiver

MEBIBYTE: Final = 1 << 20
SCALED: Final[dict[str, dict[str, Any]]] = {
    "relay": features.CASES["relay"]["autoscaling"],
    "tracker": features.CASES["tracker"]["keda"],
}


@pytest.mark.parametrize(("process", "case"), features.ALL)
def test_the_pods_keep_the_restricted_security_standard(process: str, case: str) -> None:
    objects = chart.render(process, features.CASES[process][case])
    pod, container = chart.pod(objects), chart.container(objects)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert {next(iter(set(volume) - {"name"})) for volume in pod.get("volumes", ())} <= {"secret"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_services_of_the_namespace_do_not_leak_into_the_variables(process: str) -> None:
    assert chart.pod(chart.render(process))["enableServiceLinks"] is False


@pytest.mark.parametrize(("process", "longest"), [("relay", RelaySettings().smtp_timeout_seconds), ("tracker", 20.0)])
def test_the_grace_period_is_longer_than_the_stop_and_the_longest_wait(process: str, longest: float) -> None:
    objects = chart.render(process)
    grace = chart.pod(objects)["terminationGracePeriodSeconds"]
    assert "lifecycle" not in chart.container(objects)  # no preStop eats of it
    assert grace > longest
    assert grace > float(chart.variables(objects)["SHUTDOWN_TIMEOUT_SECONDS"]["value"])
    assert grace > receiver.LAST_POLL_SECONDS


@pytest.mark.parametrize("process", chart.PROCESSES)
@pytest.mark.parametrize("given", [{"terminationGracePeriodSeconds": 25}, {"app": {"shutdownTimeoutSeconds": 45.5}}])
def test_a_grace_period_shorter_than_the_stop_is_refused(process: str, given: dict[str, Any]) -> None:
    with pytest.raises(chart.Refused, match="terminationGracePeriodSeconds"):
        chart.render(process, given)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_only_readiness_depends_on_nats(process: str) -> None:
    container = chart.container(chart.render(process))
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"path": "/livez", "port": "web"},
        "livenessProbe": {"path": "/livez", "port": "web"},
        "readinessProbe": {"path": "/readyz", "port": "web"},
    }


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_process_listens_where_the_probes_and_the_service_ask(process: str) -> None:
    objects = chart.render(process, {"service": {"port": 9090}})
    assert chart.variables(objects)["PORT"]["value"] == "9090"
    assert [(port["name"], port["containerPort"]) for port in chart.container(objects)["ports"]] == [("web", 9090)]
    (service,) = chart.of_kind(objects, "Service")
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(9090, "web")]


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_everything_that_selects_pods_selects_these(process: str) -> None:
    objects = chart.render(process, features.CASES[process]["full"] | {"podLabels": {"app.kubernetes.io/name": "x"}})
    (deployment,) = chart.of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        chart.of_kind(objects, "Service")[0]["spec"]["selector"],
        chart.of_kind(objects, "PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"],
        chart.of_kind(objects, "NetworkPolicy")[0]["spec"]["podSelector"]["matchLabels"],
        *[one["labelSelector"]["matchLabels"] for one in chart.pod(objects)["topologySpreadConstraints"]],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_no_number_of_pods_is_said_where_a_scaler_says_it(process: str) -> None:
    (fixed,) = chart.of_kind(chart.render(process, {"replicaCount": 3}), "Deployment")
    assert fixed["spec"]["replicas"] == 3
    objects = chart.render(process, SCALED[process])
    (scaled,) = chart.of_kind(objects, "Deployment")
    assert "replicas" not in scaled["spec"]
    (scaler,) = chart.of_kind(objects, "HorizontalPodAutoscaler") + chart.of_kind(objects, "ScaledObject")
    assert scaler["spec"]["scaleTargetRef"]["name"] == scaled["metadata"]["name"]
    assert scaler["spec"]["scaleTargetRef"]["kind"] == "Deployment"


@pytest.mark.parametrize(
    ("process", "given", "said"),
    [
        ("relay", {"autoscaling": {"enabled": True, "minReplicas": 9}}, "minReplicas"),
        ("tracker", SCALED["tracker"] | {"keda": {"enabled": True, "minReplicaCount": 11}}, "minReplicaCount"),
        ("tracker", SCALED["tracker"] | {"global": {}}, "global.awsRegion"),
        ("tracker", SCALED["tracker"] | {"app": {}}, "app.ses.eventingEnabled"),
    ],
)
def test_a_scaler_that_could_not_work_is_refused(process: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(chart.Refused, match=said):
        chart.render(process, given)


def test_keda_reads_the_queue_from_a_variable_that_the_container_has() -> None:
    objects = chart.render("tracker", SCALED["tracker"])
    (scaler,) = chart.of_kind(objects, "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    assert trigger["metadata"]["queueURLFromEnv"] in chart.variables(objects)
    assert scaler["spec"]["scaleTargetRef"]["envSourceContainerName"] == chart.container(objects)["name"]


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"minAvailable": 1}, {"minAvailable": 1}),
        ({"minAvailable": "50%"}, {"minAvailable": "50%"}),
        ({"maxUnavailable": 2}, {"maxUnavailable": 2}),
    ],
)
def test_the_budget_has_the_one_limit_that_was_given(given: dict[str, Any], budget: dict[str, Any]) -> None:
    (one,) = chart.of_kind(chart.render("relay", {"podDisruptionBudget": given}), "PodDisruptionBudget")
    assert {key: value for key, value in one["spec"].items() if key.endswith("vailable")} == budget


def test_a_budget_with_both_limits_is_refused() -> None:
    with pytest.raises(chart.Refused, match="only one of podDisruptionBudget"):
        chart.render("tracker", {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}})


def test_a_spread_of_ones_own_keeps_its_selector() -> None:
    own = {
        "maxSkew": 1,
        "topologyKey": "rack",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}},
        "matchLabelKeys": ["c"],
    }
    spread = chart.pod(chart.render("relay", {"topologySpreadConstraints": [own]}))["topologySpreadConstraints"]
    assert spread[0]["matchLabelKeys"] == ["c"]
    assert spread[0]["labelSelector"]["matchLabels"]["a"] == "b"


@pytest.mark.parametrize(
    ("process", "given", "ports"),
    [
        ("relay", {}, [4222, 587]),
        (
            "relay",
            {"nats": {"url": "nats://a:4223/,nats://u:1@b"}, "app": {"email": {"smtpPort": 25}}},
            [4223, 4222, 25],
        ),
        ("tracker", {}, [4222]),
        ("tracker", features.CASES["tracker"]["policy"], [4222, 443, 4318]),
        ("tracker", {"app": {"otel": {"endpoint": "https://collector/otlp"}}}, [4222, 443]),
        ("tracker", {"app": {"otel": {"endpoint": "http://collector:4318/otlp"}}}, [4222, 4318]),
    ],
)
def test_the_network_policy_lets_out_what_the_process_connects_to(
    process: str, given: dict[str, Any], ports: list[int]
) -> None:
    (policy,) = chart.of_kind(chart.render(process, given | {"networkPolicy": {"enabled": True}}), "NetworkPolicy")
    names, others = policy["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in others["ports"]] == ports
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "web", "protocol": "TCP"}]}]


def test_the_credentials_file_of_nats_is_mounted_where_the_process_looks_for_it() -> None:
    for process in chart.PROCESSES:
        objects = chart.render(process, features.CASES[process]["credentials"])
        (mount,) = chart.container(objects)["volumeMounts"]
        (volume,) = chart.pod(objects)["volumes"]
        (item,) = volume["secret"]["items"]
        assert chart.variables(objects)["NATS_CREDS"]["value"] == f"{mount['mountPath']}/{item['path']}"
        assert (mount["name"], mount["readOnly"], volume["name"]) == ("nats-creds", True, "nats-creds")
        assert volume["secret"]["defaultMode"] == 0o440  # for the group, which is the pod's fsGroup


def test_memory_suffices_for_the_process() -> None:
    for process in chart.PROCESSES:  # 33 MiB and 52 MiB idle, 135 MiB for a relay with 300 emails of 100 kB at once
        resources = chart.container(chart.render(process))["resources"]
        assert int(resources["requests"]["memory"].removesuffix("Mi")) >= 64
        assert int(resources["limits"]["memory"].removesuffix("Mi")) >= 256
