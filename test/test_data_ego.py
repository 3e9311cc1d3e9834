# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""History and future off a scene's odometry, against an arc computed by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from make_drives import make_scene
from make_drives import make_track
from make_inputs import T0_NS

from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.ego import OdometrySample
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.data.ego import ego_pose_at
from fastdrive_ros.data.ego import ego_state_at
from fastdrive_ros.data.ego import future_at
from fastdrive_ros.data.ego import history_at
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import SceneRecord

SECOND_NS = 1_000_000_000


def scene_of(track: EgoTrack) -> SceneRecord:
    return dataclasses.replace(make_scene()[0], ego=track)


def arc(dt_s: float) -> tuple[float, float, float]:
    """Return where 5 m/s on a circle of 20 m leads, seen from its start: x, y, yaw."""
    yaw_rad = 0.25 * dt_s
    return 20.0 * math.sin(yaw_rad), 20.0 * (1.0 - math.cos(yaw_rad)), yaw_rad


def test_history_is_the_arc_that_was_driven() -> None:
    history = history_at(scene_of(make_track(10.0)), T0_NS + 6 * SECOND_NS)
    assert history.dtype == np.float32 and history.shape == (4, 7)
    for row, dt_s in zip(history, (-1.5, -1.0, -0.5, 0.0)):
        x_m, y_m, yaw_rad = arc(dt_s)
        np.testing.assert_allclose(
            row, (x_m, y_m, math.sin(yaw_rad), math.cos(yaw_rad), 5.0, 0.25, 1.0), atol=1e-6)


def test_history_begins_with_the_track() -> None:
    scene = scene_of(make_track(10.0))
    assert history_at(scene, T0_NS)[:, 6].tolist() == [0, 0, 0, 1]
    assert history_at(scene, T0_NS + SECOND_NS)[:, 6].tolist() == [0, 1, 1, 1]
    with pytest.raises(DataError, match=f'no odometry at {T0_NS - 1} ns, its track is from '):
        history_at(scene, T0_NS - 1)


def test_the_state_is_what_the_vehicle_would_know() -> None:
    scene = scene_of(make_track(10.0))
    state = ego_state_at(scene, T0_NS + 6 * SECOND_NS)
    x_m, y_m, yaw_rad = arc(6.0)
    assert state.stamp_ns == T0_NS + 6 * SECOND_NS and state.frame_id == scene.frame_id
    np.testing.assert_allclose(state.position_m, (x_m, y_m, 0.0), atol=1e-9)
    assert state.yaw_rad == pytest.approx(yaw_rad)
    assert (state.speed_mps, state.yaw_rate_radps) == pytest.approx((5.0, 0.25))
    assert state.acceleration_mps2 == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_array_equal(state.history, history_at(scene, T0_NS + 6 * SECOND_NS))


def test_history_takes_other_steps() -> None:
    history = history_at(scene_of(make_track(10.0)), T0_NS + 8 * SECOND_NS, steps=8, dt_s=1.0)
    np.testing.assert_allclose(history[:, 0], [arc(dt_s)[0] for dt_s in range(-7, 1)], atol=1e-5)


@pytest.mark.parametrize('after_ns', [3 * SECOND_NS, 7_930_000_000])
def test_history_is_what_a_vehicle_that_drove_all_the_way_has(after_ns: int) -> None:
    """The buffer forgets; what is never pushed must make no difference."""
    scene = scene_of(make_track(60.0, rate_hz=50.0))
    stamp_ns = T0_NS + 40 * SECOND_NS + after_ns
    buffer = EgoBuffer(EgoConfig())
    for i, sample_ns in enumerate(scene.ego.stamps_ns.tolist()):
        if sample_ns <= stamp_ns:
            buffer.push(OdometrySample(
                sample_ns, 'map', tuple(scene.ego.positions_m[i].tolist()),
                tuple(scene.ego.orientations_xyzw[i].tolist()), 5.0, 0.0, 0.25))
    np.testing.assert_array_equal(history_at(scene, stamp_ns), buffer.at(stamp_ns).history)


def test_history_does_not_look_ahead() -> None:
    track = make_track(10.0)
    stamp_ns = T0_NS + 4_050_000_000
    late = track.stamps_ns > stamp_ns
    moved = dataclasses.replace(track, positions_m=track.positions_m + late[:, None] * 99.0)
    np.testing.assert_array_equal(history_at(scene_of(track), stamp_ns),
                                  history_at(scene_of(moved), stamp_ns))


def test_odometry_that_a_vehicle_would_refuse() -> None:
    track = make_track(10.0)
    with pytest.raises(DataError, match='scene sim-000000000 at .* odometry sample holds NaN'):
        history_at(scene_of(dataclasses.replace(
            track, positions_m=track.positions_m * np.nan)), T0_NS)
    with pytest.raises(DataError, match='the newest odometry is 2000 ms older than the pictures'):
        history_at(scene_of(track), T0_NS + 12 * SECOND_NS)


def test_future_is_the_arc_ahead() -> None:
    waypoints, known = future_at(scene_of(make_track(10.0)), T0_NS + 2 * SECOND_NS)
    assert waypoints.dtype == np.float64 and known.dtype == bool and known.all()
    np.testing.assert_allclose(
        waypoints, [arc(dt_s) for dt_s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)], atol=1e-9)


def test_future_ends_with_the_track() -> None:
    scene = scene_of(make_track(10.0))
    waypoints, known = future_at(scene, T0_NS + 8_500_000_000)
    assert known.tolist() == [True, True, True, False, False, False]
    assert not waypoints[3:].any()
    np.testing.assert_allclose(waypoints[2], arc(1.5), atol=1e-9)
    assert not future_at(scene, T0_NS + 10 * SECOND_NS)[1].any()
    with pytest.raises(DataError, match='leave out the frames that it does not reach'):
        future_at(scene, T0_NS + 10 * SECOND_NS + 1)


def test_a_gap_is_not_known() -> None:
    track = make_track(10.0)
    kept = np.r_[0:31, 51:101]  # nothing between 3.0 and 5.1 s
    gap = EgoTrack(*(getattr(track, item.name)[kept] for item in dataclasses.fields(track)))
    _, known = future_at(scene_of(gap), T0_NS + 2 * SECOND_NS, num=8)
    # 2.5 3.0 | 3.5 4.0 4.5 5.0 | 5.5 6.0
    assert known.tolist() == [True, True, False, False, False, False, True, True]


def test_pose_between_two_samples() -> None:
    track = EgoTrack(
        np.array([T0_NS, T0_NS + SECOND_NS]), np.array([(1.0, 2.0, 0.0), (3.0, 2.0, 0.4)]),
        np.array([(0.0, 0.0, 0.0, 1.0), (0.0, 0.0, math.sin(0.4), math.cos(0.4))]),
        np.zeros((2, 3)), np.zeros((2, 3)))
    position_m, orientation_xyzw = ego_pose_at(scene_of(track), T0_NS + SECOND_NS // 4)
    assert position_m == pytest.approx((1.5, 2.0, 0.1))
    assert yaw_of(orientation_xyzw) == pytest.approx(0.2)  # a quarter of 0.8 rad
    assert ego_pose_at(scene_of(track), T0_NS)[0] == (1.0, 2.0, 0.0)
    with pytest.raises(DataError, match='its track is without samples'):
        ego_pose_at(scene_of(EgoTrack(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 4)),
                                      np.zeros((0, 3)), np.zeros((0, 3)))), T0_NS)
