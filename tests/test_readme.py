# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""README and docs match the code: the examples run, and tables and figures name exactly what the code has."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from contextlib import asynccontextmanager
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
from tests.bench.scenarios import growth
from tests.stack import child, console, nats_server, smtp_server
from tracker.events import receiver, settlement
from tracker.queries import live_counts
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from shared.service.settings import ProcessSettings
    from tests.stack.smtp_server import SmtpServer

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PROCESSES: Final[dict[str, type[ProcessSettings]]] = {"Relay": RelaySettings, "Tracker": TrackerSettings}
VARIABLES: Final = ("Both processes", *PROCESSES)
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
    ("docs/contract.md", f"{submission.MAX_SUBJECT_BYTES} bytes | The subject"),
    ("docs/contract.md", f"{submission.MAX_DISPLAY_NAME_BYTES} bytes | The name"),
    ("docs/contract.md", f"{group_index.MAX_GROUP_ID_BYTES} bytes; no CR, LF or NUL | Groups"),
    (
        "docs/contract.md",
        f"{group_index.FIRST_SEGMENT_IDS:,} ids in the first, {group_index.LATER_SEGMENT_IDS} in the others",
    ),
    ("docs/contract.md", f"keeps {record_writer.MAX_KEPT:,} records in memory"),
    ("docs/performance.md", f"at most {live_counts.MAX_EMAILS:,} emails"),
    ("docs/failures.md", f"visibility of {settlement.VISIBILITY_SECONDS} seconds"),
    ("docs/failures.md", f"{record_writer.MAX_KEPT:,} records are kept"),
    ("docs/failures.md", f"Requests that arrive within the next {delivery.CIRCUIT_OPEN_SECONDS:g} seconds"),
    ("docs/failures.md", f"{settlement.MAX_HELD:,} messages are held already"),
    (
        "docs/failures.md",
        f"with pauses of {settlement.FIRST_PAUSE_SECONDS} to {settlement.LONGEST_PAUSE_SECONDS:g} seconds",
    ),
)
EXAMPLE_SECONDS: Final = 20
UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@asynccontextmanager
async def services() -> AsyncIterator[tuple[str, SmtpServer]]:
    """Run both processes; yield the URL of NATS and the SMTP server."""
    async with nats_server.running() as nats, smtp_server.running() as smtp:
        env = {"NATS_URL": nats.url, "EMAIL_ENABLED": "true", "SMTP_HOST": smtp.host, "SMTP_PORT": str(smtp.port)}
        async with (
            console.running("lfx-email-relay", "serve", "--create-missing", env=env) as relay,
            console.running("lfx-email-tracker", "serve", "--create-missing", env=env) as tracker,
        ):
            await relay.wait_until_ready()
            await tracker.wait_until_ready()
            yield nats.url, smtp


async def test_the_python_example_of_the_readme_prints_the_output_below_it() -> None:
    code, printed = blocks("README.md", "python")[0]
    async with services() as (nats_url, smtp):
        output = await run(Path(sys.executable), "-W", "error", "-c", code, NATS_URL=nats_url)
        assert re.sub(UUID, "<id>", output) == re.sub(UUID, "<id>", printed)
        (mail,) = await smtp.wait_for_mails(1)
        assert mail.recipients == ("alice@example.com",)


async def test_the_commands_of_the_readme_work_when_they_are_pasted(tmp_path: Path) -> None:
    (script,) = [code for code, _ in blocks("README.md", "sh") if "printf" in code]
    script = script.replace("/tmp/hello", f"{tmp_path}/hello")  # noqa: S108
    script = script.replace(".venv/bin", str(Path(sys.executable).parent))
    async with services() as (nats_url, smtp):
        output = await run(Path("/bin/sh"), "-ec", script, NATS_URL=nats_url)
        assert "alice@example.com" in output
        assert re.search(r"^total_sent +1$", output, re.MULTILINE)
        (mail,) = await smtp.wait_for_mails(1)
        assert mail.recipients == ("alice@example.com",)


def test_each_command_of_the_readme_is_an_executable_of_the_environment_or_a_target_of_make() -> None:
    lines = "".join(code for code, _ in blocks("README.md", "sh")).splitlines()
    for program in {line.split()[0] for line in lines} - {"cp", "make", "nats", "printf"}:
        folder, _, name = program.rpartition("/")
        assert folder == ".venv/bin"
        assert (Path(sys.executable).parent / name).exists()
    targets = re.findall(r"\bmake ([a-z-]+)", page("README.md"))
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("process", PROCESSES)
def test_the_tables_of_variables_list_the_settings_with_their_defaults(process: str) -> None:
    kind = PROCESSES[process]
    assert variables("Both processes", process) == {
        name.upper(): shown(getattr(kind(), name)) for name in kind.__struct_fields__
    }


@pytest.mark.parametrize("process", PROCESSES)
def test_each_default_of_the_tables_can_be_set(process: str) -> None:
    given = {name: default for name, default in variables(*VARIABLES).items() if default != "(empty)"}
    assert settings.load(given, PROCESSES[process]) == PROCESSES[process]()


def test_each_nats_command_of_the_readme_is_a_request_of_the_contract() -> None:
    shell = "".join(code for code, _ in blocks("README.md", "sh"))
    requests = re.findall(r"^nats req (?:--timeout 10s )?(\S+) '(.+)'$", shell, re.MULTILINE)
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


def test_each_example_of_the_contract_is_a_message_with_known_fields() -> None:
    for example, _ in blocks("docs/contract.md", "json"):
        fields = msgspec.json.decode(example, type=dict[str, object])
        assert any(is_written_as(kind, fields) for kind in STRUCTS.values()), example


def is_written_as(kind: type[msgspec.Struct], fields: dict[str, object]) -> bool:
    """Return whether a struct has these fields, none is missing, and it is written with the same values."""
    try:
        return bool(msgspec.to_builtins(msgspec.convert(fields, kind)) == fields)
    except msgspec.ValidationError:
        return False


def test_each_fast_path_names_the_code_that_it_replaces_and_is_compared_with_it() -> None:
    listed = {row["Fast path"]: row["Compared in"] for row in table("docs/performance.md", "Fast path")}
    paths = [path for package in ("relay", "tracker", "shared") for path in modules_of(package)]
    docstrings = {path.relative_to(ROOT).as_posix(): ast.get_docstring(ast.parse(path.read_text())) for path in paths}
    assert set(listed) == {name for name, text in docstrings.items() if text and "Replaces " in text}
    for test in listed.values():
        assert "library" in page(test) or "plain way" in page(test) or "single" in page(test)


def test_the_comparison_names_a_source_for_each_letter_and_uses_each_source() -> None:
    claims, sources = page("docs/comparison.md").split("## Sources")
    named = set(re.findall(r"^- \*\*([A-Z]\d+)\*\* ", sources, re.MULTILINE))
    assert {
        letter for letters in re.findall(r"\(([A-Z]\d+(?:, [A-Z]\d+)*)\)", claims) for letter in letters.split(", ")
    } == named


def test_neither_time_nor_memory_of_the_services_grows_with_the_number_of_records() -> None:
    ratios = {row["Growth"]: row["Ratio"] for row in table("docs/performance.md", "Growth")}
    assert {*growth.CASES, *growth.AFTER_A_PAUSE} <= set(ratios)
    assert all(float(ratio) <= 1.3 for ratio in ratios.values() if ratio)


@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_the_numbers_of_a_page_are_those_of_the_code(name: str, number: str) -> None:
    assert number in page(name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_python_file_that_a_page_names_exists(path: Path) -> None:
    named = re.findall(r"`((?:relay|tracker|shared|tests)/[\w/]+\.py)`", path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_link_of_a_page_leads_to_a_file_or_heading_that_exists(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        assert not heading or heading in headings(linked), target


async def run(program: Path, *arguments: str, **env: str) -> str:
    """Run a program that ends with status 0 and writes no errors; return its output."""
    process = await child.start(program, *arguments, env=env, output=asyncio.subprocess.PIPE)
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
    """Return the texts in backticks of a page."""
    return {span for line in page(name).splitlines() for span in re.findall(r"`([^`]+)`", line)}


def variables(*headings: str) -> dict[str, str]:
    """Return the default of each variable in the tables of the README below these headings."""
    sections = re.split(r"^##+ ", page("README.md"), flags=re.MULTILINE)
    chosen = [section for section in sections if section.partition("\n")[0] in headings]
    return {row["Variable"]: row["Default"] for section in chosen for row in rows(section)}


def table(name: str, first_column: str) -> list[dict[str, str]]:
    """Return the rows of all tables with this column, cells without backticks."""
    return [row for row in rows(page(name)) if first_column in row]


def rows(text: str) -> Iterator[dict[str, str]]:
    for lines in re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE):
        head, _, *body = [[cell.strip().strip("`") for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        for cells in body:
            yield dict(zip(head, cells, strict=True))


def shown(default: object) -> str:
    """Return a default in the form of the table."""
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
