# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Ids are UUIDs as the standard library makes and reads them."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from relay.new_id import new_id


def test_ids_are_random_uuids_in_the_usual_form() -> None:
    ids = [new_id() for _ in range(1000)]
    uuids = [UUID(one) for one in ids]
    assert [str(one) for one in uuids] == ids
    assert {(one.version, one.variant) for one in uuids} == {(4, RFC_4122)}
    assert len(set(ids)) == len(ids)


def test_every_other_digit_takes_all_values() -> None:
    columns = zip(*(new_id() for _ in range(1000)), strict=True)
    assert [len(set(column)) for column in columns] == [
        1 if place in {8, 13, 14, 18, 23} else 4 if place == 19 else 16 for place in range(36)
    ]
