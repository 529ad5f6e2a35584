# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` reports settings of the relay that are invalid or unusual together, and checks the buckets it uses."""

from __future__ import annotations

from typing import Any

import pytest

from relay.commands import check
from relay.settings import RelaySettings
from shared import contract

SENDING: dict[str, Any] = {"email_enabled": True, "ses_configuration_set": "engagement"}


def test_valid_settings_are_one_finding() -> None:
    (finding,) = check.settings_findings(RelaySettings(**SENDING))
    assert finding.status == "ok"


@pytest.mark.parametrize(
    ("unusual", "found"),
    [
        ({"ses_configuration_set": ""}, "SES reports no events"),
        ({"smtp_from": "a@example.org"}, "the default sender a@example.org is in no allowed domain"),
        ({"smtp_allowed_from_domains": ()}, "requests with a `from` are refused"),
        ({"smtp_allowed_recipient_domains": ("example.com",)}, "mail is sent to example.com only"),
    ],
)
def test_unusual_settings_are_a_warning(unusual: dict[str, Any], found: str) -> None:
    (finding,) = check.settings_findings(RelaySettings(**SENDING | unusual))
    assert finding.status == "warning"
    assert found in finding.found


@pytest.mark.parametrize(
    "wrong",
    [
        {"smtp_username": "u"},
        {"smtp_allowed_from_domains": ("*.example.com",)},
        {"smtp_from": "not-an-address"},
        {"ses_max_send_rate": 1e-320},
        {"ses_account_send_rate": 1e-320},
        {"default_smtp_from_display_name": "é" * 129},
        {"default_smtp_from_display_name": "LFX\nSelf Serve"},
    ],
)
def test_settings_that_serve_would_refuse_are_a_failure(wrong: dict[str, Any]) -> None:
    (finding,) = check.settings_findings(RelaySettings(**SENDING | wrong))
    assert (finding.status, finding.advice) == ("failed", "serve would not start")


def test_the_suppression_list_is_checked_only_if_it_is_used() -> None:
    without = {use.bucket for use in check.bucket_uses(RelaySettings())}
    with_it = check.bucket_uses(RelaySettings(suppression_enabled=True))
    assert {use.bucket for use in with_it} - without == {contract.EMAIL_SUPPRESSIONS_BUCKET}
    assert not with_it[-1].writes
