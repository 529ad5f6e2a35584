# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The local stack of tests, demo and benchmarks: real servers on 127.0.0.1, each an async context manager.

It imports nothing of relay, tracker and shared: the stack is the outside world.
"""
