# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`lfx-email-tracker replay`: applies saved messages."""
