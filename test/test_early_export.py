# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bundles whose encoder drops windows: no pruner keeps one, and who says otherwise is refused."""

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

from make_inputs import T0_NS  # noqa: E402
from make_inputs import make_jpeg  # noqa: E402
from make_inputs import make_odometry  # noqa: E402
from make_inputs import make_set  # noqa: E402
from make_training import CAMERAS  # noqa: E402
from make_training import write_training_data  # noqa: E402
from tiny_checkpoint import random_images  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402

from fastdrive_ros.assemble import build_pipeline  # noqa: E402
from fastdrive_ros.assemble import early_pruning_note  # noqa: E402
from fastdrive_ros.config import check_settings  # noqa: E402
from fastdrive_ros.core.latency import StageTimer  # noqa: E402
from fastdrive_ros.core.types import CameraBatch  # noqa: E402
from fastdrive_ros.learn.checkpoint import load_driving_model  # noqa: E402
from fastdrive_ros.learn.early_checks import share_at_stake  # noqa: E402
from fastdrive_ros.learn.early_pruning import EarlyRequest  # noqa: E402
from fastdrive_ros.learn.early_pruning import prune_early  # noqa: E402
from fastdrive_ros.learn.early_score import load_early_score  # noqa: E402
from fastdrive_ros.learn.early_score import save_early_score  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.graphs import export_graph  # noqa: E402
from fastdrive_ros.learn.nano import PRUNER_FILE  # noqa: E402
from fastdrive_ros.learn.precision import require_sure_windows  # noqa: E402
from fastdrive_ros.learn.rival_graphs import vision_attention  # noqa: E402
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
from fastdrive_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from fastdrive_ros.runtime.onnx_file import onnx_specs  # noqa: E402
from fastdrive_ros.tools import bench_bundle  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402

CHANNELS = 32
# 7 x 8 tokens: two windows of 16 tokens and two of 12 a camera; half: one of each.
GRID = 196, 224
NUM_CAMERAS, PER_CAMERA, LEFT = 2, 56, 28


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three vision blocks, full attention in block 1."""
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def score_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some weights for block 0."""
    path = tmp_path_factory.mktemp('score') / 'early_score.safetensors'
    save_early_score({0: torch.linspace(-1.0, 1.0, CHANNELS)}, 'not fitted', path)
    return path


def export_options(checkpoint: Path, out: Path) -> list[str]:
    """Return a whole command without early pruning."""
    return ['export', '--checkpoint', str(checkpoint), '--out', str(out), '--cameras', *CAMERAS,
            '--height', str(GRID[0]), '--width', str(GRID[1])]


@pytest.fixture(scope='module')
def bundle(checkpoint: Path, score_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What `fastdrive export --early-pruning 0:0.5` writes."""
    out = tmp_path_factory.mktemp('out') / 'early'
    assert main([*export_options(checkpoint, out), '--early-pruning', '0:0.5', '--early-score',
                 str(score_file)]) == 0
    return load_bundle(out)


@pytest.fixture(scope='module')
def engines(bundle: Bundle, checkpoint: Path, score_file: Path,
            tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Engine]:
    """
    Every graph, checked against the golden outputs or, vision_attention, against torch.

    Of --rivals that is the only graph that early pruning changes; the others take minutes.
    """
    loaded = load_engines(bundle, backend='onnxruntime', graphs=tuple(bundle.manifest['graphs']),
                          num_threads=1).engines
    model = load_driving_model(checkpoint, checkpoint / PRUNER_FILE, CAMERAS, *GRID)
    early = prune_early(model.vision, EarlyRequest(0, 0.5, score_file))
    images = random_images(NUM_CAMERAS, *GRID)
    graph = vision_attention(dataclasses.replace(model, early=early), {'images': images})
    path = tmp_path_factory.mktemp('graph') / 'vision_attention.onnx'
    export_graph(graph.module, graph.inputs, graph.outputs, {}, path)
    attention = OnnxEngine(path, onnx_specs(path), num_threads=1)
    found = attention.run({'images': images.numpy()})
    for name, value in zip(graph.outputs, graph.module(images), strict=True):
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-4)
    return {**loaded, 'vision_attention': attention, 'plan_pruner': loaded['recon_pruner']}


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
        engines: Mapping[str, Engine], method: str, present: list[bool],
        camera_floor: float) -> None:
    assert set(perception_graphs(method)) <= set(engines)
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


@pytest.mark.parametrize('fused', [False, True])
def test_the_vehicle_keeps_what_survives_and_no_more(bundle: Bundle, fused: bool) -> None:
    assembly = build_pipeline(check_settings({
        'bundle': str(bundle.path), 'backend': 'onnxruntime', 'fuse_perception': fused}))
    for i in range(-20, 5):
        assembly.ego.push(make_odometry(T0_NS + i * 100_000_000))
    pipeline, settings = assembly.pipeline, assembly.pipeline.settings
    pictures = {camera: make_jpeg(*GRID, seed=i) for i, camera in enumerate(CAMERAS)}
    for keep_ratio, missing, kept in ((0.25, (), 28), (0.5, (), 2 * LEFT), (1.0, (), 2 * LEFT),
                                      (1.0, ('CAM_BACK',), LEFT), (0.25, ('CAM_BACK',), 14)):
        pipeline.settings = dataclasses.replace(settings, keep_ratio=keep_ratio)
        result = pipeline.run(make_set(CAMERAS, missing, data=pictures), assembly.ego.at,
                              lambda: T0_NS)
        assert result.refusal is None and result.missing == missing
        assert result.num_tokens == (2 - len(missing)) * PER_CAMERA
        assert len(result.kept.indices) == kept
        assert np.isfinite(result.kept.scores[result.kept.indices]).all()
    pipeline.close()


def test_the_golden_check_blames_an_encoder_that_keeps_other_windows(
        bundle: Bundle, engines: Mapping[str, Engine]) -> None:
    class Other:
        def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            out = engines['vision_encoder'].run(feeds)
            return {name: np.roll(value, 4, axis=0) for name, value in out.items()}

    # Windows of 16 and of 12 tokens a camera, moved on by four.
    kept = r'in common: vision_encoder [0-8]?[0-9]\.[0-9]% \(limit 99'
    with pytest.raises(EngineError, match=kept):
        check_golden(bundle, {'vision_encoder': Other()})  # type: ignore[dict-item]
    own = {graph: engines[graph] for graph in ('vision_encoder', 'recon_pruner', 'perception')}
    assert check_golden(bundle, own).passed


def test_in_bf16_windows_may_change_places_as_far_as_rounding_goes(
        checkpoint: Path, score_file: Path, tmp_path: Path) -> None:
    out = tmp_path / 'half'
    assert main([*export_options(checkpoint, out), '--early-pruning', '0:0.5', '--early-score',
                 str(score_file), '--precision', 'bf16']) == 0
    manifest = load_bundle(out).manifest
    rounding = manifest['graphs']['vision_encoder']['rounding']
    assert 1e-4 < rounding['relative_l2'] < 0.1
    assert manifest['graphs']['perception']['export_check']['relative_l2'] < 1e-3
    tolerance = manifest['golden']['tolerance']
    assert tolerance['encoded_overlap'] == pytest.approx(
        min(0.99, 1 - 3 * (1 - rounding['encoded_overlap'])))
    assert 0.5 <= tolerance['encoded_overlap'] and tolerance['kept_overlap'] >= 0.9
    require_sure_windows('bf16', 0.16)
    with pytest.raises(ExportError, match='in bf16 rounding may displace 17% of the tokens'):
        require_sure_windows('bf16', 0.17)


def test_the_bench_shows_only_tokens_that_there_are(
        bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = ['bench', 'model', '--bundle', str(bundle.path), '--repeats', '1']
    assert main([*command, '--kept', str(2 * LEFT)]) == 2
    assert f'expected 1 to 55 of the 56 tokens that the encoder of {bundle.name} leaves (N = 112' \
        in capsys.readouterr().err
    result = bench_bundle.bench(bundle.path, (20,), repeats=1)
    assert [row['kept'] for row in result['rows'][:2]] == [2 * LEFT, 20]
    assert result['rows'][1]['macs'] < result['rows'][0]['macs'] * 2


def test_what_is_at_stake_is_what_others_may_displace(checkpoint: Path, score_file: Path) -> None:
    model = load_driving_model(checkpoint, checkpoint / PRUNER_FILE, CAMERAS, *GRID)
    early = prune_early(model.vision, EarlyRequest(0, 0.5, score_file))
    # A camera's windows: two of 16 tokens, two of 12; one of each is kept.
    scores = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 4.0, 1.0, 1.5]])
    for error, tokens in ((0.0, 0), (0.2, 0), (0.26, 12), (0.6, 24), (1.9, 24), (2.1, 56)):
        assert share_at_stake(early, scores, error) == pytest.approx(tokens / (2 * LEFT))


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
