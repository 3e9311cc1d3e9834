# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The only room that imports rclpy: node, parameters, message conversion, diagnostics."""
