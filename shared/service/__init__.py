# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What a process needs to live: settings, log, signals, probes, tasks."""
