# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both services as in production: started by their console scripts, called over NATS, with real servers.

Subjects, errors and records are written out here, not imported: callers and the Go service depend on these values.
"""
