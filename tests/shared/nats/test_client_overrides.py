# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The names in nats-py that the client overrides or uses: they exist in the installed version, and are documented."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import parser

from shared.nats import client, prompt_client, transport

NOT_OF_NATS_PY = {"_replace"}  # a method of urllib's ParseResult
OWN = {  # names that nats-py does not have, or does not call
    "__init__",
    "_buffer",
    "_greet",
    "_has_lone_message",
    "_is_prompt",
    "_note_max_payload",
    "_own_max_payload",
    "_parse",
    "_protocol",
    "_read_ahead",
    "_unwritten",
    "_use",
    "_write_pending",
    "_write_promptly",
    "_writes_soon",
    "abort",
    "has_greeted",
    "take_unwritten",
}
WITHOUT_OVERRIDE = {"parser.MSG_RE", "parser.HMSG_RE", "parser.Parser", "_remove_sub"}


def functions(kind: type) -> dict[str, Any]:
    """Return the methods that a class defines itself."""
    defined = {name: getattr(member, "__func__", member) for name, member in vars(kind).items()}
    return {name: member for name, member in defined.items() if isinstance(member, FunctionType)}


def table() -> str:
    assert client.__doc__
    return client.__doc__.partition("======")[2]


def attributes_used() -> set[str]:
    tree = ast.parse("".join(map(inspect.getsource, (client, prompt_client, transport))))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    return {name for name in names if not name.startswith("__")}


OVERRIDDEN = [
    *(
        (Client, name, function)
        for kind in (client.ReconnectingClient, prompt_client.PromptClient)
        for name, function in functions(kind).items()
        if (name[0] == "_" or name == "publish") and name not in OWN
    ),
    *((TcpTransport, name, function) for name, function in functions(transport.Transport).items() if name not in OWN),
]


@pytest.mark.parametrize(("base", "name", "function"), OVERRIDDEN, ids=lambda it: it if isinstance(it, str) else "")
def test_each_overridden_method_exists_with_the_same_parameters(base: type, name: str, function: Any) -> None:
    theirs = getattr(base, name, None)
    assert theirs, f"nats-py has no {base.__name__}.{name} any more"
    parameters = list(inspect.signature(getattr(theirs, "__func__", theirs)).parameters.values())
    assert [(one.name, one.default) for one in inspect.signature(function).parameters.values()] == [
        (one.name, one.default) for one in parameters
    ]


async def test_each_private_attribute_that_is_used_exists() -> None:
    theirs = Client()
    known = {*dir(theirs), *dir(TcpTransport()), *dir(Subscription(theirs)), *dir(Srv)}
    assert attributes_used() - NOT_OF_NATS_PY - OWN <= known


def test_the_expressions_that_are_replaced_are_those_of_the_parser() -> None:
    source = inspect.getsource(parser.Parser)
    assert "MSG_RE.match" in source
    assert "HMSG_RE.match" in source


def test_the_table_has_each_override() -> None:
    listed = set(re.findall(r"^(\S+)", table(), re.MULTILINE)) - {"Overridden"}
    methods = {name if base is Client else f"Transport.{name}" for base, name, _ in OVERRIDDEN}
    assert {name for name in listed if not name.startswith("=")} == {
        *methods,
        *WITHOUT_OVERRIDE,
    }


def test_the_tests_in_the_table_exist() -> None:
    existing = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"test_\w+", table())
    assert [name for name in named if f"def {name}(" not in existing] == []
