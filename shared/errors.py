# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the edges raise, sorted by what the caller will do about it. Nothing may be imported here."""

from __future__ import annotations


class StoreError(Exception):
    """The key-value store did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store did not answer, or answered that it cannot now: the outcome of a write is unknown. Try again."""

    advice = ""


class BucketMissing(StoreUnavailable):
    """There is no such bucket. Until somebody makes it, it is as if the store did not answer."""

    advice = "install the relay's chart, or for a local server run serve --create-buckets once"


class NotPermitted(StoreUnavailable):
    """The NATS user may not ask this of the store: nothing was done, until somebody grants it."""


class KeyMissing(StoreError):
    """The key holds no value, proven by the stream's leader. `revision` is that of its deletion marker, else 0."""

    def __init__(self, key: str, revision: int = 0) -> None:
        """Name the key, and the revision that a new value has to follow."""
        super().__init__(key)
        self.revision = revision


class KeyTaken(StoreError):
    """The key to be created already holds `value`, which was written as `revision`."""

    def __init__(self, key: str, value: bytes = b"", revision: int = 0) -> None:
        """Name the key, and what it holds."""
        super().__init__(key)
        self.value = value
        self.revision = revision


class RevisionConflict(StoreError):
    """The value has changed since it was read. Read again, apply again."""


class ValueTooLarge(StoreError):
    """The value exceeds the bucket's or the server's limit. The same value will never fit."""


class ServiceError(Exception):
    """A service was asked something and did not do it."""


class RequestRefused(ServiceError):
    """The answer is an error of the contract; `reason` and `total` where the answer has them."""

    def __init__(self, error: str, *, reason: str = "", total: int = 0) -> None:
        """Keep the answer."""
        super().__init__(f"{error} ({reason})" if reason else error)
        self.error = error
        self.reason = reason
        self.total = total


class ServiceUnreachable(ServiceError):
    """NATS is not there, or nobody serves the subject: nothing was done."""


class RequestUnanswered(ServiceError):
    """No answer in time, or none that can be read: nobody knows whether it was done."""
