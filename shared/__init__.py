# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The contract and what both processes have in common."""

__version__ = "0.1.0"
