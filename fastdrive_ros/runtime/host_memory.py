# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How much memory the host has left."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int:
    """Return what can be had without swapping: MemAvailable of /proc/meminfo."""
    lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith('MemAvailable'))
