# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the tracker reads from its environment; each field is the variable of the same name in capitals.

AWS credentials and endpoints are boto3's own matter: it reads its variables itself.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from shared.service.settings import Count, ProcessSettings, Seconds, SettingsError


class TrackerSettings(ProcessSettings, frozen=True, kw_only=True):
    """Defaults are those of the specification."""

    ses_eventing_enabled: bool = False
    ses_engagement_sqs_queue_url: str = ""
    engagement_record_wait_seconds: Seconds = 60.0
    sqs_receivers: Count = 2


def check(settings: TrackerSettings) -> None:
    """Check what no field can say alone.

    Raises:
        SettingsError: events are wanted, and there is no queue, or no URL of one, to take them from.
    """
    if not settings.ses_eventing_enabled:
        return
    if not settings.ses_engagement_sqs_queue_url:
        raise SettingsError("SES_ENGAGEMENT_SQS_QUEUE_URL: must be set, since SES_EVENTING_ENABLED is true")
    if not _is_url(settings.ses_engagement_sqs_queue_url):
        raise SettingsError(f"SES_ENGAGEMENT_SQS_QUEUE_URL: {settings.ses_engagement_sqs_queue_url!r} is no URL")


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:  # half a pair of brackets, a port beyond 65535
        return False
