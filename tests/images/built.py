# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both images, built once for all tests that start a process in the environment of its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.charts import chart
from tests.images import replay
from tests.stack import built_once

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from tests.images.replay import Image


def images(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Image]:
    """Return the image of each process; the first caller of a run builds them."""
    folder = built_once.folder(tmp_path_factory, "images", _build_all)
    return {process: replay.image(process, folder / process) for process in chart.PROCESSES}


def _build_all(folder: Path) -> None:
    replay.build_all(chart.PROCESSES, folder)
