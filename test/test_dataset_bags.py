# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets to bags and back, and recorded bags to datasets: nothing altered, all losses told."""

from __future__ import annotations

import argparse
from dataclasses import fields
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
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagError
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.bags import typestore
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data import bag_out
from fastdrive_ros.data.bag_labels import SCENE_TOPIC
from fastdrive_ros.data.bag_labels import STRING_TYPE
from fastdrive_ros.data.bag_labels import read_scene_labels
from fastdrive_ros.data.command import command_from_future
from fastdrive_ros.data.digest import digest
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.data.thinning import thinned
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools import bag_from_dataset
from fastdrive_ros.tools import bag_to_dataset
from fastdrive_ros.tools.bag_survey import survey
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_BAG = REPOSITORY / 'bags' / 'sim_intersection_10hz'
REAL_BAG = REPOSITORY.parent / 'shared' / 'data' / 'bags' / 'scene0103_sixcam_lowres_2hz'
HEADER = DatasetHeader('made up', 'metadrive', NUSCENES_CAMERAS, WIDTH, HEIGHT, 2.0,
                       {'weather': ['clear', 'fog']}, 'Do as you like.')
FRONT = 'CAM_FRONT'


def odd_scene() -> tuple[SceneRecord, list[FrameRecord]]:
    """Return a drive in which CAM_BACK gives nothing, one frame has one picture, one no label."""
    scene, frames = make_scene('odd', num_frames=4, seed=3)
    frames = [replace(frame, pictures={name: picture for name, picture in frame.pictures.items()
                                       if name != 'CAM_BACK'}) for frame in frames]
    frames[1] = replace(frames[1], pictures={FRONT: frames[1].pictures[FRONT]})
    frames[2] = replace(frames[2], drivable_png=None, agents=(), pictures={
        name: replace(picture, mask_png=None) for name, picture in frames[2].pictures.items()})
    return scene, frames


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three drives: one good and one that failed of train, an odd one of val."""
    writer = DatasetWriter(tmp_path / 'dataset', HEADER, print)
    with writer.shard('train', 0) as shard:
        shard.add(*make_scene('good', num_frames=3, seed=1))
        shard.add(*make_scene('bad', num_frames=2, seed=2, outcome='crash_vehicle'))
    with writer.shard('val', 0) as shard:
        shard.add(*odd_scene())
    return writer.root


def from_dataset(*words: object) -> int:
    return main(['bag', 'from-dataset', *map(str, words)])


def to_dataset(*words: object) -> int:
    return main(['bag', 'to-dataset', *map(str, words)])


def parse(module: Any, *words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    return parser.parse_args([*map(str, words)])


def read_all(root: Path, split: str, failed: bool = False) -> list[Any]:
    dataset = Dataset(root)
    return [dataset.read(drive) for drive in dataset.drives(split, failed)]


def assert_same(a: tuple[SceneRecord, list[FrameRecord]],
                b: tuple[SceneRecord, list[FrameRecord]]) -> None:
    (scene, frames), (other, other_frames) = a, b
    for part in fields(scene.ego):
        np.testing.assert_array_equal(getattr(scene.ego, part.name), getattr(other.ego, part.name))
    # The shortest text that is read back as the same float: NaN is itself, -0.0 is not 0.0.
    assert repr(replace(scene, ego=None)) == repr(replace(other, ego=None))
    assert repr(frames) == repr(other_frames)


# There and back.


def test_dataset_to_bags_to_dataset_keeps_every_bit(dataset: Path, tmp_path: Path):
    assert from_dataset(dataset, '--out', tmp_path / 'bags', '--failed') == 0
    bags = sorted((tmp_path / 'bags').iterdir())
    assert [bag.name for bag in bags] == ['bad', 'good', 'odd']
    assert to_dataset(*bags, '--out', tmp_path / 'again') == 0
    assert Dataset(tmp_path / 'again').header == HEADER
    for split in ('train', 'val'):
        assert digest(Dataset(dataset), split) == digest(Dataset(tmp_path / 'again'), split)
        for failed in (False, True):
            found = read_all(tmp_path / 'again', split, failed)
            expected = read_all(dataset, split, failed)
            assert len(found) == len(expected)
            for one, other in zip(found, expected):
                assert_same(one, other)


def test_everything_is_logged_at_its_own_stamp(dataset: Path, tmp_path: Path):
    from_dataset(dataset, '--out', tmp_path, '--scenes', 'good')
    ((scene, frames),) = read_all(dataset, 'train')
    counts: dict[str, int] = {}
    logged = []
    with Bag(tmp_path / 'good') as bag:
        for message in bag.messages():
            decoded = bag.decode(message)
            counts[message.topic] = counts.get(message.topic, 0) + 1
            logged.append(message.log_ns)
            header = (decoded.transforms[0].header if hasattr(decoded, 'transforms')
                      else getattr(decoded, 'header', None))
            if header is not None:
                assert stamp_to_ns(header.stamp) == message.log_ns, message.topic
            if message.topic == TOPICS['CAM_BACK']:
                picture = frames[counts[message.topic] - 1].pictures['CAM_BACK']
                assert (message.log_ns, bytes(decoded.data), decoded.format) == (
                    picture.stamp_ns, picture.jpeg, 'jpeg')
    assert logged == sorted(logged)
    assert counts['/odom'] == counts['/tf'] == len(scene.ego.stamps_ns) == 41
    assert counts['/tf_static'] == counts['/fastdrive/scene'] == 1
    for camera in NUSCENES_CAMERAS:
        assert counts[TOPICS[camera]] == counts[f'/{camera}/camera_info'] == 3
        assert counts[f'/{camera}/mask/compressed'] == 3


def test_what_is_said_once_is_latched(dataset: Path, tmp_path: Path):
    from_dataset(dataset, '--out', tmp_path, '--scenes', 'good')
    with Reader(tmp_path / 'good') as reader:
        latched = {connection.topic for connection in reader.connections
                   for qos in connection.ext.offered_qos_profiles
                   if qos.durability == QosDurability.TRANSIENT_LOCAL}
    assert latched == {'/tf_static', '/fastdrive/scene'}
    # Humble wants a text here, Jazzy takes it in bags of a version below 9.
    metadata = (tmp_path / 'good' / 'metadata.yaml').read_text()
    assert 'version: 8' in metadata
    assert 'offered_qos_profiles: []' not in metadata


def test_the_bag_is_inspected_and_driven(dataset: Path, tmp_path: Path, tiny_bundle: Bundle):
    from_dataset(dataset, '--out', tmp_path, '--scenes', 'good')
    with Bag(tmp_path / 'good') as bag:
        fit = choose_preset(bag)
        report = survey(bag, fit, check_settings(read_preset(fit.preset)))
    assert (fit.preset, fit.score, report['troubles']) == ('nuscenes_mcap', 1.0, [])
    assert (report['sync']['whole'], report['sync']['partial']) == (3, 0)
    assert report['odometry']['rate_hz'] == 10.0
    assert main(['run', str(tmp_path / 'good'), '--out', str(tmp_path / 'out'), '--bundle',
                 str(tiny_bundle.path), '--backend', 'onnxruntime']) == 0


def test_a_lower_rate_may_be_asked_for(dataset: Path, tmp_path: Path):
    from_dataset(dataset, '--out', tmp_path, '--scenes', 'good')
    to_dataset(tmp_path / 'good', '--out', tmp_path / 'slow', '--rate-hz', 1)
    assert Dataset(tmp_path / 'slow').header.rate_hz == 1.0
    ((_, frames),) = read_all(tmp_path / 'slow', 'train')
    ((_, all_frames),) = read_all(dataset, 'train')
    assert [frame.index for frame in frames] == [0, 1]
    assert repr(frames[1]) == repr(replace(all_frames[2], index=1))


def test_what_was_held_back_does_not_become_training_data(
        dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from_dataset(dataset, '--out', tmp_path, '--split', 'val')
    assert to_dataset(tmp_path / 'odd', '--out', tmp_path / 'out', '--split', 'train') == 2
    assert "odd is of the val split of 'made up': it does not become train" in (
        capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()
    assert to_dataset(tmp_path / 'odd', '--out', tmp_path / 'out', '--split', 'test') == 0
    assert Dataset(tmp_path / 'out').count('test') == 4


# from-dataset: interrupted, repeated, refused.


def test_bags_that_are_there_are_left(dataset: Path, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]):
    write, written = bag_out.write_bag, []

    def killed_at_the_second(path: Path, *rest: Any) -> None:
        written.append(path.name)
        write(path, *rest)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(bag_out, 'write_bag', killed_at_the_second)
    bags = tmp_path / 'bags'
    assert from_dataset(dataset, '--out', bags) == 130
    assert [path.name for path in bags.iterdir()] == ['good']
    assert from_dataset(dataset, '--out', bags) == 0
    assert written == ['good', 'odd', 'odd']
    assert '1 bags written, 1 were there already' in capsys.readouterr().out
    assert sorted(path.name for path in bags.iterdir()) == ['good', 'odd']


def test_other_bags_are_not_written_over(dataset: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]):
    write_rigged_bag(tmp_path / 'good')
    (tmp_path / 'odd').mkdir()
    for name, words in (('good', 'is a bag of no dataset, expected good with 3'),
                        ('odd', 'is there and no whole bag: remove it')):
        assert from_dataset(dataset, '--out', tmp_path, '--scenes', name) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'sentence'), [
    (('--scenes', 'nowhere'), 'has no drive nowhere .any split, not failed.; there are 2: good'),
    (('--scenes', 'bad'), 'has no drive bad'),
    (('--split', 'test'), 'has no drive at all .test, not failed.; there are 0'),
])
def test_drives_that_are_not_there(dataset: Path, tmp_path: Path, words: tuple[str, ...],
                                   sentence: str):
    args = parse(bag_from_dataset, 'from-dataset', dataset, '--out', tmp_path / 'bags', *words)
    with pytest.raises(DataError, match=sentence):
        bag_from_dataset.run(args)
    assert not (tmp_path / 'bags').exists()


# to-dataset: recorded bags.


def test_a_recorded_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bag = write_rigged_bag(tmp_path / 'monday')
    assert to_dataset(bag, '--out', tmp_path / 'out') == 0
    ((scene, frames),) = read_all(tmp_path / 'out', 'train')
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
    ((_, frames),) = read_all(tmp_path / 'out', 'train')
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
    ((_, frames),) = read_all(tmp_path / 'out', 'train')
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
    ((_, frames),) = read_all(tmp_path / 'out', 'train')
    assert [FRONT in frame.pictures for frame in frames] == [False] * 2 + [True] * 4
    assert '2 pictures cannot be decoded' in capsys.readouterr().err


def test_png_pictures_are_encoded_once_and_told(tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]):
    def as_png(topic: str, message: Any) -> Any:
        if topic == TOPICS[FRONT]:
            bgr = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
            message.data = cv2.imencode('.png', bgr)[1].reshape(-1)
        return message

    assert to_dataset(write_rigged_bag(tmp_path / 'bag', as_png), '--out', tmp_path / 'out') == 0
    ((_, frames),) = read_all(tmp_path / 'out', 'train')
    shown = cv2.imdecode(np.frombuffer(frames[0].pictures[FRONT].jpeg, np.uint8), 1).astype(int)
    assert np.abs(shown - cv2.imdecode(make_jpeg(HEIGHT, WIDTH), 1)).mean() < 3.0
    assert '6 pictures that were no JPEG: encoded once' in capsys.readouterr().err


def test_masks_of_another_size_are_left_out(tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]):
    scene, frames = make_scene('masks', num_frames=2)
    pictures = dict(frames[0].pictures)
    pictures[FRONT] = replace(pictures[FRONT], mask_png=make_png(np.zeros((9, 9), np.uint8)))
    pictures['CAM_BACK'] = replace(pictures['CAM_BACK'], mask_png=b'no picture')
    bag_out.write_bag(tmp_path / 'masks', HEADER, 'train', scene,
                      [replace(frames[0], pictures=pictures), frames[1]])
    assert to_dataset(tmp_path / 'masks', '--out', tmp_path / 'out') == 0
    ((_, found),) = read_all(tmp_path / 'out', 'train')
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
    (_shrink, f'pictures of {TOPICS[FRONT]} are 56x28 pixels, /CAM_FRONT/camera_info says 112x56'),
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
    ((scene, frames),) = read_all(tmp_path / 'out', 'train')
    assert [camera.name for camera in scene.cameras] == ['left', 'front']
    assert {len(frame.pictures) for frame in frames} == {2}


def test_labels_that_are_not_ours_are_refused(tmp_path: Path):
    text = typestore().types[STRING_TYPE]
    for number, data in enumerate(('{"version": 2}', '[]', 'no JSON')):
        with BagWriter(tmp_path / str(number)) as writer:
            writer.write(SCENE_TOPIC, STRING_TYPE, 1, text(data=data))
        with Bag(tmp_path / str(number)) as bag:
            with pytest.raises(DataError, match='/fastdrive/scene is not what `fastdrive bag'):
                read_scene_labels(bag)


def test_a_path_that_is_no_bag(tmp_path: Path):
    with pytest.raises(BagError, match='no bag at'):
        bag_to_dataset.run(parse(bag_to_dataset, 'to-dataset', tmp_path / 'nothing', '--out',
                                  tmp_path / 'out'))


@pytest.mark.parametrize(('bag', 'rate_hz', 'num_frames', 'num_odometry'), [
    (SAMPLE_BAG, 10, 110, 110), (REAL_BAG, 2, 23, 196)])
def test_bags_of_real_recordings(tmp_path: Path, bag: Path, rate_hz: int, num_frames: int,
                                 num_odometry: int):
    if not bag.is_dir():
        pytest.skip(f'real data is not here: {bag}')
    assert to_dataset(bag, '--out', tmp_path / 'out', '--rate-hz', rate_hz) == 0
    ((scene, frames),) = read_all(tmp_path / 'out', 'train')
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
