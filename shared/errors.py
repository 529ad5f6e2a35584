# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Errors of the store and of the services, one for each way to react to them. Nothing may be imported here."""

from __future__ import annotations


class StoreError(Exception):
    """The key-value store did not carry out a request."""


class StoreUnavailable(StoreError):
    """The store did not answer, or cannot do it now. Try again; the outcome of a write is unknown."""

    advice = ""


class SetupIncomplete(StoreUnavailable):
    """A bucket or stream does not exist, is full, or cannot be used with its configuration. An operator has to act."""


class BucketMissing(SetupIncomplete):
    """The bucket does not exist. Until it is created, requests fail as if the store did not answer."""

    advice = "install the relay's chart, or for a local server run serve --create-missing once"


class BucketUnfit(SetupIncomplete):
    """The bucket exists, and its configuration loses values."""

    advice = "make the stream of the bucket as `nats kv add` does"


class StoreFull(SetupIncomplete):
    """The bucket, the account or the server has no space for the value."""

    advice = "raise max_bytes of the bucket, or the storage of the account, by 1 MiB or more, and try again"


class StreamMissing(SetupIncomplete):
    """The stream of push events does not exist."""

    advice = "install the tracker's chart with natsStream.enabled=true, or on a local server run serve --create-missing"


class StreamUnfit(SetupIncomplete):
    """The stream of push events exists, and its configuration makes it unusable."""

    advice = "change the stream with `nats stream edit`, or with natsStream in the values of the tracker's chart"


class NotPermitted(StoreUnavailable):
    """The NATS user has no permission for this request, so nothing was done."""


class NoReply(StoreUnavailable):
    """The store is connected, but did not answer in time. The outcome of a write is unknown."""


class KeyMissing(StoreError):
    """The key has no value, confirmed by the stream's leader. `revision` is that of its deletion marker, else 0."""

    def __init__(self, key: str, revision: int = 0) -> None:
        """Keep the key, and the revision that a new value has to follow."""
        super().__init__(key)
        self.revision = revision


class KeyTaken(StoreError):
    """The key to be created already has a value: `value`, which was written as `revision`."""

    def __init__(self, key: str, value: bytes = b"", revision: int = 0) -> None:
        """Keep the key, and its value and revision."""
        super().__init__(key)
        self.value = value
        self.revision = revision


class RevisionConflict(StoreError):
    """The value has changed since it was read. Read it again and repeat the change."""


class ValueTooLarge(StoreError):
    """The value exceeds the limit of the bucket or the server. Trying again does not help."""


class ServiceError(Exception):
    """A service did not carry out a request."""


class RequestRefused(ServiceError):
    """The reply is an ErrorResponse of the contract, with `reason`, `total` and `outcome` if the reply has them."""

    def __init__(self, error: str, *, reason: str = "", total: int = 0, outcome: str = "") -> None:
        """Keep the fields of the reply; `reason` is shown behind the error."""
        super().__init__(f"{error} ({reason})" if reason else error)
        self.error = error
        self.reason = reason
        self.total = total
        self.outcome = outcome


class ServiceUnreachable(ServiceError):
    """NATS cannot be reached, or no process serves the subject: nothing was done."""


class LoginRefused(ServiceUnreachable):
    """The NATS server refuses the user, so nothing was done."""


class PublishDenied(ServiceUnreachable):
    """The NATS user may not publish the request: nothing was done."""


class RequestUnanswered(ServiceError):
    """There was no reply in time, or one that cannot be read: the outcome is unknown."""


class ReplyDenied(RequestUnanswered):
    """The NATS user may not subscribe to replies: the outcome is unknown."""
