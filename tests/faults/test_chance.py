# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Faults by chance: repeatable by seed, and only those that a kind of message can have."""

from __future__ import annotations

import json

from tests.faults import kinds
from tests.faults.chance import Chance
from tests.stack.nats_frames import Answer, Delivery, Publication

WRITES = [Publication(f"$KV.email-recipients.{number}", f"_INBOX.a.{number}", b"{}") for number in range(200)]
READS = [Publication("$JS.API.STREAM.INFO.KV_b", f"_INBOX.b.{number}", b"") for number in range(200)]


def names(chance: Chance, kind: str) -> list[str]:
    """Return the names of the faults of a kind of message."""
    return [fault.name for fault in chance.faults if fault.kind == kind]


def test_a_seed_gives_a_kind_of_message_the_same_faults_in_any_mix_of_kinds() -> None:
    apart, mixed, other = (Chance(seed, "relay 1", rate=0.2) for seed in (1, 1, 2))
    for publication in [*WRITES, *READS]:
        apart.decide(publication)
        other.decide(publication)
    for write, read in zip(WRITES, READS, strict=True):
        mixed.decide(write)
        mixed.decide(read)
    assert names(apart, "write") == names(mixed, "write") != names(other, "write")
    assert names(apart, "API") == names(mixed, "API")
    assert set(names(apart, "API")) <= set(kinds.READ) | {"10077"}


def test_each_fault_of_a_write_is_planned_as_its_name_says() -> None:
    chance = Chance(3, "tracker 1", rate=1.0)
    for number in range(300):
        write = Publication("$KV.b.key", f"_INBOX.{number}", b"value")
        plan = chance.decide(write)
        name = chance.faults[-1].name
        messages = [planned.message for planned in plan]
        if name in {"503", *kinds.ERRORS}:
            assert all(isinstance(message, Answer) for message in messages)
        else:
            copies = {"drop": 0, "repeat": 2}.get(name, 1)
            assert messages == [write] * copies
        assert any(planned.after_seconds for planned in plan) == (name in {"delay", "late"})


def test_a_fault_of_a_reply_is_that_of_the_next_message_to_its_inbox() -> None:
    chance = Chance(4, "tracker 1", rate=1.0)
    ack = b'{"stream":"KV_b","seq":1}'
    for number in range(300):
        chance.decide(Publication("$KV.b.key", f"_INBOX.{number}", b"value"))
        name = chance.faults[-1].name
        reply = Delivery(f"_INBOX.{number}", "1", "", ack)
        plan = chance.deliver(reply)
        if name == "garble reply":
            assert plan[0].message != reply
        else:
            copies = {"lose reply": 0, "repeat reply": 2}.get(name, 1)
            assert [planned.message for planned in plan] == [reply] * copies
        assert [planned.message for planned in chance.deliver(reply)] == [reply]


def test_callers_and_pushes_whose_message_was_lost_or_repeated_are_touched() -> None:
    chance = Chance(5, "relay 1", rate=1.0)
    for number in range(50):
        chance.deliver(Delivery("lfx.email-service.send_email", "1", f"_INBOX.{number}", b"{}"))
    lost = sum(name != "delay" for name in names(chance, "request"))
    assert len(chance.touched) == lost
    assert len(chance.repeated) == names(chance, "request").count("repeat")
    event = json.dumps({"email_id": "e"}).encode()
    for _ in range(20):
        chance.decide(Publication("lfx.email-service.email_opened", "", event))
    assert "lfx.email-service.email_opened e" in chance.touched
