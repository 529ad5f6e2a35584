# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `lfx-email-relay check` tries, and what the settings say about each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay import settings as rules
from relay.commands import smtp_check
from shared import addresses, contract
from shared.commands.check import nats_check
from shared.commands.check.bucket_check import Use
from shared.commands.check.checkup import Finding, Probe
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.settings import RelaySettings
    from relay.submission import Policy
    from shared.commands.check.checkup import Tell

CONFIGURATION: Final = "configuration"


def plan(settings: RelaySettings) -> Sequence[Probe]:
    """Return the probes."""

    async def judge(tell: Tell) -> None:
        for finding in judged(settings):
            tell(finding)

    return [
        Probe(CONFIGURATION, 1, judge),
        nats_check.probe(settings, "lfx-email-relay check", uses(settings)),
        smtp_check.probe(settings),
    ]


def uses(settings: RelaySettings) -> list[Use]:
    """Return how the relay uses each bucket."""
    buckets = [
        Use(
            bucket=contract.EMAIL_RECIPIENTS_BUCKET,
            writes=True,
            optional=not settings.email_enabled,
            without="emails go out, and their records are kept in memory only",
        ),
        Use(
            bucket=contract.EMAIL_GROUP_INDEX_BUCKET,
            writes=True,
            many=True,
            optional=not settings.email_enabled,
            without="emails go out, and their groups are kept in memory only",
        ),
        Use(
            bucket=contract.EMAIL_IDEMPOTENCY_BUCKET,
            writes=True,
            optional=True,
            expires=True,
            without="requests with an idempotency key are answered with an error",
        ),
    ]
    if settings.suppression_enabled:
        without = "nothing is sent, since nobody knows who is suppressed"
        buckets.append(Use(bucket=contract.EMAIL_SUPPRESSIONS_BUCKET, finds=True, without=without))
    return buckets


def judged(settings: RelaySettings) -> list[Finding]:
    """Return what is odd about settings that are fine each by itself."""
    try:
        policy = rules.policy(settings)
    except SettingsError as error:
        return [Finding("failed", CONFIGURATION, str(error), "serve would not start")]
    remarks = _remarks(settings, policy)
    found = [Finding("warning", CONFIGURATION, found, advice) for found, advice in remarks]
    return found or [Finding("ok", CONFIGURATION, "each variable means something, and they fit each other")]


def _remarks(settings: RelaySettings, policy: Policy) -> list[tuple[str, str]]:
    sender = policy.sender
    remarks = []
    if settings.email_enabled and not settings.ses_configuration_set:
        remarks.append(("SES_CONFIGURATION_SET is empty: SES reports no events", "name the configuration set"))
    if not policy.from_domains:
        remarks.append(("SMTP_ALLOWED_FROM_DOMAINS is empty: no request may have a `from`", "list the domains"))
    elif not addresses.is_listed(sender, policy.from_domains):
        found = f"{sender.address} is the default sender, and no request may name it: it is in no allowed domain"
        remarks.append((found, f"add {sender.domain.lower()} to SMTP_ALLOWED_FROM_DOMAINS"))
    if policy.recipient_domains:
        allowed = ", ".join(policy.recipient_domains)
        remarks.append(
            (f"mail goes only to {allowed}; every other request succeeds with empty ids", "not for production")
        )
    return remarks
