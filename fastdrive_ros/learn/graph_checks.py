# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What "the exported graph equals the torch module" means for each graph of a bundle.

Scores and tokens are compared as numbers. The selection is compared exactly, but on the scores
that ONNX Runtime itself computed: two scores that differ in the last bit may change places.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fastdrive_ros.learn.checkpoint import DrivingModel
from fastdrive_ros.learn.early_checks import expected_vision
from fastdrive_ros.learn.early_checks import some_encoded
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import check_outputs
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import run_onnx
from fastdrive_ros.learn.recon_pruner import select_tokens

_OUTPUT_WEIGHT = 'head.output.weight'


def check_vision(model: DrivingModel, path: Path, tolerance: float) -> Difference:
    """Random pictures and a black one."""
    session = cpu_session(path)
    noise = _random_images(model, seed=1)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for images in (noise, noise // 4, torch.zeros_like(noise)):
            found = run_onnx(session, {'images': images})
            yield expected_vision(model, images, found), found

    return check_outputs('vision_encoder', pairs(), tolerance)


def check_pruner(model: DrivingModel, path: Path, tolerance: float) -> Difference:
    """Random tokens; K of one, a few and all; all cameras and all but one."""
    session = cpu_session(path)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for seed, (present, kept) in enumerate(_selections(model)):
            tokens = _random_tokens(model, seed)
            encoded = some_encoded(model, seed)
            inputs = {
                'visual_tokens': tokens, 'camera_present': present,
                'num_kept_tokens': torch.tensor(kept),
                **({} if encoded is None else {'token_present': encoded}),
            }
            found = run_onnx(session, inputs)
            yield _expected_selection(model, tokens, present, kept, found, encoded)

    return check_outputs('recon_pruner', pairs(), tolerance)


def check_perception(model: DrivingModel, path: Path, tolerance: float) -> Difference:
    """Like the pruner, from pictures on."""
    session = cpu_session(path)
    images = _random_images(model, seed=2)
    encoder = cpu_session(path.with_name('vision_encoder.onnx'))
    seen = expected_vision(model, images, run_onnx(encoder, {'images': images}))
    tokens, encoded = (
        torch.from_numpy(seen[name]) if name in seen else None
        for name in ('visual_tokens', 'token_present')
    )

    def pairs() -> Iterator[tuple[dict, dict]]:
        for present, kept in _selections(model):
            inputs = {
                'images': images, 'camera_present': present,
                'num_kept_tokens': torch.tensor(kept),
            }
            found = run_onnx(session, inputs)
            yield _expected_selection(model, tokens, present, kept, found, encoded)

    return check_outputs('perception', pairs(), tolerance)


def check_planner(model: DrivingModel, path: Path, tolerance: float) -> Difference:
    """
    Random tokens at several K, through a random output layer.

    An untrained output layer is zero and would hide every difference before it, so on both sides
    the same random weights stand in for it during the check; the file is not touched.
    """
    output = model.planner.head.output
    stand_in = torch.randn(output.weight.shape, generator=torch.Generator().manual_seed(3))
    session = cpu_session(path, {_OUTPUT_WEIGHT: stand_in.numpy()})

    def pairs() -> Iterator[tuple[dict, dict]]:
        for seed, (_, kept) in enumerate(_selections(model)):
            generator = torch.Generator().manual_seed(seed)
            indices = torch.randperm(len(model.prompt.image_slots), generator=generator)[:kept]
            inputs = {
                'kept_tokens': _random_tokens(model, seed)[:kept],
                'kept_indices': indices.sort().values,
                'ego_history': torch.randn(
                    model.planner.head.config.history_steps,
                    model.planner.head.ego_projection.in_features, generator=generator,
                ),
            }
            found = run_onnx(session, inputs)
            with torch.inference_mode():
                expected = model.planner(*inputs.values()).numpy()
            yield {'waypoint_residuals': expected}, found

    own = output.weight.data
    output.weight.data = stand_in
    try:
        return check_outputs('planner', pairs(), tolerance)
    finally:
        output.weight.data = own


def _expected_selection(
    model: DrivingModel,
    tokens: torch.Tensor,
    present: torch.Tensor,
    kept: int,
    found: dict[str, np.ndarray],
    encoded: torch.Tensor | None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return (expected, found) of a selection; the choice itself must agree exactly."""
    with torch.inference_mode():
        scores = model.pruner.scores(
            tokens[None], present[None], None if encoded is None else encoded[None])[0]
        indices = select_tokens(torch.from_numpy(found['scores']), torch.tensor(kept))
    if not np.array_equal(indices.numpy(), found['kept_indices']):
        raise ExportError(
            f'the exported pruner keeps other tokens than torch on the same scores: expected '
            f'{indices[:8].tolist()}..., found {found["kept_indices"][:8].tolist()}... (K = '
            f'{kept}). Nothing was written.'
        )
    expected_tokens = tokens.index_select(0, indices).numpy()
    return {'scores': scores.numpy(), 'kept_tokens': expected_tokens}, found


def _selections(model: DrivingModel) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (camera_present, K): extremes and the middle, and one camera absent."""
    total = model.tokens_encoded
    cameras = model.vision.num_images
    everyone = torch.ones(cameras, dtype=torch.bool)
    for kept in sorted({1, max(1, total // 4), max(1, total // 2), total}):
        yield everyone, kept
    if cameras > 1:
        one_absent = everyone.clone()
        one_absent[cameras // 2] = False
        yield one_absent, (total - total // cameras) // 2 or 1


def _random_tokens(model: DrivingModel, seed: int) -> torch.Tensor:
    shape = len(model.prompt.image_slots), model.pruner.config.hidden_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _random_images(model: DrivingModel, seed: int) -> torch.Tensor:
    vision = model.vision
    shape = vision.num_images, vision.image_height, vision.image_width, 3
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
