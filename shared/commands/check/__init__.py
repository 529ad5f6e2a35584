# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `check` of both processes has in common: running checks, NATS, buckets, the report."""
