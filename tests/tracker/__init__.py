# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The tracker's rooms: pure ones alone, edges and conductors against real servers."""
