# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Render a chart with Helm's own engine, as `helm template` does."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import helm_python
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
PROCESSES: Final = ("relay", "tracker")
NAMESPACE: Final = "lfx"

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object."""

Refused: Final = (helm_python.HelmValuesError, helm_python.HelmRenderError)
"""Errors that `helm install` would show."""


def path(process: str) -> Path:
    """Return the chart's folder."""
    return ROOT / "charts" / f"lfx-v2-email-{process}"


@functools.cache
def load(process: str) -> helm_python.Chart:
    """Return the chart."""
    return helm_python.Chart.load(path(process))


def values(process: str) -> dict[str, Any]:
    """Return the default values of the chart."""
    return read(path(process) / "values.yaml")


def schema(process: str) -> dict[str, Any]:
    """Return the schema of the values."""
    found: dict[str, Any] = json.loads((path(process) / "values.schema.json").read_text())
    return found


def read(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def texts(process: str, given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the text of each template of a release with these values.

    Raises:
        Refused: the schema or a template does not accept them.
    """
    return _texts(process, json.dumps(given or {}))


def render(process: str, given: Mapping[str, Any] | None = None) -> list[Object]:
    """Return all objects of a release with these values.

    Raises:
        Refused: the schema or a template does not accept them.
    """
    return [
        document
        for name, text in sorted(texts(process, given).items())
        if not name.endswith("NOTES.txt")
        for document in yaml.load_all(text, Loader=yaml.CSafeLoader)
        if document
    ]


def notes(process: str, given: Mapping[str, Any] | None = None) -> str:
    """Return the notes that `helm install` prints."""
    return texts(process, given)[f"lfx-v2-email-{process}/templates/NOTES.txt"]


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Return the objects of one kind."""
    return [found for found in objects if found["kind"] == kind]


def pod(objects: Sequence[Object]) -> Object:
    """Return the specification of the pods."""
    (deployment,) = of_kind(objects, "Deployment")
    found: Object = deployment["spec"]["template"]["spec"]
    return found


def container(objects: Sequence[Object]) -> Object:
    """Return the only container of the pods."""
    (only,) = pod(objects)["containers"]
    found: Object = only
    return found


def variables(objects: Sequence[Object]) -> dict[str, Object]:
    """Return the variables of the container by their names."""
    return {variable["name"]: variable for variable in container(objects)["env"]}


def secret_keys(objects: Sequence[Object]) -> set[tuple[str, str, bool]]:
    """Return Secret, key and whether the pod starts without it, for each variable from a Secret."""
    sources = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in container(objects)["env"]]
    return {(one["name"], one["key"], one.get("optional", False)) for one in sources if one}


@functools.cache
def _texts(process: str, given: str) -> dict[str, str]:
    return load(process).render(json.loads(given), name=f"lfx-v2-email-{process}", namespace=NAMESPACE)
