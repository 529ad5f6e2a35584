# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`make smtp-faults`: a relay whose mail server refuses, cuts, stalls and garbles at random, at every step."""
