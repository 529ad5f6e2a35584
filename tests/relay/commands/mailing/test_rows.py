# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A CSV file becomes one request for each row, or a list of problems with their lines."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from relay.commands.mailing import rows
from relay.commands.mailing.rows import InvalidMailing

if TYPE_CHECKING:
    from relay.commands.mailing.rows import Mailing

SUBJECT = {"subject": "Hello {name}"}


def read(text: str, *, html: str = "<p>{name}</p>", plain: str = "{name}", **options: str) -> Mailing:
    tags = {name.removeprefix("tag_"): options.pop(name) for name in list(options) if name.startswith("tag_")}
    return rows.read(text.splitlines(keepends=True), SUBJECT | {"html": html, "text": plain} | options, tags)


def problems(text: str, **options: str) -> list[str]:
    with pytest.raises(InvalidMailing) as invalid:
        read(text, **options)
    return list(invalid.value.problems)


def test_every_column_fills_its_placeholder_and_html_is_escaped() -> None:
    (row,) = read("to,name\nada@example.com,A & <B>\n", html="<style>p {color: red}</style><p title='{name}'>").rows()
    request = row.request
    assert (request.subject, request.text) == ("Hello A & <B>", "A & <B>")
    assert request.html == "<style>p {color: red}</style><p title='A &amp; &lt;B&gt;'>"


def test_a_column_with_the_name_of_a_field_replaces_the_option_unless_its_cell_is_empty() -> None:
    text = "to,subject,from,reply_to,group_id,name\na@b.org,Hi {name},c@d.org,,g,N\na@b.org,,,e@f.org,,N\n"
    first, second = read(text, **{"from": "x@y.org", "group_id": "all"}).rows()
    assert (first.request.subject, first.request.from_, first.request.group_id) == ("Hi N", "c@d.org", "g")
    assert (second.request.subject, second.request.from_, second.request.group_id) == ("Hello N", "x@y.org", "all")
    assert (first.request.reply_to, second.request.reply_to) == (None, "e@f.org")


def test_values_are_percent_encoded_in_the_url_and_unchanged_in_the_key_and_the_tags() -> None:
    given = {"unsubscribe_url": "https://example.com/?who={to}", "idempotency_key": "hi-{to}", "tag_list": "{name}"}
    (row,) = read("to,name\nada+x@example.com,A-1\n", **given).rows()
    assert row.request.unsubscribe_url == "https://example.com/?who=ada%2Bx%40example.com"
    assert (row.request.idempotency_key, row.request.tags) == ("hi-ada+x@example.com", {"list": "A-1"})


def test_requests_that_the_relay_would_refuse_are_problems() -> None:
    assert problems("to,name,idempotency_key\na@b.org,N,k\nc@d.org,N,k\n") == [
        "line 3: same idempotency_key as line 2: k"
    ]
    assert problems("to,name\na@b.org,N\n", unsubscribe_url="http://b.org") == ["line 2: invalid unsubscribe_url"]
    assert problems("to,name\na@b.org,N M\n", tag_list="{name}") == ["line 2: invalid tags"]
    assert problems("to,name\na@b.org,N\n", idempotency_key="k" * 257) == ["line 2: invalid idempotency_key"]
    assert problems("to,name\na@b.org,N\n", group_id="a b\n") == ["line 2: invalid group_id"]


def test_blank_lines_count_as_lines_but_not_as_rows() -> None:
    found = read('to,name\n\na@b.org,"two\nlines"\n,\nc@d.org,N\n', plain="x", subject="S").stored
    assert [(number, row.line, row.to) for number, row in found.pairs()] == [(1, 3, "a@b.org"), (2, 6, "c@d.org")]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("TO;Name;Group-ID\na@b.org;N, M;g\n", ""),
        ("To\tname\tGROUP_ID\na@b.org\tN, M\tg\n", ""),
        ("to|name|group_id\na@b.org|N, M|g\n", ""),
        ('"to";"name, first";"group_id"\na@b.org;N, M;g\n', ""),
        ("sep=;\nto;name;group id\na@b.org;N, M;g\n", ""),
        ("to:name:group_id\na@b.org:N, M:g\n", ":"),
    ],
)
def test_headings_in_any_case_are_separated_by_any_delimiter(text: str, delimiter: str) -> None:
    given = {"subject": "S", "html": "h", "text": "t"}
    (row,) = rows.read(text.splitlines(keepends=True), given, {}, delimiter).rows()
    assert (row.request.to, row.request.group_id) == ("a@b.org", "g")
    assert row.line == (3 if text.startswith("sep") else 2)


def test_a_field_in_another_spelling_fills_its_placeholder() -> None:
    (row,) = read("To,Group ID,name\na@b.org,g,N\n", plain="{to} {Group ID} {name}").rows()
    assert (row.request.text, row.request.group_id) == ("a@b.org g N", "g")


def test_repeated_recipients_are_counted_and_the_first_are_named() -> None:
    text = "to,name\na@b.org,N\nc@d.org,N\n" + "A <A@b.org>,N\n" * 7
    repeated = read(text).repeated
    assert (repeated.count, len(repeated.shown)) == (7, rows.MAX_SHOWN_REPEATS)
    assert repeated.shown[0] == "line 4: A <A@b.org>, as in line 2"


def test_an_unused_column_is_named() -> None:
    assert read("to,name,shoe size\na@b.org,N,44\n").unused == ["shoe size"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("", "line 1: there is no header"),
        ("to,,name", "line 1: column 2 has no name"),
        ("to,name,name", "line 1: column name appears twice"),
        ("To,to,name", "line 1: column to appears twice"),
        ("to,name,Group ID,group_id", "line 1: column group_id appears twice"),
        ("name", "'to' is missing: add a column or an option; the columns are 'name'"),
        ("to", "{name} is used, but there is no such column"),
    ],
)
def test_an_invalid_header_is_a_problem(header: str, problem: str) -> None:
    assert problem in problems(f"{header}\n")


@pytest.mark.parametrize("text", ["to,name,,\na@b.org,N,,\n", "to,name,\na@b.org,N\n", "to,name\na@b.org,N,,,\n"])
def test_empty_cells_behind_the_columns_do_not_count(text: str) -> None:
    """Excel writes them for columns that once had content (wireservice/csvkit#426)."""
    mailing = read(text)
    assert list(mailing.header) == ["to", "name"]
    assert [row.request.text for row in mailing.rows()] == ["N"]


def test_a_cell_behind_the_columns_is_a_problem() -> None:
    assert problems("to,name,\na@b.org,N,x\n") == ["line 2: 3 cells, but the header has 2"]


def test_every_invalid_row_is_a_problem_with_its_line() -> None:
    """Line 6 is valid: the relay cleans the line break in its subject."""
    text = 'to,name\na@b.org\nnot-an-address,N\n,N\na@b.org,"N\nM"\na@b.org,N,N\n"a, b"@c.org,N\n'
    assert problems(text.replace('"a, b"@c.org', '"a@b.org, c@d.org"')) == [
        "line 2: 1 cells, but the header has 2",
        "line 3: to is not one mailbox: not-an-address",
        "line 4: to is empty",
        "line 7: 3 cells, but the header has 2",
        "line 8: to is not one mailbox: a@b.org, c@d.org",
    ]


@pytest.mark.parametrize(("text", "line"), [('to,name\na@b.org,"N" x\n', 2), ('to,name\na@b.org,"N\n', 2)])
def test_invalid_csv_is_a_problem_with_its_line(text: str, line: int) -> None:
    assert problems(text)[0].startswith(f"line {line}: ")


def test_all_problems_are_counted_and_the_first_are_kept() -> None:
    with pytest.raises(InvalidMailing) as invalid:
        read("to,name\n" + "nobody,N\n" * 1000)
    assert (invalid.value.count, len(invalid.value.problems)) == (1000, rows.MAX_SHOWN_PROBLEMS)
    assert invalid.value.problems[-1] == "line 21: to is not one mailbox: nobody"


def test_the_filled_bodies_are_not_kept_in_memory() -> None:
    html = "<p>{name}</p>" + "x" * 200_000
    tracemalloc.start()
    try:
        mailing = read("to,name\n" + "a@b.org,N\n" * 100, html=html)
        assert all(row.request.html for row in mailing.rows())
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_file_without_rows_is_a_problem() -> None:
    assert problems("to,name\n\n") == ["there are no rows below the header"]


def test_columns_that_a_placeholder_cannot_tell_apart_are_a_problem() -> None:
    assert "line 1: column Name appears twice" in problems("to,name,Name\n")


def test_an_other_form_of_a_placeholder_is_a_problem_in_options_and_cells() -> None:
    found = problems("to,name\na@b.org,N\n", plain="{name} %name%", from_display_name="Team {name}", tag_t="$name")
    assert [one.split(":")[0] for one in found] == ["text", "tag t", "from_display_name"]
    assert found[0].startswith("text: %name% is not filled in: write {name}, or rename")
    assert found[-1] == "from_display_name: {name} is not filled in here: add a column from_display_name instead"
    (in_cell,) = problems("to,name,subject\na@b.org,N,Hi {name}\na@b.org,N,Hi [name]\n")
    assert in_cell.startswith("line 3: subject: [name] is not filled in: write {name}")


def test_an_amount_of_money_may_follow_its_sign() -> None:
    (row,) = read("to,name,amount\na@b.org,N,100\n", plain="${amount}").rows()
    assert row.request.text == "$100"
    assert problems("to,name,amount\na@b.org,N,100\na@b.org,N,none\n", plain="${amount}")
