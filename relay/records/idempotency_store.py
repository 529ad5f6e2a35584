# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The idempotency bucket: a request takes its key before its email is sent, and settles it when the outcome is known.

A request with a key costs two writes, a repeat one write that fails and one read.
An outcome that KV cannot store is tried again while the process runs. Until it is stored, repeats are answered
`request in progress`, later `delivery outcome unknown`; nothing is sent twice.
The write that takes a key may end without an answer, or be interrupted. Then nothing is sent, and the write is undone:
the key is deleted if it is there, and else gets a deletion marker, so that the server refuses a write that comes late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import msgspec
from msgspec.structs import replace
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, stop_never, wait_random_exponential

from relay import idempotency
from relay.idempotency import StoredKey
from shared import contract, decoding
from shared.errors import BucketUnfit, KeyMissing, KeyTaken, RevisionConflict, StoreUnavailable
from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from tenacity import RetryCallState
    from tenacity.stop import StopBaseT

    from relay.idempotency import KeyState, Repeat
    from shared.kv.bucket import Bucket

log = logging.getLogger(__name__)

UNDO_SECONDS: Final = 60.0  # how long a write of unknown outcome is tried to be undone
MAX_UNDONE_AT_ONCE: Final = 1000
LEAST_PATIENCE_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 10.0

_encode = msgspec.json.Encoder().encode
_decode = decoding.decoder(StoredKey)


class HeldKey:
    """A key that one request holds until it settles it."""

    def __init__(self, store: IdempotencyStore, name: str, stored: StoredKey, revision: int = 0) -> None:
        """Hold the KV key `name`, whose value `stored` was written as `revision`."""
        self.name = name
        self.stored = stored
        self.revision = revision
        self._store = store

    async def settle(self, state: KeyState | None, *, deadline: float) -> None:
        """Store the outcome, or free the key if `state` is None.

        After `deadline` (of `time.monotonic`) it is done in the background.
        """
        outcome = replace(self.stored, state=state) if state else None
        settling = self._store.start_settling(self, outcome)
        seconds_left = deadline - time.monotonic()
        await asyncio.wait({settling}, timeout=max(LEAST_PATIENCE_SECONDS, seconds_left))


class IdempotencyStore:
    """Gives each key to one request, for as long as its context is open."""

    def __init__(self, bucket: Bucket, longest_request: timedelta) -> None:
        """Keep the keys in `bucket`; a request that is older than `longest_request` cannot be running any more."""
        self.longest_request = longest_request
        self._bucket = bucket
        self._tasks = Tasks()
        self._unsettled: set[HeldKey] = set()  # their requests were answered, and the outcome is not stored yet
        self._undoing: set[HeldKey] = set()  # their first write may be stored, though nothing was sent for it

    async def __aenter__(self) -> Self:
        """Start nothing: tasks start with the first request."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Store the outcomes that are missing and undo writes, if KV accepts it in time; log the emails of the rest."""
        try:
            await self._tasks.wait(FLUSH_SECONDS)
        finally:
            self._tasks.cancel()
            # Outcomes that were not stored, and writes that were not undone:
            for held in self._unsettled | self._undoing:
                log.error("claim.lost", extra={"email_id": held.stored.email_id})

    @property
    def unsettled(self) -> int:
        """How many keys have an outcome that is not stored yet, or may be stored without a request that holds them."""
        return len(self._unsettled) + len(self._undoing)

    async def begin(
        self, request: contract.SendEmailRequest, headers: Mapping[str, str] | None, *, email_id: str, group_id: str
    ) -> HeldKey | Repeat | None:
        """Take the key of a request. Return None if it has no key, and the answer if the key is already used.

        Raises:
            Malformed: the key cannot be stored (of `relay.idempotency`).
            StoreUnavailable: the bucket is missing or does not answer; nothing may be sent.
        """
        key = idempotency.key_in(request, headers)
        if key is None:
            return None
        started = StoredKey(
            fingerprint=idempotency.fingerprint(request),
            email_id=email_id,
            group_id=group_id,
            started_at=datetime.now(UTC),
        )
        del request, headers  # they may be large, and KV slow
        return await self._take(idempotency.store_key(key), started)

    async def _take(self, name: str, started: StoredKey) -> HeldKey | Repeat:
        held = HeldKey(self, name, started)
        try:
            held.revision = await self._bucket.create(name, _encode(started))
        except KeyTaken as taken:
            stored = _decoded(taken.value)
            if stored.email_id == started.email_id:  # an earlier try of this write was stored after all
                held.revision = taken.revision
                return held
            return idempotency.answer(
                stored, started.fingerprint, now=started.started_at, longest_request=self.longest_request
            )
        except asyncio.CancelledError:
            self._start_undoing(held)
            raise
        except Exception as error:  # of the store, or its answer cannot be read
            if not isinstance(error, BucketUnfit):  # then nothing was written
                self._start_undoing(held)
            raise StoreUnavailable(f"idempotency key: {error}") from error
        return held

    def start_settling(self, held: HeldKey, outcome: StoredKey | None) -> asyncio.Task[None]:
        """Store the outcome in a task of this store, as often as it takes."""
        self._unsettled.add(held)
        return self._tasks.start(self._settle(held, outcome))

    async def _settle(self, held: HeldKey, outcome: StoredKey | None) -> None:
        async for attempt in _retrying(stop_never):
            with attempt:
                try:
                    await self._replace(held, outcome)
                except RevisionConflict:  # an earlier try was stored, or the server reports a conflict without cause
                    await self._find_and_replace(held, outcome)
        self._unsettled.discard(held)

    def _start_undoing(self, held: HeldKey) -> None:
        if len(self._undoing) >= MAX_UNDONE_AT_ONCE:
            _log_left(held, f"{MAX_UNDONE_AT_ONCE} other writes are being undone")
            return
        self._undoing.add(held)
        self._tasks.start(self._undo(held))

    async def _undo(self, held: HeldKey) -> None:
        """Free a key whose first write may have been stored, or may be stored later."""
        try:
            async for attempt in _retrying(stop_after_delay(UNDO_SECONDS)):
                with attempt:
                    await self._find_and_replace(held, None)
        except Exception as error:  # noqa: BLE001 - logged
            _log_left(held, str(error))
        self._undoing.discard(held)

    async def _find_and_replace(self, held: HeldKey, outcome: StoredKey | None) -> None:
        try:
            entry = await self._bucket.get_from_leader(held.name)
        except KeyMissing as missing:  # a deletion marker on this revision refuses a write that comes late
            held.revision = missing.revision
            await self._replace(held, outcome)
            return
        stored = _decoded(entry.value)
        if stored.email_id == held.stored.email_id and stored != outcome:
            held.revision = entry.revision
            await self._replace(held, outcome)

    async def _replace(self, held: HeldKey, outcome: StoredKey | None) -> None:
        if outcome:
            await self._bucket.update(held.name, _encode(outcome), held.revision)
        else:
            await self._bucket.delete(held.name, held.revision)


class DisabledIdempotencyStore:
    """Used with EMAIL_ENABLED=false: nothing is sent, so keys are checked but not stored."""

    async def begin(
        self,
        request: contract.SendEmailRequest,
        headers: Mapping[str, str] | None,
        *,
        email_id: str,  # noqa: ARG002 - part of the interface
        group_id: str,  # noqa: ARG002
    ) -> None:
        """Check the key.

        Raises:
            Malformed: it could not be stored (of `relay.idempotency`).
        """
        idempotency.key_in(request, headers)


def _decoded(value: bytes) -> StoredKey:
    try:
        return _decode(value)
    except decoding.Malformed as error:
        raise StoreUnavailable(f"idempotency key: the stored value is corrupt: {error}") from error


def _retrying(stop: StopBaseT) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(Exception),  # also of an answer that cannot be read
        wait=wait_random_exponential(multiplier=0.1, max=5),
        stop=stop,
        before_sleep=_log_first,
        reraise=True,
    )


def _log_left(held: HeldKey, error: str) -> None:
    log.warning("claim.left", extra={"email_id": held.stored.email_id, "error": error})


def _log_first(state: RetryCallState) -> None:
    level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
    log.log(level, "claim.kept", extra={"error": str(state.outcome.exception()) if state.outcome else ""})
