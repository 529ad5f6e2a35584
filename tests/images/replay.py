# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Replay the steps of a Dockerfile in an empty folder, from the first COPY to the last.

The folder replaces the image's root: `/opt` becomes `FOLDER/opt`.
The Python of this machine replaces that of the base image.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.charts import chart
from tests.images import dockerfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def build_all(processes: Sequence[str], folder: Path) -> None:
    """Replay the Dockerfiles of the processes; the steps that all begin with run once, as an engine caches layers."""
    read = {process: dockerfile.read(process) for process in processes}
    stages = {process: one.stages[0] for process, one in read.items()}
    variables = {process: _variables(one) for process, one in read.items()}
    common = [steps[0] for steps in itertools.takewhile(_are_equal, zip(*stages.values(), strict=True))]
    base = folder / "base"
    base.mkdir()
    directory = _run_steps(common, variables[processes[0]], base, base).relative_to(base)

    def build(process: str) -> None:
        root = folder / process
        shutil.copytree(base, root, symlinks=True)  # its scripts name the Python of the base
        _run_steps(stages[process][len(common) :], variables[process], root, root / directory)
        _keep_final_files(read[process], root)

    with ThreadPoolExecutor() as pool:
        list(pool.map(build, processes))
    shutil.rmtree(base)


def _are_equal(steps: Sequence[Instruction]) -> bool:
    return len(set(steps)) == 1


def _variables(read: Dockerfile) -> Mapping[str, str]:
    """Return the variables of the build stage."""
    return {name: value for name, value in read.pairs("ENV", 0).items() if name not in NOT_REPLAYED}


def _keep_final_files(read: Dockerfile, root: Path) -> None:
    """Remove what the final stage does not copy; that stage begins empty."""
    kept = [_copied_from_build(one) for one in read.final if one.keyword == "COPY"]
    for path in [*root.iterdir(), *(root / "opt").iterdir()]:
        if not any(copied.is_relative_to(path) for copied in (root / name for name in kept)):
            shutil.rmtree(path)


def image(process: str, root: Path) -> Image:
    """Return what was built in `root`."""
    read = dockerfile.read(process)
    return Image(root, _command(read, root), read.pairs("ENV"))


def _run_steps(steps: Sequence[Instruction], variables: Mapping[str, str], root: Path, directory: Path) -> Path:
    """Replay steps of a build stage from a working directory; return the last one."""
    for instruction in steps:
        match instruction.keyword:
            case "WORKDIR":
                directory = root / instruction.rest.strip("/")
                directory.mkdir(parents=True)
            case "COPY":
                *sources, target = instruction.words
                _copy(sources, directory / target)
            case "RUN":
                _run(_here(instruction.rest, root), directory, variables)
            case "FROM" | "ENV":
                pass
            case other:
                raise NotImplementedError(other)
    return directory


def _copy(sources: list[str], target: Path) -> None:
    for source in sources:
        assert source in dockerfile.context(), f".dockerignore leaves {source} out"
        if (chart.ROOT / source).is_dir():
            shutil.copytree(chart.ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(chart.ROOT / source, target)


def _run(command: str, directory: Path, variables: Mapping[str, str]) -> None:
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
