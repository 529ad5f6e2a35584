# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The demo behind `make demo`: real emails sent, real SES events applied, the queries answered, everything checked."""
