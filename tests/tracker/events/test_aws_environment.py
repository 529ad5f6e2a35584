# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Empty variables of AWS mean the default, and blanks around a value do not count."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tracker.events import aws_environment
from tracker.events.sqs import Queue

if TYPE_CHECKING:
    from tests.stack.sqs_endpoint import SqsEndpoint

OF_BOTO = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_DEFAULTS_MODE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_SERVICE_TIMEOUT",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


@pytest.mark.parametrize(
    ("names", "value"),
    [*(pytest.param((name,), "", id=name) for name in OF_BOTO), pytest.param(OF_BOTO, " \n", id="all blank")],
)
async def test_an_empty_variable_means_the_default(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], value: str
) -> None:
    for name in names:
        monkeypatch.setenv(name, value)
    aws_environment.correct(os.environ)
    sqs.send("body")
    [message] = await Queue(sqs.queue_url, os.environ, visibility_seconds=60).receive()
    assert message.body == "body"
    assert not {*names} & {*os.environ}


@pytest.mark.parametrize("around", ["\n", "\r\n", " ", "\t", "\ufeff", "\u00a0"], ids=ascii)
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
async def test_blanks_around_and_in_a_credential_do_not_count(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, name: str, around: str
) -> None:
    monkeypatch.setenv(name, f"{around}AKID{around}TEST{around}")
    aws_environment.correct(os.environ)
    assert os.environ[name] == "AKIDTEST"
    sqs.send("body")
    assert await Queue(sqs.queue_url, os.environ, visibility_seconds=60).receive()


def test_other_variables_and_values_stay() -> None:
    environ = {"AWS_PROFILE": " my profile ", "SMTP_PASSWORD": " p ", "PORT": "", "NO_PROXY": "a, b", "AWS_REGION": "r"}
    aws_environment.correct(environ)
    assert environ == {**environ, "AWS_PROFILE": "my profile", "SMTP_PASSWORD": " p ", "PORT": "", "NO_PROXY": "a, b"}
