# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The AWS policies of docs/security.md allow the calls of the code, and no others."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, Final

import botocore.loaders
from botocore import xform_name

from tests.acceptance.permissions import PAGE

ROOT: Final = Path(__file__).parents[2]
POLICY: Final = re.compile(r"^### ([^\n]+)\n(?:(?!^###).)*?^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_policy_of_the_tracker_allows_the_calls_of_its_source_and_no_others() -> None:
    model = botocore.loaders.Loader().load_service_model("sqs", "service-2")
    operations = {xform_name(operation): operation for operation in model["operations"]}
    called = {
        operations[node.value].removesuffix("Batch")
        for path in (ROOT / "tracker").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in operations
    }
    queue, dead_letters = policies()["The tracker"]["Statement"]
    assert sorted(queue["Action"]) == sorted(f"sqs:{one}" for one in called)
    assert dead_letters["Action"] in queue["Action"]


def test_each_policy_names_its_actions_and_resources() -> None:
    allowed = {title: policy["Statement"] for title, policy in policies().items()}
    assert list(allowed) == ["The tracker", "The SMTP user", "The queue", "The topic"]
    for title, statement in [(title, one) for title, statements in allowed.items() for one in statements]:
        assert "*" not in str(statement["Action"]) + str(statement["Resource"])
        assert ("Condition" in statement) == (title != "The tracker")
    assert allowed["The SMTP user"][0]["Action"] == "ses:SendRawEmail"
    assert list(allowed["The SMTP user"][0]["Condition"]["StringLike"]) == ["ses:FromAddress"]


def policies() -> dict[str, dict[str, Any]]:
    """Return each policy of the page under its heading."""
    found = POLICY.findall(PAGE.read_text())
    return {title: json.loads(policy) for title, policy in found}
