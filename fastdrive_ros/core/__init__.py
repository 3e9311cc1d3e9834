# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Numpy-only data flow: sync, preprocess, keep counts, ego state, trajectory, latency."""
