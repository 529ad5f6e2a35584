# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The errors of the tracker's own modules. This module imports nothing."""

from __future__ import annotations


class QueueUnavailable(Exception):
    """A call to SQS failed: no answer, no permission, throttled, no such queue."""


class RecordCorrupt(Exception):
    """The value under a key is not a record."""


class RecordFull(Exception):
    """A record exceeds its bucket's limit even without its lists."""


class IndexCorrupt(Exception):
    """No segment of a group's index can be read."""


class Stopping(Exception):
    """The process stops so soon that it begins no further write."""
