# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads the parts of a NATS credentials file, which an editor may have saved with other line ends, blanks or a mark."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import nats.errors

JWT: Final = b"BEGIN NATS USER JWT"
SEED: Final = b"BEGIN USER NKEY SEED"


def part(file: str, title: bytes) -> bytearray:
    """Return the line below a title, without the blanks and line ends around it.

    Raises:
        OSError: the file cannot be read.
        nats.errors.Error: it has no user JWT, or no seed.
    """
    lines = [line for line in map(bytes.strip, Path(file).read_bytes().splitlines()) if line]
    below = {line: after for line, after in itertools.pairwise(lines) if not after.startswith(b"-")}
    found = {known: after for known in (JWT, SEED) for line, after in below.items() if known in line}
    if not {JWT, SEED} <= found.keys():
        raise nats.errors.Error(f"nats: {file} has no user JWT and seed")
    return bytearray(found[title])


def problem(file: str) -> str:
    """Return why a credentials file cannot be used; empty if it can."""
    try:
        part(file, SEED)
    except OSError as error:
        return f"{file}: {error.strerror}"
    except (nats.errors.Error, ValueError) as error:  # a path with NUL is a ValueError
        return str(error).removeprefix("nats: ")
    return ""
