# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker check`: its options, what it checks, and its findings about the settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from shared import contract
from shared.commands import command
from shared.commands.check import nats_check, report
from shared.commands.check.bucket_check import BucketUse
from shared.commands.check.checks import Finding, Plan
from shared.service.settings import SettingsError
from tracker import settings as tracker_settings
from tracker.commands import sqs_check, stream_check
from tracker.events import aws_environment
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.commands.check.checks import Check
    from shared.nats.inbox import Inbox

NAME: Final = "lfx-email-tracker"
LIBRARY_VARIABLES: Final = (
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_CA_BUNDLE",
    "HTTPS_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


@click.command(cls=command.Command)
@command.json_option
def check(*, as_json: bool) -> None:
    """Show the configuration, and try every server that it names.

    Prints each variable with its value (secrets are hidden) and its source; then one line each for NATS, the buckets
    and the queue, with advice on every problem. Receives no message and stores nothing. Exits with 1 if a check fails.

    \b
    Examples:
      lfx-email-tracker check
      kubectl exec deploy/lfx-v2-email-tracker -- lfx-email-tracker check
      lfx-email-tracker check --json | jq '.checks[] | select(.verdict != "ok")'
    """  # noqa: D301 - \b is click's mark for a paragraph that it must not wrap
    report.run(NAME, TrackerSettings, plan, library_variables=LIBRARY_VARIABLES, as_json=as_json)


def plan(settings: TrackerSettings) -> Plan:
    """Return the finding about the settings, and the checks to run with them."""
    aws_environment.correct(os.environ)
    nats = nats_check.check(settings, f"{NAME} check", bucket_uses(settings), stream_checks(settings))
    return Plan([settings_finding(settings)], [nats, sqs_check.check(settings, os.environ)])


def bucket_uses(settings: TrackerSettings) -> list[BucketUse]:
    """Return how the tracker uses each bucket."""
    eventing = settings.ses_eventing_enabled
    without = "the process ends with status 1" if eventing else "queries are answered with an error"
    uses = [
        BucketUse(
            bucket=contract.EMAIL_RECIPIENTS_BUCKET,
            writes=eventing,
            finds=True,
            many=True,
            follows=True,
            without=without,
        ),
        BucketUse(bucket=contract.EMAIL_GROUP_INDEX_BUCKET, many=True, follows=True, without=without),
    ]
    if eventing and settings.suppression_enabled:
        without = "bounces and complaints are not applied; SQS delivers them again"
        uses.append(BucketUse(bucket=contract.EMAIL_SUPPRESSIONS_BUCKET, writes=True, without=without))
    return uses


def stream_checks(settings: TrackerSettings) -> dict[str, Callable[[Inbox], Check]]:
    """Return the check of the stream of push events, if the tracker uses it."""
    return {stream_check.ABOUT: stream_check.check} if settings.push_events_durable else {}


def settings_finding(settings: TrackerSettings) -> Finding:
    """Return an error in the combination of settings that are valid one by one, or that they are valid."""
    try:
        tracker_settings.check(settings)
    except SettingsError as error:
        return Finding("failed", report.CONFIGURATION, str(error), "serve would not start")
    return report.VALID_CONFIGURATION
