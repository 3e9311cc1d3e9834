# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The torch modules against transformers' own, on random configurations of three sizes of rig."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from tiny_checkpoint import GRIDS  # noqa: E402
from tiny_checkpoint import HIDDEN_SIZE  # noqa: E402
from tiny_checkpoint import hf_hidden_states  # noqa: E402
from tiny_checkpoint import hf_image_features  # noqa: E402
from tiny_checkpoint import make_driving_model  # noqa: E402
from tiny_checkpoint import random_images  # noqa: E402

from fastdrive_ros.learn.recon_pruner import load_pruner  # noqa: E402
from fastdrive_ros.learn.recon_pruner import pruner_positions  # noqa: E402
from fastdrive_ros.learn.recon_pruner import save_pruner  # noqa: E402
from fastdrive_ros.learn.recon_pruner import select_tokens  # noqa: E402
from fastdrive_ros.learn.vision import FixedGridVision  # noqa: E402
from fastdrive_ros.learn.waypoint_head import load_head  # noqa: E402
from fastdrive_ros.learn.waypoint_head import save_head  # noqa: E402
from fastdrive_ros.learn.waypoint_head import untrained_head  # noqa: E402

TOLERANCE = 1e-4


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative L2 difference."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize('cameras', [1, 3, 6])
@pytest.mark.parametrize('grid', GRIDS)
def test_vision_equals_transformers(cameras: int, grid: tuple[int, int]) -> None:
    """uint8 pictures here, image processor and ragged windows there: the same features."""
    made = make_driving_model(cameras, *grid)
    images = random_images(cameras, *grid)
    with torch.inference_mode():
        found = made.driving.vision(images)
        expected = hf_image_features(made.hf, images)
    assert found.shape == (cameras * grid[0] * grid[1] // 784, HIDDEN_SIZE)
    assert relative(found, expected) <= TOLERANCE


def test_the_ragged_grid_is_ragged_and_the_uniform_one_is_not() -> None:
    """Otherwise the test above would not test what it says."""
    ragged, uniform = (make_driving_model(1, *grid).driving.vision for grid in GRIDS)
    assert [(group.count, group.length) for group in uniform.windows] == [(2, 64)]
    assert [(group.count, group.length) for group in ragged.windows] == [
        (1, 64), (1, 48), (1, 32), (1, 24),
    ]


def test_vision_refuses_a_grid_that_cuts_a_token() -> None:
    """One visual token is 28 x 28 pixels."""
    visual = make_driving_model(1, *GRIDS[0]).hf.model.visual
    with pytest.raises(ValueError, match='multiples of 28, found 224 x 400'):
        FixedGridVision(visual, 1, 224, 400)


@pytest.mark.parametrize('cameras', [1, 3, 6])
@pytest.mark.parametrize('grid', GRIDS)
def test_all_tokens_kept_equals_the_full_forward(cameras: int, grid: tuple[int, int]) -> None:
    """Keep ratio 1: every hidden state is that of transformers on the whole prompt."""
    made = make_driving_model(cameras, *grid)
    tokens, history = made.random_tokens(), made.random_history()
    indices = torch.arange(len(tokens))
    with torch.inference_mode():
        found = made.driving.planner.hidden_states(tokens[None], indices[None], history[None])[0]
        expected = hf_hidden_states(made, tokens, history)
    assert relative(found, expected[made.slots(indices)]) <= TOLERANCE


def test_pruned_equals_the_full_forward_with_columns_masked() -> None:
    """What was dropped is hidden, not renumbered; wrong positions would show."""
    made = make_driving_model(3, *GRIDS[0])
    tokens, history = made.random_tokens(), made.random_history()
    indices = torch.randperm(len(tokens))[:11].sort().values
    with torch.inference_mode():
        found = made.driving.planner.hidden_states(
            tokens[indices][None], indices[None], history[None]
        )[0]
        expected = hf_hidden_states(made, tokens, history, keep=indices)[made.slots(indices)]
        renumbered = made.driving.planner.hidden_states(
            tokens[indices][None], torch.arange(11)[None], history[None]
        )[0]
    assert relative(found, expected) <= TOLERANCE
    assert relative(renumbered, expected) > 100 * TOLERANCE


def test_the_order_in_memory_does_not_matter() -> None:
    """Causality comes from the slots: shuffled kept tokens give the same plan."""
    made = make_driving_model(3, *GRIDS[0])
    tokens, history = made.random_tokens(), made.random_history()
    indices = torch.arange(0, len(tokens), 3)
    shuffled = indices[torch.randperm(len(indices))]
    torch.nn.init.normal_(made.driving.planner.head.output.weight)
    with torch.inference_mode():
        plans = [made.driving.planner(tokens[i], i, history) for i in (indices, shuffled)]
    assert relative(plans[1], plans[0]) <= TOLERANCE


def test_an_untrained_head_says_exactly_zero() -> None:
    """So that the plan is exactly the extrapolation."""
    made = make_driving_model(1, *GRIDS[0])
    tokens = made.random_tokens()
    with torch.inference_mode():
        plan = made.driving.planner(tokens, torch.arange(len(tokens)), made.random_history())
    assert plan.shape == (6, 3)
    assert torch.count_nonzero(plan) == 0


def test_a_way_that_nobody_recorded_is_taken_for_constant_speed_and_turn_rate() -> None:
    """Just after the start the history has zero rows, as none in training has."""
    head = untrained_head(HIDDEN_SIZE)
    speed_mps, yaw_rate_radps = 8.0, 0.4
    times_s = 0.5 * torch.arange(-3.0, 1.0)
    yaw_rad = yaw_rate_radps * times_s
    radius_m = speed_mps / yaw_rate_radps
    history = torch.stack([
        radius_m * yaw_rad.sin(), radius_m * (1.0 - yaw_rad.cos()), yaw_rad.sin(), yaw_rad.cos(),
        torch.full((4,), speed_mps), torch.full((4,), yaw_rate_radps), torch.ones(4)], dim=1)
    started = history.clone()
    started[:2] = 0.0
    scaled = (history * head.ego_scale)[None]
    torch.testing.assert_close(head.way_so_far(started[None]), scaled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.way_so_far(history[None]), scaled, rtol=0.0, atol=0.0)


def test_a_batch_is_its_members() -> None:
    """Training runs batches through the same methods."""
    made = make_driving_model(3, *GRIDS[0])
    tokens = torch.stack([made.random_tokens(), made.random_tokens()])
    history = torch.stack([made.random_history(), made.random_history()])
    present = torch.tensor([[True, True, True], [True, False, True]])
    indices = torch.arange(tokens.shape[1]).expand(2, -1)
    with torch.inference_mode():
        scores = made.driving.pruner.scores(tokens, present)
        states = made.driving.planner.hidden_states(tokens, indices, history)
        for i in range(2):
            alone = made.driving.pruner.scores(tokens[i:i + 1], present[i:i + 1])[0]
            np.testing.assert_allclose(scores[i], alone, rtol=1e-5, atol=1e-6)
            one = made.driving.planner.hidden_states(
                tokens[i:i + 1], indices[i:i + 1], history[i:i + 1]
            )[0]
            assert relative(states[i], one) <= TOLERANCE


def test_gradients_reach_pruner_and_head() -> None:
    """The modules are trained later as they are."""
    made = make_driving_model(1, *GRIDS[0])
    tokens = made.random_tokens()[None]
    made.driving.pruner.requires_grad_(True)
    made.driving.planner.head.requires_grad_(True)
    made.driving.pruner.scores(tokens, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    indices = torch.arange(tokens.shape[1])[None]
    made.driving.planner.residuals(tokens, indices, made.random_history()[None]).sum().backward()
    assert made.driving.pruner.query.grad.abs().sum() > 0
    assert made.driving.planner.head.output.weight.grad.abs().sum() > 0


def test_the_pruners_query_sees_every_token() -> None:
    """Full attention: transformers' default mask would leave the query alone with itself."""
    made = make_driving_model(1, *GRIDS[0])
    tokens = made.random_tokens()
    present = torch.ones(1, 1, dtype=torch.bool)
    with torch.inference_mode():
        before = made.driving.pruner.scores(tokens[None], present)[0]
        tokens[-1] += 5.0
        after = made.driving.pruner.scores(tokens[None], present)[0]
    assert (before[:-1] != after[:-1]).float().mean() > 0.9


def test_pruner_positions_by_hand() -> None:
    """Query at 0; two images of 2 x 3 tokens start at 1 and 4: time, row, column."""
    assert pruner_positions(0, 2, 2, 3).tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4],
        [0, 1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 5, 5],
        [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6],
    ]


def test_absent_cameras_have_no_influence() -> None:
    """Whatever stands in an absent camera's tokens, even NaN-free garbage, changes nothing."""
    made = make_driving_model(3, *GRIDS[0])
    tokens = made.random_tokens()
    per_camera = made.driving.pruner.tokens_per_camera
    garbage = tokens.clone()
    garbage[per_camera:2 * per_camera] = 1e3
    present = torch.tensor([[True, False, True]])
    with torch.inference_mode():
        scores = made.driving.pruner.scores(tokens[None], present)[0]
        other = made.driving.pruner.scores(garbage[None], present)[0]
        everyone = made.driving.pruner.scores(tokens[None], torch.ones_like(present))[0]
    assert torch.isneginf(scores[per_camera:2 * per_camera]).all()
    assert torch.equal(scores, other)
    assert (scores[:per_camera] != everyone[:per_camera]).any()


@pytest.mark.parametrize(
    ('scores', 'kept', 'expected'),
    [
        ([0.0, 0.0, 0.0, 0.0], 2, [0, 1]),
        ([1.0, 3.0, 3.0, 3.0, 2.0], 2, [1, 2]),
        ([2.0, 1.0, 2.0, 5.0, 2.0], 3, [0, 2, 3]),
        ([-1.0, -3.0, -torch.inf, -2.0], 3, [0, 1, 3]),
        ([4.0, 4.0, 9.0], 3, [0, 1, 2]),
    ],
)
def test_ties_go_to_the_lower_index(
    scores: list[float], kept: int, expected: list[int]
) -> None:
    """Hand-computed selections."""
    assert select_tokens(torch.tensor(scores), torch.tensor(kept)).tolist() == expected


def test_selection_of_many_equal_scores_for_every_k() -> None:
    """Against a stable sort in numpy."""
    scores = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(1)).float()
    order = np.argsort(-scores.numpy(), kind='stable')
    for kept in range(1, 201):
        found = select_tokens(scores, torch.tensor(kept))
        assert found.tolist() == sorted(order[:kept])


def test_pruner_file_round_trip_on_another_grid(tmp_path: Path) -> None:
    """The grid is no weight: one file serves every rig."""
    pruner = make_driving_model(3, *GRIDS[0]).driving.pruner
    save_pruner(pruner, tmp_path / 'p.safetensors')
    loaded = load_pruner(tmp_path / 'p.safetensors', 1, 2, 2)
    assert loaded.config == pruner.config
    assert torch.equal(loaded.query, pruner.query)
    with torch.inference_mode():
        scores = loaded.scores(torch.randn(1, 4, HIDDEN_SIZE), torch.ones(1, 1, dtype=torch.bool))
    assert scores.shape == (1, 4)


def test_head_file_round_trip(tmp_path: Path) -> None:
    """And each file is refused as the other."""
    head = untrained_head(HIDDEN_SIZE)
    save_head(head, tmp_path / 'h.safetensors')
    loaded = load_head(tmp_path / 'h.safetensors')
    assert loaded.config == head.config
    assert torch.equal(loaded.queries, head.queries)
    with pytest.raises(ValueError, match='expected a ReconPruner in .*fastdrive_waypoint_head'):
        load_pruner(tmp_path / 'h.safetensors', 1, 2, 2)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A truncated download is no safetensors file."""
    broken = tmp_path / 'broken.safetensors'
    broken.write_bytes(b'half a file')
    with pytest.raises(ValueError, match=r'expected a ReconPruner in .*broken.safetensors'):
        load_pruner(broken, 1, 2, 2)
    with pytest.raises(ValueError, match=r'expected a waypoint head in .*broken.safetensors'):
        load_head(broken)
