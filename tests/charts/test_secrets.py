# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each process gets its own secrets and not the other's; a missing one is an error that names it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.charts import chart, features

LOGIN: Final = {
    ("lfx-v2-email-service", "smtp-username", False),
    ("lfx-v2-email-service", "smtp-password", False),
}
ENGAGEMENT: Final = "lfx-v2-email-service-engagement"
EVENTING: Final = {"app": {"ses": {"eventingEnabled": True}}}
OPERATOR: Final = {"externalSecretsOperator": {"enabled": True}, "global": {"awsRegion": "us-west-2"}}
FILES: Final = ("SMTP_USERNAME_FILE", "SMTP_PASSWORD_FILE", "NATS_CREDS")
KEYS: Final = {
    "relay": {"smtp-username", "smtp-password", "ses_configuration_set_name"},
    "tracker": {"sqs_queue_url"},
}


@pytest.mark.parametrize(("process", "case"), features.ALL)
def test_no_process_gets_the_secrets_of_the_other(process: str, case: str) -> None:
    keys = {key for _, key, _ in chart.secret_keys(chart.render(process, features.CASES[process][case]))}
    assert keys <= KEYS[process] | {"NATS_URL"}


def test_a_relay_with_eventing_does_not_start_without_login_and_configuration_set() -> None:
    found = chart.secret_keys(chart.render("relay", EVENTING))
    assert found == LOGIN | {(ENGAGEMENT, "ses_configuration_set_name", False)}


def test_a_relay_without_eventing_uses_an_existing_configuration_set() -> None:
    found = chart.secret_keys(chart.render("relay"))
    assert found == LOGIN | {(ENGAGEMENT, "ses_configuration_set_name", True)}


def test_a_relay_that_sends_nothing_needs_no_login() -> None:
    found = chart.secret_keys(chart.render("relay", {"app": {"email": {"enabled": False}}}))
    assert {key for _, key, optional in found if not optional} == set()


def test_another_smtp_server_needs_no_login() -> None:
    given = {"app": {"email": {"smtpSecretName": "", "smtpHost": "mailpit"}, "ses": {"engagementSecretName": ""}}}
    assert chart.secret_keys(chart.render("relay", given)) == set()


def test_the_login_can_be_in_files_instead_of_variables() -> None:
    given = {"app": {"email": {"smtpSecretAsFiles": True}}, "nats": {"credsSecretName": "nats-creds"}}
    objects = chart.render("relay", given)
    assert chart.secret_keys(objects) == {(ENGAGEMENT, "ses_configuration_set_name", True)}
    mounted = {
        f"{mount['mountPath']}/{item['path']}": (volume["secret"]["secretName"], item["key"])
        for mount in chart.container(objects)["volumeMounts"]
        for volume in chart.pod(objects)["volumes"]
        if volume["name"] == mount["name"]
        for item in volume["secret"]["items"]
    }
    variables = chart.variables(objects)
    assert {variables[name]["value"]: mounted[variables[name]["value"]] for name in FILES} == mounted
    assert {key for _, key in mounted.values()} == {"smtp-username", "smtp-password", "nats.creds"}


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_urls_of_nats_can_be_in_a_secret(process: str) -> None:
    url = chart.variables(chart.render(process, {"nats": {"urlSecretName": "nats-url"}}))["NATS_URL"]
    assert url["valueFrom"] == {"secretKeyRef": {"name": "nats-url", "key": "NATS_URL"}}
    assert "value" not in url


def test_a_relay_without_login_mounts_no_files() -> None:
    given = {"app": {"email": {"smtpSecretAsFiles": True, "enabled": False}}}
    assert "volumes" not in chart.pod(chart.render("relay", given))


def test_a_tracker_with_eventing_does_not_start_without_the_queue() -> None:
    assert chart.secret_keys(chart.render("tracker", EVENTING)) == {(ENGAGEMENT, "sqs_queue_url", False)}


def test_a_tracker_without_eventing_needs_no_secret() -> None:
    assert chart.secret_keys(chart.render("tracker")) == set()


@pytest.mark.parametrize(
    ("process", "given", "message"),
    [
        ("relay", {"app": {"email": {"smtpSecretName": ""}}}, "app.email.smtpSecretName must be set"),
        ("relay", {"app": {"ses": {"eventingEnabled": True, "engagementSecretName": ""}}}, "engagementSecretName"),
        ("tracker", {"app": {"ses": {"eventingEnabled": True, "engagementSecretName": ""}}}, "engagementSecretName"),
        ("relay", OPERATOR | {"global": {}}, "global.awsRegion must be set"),
        ("tracker", OPERATOR | {"global": {}}, "global.awsRegion must be set"),
    ],
)
def test_a_required_secret_without_a_name_is_an_error(process: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(chart.Refused, match=message):
        chart.render(process, given)


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_operator_creates_the_secret_that_the_pods_read(process: str) -> None:
    objects = chart.render(process, OPERATOR | EVENTING)
    (external,) = chart.of_kind(objects, "ExternalSecret")
    (store,) = chart.of_kind(objects, "SecretStore")
    assert external["spec"]["secretStoreRef"]["name"] == store["metadata"]["name"]
    assert {one["secretKey"] for one in external["spec"]["data"]} == KEYS[process]
    made = external["spec"]["target"]["name"]
    assert chart.secret_keys(objects) == {(made, key, False) for key in KEYS[process]}
    (account,) = chart.of_kind(objects, "ServiceAccount")
    assert store["spec"]["provider"]["aws"]["auth"]["jwt"]["serviceAccountRef"]["name"] == account["metadata"]["name"]


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_a_required_key_without_a_source_is_an_error(process: str) -> None:
    data = [{"secretKey": "other", "remoteRef": {"key": "path"}}]
    operator = {"enabled": True, "externalSecret": {"data": data}}
    with pytest.raises(chart.Refused, match=r"externalSecret\.data must have an entry for"):
        chart.render(process, OPERATOR | EVENTING | {"externalSecretsOperator": operator})


def test_two_releases_in_one_namespace_share_no_name() -> None:
    names: list[set[tuple[str, str]]] = [
        {(one["kind"], one["metadata"]["name"]) for one in chart.render(process, features.CASES[process]["secrets"])}
        for process in chart.PROCESSES
    ]
    assert names[0] & names[1] == set()


def test_only_the_tracker_gets_the_role() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/email"}
    objects = chart.render("tracker", EVENTING | {"serviceAccount": {"annotations": role}})
    (account,) = chart.of_kind(objects, "ServiceAccount")
    assert account["metadata"]["annotations"] == role
    assert chart.pod(objects)["serviceAccountName"] == account["metadata"]["name"]
    assert "role-arn" not in chart.notes("tracker", EVENTING | {"serviceAccount": {"annotations": role}})
    assert "CANNOT READ THE QUEUE" in chart.notes("tracker", EVENTING)


def test_an_existing_service_account_is_only_named() -> None:
    objects = chart.render("tracker", {"serviceAccount": {"create": False, "name": "theirs"}})
    assert chart.of_kind(objects, "ServiceAccount") == []
    assert chart.pod(objects)["serviceAccountName"] == "theirs"
