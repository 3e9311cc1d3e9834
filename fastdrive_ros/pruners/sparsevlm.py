# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
SparseVLM (arXiv 2410.04417): tokens that the telling words attend to, in three steps.

    raters   text t with m_t > mean(m), m = mean over visual tokens of softmax_t(H_v H_t^T)
    score    mean attention of the raters to a token
    recycle  of the removed tokens the better 30 % are clustered and their means put back

The released code cuts after layers 2, 6 and 15 of 32, to token counts set by hand for 576 tokens
(576, 300, 200, 110: nearly a geometric series). Here the layers scale with the model's depth, the
counts are the geometric series from N to K, and what is put back counts as kept.
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.pruners.inside import top

LAYERS, OF_LAYERS = (2, 6, 15), 32
RECYCLED_SHARE = 0.3
_TOKENS_PER_CLUSTER = 10
_NEIGHBOURS = 5


class SparseVlm:
    """Three cuts, each with recycling."""

    def begin(self, num_kept: int, stamp_ns: int) -> None:
        """Begin a cycle."""
        self._num_kept = num_kept
        self._raters: np.ndarray | None = None

    def after(self, layer: Layer) -> Cut | None:
        """Cut where the schedule says so."""
        layers = pruned_layers(layer.num_layers)
        if layer.index not in layers or len(layer.visual_rows) <= self._num_kept:
            return None
        if self._raters is None:
            self._raters = raters(layer)
        step = layers.index(layer.index) + 1
        total = len(layer.embeddings)
        count = self._num_kept if step == len(layers) else max(self._num_kept, round(
            total * (self._num_kept / total)**(step / len(layers))))
        scores = layer.attention[np.ix_(self._raters, layer.visual_rows)].mean(axis=0)
        return _cut(layer, scores, count)


def pruned_layers(num_layers: int) -> list[int]:
    """Return after which layers to cut: those of 32, in proportion, each later than the last."""
    found: list[int] = []
    for wanted in LAYERS:
        scaled = round(wanted * num_layers / OF_LAYERS)
        found.append(max([scaled, *(layer + 1 for layer in found[-1:])]))
    return [layer for layer in found if layer < num_layers - 1]


def raters(layer: Layer) -> np.ndarray:
    """Return the rows of the telling words, among the text that sees every picture."""
    seeing = np.isin(layer.text_rows, layer.context_rows)
    likeness = layer.embeddings @ layer.text_embeddings[seeing].T               # (N, text)
    likeness = np.exp(likeness - likeness.max(axis=1, keepdims=True))
    telling = (likeness / likeness.sum(axis=1, keepdims=True)).mean(axis=0)     # m
    chosen = telling > telling.mean()
    rows = layer.text_rows[seeing]
    return rows[chosen] if chosen.any() else rows


def _cut(layer: Layer, scores: np.ndarray, count: int) -> Cut | None:
    available = len(scores)
    if count >= available:
        return None
    recycled = int(RECYCLED_SHARE * (available - count)) + 1
    clusters = recycled // _TOKENS_PER_CLUSTER + 1
    if clusters >= count:
        return Cut(top(scores, count))
    keep = top(scores, count - clusters)
    removed = np.setdiff1d(np.arange(available), keep)
    best = removed[top(scores[removed], recycled)]
    merged, centres = cluster(layer.hidden[layer.visual_rows[best]], clusters)
    return Cut(keep, merged, best[centres])


def cluster(tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Map (n, D) to means (count, D) and the places of their centres (count,), by density peaks.

    Density is exp(-mean squared distance to the nearest neighbours); a centre is dense and far
    from anything denser; the others join the nearest centre.
    """
    squares = (tokens**2).sum(axis=1)
    distances = np.sqrt(np.maximum(
        squares[:, None] + squares - 2.0 * tokens @ tokens.T, 0.0) / tokens.shape[1])
    near = np.sort(distances, axis=1)[:, 1:1 + _NEIGHBOURS]
    density = np.exp(-(near**2).mean(axis=1)) if near.size else np.ones(len(tokens))
    denser = density[None] > density[:, None]
    apart = np.where(denser, distances, np.inf).min(axis=1)
    apart = np.where(np.isinf(apart), distances.max(), apart)
    centres = top(density * apart, count)
    nearest = np.argmin(distances[:, centres], axis=1)
    nearest[centres] = np.arange(count)
    means = np.stack([tokens[nearest == i].mean(axis=0) for i in range(count)])
    return means.astype(np.float32), centres
