# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-relay check`: its options, what it checks, and its findings about the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from relay import settings as relay_settings
from relay.commands import rate_check, smtp_check
from relay.settings import RelaySettings
from shared import addresses, contract
from shared.commands import command
from shared.commands.check import nats_check, report
from shared.commands.check.bucket_check import BucketUse
from shared.commands.check.checks import Finding, Plan
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from relay.submission import Policy

NAME: Final = "lfx-email-relay"
LIBRARY_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@click.command(cls=command.Command)
@command.json_option
def check(*, as_json: bool) -> None:
    """Show the configuration, and try every server that it names.

    Prints each variable with its value (secrets are hidden) and its source; then one line each for NATS, the buckets
    and the SMTP server, with advice on every problem. Sends no mail and stores nothing. Exits with 1 if a check fails.

    \b
    Examples:
      lfx-email-relay check
      kubectl exec deploy/lfx-v2-email-relay -- lfx-email-relay check
      lfx-email-relay check --json | jq '.checks[] | select(.verdict != "ok")'
    """  # noqa: D301 - \b is click's mark for a paragraph that it must not wrap
    report.run(NAME, RelaySettings, plan, library_variables=LIBRARY_VARIABLES, as_json=as_json)


def plan(settings: RelaySettings) -> Plan:
    """Return the findings about the settings, and the checks to run with them."""
    nats = nats_check.check(settings, f"{NAME} check", bucket_uses(settings))
    rates = [rate_check.check(settings, f"{NAME} check")] if settings.ses_account_send_rate else []
    return Plan(settings_findings(settings), [nats, *rates, smtp_check.check(settings)])


def bucket_uses(settings: RelaySettings) -> list[BucketUse]:
    """Return how the relay uses each bucket."""
    uses = [
        BucketUse(
            bucket=contract.EMAIL_RECIPIENTS_BUCKET,
            writes=True,
            optional=not settings.email_enabled,
            without="emails are sent, but their records are only kept in memory",
        ),
        BucketUse(
            bucket=contract.EMAIL_GROUP_INDEX_BUCKET,
            writes=True,
            many=True,
            optional=not settings.email_enabled,
            without="emails are sent, but their groups are only kept in memory",
        ),
        BucketUse(
            bucket=contract.EMAIL_IDEMPOTENCY_BUCKET,
            writes=True,
            optional=True,
            expires=True,
            without="requests with an idempotency key are answered with an error",
        ),
    ]
    if settings.suppression_enabled:
        without = "no email is sent, since suppressed recipients cannot be looked up"
        uses.append(BucketUse(bucket=contract.EMAIL_SUPPRESSIONS_BUCKET, finds=True, without=without))
    return uses


def settings_findings(settings: RelaySettings) -> list[Finding]:
    """Return errors and unusual combinations of settings that are valid one by one."""
    try:
        policy = relay_settings.policy(settings)
    except SettingsError as error:
        return [Finding("failed", report.CONFIGURATION, str(error), "serve would not start")]
    warnings = [Finding("warning", report.CONFIGURATION, *warning) for warning in _warnings(settings, policy)]
    return warnings or [report.VALID_CONFIGURATION]


def _warnings(settings: RelaySettings, policy: Policy) -> list[tuple[str, str]]:
    sender = policy.sender
    warnings = []
    if settings.email_enabled and not settings.ses_configuration_set:
        warnings.append(("SES_CONFIGURATION_SET is empty: SES reports no events", "set it to the configuration set"))
    if not policy.from_domains:
        warnings.append(("SMTP_ALLOWED_FROM_DOMAINS is empty: requests with a `from` are refused", "list the domains"))
    elif not addresses.is_listed(sender, policy.from_domains):
        found = f"the default sender {sender.address} is in no allowed domain: requests that name it are refused"
        warnings.append((found, f"add {sender.domain.lower()} to SMTP_ALLOWED_FROM_DOMAINS"))
    if policy.recipient_domains:
        found = f"mail is sent to {', '.join(policy.recipient_domains)} only; other requests succeed with empty ids"
        warnings.append((found, "do not set SMTP_ALLOWED_RECIPIENT_DOMAINS in production"))
    return warnings
