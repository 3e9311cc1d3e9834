# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What "the exported graph equals the torch module" means for each graph of a bundle.

Scores and tokens are compared as numbers. The selection is compared exactly, but on the scores
that ONNX Runtime itself computed: two scores that differ in the last bit may change places.
Both sides compute in fp32, on the weights of the bundle's precision (graphs.py, precision.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import check_outputs
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import run_onnx
from fastdrive_ros.learn.precision import in_float32
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import select_tokens
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.waypoint_head import WaypointPlanner

_OUTPUT_WEIGHT = 'head.output.weight'
# A graph's relative difference from torch. In bf16 and fp16 its constants are rounded, too (the
# attention's 1 / sqrt(head size) for one), and they stay so in the file that is compared.
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-3


def check_vision(vision: FixedGridVision, path: Path, tolerance: float) -> Difference:
    """Random pictures and a black one."""
    session = cpu_session(path)
    noise = _random_images(vision, seed=1)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for images in (noise, torch.zeros_like(noise)):
            yield ({'visual_tokens': visual_tokens(vision, images).numpy()},
                   run_onnx(session, {'images': images}))

    return check_outputs(path.stem, pairs(), tolerance)


def check_pruner(pruner: ReconPruner, path: Path, tolerance: float) -> Difference:
    """Random tokens; K of one, a few and all; all cameras and all but one."""
    session = cpu_session(path)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for seed, (present, kept) in enumerate(_selections(pruner)):
            tokens = _random_tokens(pruner.num_tokens, pruner.config.hidden_size, seed)
            inputs = {
                'visual_tokens': tokens, 'camera_present': present,
                'num_kept_tokens': torch.tensor(kept),
            }
            yield _expected_selection(pruner, tokens, present, kept, run_onnx(session, inputs))

    return check_outputs(path.stem, pairs(), tolerance)


def check_perception(
    vision: FixedGridVision, pruner: ReconPruner, path: Path, tolerance: float
) -> Difference:
    """From pictures on: half of the tokens, and with a camera absent."""
    session = cpu_session(path)
    images = _random_images(vision, seed=2)
    tokens = visual_tokens(vision, images)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for present, kept in list(_selections(pruner))[-2:]:
            inputs = {
                'images': images, 'camera_present': present,
                'num_kept_tokens': torch.tensor(kept),
            }
            yield _expected_selection(pruner, tokens, present, kept, run_onnx(session, inputs))

    return check_outputs(path.stem, pairs(), tolerance)


def check_planner(planner: WaypointPlanner, path: Path, tolerance: float) -> Difference:
    """
    Random tokens: one, half and all of them, through a random output layer.

    An untrained output layer is zero and would hide every difference before it, so on both sides
    the same random weights stand in for it during the check; the file is not touched.
    """
    head, total = planner.head, len(planner.image_slots)
    output = head.output
    stand_in = torch.randn(output.weight.shape, generator=torch.Generator().manual_seed(3))
    session = cpu_session(path, {_OUTPUT_WEIGHT: stand_in.numpy()})

    def pairs() -> Iterator[tuple[dict, dict]]:
        for seed, kept in enumerate(sorted({1, max(1, total // 2), total})):
            generator = torch.Generator().manual_seed(seed)
            indices = torch.randperm(total, generator=generator)[:kept]
            inputs = {
                'kept_tokens': _random_tokens(total, head.config.hidden_size, seed)[:kept],
                'kept_indices': indices.sort().values,
                'ego_history': torch.randn(
                    head.config.history_steps, head.ego_projection.in_features,
                    generator=generator,
                ),
            }
            found = run_onnx(session, inputs)
            with torch.inference_mode(), in_float32(planner):
                expected = planner(*inputs.values()).numpy()
            yield {'waypoint_residuals': expected}, found

    own = output.weight.data
    output.weight.data = stand_in
    try:
        return check_outputs(path.stem, pairs(), tolerance)
    finally:
        output.weight.data = own


def visual_tokens(vision: FixedGridVision, images: torch.Tensor) -> torch.Tensor:
    """Return [N, D] in fp32 on the encoder's own weights."""
    with torch.inference_mode(), in_float32(vision):
        return vision(images)


def _expected_selection(
    pruner: ReconPruner,
    tokens: torch.Tensor,
    present: torch.Tensor,
    kept: int,
    found: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return (expected, found) of a selection; the choice itself must agree exactly."""
    with torch.inference_mode(), in_float32(pruner):
        scores = pruner.scores(tokens[None], present[None])[0]
        indices = select_tokens(torch.from_numpy(found['scores']), torch.tensor(kept))
    if not np.array_equal(indices.numpy(), found['kept_indices']):
        raise ExportError(
            f'the exported pruner keeps other tokens than torch on the same scores: expected '
            f'{indices[:8].tolist()}..., found {found["kept_indices"][:8].tolist()}... (K = '
            f'{kept}). Nothing was written.'
        )
    expected_tokens = tokens.index_select(0, indices).numpy()
    return {'scores': scores.numpy(), 'kept_tokens': expected_tokens}, found


def _selections(pruner: ReconPruner) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (camera_present, K): extremes and the middle, and one camera absent."""
    total = pruner.num_tokens
    cameras = total // pruner.tokens_per_camera
    everyone = torch.ones(cameras, dtype=torch.bool)
    for kept in dict.fromkeys((1, max(1, total // 4), total, max(1, total // 2))):
        yield everyone, kept
    if cameras > 1:
        one_absent = everyone.clone()
        one_absent[cameras // 2] = False
        yield one_absent, (total - total // cameras) // 2 or 1


def _random_tokens(count: int, hidden_size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, hidden_size, generator=torch.Generator().manual_seed(seed))


def _random_images(vision: FixedGridVision, seed: int) -> torch.Tensor:
    shape = vision.num_images, vision.image_height, vision.image_width, 3
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
