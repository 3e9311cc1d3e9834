# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What early pruning changes in a bundle's graphs, and when an early-pruned encoder equals torch.

Two windows whose scores differ in the last bit may change places, in a black picture all of them.
So the choice that ONNX Runtime made must be one that torch's scores allow, and the tokens must be
those that torch makes of the same choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fastdrive_ros.learn.early_pruning import EarlyPrunedVision
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import check_outputs
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import run_onnx
from fastdrive_ros.learn.precision import in_float32
from fastdrive_ros.learn.vision import Windows

SCORE_ROUNDING = 1e-4
"""By how much, times the largest score, a dropped window may be better than a kept one."""


def check_early_vision(early: EarlyPrunedVision, path: Path, tolerance: float) -> Difference:
    """Random pictures, darker ones and a black one."""
    session = cpu_session(path)
    vision = early.vision
    shape = vision.num_images, vision.image_height, vision.image_width, 3
    noise = torch.randint(0, 256, shape, dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(1))

    def pairs() -> Iterator[tuple[dict, dict]]:
        for images in (noise, noise // 4, torch.zeros_like(noise)):
            found = run_onnx(session, {'images': images})
            yield expected_vision(early, images, found, tolerance), found

    return check_outputs(path.stem, pairs(), tolerance)


def expected_vision(
    early: EarlyPrunedVision, images: torch.Tensor, found: Mapping[str, np.ndarray],
    tolerance: float = SCORE_ROUNDING,
) -> dict[str, np.ndarray]:
    """
    Return what torch makes in fp32 of uint8 [V, H, W, 3], for the windows that ``found`` kept.

    Raises ExportError when torch's scores would not have kept these, but for ``tolerance`` times
    the largest score.
    """
    with torch.inference_mode(), in_float32(early):
        kept = early.windows_of(torch.from_numpy(found['token_present']))
        _require_allowed(early, scores_of(early, images), kept, tolerance)
        hidden, _, cut = early.walk(images, kept)
        return {'visual_tokens': cut.tokens(hidden).numpy(),
                'token_present': cut.present().numpy()}


def some_encoded(early: EarlyPrunedVision, seed: int) -> torch.Tensor:
    """Return bool [N] as an early-pruned encoder might say it, by chance."""
    vision = early.vision
    order = torch.rand(vision.num_images, len(vision.token_rank),
                       generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    return (order < early.tokens_per_camera).flatten()


def scores_of(early: EarlyPrunedVision, images: torch.Tensor) -> torch.Tensor:
    """Return the score of every window, float32 [V, windows]."""
    vision = early.vision
    hidden = vision.embed(images, vision.patch_weight, vision.patch_bias)
    for index in range(early.block + 1):
        hidden = vision.block(index, hidden)
    return early.window_scores(hidden)


def share_at_stake(early: EarlyPrunedVision, scores: torch.Tensor, error: float) -> float:
    """Return the share of the kept tokens that others may displace when all scores err so far."""
    kept, at_stake, total = early.choose(scores), 0, 0
    for group, mine, mask in _groups(early, scores, kept):
        best_dropped = mine.masked_fill(mask, -torch.inf).amax(1, keepdim=True)
        at_stake += group.length * int((mask & (mine - error < best_dropped + error)).sum())
        total += group.length * int(mask.sum())
    return at_stake / total


def _groups(
    early: EarlyPrunedVision, scores: torch.Tensor, kept: torch.Tensor
) -> Iterator[tuple[Windows, torch.Tensor, torch.Tensor]]:
    """Yield windows of one length, with their scores and whether they are kept, (V, count)."""
    first = 0
    for group in early.vision.windows:
        yield (group, *(each[:, first:first + group.count] for each in (scores, kept)))
        first += group.count


def _require_allowed(
    early: EarlyPrunedVision, scores: torch.Tensor, kept: torch.Tensor, tolerance: float
) -> None:
    """Refuse a choice with another number of windows, or where a better one was dropped."""
    room = max(SCORE_ROUNDING, tolerance) * max(1e-6, float(scores.abs().max()))
    for (group, mine, mask), count in zip(
            _groups(early, scores, kept), early.kept_windows, strict=True):
        worst_kept = mine.masked_fill(~mask, torch.inf).amin(1)
        best_dropped = mine.masked_fill(mask, -torch.inf).amax(1)
        if (mask.sum(1) != count).any() or (best_dropped > worst_kept + room).any():
            raise ExportError(
                f'the exported vision_encoder keeps other windows than torch: expected the '
                f'{count} best of {group.count} of each camera, found {mask.int().tolist()} for '
                f'scores {mine.tolist()}. Nothing was written.'
            )
