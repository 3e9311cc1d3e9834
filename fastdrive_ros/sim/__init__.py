# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulator as a sensor rig: six cameras, masks, an expert, traffic that obeys lights."""
