# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both processes under load, and what must hold in the end: the common parts of `make chaos` and `make faults`."""
