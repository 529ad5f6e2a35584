# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""When commands are pipelined, and when not any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.errors import Deferred, Rejected
from relay.smtp.pipelining import FAILURES, PAUSE_SECONDS, TRIAL_SECONDS, Pipelining

if TYPE_CHECKING:
    from relay.errors import DeliveryError

NOW = 1000.0


def proven() -> Pipelining:
    pipelining = Pipelining()
    pipelining.succeed()
    return pipelining


def test_a_server_is_on_trial_until_it_has_answered_once() -> None:
    pipelining = Pipelining()
    assert pipelining.is_used(NOW)
    assert pipelining.is_on_trial
    assert not proven().is_on_trial


def test_a_server_on_trial_has_little_time() -> None:
    assert Pipelining().patience(30) == TRIAL_SECONDS
    assert Pipelining().patience(1) == 1
    assert proven().patience(30) == 30


@pytest.mark.parametrize("is_certain", [True, False])
def test_the_first_failure_of_a_server_on_trial_starts_a_pause_that_ends_with_a_trial(*, is_certain: bool) -> None:
    pipelining = Pipelining()
    pipelining.fail(NOW, "lost", is_certain=is_certain)
    assert not pipelining.is_used(NOW + PAUSE_SECONDS - 1)
    assert pipelining.is_used(NOW + PAUSE_SECONDS)
    assert pipelining.is_on_trial


def test_a_server_that_has_answered_may_lose_some_connections() -> None:
    pipelining = proven()
    for _ in range(FAILURES - 1):
        pipelining.fail(NOW, "lost")
    assert pipelining.is_used(NOW)
    pipelining.succeed()
    for _ in range(FAILURES):
        assert pipelining.is_used(NOW)
        pipelining.fail(NOW, "lost")
    assert not pipelining.is_used(NOW)


def test_a_server_that_stops_in_the_middle_is_not_pipelined_any_more() -> None:
    pipelining = proven()
    pipelining.fail(NOW, "no reply", is_certain=True)
    assert not pipelining.is_used(NOW)
    assert pipelining.is_on_trial


def test_the_pause_is_logged_once_and_is_not_extended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pipelining = Pipelining()
    for second in range(3):
        pipelining.fail(NOW + second, "lost")
    [line] = [record for record in caplog.records if record.message == "smtp.pipelining_paused"]
    assert (line.seconds, line.error) == (PAUSE_SECONDS, "lost")  # type: ignore[attr-defined]  # of `extra`
    assert pipelining.is_used(NOW + PAUSE_SECONDS)


@pytest.mark.parametrize(
    ("refusal", "confused"),
    [
        (Rejected("5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining", 503), True),
        (Rejected("SMTP synchronization error", 554), True),
        (Rejected("Syntax error", 500), True),
        (Rejected("5.5.4 Syntax: MAIL FROM:<address>", 501), True),
        (Rejected("5.1.3 Bad recipient address syntax", 501), False),
        (Rejected("5.1.1 no such user", 550), False),
        (Deferred("4.3.0 later", 451), False),
        (Deferred("", 450), False),
    ],
)
def test_a_refusal_of_the_commands_themselves_is_not_believed(refusal: DeliveryError, *, confused: bool) -> None:
    assert Pipelining().is_confused(refusal) == confused
