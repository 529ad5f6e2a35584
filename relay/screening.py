# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Looks each recipient up in the suppression list before a mail goes out; there only with SUPPRESSION_ENABLED=true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from relay.errors import Suppressed, Unscreened
from shared import contract, suppression_list
from shared.errors import StoreError

if TYPE_CHECKING:
    from relay.smtp.connection import Envelope
    from shared.kv.bucket import Bucket

_decode = msgspec.json.Decoder(contract.Suppression).decode


class Deliver(Protocol):
    """Hands a message to the mail server, or raises a DeliveryError; `event` is what the log calls it."""

    event: str

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float) -> None: ...  # noqa: D102


class Screening:
    """Delivers what is not suppressed. Costs an email one direct get."""

    def __init__(self, deliver: Deliver, suppressions: Bucket) -> None:
        """Hand on to `deliver` the mails to those who are not in `suppressions`."""
        self._deliver = deliver
        self._suppressions = suppressions
        self.event = deliver.event

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float) -> None:
        """Deliver.

        Raises:
            Suppressed: the recipient is in the list.
            Unscreened: nobody knows whether it is.
            DeliveryError: the mail was not delivered, or nobody knows.
        """
        found = await self._find(envelope.recipient.lower())
        if found:
            raise Suppressed(found.detail, reason=found.reason)
        await self._deliver(envelope, message, deadline=deadline)

    async def _find(self, address: str) -> contract.Suppression | None:
        try:
            value = await self._suppressions.find(suppression_list.key_of(address))
            return None if value is None else _decode(value)
        except (StoreError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unscreened(str(error)) from error
