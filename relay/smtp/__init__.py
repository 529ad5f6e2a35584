# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery over SMTP: attempts and retries, the connection pool, connections, commands and replies."""
