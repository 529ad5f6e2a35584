# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A short run of `make smtp-faults`: no reply is wrong about its email."""

from __future__ import annotations

from tests.smtp_faults import experiment

SEED = 21
EMAILS = 400


async def test_each_reply_is_true_while_the_mail_server_misbehaves() -> None:
    result = await experiment.run(SEED, EMAILS)
    assert result.problems == []
    assert result.replies["sent"] > EMAILS / 10
    assert {"not_sent", "unknown"} <= set(result.replies)
