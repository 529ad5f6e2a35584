# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`lfx-email-relay send --csv`: one email to each row of a file."""
