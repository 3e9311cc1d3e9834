# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a pruner inside the language model may look at between two layers, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Layer:
    """What a language layer did; S rows: text, visual, ego, queries."""

    index: int
    num_layers: int
    hidden: np.ndarray
    """float32 (S, D), after the layer."""
    attention: np.ndarray
    """float32 (S, S), mean over heads; row = who looks, column = at what."""
    visual_rows: np.ndarray
    """int64 (K,): rows of the visual tokens that are still there."""
    visual_indices: np.ndarray
    """int64 (K,): which of the N tokens they are."""
    text_rows: np.ndarray
    ego_rows: np.ndarray
    query_rows: np.ndarray
    embeddings: np.ndarray
    """float32 (N, D): visual tokens at the language model's input."""
    text_embeddings: np.ndarray
    """float32 (len(text_rows), D): text at the language model's input."""

    @property
    def context_rows(self) -> np.ndarray:
        """
        Rows of text, ego and queries that see every visual token.

        Attention is causal, and text stands between the pictures: a word before a picture pays
        it no attention, whatever there is to see.
        """
        rows = np.concatenate([self.text_rows, self.ego_rows, self.query_rows])
        return rows[(self.attention[np.ix_(rows, self.visual_rows)] > 0.0).all(axis=1)]


@dataclass(frozen=True)
class Cut:
    """Which visual rows go on, and rows made of those that do not."""

    keep: np.ndarray
    """int64, ascending, into Layer.visual_rows."""
    merged: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """float32 (M, D): hidden rows that stand for several removed ones."""
    merged_places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """int64 (M,), into Layer.visual_rows: whose position each of them takes."""


class InsidePruner(Protocol):
    """A method inside the language model; one instance sees every cycle of a drive."""

    def begin(self, num_kept: int, stamp_ns: int) -> None:
        """Begin a cycle that is to end with ``num_kept`` visual rows."""

    def after(self, layer: Layer) -> Cut | None:
        """Return what to cut after a layer; None to go on with everything."""


def top(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the highest scores, ascending; ties to the lower place."""
    return np.sort(np.argsort(-scores, kind='stable')[:count])
