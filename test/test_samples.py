# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training batches: the vehicle's own numbers, in an order that can be told beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_drives import SPEED_MPS
from make_drives import YAW_RATE_RADPS
from make_training import CAMERAS
from make_training import write_training_data

pytest.importorskip('torch', reason='training needs the extra [train]')
pytest.importorskip('pyarrow', reason='datasets need the extra [data]')

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.samples import LIGHTS
from fastdrive_ros.learn.samples import MASK_UNKNOWN
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.samples import StepBatches
from fastdrive_ros.learn.samples import epoch_order

SHAPE = SampleShape(CAMERAS, 56, 112)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp('data') / 'tiny')


def test_a_sample_is_what_the_vehicle_would_see_and_what_the_expert_did(data: Path):
    sample = FrameSamples(data, 'train', SHAPE)[1]
    assert sample['images'].shape == (2, 56, 112, 3)
    assert sample['present'].tolist() == [True, True]
    # The last history row is now: at the origin, looking ahead, with the track's speed.
    np.testing.assert_allclose(
        sample['ego_history'][-1], [0, 0, 0, 1, SPEED_MPS, YAW_RATE_RADPS, 1], atol=1e-6)
    # An arc of radius 20 m: after 0.5 s a turn of 1/8 rad.
    turn_rad = YAW_RATE_RADPS * 0.5
    np.testing.assert_allclose(
        sample['waypoints'][0],
        [20 * np.sin(turn_rad), 20 * (1 - np.cos(turn_rad)), turn_rad], atol=2e-3)
    assert sample['known'].all()
    assert LIGHTS[sample['light']] == 'green'
    # make_mask: sky above, road with a car below.
    assert (sample['classes'][0, :28] == CLASSES.index('SKY')).all()
    assert (sample['classes'][0] == CLASSES.index('CAR')).float().mean() == pytest.approx(1 / 32)


def test_frames_without_masks_say_so(tmp_path: Path):
    sample = FrameSamples(write_training_data(tmp_path / 'data', masks=False), 'val', SHAPE)[0]
    assert (sample['classes'] == MASK_UNKNOWN).all()


def test_brightness_varies_pictures_and_is_the_same_every_time(data: Path):
    plain = FrameSamples(data, 'train', SHAPE)[5]['images']
    varied = FrameSamples(data, 'train', SHAPE, brightness=0.3)
    assert not (varied[5]['images'] == plain).all()
    assert (varied[5]['images'] == varied[5]['images']).all()


def test_refuses_a_split_without_frames_and_a_camera_the_data_lacks(data: Path):
    with pytest.raises(DataError, match='expected frames in the test split'):
        FrameSamples(data, 'test', SHAPE)
    with pytest.raises(DataError, match='no camera CAM_LEFT'):
        FrameSamples(data, 'train', SampleShape(('CAM_LEFT',), 56, 112))


def test_an_epoch_has_every_frame_once_and_differs_from_the_next():
    lengths = [3, 5, 4]
    first, second = epoch_order(lengths, 7, 0), epoch_order(lengths, 7, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_going_on_from_a_step_yields_what_would_have_come():
    whole = list(StepBatches([7, 6], 4, 0, 9, seed=1))
    assert list(StepBatches([7, 6], 4, 5, 9, seed=1)) == whole[5:]
    # Three batches of four an epoch; the thirteenth frame is left out of it.
    assert len({frame for batch in whole[:3] for frame in batch}) == 12


def test_two_processes_share_the_batch_of_one():
    alone = list(StepBatches([9, 9], 4, 0, 8, seed=3))
    left, right = (list(StepBatches([9, 9], 4, 0, 8, seed=3, rank=rank, processes=2))
                   for rank in (0, 1))
    assert [a + b for a, b in zip(left, right)] == alone


def test_refuses_batches_that_cannot_be():
    with pytest.raises(ValueError, match='multiple of the 3 processes'):
        StepBatches([9], 4, 0, 1, seed=0, processes=3)
    with pytest.raises(DataError, match='at least one batch of 10 frames, found 9'):
        StepBatches([9], 10, 0, 1, seed=0)
