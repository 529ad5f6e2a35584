# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the commands of both processes have in common; `serve` needs none of it but the group they are in."""
