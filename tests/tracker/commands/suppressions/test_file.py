# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The formats of SES and of the commands are read, wrong rows are reported by line, and an export can be imported."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contract import SUPPRESSION_REASONS, Suppression
from tracker.commands.json_documents import Broken
from tracker.commands.suppressions import file as file_format
from tracker.commands.suppressions.file import Incomplete, Row

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read(text: str, reason: str = "manual") -> list[Row | Broken]:
    return list(file_format.read([text[at : at + 50] for at in range(0, len(text), 50)], reason=reason, now=NOW))


def entry(address: str = "ada@x.org", reason: str = "bounce", at: datetime = NOON, detail: str = "") -> Suppression:
    return Suppression(address=address, reason=reason, suppressed_at=at, detail=detail)


@pytest.mark.parametrize(
    "text",
    [
        "EmailAddress,Reason,LastUpdateTime\nAda@x.org,BOUNCE,2026-01-31T12:00:00Z\n",
        'email address,Reason,"Last Update Time"\r\nada@x.org,bounce,2026-01-31T12:00:00+00:00\r\n',
        "Reason,Other,EMAIL_ADDRESS,last-update-time\nBounce,?,ada@x.org,2026-01-31 12:00:00\n",
        "ada@x.org,BOUNCE,2026-01-31T12:00:00Z",
        "EMAIL;Reason;Last Update Time\r\nada@x.org;BOUNCE;2026-01-31T12:00:00Z\r\n",
        "sep=;\r\nada@x.org;BOUNCE;2026-01-31T12:00:00Z\r\n",
        "ada@x.org\tBOUNCE\t2026-01-31T12:00:00Z\n",
        "EmailAddress,Reason,LastUpdateTime\rada@x.org,BOUNCE,2026-01-31T12:00:00Z\r",
        ' "Ada" <ada@x.org> ,  bounce , 2026-01-31T13:00:00+01:00 \n',
        '{"emailAddress":"ada@x.org","reason":"BOUNCE","lastUpdateTime":"2026-01-31T12:00:00Z"}\n',
        '{"address":"ada@x.org","reason":"bounce","detail":"","email_id":"","suppressed_at":"2026-01-31T12:00:00Z"}',
        (
            '{"SuppressedDestinationSummaries":[{"EmailAddress":"ada@x.org","Reason":"BOUNCE",'
            '"LastUpdateTime":"2026-01-31T12:00:00+00:00"}],"NextToken":null}'
        ),
        (
            '{"$metadata": {"attempts": 1}, "suppressed_destination_summaries": [{"email_address":"ada@x.org",'
            '"reason":"BOUNCE","last_update_time":"2026-01-31T12:00:00+00:00"}]}'
        ),
        (
            '{\n  "SuppressedDestinationSummaries": [\n {"EmailAddress":"ada@x.org","Reason":"BOUNCE",'
            '"LastUpdateTime":1769860800.0}]}'
        ),
    ],
)
def test_each_format_of_ses_and_of_the_commands_is_read(text: str) -> None:
    assert [one.entry for one in read(text) if isinstance(one, Row)] == [entry()]
    assert not any(isinstance(one, Broken) for one in read(text))


def page(name: str, token: str | None = None, *, is_token_first: bool = False) -> dict[str, Any]:
    """Return an answer of AWS with one address."""
    entries = {"SuppressedDestinationSummaries": [{"EmailAddress": f"{name}@x.org", "Reason": "BOUNCE"}]}
    tokens = {"NextToken": token} if token is not None else {}
    return tokens | entries if is_token_first else entries | tokens


PAGES = [page("a", "t1"), page("b", "t2"), page("c")]
JOINED: dict[str, Callable[[list[Any]], str]] = {
    "one a line": lambda pages: "\n".join(map(json.dumps, pages)),
    "one behind the other": lambda pages: "".join(map(json.dumps, pages)),
    "pretty-printed": lambda pages: "\n".join(json.dumps(one, indent=4) for one in pages),
    "as an array": json.dumps,
    "as an array, pretty-printed": lambda pages: json.dumps(pages, indent=4),
}


@pytest.mark.parametrize("joined", JOINED)
@pytest.mark.parametrize(
    "incomplete",
    [
        [page("a", "t1")],
        [page("a", "t1", is_token_first=True)],
        [{"nextToken": "t1", "ResponseMetadata": {}, "suppressedDestinationSummaries": []}],
        [{"SuppressedDestinationSummaries": [], "NextToken": "t1"}],
        [page("a") | {"ResponseMetadata": {}, "NextToken": "t1"}],
        PAGES[:2],
        [page("a"), page("b", "t2")],
        [page("a", "t1"), {"EmailAddress": "b@x.org"}],
    ],
)
def test_a_list_that_lacks_its_last_page_has_no_rows(joined: str, incomplete: list[Any]) -> None:
    rows = file_format.read([JOINED[joined](incomplete)], reason="manual", now=NOW)
    with pytest.raises(Incomplete, match="has a NextToken, so the list has more pages"):
        next(rows)


@pytest.mark.parametrize("joined", JOINED)
@pytest.mark.parametrize("complete", [PAGES, [page("a", ""), page("b"), page("c")], [*PAGES[:2], page("c", "")]])
def test_all_pages_of_a_list_one_after_the_other_are_read(joined: str, complete: list[Any]) -> None:
    found = read(JOINED[joined](complete))
    assert [one.entry.address for one in found if isinstance(one, Row)] == ["a@x.org", "b@x.org", "c@x.org"]
    assert len(found) == 3


def test_a_last_page_that_is_broken_is_reported_as_missing_with_its_line() -> None:
    with pytest.raises(Incomplete, match="more pages; line 2: not JSON: "):
        read(f"{json.dumps(PAGES[0])}\n{json.dumps(PAGES[2])[:-9]}\n")


def test_a_wrong_row_of_an_answer_does_not_affect_the_others() -> None:
    for first in ({}, {"Other": 1}):
        entries = [5, {"EmailAddress": "nobody"}, {"EmailAddress": "a@x.org"}]
        found = read(json.dumps(first | {"SuppressedDestinationSummaries": entries}))
        assert [one.why for one in found if isinstance(one, Broken)] == [
            "not a JSON object",
            "not a valid email address: nobody",
        ]
        assert [one.entry.address for one in found if isinstance(one, Row)] == ["a@x.org"]


@pytest.mark.parametrize("text", ["ada@x.org", "EmailAddress\nada@x.org\n", "EmailAddress,Reason\nada@x.org,\n"])
def test_a_row_without_reason_and_time_has_those_of_the_import(text: str) -> None:
    [row] = read(text, reason="complaint")
    assert isinstance(row, Row)
    assert row.entry == entry(reason="complaint", at=NOW)


def test_each_wrong_row_is_reported_by_its_line_and_all_others_are_read() -> None:
    wrong = {
        2: ("nobody,BOUNCE,", "not a valid email address: nobody"),
        3: (",BOUNCE,", "the address is missing"),
        4: ("ada@x.org,SPAM,", "the reason is not one of bounce, complaint, manual: SPAM"),
        5: ("ada@x.org,BOUNCE,soon", "not a time such as 2026-01-31T12:00:00Z: soon"),
        6: ('"ada@x.org,BOUNCE,', 'not a valid email address: "ada@x.org'),
        7: ("ada@x.org,BOUNCE,,,", "5 cells, but 3 columns"),
        8: ("jörg@x.org,BOUNCE,", "not a valid email address: jörg@x.org"),
        9: ("ada@x.org,BOUNCE," + " " * (70 << 10), "the line is longer than 64 Ki characters"),
    }
    lines = ["EmailAddress,Reason,LastUpdateTime", *(line for line, _ in wrong.values()), "", "bob@x.org,BOUNCE,"]
    found = read("\n".join(lines) + "\n\ufffd@x.org\n")
    assert [(one.line, one.why) for one in found if isinstance(one, Broken)] == [
        *((number, why) for number, (_, why) in wrong.items()),
        (12, "not a valid email address: \ufffd@x.org"),
    ]
    assert [(one.line, one.entry.address) for one in found if isinstance(one, Row)] == [(11, "bob@x.org")]


@pytest.mark.parametrize("field", ["detail", "email_id"])
def test_half_a_surrogate_pair_is_reported_by_its_line(field: str) -> None:
    found = read(f'{{"address": "a@x.org", "{field}": "\\ud800"}}\n{{"address": "b@x.org"}}')
    assert found == [Broken(1, f"{field} is not valid Unicode text: \ud800"), Row(2, entry("b@x.org", "manual", NOW))]


def test_a_wrong_document_does_not_affect_the_others() -> None:
    found = read(
        '{"emailAddress": "a@x.org"}\n{"emailAddress": "b@x.\n"x"\n{"emailAddress": 5}\n{"emailAddress": "c@x.org"}'
    )
    assert [one.line for one in found if isinstance(one, Broken)] == [2, 3, 4]
    assert [one.entry.address for one in found if isinstance(one, Row)] == ["a@x.org", "c@x.org"]


local_parts = st.sampled_from(["ada", "a+b", "=1+1", '"a,b"', '"a \\" b"', "{x}", "-x", "'"])
domains = st.sampled_from(["x.org", "xn--bcher-kva.example", "[192.0.2.1]"])
entries = st.builds(
    Suppression,
    address=st.builds("{}@{}".format, local_parts, domains),
    reason=st.sampled_from(SUPPRESSION_REASONS),
    detail=st.text(max_size=9).map(str.strip),
    email_id=st.just("e1"),
    suppressed_at=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)


@settings(max_examples=60)
@given(st.lists(entries, max_size=4))
def test_an_export_can_be_imported_with_all_fields_of_its_columns(given_entries: list[Suppression]) -> None:
    text = file_format.header() + "".join(map(file_format.line_of, given_entries))
    back = [one.entry for one in read(text) if isinstance(one, Row)]
    assert back == [msgspec.structs.replace(one, detail="", email_id="") for one in given_entries]
    json_lines = "\n".join(msgspec.json.encode(one).decode() for one in given_entries)
    assert [one.entry for one in read(json_lines) if isinstance(one, Row)] == given_entries
