# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Drives as training data: records, shards, nuScenes, foreground masks, bags."""
