# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a pruner before the language model may look at, and what it must answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastdrive_ros.core.pruning import num_kept


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
    encoded: np.ndarray | None = None
    """bool (N,): tokens that an early-pruned encoder did not drop; None: it drops none."""

    @property
    def tokens_per_camera(self) -> int:
        """grid_height * grid_width."""
        return self.grid_height * self.grid_width

    @property
    def present_tokens(self) -> np.ndarray:
        """Which tokens are there: of present cameras and not dropped early, bool (N,)."""
        of_cameras = np.repeat(self.present, self.tokens_per_camera)
        return of_cameras if self.encoded is None else of_cameras & self.encoded

    def budget(self, keep_ratio: float) -> int:
        """Return K for this frame (core.pruning.num_kept)."""
        return num_kept(keep_ratio, self.num_tokens, int(self.present_tokens.sum()))

    @property
    def num_tokens(self) -> int:
        """Tokens of the present cameras, also those dropped early: what a keep ratio is of."""
        return int(self.present.sum()) * self.tokens_per_camera


class TokenPruner(Protocol):
    """A method before the language model."""

    needs: frozenset[str]
    """Of {'scores', 'plan_scores', 'attention', 'features'}: what of a Sight must be there."""

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return int64 (num_kept,): distinct ones of ``present_tokens``, best first."""


def best_first(scores: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` indices of ``among`` with the highest scores; ties to the lower."""
    among = np.sort(among)
    return among[np.argsort(-scores[among], kind='stable')[:count]]
