# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `lfx-email-tracker check` tries, and what the settings say about each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shared import contract
from shared.commands.check import nats_check
from shared.commands.check.bucket_check import Use
from shared.commands.check.checkup import Finding, Probe
from shared.service.settings import SettingsError
from tracker import settings as rules
from tracker.commands import sqs_check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.commands.check.checkup import Tell
    from tracker.settings import TrackerSettings

CONFIGURATION: Final = "configuration"


def plan(settings: TrackerSettings) -> Sequence[Probe]:
    """Return the probes."""

    async def judge(tell: Tell) -> None:
        tell(judged(settings))

    return [
        Probe(CONFIGURATION, 1, judge),
        nats_check.probe(settings, "lfx-email-tracker check", uses(settings)),
        sqs_check.probe(settings, os.environ),
    ]


def uses(settings: TrackerSettings) -> list[Use]:
    """Return how the tracker uses each bucket."""
    eventing = settings.ses_eventing_enabled
    without = "the process ends with status 1" if eventing else "queries are answered with an error"
    buckets = [
        Use(
            bucket=contract.EMAIL_RECIPIENTS_BUCKET,
            writes=eventing,
            finds=True,
            many=True,
            follows=True,
            without=without,
        ),
        Use(bucket=contract.EMAIL_GROUP_INDEX_BUCKET, many=True, follows=True, without=without),
    ]
    if eventing and settings.suppression_enabled:
        without = "events of bounces and complaints are held, and come again"
        buckets.append(Use(bucket=contract.EMAIL_SUPPRESSIONS_BUCKET, writes=True, without=without))
    return buckets


def judged(settings: TrackerSettings) -> Finding:
    """Return what the settings say about each other."""
    try:
        rules.check(settings)
    except SettingsError as error:
        return Finding("failed", CONFIGURATION, str(error), "serve would not start")
    return Finding("ok", CONFIGURATION, "each variable means something, and they fit each other")
