# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The two images, built and started without an engine: the steps of each Dockerfile are replayed in an empty folder."""
