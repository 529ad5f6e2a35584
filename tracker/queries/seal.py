# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the seal of an index segment, which keeps the counts of the emails that `retention` removed from it.

`retention` removes emails in steps. First it writes their revisions and counts into `leaving`, then it removes their
ids from the segment, then it deletes their records, then it adds their counts and empties `leaving`. So an email of
`leaving` belongs to the group at every moment, and if its record is missing, its counts are those of `leaving`.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotation

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from shared import decoding
from tracker.queries.counts import RecordCounts


class Leaving(msgspec.Struct, frozen=True, array_like=True):
    """An email that is being removed: the revision of its record, and the counts of that revision."""

    revision: int
    delivered: int
    opened: int
    unique_opened: int
    failed: int

    @property
    def counts(self) -> RecordCounts:
        """The counts of its record."""
        return RecordCounts(self.delivered, self.opened, self.unique_opened, self.failed)


class Seal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sums of the removed emails, by the names of the contract, and the emails that are being removed.

    `before`: of the emails that were removed, the last activity was before this time.
    """

    total_sent: int = 0
    delivered: int = 0
    opened: int = 0
    unique_opened: int = 0
    failed: int = 0
    before: datetime | UnsetType = UNSET
    leaving: dict[str, Leaving] = {}

    @property
    def counts(self) -> RecordCounts:
        """The sums without `total_sent`."""
        return RecordCounts(self.delivered, self.opened, self.unique_opened, self.failed)

    def removed(self) -> Seal:
        """Return the seal when the emails of `leaving` are removed."""
        columns = zip(self.counts, *(one.counts for one in self.leaving.values()), strict=True)
        delivered, opened, unique_opened, failed = map(sum, columns)
        return replace(
            self,
            total_sent=self.total_sent + len(self.leaving),
            delivered=delivered,
            opened=opened,
            unique_opened=unique_opened,
            failed=failed,
            leaving={},
        )


class Segment(msgspec.Struct, frozen=True):
    """The ids of a segment and its seal, both as of one moment."""

    email_ids: tuple[str, ...] = ()
    seal: Seal = Seal()


decode = decoding.decoder(Seal)
"""Read a seal, or raise decoding.Malformed."""


def encode(seal: Seal) -> bytes:
    """Return the JSON of a seal."""
    return msgspec.json.encode(seal)
