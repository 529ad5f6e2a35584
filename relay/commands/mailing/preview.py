# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the request of an email as text for a terminal, with its placeholders filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.commands import formatting

if TYPE_CHECKING:
    from shared.contract import SendEmailRequest

BODIES = ("text", "html")


def text(request: SendEmailRequest) -> str:
    """Return the fields of a request that are set, then its bodies."""
    fields = msgspec.to_builtins(request)
    tags = fields.pop("tags", None) or {}
    rows = [(name, value) for name, value in fields.items() if value and name not in BODIES]
    rows += [(f"tags.{name}", value) for name, value in tags.items()]
    bodies = [f"--- {name} ---\n{_lines(fields.get(name) or '')}" for name in BODIES]
    return "\n".join([formatting.table(rows), *bodies])


def _lines(body: str) -> str:
    return "\n".join(formatting.printable(line) if line else "" for line in body.expandtabs().splitlines())
