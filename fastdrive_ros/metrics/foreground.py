# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Class masks and kept tokens -> how much of the foreground a pruner kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOREGROUND_SHARE = 0.5
"""A token is a foreground token where at least this share of its pixels is. Ours: FastDriveVLA
states no rule."""


@dataclass(frozen=True)
class TokenShares:
    """How much of each token's area is what, float64 (N,) in 0..1; absent cameras are 0."""

    foreground: np.ndarray
    things: np.ndarray
    """Foreground that is no road: road users, signs, lights, obstacles."""

    def totals(self) -> dict[str, float]:
        """Return what there is to keep, in tokens' areas and in foreground tokens."""
        return self.kept(np.arange(len(self.foreground)))

    def kept(self, indices: np.ndarray) -> dict[str, float]:
        """Return what the tokens of ``indices`` hold of it."""
        foreground = self.foreground[indices]
        return {'foreground': float(foreground.sum()),
                'things': float(self.things[indices].sum()),
                'foreground_tokens': float((foreground >= FOREGROUND_SHARE).sum())}


def area_shares(mask: np.ndarray, grid_height: int, grid_width: int) -> np.ndarray:
    """
    Return float64 (grid_height * grid_width,): the mean of a mask (H, W) over each token's area.

    The picture is stretched to the grid, so that a pixel on a border counts in part for both.
    """
    height, width = mask.shape
    shares = (_overlaps(grid_height, height) @ mask.astype(np.float64)
              @ _overlaps(grid_width, width).T)
    return shares.reshape(-1).round(9)  # a half is a half, whatever the sum rounded to


def _overlaps(cells: int, pixels: int) -> np.ndarray:
    """Return (cells, pixels): which share of a cell's length each pixel covers."""
    edges = np.arange(cells + 1) * (pixels / cells)
    first = np.arange(pixels)
    covered = (np.minimum(edges[1:, None], first + 1) - np.maximum(edges[:-1, None], first))
    return np.maximum(covered, 0.0) * (cells / pixels)
