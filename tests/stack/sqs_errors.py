# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The errors of SQS, by their names in the AWS JSON protocol and the older codes that boto3 shows."""

from __future__ import annotations

import msgspec

_OLD = "AWS.SimpleQueueService."


class Kind(msgspec.Struct, frozen=True):
    """A kind of error; an empty code means the name."""

    name: str
    code: str = ""
    status: int = 400


BATCH_ENTRY_IDS_NOT_DISTINCT = Kind("BatchEntryIdsNotDistinct", f"{_OLD}BatchEntryIdsNotDistinct")
EMPTY_BATCH_REQUEST = Kind("EmptyBatchRequest", f"{_OLD}EmptyBatchRequest")
INVALID_PARAMETER_VALUE = Kind("InvalidParameterValue")
MISSING_PARAMETER = Kind("MissingParameter")
QUEUE_DOES_NOT_EXIST = Kind("QueueDoesNotExist", f"{_OLD}NonExistentQueue")
RECEIPT_HANDLE_IS_INVALID = Kind("ReceiptHandleIsInvalid", status=404)
SERIALIZATION_EXCEPTION = Kind("SerializationException")
TOO_MANY_ENTRIES_IN_BATCH_REQUEST = Kind("TooManyEntriesInBatchRequest", f"{_OLD}TooManyEntriesInBatchRequest")
UNSUPPORTED_OPERATION = Kind("UnsupportedOperation", f"{_OLD}UnsupportedOperation")


class SqsError(Exception):
    """An error response."""

    def __init__(self, kind: Kind, message: str = "") -> None:
        self.kind = kind
        self.code = kind.code or kind.name
        self.message = message or kind.name
        super().__init__(self.message)


def invalid_value(parameter: str, value: object, reason: str) -> SqsError:
    """Return the error for an invalid value."""
    return SqsError(INVALID_PARAMETER_VALUE, f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")
