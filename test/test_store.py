# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets on the disk: what goes in comes out, and nothing half-written is read as good."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from make_drives import make_scene

pytest.importorskip('pyarrow', reason="datasets need pyarrow: pip install 'fastdrive_ros[data]'")
import pyarrow as pa
import pyarrow.parquet as pq

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.schema import frames_from_table
from fastdrive_ros.data.schema import frames_to_table
from fastdrive_ros.data.schema import scene_from_table
from fastdrive_ros.data.schema import scene_to_table
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter

TEST = Path(__file__).resolve().parent
HEADER = DatasetHeader('small', 'metadrive', NUSCENES_CAMERAS, 112, 56, 2.0, {'seed': 7}, 'free')


def same(a: Any, b: Any) -> bool:
    """Tell whether two records are equal to the bit and of the same types; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, item.name), getattr(b, item.name))
                   for item in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b or a != a and b != b


def writer(root: Path, messages: list[str] | None = None,
           header: DatasetHeader = HEADER) -> DatasetWriter:
    return DatasetWriter(root, header, ([] if messages is None else messages).append)


def write(root: Path, number: int = 0, *drives: tuple[SceneRecord, list[FrameRecord]],
          split: str = 'train') -> Path:
    """Write one shard of these drives (default: one of three frames); return its folder."""
    with writer(root).shard(split, number) as shard:
        for scene, frames in drives or [make_scene(f'sim-{number:09d}', seed=number)]:
            shard.add(scene, frames)
    return root / split / f'{number:06d}'


@contextmanager
def limited(what: int, value: int) -> Iterator[None]:
    """Let the system refuse this process something for a while."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_drives_come_back_as_they_went_in(tmp_path: Path) -> None:
    first, second = make_scene(), make_scene('sim-000000001', num_frames=2, seed=1)
    third = make_scene('sim-000000002', num_frames=1, seed=2, masks=False,
                       cameras=NUSCENES_CAMERAS[:2])
    write(tmp_path / 'd', 0, first, second)
    write(tmp_path / 'd', 1, third)
    dataset = Dataset(tmp_path / 'd')
    assert dataset.header == HEADER
    assert dataset.dropped == []
    assert dataset.count('train') == 6 and dataset.count('val') == 0
    assert dataset.shards('train') == [tmp_path / 'd/train/000000', tmp_path / 'd/train/000001']
    assert same(list(dataset.scenes('train')), [first[0], second[0], third[0]])
    found = list(dataset.frames('train'))
    assert same([frame for _, frame in found], first[1] + second[1] + third[1])
    assert [scene.name for scene, _ in found] == [first[0].name] * 3 + [second[0].name] * 2 + [
        third[0].name]


def test_one_drive_at_a_time_in_any_order(tmp_path: Path) -> None:
    first, second = make_scene(), make_scene('sim-000000001', num_frames=2, seed=1)
    write(tmp_path / 'd', 0, first, second)
    dataset = Dataset(tmp_path / 'd')
    drives = dataset.drives('train')
    assert [drive.num_frames for drive in drives] == [3, 2]
    assert same(dataset.read(drives[1]), second)
    assert same(dataset.read(drives[0]), first)


floats = st.floats(width=64)
vectors = st.tuples(floats, floats, floats)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.builds(Agent, st.text(), st.text(), vectors, vectors, floats,
                          st.tuples(floats, floats)), max_size=3).map(tuple),
       st.dictionaries(st.sampled_from(NUSCENES_CAMERAS),
                       st.builds(Picture, st.integers(0, 2**62), st.binary(),
                                 st.none() | st.binary()), max_size=3),
       st.none() | st.binary(), st.integers(0, 2**62))
def test_any_frame_round_trips(agents: tuple[Agent, ...], pictures: dict[str, Picture],
                               drivable: bytes | None, stamp_ns: int) -> None:
    frame = FrameRecord('s', 0, stamp_ns, pictures, agents, 'left', 'red', drivable)
    table = frames_to_table([frame], NUSCENES_CAMERAS)
    back, = frames_from_table(table, NUSCENES_CAMERAS)
    assert same(dataclasses.replace(back, pictures=dict(sorted(back.pictures.items()))),
                dataclasses.replace(frame, pictures=dict(sorted(frame.pictures.items()))))


@settings(max_examples=30, deadline=None)
@given(st.lists(vectors, max_size=4), st.lists(st.lists(vectors, max_size=3), max_size=3),
       st.none() | st.integers(0, 2**63 - 1),
       st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-9, 9) | st.text()))
def test_any_scene_round_trips(track: list, lanes: list, seed: int | None,
                               conditions: dict[str, Any]) -> None:
    rows = np.array(track, dtype=np.float64).reshape(-1, 3)
    ego = EgoTrack(np.arange(len(track)), rows, np.hstack([rows, rows[:, :1]]), rows[::-1], -rows)
    scene = dataclasses.replace(
        make_scene()[0], ego=ego, seed=seed, conditions=conditions,
        lanes=tuple(np.array(lane, dtype=np.float64).reshape(-1, 3) for lane in lanes))
    assert same(scene_from_table(scene_to_table(scene, 0)), scene)


def test_some_cameras_without_masks(tmp_path: Path) -> None:
    scene, frames = make_scene()
    write(tmp_path / 'd', 0, (scene, frames))
    dataset = Dataset(tmp_path / 'd')
    _, frame = next(dataset.frames('train', cameras=['CAM_BACK', 'CAM_FRONT'], masks=False))
    assert list(frame.pictures) == ['CAM_BACK', 'CAM_FRONT']
    assert frame.pictures['CAM_BACK'].jpeg == frames[0].pictures['CAM_BACK'].jpeg
    assert frame.pictures['CAM_BACK'].mask_png is None
    assert next(dataset.frames('train', cameras=()))[1].pictures == {}
    with pytest.raises(DataError, match='has no camera CAM_TOP: it has CAM_FRONT_LEFT, '):
        next(dataset.frames('train', cameras=['CAM_TOP']))
    with pytest.raises(DataError, match="no split 'training': a dataset has train, val, test"):
        writer(tmp_path / 'd').done('training')


def test_failed_drives_are_kept_apart(tmp_path: Path) -> None:
    good, failed = make_scene(), make_scene('sim-000000001', 2, 1, outcome='crash_vehicle')
    with writer(tmp_path / 'd').shard('train', 0) as shard:
        shard.add(*failed)
        assert shard.frames_written == 0
        shard.add(*good)
        assert shard.frames_written == 3
    dataset = Dataset(tmp_path / 'd')
    assert dataset.count('train') == 3 and dataset.count('train', failed=True) == 2
    assert [scene.name for scene in dataset.scenes('train')] == ['sim-000000000']
    assert [scene.outcome for scene in dataset.scenes('train', failed=True)] == ['crash_vehicle']
    assert same([frame for _, frame in dataset.frames('train', failed=True)], failed[1])
    only_good = write(tmp_path / 'd', 1)
    assert sorted(path.name for path in only_good.iterdir()) == [
        'frames.parquet', 'scenes.parquet']


def test_a_shard_without_a_good_drive_is_whole(tmp_path: Path) -> None:
    write(tmp_path / 'd', 0, make_scene(outcome='crash_walker'))
    assert writer(tmp_path / 'd').done('train') == {0}
    assert list(Dataset(tmp_path / 'd').frames('train')) == []


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    _, frames = make_scene()
    path = write(tmp_path / 'd') / 'frames.parquet'
    table = pq.read_table(path, columns=['index', 'command', 'CAM_FRONT.jpeg'])
    assert table['index'].to_pylist() == [0, 1, 2]
    assert table['command'].to_pylist() == ['left', 'straight', 'right']
    assert table['CAM_FRONT.jpeg'][1].as_py() == frames[1].pictures['CAM_FRONT'].jpeg
    group = pq.ParquetFile(path).metadata.row_group(0)
    packed = {group.column(i).path_in_schema: group.column(i).compression
              for i in range(group.num_columns)}
    assert packed['CAM_FRONT.jpeg'] == packed['CAM_BACK.mask_png'] == 'UNCOMPRESSED'
    assert packed['agents.list.element.yaw_rad'] == 'ZSTD'


def test_an_interrupted_shard_is_ignored_and_made_again(tmp_path: Path) -> None:
    write(tmp_path / 'd', 0)
    code = (f'import sys, os; sys.path[:0] = [{str(TEST)!r}, {str(TEST.parent)!r}]\n'
            'from pathlib import Path\n'
            'from test_store import make_scene, writer\n'
            f'with writer(Path({str(tmp_path / "d")!r})).shard("train", 1) as shard:\n'
            '    shard.add(*make_scene())\n'
            '    os.kill(os.getpid(), 9)\n')
    assert subprocess.run([sys.executable, '-c', code], timeout=60).returncode == -9
    assert (tmp_path / 'd/train/000001.partial/frames.parquet').exists()
    dataset = Dataset(tmp_path / 'd')
    assert dataset.count('train') == 3
    assert 'train/000001.partial is not finished: run the command that' in dataset.dropped[0]
    messages: list[str] = []
    assert writer(tmp_path / 'd', messages).done('train') == {0}
    assert len(messages) == 1 and 'train/000001.partial: the run that wrote it' in messages[0]
    write(tmp_path / 'd', 1)
    assert Dataset(tmp_path / 'd').count('train') == 6
    assert sorted(os.listdir(tmp_path / 'd/train')) == ['000000', '000001']


def truncate(shard: Path) -> None:
    path = shard / 'frames.parquet'
    path.write_bytes(path.read_bytes()[:-100])


def swap(shard: Path) -> None:
    other = write(shard.parent.parent / 'other', 0, make_scene(num_frames=2))
    (other / 'scenes.parquet').replace(shard / 'scenes.parquet')


def rename_column(shard: Path) -> None:
    table = pq.read_table(shard / 'frames.parquet')
    pq.write_table(table.rename_columns(['scene_name', *table.column_names[1:]]),
                   shard / 'frames.parquet')


@pytest.mark.parametrize(('damage', 'reason'), [
    (truncate, r'frames\.parquet: .*'),
    (swap, r'scenes\.parquet tells of \[2\] frames, frames\.parquet has \[3\]'),
    (rename_column, 'columns that are not those of the format'),
    (lambda shard: (shard / 'scenes.parquet').unlink(), 'scenes.parquet is missing'),
    (lambda shard: (shard / 'frames.parquet').write_bytes(b''), r'frames\.parquet: .*'),
    (lambda shard: (shard / 'failed_scenes.parquet').write_bytes(b'x'), 'failed_scenes.parquet: '),
], ids=['truncated', 'of another shard', 'other columns', 'missing', 'empty', 'failed ones'])
def test_a_torn_shard_is_dropped_and_made_again(tmp_path: Path, damage: Any, reason: str) -> None:
    write(tmp_path / 'd', 0)
    damage(write(tmp_path / 'd', 1))
    dataset = Dataset(tmp_path / 'd')
    assert dataset.count('train') == 3
    sentence, = dataset.dropped
    assert sentence.startswith(f'{tmp_path}/d/train/000001 is damaged (')
    assert sentence.endswith('made the dataset again, it makes what is missing')
    assert re.search(reason, sentence)
    messages: list[str] = []
    assert writer(tmp_path / 'd', messages).done('train') == {0}
    assert messages == [f'removed, to be made again: {sentence}']
    write(tmp_path / 'd', 1)
    assert Dataset(tmp_path / 'd').count('train') == 6


def test_a_flipped_bit_in_a_picture_is_an_error_not_a_picture(tmp_path: Path) -> None:
    drives = make_scene(), make_scene('sim-000000001', seed=1)
    path = write(tmp_path / 'd', 0, *drives) / 'frames.parquet'
    content = bytearray(path.read_bytes())
    content[content.index(drives[1][1][0].pictures['CAM_BACK'].jpeg) + 500] ^= 1
    path.write_bytes(content)
    dataset = Dataset(tmp_path / 'd')
    assert dataset.dropped == []  # footers do not tell
    found = dataset.frames('train')
    assert [next(found)[1].index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r'train/000000 is damaged \(frames\.parquet: .*CRC'):
        next(found)
    assert len(list(dataset.frames('train', cameras=['CAM_FRONT']))) == 6


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    shard = write(tmp_path / 'd')
    expected = list(Dataset(tmp_path / 'd').frames('train'))
    rng = np.random.default_rng(0)
    for name in ('frames.parquet', 'scenes.parquet'):
        content = (shard / name).read_bytes()
        for _ in range(60):
            bad = bytearray(content)
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
            (shard / name).write_bytes(bad)
            dataset = Dataset(tmp_path / 'd')
            try:
                assert dataset.dropped or same(list(dataset.frames('train')), expected)
            except DataError as error:
                assert 'is damaged' in str(error)
        (shard / name).write_bytes(content)


def test_an_error_of_the_system_is_not_taken_for_damage(tmp_path: Path) -> None:
    write(tmp_path / 'd')
    free = os.open(tmp_path, os.O_RDONLY)
    os.close(free)
    drive, = Dataset(tmp_path / 'd').drives('train')
    with limited(resource.RLIMIT_NOFILE, free), pytest.raises(OSError, match='Too many open'):
        Dataset(tmp_path / 'd').read(drive)
    assert writer(tmp_path / 'd').done('train') == {0}


@pytest.mark.parametrize('room', [0, 3_000, 60_000])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, room: int) -> None:
    out = writer(tmp_path / 'd')
    with pytest.raises(OSError) as raised, limited(resource.RLIMIT_FSIZE, room):
        with out.shard('train', 0) as shard:
            for seed in range(4):
                shard.add(*make_scene(f'sim-{seed:09d}', num_frames=5, seed=seed))
    assert raised.value.errno == 27  # EFBIG; a full disk is ENOSPC, on the same way
    assert list((tmp_path / 'd/train').iterdir()) == []
    assert out.done('train') == set()


def test_whatever_breaks_a_shard_it_vanishes(tmp_path: Path) -> None:
    out = writer(tmp_path / 'd')
    for error in (DataError('no'), KeyboardInterrupt()):
        with pytest.raises(type(error)), out.shard('val', 3) as shard:
            shard.add(*make_scene())
            raise error
        assert list((tmp_path / 'd/val').iterdir()) == []


def test_whole_shards_are_never_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / 'd', 4)
    before = (path / 'frames.parquet').read_bytes()
    with pytest.raises(DataError, match='train/000004 is there already'):
        write(tmp_path / 'd', 4)
    assert (path / 'frames.parquet').read_bytes() == before


def test_a_shard_that_is_being_written_is_left_to_its_writer(tmp_path: Path) -> None:
    messages: list[str] = []
    with writer(tmp_path / 'd').shard('train', 0) as shard:
        shard.add(*make_scene())
        with pytest.raises(DataError, match='000000 is being written by another process'):
            write(tmp_path / 'd', 0)
        assert writer(tmp_path / 'd', messages).done('train') == set()
        assert messages == []
    assert writer(tmp_path / 'd').done('train') == {0}


def test_processes_write_shards_side_by_side(tmp_path: Path) -> None:
    code = (f'import sys; sys.path[:0] = [{str(TEST)!r}, {str(TEST.parent)!r}]\n'
            'from pathlib import Path\n'
            'from test_store import write, writer\n'
            f'root = Path({str(tmp_path / "d")!r})\n'
            'for number in map(int, sys.argv[1:]):\n'
            '    write(root, number)\n'
            '    writer(root).done("train")\n')
    processes = [subprocess.Popen([sys.executable, '-c', code, *numbers])
                 for numbers in (('0', '2', '4', '6'), ('1', '3', '5', '7'))]
    assert [process.wait(60) for process in processes] == [0, 0]
    dataset = Dataset(tmp_path / 'd')
    assert dataset.count('train') == 24 and dataset.dropped == []
    assert [scene.seed for scene in dataset.scenes('train')] == list(range(8))
    assert sorted(os.listdir(tmp_path / 'd')) == ['dataset.json', 'train']


@pytest.mark.parametrize(('change', 'reason'), [
    ({'settings': {'seed': 8}}, r'settings\.seed: 7, now 8\)'),
    ({'settings': {}}, r'settings\.seed: 7, now null\)'),
    ({'image_width': 448}, r'image_width: 112, now 448\)'),
    ({'cameras': ('CAM_FRONT',)}, r'cameras: \[.*, now \["CAM_FRONT"\]\)'),
])
def test_other_settings_make_another_dataset(tmp_path: Path, change: dict[str, Any],
                                             reason: str) -> None:
    write(tmp_path / 'd')
    with pytest.raises(DataError, match=f'was begun with other settings .*{reason}: ask for'):
        writer(tmp_path / 'd', header=dataclasses.replace(HEADER, **change))
    assert Dataset(tmp_path / 'd').count('train') == 3


def test_the_same_settings_continue_whichever_version_asks(tmp_path: Path) -> None:
    write(tmp_path / 'd')
    path = tmp_path / 'd/dataset.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'fastdrive_ros': '9.9'}))
    assert writer(tmp_path / 'd').done('train') == {0}


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no dataset at .*nowhere: the folder does not exist'):
        Dataset(tmp_path / 'nowhere')
    with pytest.raises(DataError, match=r'is not a dataset, it has no dataset\.json: give the fo'):
        Dataset(tmp_path)
    (tmp_path / 'thesis.txt').write_text('mine')
    with pytest.raises(DataError, match='holds other files and no dataset.json: choose a new or'):
        writer(tmp_path)
    with pytest.raises(DataError, match='thesis.txt is a file: a dataset is a folder'):
        writer(tmp_path / 'thesis.txt')
    (tmp_path / 'empty').mkdir()
    assert writer(tmp_path / 'empty').done('train') == set()


@pytest.mark.parametrize(('change', 'reason'), [
    ('{', r'dataset\.json is not JSON'),
    ('[]', 'does not say "format": "fastdrive-dataset"'),
    ({'format': 'lerobot'}, 'does not say "format": "fastdrive-dataset"'),
    ({'format_version': 2}, r'format_version 2 was written by fastdrive_ros 0\.\d+.*install that'),
    ({'classes': ['ROAD']}, r"the masks' classes are \['ROAD'\], expected"),
    ({'rate_hz': ...}, 'lacks rate_hz: take it from a copy'),
])
def test_headers_that_cannot_be_read_are_refused(tmp_path: Path, change: Any, reason: str) -> None:
    write(tmp_path / 'd')
    path = tmp_path / 'd/dataset.json'
    if isinstance(change, dict):
        content = json.loads(path.read_text()) | change
        change = json.dumps({name: value for name, value in content.items() if value is not ...})
    path.write_text(change)
    with pytest.raises(DataError, match=reason):
        Dataset(tmp_path / 'd')
    with pytest.raises(DataError, match=reason):
        writer(tmp_path / 'd')
    assert path.read_text() == change


@pytest.mark.parametrize(('change', 'promise'), [
    ({'scene': 'another'}, "frames bear the scene's name"),
    ({'index': 5}, 'indices are 0, 1, 2'),
    ({'stamp_ns': 0}, 'stamps of frames increase'),
    ({'command': 'up'}, 'commands are of'),
    ({'pictures': {'CAM_TOP': Picture(0, b'')}}, 'pictures are of'),
])
def test_records_keep_their_promises(tmp_path: Path, change: dict[str, Any],
                                     promise: str) -> None:
    scene, frames = make_scene()
    frames[1] = dataclasses.replace(frames[1], **change)
    with pytest.raises(ValueError, match=promise):
        write(tmp_path / 'd', 0, (scene, frames))


def test_odometry_has_stamps_that_a_vehicle_takes(tmp_path: Path) -> None:
    scene, frames = make_scene()
    ego = dataclasses.replace(scene.ego, stamps_ns=scene.ego.stamps_ns - scene.ego.stamps_ns[0])
    with pytest.raises(ValueError, match='stamps are above 0'):
        write(tmp_path / 'd', 0, (dataclasses.replace(scene, ego=ego), frames))


def test_positions_are_triples_of_float64(tmp_path: Path) -> None:
    shard = write(tmp_path / 'd')
    columns = pq.read_schema(shard / 'scenes.parquet')
    assert columns.field('ego_positions_m').type == pa.list_(pa.list_(pa.float64(), 3))
    assert columns.field('lanes').type == pa.list_(pa.list_(pa.list_(pa.float64(), 3)))
