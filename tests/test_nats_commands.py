# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The pages use only commands and options that the nats CLI has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from shared import contract

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "charts").glob("*/README.md")],
)
LONGEST_WAIT_SECONDS: Final = 10  # docs/contract.md: wait at least so long for the reply to send_email
OPTIONS: Final[dict[str, set[str]]] = {  # used options of each command; nats CLI 0.5.1
    "backup restore stream": set(),
    "backup stream": set(),
    "consumer info": set(),
    "kv compact": set(),
    "kv del": set(),
    "kv get": {"--raw"},
    "kv info": set(),
    "kv ls": set(),
    "micro info": set(),
    "micro ls": set(),
    "micro stats": set(),
    "req": {"--timeout"},
    "server list": set(),
    "server report connections": set(),
    "server report jetstream": set(),
    "stream add": set(),
    "stream backup": set(),
    "stream edit": {"--max-bytes"},
    "stream get": set(),
    "stream info": set(),
    "stream ls": {"--subject"},
    "stream purge": {"--keep"},
    "stream report": set(),
    "stream restore": set(),
    "sub": set(),
}
GROUPS: Final = {f"nats {words.partition(' ')[0]}" for words in OPTIONS if " " in words}


def commands() -> list[str]:
    """Return each command line of the pages that begins with `nats`."""
    found = []
    for page in PAGES:
        text = page.read_text()
        fenced = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
        found += [line.strip() for code in fenced for line in code.splitlines()]
        found += re.findall(r"`([^`\n]+)`", text)
    return sorted({line for line in found if line.startswith("nats ") and not line.endswith("…")} - GROUPS)


@pytest.mark.parametrize("line", commands())
def test_the_nats_cli_has_each_command_and_option_of_the_pages(line: str) -> None:
    words = line.removeprefix("nats ")
    command = max((known for known in OPTIONS if f"{words} ".startswith(f"{known} ")), key=len, default=None)
    assert command is not None, line
    assert set(re.findall(r"--[a-z-]+", words.partition("'")[0])) <= OPTIONS[command]


@pytest.mark.parametrize("line", [line for line in commands() if contract.SEND_EMAIL_SUBJECT in line])
def test_a_request_to_send_waits_longer_than_a_failed_send_takes(line: str) -> None:
    assert int(re.findall(r"--timeout (\d+)s", line)[0]) >= LONGEST_WAIT_SECONDS  # 5 by default


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("nats kv get")])
def test_a_value_is_shown_completely(line: str) -> None:
    assert "--raw" in line  # without it the CLI shows 120 bytes
