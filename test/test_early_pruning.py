# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows dropped inside the vision tower: exact for the others, never seen by any pruner."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('onnxruntime')

from tiny_checkpoint import HIDDEN_SIZE  # noqa: E402
from tiny_checkpoint import random_images  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig  # noqa: E402
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (  # noqa: E402
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision  # noqa: E402

from fastdrive_ros.core.pruning import num_kept  # noqa: E402
from fastdrive_ros.learn.early_pruning import Cut  # noqa: E402
from fastdrive_ros.learn.early_pruning import EarlyPrunedVision  # noqa: E402
from fastdrive_ros.learn.early_pruning import EarlyVisionAttention  # noqa: E402
from fastdrive_ros.learn.early_pruning import windows_to_keep  # noqa: E402
from fastdrive_ros.learn.early_score import EarlyScore  # noqa: E402
from fastdrive_ros.learn.early_score import RidgeFit  # noqa: E402
from fastdrive_ros.learn.recon_pruner import ReconPruner  # noqa: E402
from fastdrive_ros.learn.recon_pruner import load_pruner  # noqa: E402
from fastdrive_ros.learn.rival_graphs import VisionAttention  # noqa: E402
from fastdrive_ros.learn.vision import FixedGridVision  # noqa: E402
from fastdrive_ros.learn.vision import Windows  # noqa: E402

TOLERANCE = 1e-5
CHANNELS = 32
# 7 x 8 tokens: two windows of 16 tokens and two of 12 a camera; half: one of each.
GRID = 196, 224
NUM_CAMERAS, PER_CAMERA, LEFT = 2, 56, 28


def make_tower(full: tuple[int, ...], depth: int = 4, cameras: int = 3,
               grid: tuple[int, int] = GRID) -> FixedGridVision:
    """Return a random tower with full attention in these blocks; positions matter in it."""
    torch.manual_seed(1)
    visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(Qwen2_5_VLVisionConfig(
        depth=depth, hidden_size=CHANNELS, intermediate_size=48, num_heads=2,
        out_hidden_size=HIDDEN_SIZE, fullatt_block_indexes=list(full)))
    for name, parameter in visual.named_parameters():
        if parameter.ndim >= 2 and 'norm' not in name:
            torch.nn.init.normal_(parameter, 0.0, 1.0 / parameter[0].numel() ** 0.5)
    return FixedGridVision(visual, cameras, *grid).eval().requires_grad_(False)


def make_score(block: int, channels: int = CHANNELS) -> EarlyScore:
    """Return a random direction."""
    weight = torch.randn(channels, generator=torch.Generator().manual_seed(3))
    return EarlyScore(block, weight, 'by chance')


def states_after(vision: FixedGridVision, images: torch.Tensor, block: int) -> torch.Tensor:
    """Return [V, P, C] of the unpruned tower."""
    hidden = vision.embed(images, vision.patch_weight, vision.patch_bias)
    for index in range(block + 1):
        hidden = vision.block(index, hidden)
    return hidden


def patch_mask(early: EarlyPrunedVision, kept: torch.Tensor) -> torch.Tensor:
    """Return bool [V, P] of bool [V, windows], in window order."""
    lengths = [group.length for group in early.vision.windows for _ in range(group.count)]
    return kept.repeat_interleave(torch.tensor(lengths), dim=1)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative L2 difference."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(('share', 'nano', 'wide'), [
    # 8 x 14 tokens: of 112 at most 84, 56, 28. 9 x 16 tokens: of 144 at most 108, 72, 36.
    (0.75, (4, 2), (6, 3)), (0.5, (3, 1), (4, 2)), (0.25, (1, 1), (2, 1)),
    # Room that short windows leave goes to a long one, if it fits; one of each always stays.
    (0.6, (3, 2), (4, 4)), (0.01, (1, 1), (1, 1)),
])
def test_whole_windows_of_each_length_within_the_share(
        share: float, nano: tuple[int, int], wide: tuple[int, int]) -> None:
    assert windows_to_keep([Windows(0, 6, 64), Windows(384, 2, 32)], share) == nano
    assert windows_to_keep([Windows(0, 8, 64), Windows(512, 4, 16)], share) == wide


@pytest.mark.parametrize('grid', [GRID, (224, 392)])
def test_window_blocks_compute_what_they_computed(grid: tuple[int, int]) -> None:
    """Until the first full-attention block, states of kept windows are the unpruned tower's."""
    vision = make_tower(full=(3,), grid=grid)
    images = random_images(3, *grid)
    early = EarlyPrunedVision(vision, make_score(0), 0.5)
    full = states_after(vision, images, 0)
    kept = early.choose(early.window_scores(full))
    mask = patch_mask(early, kept)
    assert not torch.equal(mask[0], mask[1])  # or positions of one camera would do for all
    cut = Cut(early, kept)
    hidden, layout = cut.select(full), cut.layout()
    for index in (1, 2):
        full, hidden = vision.block(index, full), vision.block(index, hidden, layout)
        assert relative(hidden, full[mask].view_as(hidden)) <= TOLERANCE
    wrong = dataclasses.replace(layout, cos=layout.cos.roll(1, dims=1))
    moved = vision.block(1, cut.select(states_after(vision, images, 0)), wrong)
    assert relative(moved, states_after(vision, images, 1)[mask].view_as(moved)) > 1e-2


@pytest.mark.parametrize(('block', 'full'), [(0, (2,)), (1, (1, 3)), (1, (0, 2, 3)), (2, (3,))])
def test_full_attention_equals_dropped_patches_masked_as_keys(
        block: int, full: tuple[int, ...]) -> None:
    """All patches go through transformers' own layers; the dropped ones are hidden as keys."""
    vision = make_tower(full)
    images = random_images(3, *GRID)
    early = EarlyPrunedVision(vision, make_score(block), 0.5)
    tokens, present = early(images)
    mask = patch_mask(early, early.windows_of(present))
    hidden = states_after(vision, images, block)
    for index in range(block + 1, 4):
        hidden = (masked_block(vision, index, hidden, mask) if index in full
                  else vision.block(index, hidden))
    expected = vision.merge(hidden)[present]
    assert relative(tokens[present], expected) <= TOLERANCE
    assert relative(tokens[present], vision(images)[present]) > 1e-3


def masked_block(vision: FixedGridVision, index: int, hidden: torch.Tensor,
                 mask: torch.Tensor) -> torch.Tensor:
    """Run transformers' layers on every patch, with keys hidden where ``mask`` is False."""
    block = vision.blocks[index]
    qkv = block.attn.qkv(block.norm1(hidden)).unflatten(2, (3, block.attn.num_heads, -1))
    cos, sin = vision.cos.squeeze(1), vision.sin.squeeze(1)
    rotated = []
    for q, k in zip(qkv[:, :, 0], qkv[:, :, 1], strict=True):
        rotated.append(torch.stack(apply_rotary_pos_emb_vision(q, k, cos, sin)))
    query, key = torch.stack(rotated, dim=1).transpose(2, 3)
    mixed = functional.scaled_dot_product_attention(
        query, key, qkv[:, :, 2].transpose(1, 2), attn_mask=mask[:, None, None, :])
    hidden = hidden + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    return hidden + block.mlp(block.norm2(hidden))


def test_tokens_stand_in_their_places_and_zeros_in_the_others() -> None:
    vision = make_tower((3,), cameras=NUM_CAMERAS)
    early = EarlyPrunedVision(vision, make_score(1), 0.5)
    assert (early.kept_windows, early.tokens_per_camera) == ((1, 1), LEFT)
    tokens, present = early(random_images(NUM_CAMERAS, *GRID))
    assert present.view(NUM_CAMERAS, -1).sum(1).tolist() == [LEFT, LEFT]
    assert not tokens[~present].any() and tokens[present].any(1).all()
    # A window is 4 x 4 tokens, the last row of windows 3 high: whole ones or nothing.
    grid = present.view(NUM_CAMERAS, 7, 8)
    for rows in (slice(0, 4), slice(4, 7)):
        for columns in (slice(0, 4), slice(4, 8)):
            cell = grid[:, rows, columns].flatten(1)
            assert (cell.all(1) | ~cell.any(1)).all()


def test_no_camera_depends_on_another() -> None:
    vision = make_tower((3,))
    early = EarlyPrunedVision(vision, make_score(0), 0.5)
    images = random_images(3, *GRID)
    other = images.clone()
    other[1] = 0
    for mine, theirs in zip(early(images), early(other), strict=True):
        mine, theirs = mine.view(3, PER_CAMERA, -1), theirs.view(3, PER_CAMERA, -1)
        torch.testing.assert_close(mine[[0, 2]].float(), theirs[[0, 2]].float())


def test_equal_scores_go_to_the_lower_index() -> None:
    early = EarlyPrunedVision(make_tower((3,), grid=(224, 392)), make_score(0), 0.5)  # 3 of 6
    scores = torch.tensor([[0., 1., 0., 1., 0., 1., 5., 5.], [2., 2., 2., 2., 2., 3., 5., 6.]])
    assert early.choose(scores).int().tolist() == [
        [0, 1, 0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 1, 0, 1]]


@pytest.mark.parametrize('block', [0, 2])  # the watched block is 1: after the cut and before it
def test_vispruner_sees_attention_of_what_is_left(block: int) -> None:
    vision = make_tower((1,))
    early = EarlyPrunedVision(vision, make_score(block), 0.5)
    images = random_images(3, *GRID)
    tokens, attention, features, present = EarlyVisionAttention(early, 1)(images)
    assert (attention.shape, features.shape) == ((3 * PER_CAMERA,), (3 * PER_CAMERA, CHANNELS))
    assert not attention[~present].any() and not features[~present].any()
    torch.testing.assert_close(tokens, early(images)[0])
    if block == 2:  # what the unpruned tower says, and nothing came after
        whole = VisionAttention(vision)(images)
        torch.testing.assert_close(attention[present], whole[1][present])
    else:  # every query's attention adds up to one, over the patches that are left
        sums = attention.view(3, PER_CAMERA).sum(1) * 4
        torch.testing.assert_close(sums, torch.ones(3))


def test_the_pruner_sees_dropped_tokens_as_those_of_absent_cameras(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path) / 'recon_pruner.safetensors'
    pruner = load_pruner(file, 3, 4, 4)
    assert isinstance(pruner, ReconPruner)
    tokens, cameras = torch.randn(1, 48, HIDDEN_SIZE), torch.ones(1, 3, dtype=torch.bool)
    absent = torch.tensor([[True, False, True]])
    with torch.inference_mode():
        expected = pruner.scores(tokens, absent)
        found = pruner.scores(tokens, cameras, absent.repeat_interleave(16, 1))
        torch.testing.assert_close(found, expected)
        some = torch.arange(48)[None] % 3 != 0
        scores = pruner.scores(tokens, cameras, some)
        torch.testing.assert_close(
            pruner.scores(tokens.masked_fill(~some[..., None], 9.0), cameras, some), scores)
        kept = pruner(tokens[0], cameras[0], torch.tensor(32), some[0])[1]
    assert torch.isneginf(scores[~some]).all()
    assert kept.tolist() == some[0].nonzero().flatten().tolist()


def test_a_ratio_is_of_all_tokens_and_at_most_all_that_survive_are_kept() -> None:
    assert num_kept(0.25, 672, 336) == num_kept(0.25, 672) == 168
    assert num_kept(0.5, 672, 336) == 336
    assert num_kept(0.75, 672, 336) == num_kept(1.0, 672, 336) == 336
    assert num_kept(0.001, 672, 336) == 1


def test_ridge_regression_in_batches_equals_one_solve() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 5)) * [1, 2, 3, 4, 5]
    shares = features @ [0.5, 0.0, -1.0, 0.0, 2.0] + random.normal(size=200)
    fit = RidgeFit(5)
    for part in np.array_split(np.arange(200), 7):
        fit.add(torch.tensor(features[part]), torch.tensor(shares[part]))
    centred = features - features.mean(0)
    covariance = centred.T @ centred / 200
    covariance += 1e-3 * np.trace(covariance) / 5 * np.eye(5)
    expected = np.linalg.solve(covariance, centred.T @ (shares - shares.mean()) / 200)
    np.testing.assert_allclose(fit.weight().numpy(), expected, rtol=1e-5)
