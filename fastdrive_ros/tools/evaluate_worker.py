# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One scene, frame after frame, through the vehicle's own code -> facts of every row.

    pictures --Preprocessor--> batch --Perception.encode--> Sight, once for all who need the same
             --Perception.prune--> KeptTokens --Planner.plan--> waypoints --FactCollector--> facts

Nothing here averages, and nothing here knows of other scenes or processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fastdrive_ros import __version__
from fastdrive_ros.core.preprocess import Preprocessor
from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.data.ego import ego_pose_at
from fastdrive_ros.data.ego import ego_state_at
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.shard import Drive
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.metrics.judge import NUM_STEPS
from fastdrive_ros.metrics.judge import STEP_S
from fastdrive_ros.metrics.judge import FrameTruth
from fastdrive_ros.planners import Planner
from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.tools.evaluate_facts import FactCollector
from fastdrive_ros.tools.evaluate_facts import Plan
from fastdrive_ros.tools.evaluate_models import Models
from fastdrive_ros.tools.evaluate_models import load_planners
from fastdrive_ros.tools.evaluate_rows import EXTRAPOLATION
from fastdrive_ros.tools.evaluate_rows import GREY
from fastdrive_ros.tools.evaluate_rows import NO_HISTORY
from fastdrive_ros.tools.evaluate_rows import RECORDED
from fastdrive_ros.tools.evaluate_rows import SHUFFLED
from fastdrive_ros.tools.evaluate_rows import STANDSTILL
from fastdrive_ros.tools.evaluate_rows import Row
from fastdrive_ros.tools.evaluate_store import SceneResult
from fastdrive_ros.tools.evaluate_truth import frame_truth
from fastdrive_ros.tools.evaluate_truth import token_shares

_GREY_LEVEL = 128


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know; the same for each of them."""

    dataset: Path
    bundles: tuple[Path, ...]
    methods: tuple[str, ...]
    camera_floor: float
    backend: str
    on_cpu: bool
    version: str = __version__


@dataclass(frozen=True)
class Task:
    """One scene, and which rows of it are missing."""

    scene: str
    drive: Drive
    other: Drive
    """Another drive, whose pictures the control with shuffled pictures shows."""
    seed: int
    """Decides which of the other drive's frames is shown when."""
    rows: tuple[Row, ...]


class SceneEvaluator:
    """Engines and dataset of one process; one scene at a time."""

    def __init__(self, job: Job) -> None:
        """Load; raises EngineError or DataError in the words of the loaders."""
        if job.version != __version__:
            raise DataError(f'fastdrive_ros is {job.version} where this was started and '
                            f'{__version__} here: install the same version on every machine')
        self._dataset = Dataset(job.dataset)
        planners = load_planners(job.bundles, job.methods, lambda line: None, job.backend)
        self._models = Models(planners.bundles, planners.engines, job.camera_floor)
        bundle = self._models.bundle
        self._cameras = bundle.cameras
        self._preprocessor = Preprocessor(bundle.cameras, bundle.image_height, bundle.image_width,
                                          num_threads=1)

    def evaluate(self, task: Task, on_frame: Callable[[], None] = lambda: None) -> SceneResult:
        """Go through one scene; ``on_frame`` is called before each frame, and may raise."""
        scene, frames = self._dataset.read(task.drive, self._cameras)
        shuffled = self._shuffled(task, len(frames))
        # A planner of its own for each row, new for each scene: some remember the last frames.
        planners = {row: self._models.planner(row.planner, row.method)
                    for row in task.rows if row.planner}
        collector, left_out = FactCollector([row.name for row in task.rows]), 0
        for i, frame in enumerate(frames):
            on_frame()
            ego, batch = self._ego(scene, frame.stamp_ns), self._batch(frame)
            if ego is None or batch is None:
                left_out += 1
                continue
            views = _Views(self._models, frame.stamp_ns, batch,
                           partial(self._other_batch, shuffled, i))
            truth = frame_truth(scene, frames, i)
            plans = [_plan(row, views, ego, planners[row], self._models) if row.planner
                     else _baseline(row, truth, ego) for row in task.rows]
            bundle = self._models.bundle
            collector.add(truth, token_shares(frame, self._cameras, batch.present,
                                              bundle.grid_height, bundle.grid_width), plans)
        facts, rows = collector.facts()
        return SceneResult(task.scene, left_out, facts, rows)

    def _ego(self, scene: SceneRecord, stamp_ns: int) -> EgoState | None:
        """Return what the vehicle would know of itself; None where the odometry is not there."""
        planner = self._models.bundle.planner
        try:
            ego_pose_at(scene, stamp_ns)  # what is judged needs the pose itself
            return ego_state_at(scene, stamp_ns, planner['history_steps'],
                                planner['history_dt_s'])
        except DataError:
            return None

    def _batch(self, frame: FrameRecord) -> CameraBatch | None:
        """Return the encoder's input; None without a usable picture."""
        frames = {camera: Frame(camera, picture.stamp_ns, 0, EncodedImage(
            'jpeg', np.frombuffer(picture.jpeg, np.uint8)))
            for camera, picture in frame.pictures.items()}
        if not frames:
            return None
        batch, _ = self._preprocessor.run(FrameSet(self._cameras, frames, 0))
        return batch if batch.present.any() else None

    def _shuffled(self, task: Task, count: int) -> list[FrameRecord]:
        """Return frames of the other drive, drawn in an order of their own; none if not asked."""
        if not any(row.control == SHUFFLED for row in task.rows):
            return []
        _, frames = self._dataset.read(task.other, self._cameras, masks=False)
        drawn = np.random.default_rng(task.seed).integers(len(frames), size=count)
        return [frames[i] for i in drawn]

    def _other_batch(self, frames: Sequence[FrameRecord], index: int) -> CameraBatch:
        batch = self._batch(frames[index])
        if batch is None:
            raise DataError(f'{frames[index].scene} frame {frames[index].index} has no usable '
                            'picture to shuffle with: evaluate without --controls')
        return batch


class _Views:
    """What the models are shown of one frame; encoded when first asked for, then remembered."""

    def __init__(self, models: Models, stamp_ns: int, batch: CameraBatch,
                 shuffled: Callable[[], CameraBatch]) -> None:
        self._models = models
        self._stamp_ns = stamp_ns
        self._make = {
            SHUFFLED: shuffled,
            GREY: lambda: dataclasses.replace(
                batch, images=np.full_like(batch.images, _GREY_LEVEL))}
        self._recorded = batch
        self._sights: dict[tuple[str, frozenset[str]], Sight] = {}

    def sight(self, method: str, control: str) -> Sight:
        """Return what a method may look at."""
        view = control if control in self._make else ''
        key = view, self._models.needs(method)
        if key not in self._sights:
            batch = self._make[view]() if view else self._recorded
            self._sights[key] = self._models.encode(method, batch, self._stamp_ns)
        return self._sights[key]


def _plan(row: Row, views: _Views, ego: EgoState, planner: Planner, models: Models) -> Plan:
    """Prune and plan as the pipeline does."""
    sight = views.sight(row.method, row.control)
    budget = sight.budget(row.keep_ratio)
    kept = models.prune(row.method, sight, budget)
    if row.control == NO_HISTORY:
        ego = dataclasses.replace(ego, history=np.zeros_like(ego.history))
    output = planner.plan(kept, ego, budget)
    return Plan(output.waypoints[:NUM_STEPS], sight.num_tokens, budget,
                kept.indices if output.kept_indices is None else output.kept_indices,
                shows_the_frame=row.control not in (SHUFFLED, GREY))


def _baseline(row: Row, truth: FrameTruth, ego: EgoState) -> Plan:
    """Return a plan that needs no model."""
    plans: Mapping[str, Callable[[], np.ndarray]] = {
        EXTRAPOLATION: lambda: extrapolate(ego, NUM_STEPS, STEP_S),
        STANDSTILL: lambda: np.zeros((NUM_STEPS, 3)),
        RECORDED: lambda: np.column_stack([truth.waypoints, np.zeros(NUM_STEPS)])}
    return Plan(plans[row.method]())
