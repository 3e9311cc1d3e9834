# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What happened in a scene's frames -> numerator and denominator of each figure.

Two published ways to count the same plans, never mixed:

    mean_box    Impromptu-VLA, after SparseDrive (papers.md 2.4): boxes against the boxes of all
                road users; a horizon's figure is the mean over its steps.
    any_cell    OmniDrive, after ST-P3 (papers.md 2.5): boxes on a raster against other vehicles
                and against ground that is not drivable; a horizon's figure is whether any of its
                steps hits.

In both a step in which the recorded way itself collides does not count as a collision, and only
frames count whose steps are all known. Mean displacement up to a horizon is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.metrics.judge import STEP_S

HORIZONS_S = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class SceneFacts:
    """What is true of a scene's F frames, whatever was planned; T = NUM_STEPS."""

    known: np.ndarray
    """bool (F, T): where the vehicle went is known."""
    boxes_known: np.ndarray
    """bool (F, T): where the others were is known."""
    box_hits: np.ndarray
    """bool (F, T): the recorded way itself collides, boxes."""
    cell_hits: np.ndarray
    """bool (F, T): the same on the raster."""
    starts_off_road: np.ndarray
    """bool (F,)."""
    road_known: np.ndarray
    """bool (F,): the frame has a drivable raster."""
    foreground: np.ndarray
    """float64 (F,), in tokens' areas; NaN in frames without masks."""
    things: np.ndarray
    """float64 (F,), foreground that is no road."""
    foreground_tokens: np.ndarray
    """float64 (F,), tokens that are mostly foreground."""


@dataclass(frozen=True)
class RowFacts:
    """What one way to plan did in a scene's F frames."""

    waypoints: np.ndarray
    """float32 (F, T, 3): x_m, y_m, yaw_rad."""
    error_m: np.ndarray
    """float32 (F, T)."""
    box_hits: np.ndarray
    """bool (F, T)."""
    cell_hits: np.ndarray
    """bool (F, T)."""
    off_road: np.ndarray
    """bool (F, T)."""
    num_tokens: np.ndarray
    """int64 (F,): N, visual tokens of the cameras that were there; 0 without pictures."""
    num_kept: np.ndarray
    """int64 (F,): the budget K."""
    kept: np.ndarray
    """float64 (F,): tokens that stayed; K, or fewer where a method merges tokens."""
    foreground: np.ndarray
    """float64 (F,): of SceneFacts.foreground, what was kept; NaN where that says nothing."""
    things: np.ndarray
    foreground_tokens: np.ndarray


@dataclass(frozen=True)
class Figure:
    """One figure: sum of numerators / sum of denominators."""

    name: str
    unit: str
    protocol: str
    """'mean_box', 'any_cell', 'both' or 'tokens'."""
    meaning: str
    parts: Callable[[SceneFacts, RowFacts], tuple[np.ndarray, np.ndarray]]
    """-> numerator and denominator of each frame, float64 (F,)."""


def scene_sums(scene: SceneFacts, row: RowFacts) -> Mapping[str, tuple[float, float, int]]:
    """Return {figure: (numerator, denominator, frames that count)} of one scene."""
    sums = {}
    for figure in FIGURES:
        numerator, denominator = figure.parts(scene, row)
        sums[figure.name] = (float(numerator.sum()), float(denominator.sum()),
                             int((denominator > 0).sum()))
    return sums


def _steps(horizon_s: float) -> int:
    return round(horizon_s / STEP_S)


def _mean_to(values: np.ndarray, horizon_s: float) -> np.ndarray:
    return values[:, :_steps(horizon_s)].mean(axis=1)


def _at(values: np.ndarray, horizon_s: float) -> np.ndarray:
    return values[:, _steps(horizon_s) - 1].astype(np.float64)


def _any_to(values: np.ndarray, horizon_s: float) -> np.ndarray:
    return values[:, :_steps(horizon_s)].any(axis=1).astype(np.float64)


_Reduce = Callable[[np.ndarray, float], np.ndarray]
_Parts = tuple[np.ndarray, np.ndarray]


def _counted(values: np.ndarray, frames: np.ndarray, reduce: _Reduce,
             horizons_s: tuple[float, ...]) -> _Parts:
    """Return the mean over horizons of each frame, 0 of 0 where the frame does not count."""
    each = np.mean([reduce(values, horizon_s) for horizon_s in horizons_s], axis=0)
    return np.where(frames, each, 0.0), frames.astype(np.float64)


def _error(scene: SceneFacts, row: RowFacts, reduce: _Reduce,
           horizons_s: tuple[float, ...]) -> _Parts:
    return _counted(row.error_m, scene.known.all(axis=1), reduce, horizons_s)


def _box_hits(scene: SceneFacts, row: RowFacts, reduce: _Reduce,
              horizons_s: tuple[float, ...]) -> _Parts:
    frames = (scene.known & scene.boxes_known).all(axis=1)
    return _counted(row.box_hits & ~scene.box_hits, frames, reduce, horizons_s)


def _cell_hits(scene: SceneFacts, row: RowFacts, reduce: _Reduce,
               horizons_s: tuple[float, ...]) -> _Parts:
    frames = (scene.known & scene.boxes_known).all(axis=1)
    return _counted(row.cell_hits & ~scene.cell_hits, frames, reduce, horizons_s)


def _boundary(scene: SceneFacts, row: RowFacts, reduce: _Reduce,
              horizons_s: tuple[float, ...]) -> _Parts:
    frames = scene.known.all(axis=1) & scene.road_known
    return _counted(row.off_road & ~scene.starts_off_road[:, None], frames, reduce, horizons_s)


def _over_horizons(name: str, unit: str, protocol: str, meaning: str, count: Callable[
        [SceneFacts, RowFacts, _Reduce, tuple[float, ...]], _Parts],
        reduce: _Reduce) -> list[Figure]:
    """Return a figure at each horizon, and the mean of the three."""
    def figure(suffix: str, words: str, horizons_s: tuple[float, ...]) -> Figure:
        return Figure(f'{name}_{suffix}', unit, protocol, f'{meaning}, {words}',
                      lambda scene, row: count(scene, row, reduce, horizons_s))

    return [*(figure(f'{horizon_s:g}s', f'{horizon_s:g} s', (horizon_s,))
              for horizon_s in HORIZONS_S),
            figure('avg', 'mean of 1, 2 and 3 s', HORIZONS_S)]


def _of_foreground(kept: np.ndarray, whole: np.ndarray, frames: np.ndarray) -> _Parts:
    return np.where(frames, kept, 0.0), np.where(frames, whole, 0.0)


def _has_masks(scene: SceneFacts, row: RowFacts) -> np.ndarray:
    return np.isfinite(scene.foreground) & np.isfinite(row.foreground) & (row.num_kept > 0)


def _fits(scene: SceneFacts, row: RowFacts) -> np.ndarray:
    return _has_masks(scene, row) & (scene.foreground_tokens <= row.num_kept)


FIGURES: tuple[Figure, ...] = (
    *_over_horizons('l2_mean', 'm', 'both', 'mean displacement up to the horizon', _error,
                    _mean_to),
    *_over_horizons('l2_at', 'm', 'both', 'displacement at the horizon', _error, _at),
    *_over_horizons('collision_mean_box', '%', 'mean_box',
                    "steps up to the horizon whose box meets a road user's", _box_hits, _mean_to),
    *_over_horizons('collision_any_cell', '%', 'any_cell',
                    'plans with a step up to the horizon on a cell of another vehicle',
                    _cell_hits, _any_to),
    *_over_horizons('boundary_any_cell', '%', 'any_cell',
                    'plans with a step up to the horizon on a cell that is not drivable',
                    _boundary, _any_to),
    Figure('foreground_recall', '%', 'tokens', 'foreground pixels that were kept',
           lambda scene, row: _of_foreground(row.foreground, scene.foreground,
                                             _has_masks(scene, row))),
    Figure('foreground_recall_fits', '%', 'tokens',
           'the same in frames with no more foreground tokens than K',
           lambda scene, row: _of_foreground(row.foreground, scene.foreground,
                                             _fits(scene, row))),
    Figure('fits', '%', 'tokens', 'frames with no more foreground tokens than K',
           lambda scene, row: _of_foreground(_fits(scene, row).astype(np.float64),
                                             np.ones(len(row.kept)), _has_masks(scene, row))),
    Figure('foreground_token_recall', '%', 'tokens', 'foreground tokens that were kept',
           lambda scene, row: _of_foreground(row.foreground_tokens, scene.foreground_tokens,
                                             _has_masks(scene, row))),
    Figure('kept_foreground_share', '%', 'tokens', 'pixels of kept tokens that are foreground',
           lambda scene, row: _of_foreground(row.foreground, row.kept, _has_masks(scene, row))),
    Figure('miss_rate', '%', 'tokens', 'foreground pixels that are no road and were dropped',
           lambda scene, row: _of_foreground(scene.things - row.things, scene.things,
                                             _has_masks(scene, row))),
)
