# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""nuScenes without the devkit: poses, categories, splits, and folders that cannot be read."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_nuscenes import CATEGORIES
from make_nuscenes import FIRST_FRONT
from make_nuscenes import MINI
from make_nuscenes import SPEED_MPS
from make_nuscenes import T0_US
from make_nuscenes import TINY
from make_nuscenes import make_nuscenes

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.data.drivable import rasterize
from fastdrive_ros.data.nuscenes import kind_of
from fastdrive_ros.data.nuscenes import read_picture
from fastdrive_ros.data.nuscenes_ego import can_bus_track
from fastdrive_ros.data.nuscenes_ego import thinned
from fastdrive_ros.data.nuscenes_ego import track_from_poses
from fastdrive_ros.data.nuscenes_folder import check_folder
from fastdrive_ros.data.nuscenes_folder import our_split
from fastdrive_ros.data.records import DataError


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of its own, to break."""
    return make_nuscenes(tmp_path / 'root', TINY[:1])


def pose_row(stamp_us: int, x_m: float, y_m: float, yaw_rad: float) -> dict[str, Any]:
    x, y, z, w = from_yaw(yaw_rad)
    return {'timestamp': stamp_us, 'translation': [x_m, y_m, 0.0], 'rotation': [w, x, y, z]}


def test_every_category_of_nuscenes_has_a_class():
    kinds = {name: kind_of(name) for name in CATEGORIES}
    assert set(kinds.values()) <= set(CLASSES)
    assert kinds['vehicle.car'] == kinds['vehicle.emergency.police'] == 'CAR'
    assert kinds['vehicle.trailer'] == kinds['vehicle.construction'] == 'TRUCK'
    assert kinds['vehicle.bus.bendy'] == 'BUS'
    assert kinds['vehicle.motorcycle'] == kinds['vehicle.bicycle'] == 'BIKE'
    assert kinds['human.pedestrian.stroller'] == 'PEDESTRIAN'
    assert kinds['movable_object.trafficcone'] == 'FENCE'
    with pytest.raises(DataError, match="unknown category 'vehicle.hovercraft'"):
        kind_of('vehicle.hovercraft')


def test_velocities_are_the_way_between_poses_in_the_vehicles_own_axes():
    # Along y at 5 m/s, looking along y, a pose every 10 ms, in any order, one of them twice.
    rows = [pose_row(T0_US + i * 10_000, 0.0, 0.05 * i, math.pi / 2) for i in (3, 0, 1, 2, 4, 2)]
    track = track_from_poses(rows)
    assert track.stamps_ns.tolist() == [(T0_US + i * 10_000) * 1000 for i in range(5)]
    np.testing.assert_allclose(track.velocities_mps, [[5.0, 0.0, 0.0]] * 5, atol=1e-9)
    np.testing.assert_allclose(track.angular_velocities_radps, 0.0, atol=1e-12)


def test_yaw_rate_across_the_half_turn_where_quaternions_change_sign():
    rows = [pose_row(T0_US + i * 100_000, 0.0, 0.0, math.pi - 0.15 + 0.1 * i) for i in range(4)]
    rows[2]['rotation'] = [-value for value in rows[2]['rotation']]
    rates = track_from_poses(rows).angular_velocities_radps
    np.testing.assert_allclose(rates, [[0.0, 0.0, 1.0]] * 4, atol=1e-9)


def test_a_single_pose_stands_still():
    track = track_from_poses([pose_row(T0_US, 1.0, 2.0, 0.5)])
    assert track.velocities_mps.tolist() == [[0.0, 0.0, 0.0]]


def test_a_thinned_track_has_no_gap_below_the_period():
    # 160 Hz in bursts of three, as seven sensors give it.
    stamps_us = [T0_US + i * 20_000 + j for i in range(20) for j in (0, 400, 7_000)]
    track = thinned(track_from_poses([pose_row(at, 0.0, 0.0, 0.0) for at in stamps_us]), 50.0)
    assert np.diff(track.stamps_ns).min() >= 20_000_000
    assert len(track.stamps_ns) == 20


def test_the_can_bus_gives_velocities_where_it_was_recording(tmp_path: Path):
    root = make_nuscenes(tmp_path / 'root', TINY[:1], can_bus=True)
    track = can_bus_track(root, 'scene-0061')
    assert np.diff(track.stamps_ns).tolist() == [20_000_000] * 175
    assert track.velocities_mps[3].tolist() == [SPEED_MPS + 0.5, 0.0, 0.0]
    assert can_bus_track(root, 'scene-0161') is None  # one of those that have no CAN bus data
    (root / 'can_bus' / 'scene-0061_pose.json').write_text('[{"utime": 1}]')
    with pytest.raises(DataError, match=r'scene-0061_pose.json is damaged .*can_bus.zip'):
        can_bus_track(root, 'scene-0061')


def test_the_drivable_raster_lies_as_the_records_say():
    # From 10 to 20 m ahead and 0 to 5 m to the left of a vehicle at (100, 50) that looks along y.
    ring = np.array([(100.0, 60.0), (100.0, 70.0), (95.0, 70.0), (95.0, 60.0)])
    grid = rasterize([[ring]], 100.0, 50.0, math.pi / 2)
    rows, columns = np.flatnonzero(grid.any(axis=1)), np.flatnonzero(grid.any(axis=0))
    assert (rows[0], rows[-1]) == pytest.approx((256 - 100, 256 - 50), abs=1)
    assert (columns[0], columns[-1]) == pytest.approx((256 - 25, 256), abs=1)
    assert set(np.unique(grid)) == {0, 255}
    assert not rasterize([[ring]], 1000.0, 50.0, 0.0).any()


def test_a_hole_in_an_area_is_not_drivable_unless_another_area_covers_it():
    outer = np.array([(-20.0, -20.0), (20.0, -20.0), (20.0, 20.0), (-20.0, 20.0)])
    hole = outer / 4
    assert rasterize([[outer, hole]], 0.0, 0.0, 0.3)[256, 256] == 0
    assert rasterize([[outer, hole], [hole]], 0.0, 0.0, 0.3)[256, 256] == 255


def test_splits_follow_the_official_ones():
    train = [f'scene-{i:04d}' for i in range(25, 0, -1)]
    official = {'train': train, 'val': ['scene-0100'], 'test': ['scene-0200']}
    assert [name for name in sorted(train) if our_split(name, official) == 'val'] == [
        'scene-0001', 'scene-0011', 'scene-0021']
    assert our_split('scene-0002', official) == 'train'
    assert our_split('scene-0100', official) == our_split('scene-0200', official) == 'test'
    with pytest.raises(DataError, match='scene-0300 is in no official split'):
        our_split('scene-0300', official)


def test_a_picture_keeps_its_bytes_and_a_damaged_one_is_none(broken: Path):
    row = {'filename': FIRST_FRONT, 'timestamp': 7, 'height': 54, 'width': 96}
    jpeg = (broken / FIRST_FRONT).read_bytes()
    assert read_picture(broken, row).jpeg == jpeg
    assert read_picture(broken, row).stamp_ns == 7000
    assert read_picture(broken, {**row, 'width': 1600}) is None
    for damage in (jpeg[:len(jpeg) // 2], b'', b'no picture'):
        (broken / FIRST_FRONT).write_bytes(damage)
        assert read_picture(broken, row) is None


def test_a_whole_folder_says_its_version(broken: Path):
    assert check_folder(broken, None) == check_folder(broken, MINI) == MINI


def test_root_that_does_not_exist(tmp_path: Path):
    with pytest.raises(DataError, match='no nuScenes at .*nowhere: the folder does not exist'):
        check_folder(tmp_path / 'nowhere', None)


def test_root_without_any_version(tmp_path: Path):
    with pytest.raises(DataError, match=r'which version\? .* has none of them: unpack v1.0-mini'):
        check_folder(tmp_path, None)


def test_root_with_two_versions(broken: Path):
    (broken / 'v1.0-trainval').mkdir()
    with pytest.raises(DataError, match='has v1.0-mini, v1.0-trainval: choose with --version'):
        check_folder(broken, None)


def test_unknown_version(broken: Path):
    with pytest.raises(DataError, match="unknown version 'v2.0': known are v1.0-mini, .* has "
                                        'v1.0-mini'):
        check_folder(broken, 'v2.0')


def test_version_that_is_not_there(broken: Path):
    with pytest.raises(DataError, match='v1.0-trainval does not exist; .* has v1.0-mini: .*'
                                        'v1.0-trainval_meta.tgz'):
        check_folder(broken, 'v1.0-trainval')


def test_missing_tables_are_named(broken: Path):
    for table in ('ego_pose', 'map'):
        (broken / MINI / f'{table}.json').unlink()
    with pytest.raises(DataError, match=r'lacks ego_pose.json, map.json: unpack v1.0-mini.tgz'):
        check_folder(broken, MINI)


def test_missing_map_mask(broken: Path):
    next((broken / 'maps').glob('*.png')).unlink()
    with pytest.raises(DataError, match='png is missing, the devkit wants the maps: unpack'):
        check_folder(broken, MINI)


def test_tables_without_pictures(broken: Path):
    shutil.rmtree(broken / 'samples')
    with pytest.raises(DataError, match=r'no pictures \(samples/ is missing\): unpack v1.0-mini'):
        check_folder(broken, MINI)
    (broken / MINI).rename(broken / 'v1.0-trainval')
    with pytest.raises(DataError, match='unpack one of v1.0-trainval01_blobs.tgz to'):
        check_folder(broken, None)


@pytest.mark.parametrize('content', ['[{"token": "a"', '{"rows": []}', '[1, 2]'])
def test_damaged_map_table(broken: Path, content: str):
    (broken / MINI / 'map.json').write_text(content)
    with pytest.raises(DataError, match=r'map.json is damaged .*unpack v1.0-mini.tgz'):
        check_folder(broken, MINI)
