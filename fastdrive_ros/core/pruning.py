# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
How many tokens to keep, and where the kept ones lie: indices (K,) -> bool (gh, gw) per camera.

Token order is the bundle's: camera-major, then row, then column, so token i belongs to camera
i // (grid_height * grid_width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Far above the rounding of a product (0.29 * 100 = 28.999999999999996, also for a ratio that was
# once float32), far below one token.
_ROUNDING = 1e-5


def num_kept(keep_ratio: float, tokens_present: int, tokens_encoded: int | None = None) -> int:
    """
    Return K = floor(keep_ratio * tokens_present), at least 1 (FastDriveVLA, eq. 9).

    ``tokens_present`` counts the tokens of the cameras that came, also those that an encoder with
    early pruning drops: a ratio means the same K whatever the encoder does. ``tokens_encoded`` is
    how many of them survive there, and the most that can be kept (None: all). Raises ValueError
    for a ratio outside (0, 1] or when no token is present.
    """
    if not 0.0 < keep_ratio <= 1.0:
        raise ValueError(f'keep_ratio must lie in (0, 1], got {keep_ratio}')
    if tokens_present < 1:
        raise ValueError(f'pruning needs at least one token, got {tokens_present}: '
                         'is any camera present?')
    wanted = max(1, math.floor(keep_ratio * tokens_present + _ROUNDING))
    return wanted if tokens_encoded is None else min(wanted, tokens_encoded)


def kept_mask(kept_indices: np.ndarray, cameras: Sequence[str], grid_height: int,
              grid_width: int) -> dict[str, np.ndarray]:
    """
    Return for each camera a bool (grid_height, grid_width): True where the token was kept.

    Raises ValueError when an index lies outside the grids of all cameras.
    """
    num_tokens = len(cameras) * grid_height * grid_width
    _check_range(kept_indices, num_tokens)
    mask = np.zeros(num_tokens, dtype=bool)
    mask[kept_indices] = True
    grids = mask.reshape(len(cameras), grid_height, grid_width)
    return dict(zip(cameras, grids))


def kept_per_camera(kept_indices: np.ndarray, cameras: Sequence[str],
                    tokens_per_camera: int) -> dict[str, int]:
    """Return how many tokens of each camera were kept; the values add up to K."""
    _check_range(kept_indices, len(cameras) * tokens_per_camera)
    counts = np.bincount(kept_indices // tokens_per_camera, minlength=len(cameras))
    return {camera: int(count) for camera, count in zip(cameras, counts)}


def _check_range(kept_indices: np.ndarray, num_tokens: int) -> None:
    """Refuse indices that no camera owns."""
    if kept_indices.size and not 0 <= kept_indices.min() <= kept_indices.max() < num_tokens:
        raise ValueError(f'kept indices must lie in 0..{num_tokens - 1}, found '
                         f'{kept_indices.min()}..{kept_indices.max()}: do the indices and the '
                         'grid come from the same bundle?')
