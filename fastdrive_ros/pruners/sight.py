# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a pruner before the language model may look at, and what it must answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sight:
    """What the encoder saw; token order is camera-major, then row, then column."""

    tokens: np.ndarray
    """float32 (N, D)."""
    present: np.ndarray
    """bool (V,): False for a camera that gave no picture."""
    grid_height: int
    grid_width: int
    scores: np.ndarray | None = None
    """float32 (N,), those of the method's own graph (perception.py)."""
    attention: np.ndarray | None = None
    """float32 (N,): what a token's patches receive in the last full-attention vision block."""
    features: np.ndarray | None = None
    """float32 (N, C): encoder states before the merger, mean over a token's patches."""
    stamp_ns: int = 0

    @property
    def tokens_per_camera(self) -> int:
        """grid_height * grid_width."""
        return self.grid_height * self.grid_width

    @property
    def present_tokens(self) -> np.ndarray:
        """Which tokens are those of present cameras, bool (N,)."""
        return np.repeat(self.present, self.tokens_per_camera)


class TokenPruner(Protocol):
    """A method before the language model."""

    needs: frozenset[str]
    """Of {'scores', 'plan_scores', 'attention', 'features'}: what of a Sight must be there."""

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return int64 (num_kept,): distinct tokens of present cameras, best first."""


def best_first(scores: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` indices of ``among`` with the highest scores; ties to the lower."""
    among = np.sort(among)
    return among[np.argsort(-scores[among], kind='stable')[:count]]
