# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the counts of a group, from its segments with their seals, and from the latest revision of each record."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.contract import GetEmailEngagementAnalyticsResponse
from tracker.queries.counts import NOTHING
from tracker.queries.seal import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tracker.queries.counts import RecordCounts
    from tracker.queries.seal import Leaving


class Change(NamedTuple):
    """The ids that a change of segments has added to the group, and those that it has removed."""

    new: list[str]
    removed: list[str]


_UNREAD: Final = (0, None)
_EMPTY: Final = Segment()


class GroupCounts:
    """The counts of one group. Segments and records may be put in any order and any number of times.

    An email belongs to the group if its id is in a segment, or if it is leaving one. All others are sealed.
    """

    def __init__(self) -> None:
        """Begin without emails."""
        self._segments: dict[int, Segment] = {}
        self._emails: dict[str, tuple[int, RecordCounts | None]] = {}
        """The latest known revision of each record, or 0, and its counts, or None if it is missing."""
        self._leaving: dict[str, Leaving] = {}
        self._sealed = self._delivered = self._opened = self._unique_opened = self._failed = 0

    def __len__(self) -> int:
        """Return the number of emails that are not sealed."""
        return len(self._emails)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of the emails that are not sealed."""
        return iter(self._emails)

    def put_segments(self, segments: Mapping[int, Segment]) -> Change:
        """Replace segments by their numbers."""
        old = {number: self._segments.get(number, _EMPTY) for number in segments}
        self._segments.update(segments)
        for number, segment in segments.items():
            self._sealed += segment.seal.total_sent - old[number].seal.total_sent
            self._add(segment.seal.counts, old[number].seal.counts)
        removed = [email_id for number in segments for email_id in self._removed(old[number], segments[number])]
        removed = self._without_members(removed) if removed else []
        self._put_leaving()
        new = [one for number in segments for one in self._new(old[number], segments[number])]
        for email_id in removed:
            self._add(NOTHING, self._counts(email_id))
            del self._emails[email_id]
        return Change(new, removed)

    def _removed(self, old: Segment, segment: Segment) -> Iterable[str]:
        """Return the ids that were members by a segment and are not any more."""
        if _is_extension(old, segment) and not old.seal.leaving:
            return ()
        members = {*segment.email_ids, *segment.seal.leaving}
        return [one for one in dict.fromkeys(chain(old.email_ids, old.seal.leaving)) if one not in members]

    def _without_members(self, email_ids: Iterable[str]) -> list[str]:
        """Leave out ids that are listed in another segment."""
        members: set[str] = set()
        for segment in self._segments.values():
            members.update(segment.email_ids, segment.seal.leaving)
        return [one for one in dict.fromkeys(email_ids) if one not in members]

    def _put_leaving(self) -> None:
        """Take the leaving emails of all segments; the counts of those whose record is missing may change."""
        leaving = {one: left for segment in self._segments.values() for one, left in segment.seal.leaving.items()}
        changed = [one for one in {*self._leaving, *leaving} if one in self._emails]
        before = [self._counts(one) for one in changed]
        self._leaving = leaving
        for email_id, counted in zip(changed, before, strict=True):
            self._add(self._counts(email_id), counted)

    def _new(self, old: Segment, segment: Segment) -> Iterator[str]:
        """Add the ids of a segment that are not members yet, and yield them."""
        known = len(old.email_ids) if _is_extension(old, segment) else 0
        for email_id in chain(segment.email_ids[known:], segment.seal.leaving):
            if email_id not in self._emails:
                self._emails[email_id] = _UNREAD
                if self._leaving:
                    self._add(self._counts(email_id), NOTHING)
                yield email_id

    def put(self, email_id: str, revision: int, counts: RecordCounts | None) -> bool:
        """Count a revision of an email's record, None if it is missing, unless a later one is counted.

        Returns whether an earlier revision was counted.
        """
        known_revision, known = self._emails[email_id]
        if revision <= known_revision:
            return False
        self._emails[email_id] = revision, counts
        if counts is None or known is None:
            left = self._leaving.get(email_id) if self._leaving else None
            otherwise = left.counts if left else NOTHING
            self._add(counts or otherwise, known or otherwise)
        else:
            self._add(counts, known)
        return known_revision > 0

    def is_leaving(self, email_id: str, revision: int | None) -> bool:
        """Return whether an email is leaving with the counts of this revision of its record."""
        leaving = self._leaving.get(email_id)
        return leaving is not None and leaving.revision == revision

    def _counts(self, email_id: str) -> RecordCounts:
        counts = self._emails[email_id][1]
        if counts is not None:
            return counts
        leaving = self._leaving.get(email_id)
        return leaving.counts if leaving else NOTHING

    def _add(self, counts: RecordCounts, instead_of: RecordCounts) -> None:
        delivered, opened, unique_opened, failed = counts
        self._delivered += delivered - instead_of[0]
        self._opened += opened - instead_of[1]
        self._unique_opened += unique_opened - instead_of[2]
        self._failed += failed - instead_of[3]

    def response(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Return the counts in the form of the contract."""
        return GetEmailEngagementAnalyticsResponse(
            group_id=group_id,
            total_sent=self._sealed + len(self._emails),
            delivered=self._delivered,
            opened=self._opened,
            unique_opened=self._unique_opened,
            failed=self._failed,
        )


def _is_extension(old: Segment, segment: Segment) -> bool:
    """Return whether ids were only appended."""
    return segment.email_ids[: len(old.email_ids)] == old.email_ids
