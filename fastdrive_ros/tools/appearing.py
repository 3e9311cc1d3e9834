# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A result folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(out: Path, replace: bool = False) -> Iterator[Path]:
    """Give the path to make a folder at; it becomes ``out`` at the end, or vanishes on error."""
    staging = out.with_name(f'{out.name}.{os.getpid()}.partial')
    staging.mkdir(parents=True)
    try:
        yield staging / out.name
        if replace and out.exists():
            shutil.rmtree(out)
        (staging / out.name).rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
