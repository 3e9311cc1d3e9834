# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive inspect`: what it says about good bags, poor bags and bags of another world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_bags import PERIOD_NS
from make_bags import write_bag

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import check_settings
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.tools.bag_survey import survey
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_BAG = REPOSITORY.parent / 'shared' / 'data' / 'bags' / 'scene0103_sixcam_lowres_2hz'


def inspect(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(['inspect', str(path), '--json'])
    return code, json.loads(capsys.readouterr().out)


def test_a_good_bag_leads_to_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / 'bag', num_sets=11)
    code, report = inspect(path, capsys)
    assert code == 0
    assert report['preset'] == 'nuscenes_mcap'
    assert report['next'] == f'fastdrive replay {path}'
    camera = report['cameras']['CAM_BACK']
    assert camera['rate_hz'] == 10.0
    assert camera['gap_ms'] == {'min': 100.0, 'p50': 100.0, 'max': 100.0}
    assert camera['size'] == [112, 56]
    assert camera['camera_info'] is None
    assert report['sync']['whole'] == 11
    assert report['sync']['spread_ms']['max'] == 25.0      # six cameras, 5 ms apart
    assert report['odometry']['rate_hz'] == 10.0
    assert report['odometry']['frame_id'] == 'map'
    assert report['troubles'] == []


def test_the_sample_bag(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = inspect(REPOSITORY / 'bags' / 'sim_intersection_10hz', capsys)
    assert code == 0
    assert report['sync'] | {'spread_ms': {}, 'frame_drops': {}, 'missing': {}} == {
        'whole': 110, 'partial': 0, 'refused': 0, 'window_ms': 48.0, 'spread_ms': {},
        'missing': {}, 'frame_drops': {}}
    assert report['cameras']['CAM_FRONT']['size'] == [448, 252]
    assert report['cameras']['CAM_FRONT']['camera_info'] == [448, 252]
    assert report['tf'] == ['/tf_static']


@pytest.mark.skipif(not REAL_BAG.is_dir(), reason=f'real data is not here: {REAL_BAG}')
def test_real_sweeps_span_42_6_ms_and_are_all_whole(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = inspect(REAL_BAG, capsys)
    assert code == 0
    assert report['sync']['whole'] == 23
    assert report['sync']['partial'] == report['sync']['refused'] == 0
    assert report['sync']['spread_ms']['p50'] == pytest.approx(42.6, abs=0.05)
    assert report['cameras']['CAM_FRONT']['size'] == [1600, 900]


def test_five_of_six_cameras_are_plannable_and_the_sixth_is_named(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / 'bag', num_sets=10, cameras=NUSCENES_CAMERAS[:5])
    code, report = inspect(path, capsys)
    assert code == 0
    assert report['cameras_missing'] == {'CAM_BACK_RIGHT': '/CAM_BACK_RIGHT/image_rect_compressed'}
    assert report['sync']['partial'] == 10
    assert 'CAM_BACK_RIGHT is missing' in report['troubles'][0]


def test_no_odometry_is_not_plannable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = inspect(write_bag(tmp_path / 'bag', odometry=False), capsys)
    assert code == 1
    assert report['next'] == ''
    assert any('no odometry' in trouble for trouble in report['troubles'])


def test_odometry_in_bursts_is_told_and_normal(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / 'bag', num_sets=10, odometry_burst=5)
    code, report = inspect(path, capsys)
    assert code == 0
    assert report['odometry']['largest_burst'] == 5
    assert report['odometry']['log_after_stamp_ms'] == {'min': 0.0, 'p50': 200.0, 'max': 400.0}
    assert report['odometry']['rate_hz'] == 10.0
    assert report['troubles'] == []


def test_stamps_of_another_clock_are_told(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / 'bag', log_delay_ns=3_000_000_000)
    _, report = inspect(path, capsys)
    assert report['troubles'][0] == (
        'CAM_FRONT_LEFT: header stamps are 3.0 s before the log times: another clock, and plans '
        'will be refused as old')


def test_no_camera_lists_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_bag(tmp_path / 'bag', cameras=('left', 'right'), topic='/my/{}')
    code, report = inspect(path, capsys)
    assert code == 1
    assert 'image topics of no preset: /my/left, /my/right' in report['troubles'][0]
    assert main(['inspect', str(path)]) == 1
    assert 'no plan can be made on this bag' in capsys.readouterr().out


def test_no_image_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = inspect(write_bag(tmp_path / 'bag', cameras=()), capsys)
    assert code == 1
    assert 'no image topic at all' in report['troubles'][0]


def test_the_window_decides_what_a_sweep_is(tmp_path: Path) -> None:
    with Bag(write_bag(tmp_path / 'bag', num_sets=10)) as bag:
        report = survey(bag, choose_preset(bag), check_settings({'sync.window_ms': 1.0}))
    assert report['sync']['whole'] == 0
    assert report['sync']['refused'] > 0
    assert any('no sweep fits a window of 1 ms' in trouble for trouble in report['troubles'])


def test_the_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['inspect', str(write_bag(tmp_path / 'bag', num_sets=3))]) == 0
    out = capsys.readouterr().out
    assert 'preset nuscenes_mcap' in out
    assert 'CAM_FRONT_LEFT' in out
    assert 'sweeps: 3 whole, 0 partial, 0 refused; stamp spread p50 25.0 ms' in out
    assert out.rstrip().splitlines()[-1].startswith('next: fastdrive replay')
    assert f'{PERIOD_NS / 1e6:.0f}..100' in out
