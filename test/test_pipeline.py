# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One whole cycle on real (tiny) graphs: what comes out, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from make_inputs import T0_NS
from make_inputs import make_jpeg
from make_inputs import make_odometry
from make_inputs import make_set

from fastdrive_ros.assemble import Assembly
from fastdrive_ros.assemble import build_pipeline
from fastdrive_ros.config import check_settings
from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.planners import PlannerOutput
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.engine import EngineError

CUT = make_jpeg()[:300]


@pytest.fixture(scope='module')
def assembly(tiny_bundle: Bundle) -> Iterator[Assembly]:
    settings = check_settings({'bundle': str(tiny_bundle.path), 'backend': 'onnxruntime'})
    built = build_pipeline(settings)
    for i in range(-20, 5):
        built.ego.push(make_odometry(T0_NS + i * 100_000_000))
    yield built
    built.pipeline.close()


def run(assembly: Assembly, age_ms: float = 50.0, **kwargs: object) -> PlanResult:
    frame_set = make_set(assembly.bundle.cameras, **kwargs)
    return assembly.pipeline.run(frame_set, assembly.ego.at,
                                 lambda: T0_NS + round(age_ms * 1e6))


def test_a_whole_sweep_becomes_a_plan_stamped_with_the_sweep(assembly: Assembly) -> None:
    result = run(assembly)
    assert result.refusal is None
    assert result.trajectory.stamp_ns == T0_NS
    assert result.trajectory.waypoints.shape == (6, 3)
    # Straight at 5 m/s, residuals of the tiny head are centimetres.
    np.testing.assert_allclose(result.trajectory.waypoints[:, 0], 2.5 * np.arange(1, 7), atol=0.3)
    assert len(result.kept.indices) == 24 and result.num_tokens == 48  # keep_ratio 0.5
    assert (np.diff(result.kept.indices) > 0).all()
    assert result.missing == ()
    assert result.frame_age_ms == pytest.approx(50.0)
    assert set(result.stage_ms) >= {'decode', 'preprocess', 'encode', 'prune', 'plan', 'prefill',
                                    'postprocess'}


def test_the_same_sweep_gives_the_same_plan(assembly: Assembly) -> None:
    first, second = run(assembly), run(assembly)
    np.testing.assert_array_equal(first.trajectory.waypoints, second.trajectory.waypoints)


def test_a_missing_camera_is_declared_and_none_of_its_tokens_is_kept(assembly: Assembly) -> None:
    result = run(assembly, missing=('CAM_BACK',))
    assert result.trajectory is not None
    assert result.missing == ('CAM_BACK',)
    assert result.num_tokens == 40 and len(result.kept.indices) == 20
    back = assembly.bundle.cameras.index('CAM_BACK')
    assert not np.any(result.kept.indices // 8 == back)
    assert np.isneginf(result.kept.scores[back * 8:back * 8 + 8]).all()


def test_a_broken_jpeg_counts_as_a_missing_camera_with_its_reason(assembly: Assembly) -> None:
    result = run(assembly, data={'CAM_FRONT': CUT})
    assert result.trajectory is not None
    assert result.missing == ('CAM_FRONT',)
    assert result.frame_errors['CAM_FRONT'].reason == 'corrupt_jpeg'


def test_too_many_broken_pictures_refuse_the_cycle(assembly: Assembly) -> None:
    cameras = assembly.bundle.cameras
    result = run(assembly, data=dict.fromkeys(cameras[:3], CUT))
    assert result.trajectory is None
    assert result.refusal.reason == 'too_few_cameras'
    assert 'at most 2 may miss' in result.refusal.detail


def test_a_required_camera_refuses_alone(assembly: Assembly) -> None:
    pipeline, settings = assembly.pipeline, assembly.pipeline.settings
    pipeline.settings = replace(settings, required_cameras=('CAM_FRONT',))
    try:
        assert 'CAM_FRONT never' in run(assembly, missing=('CAM_FRONT',)).refusal.detail
        assert run(assembly, missing=('CAM_BACK',)).refusal is None
    finally:
        pipeline.settings = settings


def test_the_keep_ratio_changes_from_one_cycle_to_the_next(assembly: Assembly) -> None:
    pipeline, settings = assembly.pipeline, assembly.pipeline.settings
    pipeline.settings = replace(settings, keep_ratio=0.25)
    try:
        assert len(run(assembly).kept.indices) == 12
    finally:
        pipeline.settings = settings


@pytest.mark.parametrize(('age_ms', 'reason', 'words'), [
    (600.0, 'frame_too_old', 'pictures are 600 ms old, allowed are 500 ms'),
    (3.7e6, 'frame_too_old', 'set use_sim_time and play the bag with --clock'),
    (-700.0, 'frame_from_future', 'stamped 700 ms after now (synchronise the clocks'),
    (-3.7e6, 'frame_from_future', 'somebody must publish /clock'),
])
def test_pictures_of_another_time_are_refused(
        assembly: Assembly, age_ms: float, reason: str, words: str) -> None:
    refusal = run(assembly, age_ms=age_ms).refusal
    assert refusal.reason == reason and words in refusal.detail


def test_a_plan_that_took_too_long_is_refused_at_its_end(assembly: Assembly) -> None:
    ages_ms = iter([50.0, 501.0, 501.0])
    result = assembly.pipeline.run(make_set(assembly.bundle.cameras), assembly.ego.at,
                                   lambda: T0_NS + round(next(ages_ms) * 1e6))
    assert result.trajectory is None and result.refusal.reason == 'frame_too_old'
    assert 'plan' in result.stage_ms  # it was planned, and not published


def test_no_odometry_and_stale_odometry_refuse_with_their_reason(assembly: Assembly) -> None:
    late = run(assembly, stamp_ns=T0_NS + 10**9 * 5, age_ms=5050.0).refusal
    assert late.reason == 'odometry_stale' and 'older than the pictures' in late.detail


class _FailingEngine:
    input_specs = output_specs = ()

    def run(self, feeds: object) -> dict[str, np.ndarray]:
        raise EngineError('the device was lost')

    def close(self) -> None:
        pass


def test_a_failing_engine_refuses_the_cycle_and_not_the_node(assembly: Assembly) -> None:
    perception = assembly.pipeline._perception
    engines = perception._engines
    perception._engines = {**engines, 'vision_encoder': _FailingEngine()}
    try:
        refusal = run(assembly).refusal
    finally:
        perception._engines = engines
    assert (refusal.reason, refusal.detail) == ('engine_error', 'the device was lost')
    assert run(assembly).refusal is None


class _FixedPlanner:
    num_waypoints, dt_s = 6, 0.5

    def __init__(self, waypoints: np.ndarray) -> None:
        self.waypoints = waypoints

    def plan(self, kept: object, ego: object, num_kept: int) -> PlannerOutput:
        return PlannerOutput(self.waypoints, {})


@pytest.mark.parametrize(('x_m', 'reason'), [
    ([np.nan] * 6, 'not_finite'),
    ([9.0, 11.5, 14.0, 16.5, 19.0, 21.5], 'start_jump'),
    ([2.5, 5.0, 40.0, 80.0, 120.0, 160.0], 'speed'),
    ([2.5, 5.0, 14.0, 28.0, 42.0, 56.0], 'acceleration'),
])
def test_an_impossible_plan_is_not_published(
        assembly: Assembly, x_m: list[float], reason: str) -> None:
    pipeline, planner = assembly.pipeline, assembly.pipeline.planner
    waypoints = np.zeros((6, 3))
    waypoints[:, 0] = x_m
    pipeline.planner = _FixedPlanner(waypoints)
    try:
        result = run(assembly)
    finally:
        pipeline.planner = planner
    assert result.trajectory is None and result.refusal.reason == reason


def test_fused_and_split_perception_agree(tiny_bundle: Bundle, assembly: Assembly) -> None:
    fused = build_pipeline(check_settings({'bundle': str(tiny_bundle.path), 'backend':
                                           'onnxruntime', 'fuse_perception': True}))
    try:
        result = fused.pipeline.run(make_set(assembly.bundle.cameras), assembly.ego.at,
                                    lambda: T0_NS)
    finally:
        fused.pipeline.close()
    split = run(assembly)
    np.testing.assert_array_equal(result.kept.indices, split.kept.indices)
    np.testing.assert_allclose(result.trajectory.waypoints, split.trajectory.waypoints, atol=1e-5)
    assert 'prune' not in result.stage_ms


@pytest.mark.parametrize('method', METHODS)
def test_every_method_plans_and_says_that_it_did(rival_bundle: Bundle, assembly: Assembly,
                                                 method: str) -> None:
    built = build_pipeline(check_settings({
        'bundle': str(rival_bundle.path), 'backend': 'onnxruntime', 'pruner': method}))
    try:
        result = built.pipeline.run(make_set(built.bundle.cameras, missing=('CAM_BACK',)),
                                    assembly.ego.at, lambda: T0_NS)
    finally:
        built.pipeline.close()
    assert built.method == result.kept.method == method
    assert result.trajectory is not None
    assert len(result.kept.indices) == len(result.kept.tokens) == (40 if method == 'none' else 20)
    assert not np.any(result.kept.indices // 8 == built.bundle.cameras.index('CAM_BACK'))


@pytest.mark.parametrize('method', ['fastv', 'vispruner', 'plan'])
def test_a_method_without_its_graphs_is_refused_at_the_start(
        tiny_bundle: Bundle, method: str) -> None:
    lacking = {'fastv': 'planner_embed, planner_layer_00, planner_output',
               'vispruner': 'vision_attention', 'plan': 'plan_pruner'}[method]
    option = '--plan-pruner FILE' if method == 'plan' else '--rivals'
    with pytest.raises(BundleError, match=f"pruner '{method}' needs the graphs {lacking}, .* has "
                                          f'vision_encoder, .*fastdrive export {option}'):
        build_pipeline(check_settings({'bundle': str(tiny_bundle.path), 'pruner': method}))


def test_the_camera_floor_changes_from_one_cycle_to_the_next(assembly: Assembly) -> None:
    pipeline, settings = assembly.pipeline, assembly.pipeline.settings
    uneven = np.bincount(run(assembly).kept.indices // 8, minlength=6)
    pipeline.settings = replace(settings, camera_floor=1.0)
    try:
        even = np.bincount(run(assembly).kept.indices // 8, minlength=6)
    finally:
        pipeline.settings = settings
    assert even.tolist() == [4] * 6 != uneven.tolist()
