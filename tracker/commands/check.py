# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker check`."""

from __future__ import annotations

from typing import Final

import click

from shared.commands import command

OTHERS: Final = (
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
    """Show the configuration, and try everything it names.

    Each variable with its value (secrets hidden) and where it comes from; then NATS, the buckets and the queue,
    one line each, with what to do about it. No message is received and nothing is left behind. Ends with 1 if
    anything fails.

    \b
    Examples:
      lfx-email-tracker check
      kubectl exec deploy/lfx-v2-email-tracker -- lfx-email-tracker check
      lfx-email-tracker check --json | jq '.checks[] | select(.verdict != "ok")'
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from shared.commands.check import report as check_report  # noqa: PLC0415 - so that --help and completion do not wait for it
    from tracker.commands import check_plan  # noqa: PLC0415
    from tracker.settings import TrackerSettings  # noqa: PLC0415

    check_report.run("lfx-email-tracker", TrackerSettings, check_plan.plan, others=OTHERS, as_json=as_json)
