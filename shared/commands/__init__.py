# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Common parts of the commands of both processes. `serve` uses only `group`."""
