# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Finds the records of emails to one address, in a page of a bucket's values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click
import msgspec

from shared import addresses, contract, decoding, erasure, suppression_list
from shared.commands import command

if TYPE_CHECKING:
    from shared.kv.scan import Stored

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+"
_BARE: Final = re.compile(rf"{_ATOM}@[A-Za-z0-9._-]+")
_IN_BRACKETS: Final = re.compile(rf"<({_ATOM}@[A-Za-z0-9._-]+)>[ \t]*\Z")


class _To(msgspec.Struct, frozen=True, gc=False):
    """The recipient of a record; the other fields are skipped, which saves time."""

    to: str | None = None


_decode = decoding.decoder(_To)


class RecipientSearch:
    """Finds the records that were sent to an address, whatever form of it the caller gave.

    `found` counts them; `unreadable` has the keys of other values that contain the address.
    """

    def __init__(self, address: str) -> None:
        """Search for an address that `suppression_list.normalised` returned."""
        self.found = 0
        self.unreadable: list[str] = []
        self._address = address
        self._bytes = address.encode()
        alone = rf"(?<![A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.@-]){re.escape(address)}(?![A-Za-z0-9_-]|\.[A-Za-z0-9])"
        self._alone = re.compile(alone)

    def select(self, page: list[Stored]) -> list[Stored]:
        """Return the records of a page that were sent to the address."""
        selected = [stored for stored in page if (to := self._recipient(stored)) and self.matches(to)]
        self.found += len(selected)
        return selected

    def select_with_data(self, page: list[Stored]) -> list[Stored]:
        """Return those to erase: sent to the address, or erased before and holding data again from another program."""
        selected = []
        for stored in page:
            to = self._recipient(stored)
            if to and (to == contract.ERASED or self.matches(to)) and erasure.erase(stored.value) is not None:
                selected.append(stored)
        self.found += len(selected)
        return selected

    def _recipient(self, stored: Stored) -> str | None:
        try:
            return _decode(stored.value).to
        except decoding.Malformed:
            if self._bytes in stored.value.lower():
                self.unreadable.append(stored.key)
            return None

    def matches(self, to: str) -> bool:
        """Return whether the recipient of a record is the address; case is ignored."""
        if _BARE.fullmatch(to):
            return to.lower() == self._address
        if in_brackets := _IN_BRACKETS.search(to):
            return in_brackets[1].lower() == self._address
        try:
            return addresses.parse(to.strip()).address.lower() == self._address
        except ValueError:  # not from this service: an address that another program accepted, or several
            return bool(self._alone.search(to.lower()))


class Address(click.ParamType):  # type: ignore[type-arg] # not generic in older versions of click
    """An address in any form that the relay accepts; the value is its normalised form."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return the normalised address."""
        try:
            return suppression_list.normalised(value)
        except ValueError:
            raise command.WrongUsage(f"not a valid email address: {value}") from None
