# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`make test-postfix`: the relay delivers through a real Postfix. Not part of `make test`."""
