# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""README and docs say what is true: the example runs, the tables name what the code has, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from relay import submission
from relay.records import record_writer
from relay.settings import RelaySettings
from relay.smtp import delivery
from shared import addresses, contract, group_index, lifecycle
from shared.service import settings
from tests.stack import child, console, nats_server, smtp_server
from tracker.events import receiver, settlement
from tracker.queries import live_counts
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.service.settings import ProcessSettings

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PROCESSES: Final[dict[str, type[ProcessSettings]]] = {"Relay": RelaySettings, "Tracker": TrackerSettings}
REQUESTS: Final[dict[str, type[msgspec.Struct]]] = {
    contract.SEND_EMAIL_SUBJECT: contract.SendEmailRequest,
    contract.GET_EMAIL_STATUS_SUBJECT: contract.GetEmailStatusRequest,
    contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT: contract.GetEmailEngagementAnalyticsRequest,
}
CONSTANTS: Final = {name: value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)}
STRUCTS: Final[dict[str, type[msgspec.Struct]]] = {
    name: kind for name, kind in vars(contract).items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}
NUMBERS: Final = (
    ("README.md", f"After {lifecycle.DRAIN_SHARE * 100:.0f} % of it"),
    ("docs/architecture.md", f"After {lifecycle.DRAIN_SHARE * 100:.0f} % of `SHUTDOWN_TIMEOUT_SECONDS`"),
    ("docs/architecture.md", f"for at most {record_writer.FLUSH_SECONDS:g} seconds"),
    ("docs/architecture.md", f"waits {receiver.LAST_POLL_SECONDS} seconds for a long poll"),
    ("docs/contract.md", f"one mailbox, {addresses.MAX_FIELD_BYTES} bytes"),
    (
        "docs/contract.md",
        f"at most {addresses.MAX_ADDRESS_BYTES} bytes, its local part at most {addresses.MAX_LOCAL_PART_BYTES}",
    ),
    ("docs/contract.md", f"{submission.MAX_SUBJECT_BYTES} bytes; no CR, LF or NUL | The subject"),
    ("docs/contract.md", f"{submission.MAX_DISPLAY_NAME_BYTES} bytes; no CR, LF or NUL | The name"),
    ("docs/contract.md", f"{group_index.MAX_GROUP_ID_BYTES} bytes; no CR, LF or NUL | Groups"),
    (
        "docs/contract.md",
        f"{group_index.FIRST_SEGMENT_IDS:,} ids in the first, {group_index.LATER_SEGMENT_IDS} in the others",
    ),
    ("docs/contract.md", f"keeps {record_writer.MAX_KEPT:,} records in memory"),
    ("docs/decisions.md", f"At most {live_counts.MAX_EMAILS:,} emails are remembered"),
    ("docs/decisions.md", f"### Visibility of {settlement.VISIBILITY_SECONDS} seconds"),
    ("docs/delivery.md", f"{record_writer.MAX_KEPT:,} records are kept"),
    ("docs/delivery.md", f"Requests that come within the next {delivery.BARRED_SECONDS:g} seconds"),
    ("docs/engagement.md", f"{settlement.MAX_HELD:,} messages are held already"),
    (
        "docs/engagement.md",
        f"with pauses of {settlement.FIRST_PAUSE_SECONDS} to {settlement.LONGEST_PAUSE_SECONDS:g} seconds",
    ),
)
EXAMPLE_SECONDS: Final = 20
UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


async def test_the_example_of_the_readme_prints_what_the_readme_says() -> None:
    code, printed = blocks("README.md", "python")[0]
    async with nats_server.running() as nats, smtp_server.running() as smtp:
        env = {"NATS_URL": nats.url, "EMAIL_ENABLED": "true", "SMTP_HOST": smtp.host, "SMTP_PORT": str(smtp.port)}
        async with (
            console.running("lfx-email-relay", "serve", "--create-buckets", env=env) as relay,
            console.running("lfx-email-tracker", "serve", "--create-buckets", env=env) as tracker,
        ):
            await relay.wait_until_ready()
            await tracker.wait_until_ready()
            output = await run(code, env={"NATS_URL": nats.url})
        assert re.sub(UUID, "<id>", output) == re.sub(UUID, "<id>", printed)
        (mail,) = await smtp.wait_for_mails(1)
        assert mail.recipients == ("alice@example.com",)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_table_of_variables_lists_the_settings_with_their_defaults(process: str) -> None:
    listed = {row["Variable"]: row["Default"] for row in table("README.md", "Variable") if row[process] == "x"}
    kind = PROCESSES[process]
    assert listed == {name.upper(): shown(getattr(kind(), name)) for name in kind.__struct_fields__}


@pytest.mark.parametrize("process", PROCESSES)
def test_each_default_of_the_table_can_be_set(process: str) -> None:
    rows = table("README.md", "Variable")
    given = {row["Variable"]: row["Default"] for row in rows if row["Default"] != "(empty)"}
    assert settings.load(given, PROCESSES[process]) == PROCESSES[process]()


def test_each_nats_command_of_the_readme_is_a_request_of_the_contract() -> None:
    shell = "".join(code for code, _ in blocks("README.md", "sh"))
    requests = re.findall(r"^nats req (\S+) '(.+)'$", shell, re.MULTILINE)
    for subject, request in requests:
        fields = msgspec.json.decode(request, type=dict[str, object])
        assert fields == msgspec.to_builtins(msgspec.json.decode(request, type=REQUESTS[subject]))
    assert {subject for subject, _ in requests} == set(REQUESTS)


@pytest.mark.parametrize("constant", CONSTANTS)
def test_the_page_on_the_contract_names_every_subject_bucket_and_error(constant: str) -> None:
    assert CONSTANTS[constant] in code_spans("docs/contract.md")


@pytest.mark.parametrize("kind", STRUCTS)
def test_the_page_on_the_contract_names_every_field(kind: str) -> None:
    words = {word for span in code_spans("docs/contract.md") for word in re.findall(r"\w+", span)}
    assert set(STRUCTS[kind].__struct_encode_fields__) <= words


def test_each_fast_path_says_what_it_replaces_and_is_compared_with_it() -> None:
    listed = {row["Fast path"]: row["Compared in"] for row in table("docs/performance.md", "Fast path")}
    paths = [path for package in ("relay", "tracker", "shared") for path in modules_of(package)]
    docstrings = {path.relative_to(ROOT).as_posix(): ast.get_docstring(ast.parse(path.read_text())) for path in paths}
    assert set(listed) == {name for name, text in docstrings.items() if text and "Replaces " in text}
    for test in listed.values():
        assert "library" in page(test) or "plain way" in page(test) or "single" in page(test)


def test_the_comparison_names_a_source_for_each_letter_and_uses_each_source() -> None:
    claims, sources = page("docs/comparison.md").split("## Sources")
    named = {row[""] for row in rows(sources)}
    assert {
        letter for letters in re.findall(r"\(([A-Z]\d+(?:, [A-Z]\d+)*)\)", claims) for letter in letters.split(", ")
    } == named


def test_the_figures_of_the_comparison_are_those_that_were_measured() -> None:
    figure = re.compile(r"\d[\d,]*(?:\.\d+)?")
    told = [figure.findall(row["This service"]) for row in table("docs/comparison.md", "Go service")]
    assert all(told)
    assert {number for row in told for number in row} <= set(figure.findall(page("docs/performance.md")))


@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_the_numbers_of_a_page_are_those_of_the_code(name: str, number: str) -> None:
    assert number in page(name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_link_of_a_page_leads_to_a_file_or_a_heading_of_the_repository(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        assert not heading or heading in headings(linked), target


async def run(code: str, env: dict[str, str]) -> str:
    """Run Python code as a file of its own would run; return what it printed."""
    process = await child.start(
        Path(sys.executable), "-W", "error", "-c", code, env=env, output=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(EXAMPLE_SECONDS):
        output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    return output.decode()


def page(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[tuple[str, str]]:
    """Return each fenced block of a language, with the plain block that follows it, if any."""
    fenced = re.findall(rf"^```{language}\n(.*?)^```\n(?:\n^```\n(.*?)^```$)?", page(name), re.MULTILINE | re.DOTALL)
    return [(code, printed) for code, printed in fenced]


def code_spans(name: str) -> set[str]:
    """Return what a page has in backticks."""
    return {span for line in page(name).splitlines() for span in re.findall(r"`([^`]+)`", line)}


def table(name: str, first_column: str) -> list[dict[str, str]]:
    """Return the rows of all tables that begin with such a column, cells without backticks."""
    return [row for row in rows(page(name)) if first_column in row]


def rows(text: str) -> Iterator[dict[str, str]]:
    for lines in re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE):
        head, _, *body = [[cell.strip().strip("`") for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        for cells in body:
            yield dict(zip(head, cells, strict=True))


def shown(default: object) -> str:
    """Write a default as the table does."""
    match default:
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case tuple():
            return ",".join(default) or "(empty)"
        case _:
            return str(default) or "(empty)"


def modules_of(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
