# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frame sets to batches: places, sizes, absent and broken cameras, and how true pixels stay."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastdrive_ros.core.preprocess import Preprocessor
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.core.types import RawImage
from fastdrive_ros.tools import bench_preprocess

FRAMES = Path(__file__).parents[2] / 'shared' / 'data' / 'nuscenes_frames'
CAMERAS = ('CAM_LEFT', 'CAM_FRONT', 'CAM_RIGHT')
HEIGHT, WIDTH = 32, 56
COLOURS = {'CAM_LEFT': (200, 10, 20), 'CAM_FRONT': (30, 210, 40), 'CAM_RIGHT': (50, 60, 220)}


@pytest.fixture(params=[1, 2])
def preprocessor(request):
    made = Preprocessor(CAMERAS, HEIGHT, WIDTH, request.param)
    yield made
    made.close()


def flat(camera, height=90, width=160):
    """A frame of one colour, rgb8."""
    pixels = np.tile(np.uint8(COLOURS[camera]), (height, width, 1))
    return frame(camera, RawImage('rgb8', height, width, width * 3, False, pixels.reshape(-1)))


def frame(camera, image):
    return Frame(camera, 1_000, 1, image)


def frame_set(*frames, cameras=CAMERAS):
    return FrameSet(cameras, {one.camera: one for one in frames}, 2)


def test_every_camera_lies_in_its_place(preprocessor):
    batch, stage_ms = preprocessor.run(
        frame_set(flat('CAM_RIGHT'), flat('CAM_LEFT'), flat('CAM_FRONT')))
    assert batch.images.shape == (3, HEIGHT, WIDTH, 3)
    assert batch.images.dtype == np.uint8
    assert batch.images.flags.c_contiguous
    assert batch.present.tolist() == [True, True, True]
    assert not batch.errors
    for image, camera in zip(batch.images, CAMERAS):
        assert np.array_equal(image, np.tile(COLOURS[camera], (HEIGHT, WIDTH, 1)))
    assert list(stage_ms) == ['decode', 'preprocess']
    assert all(ms >= 0 for ms in stage_ms.values())


def test_an_absent_camera_is_zero_and_not_present(preprocessor):
    batch, _ = preprocessor.run(frame_set(flat('CAM_LEFT'), flat('CAM_RIGHT')))
    assert batch.present.tolist() == [True, False, True]
    assert not batch.images[1].any()
    assert not batch.errors


def test_a_broken_camera_is_zero_and_says_why(preprocessor):
    broken = frame('CAM_LEFT', EncodedImage('jpeg', np.uint8([0xFF, 0xD8, 0xFF, 0xD9])))
    short = frame('CAM_RIGHT', RawImage('bgr8', 9, 9, 27, False, np.zeros(9, np.uint8)))
    batch, stage_ms = preprocessor.run(frame_set(broken, flat('CAM_FRONT'), short))
    assert batch.present.tolist() == [False, True, False]
    assert {camera: error.reason for camera, error in batch.errors.items()} == {
        'CAM_LEFT': 'corrupt_jpeg', 'CAM_RIGHT': 'short_data'}
    assert not batch.images[[0, 2]].any()
    assert set(stage_ms) == {'decode', 'preprocess'}


def test_all_cameras_broken_is_still_an_answer(preprocessor):
    batch, _ = preprocessor.run(frame_set(*(
        frame(camera, EncodedImage('jpeg', np.zeros(5, np.uint8))) for camera in CAMERAS)))
    assert not batch.present.any()
    assert not batch.images.any()
    assert set(batch.errors) == set(CAMERAS)


def test_an_earlier_batch_is_never_written_again(preprocessor):
    first, _ = preprocessor.run(frame_set(flat('CAM_LEFT')))
    second, _ = preprocessor.run(frame_set(flat('CAM_FRONT')))
    assert not np.shares_memory(first.images, second.images)
    assert first.images[0, 0, 0].tolist() == list(COLOURS['CAM_LEFT'])


@pytest.mark.parametrize(('height', 'width'), [(HEIGHT, WIDTH), (9, 16), (40, 64), (301, 477)])
def test_any_size_is_stretched(preprocessor, height, width):
    batch, _ = preprocessor.run(frame_set(flat('CAM_FRONT', height, width)))
    assert np.array_equal(batch.images[1], np.tile(COLOURS['CAM_FRONT'], (HEIGHT, WIDTH, 1)))


@pytest.mark.parametrize(('height', 'width'), [(60, 80), (80, 60), (30, 80)])
def test_a_picture_of_another_shape_is_refused_not_distorted(preprocessor, height, width):
    batch, _ = preprocessor.run(frame_set(flat('CAM_FRONT', height, width)))
    assert batch.present.tolist() == [False, False, False]
    error = batch.errors['CAM_FRONT']
    assert error.reason == 'wrong_size'
    assert f'{width / height:.2f} times as wide as high, the bundle expects 1.75' in str(error)


def test_a_frame_prepared_ahead_is_used_and_an_older_one_never(preprocessor):
    new = flat('CAM_FRONT')
    old = frame('CAM_FRONT', flat('CAM_LEFT').image)  # another colour under this camera's name
    preprocessor.prepare(old)
    batch, _ = preprocessor.run(frame_set(new))
    assert tuple(batch.images[1, 0, 0]) == COLOURS['CAM_FRONT']
    preprocessor.prepare(old)
    batch, _ = preprocessor.run(frame_set(old))
    assert tuple(batch.images[1, 0, 0]) == COLOURS['CAM_LEFT']


def test_a_broken_frame_prepared_ahead_still_says_why(preprocessor):
    broken = frame('CAM_FRONT', EncodedImage('jpeg', np.zeros(40, np.uint8)))
    preprocessor.prepare(broken)
    batch, _ = preprocessor.run(frame_set(flat('CAM_LEFT'), broken))
    assert batch.errors['CAM_FRONT'].reason == 'unknown_format'


def test_shrinking_by_more_than_two_averages_all_pixels(preprocessor):
    """Columns 0, 240, 0, 0 shrunk by four are 60; linear interpolation would read 0 or 120."""
    pixels = np.zeros((HEIGHT * 4, WIDTH * 4, 3), np.uint8)
    pixels[:, 1::4] = 240
    image = RawImage('rgb8', HEIGHT * 4, WIDTH * 4, WIDTH * 12, False, pixels.reshape(-1))
    batch, _ = preprocessor.run(frame_set(frame('CAM_LEFT', image)))
    assert (batch.images[0] == 60).all()


def test_a_camera_of_another_rig_is_refused(preprocessor):
    stranger = frame('CAM_ROOF', EncodedImage('jpeg', np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match='CAM_ROOF'):
        preprocessor.run(frame_set(stranger, cameras=(*CAMERAS, 'CAM_ROOF')))


def test_close_ends_the_threads_and_twice_is_harmless():
    preprocessor = Preprocessor(CAMERAS, HEIGHT, WIDTH, 2)
    preprocessor.close()
    preprocessor.close()
    with pytest.raises(RuntimeError, match='shutdown'):
        preprocessor.run(frame_set(flat('CAM_LEFT')))


@pytest.mark.skipif(not FRAMES.is_dir(), reason='shared/data/nuscenes_frames is not here')
@pytest.mark.parametrize('scene', ['01', '04', '05', '09'])
def test_a_real_street_looks_as_if_decoded_at_full_size(scene):
    paths = sorted(next(FRAMES.glob(f'{scene}_*')).glob('*.jpg'))
    cameras = tuple(path.stem for path in paths)
    preprocessor = Preprocessor(cameras, 224, 392, 2)
    batch, _ = preprocessor.run(FrameSet(cameras, {
        path.stem: frame(path.stem, EncodedImage('jpeg', np.fromfile(path, np.uint8)))
        for path in paths}, 0))
    preprocessor.close()
    assert batch.present.all()
    for image, path in zip(batch.images, paths):
        full = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        averaged = cv2.resize(full, (392, 224), interpolation=cv2.INTER_AREA).astype(int)
        difference = image - averaged
        plain = cv2.resize(full, (392, 224)) - averaged
        # Measured on 30 frames: mean 1.4 (worst 2.5) of 255; the plain way's is 1.4 (worst 2.6).
        assert np.abs(difference).mean() < min(3.0, 1.3 * np.abs(plain).mean())
        assert np.percentile(np.abs(difference), 99) <= 20
        assert abs(difference.mean()) < 0.5  # neither brighter nor darker


def test_the_bench_measures_every_way(capsys):
    figures = bench_preprocess.bench(None, repeats=1)
    assert figures['images'] == 6
    assert figures['source'] == 'synthetic 1600x900'
    assert set(figures['threads']) == {'1', '2'}
    for row in figures['threads'].values():
        assert row['ratio'] == pytest.approx(row['plain_ms'] / row['ours_ms'], abs=0.01)
    bench_preprocess.print_report(figures)
    assert 'plain/ours' in capsys.readouterr().out


def test_the_bench_wants_six_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'expected 6 \*\.jpg, found 0'):
        bench_preprocess.bench(tmp_path)
