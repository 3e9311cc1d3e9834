# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loaded engines against the outputs that the bundle's export recorded: the numbers, or refuse."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import golden_history
from fastdrive_ros.runtime.bundle import golden_images
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import layer_graphs

Arrays = Mapping[str, np.ndarray]

PLAN_PREFIX = 'plan_'
"""Of what plan_pruner.onnx recorded: its outputs have recon_pruner's names."""


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

    Each graph gets recorded inputs, not its neighbour's outputs, so a figure blames one graph;
    only the planner in pieces is checked as a whole. It is also the engines' warm-up.
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
    for graph in ('vision_encoder', 'vision_attention'):
        if graph in engines:
            out = engines[graph].run({'images': images})
            errors |= _vision_errors(graph, out, golden)
    # token_present: what an early-pruned encoder kept.
    encoded = {name: golden[name] for name in ('visual_tokens', 'token_present') if name in golden}
    for graph, feed, recorded in (
        ('recon_pruner', encoded, ''),
        ('perception', {'images': images}, ''),
        ('plan_pruner', encoded, PLAN_PREFIX),
    ):
        if graph in engines:
            out = engines[graph].run({**feed, **selection})
            errors[f'{graph}.scores'] = _scores_error(out['scores'], golden[recorded + 'scores'])
            # Clipped: an index out of range is a wrong figure here, not an IndexError.
            tokens = golden['visual_tokens'].take(out['kept_indices'], axis=0, mode='clip')
            errors[f'{graph}.kept_tokens'] = _relative_l2(out['kept_tokens'], tokens)
            overlap[graph] = np.isin(golden[recorded + 'kept_indices'],
                                     out['kept_indices']).mean().item()
    errors |= _planner_errors(bundle, engines, golden)
    tolerance = bundle.manifest['golden']['tolerance']
    report = GoldenReport(errors, overlap, tolerance['relative_l2'], tolerance['kept_overlap'])
    if not report.passed:
        raise EngineError(
            f'the engines of {bundle.name} do not reproduce the golden outputs of its export: '
            f'{report}. Choose another backend, or export in another precision with '
            '`fastdrive export`.'
        )
    return report


def run_layers(
    run: Callable[[str, Arrays], Arrays], layers: Sequence[str], feeds: Arrays, num_waypoints: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Run planner_embed, every layer and planner_output after one another, with nothing pruned.

    Returns waypoint residuals (T, 3), which are planner.onnx's, and what every row received of
    the others' attention in each layer, (layers, S).
    """
    out = run('planner_embed', feeds)
    hidden, slots, received = out['hidden'], out['slots'], []
    for layer in layers:
        out = run(layer, {'hidden': hidden, 'slots': slots})
        hidden = out['next_hidden']
        received.append(out['attention'].mean(axis=0))
    residuals = run('planner_output', {
        'hidden': hidden[-num_waypoints:], 'ego_history': feeds['ego_history'],
    })
    return residuals['waypoint_residuals'], np.stack(received)


def golden_of_vision(out: Arrays) -> dict[str, np.ndarray]:
    """Return what is recorded of vision_attention's outputs: features only by their length."""
    return {'attention': out['attention'],
            'feature_norms': np.linalg.norm(out['features'], axis=1)}


def _vision_errors(graph: str, out: Arrays, golden: Arrays) -> dict[str, float]:
    found = {name: out[name] for name in ('visual_tokens', 'token_present') if name in out}
    if 'attention' in out:
        found |= golden_of_vision(out)
    return {f'{graph}.{name}': _relative_l2(value, golden[name]) for name, value in found.items()}


def _planner_errors(
    bundle: Bundle, engines: Mapping[str, Engine], golden: Arrays
) -> dict[str, float]:
    feeds, errors = _planner_feeds(bundle, golden), {}
    if 'planner' in engines:
        residuals = engines['planner'].run(feeds)['waypoint_residuals']
        errors['planner.waypoint_residuals'] = _waypoint_error(residuals, golden)
    if 'planner_embed' in engines:
        residuals, attention = run_layers(
            lambda graph, inputs: engines[graph].run(inputs), layer_graphs(engines), feeds,
            bundle.planner['num_waypoints'],
        )
        errors['planner_layers.waypoint_residuals'] = _waypoint_error(residuals, golden)
        errors['planner_layers.attention'] = _relative_l2(attention, golden['layer_attention'])
    return errors


def _waypoint_error(residuals: np.ndarray, golden: Arrays) -> float:
    expected = golden['waypoint_residuals']
    # Never relative to less than a metre: an untrained planner's residuals are all zero.
    largest = max(1.0, np.abs(expected).max().item())
    return np.abs(residuals - expected).max().item() / largest


def _planner_feeds(bundle: Bundle, golden: Arrays) -> Arrays:
    return {
        'kept_tokens': golden['visual_tokens'][golden['kept_indices']],
        'kept_indices': golden['kept_indices'],
        'ego_history': golden_history(bundle.planner['history_steps']),
    }


def _scores_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Compare finite scores; tokens that early pruning dropped must have -inf in both."""
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float('inf')
    return _relative_l2(found[finite], expected[finite])


def _relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))
