# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One cycle, start to end: a frame set and the ego state become a plan or a reasoned refusal.

    FrameSet --preprocess--> CameraBatch --encode--> Sight --prune--> KeptTokens
             --plan--> waypoints --gate--> Trajectory

Read this page first. It calls every arrow and times each one; it receives its engines, it never
builds them; it raises nothing that a sensor or a model could cause.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.preprocess import Preprocessor
from fastdrive_ros.core.pruning import num_kept
from fastdrive_ros.core.trajectory import GateLimits
from fastdrive_ros.core.trajectory import check
from fastdrive_ros.core.trajectory import make_trajectory
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.core.types import Refusal
from fastdrive_ros.core.types import Trajectory
from fastdrive_ros.perception import Perception
from fastdrive_ros.planners import Planner
from fastdrive_ros.runtime.engine import EngineError


class _RefusedError(Exception):
    """Ends a cycle early; carries the refusal."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


@dataclass(frozen=True)
class PipelineSettings:
    """What may change from one cycle to the next."""

    keep_ratio: float
    camera_floor: float
    max_frame_age_ms: float
    max_missing_cameras: int
    required_cameras: tuple[str, ...]
    limits: GateLimits


@dataclass
class _Cycle:
    """What is known so far of the cycle under way; becomes the PlanResult however it ends."""

    frame_set: FrameSet
    timer: StageTimer
    ego: EgoState | None = None
    batch: CameraBatch | None = None
    num_kept: int = 0
    kept: KeptTokens | None = None
    trajectory: Trajectory | None = None


class Pipeline:
    """The arrows in order. Owned by one thread; ``settings`` may be replaced from another."""

    def __init__(self, preprocessor: Preprocessor, perception: Perception, planner: Planner,
                 models: ExitStack, tokens_per_camera: int, encoded_per_camera: int,
                 settings: PipelineSettings) -> None:
        """
        Take everything loaded; ``models`` frees what perception and planner run.

        Of ``tokens_per_camera`` the encoder leaves ``encoded_per_camera``, fewer with early
        pruning.
        """
        self.settings = settings
        self._preprocessor = preprocessor
        self._perception = perception
        self.planner = planner
        self._models = models
        self._tokens_per_camera = tokens_per_camera
        self._encoded_per_camera = encoded_per_camera

    def run(self, frame_set: FrameSet, ego_at: Callable[[int], EgoState],
            now_ns: Callable[[], int]) -> PlanResult:
        """
        Plan once.

        Args:
            frame_set: one sweep, perhaps partial.
            ego_at: stamp_ns -> EgoState, raising EgoError when there is none.
            now_ns: the header clock (ROS time), for the age of the pictures.

        """
        settings = self.settings  # one reading: a live change never splits a cycle
        cycle = _Cycle(frame_set, StageTimer())
        refusal = None
        try:
            self._check_age(frame_set, now_ns, settings)
            cycle.ego = ego_at(frame_set.stamp_ns)
            cycle.batch = self._preprocess(cycle, settings)
            cycle.num_kept = num_kept(settings.keep_ratio, self._num_tokens(cycle.batch),
                                      int(cycle.batch.present.sum()) * self._encoded_per_camera)
            cycle.kept = self._perceive(cycle, settings.camera_floor)
            self._plan(cycle, settings.limits)
            self._check_age(frame_set, now_ns, settings)
        except _RefusedError as refused:
            refusal = refused.refusal
        except EgoError as error:
            refusal = Refusal(error.reason, str(error))
        except EngineError as error:
            refusal = Refusal('engine_error', str(error))
        return self._result(cycle, refusal, now_ns)

    def prepare(self, frame: Frame) -> None:
        """Decode a frame ahead of its set (any thread); ``run`` then need not wait for it."""
        self._preprocessor.prepare(frame)

    def close(self) -> None:
        """Free engines and threads."""
        self._preprocessor.close()
        self._models.close()

    def _check_age(self, frame_set: FrameSet, now_ns: Callable[[], int],
                   settings: PipelineSettings) -> None:
        age_ms = (now_ns() - frame_set.stamp_ns) / 1e6
        if age_ms > settings.max_frame_age_ms:
            hint = ('the clock and the stamps are of different days: set use_sim_time and play '
                    'the bag with --clock' if age_ms > 3.6e6 else
                    'the computer or the link is too slow, or raise max_frame_age_ms')
            raise _RefusedError('frame_too_old', f'pictures are {age_ms:.0f} ms old, allowed are '
                                f'{settings.max_frame_age_ms:.0f} ms ({hint})')
        if age_ms < -settings.max_frame_age_ms:
            hint = ('with use_sim_time somebody must publish /clock: play the bag with --clock'
                    if -age_ms > 3.6e6 else 'synchronise the clocks of cameras and computer')
            raise _RefusedError('frame_from_future',
                                f'pictures are stamped {-age_ms:.0f} ms after now ({hint})')

    def _preprocess(self, cycle: _Cycle, settings: PipelineSettings) -> CameraBatch:
        batch, stage_ms = self._preprocessor.run(cycle.frame_set)
        cycle.timer.stage_ms.update(stage_ms)
        absent = [name for name, there in zip(cycle.frame_set.cameras, batch.present) if not there]
        required = sorted(set(absent) & set(settings.required_cameras))
        if required or len(absent) > settings.max_missing_cameras or not batch.present.any():
            why = '; '.join(f'{name}: {error}' for name, error in batch.errors.items())
            cycle.batch = batch
            raise _RefusedError('too_few_cameras', f'no usable picture of {", ".join(absent)}; '
                                f'at most {settings.max_missing_cameras} may miss'
                                + (f', {", ".join(required)} never' if required else '')
                                + (f' ({why})' if why else ''))
        return batch

    def _perceive(self, cycle: _Cycle, camera_floor: float) -> KeptTokens:
        assert cycle.batch is not None
        self._perception.camera_floor = camera_floor
        return self._perception.perceive(cycle.batch, cycle.frame_set.stamp_ns, cycle.num_kept,
                                         cycle.timer)

    def _plan(self, cycle: _Cycle, limits: GateLimits) -> None:
        assert cycle.kept is not None and cycle.ego is not None
        with cycle.timer('plan'):
            output = self.planner.plan(cycle.kept, cycle.ego, cycle.num_kept)        # (T, 3)
        if output.kept_indices is not None:
            cycle.kept = cycle.kept.only(output.kept_indices)
        cycle.timer.stage_ms.update(output.stage_ms)
        with cycle.timer('postprocess'):
            trajectory = make_trajectory(cycle.frame_set.stamp_ns, self.planner.dt_s,
                                         output.waypoints)
            refusal = check(trajectory, cycle.ego, limits)
        if refusal:
            raise _RefusedError(refusal.reason, refusal.detail)
        cycle.trajectory = trajectory

    def _num_tokens(self, batch: CameraBatch) -> int:
        return int(batch.present.sum()) * self._tokens_per_camera

    def _result(self, cycle: _Cycle, refusal: Refusal | None,
                now_ns: Callable[[], int]) -> PlanResult:
        frame_set, batch = cycle.frame_set, cycle.batch
        cameras = frame_set.cameras
        there = batch.present if batch else [name in frame_set.frames for name in cameras]
        errors: Mapping[str, FrameError] = batch.errors if batch else {}
        return PlanResult(
            stamp_ns=frame_set.stamp_ns,
            trajectory=None if refusal else cycle.trajectory,
            refusal=refusal,
            ego=cycle.ego,
            kept=cycle.kept,
            images=batch.images if batch else None,
            present=tuple(camera for camera, is_there in zip(cameras, there) if is_there),
            missing=tuple(camera for camera, is_there in zip(cameras, there) if not is_there),
            frame_errors=errors,
            num_tokens=self._num_tokens(batch) if batch else 0,
            stage_ms=cycle.timer.stage_ms,
            frame_age_ms=(now_ns() - frame_set.stamp_ns) / 1e6)
