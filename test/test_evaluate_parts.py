# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation is made of: rows, truth of frames, facts on the disk, the summary."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from make_drives import make_scene
from make_inputs import T0_NS

pytest.importorskip('pyarrow', reason="datasets need pip install 'fastdrive_ros[data]'")

from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.metrics.foreground import TokenShares
from fastdrive_ros.metrics.protocols import RowFacts
from fastdrive_ros.tools.evaluate_facts import FactCollector
from fastdrive_ros.tools.evaluate_facts import Plan
from fastdrive_ros.tools.evaluate_rows import Row
from fastdrive_ros.tools.evaluate_rows import wanted_rows
from fastdrive_ros.tools.evaluate_store import EvaluationStore
from fastdrive_ros.tools.evaluate_store import SceneResult
from fastdrive_ros.tools.evaluate_summary import counts
from fastdrive_ros.tools.evaluate_summary import summarise
from fastdrive_ros.tools.evaluate_table import markdown
from fastdrive_ros.tools.evaluate_truth import frame_truth
from fastdrive_ros.tools.evaluate_truth import token_shares

SECOND_NS = 1_000_000_000
FIXED = {'dataset': {'name': 'drives'}, 'backend': 'onnxruntime'}


def drive(num_frames: int = 9) -> tuple[SceneRecord, list[FrameRecord]]:
    """Return a drive whose frames lie at T0, T0 + 0.5 s, ...: on the beat of its odometry."""
    scene, frames = make_scene('one', num_frames)
    return scene, [dataclasses.replace(frame, stamp_ns=T0_NS + i * SECOND_NS // 2)
                   for i, frame in enumerate(frames)]


def result(name: str, error_m: float, rows: tuple[str, ...], frames: int = 2) -> SceneResult:
    """Return a scene in which every row is off by the same distance, plus 0.1 m a row."""
    collector = FactCollector(rows)
    scene, recorded = drive()
    for i in range(frames):
        truth = frame_truth(scene, recorded, i)
        collector.add(truth, TokenShares(np.ones(4), np.zeros(4)), [
            Plan(np.column_stack([truth.waypoints + (0.0, error_m + 0.1 * k), np.zeros(6)]),
                 4, 2, np.array([0, 3])) for k in range(len(rows))])
    facts, found = collector.facts()
    return SceneResult(name, 0, facts, found)


def test_rows_have_names_that_are_keys():
    rows = wanted_rows(['nano'], ['none', 'recon'], [0.5, 0.25, 1.0], controls=True)
    assert [row.name for row in rows] == [
        'extrapolation', 'standstill', 'recorded', 'nano/none', 'nano/recon@0.5',
        'nano/recon@0.25', 'nano/none+shuffled_images', 'nano/none+grey_images',
        'nano/none+no_history']
    assert [row.name for row in wanted_rows(['a', 'b'], ['recon'], [0.5], False)][3:] == [
        'a/none', 'a/recon@0.5', 'b/none', 'b/recon@0.5']


def test_the_others_are_where_later_frames_saw_them():
    scene, frames = drive()
    # A car that stands at (20, 3) of the map; the vehicle is on its arc, at yaw 0.25 rad/s.
    frames = [dataclasses.replace(frame, agents=(
        Agent('a', 'CAR', (20.0 + i, 3.0, 0.8), (4.0, 2.0, 1.6), 0.5, (0.0, 0.0)),
        Agent('b', 'FENCE', (5.0, 0.0, 0.5), (1.0, 1.0, 1.0), 0.0, (0.0, 0.0)),
        Agent('c', 'PEDESTRIAN', (6.0, 0.0, 0.9), (0.6, 0.6, 1.8), 0.0, (0.0, 0.0)),
        Agent('far', 'CAR', (220.0, 0.0, 0.8), (4.0, 2.0, 1.6), 0.0, (0.0, 0.0))))
        for i, frame in enumerate(frames)]
    truth = frame_truth(scene, frames, 2)
    assert truth.known.all() and truth.boxes_known.all() and truth.boxes.shape == (6, 2, 5)
    # At the first step the car is where frame 3 saw it, seen from base_link of frame 2.
    yaw_rad = 0.25
    dx, dy = 23.0 - 20.0 * math.sin(yaw_rad), 3.0 - 20.0 * (1 - math.cos(yaw_rad))
    assert truth.boxes[0, 0] == pytest.approx((
        math.cos(yaw_rad) * dx + math.sin(yaw_rad) * dy,
        math.cos(yaw_rad) * dy - math.sin(yaw_rad) * dx, 0.5 - yaw_rad, 4.0, 2.0))
    x_m, y_m = truth.boxes[0, 0, :2]
    row, column = int(256 - x_m / 0.2), int(256 - y_m / 0.2)
    assert truth.vehicles[0, row, column]
    # The walker is no vehicle: 4 x 2 m of car are 200 cells, its outline one more all round.
    assert 200 <= truth.vehicles[0].sum() <= 280


def test_steps_without_a_frame_are_not_known():
    scene, frames = drive(5)
    truth = frame_truth(scene, frames, 2)
    # Frames 3 and 4 are there; the odometry goes on for 3 s after the last frame.
    assert truth.boxes_known.tolist() == [True] * 2 + [False] * 4 and truth.known.all()
    assert np.isnan(truth.boxes[2:]).all() and not truth.vehicles[2:].any()
    gap = frames[:3] + [dataclasses.replace(frames[3], stamp_ns=frames[3].stamp_ns + SECOND_NS // 4
                                            )] + frames[4:]
    assert frame_truth(scene, gap, 2).boxes_known.tolist() == [False, True] + [False] * 4


def test_a_frame_without_a_raster_has_no_boundary():
    scene, frames = drive(2)
    assert frame_truth(scene, frames, 0).blocked.shape == (1, 512, 512)
    frames[0] = dataclasses.replace(frames[0], drivable_png=None)
    assert frame_truth(scene, frames, 0).blocked is None


def test_masks_become_shares_of_tokens():
    _, frames = drive(1)
    cameras = tuple(frames[0].pictures)
    shares = token_shares(frames[0], cameras, np.array([True] * 5 + [False]), 2, 4)
    # make_mask: the lower half is road, with a car of 1/32 of the picture in it.
    assert shares.foreground.tolist() == ([0.0] * 4 + [1.0] * 4) * 5 + [0.0] * 8
    assert shares.things.sum() == pytest.approx(5 * 8 / 32)
    bare = dataclasses.replace(frames[0], pictures={
        name: dataclasses.replace(picture, mask_png=None)
        for name, picture in frames[0].pictures.items()})
    assert token_shares(bare, cameras, np.ones(6, bool), 2, 4) is None


def test_a_scene_comes_back_as_it_was_and_takes_more_rows(tmp_path: Path):
    store = EvaluationStore(tmp_path, FIXED, {'nano': 'aa'})
    first = result('scene-0001', 0.5, ('extrapolation', 'nano/none'))
    store.add(first)
    assert store.missing('scene-0001', ['nano/none', 'nano/recon@0.5']) == ['nano/recon@0.5']
    assert store.missing('scene-0002', ['nano/none']) == ['nano/none']
    store.add(result('scene-0001', 0.7, ('nano/recon@0.5',)))
    found = store.read('scene-0001')
    assert list(found.rows) == ['extrapolation', 'nano/none', 'nano/recon@0.5']
    for name, row in first.rows.items():
        for item in dataclasses.fields(RowFacts):
            np.testing.assert_array_equal(getattr(row, item.name),
                                          getattr(found.rows[name], item.name))
    assert [path.name for path in (tmp_path / 'scenes').iterdir()] == ['scene-0001.npz']


def test_a_damaged_scene_is_named(tmp_path: Path):
    store = EvaluationStore(tmp_path, FIXED, {})
    (tmp_path / 'scenes' / 'one.npz').write_bytes(b'PK no archive')
    with pytest.raises(DataError, match='one.npz is damaged .*remove it and run the same'):
        store.read('one')


def test_other_settings_need_another_folder(tmp_path: Path):
    EvaluationStore(tmp_path, FIXED, {'nano': 'aa'})
    EvaluationStore(tmp_path, FIXED, {'nano': 'aa', 'other': 'bb'})  # one more may join
    EvaluationStore(tmp_path, FIXED, {'nano': 'aa'})
    kept = json.loads((tmp_path / 'evaluation.json').read_text())
    assert kept['planners'] == {'nano': 'aa', 'other': 'bb'}
    with pytest.raises(DataError, match='is an evaluation of something else .*"tensorrt".*--out'):
        EvaluationStore(tmp_path, FIXED | {'backend': 'tensorrt'}, {'nano': 'aa'})
    with pytest.raises(DataError, match='planners: .*"nano": "aa".*now .*"nano": "cc"'):
        EvaluationStore(tmp_path, FIXED, {'nano': 'cc'})
    (tmp_path / 'evaluation.json').write_text('{')
    with pytest.raises(DataError, match='is not JSON'):
        EvaluationStore(tmp_path, FIXED, {})


def test_the_summary_says_figures_and_differences_by_hand():
    rows = (Row('extrapolation'), Row('none', 'nano'), Row('recon', 'nano', 0.5))
    names = tuple(row.name for row in rows)
    entries = summarise([result(f's{i}', 0.2, names) for i in range(3)], rows,
                        {'nano/none': 100, 'nano/recon@0.5': 60})
    base, unpruned, recon = entries
    # Off by 0.2, 0.3 and 0.4 m in every frame of every scene: no spread.
    for entry, error_m in ((base, 0.2), (unpruned, 0.3), (recon, 0.4)):
        assert entry['figures']['l2_mean_avg'] == pytest.approx(
            {'value': error_m, 'low': error_m, 'high': error_m, 'frames': 6}, abs=1e-5)
    assert recon['against_none']['l2_mean_avg']['difference']['value'] == pytest.approx(
        0.1, abs=1e-5)
    assert recon['against_none']['l2_mean_avg']['relative_percent']['high'] == pytest.approx(
        100 / 3, abs=0.01)
    assert base['against_none']['l2_mean_avg']['difference']['value'] == pytest.approx(
        -0.1, abs=1e-5)
    assert recon['figures']['foreground_recall']['value'] == 50.0
    assert (recon['num_kept'], recon['num_tokens'], recon['macs']) == (2, 4, 60)
    assert base['macs'] is None and base['keep_ratio'] is None
    json.dumps(entries, allow_nan=False)


def test_the_page_names_what_was_counted():
    rows = (Row('extrapolation'), Row('none', 'nano'), Row('recon', 'nano', 0.5),
            Row('none', 'nano', control='grey_images'))
    results = [result(f's{i}', 0.2, tuple(row.name for row in rows)) for i in range(2)]
    page = markdown({
        'dataset': {'name': 'drives', 'source': 'bag', 'split': 'test'},
        'frames': counts(results), 'planners': [{
            'name': 'nano', 'training': 'Not trained.', 'tokens': 4, 'cameras': 1,
            'precision': 'fp32', 'sha256': 'ab' * 32}],
        'backend': 'onnxruntime', 'device': 'CPU', 'hardware': 'a processor', 'version': '0',
        'commit': None, 'camera_floor': 0.0, 'rules': {'one': 'A rule.'},
        'rows': summarise(results, rows, {row.name: 10 ** 9 for row in rows[1:]})})
    assert '2 scenes, 4 frames, of which 4 count for L2' in page and 'A rule.' in page
    assert '| recon 50 % | 2 | 1.00 | 0.400 [0.400, 0.400] |' in page
    assert '| grey pictures |' in page and '`collision_any_cell_3s`' in page
