# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `check` says of the tracker's settings, and which buckets it tries."""

from __future__ import annotations

import pytest

from shared import contract
from tracker.commands import check_plan
from tracker.settings import TrackerSettings


@pytest.mark.parametrize(
    "url", ["", "queue", "sqs://queue", "http://[x", "http://x:99999/q", "http://x:y/q", "http:///q"]
)
def test_events_without_the_url_of_a_queue_are_a_failure(url: str) -> None:
    assert check_plan.judged(TrackerSettings()).verdict == "ok"
    finding = check_plan.judged(TrackerSettings(ses_eventing_enabled=True, ses_engagement_sqs_queue_url=url))
    assert (finding.verdict, "SES_ENGAGEMENT_SQS_QUEUE_URL" in finding.found) == ("failed", True)


def test_only_what_applies_events_writes() -> None:
    def written(settings: TrackerSettings) -> set[str]:
        return {use.bucket for use in check_plan.uses(settings) if use.writes}

    assert written(TrackerSettings(suppression_enabled=True)) == set()
    assert written(TrackerSettings(ses_eventing_enabled=True)) == {contract.EMAIL_RECIPIENTS_BUCKET}
    both = {contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_SUPPRESSIONS_BUCKET}
    assert written(TrackerSettings(ses_eventing_enabled=True, suppression_enabled=True)) == both
