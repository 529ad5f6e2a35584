# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Keys and segments of the group index, and the number of ids that fit into a segment."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared import decoding, group_index

PROPERTY = settings(max_examples=100)
UUID = "550e8400-e29b-41d4-a716-446655440000"
ODD_GROUP_IDS = (
    "=",
    "==",
    "=a",
    "=3Da",
    "=1.a",
    "=.1.a",
    "=.*.a",
    "=2E",
    ".",
    "..",
    ".a",
    "a.",
    "a..b",
    "a b",
    "=a=20b",
    " ",
    "  ",
    "\t",
    "*",
    ">",
    "a.*",
    "a.>",
    "%",
    "a%20b",
    "ä",
    "a\u0308",
    "\u202e",
    "😀",
    "\x7f",
    "\u2028",
    "*" * 255,
    "é" * 127,
    "😀" * 63,
)

group_ids = st.one_of(
    st.text("ab01=.%*> /_-E2é", min_size=1, max_size=12),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=255),
).filter(group_index.is_valid)
email_ids = st.lists(st.uuids().map(str), max_size=40)


def group_of(key: str) -> str:
    """Undo `key_of`."""
    if key[0] != "=":
        return key
    escaped = key[1:].encode()
    return re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), escaped).decode()


@PROPERTY
@given(group_ids)
def test_a_group_id_comes_back_from_its_key(group_id: str) -> None:
    assert group_of(group_index.key_of(group_id)) == group_id


@PROPERTY
@given(group_ids)
def test_the_key_of_any_group_id_is_legal_for_nats(group_id: str) -> None:
    assert group_index.is_legal_key(group_index.key_of(group_id))


@PROPERTY
@given(st.lists(group_ids, unique=True, min_size=2, max_size=20))
@example([*ODD_GROUP_IDS, "a=2E=2Eb", "a=20b", "20", "x" * 255])
def test_two_group_ids_never_share_a_key(different: list[str]) -> None:
    assert len({group_index.key_of(group_id) for group_id in different}) == len(different)


def test_a_group_id_that_is_not_a_legal_key_or_begins_with_an_equals_sign_is_escaped() -> None:
    for group_id in ODD_GROUP_IDS:
        key = group_index.key_of(group_id)
        assert group_index.is_valid(group_id)
        assert key != group_id
        assert group_index.is_legal_key(key)
        assert group_of(key) == group_id


def test_a_legal_group_id_is_its_own_key_as_in_the_go_service() -> None:
    for group_id in ("g", UUID, "invite-batch-abc123", "a=b", "a.b.c", "a/b", "a=20b", "/", "-", "_", "A" * 255):
        assert group_index.key_of(group_id) == group_id


@pytest.mark.parametrize(("group_id", "key"), [("=", "==3D"), ("a b", "=a=20b"), ("a.", "=a=2E"), ("é*", "==C3=A9=2A")])
def test_escaped_keys_keep_their_spelling(group_id: str, key: str) -> None:
    """The buckets in production contain such keys; with another spelling their groups would be lost."""
    assert group_index.key_of(group_id) == key


@PROPERTY
@given(group_ids, group_ids, st.integers(1, 10_000))
@example("=.1.a", "a", 1)
@example("=.1.=20", " ", 1)
def test_no_group_id_maps_to_a_segment_key(group_id: str, other: str, segment: int) -> None:
    assert group_index.key_of(group_id) != group_index.segment_key(group_index.key_of(other), segment)
    assert not group_index.key_of(group_id).startswith("=.")


@PROPERTY
@given(group_ids, st.integers(0, 10_000))
def test_a_segment_key_is_legal_and_gives_back_its_number(group_id: str, segment: int) -> None:
    key = group_index.segment_key(group_index.key_of(group_id), segment)
    assert group_index.is_legal_key(key)
    assert group_index.segment_number(key) == segment


@PROPERTY
@given(group_ids, group_ids, st.integers(0, 10_000), st.integers(0, 3))
@example("=seal.0.a", "a", 0, 0)
@example("0.a", "a", 0, 0)
def test_the_key_of_a_seal_is_legal_and_is_no_group_and_no_segment(
    group_id: str, other: str, number: int, segment: int
) -> None:
    key = group_index.key_of(other)
    seal = group_index.seal_key(key, number)
    assert group_index.is_legal_key(seal)
    assert group_index.is_seal(seal)
    assert (group_index.first_key(seal), group_index.segment_number(seal)) == (key, number)
    one = group_index.segment_key(group_index.key_of(group_id), segment)
    assert not group_index.is_seal(one)
    assert seal != one
    assert not matches(group_index.later_segments(group_index.key_of(group_id)), seal)
    assert matches(group_index.seals(group_index.key_of(group_id)), seal) == (group_id == other)


@PROPERTY
@given(group_ids, group_ids, st.integers(0, 3), st.integers(0, 3))
@example("a", "1.a", 1, 0)
@example("1.a", "a", 0, 1)
def test_different_groups_or_segments_have_different_keys(one: str, other: str, first: int, second: int) -> None:
    same = (one, first) == (other, second)
    keys = [group_index.segment_key(group_index.key_of(group), n) for group, n in ((one, first), (other, second))]
    assert (keys[0] == keys[1]) == same


@PROPERTY
@given(group_ids, group_ids, st.integers(0, 3))
@example("a", "1.a", 1)
@example("a.b", "b", 1)
def test_the_filter_of_a_group_matches_its_later_segments_only(group_id: str, other: str, segment: int) -> None:
    subject = group_index.segment_key(group_index.key_of(other), segment)
    wanted = group_index.later_segments(group_index.key_of(group_id))
    assert matches(wanted, subject) == (group_id == other and segment > 0)


def matches(subject_filter: str, subject: str) -> bool:
    """Match as NATS does, where `*` stands for one token."""
    tokens, wanted = subject.split("."), subject_filter.split(".")
    return len(tokens) == len(wanted) and all(want in ("*", token) for token, want in zip(tokens, wanted, strict=True))


@pytest.mark.parametrize("group_id", ["x" * 256, "é" * 128, "😀" * 64, "a\rb", "a\n", "\0", "\r\n"])
def test_a_group_id_over_255_bytes_or_with_a_line_break_or_nul_is_invalid(group_id: str) -> None:
    assert not group_index.is_valid(group_id)


def test_a_key_that_nats_refuses_is_not_legal() -> None:
    for key in ("", ".", "a.", ".a", "a..b", "a b", "a*", ">", "ä", "a\n", "٣", "a%", "a:b", "a+b", "\0"):
        assert not group_index.is_legal_key(key), key


@pytest.mark.parametrize(
    ("email_id", "is_one"), [("x" * 255, True), (UUID, True), ("x" * 256, False), ("", False), ("a..b", False)]
)
def test_an_email_id_is_a_legal_key_of_at_most_255_characters(email_id: str, *, is_one: bool) -> None:
    assert group_index.is_email_id(email_id) is is_one


@pytest.mark.parametrize(
    ("given_id", "email_id"),
    [
        (UUID, UUID),
        (UUID.upper(), UUID),
        (f" {UUID}\n", UUID),
        (f"\t\u00a0{UUID.upper()} ", UUID),
        (f"{UUID[:-1]}F", f"{UUID[:-1]}f"),
        ("Paged-1", "Paged-1"),
        (" Paged-1 ", "Paged-1"),
        (UUID.upper().replace("-", ""), UUID.upper().replace("-", "")),
        (f"{{{UUID.upper()}}}", f"{{{UUID.upper()}}}"),
        (f"urn:uuid:{UUID.upper()}", f"urn:uuid:{UUID.upper()}"),
        (f"{UUID.upper()}\0", f"{UUID.upper()}\0"),
        (" ", ""),
        ("", ""),
    ],
)
def test_blanks_around_an_email_id_and_the_case_of_a_uuid_do_not_count(given_id: str, email_id: str) -> None:
    assert group_index.email_id_of(given_id) == email_id


@PROPERTY
@given(email_ids)
def test_ids_are_decoded_in_the_order_of_sending(ids: list[str]) -> None:
    value = group_index.encode(ids)
    assert group_index.decode(value) == tuple(ids)
    assert json.loads(value) == ids


@PROPERTY
@given(email_ids.filter(bool), email_ids.filter(bool))
def test_extending_a_value_equals_decoding_appending_and_encoding(held: list[str], more: list[str]) -> None:
    value = group_index.encode(held)
    assert group_index.extend(value, more) == group_index.encode([*group_index.decode(value), *more])


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (b"[]", ()),
        (b"null", ()),
        (b" null\n", ()),
        (b'["a"]', ("a",)),
        (b' [ "a" ,\n"b" ] ', ("a", "b")),
        (b'["a","a"]', ("a", "a")),
        (rb'["\u00e9/"]', ("é/",)),
    ],
)
def test_a_value_in_another_layout_of_json_is_read(value: bytes, ids: tuple[str, ...]) -> None:
    assert group_index.decode(value) == ids


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b'"a"', b"[1]", b"[null]", b'["a"', b'["a",]', b'["a"]["b"]', b"nul", b'["\xff"]', b"\0", b"1"],
)
def test_a_corrupt_value_is_an_error(value: bytes) -> None:
    with pytest.raises(decoding.Malformed):
        group_index.decode(value)


@PROPERTY
@given(email_ids, email_ids, st.integers(0, 3), st.integers(0, 3000))
@example([], [UUID], 0, 40)
@example([], [UUID], 0, 39)
@example([UUID], [UUID], 0, 79)
@example([UUID], [UUID], 0, 78)
def test_as_many_ids_fit_as_the_bytes_allow(held: list[str], more: list[str], segment: int, max_bytes: int) -> None:
    value = group_index.encode(held)
    fitting = group_index.fitting(len(value), len(held), segment, more, max_bytes)
    assert fitting == 0 or len(group_index.encode(held + more[:fitting])) <= max_bytes
    assert fitting == len(more) or len(group_index.encode(held + more[: fitting + 1])) > max_bytes


@pytest.mark.parametrize("size", [0, len(b"[]"), len(b"null")])
def test_the_value_of_an_empty_segment_takes_no_space(size: int) -> None:
    """The segment is written anew, also if its value was missing, `[]` or the `null` of Go."""
    assert group_index.fitting(size, 0, 0, [UUID], len(f'["{UUID}"]')) == 1


@pytest.mark.parametrize(
    ("count", "segment", "fitting"),
    [
        (0, 0, 10_000),
        (9_999, 0, 1),
        (10_000, 0, 0),
        (26_000, 0, 0),
        (0, 1, 500),
        (500, 1, 0),
        (501, 7, 0),
    ],
)
def test_a_segment_takes_no_id_beyond_its_capacity(count: int, segment: int, fitting: int) -> None:
    assert group_index.fitting(count * 39, count, segment, [UUID] * 12_000, 2**30) == fitting
