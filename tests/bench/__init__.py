# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The benchmark: the services as console scripts, compared with the raw limit and a naive version in the same run."""
