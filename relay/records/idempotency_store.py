# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge to the idempotency bucket: a key is claimed before its mail goes out, and settled once the outcome is known.

Costs a request with a key two writes; a repeat costs the write that fails and the read that says why. A settlement
that KV cannot take is tried again for as long as the process lives: until then repeats are told `request in progress`,
later `delivery outcome unknown`, and nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import msgspec
from msgspec.structs import replace
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, stop_never, wait_random_exponential

from relay import idempotency
from relay.idempotency import Claim
from shared.errors import KeyMissing, KeyTaken, RevisionConflict, StoreError, StoreUnavailable
from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.stop import StopBaseT

    from shared.kv.bucket import Bucket

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
UNDO_SECONDS: Final = 60.0  # how long a claim is looked for whose write was not acknowledged
MAX_UNDONE_AT_ONCE: Final = 1000
LEAST_PATIENCE_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 10.0

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Claim).decode


class Held(msgspec.Struct):
    """A key that is ours to settle."""

    key: str
    claim: Claim
    revision: int


class Claims:
    """Claims keys, for as long as its context is open."""

    def __init__(self, bucket: Bucket) -> None:
        """Keep the claims in `bucket`."""
        self._bucket = bucket
        self._settling = Tasks()
        self._undoing = Tasks()
        self._unsettled: dict[str, Held] = {}

    async def __aenter__(self) -> Self:
        """Nothing has to be started."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Settle what is not settled yet, if KV takes it in time; log each email whose key is left in doubt."""
        self._undoing.cancel()
        try:
            await self._settling.wait(FLUSH_SECONDS)
        finally:
            self._settling.cancel()
            for held in self._unsettled.values():
                log.error("claim.lost", extra={"email_id": held.claim.email_id})

    @property
    def unsettled(self) -> int:
        """How many keys KV does not know the outcome of yet, or may hold by mistake."""
        return len(self._unsettled) + len(self._undoing)

    async def make(self, key: str, claim: Claim) -> Held | Claim:
        """Claim a key; return it as ours, or the claim that holds it.

        Raises:
            StoreUnavailable: the bucket is not there or does not answer; nothing may be sent.
        """
        key = idempotency.store_key(key)
        try:
            return Held(key, claim, await self._bucket.create(key, _encode(claim)))
        except KeyTaken as taken:
            known = _decoded(taken.value)
            return Held(key, claim, taken.revision) if known.email_id == claim.email_id else known
        except StoreError as error:
            if len(self._undoing) < MAX_UNDONE_AT_ONCE:  # it may have been written all the same
                self._undoing.start(self._undo(Held(key, claim, 0)))
            raise StoreUnavailable(f"claim: {error}") from error

    async def settle(self, held: Held, state: idempotency.State | None, *, deadline: float) -> None:
        """Store the outcome, or free the key if there is none; after `deadline` (loop time) the rest is done later."""
        self._unsettled[held.key] = held
        task = self._settling.start(self._settle(held, replace(held.claim, state=state) if state else None))
        await asyncio.wait({task}, timeout=max(LEAST_PATIENCE_SECONDS, deadline - asyncio.get_running_loop().time()))

    async def _settle(self, held: Held, outcome: Claim | None) -> None:
        async for attempt in _retrying(stop_never):
            with attempt:
                await self._write(held, outcome)
        self._unsettled.pop(held.key, None)

    async def _undo(self, held: Held) -> None:
        """Free a key whose claim was not acknowledged, if it was written."""
        try:
            async for attempt in _retrying(stop_after_delay(UNDO_SECONDS)):
                with attempt:
                    await self._find_and_write(held, None)
        except StoreError as error:
            log.warning("claim.left", extra={"email_id": held.claim.email_id, "error": str(error)})

    async def _write(self, held: Held, outcome: Claim | None) -> None:
        try:
            await self._replace(held, outcome)
        except RevisionConflict:  # an earlier try got through, or the server says so without cause
            await self._find_and_write(held, outcome)

    async def _find_and_write(self, held: Held, outcome: Claim | None) -> None:
        try:
            entry = await self._bucket.get_from_leader(held.key)
        except KeyMissing as missing:
            if outcome:
                held.revision = missing.revision
                await self._replace(held, outcome)
            return
        known = _decoded(entry.value)
        if known.email_id == held.claim.email_id and known != outcome:
            held.revision = entry.revision
            await self._replace(held, outcome)

    async def _replace(self, held: Held, outcome: Claim | None) -> None:
        if outcome:
            await self._bucket.update(held.key, _encode(outcome), held.revision)
        else:
            await self._bucket.delete(held.key, held.revision)


class NoClaims:
    """The sibling for EMAIL_ENABLED=false: nothing is sent, so nothing can be sent twice."""

    async def make(self, key: str, claim: Claim) -> Held | Claim:
        """Let everybody have the key."""
        return Held(key, claim, 0)

    async def settle(self, held: Held, state: idempotency.State | None, *, deadline: float) -> None:
        """Do nothing."""


def started(fingerprint: str, *, email_id: str, group_id: str) -> Claim:
    """Return the claim of a request that is about to be sent."""
    return Claim(fingerprint=fingerprint, email_id=email_id, group_id=group_id, started_at=datetime.now(UTC))


def _decoded(value: bytes) -> Claim:
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreUnavailable(f"claim is corrupt: {error}") from error


def _retrying(stop: StopBaseT) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(StoreError),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        stop=stop,
        before_sleep=_log_first,
        reraise=True,
    )


def _log_first(state: RetryCallState) -> None:
    level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
    log.log(level, "claim.kept", extra={"error": str(state.outcome.exception()) if state.outcome else ""})
