# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each document of a file is found, however it is written and cut into pieces, and no broken one costs another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.commands import json_documents
from tracker.commands.json_documents import Broken, Document

if TYPE_CHECKING:
    from collections.abc import Callable

texts = st.text('a"\\{}[],: \n\u00e9', max_size=6)
values = st.recursive(
    st.one_of(texts, st.integers(-9, 9), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=3)
documents = st.lists(st.one_of(objects, texts), max_size=5)
cuts = st.integers(1, 40)

FORMS: dict[str, Callable[[list[Any]], str]] = {
    "lines": lambda given: "\n".join(map(json.dumps, given)),
    "lines of Windows": lambda given: "".join(f"{json.dumps(one)}\r\n" for one in given),
    "one behind the other": lambda given: "".join(map(json.dumps, given)),
    "with blank lines": lambda given: "\n \n".join(map(json.dumps, given)),
    "spread over lines": lambda given: "\n".join(json.dumps(one, indent=2) for one in given),
    "spread without indent": lambda given: "\n".join(json.dumps(one, indent=0) for one in given),
    "array": json.dumps,
    "array of lines": lambda given: "[\n" + ",\n".join(map(json.dumps, given)) + "\n]\n",
    "array spread over lines": lambda given: json.dumps(given, indent=4),
    "wrapped": lambda given: json.dumps({"Messages": given}),
    "wrapped and spread": lambda given: json.dumps({"Messages": given, "More": [{"a": 1}], "Token": None}, indent=4),
    "wrapped twice": lambda given: json.dumps({"Messages": given[:2]}) + json.dumps({"Messages": given[2:]}),
}


def split(text: str, size: int = 1000) -> list[Document | Broken]:
    return list(json_documents.split((text[at : at + size] for at in range(0, len(text), size)), wrapper="Messages"))


def contents(found: list[Document | Broken]) -> list[Any]:
    """What the documents say; for what is broken its line."""
    return [one.value if isinstance(one, Document) else one.line for one in found]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(given_documents=documents, size=cuts)
def test_documents_are_found_in_each_form_and_in_pieces_of_any_size(
    form: str, given_documents: list[Any], size: int
) -> None:
    assert contents(split(FORMS[form](given_documents), size)) == given_documents


@settings(max_examples=80, deadline=None)
@given(st.lists(objects, min_size=3, max_size=3), st.integers(0, 40), cuts)
def test_a_line_that_breaks_off_anywhere_costs_no_other(three: list[Any], at: int, size: int) -> None:
    first, second, third = map(json.dumps, three)
    broken = second[: min(at, len(second) - 1)]
    found = contents(split(f"{first}\n{broken}\n{third}\n", size))
    assert found == [three[0], *([2] if broken else []), three[2]]


@settings(max_examples=80, deadline=None)
@given(st.text('{}[]",:\\ \n1ae', max_size=60), cuts)
def test_whatever_the_text_is_it_ends_and_the_lines_are_in_order(text: str, size: int) -> None:
    lines = [one.line for one in split(text, size)]
    assert lines == sorted(lines)
    assert split(text, size) == split(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("\n\n", []),
        ("null\n5\n{}\n", [None, 5, {}]),
        ("NaN\n{}\n", [1, {}]),
        ("not JSON\n{}", [1, {}]),
        ('{"a": 1} more\n{}', [{"a": 1}, 1, {}]),
        ('{"a": [\n{"b": 1}\n{"c": 2}\n', [1, {"b": 1}, {"c": 2}]),
        ('{"a":\n{"b": 1}}\n{"c": 2}\n', [{"a": {"b": 1}}, {"c": 2}]),
        ('[\n  {"a": "x},\n  {"b": 1}\n]', [2, {"b": 1}]),
        ('{\n  "a": "x\n  "b": {\n  }\n}\n{"c": 1}', [1, {"c": 1}]),
        ('{"a": 1', [1]),
        ('"a', [1]),
        ('{"Messages": []}{}', [{}]),
        ('{"Other": 1, "Messages": [1]}', [{"Other": 1, "Messages": [1]}]),
        ('{"Messages": [{"a": 1}], "Next": "x", "N": 5}', [{"a": 1}]),
    ],
)
def test_what_is_broken_is_told_by_the_line_where_it_begins(text: str, found: list[Any]) -> None:
    for size in (1, 3, 1000):
        assert contents(split(text, size)) == found


@pytest.mark.parametrize("start", ['{"a": "', '"', '{"a": [1, '])
def test_what_is_too_long_is_given_up_and_the_next_line_read(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_documents, "MAX_CHARACTERS", 1 << 20)
    found = split(start + "1, " * (1 << 20) + '\n{"b": 1}\n', 1 << 16)
    assert found == [Broken(1, "no JSON: longer than 1 Mi characters"), Document(2, {"b": 1})]
