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
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fastdrive_ros.learn.early_checks import expected_vision
from fastdrive_ros.learn.early_checks import some_encoded
from fastdrive_ros.learn.early_pruning import EarlyPrunedVision
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import check_outputs
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import run_onnx
from fastdrive_ros.learn.precision import Reach
from fastdrive_ros.learn.precision import in_float32
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import select_tokens
from fastdrive_ros.learn.waypoint_head import WaypointPlanner

_OUTPUT_WEIGHT = 'head.output.weight'
# A graph's relative difference from torch. In bf16 and fp16 its constants are rounded, too (the
# attention's 1 / sqrt(head size) for one), and they stay so in the file that is compared.
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-3


def check_vision(
    images: torch.Tensor, tokens: torch.Tensor, path: Path, tolerance: float
) -> Difference:
    """Pictures, and what torch makes of them on the graph's weights."""
    found = run_onnx(cpu_session(path), {'images': images})
    return check_outputs(path.stem, [({'visual_tokens': tokens.numpy()}, found)], tolerance)


def check_pruner(
    pruner: ReconPruner, path: Path, tolerance: float, early: EarlyPrunedVision | None = None
) -> Difference:
    """Random tokens, ``early`` with some dropped; K of one, a few and all; a camera absent."""
    session = cpu_session(path)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for seed, (present, kept) in enumerate(_selections(pruner, early)):
            tokens = _random_tokens(pruner.num_tokens, pruner.config.hidden_size, seed)
            encoded = some_encoded(early, seed) if early else None
            inputs = {
                'visual_tokens': tokens, 'camera_present': present,
                'num_kept_tokens': torch.tensor(kept),
                **({} if encoded is None else {'token_present': encoded}),
            }
            found = run_onnx(session, inputs)
            yield _expected_selection(pruner, tokens, present, kept, found, encoded)

    return check_outputs(path.stem, pairs(), tolerance)


def check_perception(
    images: torch.Tensor, tokens: torch.Tensor, pruner: ReconPruner, path: Path, tolerance: float
) -> Difference:
    """Pictures and what torch makes of them, with a camera absent where there are several."""
    present, kept = list(_selections(pruner, None))[-1]
    found = run_onnx(cpu_session(path), {
        'images': images, 'camera_present': present, 'num_kept_tokens': torch.tensor(kept)})
    return check_outputs(
        path.stem, [_expected_selection(pruner, tokens, present, kept, found, None)], tolerance)


def check_early_perception(
    early: EarlyPrunedVision, pruner: ReconPruner, images: torch.Tensor, path: Path,
    tolerance: float,
) -> Difference:
    """The same where the encoder drops windows: which it left, its tokens' scores say."""
    present, kept = list(_selections(pruner, early))[-1]
    found = run_onnx(cpu_session(path), {
        'images': images, 'camera_present': present, 'num_kept_tokens': torch.tensor(kept)})
    with torch.inference_mode(), in_float32(early):
        _, own_choice = early(images)
    # Tokens of an absent camera have no score, whatever was encoded of it.
    encoded = torch.where(present.repeat_interleave(pruner.tokens_per_camera),
                          torch.from_numpy(np.isfinite(found['scores'])), own_choice)
    expected = expected_vision(early, images, {'token_present': encoded.numpy()}, tolerance)
    tokens = torch.from_numpy(expected['visual_tokens'])
    return check_outputs(
        path.stem, [_expected_selection(pruner, tokens, present, kept, found, encoded)], tolerance)


def check_planner(
    planner: WaypointPlanner,
    inputs: Mapping[str, torch.Tensor],
    states: torch.Tensor,
    path: Path,
    tolerance: float,
) -> Difference:
    """
    Inputs with torch's query states [1, T, D] for them, and a single random token.

    An untrained output layer is zero and would hide every difference before it, so on both sides
    the same random weights stand in for it during the check; the file is not touched.
    """
    output = planner.head.output
    stand_in = torch.randn(output.weight.shape, generator=torch.Generator().manual_seed(3))
    session = cpu_session(path, {_OUTPUT_WEIGHT: stand_in.numpy()})
    last = inputs['kept_indices'][-1:]
    one = {**inputs, 'kept_indices': last,
           'kept_tokens': _random_tokens(1, planner.head.config.hidden_size, seed=0)}

    def pairs() -> Iterator[tuple[dict, dict]]:
        for feeds, queries in ((inputs, states), (one, query_states(planner, one)[0])):
            with torch.inference_mode():
                expected = planner.head.residuals(queries, feeds['ego_history'][None])[0]
            yield {'waypoint_residuals': expected.numpy()}, run_onnx(session, feeds)

    own = output.weight.data
    output.weight.data = stand_in
    try:
        return check_outputs(path.stem, pairs(), tolerance)
    finally:
        output.weight.data = own


def query_states(
    planner: WaypointPlanner, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, Reach]:
    """Return [1, T, D] in fp32 on the planner's own weights, and what its layers reach."""
    with torch.inference_mode(), in_float32(planner) as reach:
        return planner.query_states(*(value[None] for value in inputs.values())), reach


def _expected_selection(
    pruner: ReconPruner,
    tokens: torch.Tensor,
    present: torch.Tensor,
    kept: int,
    found: dict[str, np.ndarray],
    encoded: torch.Tensor | None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return (expected, found) of a selection; the choice itself must agree exactly."""
    with torch.inference_mode(), in_float32(pruner):
        scores = pruner.scores(
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


def _selections(
    pruner: ReconPruner, early: EarlyPrunedVision | None
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (camera_present, K): extremes and the middle, and one camera absent."""
    cameras = pruner.num_tokens // pruner.tokens_per_camera
    total = early.tokens_per_camera * cameras if early else pruner.num_tokens
    everyone = torch.ones(cameras, dtype=torch.bool)
    for kept in dict.fromkeys((1, max(1, total // 4), total, max(1, total // 2))):
        yield everyone, kept
    if cameras > 1:
        one_absent = everyone.clone()
        one_absent[cameras // 2] = False
        yield one_absent, (total - total // cameras) // 2 or 1


def _random_tokens(count: int, hidden_size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, hidden_size, generator=torch.Generator().manual_seed(seed))
