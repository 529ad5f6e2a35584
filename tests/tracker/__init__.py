# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Tests of the tracker: pure modules alone, the others against real servers."""
