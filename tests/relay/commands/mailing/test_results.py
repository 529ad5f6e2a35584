# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A later run reads the outcome of each row in the result file, also if the run before was killed."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Final

import pytest

from relay.commands.mailing.results import (
    HEADER,
    OLD_HEADER,
    WITH_DIGESTS,
    ResultError,
    ResultFile,
    ResultLine,
    RowOutcome,
)
from relay.commands.mailing.rows import Row
from shared.contract import SendEmailRequest

DIGEST: Final = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a result file."""
    return tmp_path / "result.csv"


def row(number: int) -> Row:
    return Row(number, SendEmailRequest(to=f'"{number}, x"@example.com', group_id="g"), DIGEST, number + 1)


def test_the_last_line_of_a_row_counts_and_each_is_written_at_once(path: Path) -> None:
    with ResultFile(path) as results:
        results.write(row(1), RowOutcome("sending"))
        results.write(row(2), RowOutcome("sending"))
        results.write(row(1), RowOutcome("sent", "id-1", "g"))
        assert path.read_bytes().splitlines()[-1] == b'1,"""1, x""@example.com",sent,id-1,g,,0123456789abcdef,2'
    with ResultFile(path) as results:
        assert {number: line.outcome.status for number, line in results.lines.items()} == {1: "sent", 2: "sending"}
        assert results.lines[1].to == row(1).to
        assert results.lines[1].outcome.group_id == "g"


def test_a_file_that_is_in_use_and_one_that_cannot_be_locked_have_their_own_errors(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ResultFile(path), pytest.raises(ResultError, match=r"another run is writing to it\Z"), ResultFile(path):
        pass

    def lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.raises(ResultError, match=r"cannot be locked: No locks available\Z"), ResultFile(path):
        pass


ROW_2 = b'2,"""2, x""@example.com",'


@pytest.mark.parametrize("known", [b"", ROW_2 + b"sending,,g,,,\r\n"], ids=["not-sent", "sending"])
@pytest.mark.parametrize(
    "rest", [ROW_2[:1], ROW_2[:2], ROW_2[:9], ROW_2, ROW_2 + b"sent,i", "2,Jos\u00e9".encode()[:-1]]
)
def test_an_incomplete_last_line_is_removed(path: Path, known: bytes, rest: bytes) -> None:
    path.write_bytes(f"{','.join(HEADER)}\r\n1,a@b.org,sent,id,g,,,\r\n".encode() + known + rest)
    for _ in range(2):
        with ResultFile(path) as results:
            assert results.lines[1].outcome.status == "sent"
            assert (2 in results.lines) == bool(known)
            results.write(row(3), RowOutcome("refused", error='a, "b"\nc'))
    with ResultFile(path) as results:
        assert results.lines[3].outcome.error == 'a, "b" c'


@pytest.mark.parametrize("digest", [DIGEST, DIGEST[:3], ""])
def test_a_last_line_that_lacks_only_its_end_counts(path: Path, digest: str) -> None:
    path.write_text(",".join(HEADER) + f"\n1,a@b.org,sent,id,g,,{digest},2", newline="")
    for _ in range(2):
        with ResultFile(path) as results:
            assert results.lines[1] == ResultLine("a@b.org", RowOutcome("sent", "id", "g"), digest)
            assert results.lines[1].is_of(DIGEST)
            results.write(row(2), RowOutcome("sending"))


def test_a_line_with_another_digest_is_not_of_the_row() -> None:
    assert not ResultLine("a@b.org", RowOutcome("sent"), "1").is_of(DIGEST)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_of_an_older_version_or_of_a_spreadsheet_is_continued(path: Path, mark: str) -> None:
    path.write_text(f"{mark}{','.join(OLD_HEADER)}\r\n1,a@b.org,sent,id,g,\r\n", newline="")
    with ResultFile(path) as results:
        assert not results.has_digests
        results.write(row(2), RowOutcome("sent", "id-2", "g"))
    with ResultFile(path) as results:
        assert [line.outcome.email_id for line in results.lines.values()] == ["id", "id-2"]
    assert path.read_text().endswith(",sent,id-2,g,\n")


def test_a_file_with_digests_and_without_lines_is_continued(path: Path) -> None:
    path.write_text(f"{','.join(WITH_DIGESTS)}\r\n1,a@b.org,sent,id,g,,{DIGEST}\r\n", newline="")
    with ResultFile(path) as results:
        assert results.has_digests
        results.write(row(2), RowOutcome("sent", "id-2", "g"))
    assert path.read_text().endswith(f",sent,id-2,g,,{DIGEST}\n")


def test_reading_only_changes_nothing(path: Path) -> None:
    text = f"{','.join(HEADER)}\n1,a@b.org,sent,id,g,,{DIGEST},2\n2,c@d.o"
    path.write_text(text)
    with ResultFile(path, read_only=True) as results:
        assert list(results.lines) == [1]
    assert path.read_text() == text


def test_an_incomplete_header_is_written_again(path: Path) -> None:
    path.write_text("row,to,st")
    with ResultFile(path) as results:
        results.write(row(1), RowOutcome("sending"))
    with ResultFile(path) as results:
        assert list(results.lines) == [1]


def test_a_second_run_at_the_same_time_is_refused(path: Path) -> None:
    with ResultFile(path), pytest.raises(ResultError, match="another run"):
        ResultFile(path).__enter__()


HUGE_NUMBER = f"{','.join(HEADER)}\n{'9' * 5000},a@b.org,sent,id,g,,\n"


@pytest.mark.parametrize(
    "text",
    ["to,name\nada@example.com,Ada\n", "to,name\nada@example.com", "to,name", HUGE_NUMBER],
    ids=["others", "unfinished", "header", "huge number"],
)
def test_a_file_that_is_not_a_result_file_is_not_changed(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ResultError, match="not a result file"):
        ResultFile(path).__enter__()
    assert path.read_text() == text


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file or directory"):
        ResultFile(tmp_path / "nowhere" / "result.csv").__enter__()


def test_a_device_is_not_read_and_is_named_if_it_cannot_be_written() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        ResultFile(Path("/dev/full")).__enter__()
