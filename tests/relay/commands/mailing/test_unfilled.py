# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Whatever recipients would see instead of a value is found, and the braces of CSS and JavaScript are not."""

from __future__ import annotations

from typing import Final

import pytest

from relay.commands.mailing.placeholders import HTML, PLAIN, URL, Columns, Syntax
from relay.commands.mailing.unfilled import Finder

FINDER: Final = Finder(Columns(["to", "name", "First Name", "姓名", "color", "amount", "date", "x", "1"]), {"amount"})


def found(template: str, syntax: Syntax = PLAIN) -> list[str]:
    return FINDER.problems("body", template, syntax)


NAME: Final = """
{{{name}}}   { {name} }   {{name}   {name}}   {{{{name}}}}   {{.name}}   {{ row.name.first }}   {{ row.name}}
{$name}   {@name}   {:name}   {-name-}   {%name%}   {% name %}   {"name"}   {[name]}   {name   {name]   name}
{name|title}   {name:>10}   {name!r}   ${name}   ${row.name}   #{name}   %{name}   $name   $$name   $name$   $row.name
%name%   %%name%%   %name   %(name)s   %recipient.name%   %7Bname%7D   %7B%7B%20name%20%7D%7D
[name]   [[name]]   [[ Name ]]   [$name]   [%name%]   [% name %]   [[data:name:"friend"]]   [name]: hello
<name>   <<name>>   <%= name %>   <%=name%>   <%= row.name %>   <?= $name ?>   \u00abname\u00bb   \u3010name\u3011
*|NAME|*   *|TITLE:NAME|*   ((name))   #name#   @name@   @name   :name:   :name   -name-   ~name~   ^name^   !name!
__name__   \uff5bname\uff5d   \uff3bname\uff3d   %na\u200bme%
"""


@pytest.mark.parametrize("form", [form.strip() for line in NAME.splitlines() for form in line.split("   ") if form])
@pytest.mark.parametrize("syntax", [PLAIN, HTML])
def test_an_other_form_of_a_placeholder_is_found(form: str, syntax: Syntax) -> None:
    (problem,) = found(f"Dear {form}, hello", syntax)
    assert "is not filled in: write {name}, or rename" in problem or "there is no such column" in problem


@pytest.mark.parametrize(
    "form",
    ["%First Name%", "$First_Name", "{FirstName}", "{first-name}", "{{First.Name}}", "<<First  Name>>", "[FIRST NAME]"],
)
@pytest.mark.parametrize("syntax", [PLAIN, HTML])
def test_words_may_be_joined_in_any_way(form: str, syntax: Syntax) -> None:
    assert any("{First Name}" in problem for problem in found(f"Dear {form},", syntax))


@pytest.mark.parametrize(
    "markup",
    [
        "&#123;name&#125;",
        "&lbrace;name&rbrace;",
        "{<b>name</b>}",
        "{{<span>First</span> <i>Name</i>}}",
        "&lt;&lt;name&gt;&gt;",
        "&laquo;name&raquo;",
        "%<b>name</b>%",
        "<a href='https://b.org/?n=%7Bname%7D'>",
        "<p>Dear <Name>,</p>",
        "{na<wbr>me}",
        "[[&nbsp;姓名&nbsp;]]",
    ],
)
def test_a_placeholder_that_html_hides_is_found(markup: str) -> None:
    assert found(markup, HTML)


@pytest.mark.parametrize(
    "markup",
    [
        "<style>p {color: red} @media print{a{color:red}} .x{ } @keyframes k { to {color: blue} }</style>",
        "<style>.a{color:{color}}</style>",
        "<script>const a = {name: 1, b: {}}, c = `${name}`, d = [name]; if (a) { name }</script>",
        '<script type="application/ld+json">{"name": "x", "to": {"name": {}}}</script>',
        "<!--[if mso]><style>p {color: red}</style><![endif]-->",
        "<name>{name}</name> {{}} {} { } {{ {a: b} }}",
        "<table><col><tr><td>[x] [1] $1</td></tr></table>",
        "${amount} #{amount} @{name} ({name}) [{name}] &lt;{to}&gt; {amount}%",
        "<a href='#name'>[name](https://b.org)</a> to@name.org https://b.org/@name?color=%da",
        "my name: color, and name_color, color-name; name@b.org; *name* _name_ 'name' | name |",
    ],
)
def test_what_only_looks_similar_is_legal_in_html(markup: str) -> None:
    assert found(markup, HTML) == []


def test_a_name_without_a_column_is_found_in_text_and_in_html_if_it_is_one_word_or_similar() -> None:
    for template in ("{nam}", "{{nam}}", "{ nam }"):
        for syntax in (PLAIN, HTML, URL):
            assert found(template, syntax) == ["{nam} is used, but there is no such column; did you mean {name}?"]
    assert found("{Last Name of all}") == ["{Last Name of all} is used, but there is no such column"]
    assert found("{Fist Name}", HTML) == [
        "{Fist Name} is used, but there is no such column; did you mean {First Name}?"
    ]
    assert found("{see below, and more} {color: red}", HTML) == []
    assert found("{unknown}", HTML) == found("<style>{unknown}</style>", HTML)
    assert found("<script>{ unknown }</script>", HTML) == []
