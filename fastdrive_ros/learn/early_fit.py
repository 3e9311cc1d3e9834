# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A checkpoint and frames with masks -> the weights of early pruning, and how well each score sorts.

A score is judged by the foreground pixels in the windows it keeps. Beside the fitted one stand
scores that need no fit (the states' length, their distance from the camera's mean), chance, and
two that know no picture or know everything: the mean of each window's place, and the truth.

What was run: a CPU. What was not: the encoder on a GPU, which is taken where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastdrive_ros.core.classes import foreground
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.checkpoint import open_checkpoint
from fastdrive_ros.learn.checkpoint import read_normalisation
from fastdrive_ros.learn.checkpoint import require_whole_tokens
from fastdrive_ros.learn.early_pruning import windows_to_keep
from fastdrive_ros.learn.early_score import RidgeFit
from fastdrive_ros.learn.early_score import window_means
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.selection import foreground_share
from fastdrive_ros.learn.vision import FixedGridVision

SHARES = 0.75, 0.5, 0.25


@dataclass(frozen=True)
class FitRequest:
    """What `fastdrive train early` was asked for."""

    checkpoint: Path
    data: Path
    cameras: tuple[str, ...]
    height: int
    width: int
    blocks: tuple[int, ...] | None
    """After which blocks; None: after each of the first eight that another one follows."""
    frames: int
    """Of the train split, evenly spaced; half as many of val judge."""


@dataclass(frozen=True)
class Fit:
    """Weights, and the share of the foreground under the windows that each score keeps."""

    weights: dict[int, torch.Tensor]
    recall: dict[str, list[float]]
    """Score -> recall at each of SHARES, on the val split."""
    encoded: list[float]
    """Share of the tokens that goes on at each of SHARES: whole windows, so it is less."""
    num_train: int
    """Frames."""
    num_val: int


def fit_early_score(request: FitRequest, progress: Callable[[int, str], None]) -> Fit:
    """Fit on train, judge on val; raises DataError or ExportError where that cannot be."""
    vision = _open_vision(request)
    blocks = _blocks(request, len(vision.blocks))
    train, val = (_samples(request, split) for split in ('train', 'val'))
    places = _spaced(train, request.frames), _spaced(val, max(1, request.frames // 2))
    fits = {block: RidgeFit(vision.patch_weight.shape[0]) for block in blocks}
    place_sum = torch.zeros(())
    for done, (means, shares, present) in enumerate(_windows(vision, train, places[0], blocks)):
        progress(done, 'train')
        place_sum = place_sum + shares                                  # (V, windows)
        for block, fit in fits.items():
            fit.add(means[block][present].flatten(0, 1), shares[present].flatten())
    weights = {block: fit.weight() for block, fit in fits.items()}
    judge = _Judge(vision)
    for done, (means, shares, present) in enumerate(_windows(vision, val, places[1], blocks)):
        progress(len(places[0]) + done, 'val')
        scores = {'truth': shares, 'place': place_sum, 'chance': None}
        for block, states in means.items():
            mean = states.mean(1, keepdim=True)
            scores[f'block {block}: fitted'] = states @ weights[block]
            scores[f'block {block}: small length'] = -states.norm(dim=2)
            scores[f'block {block}: far from the mean'] = (states - mean).norm(dim=2)
        judge.add(scores, shares, present)
    return Fit(weights, judge.recall(), judge.encoded(), len(places[0]), len(places[1]))


def _open_vision(request: FitRequest) -> FixedGridVision:
    model, _ = open_checkpoint(request.checkpoint)
    config = model.config.vision_config
    require_whole_tokens(request.height, request.width,
                         config.patch_size * config.spatial_merge_size)
    vision = FixedGridVision(model.model.visual, len(request.cameras), request.height,
                             request.width, read_normalisation(request.checkpoint))
    return vision.eval().to('cuda' if torch.cuda.is_available() else 'cpu')


def _blocks(request: FitRequest, depth: int) -> tuple[int, ...]:
    blocks = request.blocks or tuple(range(min(8, depth - 1)))
    wrong = [block for block in blocks if not 0 <= block < depth - 1]
    if wrong or not blocks:
        raise DataError(f'--blocks {" ".join(map(str, wrong))}: this vision tower has {depth} '
                        f'blocks, windows can leave after 0..{depth - 2}')
    return tuple(sorted(set(blocks)))


def _samples(request: FitRequest, split: str) -> FrameSamples:
    samples = FrameSamples(request.data, split,
                           SampleShape(request.cameras, request.height, request.width))
    samples.require_masks()
    return samples


def _spaced(samples: FrameSamples, count: int) -> list[int]:
    return np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int).tolist()


def _windows(
    vision: FixedGridVision, samples: FrameSamples, places: Sequence[int], blocks: Sequence[int]
) -> Iterator[tuple[dict[int, torch.Tensor], torch.Tensor, torch.Tensor]]:
    """Yield of each frame: block -> means [V, windows, C], foreground [V, windows], present."""
    is_foreground = torch.from_numpy(foreground(np.arange(256, dtype=np.uint8)))
    patches = len(vision.patch_order) // len(vision.token_rank)
    order = torch.argsort(vision.token_rank).cpu()
    for place in places:
        row = samples[place]
        share = foreground_share(is_foreground[row['classes'].int()][None], len(order))[0]
        per_patch = share[:, order].repeat_interleave(patches, dim=1)[..., None]
        with torch.inference_mode():
            images = row['images'].to(vision.patch_weight.device)
            hidden = vision.embed(images, vision.patch_weight, vision.patch_bias)
            means = {}
            for block in range(max(blocks) + 1):
                hidden = vision.block(block, hidden)
                if block in blocks:
                    means[block] = window_means(hidden.float(), vision.windows).cpu()
        yield means, window_means(per_patch, vision.windows).squeeze(2), row['present']


class _Judge:
    """Foreground under kept windows, summed over frames."""

    def __init__(self, vision: FixedGridVision) -> None:
        self._windows = vision.windows
        self._kept = [windows_to_keep(vision.windows, share) for share in SHARES]
        self._found: dict[str, np.ndarray] = {}
        self._total = 0.0

    def add(self, scores: dict[str, torch.Tensor | None], shares: torch.Tensor,
            present: torch.Tensor) -> None:
        """Add one frame: a score is [V, windows], None: by chance."""
        areas = shares * torch.cat([torch.full((group.count,), float(group.length))
                                    for group in self._windows])
        self._total += float(areas[present].sum())
        for name, score in scores.items():
            found = [self._held(score, areas, kept, present) for kept in self._kept]
            self._found[name] = self._found.get(name, np.zeros(len(SHARES))) + found

    def recall(self) -> dict[str, list[float]]:
        """Return {score: share of the foreground kept, at each of SHARES}."""
        return {name: (found / max(self._total, 1e-9)).tolist()
                for name, found in self._found.items()}

    def encoded(self) -> list[float]:
        """Return the share of tokens that goes on at each of SHARES."""
        every = sum(group.count * group.length for group in self._windows)
        return [sum(k * group.length for k, group in zip(kept, self._windows, strict=True)) / every
                for kept in self._kept]

    def _held(self, score: torch.Tensor | None, areas: torch.Tensor, kept: Sequence[int],
              present: torch.Tensor) -> float:
        total, first = 0.0, 0
        for group, count in zip(self._windows, kept, strict=True):
            part = slice(first, first + group.count)
            mine = areas[present][:, part]
            if score is None:
                total += float(mine.sum()) * count / group.count        # what chance expects
            else:
                best = score[present][:, part].topk(count, dim=1).indices
                total += float(mine.gather(1, best).sum())
            first += group.count
        return total
