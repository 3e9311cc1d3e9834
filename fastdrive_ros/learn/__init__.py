# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Torch, offline only: ReconPruner, the planner head, and their export to ONNX."""
