# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Documents are found in the forms in which AWS tools write them, and one that is broken is reported by its line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.commands import json_documents
from tracker.commands.json_documents import Broken, Document, Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    "with blank lines": lambda given: "\n \n".join(map(json.dumps, given)),
    "one behind the other": lambda given: "".join(map(json.dumps, given)),
    "pretty-printed": lambda given: "\n".join(json.dumps(one, indent=2) for one in given),
    "array": json.dumps,
    "array, pretty-printed": lambda given: json.dumps(given, indent=4),
    "array of lines": lambda given: "[\n" + ",\n".join(map(json.dumps, given)) + "\n]\n",
    "answer": lambda given: json.dumps({"Messages": given}),
    "answer, pretty-printed": lambda given: json.dumps({"Messages": given, "More": [{"a": 1}]}, indent=4),
    "records of a function": lambda given: json.dumps({"Records": given}, indent=2),
    "two answers": lambda given: "\n".join(json.dumps({"Messages": part}, indent=4) for part in (given[:2], given[2:])),
}


def read(text: str, size: int = 1000) -> list[Document | Broken]:
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    return list(json_documents.read(pieces, wrappers={"messages", "records"}))


def contents(found: list[Document | Broken]) -> list[Any]:
    """Return the value of each document, and the line of broken text."""
    return [one.line if isinstance(one, Broken) else one.value for one in found if not isinstance(one, Wrapper)]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(given_documents=documents, size=cuts)
def test_documents_are_found_in_each_form_and_in_pieces_of_any_size(
    form: str, given_documents: list[Any], size: int
) -> None:
    assert contents(read(FORMS[form](given_documents), size)) == given_documents


@settings(max_examples=40)
@given(st.lists(objects, min_size=3, max_size=3), st.integers(0, 40), cuts)
def test_a_line_that_is_cut_off_anywhere_does_not_affect_the_others(three: list[Any], at: int, size: int) -> None:
    first, second, third = map(json.dumps, three)
    broken = second[: min(at, len(second) - 1)]
    found = contents(read(f"{first}\n{broken}\n{third}\n", size))
    assert found == [three[0], *([2] if broken else []), three[2]]


@settings(max_examples=40)
@given(st.text('{}[]",:\\ \n1ae', max_size=60), cuts)
def test_any_text_is_read_to_its_end_with_lines_in_order(text: str, size: int) -> None:
    lines = [one.line for one in read(text, size)]
    assert lines == sorted(lines)
    assert read(text, size) == read(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("\n\n", []),
        ("null\n5\n{}\n", [None, 5, {}]),
        ("NaN\n{}\n", [1, {}]),
        ("not JSON\nneither\n{}", [1, 2, {}]),
        ('{"a": 1} more\n{}', [{"a": 1}, 1, {}]),
        ('{"a": [\n{"b": 1}\n{"c": 2}\n', [1, {"b": 1}, {"c": 2}]),
        ('[\n    {"a": "x\n[\n    {"b": 1}\n]', [1, {"b": 1}]),
        ('{\n  "a": "x\n  "b": {\n  }\n}\n{"c": 1}', [1, {"c": 1}]),
        ('{\n  "a": 1,\n"b"\n{"c": 1}', [1, "b", {"c": 1}]),
        ('{"a": 1', [1]),
        ('"a', [1]),
        ('{"Messages": []}{}', [{}]),
        ('{"Other": 1, "Messages": [1]}', [{"Other": 1, "Messages": [1]}]),
        ('{"Messages": null}', [{"Messages": None}]),
    ],
)
def test_broken_text_is_reported_by_its_first_line(text: str, found: list[Any]) -> None:
    for size in (1, 3, 1000):
        assert contents(read(text, size)) == found


def test_each_message_of_an_answer_has_its_own_line() -> None:
    answer = json.dumps({"Messages": [{"a": 1}, {"b": 2}]}, indent=4)
    assert [one.line for one in read(f"{answer}\n{answer}\n")] == [1, 3, 6, 11, 13, 16]


@pytest.mark.parametrize("name", ["Messages", "messages", "Records", "RECORDS"])
def test_the_other_fields_of_an_answer_precede_its_list(name: str) -> None:
    text = json.dumps({name: [{"a": 1}], "NextToken": "t", "B": [2]})
    assert read(text + '{"a": 2}') == [
        Wrapper(1, {"NextToken": "t", "B": [2]}),
        Document(1, {"a": 1}),
        Document(1, {"a": 2}),
    ]
    assert read(json.dumps({name: [], "C": 1})) == [Wrapper(1, {"C": 1})]


def test_a_syntax_error_is_named_with_its_own_line() -> None:
    assert read('{\n  "a": 1,\n  "b": "x\n}\n') == [Broken(1, "not JSON: Invalid control character in line 3")]
    assert read("[" * 5000 + "]" * 5000) == [Broken(1, "not JSON: nested too deeply")]


@pytest.mark.parametrize(
    "start", ['{"a": "', '"', '{"a": [1, ', "[1, ", '{\n  "a": [\n  1,\n', '[\n  1,\n  {"b": '], ids=range(6)
)
def test_a_document_that_is_too_long_is_reported_and_the_next_one_read(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_documents, "MAX_CHARACTERS", 1 << 16)
    separator = "\n  " if "\n" in start else " "
    found = read(start + f"1,{separator}" * (1 << 15) + '\n[{"b": 1}]\n', 1 << 10)
    assert found == [Broken(1, json_documents.TOO_LONG), Document(found[1].line, {"b": 1})]


def test_no_more_than_the_lines_of_a_document_are_read_ahead() -> None:
    held = 0

    def pieces() -> Iterator[str]:
        nonlocal held
        for _ in range(100):
            held += 1
            yield '{"a": {"b": [1, 2, 3]}}\n' * 10

    for number, _ in enumerate(json_documents.read(pieces(), wrappers={"messages", "records"}), 1):
        assert held <= number // 10 + 1
    assert number == 1000
