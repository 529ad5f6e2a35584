# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Read the stages of a Dockerfile and their instructions."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from tests.charts import chart

if TYPE_CHECKING:
    from pathlib import Path


class Instruction(NamedTuple):
    """One instruction, its lines joined."""

    keyword: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The words after the keyword, in the exec form or split as by a shell."""
        if self.rest.startswith("["):
            parsed: list[str] = json.loads(self.rest)
            return parsed
        return shlex.split(self.rest)

    @property
    def is_exec_form(self) -> bool:
        """Whether no shell is between the engine and the process."""
        return self.rest.startswith("[")


class Dockerfile(NamedTuple):
    """The instructions before the first FROM, and those of each stage."""

    arguments: list[Instruction]
    stages: list[list[Instruction]]

    @property
    def final(self) -> list[Instruction]:
        """The stage that becomes the image."""
        return self.stages[-1]

    def the(self, keyword: str) -> Instruction:
        """Return the only instruction of its kind in the final stage."""
        (only,) = [instruction for instruction in self.final if instruction.keyword == keyword]
        return only

    def pairs(self, keyword: str, stage: int = -1) -> dict[str, str]:
        """Return names and values of the ENV, ARG or LABEL instructions of a stage."""
        words = [word for one in self.stages[stage] if one.keyword == keyword for word in one.words]
        return dict(word.split("=", 1) for word in words)


def path(process: str) -> Path:
    """Return the path of the Dockerfile."""
    return chart.ROOT / f"Dockerfile.{process}"


def read(process: str) -> Dockerfile:
    """Return the Dockerfile of a process."""
    lines = [line for line in path(process).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    instructions = [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    starts = [place for place, one in enumerate(instructions) if one.keyword == "FROM"]
    ends = [*starts[1:], len(instructions)]
    stages = [instructions[start:end] for start, end in zip(starts, ends, strict=True)]
    return Dockerfile(instructions[: starts[0]], stages)


def context() -> set[str]:
    """Return the top-level names of the build's context, which .dockerignore lists."""
    first, *others = _ignored()
    assert first == "*"
    return {other.removeprefix("!") for other in others if other.startswith("!")}


def _ignored() -> list[str]:
    lines = (chart.ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
