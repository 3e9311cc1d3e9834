# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Vision encoders of several bundles side by side: time and multiplications, and what they cost.

Each repeat runs every encoder once, one after the other, so that a busy computer slows all of them
alike; a ratio is the median of the repeats' own ratios to the first bundle. With the folders that
`fastdrive evaluate` wrote for the bundles, their plans stand beside it, compared with the first
bundle's unpruned ones scene by scene (metrics/bootstrap.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.data.records import DataError
from fastdrive_ros.metrics.bootstrap import Resampling
from fastdrive_ros.metrics.protocols import FIGURES
from fastdrive_ros.metrics.protocols import scene_sums
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.golden_inputs import golden_images
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.runtime.onnx_cost import graph_macs
from fastdrive_ros.tools.evaluate_rows import UNPRUNED
from fastdrive_ros.tools.evaluate_store import EvaluationStore
from fastdrive_ros.tools.evaluate_store import SceneResult
from fastdrive_ros.tools.tables import print_table

GRAPH = 'vision_encoder'
QUALITY = ('l2_mean_avg', 'collision_mean_box_avg', 'collision_any_cell_avg',
           'boundary_any_cell_avg', 'foreground_recall', 'miss_rate')
_FACTOR = {figure.name: 100.0 if figure.unit == '%' else 1.0 for figure in FIGURES}
_WARM_UP = 2


@dataclass(frozen=True)
class _Evaluation:
    """What `fastdrive evaluate` found for one bundle: facts by scene, rows without its name."""

    folder: Path
    scenes: Mapping[str, SceneResult]
    rows: tuple[str, ...]
    """'none', 'recon@0.5' ..."""
    planner: str

    def sums(self, row: str) -> dict[str, np.ndarray]:
        """Return {figure: (S, 2)}, scenes in the order of their names."""
        each = [scene_sums(result.facts, result.rows[f'{self.planner}/{row}'])
                for _, result in sorted(self.scenes.items())]
        return {name: np.array([sums[name][:2] for sums in each]) for name in QUALITY}


def bench(paths: Sequence[Path], evaluations: Sequence[Path], repeats: int = 40) -> dict[str, Any]:
    """
    Measure every bundle's encoder, the first one as what the others are compared with.

    Raises BundleError or DataError where they cannot be compared.
    """
    if not paths:
        raise DataError('--bundles names the bundles whose encoders are compared, found none')
    if evaluations and len(evaluations) != len(paths):
        raise DataError(f'expected one evaluation for each of the {len(paths)} bundles, in their '
                        f'order, found {len(evaluations)}')
    bundles = [load_bundle(path) for path in paths]
    _require_same_pictures(bundles)
    engines = [load_engines(bundle, graphs=(GRAPH,), num_threads=1) for bundle in bundles]
    first = bundles[0]
    feeds = {'images': golden_images(len(first.cameras), first.image_height, first.image_width)}
    took_ms = time_ms([loaded.engines[GRAPH] for loaded in engines], feeds, repeats)
    for loaded in engines:
        loaded.engines[GRAPH].close()
    macs = [graph_macs(bundle.graph_path(GRAPH), {}) for bundle in bundles]
    found = [_read(folder, bundle) for folder, bundle in zip(evaluations, bundles)]
    quality = _quality(found) if found else [{} for _ in bundles]
    return {
        'bench': 'encoders', 'repeats': repeats, 'threads': 1, 'device': engines[0].device,
        'backend': engines[0].backend, 'cameras': len(first.cameras),
        'height': first.image_height, 'width': first.image_width, 'precision': first.precision,
        'scenes': len(found[0].scenes) if found else 0,
        'bundles': [{
            'path': str(path), 'early_pruning': bundle.manifest.get('early_pruning'),
            'encoded_share': bundle.encoded_per_camera / bundle.tokens_per_camera,
            'median_ms': float(np.median(took_ms[:, i])),
            'time_ratio': float(np.median(took_ms[:, i] / took_ms[:, 0])),
            'macs': macs[i], 'macs_ratio': macs[i] / macs[0], 'quality': quality[i]}
            for i, (path, bundle) in enumerate(zip(paths, bundles))],
    }


def time_ms(engines: Sequence[Engine], feeds: Mapping[str, np.ndarray],
            repeats: int) -> np.ndarray:
    """Return float64 (repeats, engines): how long each run took, in ms."""
    took_ms = np.empty((repeats, len(engines)))
    for engine in engines:
        for _ in range(_WARM_UP):
            engine.run(feeds)
    for i in range(repeats):
        for j, engine in enumerate(engines):
            start = time.perf_counter()
            engine.run(feeds)
            took_ms[i, j] = (time.perf_counter() - start) * 1e3
    return took_ms


def print_report(figures: Mapping[str, Any]) -> None:
    """Print what ``bench`` found as tables for people."""
    print_table(
        f"vision encoders, {figures['cameras']} x {figures['height']} x {figures['width']}, "
        f"{figures['precision']}, {figures['backend']}, {figures['device']}, medians of "
        f"{figures['repeats']} repeats",
        ('bundle', 'after block', 'tokens', 'GMAC', 'of the first', 'ms', 'of the first'),
        [(Path(each['path']).name, _block(each), f"{each['encoded_share']:.0%}",
          f"{each['macs'] / 1e9:.2f}", f"{each['macs_ratio']:.2f}", f"{each['median_ms']:.1f}",
          f"{each['time_ratio']:.2f}") for each in figures['bundles']])
    if figures['scenes']:
        print_table(
            f"plans on {figures['scenes']} scenes, against the first bundle's unpruned ones",
            ('bundle', 'pruner', 'K', 'L2 avg m', 'L2 %', 'collision mean_box %', 'boundary %',
             'foreground recall %', 'miss rate %'),
            [(Path(each['path']).name, row, f"{found['num_kept']:.0f}", *_cells(found))
             for each in figures['bundles'] for row, found in each['quality'].items()])


def _block(each: Mapping[str, Any]) -> str:
    return str(each['early_pruning']['after_block']) if each['early_pruning'] else '-'


def _cells(found: Mapping[str, Any]) -> list[str]:
    relative = found['l2_relative_percent']
    return [f"{found['l2_mean_avg']['value']:.3f}",
            f"{relative['value']:+.1f} [{relative['low']:+.1f}, {relative['high']:+.1f}]",
            *(f"{found[name]['value']:.1f}" for name in (
                'collision_mean_box_avg', 'boundary_any_cell_avg', 'foreground_recall',
                'miss_rate'))]


def _require_same_pictures(bundles: Sequence[Bundle]) -> None:
    first = bundles[0]
    for other in bundles[1:]:
        shapes = [(len(bundle.cameras), bundle.image_height, bundle.image_width)
                  for bundle in (first, other)]
        if shapes[0] != shapes[1]:
            raise BundleError(f'{other.path} takes pictures of {shapes[1]}, {first.path} of '
                              f'{shapes[0]} (cameras, rows, columns): their encoders do not do '
                              'the same work')


def _read(folder: Path, bundle: Bundle) -> _Evaluation:
    """Read a folder of `fastdrive evaluate`; DataError unless it is of this bundle's encoder."""
    store, identity = EvaluationStore.opened(folder)
    if identity['encoder_sha256'] != bundle.graph_sha256(GRAPH):
        raise DataError(f'{folder} evaluates another encoder than that of {bundle.path}: give '
                        '--bundles and --evaluations in the same order')
    scenes = {result.name: result for result in store.results()}
    rows = [set(result.rows) for result in scenes.values()]
    planner = next(iter(identity['planners']))
    names = sorted(set.intersection(*rows)) if rows else []
    return _Evaluation(folder, scenes, tuple(
        name.removeprefix(f'{planner}/') for name in names
        if name.startswith(f'{planner}/') and '+' not in name), planner)


def _quality(evaluations: Sequence[_Evaluation]) -> list[dict[str, Any]]:
    """Return {row: figures} of each, compared with the first one's unpruned plans."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.scenes.keys() != first.scenes.keys():
            raise DataError(f'{other.folder} is on {len(other.scenes)} scenes, {first.folder} on '
                            f'{len(first.scenes)}, not the same: evaluate both on the same split '
                            'and --limit')
    resampling, base = Resampling(len(first.scenes)), first.sums(UNPRUNED)
    return [{row: _row(each, row, resampling, base) for row in each.rows}
            for each in evaluations]


def _row(evaluation: _Evaluation, row: str, resampling: Resampling,
         base: Mapping[str, np.ndarray]) -> dict[str, Any]:
    sums = evaluation.sums(row)
    found: dict[str, Any] = {
        name: {key: _FACTOR[name] * value
               for key, value in vars(resampling.ratio(sums[name])).items()} for name in QUALITY}
    relative = resampling.relative(sums['l2_mean_avg'], base['l2_mean_avg'])
    found['l2_relative_percent'] = {key: 100.0 * value for key, value in vars(relative).items()}
    kept = [result.rows[f'{evaluation.planner}/{row}'].kept
            for result in evaluation.scenes.values()]
    found['num_kept'] = float(np.concatenate(kept).mean())
    return found
