# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `check` says of the relay's settings, and which buckets it tries."""

from __future__ import annotations

from typing import Any

import pytest

from relay.commands import check_plan
from relay.settings import RelaySettings
from shared import contract

SENDING: dict[str, Any] = {"email_enabled": True, "ses_configuration_set": "engagement"}


def test_settings_that_fit_each_other_are_one_line() -> None:
    (finding,) = check_plan.judged(RelaySettings(**SENDING))
    assert finding.verdict == "ok"


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"ses_configuration_set": ""}, "SES reports no events"),
        ({"smtp_from": "a@example.org"}, "a@example.org is the default sender, and no request may name it"),
        ({"smtp_allowed_from_domains": ()}, "no request may have a `from`"),
        ({"smtp_allowed_recipient_domains": ("example.com",)}, "mail goes only to example.com"),
    ],
)
def test_settings_that_make_little_sense_are_a_warning(odd: dict[str, Any], said: str) -> None:
    (finding,) = check_plan.judged(RelaySettings(**SENDING | odd))
    assert finding.verdict == "warning"
    assert said in finding.found


@pytest.mark.parametrize(
    "wrong",
    [
        {"smtp_username": "u"},
        {"smtp_allowed_from_domains": ("*.example.com",)},
        {"smtp_from": "nobody"},
        {"ses_max_send_rate": 1e-320},
        {"default_smtp_from_display_name": "é" * 129},
        {"default_smtp_from_display_name": "LFX\nSelf Serve"},
    ],
)
def test_settings_that_serve_refuses_are_a_failure(wrong: dict[str, Any]) -> None:
    (finding,) = check_plan.judged(RelaySettings(**SENDING | wrong))
    assert (finding.verdict, finding.advice) == ("failed", "serve would not start")


def test_the_suppression_list_is_tried_where_it_is_read() -> None:
    without = {use.bucket for use in check_plan.uses(RelaySettings())}
    with_it = check_plan.uses(RelaySettings(suppression_enabled=True))
    assert {use.bucket for use in with_it} - without == {contract.EMAIL_SUPPRESSIONS_BUCKET}
    assert not with_it[-1].writes
