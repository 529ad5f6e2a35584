# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`make faults`: both processes under load while single messages between them and NATS are lost, late or changed."""
