# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The path of an event: SQS, SES event, record, push event."""
