# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The benchmark: the whole service by its console scripts, beside the raw limit and the naive way, in one run."""
