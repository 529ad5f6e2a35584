# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies the engagement events of SES to the records, and answers status and analytics queries."""
