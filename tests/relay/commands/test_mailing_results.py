# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The result file tells a later run what became of each row, also where the run before was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.commands.mailing import Row
from relay.commands.mailing_results import HEADER, Outcome, ResultError, ResultFile
from shared.contract import SendEmailRequest

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("rest", ["3,c@d.org,se", "3,c@d.org,sending,,", "3,c@d"])
def test_a_line_that_was_cut_off_is_in_doubt_and_does_not_spoil_the_next(path: Path, rest: str) -> None:
    path.write_text(",".join(HEADER) + f"\r\n2,a@b.org,sent,id,g,\r\n{rest}", newline="")
    for _ in range(2):
        with ResultFile(path) as results:
            assert results.lines[2].outcome.status == "sent"
            assert results.lines[3].outcome.status == "unknown"
            results.write(row(4), Outcome("refused", error='a, "b"\nc'))
    with ResultFile(path) as results:
        assert results.lines[4].outcome.error == 'a, "b"\nc'


def test_a_second_run_at_once_is_refused(path: Path) -> None:
    with ResultFile(path), pytest.raises(ResultError, match="another run"):
        ResultFile(path).__enter__()


def test_another_file_is_left_alone(path: Path) -> None:
    path.write_text("to,name\nada@example.com,Ada\n")
    with pytest.raises(ResultError, match="no result file"):
        ResultFile(path).__enter__()
    assert path.read_text() == "to,name\nada@example.com,Ada\n"


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file or directory"):
        ResultFile(tmp_path / "nowhere" / "result.csv").__enter__()
