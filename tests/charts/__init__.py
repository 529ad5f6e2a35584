# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Tests of the two Helm charts: what they render is valid for Kubernetes and matches the code and the documentation."""
