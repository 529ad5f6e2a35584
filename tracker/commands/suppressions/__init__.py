# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`lfx-email-tracker suppressions`: manages the suppression list."""
