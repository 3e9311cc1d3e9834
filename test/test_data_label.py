# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data label`: a dataset labelled on Ray, interrupted, resumed, looked at, refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('ray', reason='labelling needs the extra [label]')
pytest.importorskip('transformers', reason='labelling needs the extra [label]')
pytest.importorskip('pyarrow', reason='datasets need the extra [data]')

from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_scene
from tiny_grounded_sam import DyingWorker
from tiny_grounded_sam import write_detector
from tiny_grounded_sam import write_segmenter

from fastdrive_ros.config import share_dir
from fastdrive_ros.core.classes import CLASS_RGB
from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.learn.foreground import Box
from fastdrive_ros.learn.label_report import Coverage
from fastdrive_ros.learn.label_report import PictureReport
from fastdrive_ros.learn.label_report import class_shares
from fastdrive_ros.learn.label_report import read_report
from fastdrive_ros.learn.label_report import write_report
from fastdrive_ros.learn.label_shard import decode_picture
from fastdrive_ros.tools import data_label
from fastdrive_ros.tools import label_fleet
from fastdrive_ros.tools.label_result import spread
from fastdrive_ros.tools.label_sheet import Tile
from fastdrive_ros.tools.label_sheet import draw_sheet
from fastdrive_ros.tools.label_sheet import overlay

CAMERAS = ('CAM_FRONT', 'CAM_BACK')
HEADER = DatasetHeader('tiny', 'nuscenes', CAMERAS, WIDTH, HEIGHT, 2.0, {'version': 'mini'},
                       'Not for sale.')


def label(*words: Any) -> int:
    """Run the command with these words; return its exit code."""
    parser = argparse.ArgumentParser()
    data_label.add_parser(parser.add_subparsers())
    return data_label.run(parser.parse_args(['label', *map(str, words)]))


def write_dataset(root: Path, masks: bool = False) -> Path:
    """Two shards of a frame each; the second one's last picture is cut short."""
    writer = DatasetWriter(root, HEADER, print)
    for number in range(2):
        scene, (frame,) = make_scene(f'scene-{number}', 1, seed=number, masks=masks,
                                     cameras=CAMERAS, outcome='recorded')
        if number:
            cut = frame.pictures['CAM_BACK']
            frame = dataclasses.replace(frame, pictures={
                **frame.pictures, 'CAM_BACK': dataclasses.replace(cut, jpeg=cut.jpeg[:-40])})
        with writer.shard('train', number) as shard:
            shard.add(scene, [frame])
    return root


@pytest.fixture(scope='module')
def models(tmp_path_factory: Any) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp('models')
    return ('--detector', str(write_detector(folder / 'detector')),
            '--segmenter', str(write_segmenter(folder / 'segmenter')), '--device', 'cpu')


@pytest.fixture(scope='module')
def source(tmp_path_factory: Any) -> Path:
    return write_dataset(tmp_path_factory.mktemp('source') / 'tiny')


@pytest.fixture(scope='module')
def labelled(tmp_path_factory: Any, source: Path, models: tuple[str, ...]) -> Path:
    """Run the whole command once, on Ray, on this computer."""
    out = tmp_path_factory.mktemp('labelled') / 'tiny_fg'
    assert label(source, '--out', out, *models) == 1  # one picture is damaged
    return out


def parquet_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob('*.parquet'))}


def test_every_whole_picture_gets_a_mask_and_nothing_else_changes(source: Path, labelled: Path):
    before, after = Dataset(source), Dataset(labelled)
    assert after.dropped == []
    pairs = list(zip(before.frames('train'), after.frames('train')))
    assert len(pairs) == 2
    masks = {}
    for (_, old), (scene, new) in pairs:
        assert new.pictures.keys() == old.pictures.keys()
        assert new.agents[0] == old.agents[0] and new.drivable_png == old.drivable_png
        for camera, picture in new.pictures.items():
            assert dataclasses.replace(picture, mask_png=None) == old.pictures[camera]
            masks[scene.name, camera] = picture.mask_png
    assert masks.pop(('scene-1', 'CAM_BACK')) is None
    for png in masks.values():
        mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), np.uint8)
    header = after.header
    assert (header.name, header.source) == ('tiny_fg', 'nuscenes')
    assert header.license == 'Not for sale. Masks by Grounded-SAM.'
    assert header.settings['source_settings'] == {'version': 'mini'}
    assert header.settings['foreground.CAR']['prompts'] == ['car', 'van']


def test_the_reports_tell_boxes_times_and_what_is_damaged(labelled: Path):
    pictures = [picture for shard in range(2) for picture in read_report(labelled, 'train', shard)]
    damaged = [picture for picture in pictures if picture.damage]
    assert [(picture.scene, picture.camera) for picture in damaged] == [('scene-1', 'CAM_BACK')]
    assert 'cut off' in damaged[0].damage
    for picture in pictures:
        assert picture.damage or picture.stage_ms.keys() == {
            'decode', 'detect', 'segment', 'encode'}
    assert any(picture.boxes for picture in pictures)


def test_a_whole_copy_needs_no_workers_and_draws_a_sheet_where_asked(
        tmp_path: Path, source: Path, labelled: Path, models: tuple[str, ...], capsys: Any,
        monkeypatch: Any):
    monkeypatch.setattr(label_fleet, 'ray_session', None)
    assert label(source, '--out', labelled, *models, '--sheet', tmp_path / 'look.png') == 1
    text = capsys.readouterr().out
    assert 'not labelled: scene-1 frame 0 CAM_BACK: the JPEG cannot be used, it is cut off' in text
    assert 'warning: no picture shows' in text  # nine classes, few random boxes
    report = json.loads(text.splitlines()[-1])
    assert (report['pictures'], report['damaged_pictures'], report['shards']) == (3, 1, 2)
    assert set(report['foreground_share']) == set(CAMERAS)
    assert report['latency']['detect']['median_ms'] > 0
    sheet = cv2.imread(str(tmp_path / 'look.png'))
    assert sheet.shape[1] > 1600 and (labelled / 'quality.png').is_file()


def test_a_worker_that_dies_is_replaced_and_whole_shards_are_kept(
        tmp_path: Path, source: Path, labelled: Path, models: tuple[str, ...], capsys: Any,
        monkeypatch: Any):
    out = Path(shutil.copytree(labelled, tmp_path / 'tiny_fg'))
    wanted = parquet_of(out)
    shutil.rmtree(out / 'train' / '000000')
    kept_ns = (out / 'train' / '000001' / 'frames.parquet').stat().st_mtime_ns
    monkeypatch.setattr(label_fleet, 'LabelWorker', DyingWorker)
    assert label(source, '--out', out, *models) == 1
    said = capsys.readouterr().err
    assert '1 shards with up to 2 pictures, 1 workers on cpu' in said
    assert 'a worker died at shard train/000000: the shard starts again' in said
    assert parquet_of(out) == wanted and not list(out.rglob('*.partial'))
    assert (out / 'train' / '000001' / 'frames.parquet').stat().st_mtime_ns == kept_ns


# What is refused.


def test_other_prompts_do_not_continue_a_copy(
        tmp_path: Path, source: Path, labelled: Path, models: tuple[str, ...]):
    other = tmp_path / 'other.yaml'
    other.write_text((share_dir() / 'config' / 'foreground.yaml').read_text().replace(
        '[car, van]', '[car]'))
    with pytest.raises(DataError, match='begun with other settings .*foreground.CAR'):
        label(source, '--out', labelled, *models, '--config', other)


def test_a_dataset_with_masks_is_refused_with_their_number(
        tmp_path: Path, models: tuple[str, ...]):
    masked = write_dataset(tmp_path / 'masked', masks=True)
    with pytest.raises(DataError, match='1 of 1 pictures of scene scene-0 have a mask already'):
        label(masked, '--out', tmp_path / 'out', *models)
    assert not (tmp_path / 'out').exists()


def test_wrong_words_are_refused_before_anything_is_written(
        tmp_path: Path, source: Path, models: tuple[str, ...], monkeypatch: Any):
    with pytest.raises(DataError, match='is the dataset itself'):
        label(source, '--out', source, *models)
    with pytest.raises(DataError, match='--workers must be at least 1, found 0'):
        label(source, '--out', tmp_path / 'out', *models, '--workers', 0)
    with pytest.raises(DataError, match='no dataset at'):
        label(tmp_path / 'none', '--out', tmp_path / 'out', *models)
    assert not (tmp_path / 'out').exists()
    with pytest.raises(DataError, match='no whole shard in val: there is nothing to label'):
        label(source, '--out', tmp_path / 'out', *models, '--split', 'val')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match='needs more than 0.0 GB, .* has 0.0 GB left: make room'):
        label(source, '--out', tmp_path / 'out', *models)


def test_cuda_without_a_gpu_is_refused(
        tmp_path: Path, source: Path, models: tuple[str, ...], monkeypatch: Any):
    import torch
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(DataError, match='2 workers on cuda need as many GPUs, torch finds 1'):
        label(source, '--out', tmp_path / 'out', *models, '--device', 'cuda', '--workers', 2)


# Parts.


def test_a_picture_of_another_size_is_damage(source: Path):
    (_, frame), *_ = Dataset(source).frames('train')
    picture: Picture = frame.pictures['CAM_FRONT']
    assert decode_picture(picture, (WIDTH, HEIGHT)).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(FrameError, match='is 112x56, the dataset says 56x28'):
        decode_picture(picture, (56, 28))  # half: the decoder could have scaled it down


def test_a_report_comes_back_as_it_went(tmp_path: Path):
    pictures = [
        PictureReport('val', 3, 0, 'scene-1', 5, 'CAM_BACK', damage='cut off'),
        PictureReport('val', 3, 1, 'scene-2', 0, 'CAM_FRONT',
                      boxes=(Box('CAR', 0.5, (1.0, 2.0, 30.5, 40.0)),), shares={'CAR': 0.25},
                      stage_ms={'decode': 1.0, 'detect': 2.5, 'segment': 3.0, 'encode': 0.5})]
    write_report(tmp_path, 'val', 3, pictures)
    assert list(read_report(tmp_path, 'val', 3)) == pictures
    with pytest.raises(DataError, match='val-000004.jsonl cannot be read .* label again'):
        list(read_report(tmp_path, 'val', 4))
    (tmp_path / 'labels' / 'val-000003.jsonl').write_text('{"scene": 1}\n')
    with pytest.raises(DataError, match='cannot be read'):
        list(read_report(tmp_path, 'val', 3))


def test_coverage_counts_by_hand():
    coverage = Coverage()
    for i, shares in enumerate(({'ROAD': 0.4, 'CAR': 0.1}, {'ROAD': 0.2}, {'SKY': 0.9})):
        coverage.add(PictureReport('train', 0, 0, 's', i, 'CAM_FRONT', shares=shares, stage_ms={
            'decode': 1.0, 'detect': 10.0 * i, 'segment': 2.0, 'encode': 3.0}))
    coverage.add(PictureReport('train', 0, 0, 's', 3, 'CAM_FRONT', damage='cut off'))
    assert (coverage.pictures, len(coverage.damaged)) == (3, 1)
    assert coverage.with_class == {'ROAD': 2, 'CAR': 1, 'SKY': 1}
    assert coverage.foreground_share() == {'CAM_FRONT': 0.2333}  # (0.5 + 0.2 + 0) / 3
    assert coverage.latency()['detect'] == {'median_ms': 10.0, 'p95_ms': 19.0}
    assert coverage.latency()['picture'] == {'median_ms': 16.0, 'p95_ms': 25.0}


def test_shares_leave_background_out():
    mask = np.array([[0, 0, 1, 6]], dtype=np.uint8)
    assert class_shares(mask) == {'CAR': 0.25, 'ROAD': 0.25}


def test_the_pictures_looked_at_are_spread_over_time_and_cameras():
    chosen = sorted(spread(24 * 600, 24))
    assert len(chosen) == 24 and {ordinal % 6 for ordinal in chosen} == set(range(6))
    assert chosen[0] == 300 and chosen[-1] > 23 * 600
    assert spread(2, 24) == {0, 1}


def test_the_sheet_shows_the_mask_bright_and_the_rest_dark():
    rgb = np.full((90, 160, 3), 200, dtype=np.uint8)
    mask = np.zeros((90, 160), dtype=np.uint8)
    mask[45:] = CLASSES.index('ROAD')
    mixed = overlay(rgb, mask)
    assert mixed[0, 0].tolist() == [80, 80, 80]  # 0.4 of the grey
    assert mixed[60, 0].tolist() == [155, 155, 160]  # half way to (110, 110, 120)
    tiles = [Tile('one', rgb, mask, [('CAR', 0.5, (40.0, 40.0, 80.0, 60.0))])] * 4
    sheet = draw_sheet(tiles, ['ROAD', 'CAR'])
    row = 315 + 24 + 8  # a tile is 560 wide: its picture, caption and gap
    assert sheet.shape == (30 + 2 * row, 3 * 560 + 4 * 8, 3)
    assert (sheet[:30] == CLASS_RGB[CLASSES.index('CAR')]).all(axis=2).any()
