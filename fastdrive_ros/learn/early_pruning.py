# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Early pruning: background windows leave the vision tower after one of its first blocks.

    images --blocks 0..b--> patches --window means, linear score--> the best windows of each camera
           --blocks b+1.. on those alone--> visual tokens [N, D], zeros where dropped, and which

What leaves are whole attention windows, so a block with window attention computes for the others
what it computed before, to the last digit that summation order leaves. A block with full attention
sees the patches that are left, at their own rotary positions: the same as all patches with the
dropped ones masked as keys.

Every camera keeps the same number of windows of each length. That makes all shapes constant, full
attention stays one batch over the cameras, no camera's windows depend on another camera (least of
all on one that gave no picture), and how many tokens survive is known before a picture is seen,
which the budget of a pruner and a graph with a free dimension K need.

The idea of leaving the encoder early is that of dynamic vision transformers (DynamicViT, arXiv
2106.02034, drops tokens between blocks); windows, and a score in closed form, are ours.

What was run: ONNX Runtime on a CPU, and TensorRT-RTX's builder. What was not: a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdrive_ros.learn.early_score import EarlyScore
from fastdrive_ros.learn.early_score import load_early_score
from fastdrive_ros.learn.early_score import window_means
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.vision import Layout
from fastdrive_ros.learn.vision import Windows


@dataclass(frozen=True)
class EarlyRequest:
    """What `fastdrive export --early-pruning BLOCK:SHARE --early-score FILE` asks for."""

    block: int
    """The block after which windows leave, from 0."""
    share: float
    """Largest share of a camera's tokens that goes on, in (0, 1)."""
    score: Path
    """A file of `fastdrive train early`."""


def windows_to_keep(windows: Sequence[Windows], share: float) -> tuple[int, ...]:
    """
    Return how many windows of each length go on: at most ``share`` of the patches, if it can be.

    Each length keeps its share, rounded down but at least one window, so that no edge of the
    picture is dropped for good; what is left of the share goes to more windows, longest first.
    """
    kept = [max(1, int(share * group.count + 1e-9)) for group in windows]
    wanted = share * sum(group.count * group.length for group in windows) + 1e-9
    for i, group in enumerate(windows):
        spare = wanted - sum(k * g.length for k, g in zip(kept, windows, strict=True))
        kept[i] += max(0, min(group.count - kept[i], int(spare // group.length)))
    return tuple(kept)


class EarlyPrunedVision(nn.Module):
    """A vision tower that goes on with the best windows of each camera alone."""

    def __init__(self, vision: FixedGridVision, score: EarlyScore, share: float) -> None:
        """Share the tower's weights; raises ExportError for a block or share that cannot be."""
        super().__init__()
        self.vision = vision
        self.block, self.share, self.training_words = score.block, share, score.training
        _require_possible(vision, score, share)
        self.kept_windows = windows_to_keep(vision.windows, share)
        if self.kept_windows == tuple(group.count for group in vision.windows):
            raise ExportError(
                f'--early-pruning {score.block}:{share:g} drops nothing: of the windows of '
                f'{vision.grid_height} x {vision.grid_width} tokens, {_words(vision.windows)} a '
                'camera, one of each length always goes on. Take a smaller share or larger '
                'pictures'
            )
        self.register_buffer('score_weight', score.weight.clone(), persistent=False)    # (C,)

    @property
    def tokens_per_camera(self) -> int:
        """How many tokens of each camera survive."""
        vision = self.vision
        patches = sum(k * g.length for k, g in zip(self.kept_windows, vision.windows, strict=True))
        return patches // _patches_per_token(vision)

    def manifest(self) -> dict[str, Any]:
        """Return what a bundle's manifest says under ``early_pruning``."""
        return {
            'after_block': self.block,
            'blocks': len(self.vision.blocks),
            'share': self.share,
            'tokens_per_camera': self.tokens_per_camera,
            'windows': [
                {'tokens': group.length // _patches_per_token(self.vision), 'kept': kept,
                 'of': group.count}
                for kept, group in zip(self.kept_windows, self.vision.windows, strict=True)
            ],
            'score': self.training_words,
        }

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map uint8 [V, H, W, 3] to visual_tokens [N, D], zero if dropped; token_present [N]."""
        hidden, _, cut = self.walk(images)
        return cut.tokens(hidden).float(), cut.present()

    def walk(
        self, images: torch.Tensor, kept: torch.Tensor | None = None, watched: int = -1
    ) -> tuple[torch.Tensor, torch.Tensor | None, Cut]:
        """
        Run all blocks; return the last states [V, Pk, C], attention received, and the cut.

        ``kept`` bool [V, windows] takes the place of the score's choice. ``watched`` is a block
        with full attention; what its patches receive, mean over heads and queries, comes back as
        [V, Pk, 1].
        """
        vision, received, cut, layout = self.vision, None, None, None
        hidden = vision.embed(images, vision.patch_weight, vision.patch_bias)
        for index in range(len(vision.blocks)):
            hidden, weights = vision.block_and_attention(index, hidden, layout)
            if index == watched:
                received = weights[0].mean((1, 2))[..., None]
            if index == self.block:
                cut = Cut(self, self.choose(self.window_scores(hidden)) if kept is None else kept)
                hidden, layout = cut.select(hidden), cut.layout()
                received = received if received is None else cut.select(received)
        assert cut is not None
        return hidden, received, cut

    def window_scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """
        Map states [V, P, C] after the block to float32 [V, windows], in window order.

        In fp32 whatever the tower's precision: the order of two windows decides what is dropped.
        """
        return window_means(hidden.float(), self.vision.windows) @ self.score_weight.float()

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """
        Return which windows go on, bool [V, windows]: the best of each length and camera.

        Ties go to the lower index, decided by comparisons and not by how a backend's TopK is made.
        """
        parts, first = [], 0
        for group, kept in zip(self.vision.windows, self.kept_windows, strict=True):
            mine = scores[:, first:first + group.count]
            better = mine[:, None, :] > mine[:, :, None]                # (V, whose, by which)
            equal = mine[:, None, :] == mine[:, :, None]
            before = _earlier(group.count, scores.device)
            parts.append((better | (equal & before)).sum(2) < kept)
            first += group.count
        return torch.cat(parts, dim=1)

    def windows_of(self, token_present: torch.Tensor) -> torch.Tensor:
        """Return the bool [V, windows] of a choice given as bool [N]."""
        vision = self.vision
        rows = token_present.view(vision.num_images, -1)[:, torch.argsort(vision.token_rank)]
        per_token = _patches_per_token(vision)
        return torch.cat([
            rows[:, group.start // per_token:group.end // per_token:group.length // per_token]
            for group in vision.windows
        ], dim=1)


class Cut:
    """A choice of windows, applied: states to fewer states, and their tokens to their places."""

    def __init__(self, early: EarlyPrunedVision, kept: torch.Tensor) -> None:
        """Take bool [V, windows] with each length's number of True in every row."""
        self._vision = early.vision
        self._per_camera = early.tokens_per_camera
        self._groups = tuple(zip(early.vision.windows, early.kept_windows, strict=True))
        self._kept = kept.split([group.count for group in early.vision.windows], dim=1)
        self._chosen = [
            _true_places(mask, count) for mask, (_, count) in
            zip(self._kept, self._groups, strict=True)
        ]                                                               # int64 (V, k) each

    def select(self, states: torch.Tensor) -> torch.Tensor:
        """Map [V, P, X] to the patches that go on, [V, Pk, X]."""
        cameras, parts = len(states), []
        for (group, count), chosen in zip(self._groups, self._chosen, strict=True):
            first = torch.arange(cameras, device=states.device)[:, None] * group.count
            windows = states[:, group.start:group.end].reshape(
                cameras * group.count, group.length, -1)
            rows = windows.index_select(0, (first + chosen).flatten())
            parts.append(rows.reshape(cameras, count * group.length, -1))
        return torch.cat(parts, dim=1)

    def layout(self) -> Layout:
        """Return the windows that go on, with the rotary factors of their own places."""
        vision, windows, start = self._vision, [], 0
        for group, count in self._groups:
            windows.append(Windows(start, count, group.length))
            start += count * group.length
        cameras = len(self._chosen[0])
        cos, sin = (
            self.select(table.squeeze(1).expand(cameras, -1, -1))[:, :, None]
            for table in (vision.cos, vision.sin)
        )                                                               # (V, Pk, 1, c)
        return Layout(tuple(windows), cos, sin)

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Merge [V, Pk, C] to visual tokens [N, D] in their places, zeros where dropped."""
        return self._place(self._vision.merger(hidden).unflatten(0, (len(hidden), -1)))

    def per_token(self, per_patch: torch.Tensor) -> torch.Tensor:
        """Average [V, Pk, X] over each token's patches: [N, X], zeros where dropped."""
        return self._place(
            per_patch.unflatten(1, (-1, _patches_per_token(self._vision))).mean(2))

    def present(self) -> torch.Tensor:
        """Return which tokens went on, bool [N]."""
        return (self._slots() < self._per_camera).flatten()

    def _place(self, kept: torch.Tensor) -> torch.Tensor:
        """Map [V, nk, X] to [N, X]; a dropped token takes the row of zeros behind its camera's."""
        cameras = len(kept)
        padded = torch.cat([kept, torch.zeros_like(kept[:, :1])], dim=1)
        first = torch.arange(cameras, device=kept.device)[:, None] * (self._per_camera + 1)
        return padded.flatten(0, 1).index_select(0, (first + self._slots()).flatten())

    def _slots(self) -> torch.Tensor:
        """Return each token's place among its camera's kept ones, int64 [V, n]; nk if dropped."""
        parts, first, per_token = [], 0, _patches_per_token(self._vision)
        for (group, count), mask in zip(self._groups, self._kept, strict=True):
            before = (mask[:, None, :] & _earlier(group.count, mask.device)).sum(2)
            length = group.length // per_token
            slots = first + before[..., None] * length + torch.arange(length, device=mask.device)
            parts.append(torch.where(mask[..., None], slots, self._per_camera).flatten(1))
            first += count * length
        return torch.cat(parts, dim=1).index_select(1, self._vision.token_rank)


class EarlyVisionAttention(nn.Module):
    """The early-pruned encoder as VisPruner wants to see it (rival_graphs.VisionAttention)."""

    def __init__(self, early: EarlyPrunedVision, last_full: int) -> None:
        """Watch block ``last_full``; before the cut it sees all patches, after it those left."""
        super().__init__()
        self.early = early
        self.last_full = last_full

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return visual_tokens [N, D], attention [N], features [N, C], token_present [N]."""
        hidden, received, cut = self.early.walk(images, watched=self.last_full)
        assert received is not None
        return (cut.tokens(hidden), cut.per_token(received).squeeze(1), cut.per_token(hidden),
                cut.present())


def prune_early(vision: FixedGridVision, request: EarlyRequest) -> EarlyPrunedVision:
    """Return the tower that a request asks for; ExportError where it cannot be."""
    _require_block(vision, request.block, request.share)
    score = load_early_score(request.score, request.block)
    return EarlyPrunedVision(vision, score, request.share).eval().requires_grad_(False)


def _require_block(vision: FixedGridVision, block: int, share: float) -> None:
    last = len(vision.blocks) - 2
    if not 0 <= block <= last or not 0.0 < share < 1.0:
        raise ExportError(
            f'expected --early-pruning BLOCK:SHARE with a block of 0..{last} (one must follow) '
            f'and a share between 0 and 1, found {block}:{share:g}'
        )


def _require_possible(vision: FixedGridVision, score: EarlyScore, share: float) -> None:
    _require_block(vision, score.block, share)
    channels = vision.patch_weight.shape[0]
    if len(score.weight) != channels:
        raise ExportError(
            f"the early score is for {len(score.weight)} channels, the checkpoint's vision tower "
            f'has {channels}: make one for this checkpoint with `fastdrive train early`'
        )


def _true_places(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ascending int64 [V, count] places of the True ones of bool [V, W]."""
    places = torch.arange(mask.shape[1], device=mask.device)
    # Keys are distinct, so that every backend's TopK gives the same order.
    keys = torch.where(mask, mask.shape[1] - places, -places).float()
    return torch.topk(keys, count, dim=1).indices


def _earlier(count: int, device: torch.device) -> torch.Tensor:
    """Return bool [count, count]: whether the column stands before the row."""
    places = torch.arange(count, device=device)
    return places[None, :] < places[:, None]


def _patches_per_token(vision: FixedGridVision) -> int:
    return len(vision.patch_order) // len(vision.token_rank)


def _words(windows: Sequence[Windows]) -> str:
    return ', '.join(f'{group.count} of {group.length} patches' for group in windows)
