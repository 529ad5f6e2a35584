# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The commands `lfx-email-tracker suppressions …`, which manage the suppression list."""
