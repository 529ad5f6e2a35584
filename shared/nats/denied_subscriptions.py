# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The subscriptions that the server has denied. Each is tried again until it is permitted.

A server denies a subscription when it is made, or later, when its permissions are loaded again: then it drops the
subscription, and does not restore it when the permission is granted again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Final

from shared.service.log import RateLimit
from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nats.aio.subscription import Subscription

    from shared.nats.client import ReconnectingClient
    from shared.nats.permissions import Denial

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
FLUSH_SECONDS: Final = 5
DISCOVERY: Final = "$SRV."  # only `nats micro` needs these subjects: a user may be without them
DISCOVERY_LOG_SECONDS: Final = 10


class DeniedSubscriptions:
    """Logs each denial once, and once that the subscription is permitted."""

    def __init__(self, client: ReconnectingClient) -> None:
        """Begin without a denial."""
        self._client = client
        self._required: set[int] = set()
        self._denials: dict[int, Denial] = {}
        self._unanswered: set[int] = set()  # tried in this round, and not denied again
        self._connected = asyncio.Event()
        self._retrying = Tasks()
        self._discovery_lines = RateLimit(lines=1, seconds=DISCOVERY_LOG_SECONDS)

    def require(self, subscription: Subscription) -> None:
        """Note that the process cannot serve without this subscription."""
        self._required.add(subscription._id)  # noqa: SLF001 - nats-py has no public name for it

    def denial_of(self, subscription: Subscription) -> Denial | None:
        """Return the denial of a subscription; None if it is permitted."""
        return self._denials.get(subscription._id)  # noqa: SLF001

    @property
    def of_required(self) -> Denial | None:
        """The denial of a subscription without which the process cannot serve."""
        required = (sid for sid in self._denials if sid in self._required and sid in self._client.subscriptions)
        return next((self._denials[sid] for sid in required), None)

    def add(self, denial: Denial) -> None:
        """Note a denial that the server has reported."""
        subscriptions = self._client.subscriptions
        denied = {sid for sid, one in subscriptions.items() if denial.is_of_subscription(one.subject, one.queue)}
        self._unanswered -= denied
        new = denied - self._denials.keys()
        if new:
            self._log_denied(denial)
            self._denials.update(dict.fromkeys(new, denial))
        if self._denials and not self._retrying:
            self._retrying.start(self._retry())

    def retry_now(self) -> None:
        """Do not wait for the next round: the next server may have other permissions."""
        self._connected.set()

    def close(self) -> None:
        """Try no more."""
        self._retrying.cancel()

    async def _retry(self) -> None:
        while self._denials:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._connected.wait()
            self._connected.clear()
            self._forget_ended()
            discovery = [sid for sid, denial in self._denials.items() if is_of_discovery(denial)]
            one = random.sample(discovery, min(1, len(discovery)))  # of many: a server logs each try
            await self._try_again(self._denials.keys() - discovery | set(one))
            if not self._denials.keys() >= set(one):
                await self._try_again(self._denials.keys() & discovery)

    async def _try_again(self, tried: Iterable[int]) -> None:
        """Subscribe again. The server reports each denial before it answers the flush."""
        self._unanswered = set(tried)
        if not self._unanswered or not self._client.is_connected:
            return
        try:
            for sid in sorted(self._unanswered):
                await self._client.subscribe_again(sid)
            await self._client.flush(FLUSH_SECONDS)
        except Exception as error:  # noqa: BLE001 - of any kind: the retries must not end
            log.debug("nats.not_subscribed", extra={"error": repr(error)})
            return
        if self._client.is_connected:
            self._permit(self._unanswered & self._denials.keys())

    def _permit(self, permitted: set[int]) -> None:
        if permitted:
            subjects = {self._denials.pop(sid).subject for sid in permitted}
            log.info("nats.permitted", extra={"subjects": sorted(subjects)})

    def _forget_ended(self) -> None:
        ended = (self._denials.keys() | self._required) - self._client.subscriptions.keys()
        self._required -= ended
        for sid in ended & self._denials.keys():
            del self._denials[sid]

    def _log_denied(self, denial: Denial) -> None:
        if not is_of_discovery(denial):
            log.error("nats.denied", extra={"error": str(denial)})
            return
        fields = self._discovery_lines.allows()
        if fields is not None:
            log.warning("nats.error", extra={"error": str(denial), **fields})


def is_of_discovery(denial: Denial) -> bool:
    """Return whether the subject is needed for `nats micro` only."""
    return denial.subject.startswith(DISCOVERY)
