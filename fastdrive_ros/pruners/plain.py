# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Methods without a thought, to compare with: every token, by chance, evenly spaced."""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.sight import Sight

_NOTHING: frozenset[str] = frozenset()


class KeepAll:
    """No pruning: every present token, whatever the budget."""

    needs = _NOTHING

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return all present tokens."""
        return np.flatnonzero(sight.present_tokens)


class Random:
    """By chance; a recording replayed gives the same tokens again."""

    needs = _NOTHING

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return present tokens drawn with the stamp as the seed."""
        drawn = np.random.default_rng(sight.stamp_ns)
        return drawn.permutation(np.flatnonzero(sight.present_tokens))[:num_kept]


class Uniform:
    """Evenly spaced along the rows of all present pictures."""

    needs = _NOTHING

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return the middle token of each of ``num_kept`` equal stretches."""
        tokens = np.flatnonzero(sight.present_tokens)
        return tokens[((2 * np.arange(num_kept) + 1) * len(tokens)) // (2 * num_kept)]
