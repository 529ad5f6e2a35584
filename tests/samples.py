# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The samples of docs/push-events.md and docs/samples, and running those in Python as a reader does."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.stack import child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DOCS: Final = Path(__file__).parent.parent / "docs"
FOLDER: Final = DOCS / "samples"
PAGE: Final = DOCS / "push-events.md"


def of_page(language: str) -> list[str]:
    """Return the samples of the page on push events."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def python(script: str, environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script; it has to be killed in the block."""
    given = {"PATH": os.environ["PATH"], **environment}
    process = await child.start(sys.executable, "-c", script, env=given, output=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        _, errors = await process.communicate()
        assert errors == b""


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """Read lines of standard output."""
    assert process.stdout
    async with asyncio.timeout(20):
        return [(await process.stdout.readline()).decode() for _ in range(count)]
