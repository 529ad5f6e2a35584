# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The wheel, and the environments of the images: each has the locked requirements of one process only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from shared import __version__
from tests.acceptance import buckets, caller, services
from tests.images import built
from tests.stack import built_once, console, nats_server, ses_events, smtp_server, sqs_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parent.parent
LOCKS: Final = sorted(ROOT.glob("requirements-*.txt"), key=lambda path: path.name)
PROCESSES: Final = ("relay", "tracker")
FOREIGN: Final = {"relay": ("boto3", "botocore", "aiohttp"), "tracker": ("aiosmtplib", "aiohttp")}
PIN: Final = r"[a-z0-9-]+==\S+( ; [^\\]+)? \\"
HASH: Final = r"--hash=sha256:[0-9a-f]{64}( \\)?"


class Installed(NamedTuple):
    """The environment of an image: the package with one of its extras."""

    extra: str
    wheel: Path
    home: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / "bin" / "python"

    @property
    def script(self) -> Path:
        """Its console script."""
        return self.home / "bin" / f"lfx-email-{self.extra}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    (built,) = built_once.folder(tmp_path_factory, "wheel", build_wheel).iterdir()
    return built


@pytest.fixture(scope="module")
def environments(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Installed]:
    """Both environments."""
    images = built.images(tmp_path_factory)
    return {process: Installed(process, wheel, images[process].home) for process in PROCESSES}


@pytest.fixture(params=PROCESSES)
def installed(request: pytest.FixtureRequest, environments: Mapping[str, Installed]) -> Installed:
    """Each environment in turn."""
    return environments[request.param]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_each_locked_requirement_is_one_version_with_hashes_and_no_index_is_named(lock: Path) -> None:
    lines = [line.strip() for line in lock.read_text().splitlines()]
    assert [line for line in lines if line.startswith("--hash")]
    assert [line for line in lines if not re.fullmatch(rf"{PIN}|{HASH}|#.*|", line)] == []
    assert [line for line in lines if "/" in line or "index" in line] == []


def test_the_wheel_holds_the_three_typed_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = f"lfx_v2_email_service-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"relay", "tracker", "shared", metadata}
    assert {"relay/py.typed", "tracker/py.typed", "shared/py.typed", f"{metadata}/licenses/LICENSE"} <= names


def test_the_console_script_prints_its_version_and_its_commands(installed: Installed) -> None:
    assert run(installed.script, "--version") == f"{installed.script.name}, version {__version__}\n"
    assert re.search(r"^  serve +\w+", run(installed.script, "--help"), re.MULTILINE)
    assert "--create-missing" in run(installed.script, "serve", "--help")
    assert "--json" in run(installed.script, "check", "--help")


def test_the_lock_holds_all_requirements_of_the_extra(installed: Installed) -> None:
    pip("--python", installed.python, "check")
    wanted = f"{installed.wheel}[{installed.extra},otel]"
    report = json.loads(
        pip("--python", installed.python, "install", "--dry-run", "--isolated", "--no-index", "--report", "-", wanted)
    )
    assert {item["metadata"]["name"] for item in report["install"]} <= {"lfx-v2-email-service"}


def test_neither_process_brings_the_requirements_of_the_other(installed: Installed) -> None:
    for module in FOREIGN[installed.extra]:
        looked_for = f"import importlib.util; print(importlib.util.find_spec({module!r}))"
        assert run(installed.python, "-I", "-c", looked_for) == "None\n", module


async def test_the_relay_sends_with_its_own_extra_alone(environments: Mapping[str, Installed]) -> None:
    async with nats_server.running() as nats, smtp_server.running() as smtp, caller.connected(nats.url) as asking:
        environment = {"NATS_URL": nats.url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port)}
        script = str(environments["relay"].script)
        async with console.running(script, "serve", "--create-missing", env=environment) as relay:
            await relay.wait_until_ready()
            email_id = await asking.sent()
            assert (await buckets.Buckets(asking.client).record(email_id) or {})["email_id"] == email_id
            assert len(smtp.mails) == 1
            await check(script, environment)
            relay.terminate()
            assert await relay.wait() == 0


async def test_the_tracker_applies_events_with_its_own_extra_alone(environments: Mapping[str, Installed]) -> None:
    async with services.platform() as platform, sqs_endpoint.running() as sqs:
        await platform.buckets.put_records(buckets.fresh_record("e1", "g"))
        environment = services.tracker_environment(platform.nats, sqs)
        async with console.running(str(environments["tracker"].script), "serve", env=environment) as tracker:
            await tracker.wait_until_ready()
            sqs.send(ses_events.notification(ses_events.delivery("g/e1", datetime.now(UTC))))
            await sqs.wait_until_empty()
            assert (await platform.caller.status(email_id="e1"))["delivered"] is True
            await check(str(environments["tracker"].script), environment)
            tracker.terminate()
            assert await tracker.wait() == 0


async def check(script: str, environment: Mapping[str, str]) -> None:
    """Run `check`; it must find everything."""
    async with console.running(script, "check", env=environment) as checking:
        assert await checking.wait() == 0, checking.output
        assert "failed  " not in checking.output
        assert checking.errors == ""


def build_wheel(folder: Path) -> None:
    """Build the wheel of this checkout into a folder."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)


def pip(*arguments: str | Path) -> str:
    """Run the pip of this environment, which can also act on others."""
    return run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: str | Path) -> str:
    """Return the output of a command; a failing test shows its standard error."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - our own commands
