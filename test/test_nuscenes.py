# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tiny but whole nuScenes through the official devkit: records, dataset, exit codes."""

from __future__ import annotations

import argparse
import json
import re
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_nuscenes import FIRST_FRONT
from make_nuscenes import MINI
from make_nuscenes import OFFSETS_US
from make_nuscenes import SHARED
from make_nuscenes import SPEED_MPS
from make_nuscenes import START_M
from make_nuscenes import T0_US
from make_nuscenes import TINY
from make_nuscenes import TURN_RADPS
from make_nuscenes import arc
from make_nuscenes import make_nuscenes
from make_nuscenes import real_scene
from make_nuscenes import token

from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.ego import future_at
from fastdrive_ros.data.nuscenes import DAMAGED
from fastdrive_ros.data.nuscenes import read_scene
from fastdrive_ros.data.nuscenes_folder import NuscenesFolder
from fastdrive_ros.data.nuscenes_folder import choose_scenes
from fastdrive_ros.data.nuscenes_folder import official_splits
from fastdrive_ros.data.nuscenes_folder import open_nuscenes
from fastdrive_ros.data.nuscenes_folder import our_split
from fastdrive_ros.data.nuscenes_folder import whole_scenes
from fastdrive_ros.data.nuscenes_map import DrivableMaps
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.tools import data_nuscenes

pytest.importorskip('nuscenes', reason='the official devkit (extra [nuscenes]) is not installed')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> NuscenesFolder:
    """A whole folder of two scenes, open; do not alter it."""
    return open_nuscenes(make_nuscenes(tmp_path_factory.mktemp('nuscenes') / 'root'), MINI)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of its own, to break."""
    return make_nuscenes(tmp_path / 'root', TINY[:1])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for pictures."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


def read(folder: NuscenesFolder, scene: str, pool: ThreadPoolExecutor) -> (
        tuple[SceneRecord, list[FrameRecord]]):
    return read_scene(folder, DrivableMaps(folder.root), scene, pool)


def fastdrive_data_nuscenes(*words: object) -> int:
    parser = argparse.ArgumentParser()
    data_nuscenes.add_parser(parser.add_subparsers())
    return data_nuscenes.run(parser.parse_args(['nuscenes', *map(str, words)]))


def test_the_official_val_split_is_never_trained_on():
    official = official_splits()
    ours = {name: our_split(name, official) for names in official.values() for name in names}
    assert {split: list(ours.values()).count(split) for split in ('train', 'val', 'test')} == {
        'train': 630, 'val': 70, 'test': 300}
    assert {ours[name] for name in official['val']} == {'test'}
    # Of the devkit's mini_train, two are of the official val split.
    assert ours['scene-0061'] == 'train' and ours['scene-1100'] == 'val'
    assert ours['scene-0553'] == ours['scene-0796'] == ours['scene-0103'] == 'test'


def test_stamps_and_bytes_are_those_of_nuscenes(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    _, frames = read(tiny, 'scene-0061', pool)
    assert [frame.index for frame in frames] == list(range(8))
    assert [frame.stamp_ns for frame in frames] == [(T0_US + i * 500_000) * 1000
                                                    for i in range(8)]
    for frame in frames:
        assert {name: (picture.stamp_ns - frame.stamp_ns) // 1000
                for name, picture in frame.pictures.items()} == {
                    name: OFFSETS_US[name] for name in NUSCENES_CAMERAS}
        assert all(picture.mask_png is None for picture in frame.pictures.values())
    assert frames[0].pictures['CAM_FRONT'].jpeg == (tiny.root / FIRST_FRONT).read_bytes()


def test_cameras_are_calibrated_as_in_the_tables(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    record, _ = read(tiny, 'scene-0061', pool)
    for camera, expected in zip(record.cameras, nuscenes_rig(96, 54)):
        assert (camera.name, camera.width, camera.height) == (expected.name, 96, 54)
        np.testing.assert_array_equal(camera.k, expected.k)
        assert camera.position_m == expected.position_m
        assert camera.orientation_xyzw == expected.orientation_xyzw


def test_agents_are_the_annotations(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    _, frames = read(tiny, 'scene-0061', pool)
    car, barrier, walker = frames[0].agents
    x_m, y_m = START_M[0] + 20.0, START_M[1] + 3.0
    assert (car.kind, barrier.kind, walker.kind) == ('CAR', 'FENCE', 'PEDESTRIAN')
    assert car.position_m == pytest.approx((x_m, y_m, 0.8))
    assert car.size_m == (4.5, 1.9, 1.6)
    assert car.yaw_rad == pytest.approx(0.1)
    assert car.velocity_mps == pytest.approx((4.0, 0.0))
    assert np.isnan(walker.velocity_mps).all()  # seen once
    assert frames[1].agents[0].id == car.id == token('instance', 'scene-0061', 'car')
    assert frames[1].agents[0].position_m[0] == pytest.approx(x_m + 2.0)
    assert len(frames[1].agents) == 2


def test_the_command_is_where_the_vehicle_went(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    _, frames = read(tiny, 'scene-0061', pool)
    # 20 m * (1 - cos(0.25 * t)) aside: 5.4 m after 3 s, 2.4 m after 2 s, 1.4 m after the 1.5 s
    # that are left at the fifth keyframe.
    assert [frame.command for frame in frames] == ['left'] * 4 + ['straight'] * 4
    _, frames = read(tiny, 'scene-0103', pool)
    assert [frame.command for frame in frames] == ['right'] * 4 + ['straight'] * 4


def test_the_track_has_every_sensors_poses(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    record, _ = read(tiny, 'scene-0061', pool)
    ego = record.ego
    assert len(ego.stamps_ns) == 45 * len(OFFSETS_US)  # 8 keyframes, 37 sweeps
    np.testing.assert_allclose(ego.angular_velocities_radps[:, 2], TURN_RADPS, atol=1e-6)
    np.testing.assert_allclose(ego.velocities_mps[:, 0], SPEED_MPS, atol=1e-3)
    np.testing.assert_allclose(ego.velocities_mps[:, 1], 0.0, atol=0.05)
    for i in (0, 100, -1):
        assert ego.positions_m[i, :2] == pytest.approx(
            TINY[0].pose(int(ego.stamps_ns[i]) // 1000)[:2])


def test_conditions_come_from_log_and_description(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    record, _ = read(tiny, 'scene-0103', pool)
    assert (record.source, record.outcome, record.frame_id) == ('nuscenes', 'recorded', 'map')
    assert record.conditions == {
        'location': 'boston-seaport', 'vehicle': 'n008', 'log': TINY[1].log,
        'description': TINY[1].description, 'night': True, 'rain': True}
    assert json.loads(json.dumps(record.conditions)) == record.conditions


def test_drivable_area_of_the_map_expansion(tiny: NuscenesFolder, pool: ThreadPoolExecutor):
    _, frames = read(tiny, 'scene-0061', pool)
    grid = cv2.imdecode(np.frombuffer(frames[0].drivable_png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert grid.shape == (512, 512) and grid.dtype == np.uint8
    assert grid[256, 256] == 255
    assert grid[256 - 149, 256] == 255 and grid[256 - 152, 256] == 0  # 30 m ahead
    assert grid[256, 256 - 49] == 255 and grid[256, 256 - 52] == 0  # 10 m to the left
    assert grid[256 - 55, 256 - 25] == 0 and grid[256 - 55, 256 + 25] == 255  # hole on the left


def test_without_the_map_expansion_there_is_no_drivable_area(tmp_path: Path,
                                                             pool: ThreadPoolExecutor):
    root = make_nuscenes(tmp_path / 'root', TINY[:1], expansion=False)
    _, frames = read(open_nuscenes(root, MINI), 'scene-0061', pool)
    assert all(frame.drivable_png is None for frame in frames)


@pytest.mark.parametrize('content, reason', [
    ('{"version": "1.3"', 'JSONDecodeError'), ('{"version": "1.2"}', 'outdated map version'),
    ('{"version": "1.3"}', 'KeyError'), (None, 'is missing')])
def test_map_expansion_that_cannot_be_used(broken: Path, pool: ThreadPoolExecutor,
                                           content: str | None, reason: str):
    file = broken / 'maps' / 'expansion' / 'singapore-onenorth.json'
    file.unlink()
    if content:
        file.write_text(content)
    with pytest.raises(DataError, match=f'onenorth.json.*{reason}.*nuScenes-map-expansion-v1.3'):
        read(open_nuscenes(broken, MINI), 'scene-0061', pool)


def test_can_bus_velocities_reach_the_record(tmp_path: Path,
                                             pool: ThreadPoolExecutor):
    root = make_nuscenes(tmp_path / 'root', TINY[:1], can_bus=True)
    record, frames = read(open_nuscenes(root, MINI), 'scene-0061', pool)
    at = {stamp_ns: i for i, stamp_ns in enumerate(record.ego.stamps_ns.tolist())}
    assert record.ego.velocities_mps[at[frames[2].stamp_ns], 0] == pytest.approx(SPEED_MPS + 0.5)
    assert record.ego.angular_velocities_radps[at[frames[2].stamp_ns], 2] == pytest.approx(0.2)
    assert record.ego.velocities_mps[0, 0] == pytest.approx(SPEED_MPS, abs=1e-3)  # not yet


def test_the_unlabelled_version_has_no_agents(tmp_path: Path):
    scene = TINY[0].__class__('scene-0077', arc(TURN_RADPS))
    root = make_nuscenes(tmp_path / 'root', [scene], 'v1.0-test', annotated=False)
    assert fastdrive_data_nuscenes(tmp_path / 'out', '--root', root) == 0
    assert frames_of(tmp_path / 'out') == {'train': 0, 'val': 0, 'test': 8}


@pytest.mark.skipif(not SHARED.is_dir(), reason='no real nuScenes frames in ../shared/data')
def test_real_poses_give_the_true_future(tmp_path: Path, pool: ThreadPoolExecutor):
    root = make_nuscenes(tmp_path / 'root', [real_scene()], expansion=False)
    record, frames = read(open_nuscenes(root, MINI), 'scene-0061', pool)
    meta = json.loads((SHARED / 'nuscenes_frames/01_scene0061_kf00/meta.json').read_text())
    waypoints, known = future_at(record, frames[0].stamp_ns)
    forward_m, left_m = np.array(meta['future_xy_3s'])[:, 1:].T
    assert known.all()
    # The file calls every keyframe half a second; from the second to the third it is 0.55 s.
    np.testing.assert_allclose(waypoints[:, 0], forward_m, atol=0.5)
    np.testing.assert_allclose(waypoints[:, 1], left_m, atol=0.05)
    first = record.ego.stamps_ns.tolist().index(frames[0].stamp_ns)
    assert record.ego.velocities_mps[first, 0] == pytest.approx(meta['speed_mps'], abs=0.3)
    assert frames[0].command == 'straight'
    assert frames[0].pictures['CAM_BACK'].jpeg == (
        SHARED / 'nuscenes_frames/01_scene0061_kf00/CAM_BACK.jpg').read_bytes()


def test_a_table_that_the_devkit_cannot_read_is_named(broken: Path):
    table = broken / MINI / 'sample_data.json'
    table.write_text(table.read_text()[:1000])
    with pytest.raises(DataError, match=r'sample_data.json is damaged .*unpack v1.0-mini.tgz'):
        open_nuscenes(broken, MINI)


def test_tables_of_different_downloads(broken: Path):
    (broken / MINI / 'sensor.json').write_text('[{"token": "another", "channel": "CAM_FRONT"}]')
    with pytest.raises(DataError, match='do not belong together .*unpack v1.0-mini.tgz'):
        open_nuscenes(broken, MINI)


def test_scenes_that_the_version_has_not(tiny: NuscenesFolder):
    assert choose_scenes(tiny, None) == ['scene-0061', 'scene-0103']
    assert choose_scenes(tiny, ['scene-0103']) == ['scene-0103']
    with pytest.raises(DataError, match='scene-9999 not in v1.0-mini, which has scene-0061'):
        choose_scenes(tiny, ['scene-9999'])


def test_missing_pictures_are_counted_and_the_first_is_named(broken: Path):
    (broken / FIRST_FRONT).unlink()
    folder = open_nuscenes(broken, MINI)
    with pytest.raises(DataError, match=r'1 of 1 scenes lack pictures \(1 of 48 files, the first '
                                        rf'is {re.escape(FIRST_FRONT)}\): unpack v1.0-mini.tgz'):
        whole_scenes(folder, ['scene-0061'], sweeps=False)


def frames_of(dataset: Path) -> dict[str, int]:
    from fastdrive_ros.data.store import Dataset

    found = Dataset(dataset)
    assert found.dropped == []
    return {split: found.count(split) for split in ('train', 'val', 'test')}


def test_command_writes_a_dataset_that_reads_back(tiny: NuscenesFolder, tmp_path: Path,
                                                  pool: ThreadPoolExecutor,
                                                  capsys: pytest.CaptureFixture[str]):
    from fastdrive_ros.data.store import Dataset

    assert fastdrive_data_nuscenes(tmp_path / 'out', '--root', tiny.root) == 0
    assert frames_of(tmp_path / 'out') == {'train': 8, 'val': 0, 'test': 8}
    assert 'train       1       8' in capsys.readouterr().out
    dataset = Dataset(tmp_path / 'out')
    assert [path.name for path in dataset.shards('test')] == ['000001']  # second of the version
    assert dataset.header.source == 'nuscenes'
    assert 'CC BY-NC-SA 4.0' in dataset.header.license
    record, frames = read(tiny, 'scene-0061', pool)
    scene, again = dataset.read(dataset.drives('train')[0])
    assert scene.conditions == record.conditions
    assert again[1:] == frames[1:]
    assert again[0].pictures == frames[0].pictures
    assert repr(again[0].agents) == repr(frames[0].agents)  # a NaN is not equal to itself
    np.testing.assert_array_equal(scene.ego.positions_m, record.ego.positions_m)


def test_command_goes_on_where_it_was(tiny: NuscenesFolder, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]):
    from fastdrive_ros.data.digest import digest
    from fastdrive_ros.data.store import Dataset

    out, whole = tmp_path / 'out', tmp_path / 'whole'
    fastdrive_data_nuscenes(whole, '--root', tiny.root)
    fastdrive_data_nuscenes(out, '--root', tiny.root, '--scenes', 'scene-0103')
    assert frames_of(out) == {'train': 0, 'val': 0, 'test': 8}
    (out / 'train' / '000000.partial').mkdir(parents=True)  # as a killed run leaves it
    before = (out / 'test' / '000001' / 'frames.parquet').stat().st_mtime_ns
    capsys.readouterr()
    assert fastdrive_data_nuscenes(out, '--root', tiny.root) == 0
    assert 'interrupted' in capsys.readouterr().err
    assert (out / 'test' / '000001' / 'frames.parquet').stat().st_mtime_ns == before
    for split in ('train', 'test'):
        assert digest(Dataset(out), split) == digest(Dataset(whole), split)


def test_a_damaged_picture_is_absent_and_reported_every_time(
        broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from fastdrive_ros.data.store import Dataset

    file = broken / FIRST_FRONT
    file.write_bytes(file.read_bytes()[:500])
    for _ in range(2):
        assert fastdrive_data_nuscenes(tmp_path / 'out', '--root', broken) == 1
        assert f'1 pictures could not be decoded and are absent from their frames, the first is ' \
               f'{FIRST_FRONT}' in capsys.readouterr().out
    (scene, frame), *_ = Dataset(tmp_path / 'out').frames('train')
    assert scene.conditions[DAMAGED] == [FIRST_FRONT]
    assert set(NUSCENES_CAMERAS) - set(frame.pictures) == {'CAM_FRONT'}


def test_a_partial_download_gives_its_whole_scenes_and_goes_on_with_the_rest(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root, out = make_nuscenes(tmp_path / 'root'), tmp_path / 'out'
    late = next((root / 'samples' / 'CAM_BACK').glob(f'{TINY[1].log}*'))
    late.rename(tmp_path / 'late.jpg')
    assert fastdrive_data_nuscenes(out, '--root', root) == 1
    assert '1 of 2 scenes lack pictures (1 of 96 files' in capsys.readouterr().out
    assert frames_of(out) == {'train': 8, 'val': 0, 'test': 0}
    (tmp_path / 'late.jpg').rename(late)
    assert fastdrive_data_nuscenes(out, '--root', root) == 0
    assert frames_of(out) == {'train': 8, 'val': 0, 'test': 8}


def test_a_dataset_is_not_continued_with_another_map(broken: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]):
    expansion = broken / 'maps' / 'expansion'
    expansion.rename(tmp_path / 'expansion')
    assert fastdrive_data_nuscenes(tmp_path / 'out', '--root', broken) == 0
    assert 'no map expansion' in capsys.readouterr().err
    (tmp_path / 'expansion').rename(expansion)
    with pytest.raises(DataError, match='settings.map_expansion: false, now true'):
        fastdrive_data_nuscenes(tmp_path / 'out', '--root', broken)


def test_no_worker_is_refused(tiny: NuscenesFolder, tmp_path: Path):
    with pytest.raises(DataError, match='--workers must be at least 1, found 0'):
        fastdrive_data_nuscenes(tmp_path / 'out', '--root', tiny.root, '--workers', 0)


def test_a_full_disk_leaves_no_shard(tiny: NuscenesFolder, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match='too large'):
            fastdrive_data_nuscenes(tmp_path / 'out', '--root', tiny.root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert frames_of(tmp_path / 'out') == {'train': 0, 'val': 0, 'test': 0}
    assert fastdrive_data_nuscenes(tmp_path / 'out', '--root', tiny.root) == 0
