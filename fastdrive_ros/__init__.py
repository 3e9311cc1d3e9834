# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""FastDriveVLA on a vehicle: six cameras in, a pruned VLA plan out."""

__version__ = '0.1.0'
