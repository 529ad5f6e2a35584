# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The errors of libraries become words, without class names and error numbers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec
import nats.errors
import pytest

from shared import error_texts

CALL = "Connect call failed ('10.0.0.1', 1)"


class Counts(msgspec.Struct):
    """An answer."""

    total: int
    days: list[int] = []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "no answer in time"),
        (nats.errors.TimeoutError(), "no answer in time"),
        (nats.errors.UnexpectedEOF(), "the server closed the connection"),
        (nats.errors.Error("nats: 'Authorization Violation'"), "the login was refused"),
        (nats.errors.Error("nats: user authentication expired"), "the login was refused"),
        (ConnectionRefusedError(111, "Connect call failed ('::1', 4222, 0, 0)"), "connection refused: [::1]:4222"),
        (
            OSError(f"Multiple exceptions: [Errno 111] {CALL}, [Errno 111] {CALL}"),
            "connection refused: 10.0.0.1:1, 10.0.0.1:1",
        ),
        (FileNotFoundError(2, "No such file or directory", "/creds"), "/creds: No such file or directory"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "the name of the host is not known"),
        (ConnectionResetError(), "connection reset"),
        (asyncio.IncompleteReadError(b"", 4), "0 bytes read on a total of 4 expected bytes"),
        (ValueError("anything else"), "anything else"),
    ],
)
def test_an_error_of_a_library_is_words(error: Exception, words: str) -> None:
    assert error_texts.in_words(error) == words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"total": "many"}', "total is not a whole number"),
        (b'{"total": 1, "days": ["Monday"]}', "days[0] is not a whole number"),
        (b"{}", "total is missing"),
        (b"[]", "it is not an object"),
        (b"", "it is empty, or cut off"),
    ],
)
def test_a_wrong_type_is_named_with_its_field(data: bytes, words: Any) -> None:
    with pytest.raises(msgspec.DecodeError) as raised:
        msgspec.json.decode(data, type=Counts)
    assert error_texts.in_words(raised.value) == words
