# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Run a process like a container without an engine: PID 1, a numeric user, a read-only root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.stack import console, waiting

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Mapping

    from tests.images.replay import Image
    from tests.stack.console import Console

UID: Final = 65532
# Inside its own user namespace a process may mount, and then drops all permissions in a second one.
_READ_ONLY: Final = 'for place in "$1" /; do mount -o remount,bind,ro "$place" || exit 70; done; cd /; shift; exec "$@"'
_AS_PID_1: Final = (
    *("unshare", "--user", f"--map-user={UID}", f"--map-group={UID}"),
    *("--pid", "--fork", "--kill-child", "--"),
)


class Container:
    """A process in its own namespaces."""

    def __init__(self, outside: Console) -> None:
        """Watch the process that `unshare` runs."""
        self.console = outside

    async def pid(self) -> int:
        """Return the id of the process outside, once it runs."""
        return await waiting.until(self._started, lambda pid: pid != 0)

    async def send(self, number: signal.Signals) -> None:
        """Send a signal, as an engine does: the kernel drops signals for which PID 1 has no handler."""
        os.kill(await self.pid(), number)

    async def until_caught(self, number: signal.Signals) -> None:
        """Wait until the process has a handler for a signal: it has none before the interpreter runs its first line."""
        pid = await self.pid()
        await waiting.until(lambda: _caught(pid, number))

    async def _started(self) -> int:
        pid = self.console.pid
        while children := _children(pid):
            (pid,) = children
        return pid if _number_inside(pid) == 1 else 0


def why_not(image: Image) -> str:
    """Return why this machine cannot run a container, or an empty text."""
    if not shutil.which("unshare"):
        return "unshare is missing"
    command = ["/bin/sh", "-c", f'! touch "{image.root}/written" 2>&1 && exit 71; exit 0']
    tried = subprocess.run(  # noqa: S603 - our own command
        [*_inside(image), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if (image.root / "written").exists():
        return "the root would not be read-only"
    return "" if tried.returncode == 71 else f"no namespaces: {tried.stdout}"


@asynccontextmanager
async def running(image: Image, variables: Mapping[str, str]) -> AsyncIterator[Container]:
    """Start the image's command with its variables, these variables and no HOME."""
    program, *arguments = [*_inside(image), *image.command]
    found = shutil.which(program)
    assert found
    async with console.running(found, *arguments, env={**image.environment, **variables}) as outside:
        yield Container(outside)


def _inside(image: Image) -> list[str]:
    outer = ["unshare", "--user", "--map-root-user", "--mount", "--", "/bin/sh", "-c", _READ_ONLY, "sh"]
    return [*outer, str(_mount_of(image.root)), *_AS_PID_1]


def _mount_of(path: Path) -> Path:
    return next(parent for parent in [path, *path.parents] if parent.is_mount())


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


async def _caught(pid: int, number: signal.Signals) -> bool:
    return _catches(pid, number)


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[-1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def _number_inside(pid: int) -> int:
    """Return the id of a process in its own namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))
