# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loaded engines against the outputs that the bundle's export recorded: the numbers, or refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import golden_history
from fastdrive_ros.runtime.bundle import golden_images
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GoldenReport:
    """How far the engines are from the export's own outputs."""

    errors: Mapping[str, float]
    """'graph.quantity' -> relative L2 error; of waypoints the largest one over max(1 m, size)."""
    kept_overlap: Mapping[str, float]
    """Graph -> share of the recorded kept tokens that it keeps too."""
    error_limit: float
    overlap_limit: float

    @property
    def passed(self) -> bool:
        """Whether every figure is within the manifest's tolerance; NaN is not."""
        return all(error <= self.error_limit for error in self.errors.values()) and all(
            overlap >= self.overlap_limit for overlap in self.kept_overlap.values()
        )

    def __str__(self) -> str:
        """Return every figure with its limit."""
        errors = ', '.join(f'{name} {error:.1e}' for name, error in self.errors.items())
        text = f'{errors} (limit {self.error_limit:.1e})'
        if self.kept_overlap:
            kept = ', '.join(f'{name} {share:.1%}' for name, share in self.kept_overlap.items())
            text += f'; kept tokens in common: {kept} (limit {self.overlap_limit:.1%})'
        return text


def check_golden(bundle: Bundle, engines: Mapping[str, Engine]) -> GoldenReport:
    """
    Run every engine once on the golden inputs; EngineError with the figures when one is off.

    Each graph gets recorded inputs, not its neighbour's outputs, so a figure blames one graph.
    It is also the engines' warm-up.
    """
    with np.load(bundle.path / bundle.manifest['golden']['file']) as archive:
        golden = dict(archive)
    errors: dict[str, float] = {}
    overlap: dict[str, float] = {}
    images = golden_images(len(bundle.cameras), bundle.image_height, bundle.image_width)
    selection = {
        'camera_present': np.ones(len(bundle.cameras), bool),
        'num_kept_tokens': np.array(bundle.manifest['golden']['num_kept_tokens'], np.int64),
    }
    if 'vision_encoder' in engines:
        out = engines['vision_encoder'].run({'images': images})
        errors['vision_encoder.visual_tokens'] = _relative_l2(
            out['visual_tokens'], golden['visual_tokens']
        )
    for graph, feed in (
        ('recon_pruner', {'visual_tokens': golden['visual_tokens']}),
        ('perception', {'images': images}),
    ):
        if graph in engines:
            out = engines[graph].run({**feed, **selection})
            errors[f'{graph}.scores'] = _relative_l2(out['scores'], golden['scores'])
            # Clipped: an index out of range is a wrong figure here, not an IndexError.
            recorded = golden['visual_tokens'].take(out['kept_indices'], axis=0, mode='clip')
            errors[f'{graph}.kept_tokens'] = _relative_l2(out['kept_tokens'], recorded)
            overlap[graph] = np.isin(golden['kept_indices'], out['kept_indices']).mean().item()
    if 'planner' in engines:
        out = engines['planner'].run(_planner_feeds(bundle, golden))
        difference = np.abs(out['waypoint_residuals'] - golden['waypoint_residuals'])
        # Never relative to less than a metre: an untrained planner's residuals are all zero.
        largest = max(1.0, np.abs(golden['waypoint_residuals']).max().item())
        errors['planner.waypoint_residuals'] = difference.max().item() / largest
    tolerance = bundle.manifest['golden']['tolerance']
    report = GoldenReport(errors, overlap, tolerance['relative_l2'], tolerance['kept_overlap'])
    if not report.passed:
        raise EngineError(
            f'the engines of {bundle.name} do not reproduce the golden outputs of its export: '
            f'{report}. Choose another backend, or export in another precision with '
            '`fastdrive export`.'
        )
    return report


def _planner_feeds(bundle: Bundle, golden: Arrays) -> Arrays:
    return {
        'kept_tokens': golden['visual_tokens'][golden['kept_indices']],
        'kept_indices': golden['kept_indices'],
        'ego_history': golden_history(bundle.planner['history_steps']),
    }


def _relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))
