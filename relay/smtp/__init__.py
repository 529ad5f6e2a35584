# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery over SMTP: retries, pool of connections, one connection, its commands and replies."""
