# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Answers send_email, delivers over SMTP, writes the first tracking records."""
