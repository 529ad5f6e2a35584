# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Objects that each feature adds to a release, or changes in it.

`python -m tests.charts.snapshots` writes them into the snapshots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml

from shared import __version__
from tests.charts import chart, features

if TYPE_CHECKING:
    from pathlib import Path

FOLDER: Final = chart.ROOT / "tests" / "charts" / "snapshots"
HEADER: Final = """\
# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
# Written by `python -m tests.charts.snapshots`.
"""


def file(process: str, case: str) -> Path:
    """Return the path of the snapshot of a case."""
    return FOLDER / f"{process}-{case}.yaml"


def take(process: str, case: str) -> str:
    """Return all objects of the default case, and those of another case that differ from it."""
    default = chart.render(process)
    objects = chart.render(process, features.CASES[process][case])
    shown = objects if case == "default" else [one for one in objects if one not in default]
    gone = [one for one in default if not any(_name(one) == _name(other) for other in objects)]
    text = (
        yaml.dump_all(
            map(_without_dashboard, shown), Dumper=yaml.CSafeDumper, sort_keys=False, width=120, allow_unicode=True
        )
        if shown
        else ""
    )
    without = "".join(f"# Without: {kind} {name}\n" for kind, name in map(_name, gone))
    return HEADER + without + "---\n" + text.replace(__version__, "VERSION")


def _without_dashboard(one: chart.Object) -> chart.Object:
    """Leave out the dashboard; test_monitoring.py compares it with dashboard.json."""
    return one | {"data": dict.fromkeys(one["data"], "…")} if one["kind"] == "ConfigMap" else one


def _name(one: chart.Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def main() -> None:
    """Write all snapshots."""
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for process, case in features.ALL:
        file(process, case).write_text(take(process, case))


if __name__ == "__main__":
    main()
