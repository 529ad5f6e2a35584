# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the relay stores in NATS KV: records, group index, idempotency keys."""
