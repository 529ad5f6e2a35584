# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`make chaos`: a three-node NATS cluster, two relays and two trackers under load while they are killed at random."""
