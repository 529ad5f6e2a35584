# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The settings of the tracker; each field is the environment variable of the same name in capitals.

boto3 reads its own variables for AWS credentials and endpoints.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from shared.service.settings import ProcessSettings, Seconds, SettingsError

EXAMPLE_QUEUE_URL: Final = "https://sqs.us-east-1.amazonaws.com/123456789012/events"


class TrackerSettings(ProcessSettings, frozen=True, kw_only=True):
    """The defaults are those of the specification."""

    ses_eventing_enabled: bool = False
    ses_engagement_sqs_queue_url: str = ""
    engagement_record_wait_seconds: Seconds = 60.0
    engagement_rebuild_records: bool = False
    sqs_receivers: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2  # each has a thread
    status_by_both_ids: bool = False
    push_events_durable: bool = False


def check(settings: TrackerSettings) -> None:
    """Check the settings that depend on each other.

    Raises:
        SettingsError: eventing is on, and the queue URL is missing or not a URL.
    """
    url = settings.ses_engagement_sqs_queue_url
    if settings.ses_eventing_enabled and not _is_url(url):
        needed = f"SES_ENGAGEMENT_SQS_QUEUE_URL: SES_EVENTING_ENABLED=true needs a URL such as {EXAMPLE_QUEUE_URL}"
        raise SettingsError(f"{needed}, not {url!r}" if url else needed)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:  # such as an unclosed bracket or a port above 65535
        return False
