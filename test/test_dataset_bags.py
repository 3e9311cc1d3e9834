# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets to bags and back: nothing altered, nothing lost, nothing half-written."""

from __future__ import annotations

import argparse
from dataclasses import fields
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_scene
from make_rigged_bags import TOPICS
from make_rigged_bags import write_rigged_bag
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader

pytest.importorskip('pyarrow', reason="datasets need pyarrow: pip install 'fastdrive_ros[data]'")

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data import bag_out
from fastdrive_ros.data.digest import digest
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools import bag_from_dataset
from fastdrive_ros.tools.bag_survey import survey
from fastdrive_ros.tools.cli import main

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
    assert counts['/tf_static'] == counts['/dataset/scene'] == 1
    for camera in NUSCENES_CAMERAS:
        assert counts[TOPICS[camera]] == counts[f'/{camera}/camera_info'] == 3
        assert counts[f'/{camera}/mask/compressed'] == 3


def test_what_is_said_once_is_latched(dataset: Path, tmp_path: Path):
    from_dataset(dataset, '--out', tmp_path, '--scenes', 'good')
    with Reader(tmp_path / 'good') as reader:
        latched = {connection.topic for connection in reader.connections
                   for qos in connection.ext.offered_qos_profiles
                   if qos.durability == QosDurability.TRANSIENT_LOCAL}
    assert latched == {'/tf_static', '/dataset/scene'}
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


# Interrupted, repeated, refused.


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
