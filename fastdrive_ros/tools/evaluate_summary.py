# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Facts of all scenes -> every figure of every row with its interval, and against unpruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdrive_ros.metrics.bootstrap import Interval
from fastdrive_ros.metrics.bootstrap import Resampling
from fastdrive_ros.metrics.protocols import FIGURES
from fastdrive_ros.metrics.protocols import scene_sums
from fastdrive_ros.tools.evaluate_rows import UNPRUNED
from fastdrive_ros.tools.evaluate_rows import Row
from fastdrive_ros.tools.evaluate_store import SceneResult

# What a ratio is multiplied with to be in a figure's unit.
_FACTOR = {'%': 100.0, 'm': 1.0}


def summarise(results: Sequence[SceneResult], rows: Sequence[Row],
              macs: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return one JSON-able entry a row; ``macs`` by row name, baselines have none."""
    resampling = Resampling(len(results))
    sums = {row.name: _sums(results, row.name) for row in rows}
    unpruned = {row.planner: sums[row.name] for row in rows
                if row.method == UNPRUNED and not row.control}
    first = next(iter(unpruned.values()))  # what baselines are compared to
    return [_entry(results, row, sums[row.name], unpruned.get(row.planner, first), resampling,
                   macs.get(row.name)) for row in rows]


def counts(results: Sequence[SceneResult]) -> dict[str, int]:
    """Return how many frames there are, and how many of them count for what."""
    every = {name: np.concatenate([getattr(each.facts, name) for each in results])
             for name in ('known', 'boxes_known', 'road_known', 'foreground')}
    known = every['known'].all(axis=1)
    return {
        'scenes': len(results), 'frames': len(known),
        'left_out': sum(each.left_out for each in results),
        'way_known': int(known.sum()),
        'way_and_others_known': int((known & every['boxes_known'].all(axis=1)).sum()),
        'way_and_road_known': int((known & every['road_known']).sum()),
        'with_masks': int(np.isfinite(every['foreground']).sum())}


def _sums(results: Sequence[SceneResult], row: str) -> dict[str, np.ndarray]:
    """Return {figure: float64 (S, 3)}: numerator, denominator, frames of each scene."""
    scenes = [scene_sums(result.facts, result.rows[row]) for result in results]
    return {figure.name: np.array([scene[figure.name] for scene in scenes], dtype=np.float64)
            for figure in FIGURES}


def _entry(results: Sequence[SceneResult], row: Row, own: Mapping[str, np.ndarray],
           base: Mapping[str, np.ndarray], resampling: Resampling,
           macs: int | None) -> dict[str, Any]:
    kept, tokens = (np.concatenate([getattr(each.rows[row.name], name) for each in results])
                    for name in ('num_kept', 'num_tokens'))
    entry = {
        'name': row.name, 'planner': row.planner, 'method': row.method, 'label': row.label,
        'keep_ratio': row.keep_ratio if row.planner else None, 'control': row.control,
        'num_kept': _number(kept.mean()), 'num_tokens': _number(tokens.mean()), 'macs': macs,
        'figures': {}, 'against_none': {}}
    for figure in FIGURES:
        mine, theirs = own[figure.name][:, :2], base[figure.name][:, :2]
        factor = _FACTOR[figure.unit]
        entry['figures'][figure.name] = {
            **_scaled(resampling.ratio(mine), factor),
            'frames': int(own[figure.name][:, 2].sum())}
        entry['against_none'][figure.name] = {
            'difference': _scaled(resampling.difference(mine, theirs), factor),
            'relative_percent': _scaled(resampling.relative(mine, theirs), 100.0)}
    return entry


def _scaled(interval: Interval, factor: float) -> dict[str, float | None]:
    return {name: _number(factor * value) for name, value in vars(interval).items()}


def _number(value: float) -> float | None:
    """Return six significant digits, JSON's null for what does not exist."""
    return float(f'{value:.6g}') if math.isfinite(value) else None
