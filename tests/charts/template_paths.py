# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Find the values that a template uses, also inside `with .Values.…`, by their last name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_ACTION: Final = re.compile(r"\{\{-?(?!-? */\*)(.*?)-?\}\}", re.DOTALL)
_VALUE: Final = re.compile(r"\.Values((?:\.\w+)+)")
_WITH_VALUE: Final = re.compile(r"\s*with \$?\.Values((?:\.\w+)+)\s*$")
_RELATIVE: Final = re.compile(r"(?<![\w$)\"])((?:\.[a-z]\w*)+)")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')


def used(template: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of each used value."""
    scopes: list[tuple[str, ...] | None] = [None]  # the value that the dot stands for, None if it is not a value
    for action in _ACTION.findall(template):
        words = _QUOTED.sub('""', action)
        for found in _VALUE.findall(words):
            yield _path(found)
        scope = scopes[-1]
        if scope is not None:
            for found in _RELATIVE.findall(_VALUE.sub("", words)):
                yield scope + _path(found)
        keyword = words.split(maxsplit=1)[0]
        if keyword in {"with", "range", "define"}:
            value = _WITH_VALUE.match(words)
            scopes.append(_path(value[1]) if value else None)
        elif keyword == "if":
            scopes.append(scope)
        elif keyword == "end":
            scopes.pop()


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(dotted.removeprefix(".").split("."))
