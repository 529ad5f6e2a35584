# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Tests mirror the source; `stack` holds the real servers they run against."""
