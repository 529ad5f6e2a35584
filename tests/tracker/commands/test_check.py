# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` reports invalid settings of the tracker, and checks the buckets it uses."""

from __future__ import annotations

import pytest

from shared import contract
from tracker.commands import check
from tracker.settings import TrackerSettings


@pytest.mark.parametrize(
    "url", ["", "queue", "sqs://queue", "http://[x", "http://x:99999/q", "http://x:y/q", "http:///q"]
)
def test_eventing_without_the_url_of_a_queue_is_a_failure(url: str) -> None:
    assert check.settings_finding(TrackerSettings()).status == "ok"
    finding = check.settings_finding(TrackerSettings(ses_eventing_enabled=True, ses_engagement_sqs_queue_url=url))
    assert (finding.status, "SES_ENGAGEMENT_SQS_QUEUE_URL" in finding.found) == ("failed", True)


def test_permission_to_write_is_needed_only_for_applying_events() -> None:
    def written(settings: TrackerSettings) -> set[str]:
        return {use.bucket for use in check.bucket_uses(settings) if use.writes}

    assert written(TrackerSettings(suppression_enabled=True)) == set()
    assert written(TrackerSettings(ses_eventing_enabled=True)) == {contract.EMAIL_RECIPIENTS_BUCKET}
    both = {contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_SUPPRESSIONS_BUCKET}
    assert written(TrackerSettings(ses_eventing_enabled=True, suppression_enabled=True)) == both
