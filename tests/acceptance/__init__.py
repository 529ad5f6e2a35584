# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both services as their users have them: started by their console scripts, asked over NATS, with real servers around.

Nothing here may import relay, tracker or shared: what a caller or the Go service relies on is written out.
"""
