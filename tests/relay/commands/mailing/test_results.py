# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The result file tells a later run what became of each row, also where the run before was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.commands.mailing.results import HEADER, Line, Outcome, ResultError, ResultFile
from relay.commands.mailing.rows import Row
from shared.contract import SendEmailRequest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "result.csv"


def row(number: int) -> Row:
    return Row(number, number + 1, SendEmailRequest(to=f'"{number}, x"@example.com', group_id="g"))


def test_the_last_line_of_a_row_counts_and_each_is_on_disk_at_once(path: Path) -> None:
    with ResultFile(path) as results:
        results.write(row(1), Outcome("sending"))
        results.write(row(2), Outcome("sending"))
        results.write(row(1), Outcome("sent", "id-1", "g"))
        assert path.read_bytes().splitlines()[-1] == b'1,"""1, x""@example.com",sent,id-1,g,'
    with ResultFile(path) as results:
        assert {number: line.outcome.status for number, line in results.lines.items()} == {1: "sent", 2: "sending"}
        assert results.lines[1].to == row(1).to
        assert results.group_id == "g"


ROW_2 = b'2,"""2, x""@example.com",'


@pytest.mark.parametrize("known", [b"", ROW_2 + b"sending,,g,\r\n"], ids=["not-asked", "asked"])
@pytest.mark.parametrize(
    "rest", [ROW_2[:1], ROW_2[:2], ROW_2[:9], ROW_2, ROW_2 + b"sent,i", "2,Jos\u00e9".encode()[:-1]]
)
def test_a_line_that_was_cut_off_is_as_if_it_had_not_been_begun(path: Path, known: bytes, rest: bytes) -> None:
    path.write_bytes(f"{','.join(HEADER)}\r\n1,a@b.org,sent,id,g,\r\n".encode() + known + rest)
    for _ in range(2):
        with ResultFile(path) as results:
            assert results.lines[1].outcome.status == "sent"
            assert (2 in results.lines) == bool(known)
            results.write(row(3), Outcome("refused", error='a, "b"\nc'))
    with ResultFile(path) as results:
        assert results.lines[3].outcome.error == 'a, "b" c'


def test_a_last_line_that_lacks_only_its_end_counts(path: Path) -> None:
    path.write_text(",".join(HEADER) + "\n1,a@b.org,sent,id,g,", newline="")
    for _ in range(2):
        with ResultFile(path) as results:
            assert results.lines[1] == Line("a@b.org", Outcome("sent", "id", "g"))
            results.write(row(2), Outcome("sending"))


def test_a_header_that_was_cut_off_is_written_anew(path: Path) -> None:
    path.write_text("row,to,st")
    with ResultFile(path) as results:
        results.write(row(1), Outcome("sending"))
    with ResultFile(path) as results:
        assert list(results.lines) == [1]


def test_a_second_run_at_once_is_refused(path: Path) -> None:
    with ResultFile(path), pytest.raises(ResultError, match="another run"):
        ResultFile(path).__enter__()


ENDLESS = f"{','.join(HEADER)}\n{'9' * 5000},a@b.org,sent,id,g,\n"


@pytest.mark.parametrize(
    "text",
    ["to,name\nada@example.com,Ada\n", "to,name\nada@example.com", "to,name", ENDLESS],
    ids=["others", "unfinished", "header", "endless number"],
)
def test_another_file_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ResultError, match="no result file"):
        ResultFile(path).__enter__()
    assert path.read_text() == text


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file or directory"):
        ResultFile(tmp_path / "nowhere" / "result.csv").__enter__()


def test_a_device_is_not_read_and_one_that_takes_nothing_is_named() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        ResultFile(Path("/dev/full")).__enter__()
