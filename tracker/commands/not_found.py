# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The answer `not found` as a sentence that names the email or group, and the other one that may be meant."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared import contract
from shared.commands.command import Failed
from shared.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def email_named(email_id: str) -> Iterator[None]:
    """Translate the answer `not found` to a query for an email.

    Raises:
        Failed: there is no such email.
    """
    with _translated(
        f"there is no email {email_id}. Is it a group? Then: lfx-email-tracker status --group-id {email_id}"
    ):
        yield


@contextmanager
def group_named(group_id: str) -> Iterator[None]:
    """Translate the answer `not found` to a query for a group.

    Raises:
        Failed: nothing was sent under this group.
    """
    with _translated(
        f"nothing was sent under the group {group_id}. Is it an email? Then: lfx-email-tracker status {group_id}"
    ):
        yield


@contextmanager
def _translated(sentence: str) -> Iterator[None]:
    try:
        yield
    except RequestRefused as error:
        if error.error != contract.NOT_FOUND:
            raise
        raise Failed(sentence) from error
