# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Splitting headers, compared with the library."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from shared.nats.client import ReconnectingClient

NAMES = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="-_$."), min_size=1)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_headers_are_split_as_the_library_splits_them(headers: list[tuple[str, str]]) -> None:
    raw = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    assert ReconnectingClient._parse_header_lines(raw) == Client._parse_header_lines(raw)  # noqa: SLF001


def test_values_that_are_not_utf_8_stay_different() -> None:
    one, other = (ReconnectingClient._parse_header_lines(b"Key: a" + byte) for byte in (b"\xfc", b"\xe4"))  # noqa: SLF001
    assert one != other
