# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bag to-dataset`: recorded bags become training data, what is lost is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from make_drives import CAMERA_GAP_NS
from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_png
from make_drives import make_scene
from make_drives import make_track
from make_inputs import T0_NS
from make_inputs import make_jpeg
from make_rigged_bags import RIG
from make_rigged_bags import TOPICS
from make_rigged_bags import Edit
from make_rigged_bags import without
from make_rigged_bags import write_rigged_bag

pytest.importorskip('pyarrow', reason="datasets need pyarrow: pip install 'fastdrive_ros[data]'")

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.bags import typestore
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.core.types import RawImage
from fastdrive_ros.data import bag_out
from fastdrive_ros.data.bag_labels import SCENE_TOPIC
from fastdrive_ros.data.bag_labels import STRING_TYPE
from fastdrive_ros.data.bag_labels import read_scene_labels
from fastdrive_ros.data.bag_pictures import to_jpeg
from fastdrive_ros.data.command import command_from_future
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.data.thinning import thinned
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_BAG = REPOSITORY / 'bags' / 'sim_intersection_10hz'
REAL_BAG = REPOSITORY.parent / 'shared' / 'data' / 'bags' / 'scene0103_sixcam_lowres_2hz'
FRONT = 'CAM_FRONT'


def to_dataset(*words: object) -> int:
    return main(['bag', 'to-dataset', *map(str, words)])


def read_all(root: Path) -> list[tuple[SceneRecord, list[FrameRecord]]]:
    dataset = Dataset(root)
    return [dataset.read(drive) for drive in dataset.drives('train')]


def test_a_recorded_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bag = write_rigged_bag(tmp_path / 'monday')
    assert to_dataset(bag, '--out', tmp_path / 'out') == 0
    ((scene, frames),) = read_all(tmp_path / 'out')
    assert (scene.name, scene.source, scene.outcome, scene.frame_id) == (
        'monday', 'bag', 'recorded', 'map')
    track = make_track(6.0)
    np.testing.assert_array_equal(scene.ego.stamps_ns, track.stamps_ns)
    np.testing.assert_array_equal(scene.ego.orientations_xyzw, track.orientations_xyzw)
    assert repr(scene.cameras) == repr(RIG)
    assert len(frames) == 6
    # Stamped with the latest picture; the arc to the left is 5.4 m aside after 3 s.
    assert frames[1].stamp_ns == T0_NS + 500_000_000 + 5 * CAMERA_GAP_NS
    assert {frame.command for frame in frames} == {'left'}
    assert frames[0].pictures[FRONT] == Picture(
        T0_NS + CAMERA_GAP_NS, make_jpeg(HEIGHT, WIDTH).tobytes())
    header = Dataset(tmp_path / 'out').header
    assert (header.source, header.rate_hz, header.image_width) == ('bag', 2.0, WIDTH)
    assert 'monday: 6 frames of monday in' in capsys.readouterr().err


def test_bags_are_added_later_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / 'out'
    monday, tuesday = (write_rigged_bag(tmp_path / day) for day in ('monday', 'tuesday'))
    assert to_dataset(monday, '--out', out) == 0
    assert to_dataset(monday, tuesday, '--out', out) == 0
    assert 'left out, ' + str(out) + ' has a drive monday already (train/000000)' in (
        capsys.readouterr().err)
    assert [scene.name for scene in Dataset(out).scenes('train')] == ['monday', 'tuesday']
    assert [path.name for path in Dataset(out).shards('train')] == ['000000', '000001']
    wednesday = write_rigged_bag(tmp_path / 'wednesday')
    assert to_dataset(wednesday, '--out', out, '--rate-hz', 1) == 2
    assert 'rate_hz: 2.0, now 1.0' in capsys.readouterr().err
    with DatasetWriter(out, Dataset(out).header, print).shard('train', 2) as busy:
        assert to_dataset(wednesday, '--out', out) == 0    # another process is writing 000002
        busy.add(*make_scene('slow'))
    assert [path.name for path in Dataset(out).shards('train')] == [
        '000000', '000001', '000002', '000003']


def test_a_fast_bag_is_thinned_evenly(tmp_path: Path):
    bag = write_rigged_bag(tmp_path / 'fast', sweeps=51, rate_hz=10.0)
    to_dataset(bag, '--out', tmp_path / 'out')
    to_dataset(bag, '--out', tmp_path / 'all', '--rate-hz', 10)
    ((_, frames),) = read_all(tmp_path / 'out')
    assert np.diff([frame.stamp_ns for frame in frames]).tolist() == [500_000_000] * 10
    assert [frame.index for frame in frames] == list(range(11))
    assert Dataset(tmp_path / 'all').count('train') == 51


@pytest.mark.parametrize(('stamps_ms', 'kept'), [
    ([0, 500, 1000, 1500], [0, 500, 1000, 1500]),
    ([0, 400, 950, 1450, 1900], [0, 400, 950, 1450, 1900]),       # 2 Hz of nuScenes
    ([0, 50, 150, 200, 300, 350, 450, 550, 600, 900, 1000], [0, 450, 900]),
    ([0, 333, 667, 1000, 1333], [0, 667, 1333]),                  # 3 Hz: no nearer than 375 ms
    ([0, 480, 510, 990, 1010], [0, 510, 1010]),
    ([0, 5000, 5100, 5500], [0, 5000, 5500]),
    ([], []),
])
def test_thinning_to_2_hz(stamps_ms: list[int], kept: list[int]):
    assert list(thinned(stamps_ms, lambda ms: ms * 1_000_000, 2.0)) == kept


def test_missing_pictures_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Sweep 1 lacks one camera and stays, sweep 3 lacks three and goes, as on the vehicle."""
    lost = {(1, 'CAM_BACK'), *((3, camera) for camera in NUSCENES_CAMERAS[:3])}
    seen: dict[str, int] = {}

    def lose(topic: str, message: Any) -> Any:
        if topic not in TOPICS.values():
            return message
        seen[topic] = seen.get(topic, -1) + 1
        return None if (seen[topic], topic.split('/')[1]) in lost else message

    assert to_dataset(write_rigged_bag(tmp_path / 'bag', lose), '--out', tmp_path / 'out') == 0
    ((_, frames),) = read_all(tmp_path / 'out')
    assert [len(frame.pictures) for frame in frames] == [6, 5, 6, 6, 6]
    assert 'CAM_BACK' not in frames[1].pictures
    err = capsys.readouterr().err
    assert '1 frames without some camera' in err
    assert '1 sweeps that missed too many cameras: left out' in err


def test_a_damaged_picture_is_no_training_data(tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]):
    def damage(topic: str, message: Any) -> Any:
        if topic == TOPICS[FRONT] and stamp_to_ns(message.header.stamp) < T0_NS + 10**9:
            message.data = message.data[:200]
        return message

    assert to_dataset(write_rigged_bag(tmp_path / 'bag', damage), '--out', tmp_path / 'out') == 1
    ((_, frames),) = read_all(tmp_path / 'out')
    assert [FRONT in frame.pictures for frame in frames] == [False] * 2 + [True] * 4
    assert '2 pictures cannot be decoded' in capsys.readouterr().err


def test_a_sweep_of_damaged_pictures_is_left_out(tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]):
    def damage(topic: str, message: Any) -> Any:
        if topic in list(TOPICS.values())[:3] and (
                stamp_to_ns(message.header.stamp) < T0_NS + 10**8):
            message.data = message.data[:200]
        return message

    assert to_dataset(write_rigged_bag(tmp_path / 'bag', damage), '--out', tmp_path / 'out') == 1
    ((_, frames),) = read_all(tmp_path / 'out')
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert '1 sweeps with too many damaged pictures: left out' in capsys.readouterr().err


def test_png_pictures_are_encoded_once_and_told(tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]):
    def as_png(topic: str, message: Any) -> Any:
        if topic == TOPICS[FRONT]:
            bgr = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
            message.data = cv2.imencode('.png', bgr)[1].reshape(-1)
        return message

    assert to_dataset(write_rigged_bag(tmp_path / 'bag', as_png), '--out', tmp_path / 'out') == 0
    ((_, frames),) = read_all(tmp_path / 'out')
    shown = cv2.imdecode(np.frombuffer(frames[0].pictures[FRONT].jpeg, np.uint8), 1).astype(int)
    assert np.abs(shown - cv2.imdecode(make_jpeg(HEIGHT, WIDTH), 1)).mean() < 3.0
    assert '6 pictures that were no JPEG: encoded once' in capsys.readouterr().err


def test_raw_pictures_are_encoded_once():
    camera = RIG[1]
    bgr = cv2.imdecode(make_jpeg(HEIGHT, WIDTH), cv2.IMREAD_COLOR)
    image = RawImage('bgr8', HEIGHT, WIDTH, 3 * WIDTH, False, bgr.reshape(-1))
    jpeg, encoded = to_jpeg(image, camera, '/front', '/info')
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert encoded
    assert np.abs(shown - bgr).mean() < 3.0


def test_masks_of_another_size_are_left_out(tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]):
    scene, frames = make_scene('masks', num_frames=2)
    pictures = dict(frames[0].pictures)
    pictures[FRONT] = replace(pictures[FRONT], mask_png=make_png(np.zeros((9, 9), np.uint8)))
    pictures['CAM_BACK'] = replace(pictures['CAM_BACK'], mask_png=b'no picture')
    header = DatasetHeader('masks', 'metadrive', NUSCENES_CAMERAS, WIDTH, HEIGHT, 2.0)
    bag_out.write_bag(tmp_path / 'masks', header, 'train', scene,
                      [replace(frames[0], pictures=pictures), frames[1]])
    assert to_dataset(tmp_path / 'masks', '--out', tmp_path / 'out') == 0
    ((_, found),) = read_all(tmp_path / 'out')
    assert [name for name, picture in found[0].pictures.items() if not picture.mask_png] == [
        FRONT, 'CAM_BACK']
    assert '2 masks damaged or of another size' in capsys.readouterr().err


def _shrink(topic: str, message: Any) -> Any:
    if topic == TOPICS[FRONT]:
        message.data = make_jpeg(HEIGHT // 2, WIDTH // 2)
    return message


def _clock_goes_back(topic: str, message: Any) -> Any:
    if topic in TOPICS.values() and message.header.stamp.sec > T0_NS // 10**9:
        message.header.stamp.sec -= 100
    return message


def _another_clock(topic: str, message: Any) -> Any:
    if topic == '/odom':
        message.header.stamp.sec += 100
    return message


@pytest.mark.parametrize(('edit', 'words'), [
    (without('/CAM_BACK/camera_info'), 'expected /CAM_BACK/camera_info (sensor_msgs/msg/Camera'),
    (without('/tf_static'), "no transform leads from base_link to 'CAM_FRONT_LEFT'"),
    (without('/odom'), 'expected /odom (nav_msgs/msg/Odometry), it is absent'),
    (_shrink, 'the pictures are 56x28 pixels, /CAM_FRONT/camera_info says 112x56'),
    (_clock_goes_back, "the cameras' clock goes back to"),
    (_another_clock, 'not one sweep can be used (6 sweeps without odometry at their stamp'),
])
def test_bags_that_are_no_training_data(tmp_path: Path, edit: Edit, words: str,
                                        capsys: pytest.CaptureFixture[str]):
    assert to_dataset(write_rigged_bag(tmp_path / 'bag', edit), '--out', tmp_path / 'out') == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_cameras_of_other_names_need_a_parameter_file(tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]):
    bag = write_rigged_bag(tmp_path / 'bag')
    words = [word for camera in NUSCENES_CAMERAS
             for word in ('--set', f'camera_topics.{camera}=/other/{camera}')]
    assert to_dataset(bag, '--out', tmp_path / 'out', *words) == 2
    assert 'has none of the camera topics /other/CAM_FRONT_LEFT' in capsys.readouterr().err
    params = tmp_path / 'two.yaml'
    params.write_text('/**:\n  ros__parameters:\n    camera_topics:\n'
                      f'      left: {TOPICS["CAM_FRONT_LEFT"]}\n      front: {TOPICS[FRONT]}\n')
    assert to_dataset(bag, '--out', tmp_path / 'out', '--params-file', params) == 0
    ((scene, frames),) = read_all(tmp_path / 'out')
    assert [camera.name for camera in scene.cameras] == ['left', 'front']
    assert {len(frame.pictures) for frame in frames} == {2}
    # And back, where no preset knows these names.
    assert main(['bag', 'from-dataset', str(tmp_path / 'out'), '--out', str(tmp_path / 'bags')
                 ]) == 0
    assert to_dataset(tmp_path / 'bags' / 'bag', '--out', tmp_path / 'again') == 0
    ((_, again),) = read_all(tmp_path / 'again')
    assert repr(again) == repr(frames)


def test_labels_that_are_not_ours_are_refused(tmp_path: Path):
    text = typestore().types[STRING_TYPE]
    for number, data in enumerate(('{"version": 2}', '[]', 'no JSON')):
        with BagWriter(tmp_path / str(number)) as writer:
            writer.write(SCENE_TOPIC, STRING_TYPE, 1, text(data=data))
        with Bag(tmp_path / str(number)) as bag:
            with pytest.raises(DataError, match='/dataset/scene is not what `fastdrive bag'):
                read_scene_labels(bag)


def test_a_path_that_is_no_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert to_dataset(tmp_path / 'nothing', '--out', tmp_path / 'out') == 2
    assert 'no bag at' in capsys.readouterr().err


@pytest.mark.parametrize(('bag', 'rate_hz', 'num_frames', 'num_odometry'), [
    (SAMPLE_BAG, 10, 110, 110), (REAL_BAG, 2, 23, 196)])
def test_bags_of_real_recordings(tmp_path: Path, bag: Path, rate_hz: int, num_frames: int,
                                 num_odometry: int):
    if not bag.is_dir():
        pytest.skip(f'real data is not here: {bag}')
    assert to_dataset(bag, '--out', tmp_path / 'out', '--rate-hz', rate_hz) == 0
    ((scene, frames),) = read_all(tmp_path / 'out')
    assert (len(frames), len(scene.ego.stamps_ns)) == (num_frames, num_odometry)
    assert all(len(frame.pictures) == 6 for frame in frames)
    with Bag(bag) as opened:
        jpegs = [bytes(opened.decode(message).data)
                 for message in opened.messages([TOPICS[FRONT]])]
    assert [frame.pictures[FRONT].jpeg for frame in frames] == jpegs


def test_commands_from_the_way_it_went():
    scene, _ = make_scene(num_frames=3)
    mirrored = replace(scene, ego=replace(
        scene.ego, positions_m=scene.ego.positions_m * [1, -1, 1],
        orientations_xyzw=scene.ego.orientations_xyzw * [1, 1, -1, 1]))
    assert command_from_future(scene, T0_NS) == 'left'     # 5.4 m aside after 3 s
    assert command_from_future(mirrored, T0_NS) == 'right'
    # A second before the end of the track it is 0.6 m aside, at its end nothing is known.
    assert command_from_future(scene, T0_NS + 3_000_000_000) == 'straight'
    assert command_from_future(scene, T0_NS + 4_000_000_000) == 'straight'
