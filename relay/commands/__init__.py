# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The relay's commands for operators. `serve` uses none of them."""
