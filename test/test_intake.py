# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Latest wins, nothing queued, nothing lost in silence."""

from __future__ import annotations

import threading

import pytest
from make_inputs import T0_NS
from make_inputs import make_frame
from make_inputs import make_odometry

from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.sync import SyncConfig
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.intake import Intake

CAMERAS = ('CAM_FRONT', 'CAM_BACK')
SWEEP_NS = 100_000_000


def make_intake(max_rate_hz: float = 0.0, max_missing: int = 1, monotonic=lambda: 0,
                odometry: bool = True) -> Intake:
    sync = FrameSynchronizer(CAMERAS, SyncConfig(max_missing_cameras=max_missing))
    intake = Intake(sync, EgoBuffer(EgoConfig()), max_rate_hz, monotonic)
    if odometry:
        intake.push_odometry(make_odometry(T0_NS - SWEEP_NS))
    return intake


def push_sweep(intake: Intake, i: int) -> None:
    for camera in CAMERAS:
        intake.push_frame(make_frame(camera, T0_NS + i * SWEEP_NS, i * SWEEP_NS))


def test_the_newest_set_wins_and_the_replaced_ones_are_counted() -> None:
    intake = make_intake()
    for i in range(4):
        push_sweep(intake, i)
    assert intake.take().stamp_ns == T0_NS + 3 * SWEEP_NS
    assert intake.counts().sets['superseded'] == 3
    assert intake.counts().sets['whole'] == 4


def test_a_rate_limit_drops_by_stamp_and_counts() -> None:
    intake = make_intake(max_rate_hz=5.0)
    taken = []
    for i in range(4):  # 10 Hz sweeps
        push_sweep(intake, i)
        if i % 2 == 0:
            taken.append(intake.take().stamp_ns)
    assert taken == [T0_NS, T0_NS + 2 * SWEEP_NS]
    assert intake.counts().sets['rate_limited'] == 2


def test_the_worker_waits_for_the_deadline_and_gets_the_partial_set() -> None:
    now_ns = [0]
    intake = make_intake(monotonic=lambda: now_ns[0])
    intake.push_frame(make_frame('CAM_FRONT', T0_NS, 0))
    now_ns[0] = 80_000_000  # past the 75 ms deadline
    frame_set = intake.take()
    assert frame_set.missing == ('CAM_BACK',)


def test_the_first_set_waits_for_the_first_odometry_until_its_deadline() -> None:
    now_ns = [0]
    intake = make_intake(odometry=False, monotonic=lambda: now_ns[0])
    push_sweep(intake, 0)
    taken = []
    worker = threading.Thread(target=lambda: taken.append(intake.take()))
    worker.start()
    while not intake.idle:
        pass
    assert taken == []  # ready, and waiting
    intake.push_odometry(make_odometry(T0_NS + 1))
    worker.join(timeout=10)
    assert taken[0].stamp_ns == T0_NS


def test_a_drive_without_odometry_still_says_so_in_time() -> None:
    now_ns = [0]
    intake = make_intake(odometry=False, monotonic=lambda: now_ns[0])
    push_sweep(intake, 0)
    now_ns[0] = 75_000_000
    assert intake.take().stamp_ns == T0_NS


def test_close_releases_a_waiting_worker() -> None:
    intake = make_intake()
    taken = ['nothing yet']
    worker = threading.Thread(target=lambda: taken.append(intake.take()))
    worker.start()
    intake.close()
    worker.join(timeout=10)
    assert taken == ['nothing yet', None]


def test_a_clock_reset_forgets_frames_and_odometry_but_no_counter() -> None:
    intake = make_intake()
    push_sweep(intake, 0)
    intake.drop_frame('CAM_FRONT', 'corrupt_jpeg')
    intake.reset()
    with pytest.raises(EgoError, match='no odometry'):
        intake.ego_at(T0_NS)
    counts = intake.counts()
    assert counts.frame_drops['CAM_FRONT', 'corrupt_jpeg'] == 1
    assert counts.sets['clock_resets'] == 1
    push_sweep(intake, -50)  # five seconds earlier: a new time, not an old frame
    intake.push_odometry(make_odometry(T0_NS - 50 * SWEEP_NS))
    assert intake.take().stamp_ns == T0_NS - 50 * SWEEP_NS


def test_odometry_that_was_ignored_is_counted() -> None:
    intake = make_intake()
    intake.push_odometry(make_odometry(T0_NS - SWEEP_NS))
    assert intake.counts().frame_drops['odometry', 'repeated_stamp'] == 1
