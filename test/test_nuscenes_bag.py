# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of a drive, and the bag that a nuScenes scene becomes."""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_nuscenes import FIRST_FRONT
from make_nuscenes import MINI
from make_nuscenes import OFFSETS_US
from make_nuscenes import SHARED
from make_nuscenes import SPEED_MPS
from make_nuscenes import T0_US
from make_nuscenes import TINY
from make_nuscenes import TURN_RADPS
from make_nuscenes import make_nuscenes
from make_nuscenes import real_scene
from make_nuscenes import slots
from rosbags.interfaces import QosDurability
from rosbags.interfaces import QosReliability
from rosbags.rosbag2 import Reader

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagMessage
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data import bag_messages
from fastdrive_ros.data.nuscenes_bag import write_bag
from fastdrive_ros.data.nuscenes_folder import open_nuscenes
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.tools import bag_from_nuscenes
from fastdrive_ros.tools.bag_survey import survey
from fastdrive_ros.tools.cli import main

STAMP_NS = T0_US * 1000 + 7


@pytest.fixture(scope='module')
def devkit() -> None:
    """Skip where the official devkit is not installed."""
    pytest.importorskip('nuscenes', reason='the official devkit (extra [nuscenes]) is not here')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole nuScenes folder; do not alter it."""
    return make_nuscenes(tmp_path_factory.mktemp('nuscenes') / 'root')


@pytest.fixture(scope='module')
def bag(devkit: None, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bag]:
    """scene-0061 as a bag, open."""
    path = tmp_path_factory.mktemp('bags') / 'scene-0061'
    assert write_bag(open_nuscenes(root, MINI), 'scene-0061', path) == (45 * 6, [])
    with Bag(path) as found:
        yield found


def fastdrive_bag_from_nuscenes(*words: object) -> int:
    parser = argparse.ArgumentParser()
    bag_from_nuscenes.add_parser(parser.add_subparsers())
    return bag_from_nuscenes.run(parser.parse_args(['from-nuscenes', *map(str, words)]))


def decoded(bag: Bag, topic: str) -> list[tuple[BagMessage, Any]]:
    return [(message, bag.decode(message)) for message in bag.messages([topic])]


def xyzw(q: Any) -> tuple[float, ...]:
    return (q.x, q.y, q.z, q.w)


# The builders, which need no devkit.


def test_camera_info_of_a_rectified_camera():
    camera = nuscenes_rig(448, 252)[1]
    info = bag_messages.camera_info(STAMP_NS, camera)
    focal_px = 224 / np.tan(np.radians(32.5))
    assert stamp_to_ns(info.header.stamp) == STAMP_NS
    assert (info.header.frame_id, info.width, info.height) == ('CAM_FRONT', 448, 252)
    np.testing.assert_allclose(info.k, [focal_px, 0, 224, 0, focal_px, 126, 0, 0, 1])
    np.testing.assert_allclose(
        info.p, [focal_px, 0, 224, 0, 0, focal_px, 126, 0, 0, 0, 1, 0])
    assert info.r.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert (info.distortion_model, info.d.tolist()) == ('plumb_bob', [0.0] * 5)


def test_every_message_survives_the_bag(tmp_path: Path):
    rig = nuscenes_rig(448, 252)
    turn = (0.0, 0.0, 0.6, 0.8)
    written = {
        '/CAM_FRONT/image_rect_compressed': (
            bag_messages.IMAGE_TYPE,
            bag_messages.compressed_image(STAMP_NS, 'CAM_FRONT', b'\xff\xd8\xff bytes')),
        '/CAM_FRONT/camera_info': (
            bag_messages.CAMERA_INFO_TYPE, bag_messages.camera_info(STAMP_NS, rig[1])),
        '/tf_static': (bag_messages.TF_TYPE, bag_messages.static_transforms(STAMP_NS, rig)),
        '/tf': (bag_messages.TF_TYPE,
                bag_messages.ego_transform(STAMP_NS, 'map', (1.0, 2.0, 3.0), turn)),
        '/odom': ('nav_msgs/msg/Odometry', bag_messages.odometry(
            STAMP_NS, 'map', (1.0, 2.0, 3.0), turn, (5.0, 0.1, 0.2), (0.0, 0.3, 0.4)))}
    with BagWriter(tmp_path / 'bag') as writer:
        for topic, (kind, message) in written.items():
            writer.write(topic, kind, STAMP_NS, message)
    with Bag(tmp_path / 'bag') as bag:
        read = {message.topic: bag.decode(message) for message in bag.messages()}
    assert bytes(read['/CAM_FRONT/image_rect_compressed'].data) == b'\xff\xd8\xff bytes'
    assert read['/CAM_FRONT/image_rect_compressed'].format == 'jpeg'
    odometry = read['/odom']
    assert (odometry.header.frame_id, odometry.child_frame_id) == ('map', 'base_link')
    assert xyzw(odometry.pose.pose.orientation) == turn
    assert (odometry.twist.twist.linear.y, odometry.twist.twist.angular.z) == (0.1, 0.4)
    (ego,) = read['/tf'].transforms
    assert (ego.header.frame_id, ego.child_frame_id) == ('map', 'base_link')
    assert (ego.transform.translation.y, xyzw(ego.transform.rotation)) == (2.0, turn)
    places = {place.child_frame_id: place for place in read['/tf_static'].transforms}
    assert set(places) == set(NUSCENES_CAMERAS)
    assert all(place.header.frame_id == 'base_link' for place in places.values())
    assert xyzw(places['CAM_BACK'].transform.rotation) == pytest.approx(rig[4].orientation_xyzw)


def test_a_latched_topic_is_offered_transient_local(tmp_path: Path):
    with BagWriter(tmp_path / 'bag') as writer:
        for topic, latched in (('/tf_static', True), ('/tf', False)):
            writer.write(topic, bag_messages.TF_TYPE, 1, bag_messages.static_transforms(1, ()),
                         latched)
    with Reader(tmp_path / 'bag') as reader:
        offered = {connection.topic: connection.ext.offered_qos_profiles
                   for connection in reader.connections}
    (qos,) = offered['/tf_static']
    assert qos.durability == QosDurability.TRANSIENT_LOCAL
    assert qos.reliability == QosReliability.RELIABLE
    assert offered['/tf'] == []  # the player's own default: volatile, reliable
    # Humble and Jazzy read numbers in bags of version 8.
    assert 'durability: 1' in (tmp_path / 'bag' / 'metadata.yaml').read_text()


# With the official devkit.


def test_everything_is_logged_at_its_own_stamp_in_order(bag: Bag):
    logged = [(message.log_ns, bag.decode(message)) for message in bag.messages()]
    assert [log_ns for log_ns, _ in logged] == sorted(log_ns for log_ns, _ in logged)
    for log_ns, message in logged:
        if hasattr(message, 'data') and isinstance(message.data, str):
            continue  # /dataset/scene has no header
        header = message.transforms[0].header if hasattr(message, 'transforms') else message.header
        assert stamp_to_ns(header.stamp) == log_ns


def test_keyframes_and_sweeps_with_the_bytes_of_the_files(bag: Bag, root: Path):
    for camera in NUSCENES_CAMERAS:
        images = decoded(bag, f'/{camera}/image_rect_compressed')
        assert [message.log_ns // 1000 - OFFSETS_US[camera] for message, _ in images] == [
            lidar_us for lidar_us, _ in slots(TINY[0])]
        assert all(image.header.frame_id == camera and image.format == 'jpeg'
                   for _, image in images)
    ((_, front), *_) = [(message, image) for message, image in decoded(
        bag, '/CAM_FRONT/image_rect_compressed')
        if message.log_ns == (T0_US + OFFSETS_US['CAM_FRONT']) * 1000]
    assert bytes(front.data) == (root / FIRST_FRONT).read_bytes()


def test_each_picture_has_its_calibration(bag: Bag):
    for camera in nuscenes_rig(96, 54):
        infos = decoded(bag, f'/{camera.name}/camera_info')
        images = list(bag.messages([f'/{camera.name}/image_rect_compressed']))
        assert [message.log_ns for message, _ in infos] == [message.log_ns for message in images]
        np.testing.assert_array_equal(infos[0][1].k.reshape(3, 3), camera.k)
        assert (infos[0][1].width, infos[0][1].height) == (96, 54)


def test_transforms_are_the_poses_and_the_rig(bag: Bag):
    poses = decoded(bag, '/tf')
    assert len(poses) == 45 * len(OFFSETS_US)
    for message, tf in poses[::50]:
        x_m, y_m, _ = TINY[0].pose(message.log_ns // 1000)
        place = tf.transforms[0].transform.translation
        assert (place.x, place.y) == pytest.approx((x_m, y_m))
    ((static, places),) = decoded(bag, '/tf_static')
    assert static.log_ns == bag.start_ns
    assert [place.child_frame_id for place in places.transforms] == list(NUSCENES_CAMERAS)


def test_odometry_is_steady_and_at_most_50_hz(bag: Bag):
    samples = decoded(bag, '/odom')
    stamps_ns = np.array([message.log_ns for message, _ in samples])
    assert np.diff(stamps_ns).min() >= 20_000_000
    assert len(stamps_ns) > 20 * np.ptp(stamps_ns) / 1e9
    twist = samples[len(samples) // 2][1].twist.twist
    assert twist.linear.x == pytest.approx(SPEED_MPS, abs=1e-3)
    assert twist.angular.z == pytest.approx(TURN_RADPS, abs=1e-3)


def test_odometry_of_the_can_bus_where_it_is_there(devkit: None, tmp_path: Path):
    root = make_nuscenes(tmp_path / 'root', TINY[:1], can_bus=True)
    write_bag(open_nuscenes(root, MINI), 'scene-0061', tmp_path / 'bag')
    with Bag(tmp_path / 'bag') as bag:
        samples = decoded(bag, '/odom')
    assert np.diff([message.log_ns for message, _ in samples]).tolist() == [20_000_000] * 175
    assert samples[0][1].twist.twist.linear.x == SPEED_MPS + 0.5


def test_inspect_finds_no_trouble(bag: Bag):
    fit = choose_preset(bag)
    report = survey(bag, fit, check_settings(read_preset(fit.preset)))
    assert (fit.preset, fit.score) == ('nuscenes_mcap', 1.0)
    assert report['troubles'] == []
    assert (report['sync']['whole'], report['sync']['partial']) == (45, 0)
    assert report['sync']['spread_ms']['max'] == pytest.approx(42.579)
    assert report['odometry']['largest_burst'] == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason='no real nuScenes frames in ../shared/data')
def test_a_bag_of_real_frames(devkit: None, tmp_path: Path):
    root = make_nuscenes(tmp_path / 'root', [real_scene(num_keyframes=3)], expansion=False)
    write_bag(open_nuscenes(root, MINI), 'scene-0061', tmp_path / 'bag')
    with Bag(tmp_path / 'bag') as bag:
        fit = choose_preset(bag)
        report = survey(bag, fit, check_settings(read_preset(fit.preset)))
        (_, info), *_ = decoded(bag, '/CAM_FRONT/camera_info')
    assert report['troubles'] == []
    assert report['sync']['partial'] == 0 and report['sync']['whole'] >= 12
    assert report['cameras']['CAM_FRONT']['size'] == (1600, 900)
    assert info.k[0] == 1266.417203046554


def test_what_is_held_back_stays_so_through_a_bag(devkit: None, root: Path, tmp_path: Path):
    """scene-0103 is of the official val split: our test, and never trained on."""
    folder = open_nuscenes(root, MINI)
    for scene in ('scene-0061', 'scene-0103'):
        write_bag(folder, scene, tmp_path / scene)
        assert main(['bag', 'to-dataset', str(tmp_path / scene), '--out',
                     str(tmp_path / 'out')]) == 0
    dataset = Dataset(tmp_path / 'out')
    assert [scene.name for scene in dataset.scenes('train')] == ['scene-0061']
    assert [scene.name for scene in dataset.scenes('test')] == ['scene-0103']
    assert dataset.count('test') == 8
    assert dataset.header.license.startswith('nuScenes by Motional: CC BY-NC-SA 4.0')
    assert main(['bag', 'to-dataset', str(tmp_path / 'scene-0103'), '--split', 'train', '--out',
                 str(tmp_path / 'other')]) == 2


# The command.


def test_command_writes_what_is_not_there(devkit: None, root: Path, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]):
    assert fastdrive_bag_from_nuscenes(tmp_path, '--root', root, '--scenes', 'scene-0103') == 0
    first = (tmp_path / 'scene-0103' / 'metadata.yaml').stat().st_mtime_ns
    assert fastdrive_bag_from_nuscenes(tmp_path, '--root', root) == 0
    assert '1 bags written with 270 pictures, 1 were there already' in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ['scene-0061', 'scene-0103']
    assert (tmp_path / 'scene-0103' / 'metadata.yaml').stat().st_mtime_ns == first


def test_a_damaged_picture_is_left_out_and_reported(devkit: None, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]):
    root = make_nuscenes(tmp_path / 'root', TINY[:1])
    (root / FIRST_FRONT).write_bytes((root / FIRST_FRONT).read_bytes()[:500])
    assert fastdrive_bag_from_nuscenes(tmp_path / 'bags', '--root', root) == 1
    assert ('1 pictures cannot be decoded and were left out, the first is '
            f'{FIRST_FRONT}') in capsys.readouterr().out
    with Bag(tmp_path / 'bags' / 'scene-0061') as bag:
        assert bag.topics['/CAM_FRONT/image_rect_compressed'].count == 44
        assert bag.topics['/CAM_FRONT/camera_info'].count == 44


def test_a_download_without_sweeps_is_refused(devkit: None, tmp_path: Path):
    root = make_nuscenes(tmp_path / 'root', TINY[:1])
    (root / 'sweeps').rename(root / 'elsewhere')
    with pytest.raises(DataError, match=r'lack pictures \(222 of 270 files, the first is sweeps/'):
        fastdrive_bag_from_nuscenes(tmp_path / 'bags', '--root', root)
    assert not (tmp_path / 'bags').exists()


def test_a_full_disk_leaves_no_bag(devkit: None, root: Path, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match='too large'):
            fastdrive_bag_from_nuscenes(tmp_path / 'bags', '--root', root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / 'bags').iterdir()) == []
