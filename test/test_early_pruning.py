# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows dropped inside the vision tower: exact for the others, never seen by any pruner."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('onnxruntime')

from make_training import CAMERAS  # noqa: E402
from make_training import write_training_data  # noqa: E402
from tiny_checkpoint import HIDDEN_SIZE  # noqa: E402
from tiny_checkpoint import random_images  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig  # noqa: E402
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (  # noqa: E402
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision  # noqa: E402

from fastdrive_ros.assemble import early_pruning_note  # noqa: E402
from fastdrive_ros.assemble import method_graphs  # noqa: E402
from fastdrive_ros.core.latency import StageTimer  # noqa: E402
from fastdrive_ros.core.pruning import num_kept  # noqa: E402
from fastdrive_ros.core.types import CameraBatch  # noqa: E402
from fastdrive_ros.learn.early_pruning import Cut  # noqa: E402
from fastdrive_ros.learn.early_pruning import EarlyPrunedVision  # noqa: E402
from fastdrive_ros.learn.early_pruning import EarlyVisionAttention  # noqa: E402
from fastdrive_ros.learn.early_pruning import windows_to_keep  # noqa: E402
from fastdrive_ros.learn.early_score import EarlyScore  # noqa: E402
from fastdrive_ros.learn.early_score import RidgeFit  # noqa: E402
from fastdrive_ros.learn.early_score import load_early_score  # noqa: E402
from fastdrive_ros.learn.early_score import save_early_score  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.recon_pruner import ReconPruner  # noqa: E402
from fastdrive_ros.learn.recon_pruner import load_pruner  # noqa: E402
from fastdrive_ros.learn.rival_graphs import VisionAttention  # noqa: E402
from fastdrive_ros.learn.vision import FixedGridVision  # noqa: E402
from fastdrive_ros.learn.vision import Windows  # noqa: E402
from fastdrive_ros.perception import Perception  # noqa: E402
from fastdrive_ros.perception import perception_graphs  # noqa: E402
from fastdrive_ros.pruners import INSIDE  # noqa: E402
from fastdrive_ros.pruners import METHODS  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.runtime.bundle import BundleError  # noqa: E402
from fastdrive_ros.runtime.bundle import load_bundle  # noqa: E402
from fastdrive_ros.runtime.engine import Engine  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402
from fastdrive_ros.runtime.golden import check_golden  # noqa: E402
from fastdrive_ros.runtime.load import load_engines  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402

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


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three vision blocks, full attention in block 1."""
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def score_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for block 0."""
    path = tmp_path_factory.mktemp('score') / 'early_score.safetensors'
    save_early_score({0: make_score(0).weight}, 'not fitted', path)
    return path


def export_options(checkpoint: Path, out: Path) -> list[str]:
    """Return a whole command without early pruning."""
    return ['export', '--checkpoint', str(checkpoint), '--out', str(out), '--cameras', *CAMERAS,
            '--height', str(GRID[0]), '--width', str(GRID[1])]


@pytest.fixture(scope='module')
def bundle(checkpoint: Path, score_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What `fastdrive export --early-pruning 0:0.5` writes, with all graphs."""
    out = tmp_path_factory.mktemp('out') / 'early'
    assert main([*export_options(checkpoint, out), '--rivals', '--plan-pruner',
                 str(checkpoint / 'recon_pruner.safetensors'), '--early-pruning', '0:0.5',
                 '--early-score', str(score_file)]) == 0
    return load_bundle(out)


@pytest.fixture(scope='module')
def engines(bundle: Bundle) -> Mapping[str, Engine]:
    """Every graph, checked against the golden outputs."""
    return load_engines(bundle, backend='onnxruntime', graphs=tuple(bundle.manifest['graphs']),
                        num_threads=1).engines


def test_the_manifest_says_so(bundle: Bundle) -> None:
    early = bundle.manifest['early_pruning']
    assert early['windows'] == [{'tokens': 16, 'kept': 1, 'of': 2},
                                {'tokens': 12, 'kept': 1, 'of': 2}]
    assert (early['after_block'], early['share'], early['score']) == (0, 0.5, 'not fitted')
    assert (bundle.encoded_per_camera, bundle.tokens_per_camera) == (LEFT, PER_CAMERA)
    assert early_pruning_note(bundle, 0.5) == (
        'early pruning after vision block 0 leaves 28 of 56 tokens of each camera')
    assert early_pruning_note(bundle, 0.8).endswith(
        ': keep_ratio 0.8 is of all 56, so that all 28 are kept (50%)')


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('present', [[True, True], [False, True]])
@pytest.mark.parametrize('camera_floor', [0.0, 1.0])
def test_no_method_keeps_a_dropped_token(
        bundle: Bundle, engines: Mapping[str, Engine], method: str, present: list[bool],
        camera_floor: float) -> None:
    assert set(method_graphs(bundle, method)) <= set(engines)
    perception = Perception(engines, method, 7, 8, camera_floor)
    images = random_images(NUM_CAMERAS, *GRID).numpy()
    sight = perception.encode(images, np.array(present), 4)
    survivors = np.flatnonzero(sight.present_tokens)
    assert len(survivors) == sum(present) * LEFT and sight.num_tokens == sum(present) * PER_CAMERA
    for keep_ratio in (0.01, 0.3, 0.5, 1.0):
        kept = perception.prune(sight, sight.budget(keep_ratio))
        assert np.isin(kept.indices, survivors).all() and (np.diff(kept.indices) > 0).all()
        if method in INSIDE or method == 'none':
            assert len(kept.indices) == len(survivors)
        else:
            wanted = math.floor(keep_ratio * sum(present) * PER_CAMERA)
            assert len(kept.indices) == min(max(1, wanted), len(survivors))


def test_the_joined_graph_keeps_what_the_single_ones_keep(engines: Mapping[str, Engine]) -> None:
    split = {name: engines[name] for name in perception_graphs('recon')}
    batch = CameraBatch(random_images(NUM_CAMERAS, *GRID).numpy(), np.array([True, False]))
    for kept in (1, 9, LEFT):
        one, two = (Perception(some, 'recon', 7, 8).perceive(batch, 0, kept, StageTimer())
                    for some in (split, {'perception': engines['perception']}))
        np.testing.assert_array_equal(one.indices, two.indices)
        np.testing.assert_allclose(one.tokens, two.tokens, atol=1e-4)
        assert np.isfinite(two.scores).sum() == LEFT


def test_the_golden_check_blames_an_encoder_that_keeps_other_windows(
        bundle: Bundle, engines: Mapping[str, Engine]) -> None:
    class Other:
        def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            out = engines['vision_encoder'].run(feeds)
            return {name: np.roll(value, 4, axis=0) for name, value in out.items()}

    with pytest.raises(EngineError, match='vision_encoder.token_present [1-9]'):
        check_golden(bundle, {'vision_encoder': Other()})  # type: ignore[dict-item]
    assert check_golden(bundle, engines).passed


def test_a_manifest_that_says_other_than_its_encoder_is_refused(
        bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / 'copy')
    manifest = json.loads((copy / 'manifest.json').read_text())
    for change in ({'tokens_per_camera': 57}, {'tokens_per_camera': 0}, None):
        early = {'early_pruning': {**manifest['early_pruning'], **change}} if change else {}
        rest = {name: value for name, value in manifest.items() if name != 'early_pruning'}
        (copy / 'manifest.json').write_text(json.dumps({**rest, **early}))
        with pytest.raises(BundleError, match="'early_pruning' with 1 to 56 tokens_per_camera"):
            load_bundle(copy)


@pytest.mark.parametrize(('options', 'why'), [
    (['--early-pruning', '0:0.5'], 'go together'),
    (['--early-score', 'FILE'], 'go together'),
    (['--early-pruning', '2:0.5', '--early-score', 'FILE'], r'a block of 0\.\.1 .*found 2:0.5'),
    (['--early-pruning', '0:1', '--early-score', 'FILE'], 'a share between 0 and 1, found 0:1'),
    (['--early-pruning', '1:0.5', '--early-score', 'FILE'], 'weights for block 1 .*found block_0'),
    (['--early-pruning', '0:0.5', '--early-score', 'absent'], 'absent, found no such file'),
    (['--early-pruning', '0:0.5', '--early-score', 'PRUNER'], 'expected an early score in'),
    (['--early-pruning', '0:0.5', '--early-score', 'WIDE'], 'for 64 channels, .*has 32'),
    (['--width', '112', '--early-pruning', '0:0.5', '--early-score', 'FILE'], 'drops nothing'),
])
def test_refusals_name_what_mends_them(
        checkpoint: Path, score_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        options: list[str], why: str) -> None:
    save_early_score({0: torch.randn(64)}, 'for another tower', tmp_path / 'wide')
    files = {'FILE': score_file, 'WIDE': tmp_path / 'wide',
             'PRUNER': checkpoint / 'recon_pruner.safetensors'}
    options = [str(files.get(option, option)) for option in options]
    assert main([*export_options(checkpoint, tmp_path / 'out'), *options]) == 2
    assert re.search(why, capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()


def test_block_and_share_are_two_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['export', '--checkpoint', 'x', '--out', 'y', '--early-pruning', 'one'])
    assert "expected BLOCK:SHARE, for example 1:0.5, found 'one'" in capsys.readouterr().err


def test_train_early_writes_weights_and_compares(
        checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_training_data(tmp_path / 'data')
    out = tmp_path / 'made' / 'score.safetensors'
    command = ['train', 'early', '--checkpoint', str(checkpoint), '--data', str(data), '--out',
               str(out), '--cameras', *CAMERAS, '--height', '112', '--width', '224']
    assert main([*command, '--frames', '6']) == 0
    for block in (0, 1):
        score = load_early_score(out, block)
        assert score.weight.shape == (CHANNELS,) and torch.isfinite(score.weight).all()
        assert score.training == 'ridge regression on 6 frames of data (112 x 224)'
    lines = {line[:line.index('  ')].strip(): line.split()[-3:]
             for line in capsys.readouterr().out.splitlines() if '%' in line}
    assert lines['chance'] == ['50.0%', '50.0%', '50.0%']
    shares = {name: float(cells[1].rstrip('%')) for name, cells in lines.items()
              if name != 'windows kept by'}
    assert max(shares.values()) == shares['truth'] and 'block 1: fitted' in shares
    assert main([*command, '--blocks', '2']) == 2
    assert '--blocks 2: this vision tower has 3 blocks' in capsys.readouterr().err
    with pytest.raises(ExportError, match='fastdrive train early --blocks 2'):
        load_early_score(out, 2)
