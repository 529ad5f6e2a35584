# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the tracker's own edges and pure rooms raise. Nothing may be imported here."""

from __future__ import annotations


class QueueUnavailable(Exception):
    """SQS did not do what was asked: no answer, no permission, throttled, no such queue."""


class RecordCorrupt(Exception):
    """The value under a key is no record."""


class RecordFull(Exception):
    """A record exceeds its bucket's limit even without its lists."""


class IndexCorrupt(Exception):
    """No segment of a group's index can be read."""
