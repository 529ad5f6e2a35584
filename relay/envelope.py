# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the envelope of an email (RFC 5321, 2.3.1)."""

from __future__ import annotations

import msgspec


class Envelope(msgspec.Struct, frozen=True):
    """The sender and the recipient that the mail server is given; ASCII addresses without display names."""

    sender: str
    recipient: str
