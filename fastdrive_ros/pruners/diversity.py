# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tokens as unlike each other as can be: greedy max-min distance on 1 - cosine."""

from __future__ import annotations

import numpy as np


def cosine_distances(tokens: np.ndarray) -> np.ndarray:
    """Map (M, D) to float32 (M, M): 1 - cos; a zero token is at distance 1 from all others."""
    norms = np.linalg.norm(tokens, axis=1, keepdims=True)
    unit = tokens / np.maximum(norms, 1e-12)
    distances = 1.0 - unit @ unit.T
    np.fill_diagonal(distances, 0.0)
    return np.maximum(distances, 0.0)


def farthest_points(distances: np.ndarray, count: int) -> np.ndarray:
    """
    Return int64 (count,) of M points in the order in which they are chosen.

    First the one whose nearest neighbour is farthest, then again and again the one farthest from
    all that are chosen; ties to the lower index. O(M count) after the matrix.
    """
    others = distances + np.where(np.eye(len(distances), dtype=bool), np.inf, 0.0)
    first = int(np.argmax(others.min(axis=1)))
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = first
    nearest = distances[first].copy()
    nearest[first] = -1.0  # never again, even among equal tokens
    for i in range(1, count):
        chosen[i] = np.argmax(nearest)
        np.minimum(nearest, distances[chosen[i]], out=nearest)
        nearest[chosen[i]] = -1.0
    return chosen
