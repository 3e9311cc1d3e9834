# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulator's models and textures: fetched once, checked, laid out for the simulator."""

from __future__ import annotations


class SimError(Exception):
    """The simulator cannot run here; the message says what was found and what mends it."""
