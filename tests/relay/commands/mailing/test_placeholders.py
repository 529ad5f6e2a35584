# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A placeholder is a column's name in one or two pairs of braces."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.commands.mailing.placeholders import HTML, PLAIN, URL, Columns, Syntax

VALUES: Final = {
    "name": "Ada",
    "First Name": "B & C",
    "姓名": "李",
    "e-mail": "a@b.org",
    "R&D": "x",
    "Prénom": "É",
    "1": "i",
}


def fill(template: str, syntax: Syntax = PLAIN) -> str:
    return Columns(list(VALUES)).fill(template, VALUES, syntax)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{name} {Name} { NAME } {{name}} {{ name }} {\ufeffname}", "Ada Ada Ada Ada Ada Ada"),
        ("{First Name} {{ first  name }} {FIRST\nNAME} {First\u00a0Name}", "B & C B & C B & C B & C"),
        ("{姓名}{{姓名}} {e-mail} {R&D}", "李李 a@b.org x"),
        ("{Pre\u0301nom} {na\u200bme}", "É Ada"),
        ("{color: red} {} {{}} {{ {x} }} {First_Name} {nam}", "{color: red} {} {{}} {{ {x} }} {First_Name} {nam}"),
        ("@media{p{color:{name}}}", "@media{p{color:Ada}}"),
    ],
)
def test_a_column_in_braces_is_filled_and_other_braces_are_unchanged(template: str, filled: str) -> None:
    assert fill(template) == filled


def test_names_are_read_and_values_are_written_as_the_text_has_them() -> None:
    assert fill("<p>{First&nbsp;Name} {R&amp;D} {&#22995;名}</p>", HTML) == "<p>B &amp; C x 李</p>"
    assert fill("https://b.org/?n={First%20Name}&e={e-mail}", URL) == "https://b.org/?n=B%20%26%20C&e=a%40b.org"


@given(st.text(), st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.text(max_size=5)))
def test_values_are_not_filled_again(template: str, values: dict[str, str]) -> None:
    columns = Columns(list(values))
    assert Columns([]).fill(template, {}) == template
    for name, value in values.items():
        assert columns.fill(f"{{{name}}}|{{{{ {name} }}}}|{{{name}", values) == f"{value}|{value}|{{{name}"
