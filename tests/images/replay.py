# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Replay the steps of a Dockerfile in an empty folder, from the first COPY to the last.

The folder replaces the image's root: `/opt` becomes `FOLDER/opt`.
The Python of this machine replaces that of the base image.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.charts import chart
from tests.images import dockerfile

if TYPE_CHECKING:
    from tests.images.dockerfile import Dockerfile, Instruction

PYTHON: Final = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
NOT_REPLAYED: Final = {"PIP_NO_CACHE_DIR"}  # the developer's cache saves downloads, and is not part of the image


class Image(NamedTuple):
    """The files of the final stage, and the command that starts it."""

    root: Path
    command: list[str]
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        """The environment in it."""
        return self.root / "opt" / "venv"


def build(process: str, root: Path) -> None:
    """Replay both stages of a process's Dockerfile."""
    read = dockerfile.read(process)
    (build_stage, final_stage) = read.stages
    kept = [_copied_from_build(one) for one in final_stage if one.keyword == "COPY"]
    _run_build_stage(build_stage, read.pairs("ENV", 0), root)
    for path in [*root.iterdir(), *(root / "opt").iterdir()]:  # the final image begins empty
        if not any(copied.is_relative_to(path) for copied in (root / name for name in kept)):
            shutil.rmtree(path)


def image(process: str, root: Path) -> Image:
    """Return what was built in `root`."""
    read = dockerfile.read(process)
    return Image(root, _command(read, root), read.pairs("ENV"))


def _run_build_stage(stage: list[Instruction], variables: dict[str, str], root: Path) -> None:
    shown = {name: value for name, value in variables.items() if name not in NOT_REPLAYED}
    directory = root
    for instruction in stage:
        match instruction.keyword:
            case "WORKDIR":
                directory = root / instruction.rest.strip("/")
                directory.mkdir(parents=True)
            case "COPY":
                *sources, target = instruction.words
                _copy(sources, directory / target)
            case "RUN":
                _run(_here(instruction.rest, root), directory, shown)
            case "FROM" | "ENV":
                pass
            case other:
                raise NotImplementedError(other)


def _copy(sources: list[str], target: Path) -> None:
    for source in sources:
        assert source in dockerfile.context(), f".dockerignore leaves {source} out"
        if (chart.ROOT / source).is_dir():
            shutil.copytree(chart.ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(chart.ROOT / source, target)


def _run(command: str, directory: Path, variables: dict[str, str]) -> None:
    """Run a command as the shell form does, with only the variables that find programs and packages."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), **_registry(), **variables}
    done = subprocess.run(  # noqa: S603 - our own command
        ["/bin/sh", "-c", command],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"


def _registry() -> dict[str, str]:
    """Return the variables by which pip finds packages, if this machine has any."""
    import os  # noqa: PLC0415 - nothing else here uses it

    known = re.compile(
        r"(PIP_(INDEX|EXTRA|FIND|CERT|CONFIG|PROXY|TRUSTED)\w*|\w+_proxy|SSL_CERT\w+|REQUESTS_CA\w+)", re.IGNORECASE
    )
    return {name: value for name, value in os.environ.items() if known.fullmatch(name)}


def _here(command: str, root: Path) -> str:
    moved = re.sub(r"(?<![\w/])/opt/", f"{root}/opt/", command)
    return re.sub(r"(?<![\w/.])python (?=-m venv)", f"{PYTHON} ", moved)


def _copied_from_build(instruction: Instruction) -> str:
    option, source, target = instruction.words
    assert option == "--from=build"
    assert source == target  # an environment cannot be moved
    return source.strip("/")


def _command(read: Dockerfile, root: Path) -> list[str]:
    entry, *arguments = [*read.the("ENTRYPOINT").words, *read.the("CMD").words]
    return [_here(entry, root), *arguments]
