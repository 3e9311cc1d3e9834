# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data inspect`: numbers against drives counted by hand, and what it finds wrong."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from make_drives import make_mask
from make_drives import make_png
from make_drives import make_scene
from make_inputs import make_jpeg

pytest.importorskip('pyarrow', reason="datasets need pyarrow: pip install 'fastdrive_ros[data]'")

from fastdrive_ros.core.classes import CLASS_RGB
from fastdrive_ros.core.classes import class_ids
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.digest import digest
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.tools import data_inspect
from fastdrive_ros.tools.cli import main

Drive = tuple[SceneRecord, list[FrameRecord]]


def make(root: Path, train: list[Drive], val: list[Drive] = ()) -> Path:
    header = DatasetHeader(
        'small', 'metadrive', NUSCENES_CAMERAS, 112, 56, 2.0, license="Nobody's.")
    out = DatasetWriter(root, header, print)
    for split, drives in (('train', train), ('val', val)):
        with out.shard(split, 0) as shard:
            for drive in drives:
                shard.add(*drive)
    return root


def inspect(root: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    data_inspect.add_parser(parser.add_subparsers())
    return data_inspect.run(parser.parse_args(['inspect', str(root), *options]))


def report_of(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> (
        tuple[int, dict[str, Any]]):
    code = inspect(root, '--json', *options)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two drives of 3 and 2 frames and a failed one to train on, one of 1 frame beside them."""
    return make(tmp_path / 'd', [
        make_scene('sim-0'), make_scene('sim-1', num_frames=2, seed=1),
        make_scene('sim-2', num_frames=4, seed=2, outcome='crash_vehicle')],
        [make_scene('sim-3', num_frames=1, seed=3, cameras=NUSCENES_CAMERAS[:5])])


def test_counts(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = report_of(dataset, capsys)
    assert code == 0 and report['troubles'] == []
    train, val, test = (report['splits'][split] for split in ('train', 'val', 'test'))
    assert (train['shards'], train['scenes'], train['frames']) == (1, 2, 5)
    assert (train['failed'], train['failed_frames']) == ({'crash_vehicle': 1}, 4)
    assert train['hours'] == pytest.approx(5 / 2 / 3600, abs=5e-5)
    assert (val['scenes'], val['frames'], val['failed']) == (1, 1, {})
    assert (test['shards'], test['frames'], test['MB_per_frame']) == (0, 0, 0)
    assert train['commands'] == {'left': 2, 'straight': 2, 'right': 1}
    assert train['traffic_lights'] == {'none': 2, 'green': 2, 'red': 1}
    assert train['agents'] == {'CAR': 5, 'PEDESTRIAN': 5}
    pictures = {camera: facts['pictures'] for camera, facts in val['cameras'].items()}
    assert pictures == dict.fromkeys(NUSCENES_CAMERAS, 1) | {'CAM_BACK_RIGHT': 0}
    # The arc is driven at 5 m/s, at the lower end of its bar.
    assert [bar['from'] for bar in train['speeds_mps'] if bar['frames']] == [5.0]
    assert sum(bar['frames'] for bar in train['speeds_mps']) == 5
    assert report['conditions'] == {'weather': {'fog': 2, 'clear': 1},
                                    'exposure': {'min': 1.25, 'median': 1.25, 'max': 1.25}}


def test_sizes_are_those_on_the_disk(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = report_of(dataset, capsys)[1]['splits']['train']
    sizes = {path.name: path.stat().st_size for path in (dataset / 'train/000000').iterdir()}
    assert train['MB'] == pytest.approx(sum(sizes.values()) / 1e6, abs=1e-3)
    assert train['MB_per_frame'] == pytest.approx(
        (sizes['frames.parquet'] + sizes['scenes.parquet']) / 5e6, abs=1e-5)
    _, frames = make_scene('sim-0')
    _, more = make_scene('sim-1', num_frames=2, seed=1)
    front = [frame.pictures['CAM_FRONT'] for frame in frames + more]
    jpeg_kb = sum(len(picture.jpeg) for picture in front) / 5 / 1e3
    mask_kb = sum(len(picture.mask_png) for picture in front) / 5 / 1e3
    # Parquet's own part: a length a value, a header a page.
    assert 0 < train['cameras']['CAM_FRONT']['jpeg_kB'] - jpeg_kb < 0.1
    assert 0 < train['cameras']['CAM_FRONT']['mask_kB'] - mask_kb < 0.1


def test_class_balance_is_that_of_the_masks(dataset: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    splits = report_of(dataset, capsys)[1]['splits']
    assert (splits['train']['masks_sampled'], splits['val']['masks_sampled']) == (30, 5)
    for split in ('train', 'val'):
        shares = {name: share for name, share in splits[split]['classes'].items() if share}
        assert shares == {'SKY': 0.5, 'ROAD': 15 / 32, 'CAR': 1 / 32}
        assert splits[split]['cameras']['CAM_FRONT']['foreground'] == 0.5
    assert splits['val']['cameras']['CAM_BACK_RIGHT']['foreground'] is None


def test_pictures_without_masks_are_counted(tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / 'd', [make_scene(masks=False)])
    code, report = report_of(root, capsys, '--verify')
    assert code == 0
    assert report['splits']['train']['masks_sampled'] == 0
    assert report['splits']['train']['unlabelled_sampled'] == 18
    assert report['splits']['train']['cameras']['CAM_BACK']['foreground'] is None


def test_the_sample_of_masks_is_bounded_and_spread(
        tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdrive_ros.tools import dataset_survey

    monkeypatch.setattr(dataset_survey, '_SAMPLE_DRIVES', 2)
    monkeypatch.setattr(dataset_survey, '_SAMPLE_FRAMES', 1)
    drives = [make_scene(f'sim-{i}', cameras=NUSCENES_CAMERAS[:1]) for i in range(5)]
    assert report_of(make(tmp_path / 'd', drives), capsys)[1]['splits']['train'][
        'masks_sampled'] == 2
    assert dataset_survey._spread(range(8), 4) == [1, 3, 5, 7]
    assert dataset_survey._spread(range(2), 4) == [0, 1]
    assert dataset_survey._spread([], 4) == []


def test_the_tables_for_people(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(dataset) == 0
    out = capsys.readouterr().out
    assert "small, metadrive, 6 cameras of 112x56, 2 Hz\nlicence: Nobody's.\n" in out
    lines = [line.split() for line in out.splitlines()]
    train, = (line for line in lines if line[0:1] == ['train'] and len(line) > 3)
    assert train[:5] + train[7:] == ['train', '1', '2', '5', '0.00', 'crash_vehicle', '1']
    assert ['CAM_BACK_RIGHT', '5', '0'] in lines
    assert ['ROAD', '*', '46.88', '%', '46.88', '%'] in lines
    assert ['right', '1', '0'] in lines
    assert ['5.0', 'to', '7.5', '6', '#' * 40] in lines
    assert 'masks read: 30 of train, 5 of val' in out
    assert 'weather: fog 2, clear 1' in out
    assert out.endswith('nothing wrong with what was read; --verify reads every byte\n')
    assert inspect(dataset, '--verify') == 0
    assert 'every byte was read: all is well' in capsys.readouterr().out


def test_digests(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = vars(digest(Dataset(dataset), 'train'))
    report = report_of(dataset, capsys, '--digest')[1]
    assert report['digest']['train'] == expected
    assert list(report['digest']) == ['train', 'val']
    assert inspect(dataset, '--digest') == 0
    out = capsys.readouterr().out
    assert f"digest train: images {expected['images']}" in out
    assert f"labels {expected['labels']}" in out


def with_back(drive: Drive, **change: Any) -> Drive:
    """Return the drive with something else in CAM_BACK of its first frame."""
    scene, frames = drive
    pictures = frames[0].pictures
    back = dataclasses.replace(pictures['CAM_BACK'], **change)
    return scene, [dataclasses.replace(frames[0], pictures={**pictures, 'CAM_BACK': back}),
                   *frames[1:]]


def test_verify_finds_what_is_wrong_with_pictures(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = make_mask()
    mask[5, 5] = 77
    scene, frames = make_scene('sim-5')
    agent = dataclasses.replace(frames[1].agents[0], kind='HORSE')
    raster = make_png(np.full((256, 512), 255, np.uint8))
    root = make(tmp_path / 'd', [
        with_back(make_scene('sim-0'), mask_png=make_png(make_mask(width=100))),
        with_back(make_scene('sim-1'), mask_png=make_png(mask)),
        with_back(make_scene('sim-2'), jpeg=make_jpeg().tobytes()[:-40]),
        with_back(make_scene('sim-3'), jpeg=make_jpeg(64, 112).tobytes()),
        with_back(make_scene('sim-4', outcome='crash_vehicle'), mask_png=b'nothing'),
        (scene, [frames[0], dataclasses.replace(frames[1], agents=(agent,), drivable_png=raster)]),
        make_scene('sim-6', cameras=NUSCENES_CAMERAS[:1], width=56)])
    code, report = report_of(root, capsys, '--verify')
    assert code == 1
    place = f'{root}/train/000000: scene '
    found = [trouble.removeprefix(place) for trouble in report['troubles']]
    assert found[:6] == [
        'sim-0 frame 0 CAM_BACK mask: it is 100x56 pixels, expected 112x56',
        'sim-1 frame 0 CAM_BACK mask: unknown values [77]; known are 0 to 14',
        found[2],
        'sim-3 frame 0 CAM_BACK: the picture is 112x64 pixels, expected 112x56',
        'sim-5 frame 1: road users of unknown kind HORSE',
        'sim-5 frame 1 drivable area: it is 512x256 pixels, expected 512x512']
    assert found[2].startswith('sim-2 frame 0 CAM_BACK: the JPEG cannot be used, it is cut off')
    assert found[6] == ('sim-6 frame 0 CAM_FRONT_LEFT: its calibration is for (56, 56) pixels, '
                        'the dataset has (112, 56)')
    assert found[-1] == ('sim-4 frame 0 CAM_BACK mask: expected a grey 8-bit PNG, found one that '
                         'is damaged (7 bytes)')
    assert inspect(root, '--verify') == 1
    assert f'trouble: {report["troubles"][0]}' in capsys.readouterr().out


def test_damage_is_told_and_the_rest_is_counted(dataset: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    path = dataset / 'train/000000/frames.parquet'
    content = bytearray(path.read_bytes())
    content[content.index(make_scene()[1][0].pictures['CAM_BACK'].jpeg) + 200] ^= 1
    path.write_bytes(content)
    (dataset / 'val/000000/scenes.parquet').unlink()
    (dataset / 'val/000001.partial').mkdir()
    code, report = report_of(dataset, capsys)
    assert code == 1
    beginnings = (f'{dataset}/val/000000 is damaged (scenes.parquet is missing): remove that',
                  f'{dataset}/val/000001.partial is not finished: run the command',
                  f'{dataset}/train/000000 is damaged (frames.parquet: ')
    assert len(report['troubles']) == len(beginnings)
    assert all(map(str.startswith, report['troubles'], beginnings))
    assert report['splits']['val']['frames'] == 0


def test_a_scene_in_two_splits_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / 'd', [make_scene('sim-0')], [make_scene('sim-0', seed=1)])
    code, report = report_of(root, capsys)
    assert code == 1
    assert report['troubles'][0].startswith('scene sim-0 is there 2 times, in train and val: ')


def test_a_dataset_without_a_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DatasetWriter(tmp_path, DatasetHeader('new', 'bag', ('CAM_FRONT',), 4, 2, 1.0), print)
    assert inspect(tmp_path, '--verify') == 0
    assert 'no whole shard yet' in capsys.readouterr().out
    pytest.importorskip('matplotlib', reason="sheets need matplotlib: 'fastdrive_ros[viz]'")
    with pytest.raises(DataError, match='has no frames to draw'):
        inspect(tmp_path, '--sheet', str(tmp_path / 'sheet.png'))
    with pytest.raises(DataError, match='no dataset at '):
        inspect(tmp_path / 'nowhere')


def test_the_command_says_it_in_a_sentence(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['data', 'inspect', str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f'fastdrive: error: {tmp_path} is not a dataset')


def test_the_sheet_shows_frames_from_all_over(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip('matplotlib', reason="sheets need matplotlib: 'fastdrive_ros[viz]'")
    from fastdrive_ros.tools import contact_sheet

    shown = [(split, scene.name, frame.index)
             for split, scene, frame in contact_sheet._spread_frames(Dataset(dataset))]
    assert shown == [('train', 'sim-0', 0), ('train', 'sim-0', 1), ('train', 'sim-0', 2),
                     ('train', 'sim-1', 0), ('train', 'sim-1', 1), ('val', 'sim-3', 0)]
    path = tmp_path / 'new' / 'sheet.png'
    assert inspect(dataset, '--sheet', str(path)) == 0
    sheet = cv2.imread(str(path))[:, :, ::-1]
    tile_height, rows = 150, 6
    assert sheet.shape == (92 + rows * (40 + 2 * tile_height + 4) + 24, 2 * (24 + 908) + 22, 3)
    # The first mask's sky: its colour over the picture in grey.
    x, y = 24 + 908 + 22 + 20, 92 + 40 + 20
    sky = CLASS_RGB[class_ids(('SKY',))[0]].astype(float)
    grey = sheet[y, x] - 0.62 * sky
    assert np.ptp(grey) <= 2.0 and 0 <= grey.mean() <= 0.38 * 255 + 1
    # Where a camera is absent both places stay grey.
    right = 24 + 2 * 304 + 20, 92 + 5 * (40 + 2 * tile_height + 4) + 40 + tile_height + 4 + 20
    assert sheet[right[1], right[0]].tolist() == [228, 228, 228]
