# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""NATS KV: buckets, their streams, JetStream on the wire."""
