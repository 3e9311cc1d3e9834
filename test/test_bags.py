# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every kind of bag opens; every kind of broken bag is refused with a sentence that mends it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from make_bags import IMAGE
from make_bags import PERIOD_NS
from make_bags import T0_NS
from make_bags import cut
from make_bags import image_message
from make_bags import storage_file
from make_bags import write_bag
from make_bags import write_foreign_mcap
from rosbags.rosbag2 import CompressionMode
from rosbags.rosbag2 import StoragePlugin

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagError
from fastdrive_ros.bags import BagMessage
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.bags import fit_presets

MESSAGES = 5 * 7


@pytest.mark.parametrize('storage', list(StoragePlugin))
@pytest.mark.parametrize('compression', [
    CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE])
def test_every_storage_and_compression_reads_alike(tmp_path: Path, storage: StoragePlugin,
                                                   compression: CompressionMode) -> None:
    path = write_bag(tmp_path / 'bag', storage=storage, compression=compression)
    with Bag(path) as bag:
        messages = list(bag.messages())
        assert len(messages) == MESSAGES
        assert bag.topics['/CAM_BACK/image_rect_compressed'].count == 5
        assert (bag.start_ns, bag.end_ns) == (T0_NS, T0_NS + 4 * PERIOD_NS + 25_000_000)
        assert [m.log_ns for m in messages] == sorted(m.log_ns for m in messages)
        first = next(bag.messages(['/CAM_FRONT/image_rect_compressed']))
        assert bag.decode(first).header.frame_id == 'CAM_FRONT'


@pytest.mark.parametrize('storage', list(StoragePlugin))
def test_a_single_file_is_a_bag_too(tmp_path: Path, storage: StoragePlugin) -> None:
    path = write_bag(tmp_path / 'bag', storage=storage)
    with Bag(storage_file(path)) as bag:
        assert sum(1 for _ in bag.messages()) == MESSAGES


def test_messages_of_absent_topics_are_none_not_all(tmp_path: Path) -> None:
    with Bag(write_bag(tmp_path / 'bag')) as bag:
        assert list(bag.messages(['/nothing'])) == []


def test_what_the_writer_wrote_the_reader_reads(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write('/picture', IMAGE, 123, image_message(T0_NS, 'CAM_FRONT'))
    with Bag(tmp_path / 'bag') as bag:
        (message,) = bag.messages()
        assert (message.topic, message.log_ns) == ('/picture', 123)
        assert bag.decode(message).header.stamp.sec == T0_NS // 10**9


def refused(path: Path) -> str:
    with pytest.raises(BagError) as caught:
        Bag(path)
    return str(caught.value)


def test_no_bag(tmp_path: Path) -> None:
    assert 'no bag at' in refused(tmp_path / 'absent')


def test_some_other_file(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('a drive in the rain')
    assert "found a file that starts with b'a drive '" in refused(tmp_path / 'notes.txt')


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / 'a.mcap').touch()
    assert 'is empty' in refused(tmp_path / 'a.mcap')


def test_some_other_folder(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').touch()
    assert 'is not a bag: expected metadata.yaml' in refused(tmp_path)


def test_a_ros_1_bag_names_the_converter(tmp_path: Path) -> None:
    (tmp_path / 'old.bag').write_bytes(b'#ROSBAG V2.0\n' + bytes(100))
    assert 'is a ROS 1 bag: convert it with `rosbags-convert' in refused(tmp_path / 'old.bag')


def test_no_metadata_names_reindex_and_the_file(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'bag')
    (path / 'metadata.yaml').unlink()
    assert 'has no metadata.yaml' in (sentence := refused(path))
    assert f'`ros2 bag reindex {path}`' in sentence
    assert str(storage_file(path)) in sentence


def test_a_storage_file_that_is_gone(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'bag')
    storage_file(path).unlink()
    assert 'lacks a storage file' in refused(path)


@pytest.mark.parametrize('single_file', [False, True])
def test_a_truncated_mcap_says_how_far_it_is_readable(tmp_path: Path, single_file: bool) -> None:
    # Long enough for several chunks: what is whole is what the sentence counts.
    path = write_bag(tmp_path / 'bag', num_sets=100, images={
        (i, 'CAM_FRONT'): np.full(60_000, i, np.uint8) for i in range(100)})
    file = storage_file(path)
    cut(file, 0.6)
    sentence = refused(file if single_file else path)
    assert 'is truncated' in sentence
    seconds = float(sentence.split(' MB, ')[1].split(' s ')[0])
    assert 2.0 < seconds < 7.0
    assert 'mcap recover' in sentence


def test_a_truncated_sqlite_bag(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'bag', num_sets=100, storage=StoragePlugin.SQLITE3)
    cut(storage_file(path), 0.5)
    sentence = refused(path)
    assert 'is truncated or damaged' in sentence
    assert '.recover | sqlite3' in sentence


def test_another_sqlite_database(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / 'photos.db3')
    connection.execute('CREATE TABLE photos (id INTEGER)')
    connection.commit()
    connection.close()
    assert 'without the tables messages and topics, found photos' in refused(
        tmp_path / 'photos.db3')


def test_damage_in_the_middle_is_told_where_it_is_met(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'bag', num_sets=100, images={
        (i, 'CAM_FRONT'): np.full(60_000, i, np.uint8) for i in range(100)})
    file = storage_file(path)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 130_000] = b'\xff' * 130_000  # at least one record's head
    file.write_bytes(data)
    with Bag(path) as bag, pytest.raises(BagError, match=r'is damaged \d\.\d s after its start'):
        list(bag.messages())


def test_a_foxglove_protobuf_bag_is_recognised(tmp_path: Path) -> None:
    path = write_foreign_mcap(tmp_path / 'nuscenes.mcap', '', 'foxglove.CompressedImage',
                              'protobuf')
    sentence = refused(path)
    assert 'not a ROS 2 bag: schema foxglove.CompressedImage (protobuf)' in sentence
    assert 'nuscenes_to_ros2bag' in sentence


def test_an_mcap_of_another_profile(tmp_path: Path) -> None:
    path = write_foreign_mcap(tmp_path / 'a.mcap', 'ros1', 'sensor_msgs/Image', 'ros1msg')
    assert "its MCAP profile is 'ros1', expected 'ros2'" in refused(path)


def test_a_bag_without_messages(tmp_path: Path) -> None:
    assert 'holds no message' in refused(write_bag(tmp_path / 'bag', num_sets=0))


def test_a_message_that_is_cut_short(tmp_path: Path) -> None:
    with Bag(write_bag(tmp_path / 'bag')) as bag:
        whole = next(bag.messages(['/odom']))
        broken = BagMessage(whole.topic, whole.type, whole.log_ns, whole.data[:40])
        with pytest.raises(BagError, match='/odom is not a whole nav_msgs/msg/Odometry'):
            bag.decode(broken)


def test_the_preset_that_fits(tmp_path: Path) -> None:
    with Bag(write_bag(tmp_path / 'bag')) as bag:
        best = fit_presets(bag.topics)[0]
        assert (best.preset, best.score, best.missing) == ('nuscenes_mcap', 1.0, {})


def test_five_of_six_cameras_still_find_the_preset(tmp_path: Path) -> None:
    cameras = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK')
    with Bag(write_bag(tmp_path / 'bag', cameras=cameras)) as bag:
        best = choose_preset(bag)
        assert best.preset == 'nuscenes_mcap'
        assert best.missing == {'CAM_BACK_RIGHT': '/CAM_BACK_RIGHT/image_rect_compressed'}
        assert best.score == pytest.approx(6 / 7)


def test_no_camera_of_any_preset_lists_what_is_there(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'bag', cameras=('left',), topic='/my/{}')
    with Bag(path) as bag, pytest.raises(BagError, match=r'/my/left \(sensor_msgs.*camera_topics'):
        choose_preset(bag)


def test_a_copied_bag_is_as_good(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'bag')
    with Bag(shutil.copytree(path, tmp_path / 'renamed')) as bag:
        assert len(list(bag.messages())) == MESSAGES
