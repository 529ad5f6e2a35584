# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A short run of `make smtp-faults`: no reply is wrong about its email."""

from __future__ import annotations

import pytest

from tests.smtp_faults import experiment

SEED = 21
EMAILS = 300


@pytest.mark.parametrize("is_pipelined", [True, False])
async def test_each_reply_is_true_while_the_mail_server_misbehaves(*, is_pipelined: bool) -> None:
    result = await experiment.run(SEED, EMAILS, is_pipelined=is_pipelined)
    assert result.problems == []
    assert result.replies["sent"] > EMAILS / 10
    assert {"not_sent", "unknown"} <= set(result.replies)
