# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The machine of the measurement, which the figures depend on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and its software versions."""

    cores: int
    processor: str
    python: str
    nats_server: str
    libraries: dict[str, str]

    def __str__(self) -> str:
        libraries = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        return (
            f"{self.cores} cores ({self.processor}), Python {self.python}, nats-server {self.nats_server}, {libraries}"
        )


def describe() -> Machine:
    """Return the description of this machine."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        python=platform.python_version(),
        nats_server=_nats_server(),
        libraries={name: metadata.version(name) for name in ("nats-py", "uvloop", "aiosmtplib", "boto3")},
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _nats_server() -> str:
    command = [str(Path(sys.executable).parent / "nats-server"), "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the stack's own
    return shown.stdout.rpartition(" v")[2].strip()
