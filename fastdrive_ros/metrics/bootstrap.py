# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Sums of each scene -> a ratio with a 95 % interval, and how two ratios differ.

Frames of one scene resemble each other, so whole scenes are drawn, with replacement: percentile
bootstrap over scenes. All ratios are of the same draws, which pairs them scene by scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 0
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies with 95 % confidence; NaN where there is nothing to divide."""

    value: float
    low: float
    high: float


class Resampling:
    """The draws: how often each of S scenes is in each of the resamples."""

    def __init__(self, num_scenes: int) -> None:
        """Draw, the same for the same number of scenes."""
        drawn = np.random.default_rng(SEED).integers(num_scenes, size=(RESAMPLES, num_scenes))
        if num_scenes < 2:
            drawn = drawn[:0]  # one scene says nothing about others: no interval
        self._counts = np.stack([(drawn == scene).sum(axis=1) for scene in range(num_scenes)],
                                axis=1)                                 # (RESAMPLES, S)

    def ratio(self, sums: np.ndarray) -> Interval:
        """Return sum / sum of (S, 2): numerators and denominators."""
        return _interval(_divide(sums.sum(axis=0)), _divide(self._counts @ sums))

    def difference(self, sums: np.ndarray, base: np.ndarray) -> Interval:
        """Return by how much the ratio of (S, 2) is above the base's."""
        return _interval(
            _divide(sums.sum(axis=0)) - _divide(base.sum(axis=0)),
            _divide(self._counts @ sums) - _divide(self._counts @ base))

    def relative(self, sums: np.ndarray, base: np.ndarray) -> Interval:
        """Return by which share of the base's ratio that of (S, 2) is above it."""
        return _interval(
            _relative(_divide(sums.sum(axis=0)), _divide(base.sum(axis=0))),
            _relative(_divide(self._counts @ sums), _divide(self._counts @ base)))


def _divide(sums: np.ndarray) -> np.ndarray:
    """Return numerator / denominator of (..., 2); NaN where the denominator is 0."""
    return _quotient(sums[..., 0], sums[..., 1])


def _relative(ratio: np.ndarray, base: np.ndarray) -> np.ndarray:
    return _quotient(ratio, base) - 1.0


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    b = np.asarray(b, dtype=np.float64)
    return np.divide(a, b, out=np.full_like(b, np.nan), where=b != 0.0)


def _interval(value: np.ndarray, resampled: np.ndarray) -> Interval:
    """Return the percentiles of the resamples in which the figure exists."""
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled, _QUANTILES) if resampled.size else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))
