# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The two Helm charts: what they render, and that it fits Kubernetes, the code and the words about them."""
