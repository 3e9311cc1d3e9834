# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive evaluate` from end to end on small drives: figures by hand, resuming, refusing."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_scene
from make_inputs import T0_NS
from tiny_bundle import HIDDEN_SIZE
from tiny_bundle import NUM_TOKENS
from tiny_bundle import PATCH
from tiny_bundle import write_tiny_bundle

pytest.importorskip('pyarrow', reason="datasets need pip install 'fastdrive_ros[data]'")
pytest.importorskip('matplotlib', reason="plots need pip install 'fastdrive_ros[viz]'")

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.ego import ego_state_at
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.tools.cli import USER_ERROR
from fastdrive_ros.tools.cli import main
from fastdrive_ros.tools.evaluate_pool import evaluate_here
from fastdrive_ros.tools.evaluate_rows import wanted_rows
from fastdrive_ros.tools.evaluate_store import EvaluationStore
from fastdrive_ros.tools.evaluate_store import SceneResult
from fastdrive_ros.tools.evaluate_worker import Job
from fastdrive_ros.tools.evaluate_worker import SceneEvaluator
from fastdrive_ros.tools.evaluate_worker import Task

METHODS = ('none', 'recon', 'vispruner', 'vla_pruner')
FRAMES = 8
HALF_SECOND_NS = 500_000_000


def write_drives(root: Path, drives: int = 3, masks: bool = True,
                 cameras: tuple[str, ...] = NUSCENES_CAMERAS) -> Path:
    """Write test drives of eight frames on the beat of their odometry."""
    header = DatasetHeader('drives', 'metadrive', cameras, WIDTH, HEIGHT, 2.0)
    with DatasetWriter(root, header, print).shard('test', 0) as shard:
        for number in range(drives):
            scene, frames = make_scene(f'drive-{number}', FRAMES, number, masks=masks,
                                       cameras=cameras)
            shard.add(scene, [dataclasses.replace(frame, stamp_ns=T0_NS + i * HALF_SECOND_NS)
                              for i, frame in enumerate(frames)])
    return root


@pytest.fixture(scope='module')
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drives(tmp_path_factory.mktemp('drives') / 'three')


def command(bundle: Path, data: Path, out: Path, *more: str) -> int:
    return main(['evaluate', '--bundle', str(bundle), '--data', str(data), '--out', str(out),
                 '--keep', '0.5', *more])


@pytest.fixture(scope='module')
def evaluated(rival_bundle: Bundle, drives: Path,
              tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what two processes made of the three drives."""
    out = tmp_path_factory.mktemp('evaluations') / 'whole'
    assert command(rival_bundle.path, drives, out, '--pruners', *METHODS, '--controls',
                   '--workers', '2') == 0
    return out


def summary_of(out: Path) -> dict[str, Any]:
    return json.loads((out / 'summary.json').read_text())


def figures(out: Path, row: str) -> dict[str, float | None]:
    entry = next(each for each in summary_of(out)['rows'] if each['name'] == row)
    return {name: figure['value'] for name, figure in entry['figures'].items()}


def scene_file(out: Path, number: int = 0) -> dict[str, np.ndarray]:
    with np.load(out / 'scenes' / f'drive-{number}.npz') as arrays:
        return dict(arrays)


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == USER_ERROR
    return capsys.readouterr().err


def test_everything_is_said_that_the_figures_hang_on(evaluated: Path):
    summary = summary_of(evaluated)
    # Six steps ahead there are frames for the first two of eight; odometry for all.
    assert summary['frames'] == {
        'scenes': 3, 'frames': 24, 'left_out': 0, 'way_known': 24, 'way_and_others_known': 6,
        'way_and_road_known': 24, 'with_masks': 24}
    assert summary['planners'][0]['tokens'] == NUM_TOKENS
    assert summary['planners'][0]['precision'] == 'fp32'
    assert summary['backend'] == 'onnxruntime' and summary['hardware'] and summary['version']
    assert {path.name for path in evaluated.iterdir()} == {
        'evaluation.json', 'summary.json', 'summary.md', 'plots', 'scenes'}
    assert sorted(path.name for path in (evaluated / 'plots').iterdir()) == [
        'rivals_compute.png', 'rivals_quality.png']
    assert [entry['name'] for entry in summary['rows']] == [
        row.name for row in wanted_rows(['rivals'], METHODS, [0.5], controls=True)]


def test_baselines_by_hand(evaluated: Path):
    # The drive is an arc at constant speed: extrapolation is right, chords are 40 sin(t / 8).
    assert figures(evaluated, 'extrapolation')['l2_mean_avg'] == pytest.approx(0.0, abs=1e-4)
    assert figures(evaluated, 'recorded')['l2_mean_avg'] == 0.0
    standing = figures(evaluated, 'standstill')
    chords_m = [40.0 * math.sin(0.0625 * step) for step in range(1, 7)]
    assert standing['l2_at_3s'] == pytest.approx(chords_m[5], rel=1e-5)
    assert standing['l2_mean_2s'] == pytest.approx(np.mean(chords_m[:4]), rel=1e-5)


def test_a_row_plans_what_the_graphs_plan(evaluated: Path, drives: Path, rival_bundle: Bundle):
    engines = load_engines(rival_bundle, graphs=('perception', 'planner'), num_threads=1).engines
    evaluator = SceneEvaluator(Job(drives, (rival_bundle.path,), ('recon',), 0.0, 'auto', True))
    dataset = Dataset(drives)
    scene, frames = dataset.read(dataset.drives('test')[1])
    stored = scene_file(evaluated, 1)['row/rivals/recon@0.5/waypoints']
    extrapolated = scene_file(evaluated, 1)['row/extrapolation/waypoints']
    for i in (0, 5):
        batch = evaluator._batch(frames[i])
        out = engines['perception'].run({
            'images': batch.images, 'camera_present': batch.present,
            'num_kept_tokens': np.array(24, np.int64)})
        residual = engines['planner'].run({
            'kept_tokens': out['kept_tokens'], 'kept_indices': out['kept_indices'],
            'ego_history': ego_state_at(scene, frames[i].stamp_ns).history})['waypoint_residuals']
        np.testing.assert_allclose(stored[i], extrapolated[i] + residual, atol=1e-5)


def test_the_budget_is_kept_by_all(evaluated: Path):
    for entry in summary_of(evaluated)['rows']:
        if entry['planner'] and not entry['control']:
            assert (entry['num_tokens'], entry['num_kept']) == (
                NUM_TOKENS, 24 if entry['keep_ratio'] == 0.5 else NUM_TOKENS)
    for method in METHODS[1:]:
        assert (scene_file(evaluated)[f'row/rivals/{method}@0.5/kept'] == 24).all()


def test_foreground_by_hand(evaluated: Path):
    # Masks are half foreground: 24 of 48 tokens, which fits 24 exactly.
    found = figures(evaluated, 'rivals/none')
    assert found['foreground_recall'] == 100 and found['kept_foreground_share'] == 50
    recon = figures(evaluated, 'rivals/recon@0.5')
    assert recon['fits'] == 100
    # As many are kept as are foreground, so share and recall are the same count.
    assert recon['foreground_recall'] == pytest.approx(recon['kept_foreground_share'])
    assert recon['foreground_recall'] == recon['foreground_recall_fits']
    shuffled = figures(evaluated, 'rivals/none+shuffled_images')
    assert shuffled['foreground_recall'] is None


def test_controls_change_what_the_planner_is_shown(evaluated: Path):
    arrays = scene_file(evaluated)
    real = arrays['row/rivals/none/waypoints']
    for control in ('shuffled_images', 'grey_images', 'no_history'):
        assert not np.allclose(arrays[f'row/rivals/none+{control}/waypoints'], real, atol=1e-6)


def test_compute_by_hand(evaluated: Path):
    macs = {entry['name']: entry['macs'] for entry in summary_of(evaluated)['rows']}
    assert macs['extrapolation'] is None
    encoder = NUM_TOKENS * HIDDEN_SIZE * 3 * PATCH * PATCH
    assert encoder < macs['rivals/recon@0.5'] < macs['rivals/none']
    # vla_pruner pays for three layers of all tokens, recon for one dot product a token.
    assert macs['rivals/recon@0.5'] < macs['rivals/vla_pruner@0.5'] < macs['rivals/none']
    assert macs['rivals/none+grey_images'] == macs['rivals/none']


def test_an_interrupted_run_goes_on(rival_bundle: Bundle, drives: Path, evaluated: Path,
                                    tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / 'out'
    shutil.copytree(evaluated, out, ignore=shutil.ignore_patterns('*.npz', 'summary*', 'plots'))
    identity = json.loads((out / 'evaluation.json').read_text())
    store = EvaluationStore(out, {name: value for name, value in identity.items()
                                  if name != 'planners'}, identity['planners'])
    rows = wanted_rows(['rivals'], METHODS, [0.5], controls=True)
    found = Dataset(drives).drives('test')
    tasks = [Task(f'drive-{i}', drive, found[i - 1], i, rows) for i, drive in enumerate(found)]

    def interrupted(result: SceneResult) -> None:
        store.add(result)
        raise KeyboardInterrupt

    job = Job(drives, (rival_bundle.path,), METHODS, 0.0, 'onnxruntime', True)
    with pytest.raises(KeyboardInterrupt):
        evaluate_here(job, tasks, 1, interrupted, lambda frames: None)
    first = out / 'scenes' / 'drive-0.npz'
    assert [path.name for path in (out / 'scenes').iterdir()] == [first.name]
    written_ns = first.stat().st_mtime_ns
    assert command(rival_bundle.path, drives, out, '--pruners', *METHODS, '--controls',
                   '--workers', '1') == 0
    assert first.stat().st_mtime_ns == written_ns
    for number in range(3):
        whole, resumed = scene_file(evaluated, number), scene_file(out, number)
        assert whole.keys() == resumed.keys()
        for name, array in whole.items():
            np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    assert summary_of(out)['rows'] == summary_of(evaluated)['rows']
    # Nothing is missing now, and one more method is added beside the others.
    capsys.readouterr()
    assert command(rival_bundle.path, drives, out, '--pruners', 'random', '--limit', '1') == 0
    added = scene_file(out)
    assert 'row/rivals/random@0.5/kept' in added
    np.testing.assert_array_equal(added['row/rivals/recon@0.5/error_m'],
                                  scene_file(evaluated)['row/rivals/recon@0.5/error_m'])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last['frames']['scenes'] == 1 and set(last['l2_mean_avg_m']) == {
        'extrapolation', 'standstill', 'recorded', 'rivals/none', 'rivals/random@0.5'}


def test_without_masks_the_foreground_is_not_known(tiny_bundle: Bundle, tmp_path: Path):
    data = write_drives(tmp_path / 'bare', drives=2, masks=False)
    out = tmp_path / 'out'
    assert command(tiny_bundle.path, data, out, '--pruners', 'recon', '--workers', '1') == 0
    assert summary_of(out)['frames']['with_masks'] == 0
    assert figures(out, 'tiny/recon@0.5')['foreground_recall'] is None
    assert 'nothing is known of the foreground' in (out / 'summary.md').read_text()


def test_planners_that_share_encoder_and_pruner(tiny_bundle: Bundle, drives: Path,
                                                tmp_path: Path):
    twin = shutil.copytree(tiny_bundle.path, tmp_path / 'twin')
    out = tmp_path / 'out'
    assert command(tiny_bundle.path, drives, out, '--pruners', 'recon', '--planner', str(twin),
                   '--limit', '2', '--workers', '1') == 0
    arrays = scene_file(out)
    np.testing.assert_array_equal(arrays['row/tiny/recon@0.5/waypoints'],
                                  arrays['row/twin/recon@0.5/waypoints'])


def test_refusals_of_bundles(tiny_bundle: Bundle, drives: Path, tmp_path: Path,
                             capsys: pytest.CaptureFixture[str]):
    other = write_tiny_bundle(tmp_path / 'other', seed=8).path
    twin = shutil.copytree(tiny_bundle.path, tmp_path / 'tiny')
    out = tmp_path / 'out'
    for more, sentence in (
            (('--planner', str(other)), 'has not the same vision_encoder, recon_pruner'),
            (('--planner', str(twin)), 'are folders of the same name'),
            (('--pruners', 'recom'), 'no pruner recom, there are none, random'),
            (('--pruners', 'fastv'), 'needs the graphs planner_embed.*--rivals')):
        error = refusal(capsys, command(tiny_bundle.path, drives, out, *more))
        assert re.search(sentence, error), error
    assert not out.exists()


def test_a_planner_with_other_steps(tiny_bundle_copy: Bundle, drives: Path, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]):
    manifest = json.loads((tiny_bundle_copy.path / 'manifest.json').read_text())
    manifest['planner']['dt_s'] = 0.4
    (tiny_bundle_copy.path / 'manifest.json').write_text(json.dumps(manifest))
    error = refusal(capsys, command(tiny_bundle_copy.path, drives, tmp_path / 'out'))
    assert 'plans 6 waypoints 0.4 s apart, both protocols need 6 or more, 0.5 s apart' in error


def test_refusals_of_data(tiny_bundle: Bundle, drives: Path, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]):
    front = write_drives(tmp_path / 'front', 1, cameras=('CAM_FRONT',))
    single = write_drives(tmp_path / 'single', 1)
    for data, more, sentence in (
            (front, (), 'has no CAM_FRONT_LEFT, CAM_FRONT_RIGHT'),
            (single, ('--controls',), 'pictures of another drive, the split has only one'),
            (drives, ('--split', 'val'), 'has no whole drive in split val'),
            (drives, ('--keep', '1.5', '0'), '--keep 1.5, --keep 0: shares lie between'),
            (drives, ('--camera-floor', '2', '--limit', '0'), '--camera-floor 2, --limit 0')):
        error = refusal(capsys, command(tiny_bundle.path, data, tmp_path / 'out', '--pruners',
                                        'recon', *more))
        assert sentence in error


def test_other_settings_are_another_evaluation(rival_bundle: Bundle, drives: Path,
                                               evaluated: Path,
                                               capsys: pytest.CaptureFixture[str]):
    error = refusal(capsys, command(rival_bundle.path, drives, evaluated, '--camera-floor', '1'))
    assert 'is an evaluation of something else (camera_floor: 0.0, now 1.0)' in error


def test_a_ray_cluster_gives_the_same(rival_bundle: Bundle, drives: Path, evaluated: Path,
                                      tmp_path: Path):
    pytest.importorskip('ray', reason="clusters need pip install 'fastdrive_ros[label]'")
    out = tmp_path / 'out'
    # 'local' is Ray's own word for a cluster that is started for this run.
    assert command(rival_bundle.path, drives, out, '--pruners', *METHODS, '--controls',
                   '--workers', '1', '--address', 'local') == 0
    assert summary_of(out)['rows'] == summary_of(evaluated)['rows']
