# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the share of the account's send rate that this relay may use, decided from the heartbeats of all relays.

These rules keep the sum of the shares at the rate while relays come and go, and while messages are lost:

* A relay that hears a new one divides the rate by one more, and only then lists it in its heartbeats.
* A relay uses a share only after every relay that it knows, or that those list, has listed it. If it hears of none that
  uses a share, the server has to confirm that there is none: one that is cut off may have emails to send.
* Its share ends `hold_seconds` after it sent the last heartbeat that came back to it. The others count it for longer.
* The others stop counting it earlier if it has left, or if the server has had no subscription of it for a while.
* A relay whose own heartbeats do not come back cannot judge the others: it keeps its share, and forgets none of them.
* A process that was paused uses no share until it has heard itself again, and with that what it missed.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

HEARTBEAT_SECONDS: Final = 0.3
ECHO_SECONDS: Final = 1.5  # without an own heartbeat for so long, the link to the others counts as broken
JOIN_SECONDS: Final = 0.7  # long enough to hear every other relay twice
SILENT_SECONDS: Final = 0.7  # two heartbeats were missed
ABSENT_SECONDS: Final = 1.5  # a relay that has lost its connection usually connects again within that time
PAUSED_SECONDS: Final = 1.5  # a process that did not run for so long was paused
MARGIN_SECONDS: Final = 1.0  # for a heartbeat that takes long
LEAST_HOLD_SECONDS: Final = 5.0
MOST_HOLD_SECONDS: Final = 60.0
MAX_RELAYS: Final = 1000
SHARING: Final = "sharing"

RelayId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
State = Literal["joining", "sharing", "left"]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A message to all relays. `at` is the time on the sender's own clock, `relays` are the others that it counts.

    `rate` is its setting; `share` is for people who read along.
    """

    relay: RelayId
    at: float
    state: State
    relays: list[RelayId]
    rate: Annotated[float, msgspec.Meta(gt=0)]
    share: float
    hold_seconds: Annotated[float, msgspec.Meta(ge=0, le=MOST_HOLD_SECONDS)]


class _Other:
    """Another relay, and when its last heartbeat came."""

    def __init__(self, heartbeat: Heartbeat, heard_at: float) -> None:
        self.last = heartbeat
        self.heard_at = heard_at


class RateShare:
    """The other relays, and the share that follows. All times are seconds of one monotonic clock."""

    def __init__(self, relay: str, rate: float, hold_seconds: float) -> None:
        """Begin without a share; `hold_seconds` is how long the relay has emails to send after NATS is lost."""
        self.relay = relay
        self._rate = rate
        self._hold_seconds = min(max(hold_seconds, LEAST_HOLD_SECONDS), MOST_HOLD_SECONDS)
        self._others: dict[str, _Other] = {}
        self._echoed_at = float("-inf")  # when it last heard a heartbeat of its own
        self._linked_since: float | None = None  # since when it hears them without a gap; None while it does not
        self._awake_at = float("-inf")  # the last `wake`
        self._woken_at: float | None = None  # when a pause ended; None once a heartbeat that was sent since came back
        self._share_ends_at = float("-inf")  # `hold_seconds` after it sent the last heartbeat that came back
        self._absent_since: dict[str, float] = {}  # by probe: since when the server has no such subscription
        self._unshared_at = float("-inf")  # when the server last confirmed that no relay uses a share
        self._share = 0.0
        self.is_sharing = False

    def share(self, now: float) -> float:
        """Return how many emails a second this relay may send."""
        if now >= self._share_ends_at or self._woken_at is not None or now - self._awake_at >= PAUSED_SECONDS:
            return 0.0
        return self._share

    def relays(self, now: float) -> int:
        """Return how many relays share the rate, this one included; 0 if it does not even hear itself."""
        return 1 + len(self._counted()) if self._is_linked(now) else 0

    def wake(self, now: float) -> None:
        """Note that the process runs; to be called at least every `HEARTBEAT_SECONDS`."""
        if now - self._awake_at >= PAUSED_SECONDS:
            self._woken_at = now
        self._awake_at = now

    def beat(self, now: float) -> Heartbeat:
        """Return the heartbeat to send now."""
        self._decide(now)
        return self._heartbeat("sharing" if self.is_sharing else "joining", now)

    def leave(self, now: float) -> Heartbeat:
        """Return the last heartbeat: this relay sends nothing any more."""
        self._share_ends_at = now
        return self._heartbeat("left", now)

    def receive(self, heartbeat: Heartbeat, now: float) -> bool:
        """Note a heartbeat; return whether the others have to hear of a change at once."""
        before = self.is_sharing, set(self._others)
        if heartbeat.relay == self.relay:
            self._hear_itself(heartbeat.at, now)
        else:
            self._hear_other(heartbeat, now)
        self._decide(now)
        return before != (self.is_sharing, set(self._others))

    def disconnect(self) -> None:
        """Note that the connection was lost, so that the others may be alive and unheard."""
        self._echoed_at = float("-inf")
        self._break_link()

    def probes(self, now: float) -> list[str]:
        """Return whose subscriptions the server should be asked for: of silent relays, and of `SHARING`.

        All relays that use a share subscribe to `SHARING`. It matters to one that could use a share and hears of none.
        Example: of the relays A, B and C, B is killed. A has not heard it for SILENT_SECONDS, so its probes are `[B]`.
        When the server has had no subscription of B for ABSENT_SECONDS (`note_absent`), A forgets B and shares with C.
        """
        if not self._is_linked(now):
            return []
        probes = [relay for relay in self._others if self._is_silent(relay, now)]
        if not self.is_sharing and self._is_listed(now) and not self._hears_a_share():
            probes.append(SHARING)
        return probes

    def note_absent(self, probe: str, now: float) -> bool:
        """Note that the server has no such subscription; return whether that changed something."""
        before = self.is_sharing, len(self._others)
        if self._is_linked(now) and now - self._absent_since.setdefault(probe, now) >= ABSENT_SECONDS:
            if probe == SHARING:
                self._unshared_at = now
            elif probe in self._others and self._is_silent(probe, now):
                del self._others[probe]
            self._decide(now)
        return before != (self.is_sharing, len(self._others))

    def note_present(self, probe: str) -> None:
        """Note that the server may have such a subscription."""
        self._absent_since.pop(probe, None)

    def _break_link(self) -> None:
        self._linked_since = None
        self._absent_since.clear()

    def _hear_itself(self, sent_at: float, now: float) -> None:
        if not self._is_linked(now):
            self._linked_since = now
        self._echoed_at = now
        if self._woken_at is not None and sent_at >= self._woken_at:
            self._woken_at = None
        self._share_ends_at = max(self._share_ends_at, sent_at + self._hold_seconds)

    def _hear_other(self, heartbeat: Heartbeat, now: float) -> None:
        known = self._others.get(heartbeat.relay)
        if heartbeat.state == "left":
            self._others.pop(heartbeat.relay, None)
        elif known is None and len(self._others) < MAX_RELAYS:
            self._others[heartbeat.relay] = _Other(heartbeat, now)
        elif known and heartbeat.at >= known.last.at:
            known.last, known.heard_at = heartbeat, now
            self.note_present(heartbeat.relay)
        if heartbeat.state == "sharing":
            self.note_present(SHARING)

    def _decide(self, now: float) -> None:
        if not self._is_linked(now):
            self._break_link()
        self._forget_ended(now)
        if now >= self._share_ends_at or self._is_uncounted():
            self.is_sharing = False
        elif not self.is_sharing:
            self.is_sharing = self._may_join(now)
        rate = min([self._rate, *(other.last.rate for other in self._others.values())])
        share = rate / (1 + len(self._counted())) if self.is_sharing else 0.0
        self._share = share if self._linked_since is not None else min(share, self._share)

    def _forget_ended(self, now: float) -> None:
        """Forget relays whose shares have ended: had they renewed them, this relay would have heard it."""
        if self._linked_since is None:
            return
        for relay, other in list(self._others.items()):
            unheard_since = max(other.heard_at, self._linked_since)
            if now - unheard_since >= other.last.hold_seconds + MARGIN_SECONDS:
                del self._others[relay]

    def _is_uncounted(self) -> bool:
        """Return whether another relay uses a share that leaves none for this one."""
        lasts = (other.last for other in self._others.values())
        return any(last.state == "sharing" and self.relay not in last.relays for last in lasts)

    def _may_join(self, now: float) -> bool:
        if not self._is_listed(now):
            return False
        is_confirmed = now - self._unshared_at < HEARTBEAT_SECONDS
        return self._hears_a_share() or is_confirmed or self._has_been_linked(self._hold_seconds + MARGIN_SECONDS, now)

    def _hears_a_share(self) -> bool:
        return any(other.last.state == "sharing" for other in self._others.values())

    def _is_listed(self, now: float) -> bool:
        """Return whether this relay has heard itself for a while, and every relay that is known has listed it."""
        known = (self._others.get(relay) for relay in self._counted())
        return self._has_been_linked(JOIN_SECONDS, now) and all(
            other is not None and self.relay in other.last.relays for other in known
        )

    def _has_been_linked(self, seconds: float, now: float) -> bool:
        return self._linked_since is not None and now - self._linked_since >= seconds

    def _counted(self) -> set[str]:
        """Return the other relays that were heard, and those that they list."""
        listed = (relay for other in self._others.values() for relay in other.last.relays)
        return {*self._others, *listed} - {self.relay}

    def _is_linked(self, now: float) -> bool:
        return now - self._echoed_at < ECHO_SECONDS

    def _is_silent(self, relay: str, now: float) -> bool:
        """Return whether a relay stopped while this one heard itself. One that stopped before may only be cut off."""
        heard_at = self._others[relay].heard_at
        return self._linked_since is not None and heard_at >= self._linked_since and now - heard_at >= SILENT_SECONDS

    def _heartbeat(self, state: State, now: float) -> Heartbeat:
        return Heartbeat(
            relay=self.relay,
            at=now,
            state=state,
            relays=sorted(self._others),
            rate=self._rate,
            share=self.share(now),
            hold_seconds=self._hold_seconds,
        )
