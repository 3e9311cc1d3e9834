# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loaded engines against the outputs that the bundle's export recorded: the numbers, or refuse."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import layer_graphs
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.golden_inputs import golden_images

Arrays = Mapping[str, np.ndarray]

# They get the recorded tokens; other graphs that keep tokens encode by themselves.
_PRUNERS = 'recon_pruner', 'plan_pruner'
PLAN_PREFIX = 'plan_'
"""Of what plan_pruner.onnx recorded: its outputs have recon_pruner's names."""


@dataclass(frozen=True)
class Numbers:
    """One output of an engine against the recorded one, which is from fp32."""

    max_abs: float
    relative_l2: float
    cosine: float

    @classmethod
    def of(cls, found: np.ndarray, expected: np.ndarray) -> Numbers:
        """Compare two arrays of one shape; what is -inf (an absent token) must be so in both."""
        there = np.isfinite(expected)
        if not np.array_equal(there, np.isfinite(found)):
            return cls(np.inf, np.inf, 0.0)
        found, expected = found[there].astype(np.float64), expected[there].astype(np.float64)
        sizes = max(float(np.linalg.norm(found) * np.linalg.norm(expected)), 1e-24)
        return cls(
            float(np.abs(found - expected).max(initial=0.0)),
            float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12)),
            # Of two outputs that are all zero (an untrained head): they agree.
            float(found.ravel() @ expected.ravel()) / sizes if found.any() or expected.any()
            else 1.0,
        )


@dataclass(frozen=True)
class GoldenReport:
    """How far the engines are from the export's own outputs."""

    outputs: Mapping[str, Numbers]
    """'graph.quantity' -> what the engine made of it."""
    errors: Mapping[str, float]
    """The same keys -> relative L2; of waypoints the largest error over max(1 m, size)."""
    kept_overlap: Mapping[str, float]
    """Graph -> share of the recorded kept tokens that it keeps too."""
    error_limit: float
    overlap_limit: float
    encoded_limit: float
    """Least share of the recorded tokens that an early-pruned encoder, or the joined graph with
    one, keeps too."""

    @property
    def passed(self) -> bool:
        """Whether every figure is within the manifest's tolerance; NaN is not."""
        return all(error <= self.error_limit for error in self.errors.values()) and all(
            overlap >= self._least_overlap(graph) for graph, overlap in self.kept_overlap.items()
        )

    def _least_overlap(self, graph: str) -> float:
        return self.overlap_limit if graph in _PRUNERS else self.encoded_limit

    def of_graph(self, graph: str) -> dict[str, Any]:
        """
        Return one graph's figures as JSON: what is kept beside its engine.

        Those of a single language layer are those of all pieces of the planner in a row.
        """
        prefix = 'planner_layers.' if graph.startswith('planner_') else f'{graph}.'
        return {
            'passed': self.passed,
            'outputs': {name.removeprefix(prefix): asdict(numbers)
                        for name, numbers in self.outputs.items() if name.startswith(prefix)},
            'kept_overlap': self.kept_overlap.get(graph),
            'limits': {'relative_l2': self.error_limit,
                       'kept_overlap': self._least_overlap(graph)},
        }

    def __str__(self) -> str:
        """Return every figure with its limit."""
        errors = ', '.join(f'{name} {error:.1e}' for name, error in self.errors.items())
        text = f'{errors} (limit {self.error_limit:.1e})'
        if self.kept_overlap:
            kept = ', '.join(f'{name} {share:.1%} (limit {self._least_overlap(name):.1%})'
                             for name, share in self.kept_overlap.items())
            text += f'; kept tokens in common: {kept}'
        return text


def check_golden(bundle: Bundle, engines: Mapping[str, Engine]) -> GoldenReport:
    """Like ``golden_report``, but EngineError with the figures when one is off."""
    report = golden_report(bundle, engines)
    require_passed(bundle, report)
    return report


def require_passed(bundle: Bundle, report: GoldenReport) -> None:
    """Raise EngineError when a figure is beyond its limit."""
    if not report.passed:
        raise EngineError(
            f'the engines of {bundle.name} do not reproduce the golden outputs of its export: '
            f'{report}. Choose another backend, or export in another precision with '
            '`fastdrive export`.'
        )


def golden_report(bundle: Bundle, engines: Mapping[str, Engine]) -> GoldenReport:
    """
    Run every engine once on the golden inputs, and compare.

    Each graph gets recorded inputs, not its neighbour's outputs, so a figure blames one graph;
    only the planner in pieces is checked as a whole. It is also the engines' warm-up.
    """
    golden = _recorded(bundle)
    outputs: dict[str, Numbers] = {}
    overlap: dict[str, float] = {}
    images = golden_images(len(bundle.cameras), bundle.image_height, bundle.image_width)
    selection = {
        'camera_present': np.ones(len(bundle.cameras), bool),
        'num_kept_tokens': np.array(bundle.manifest['golden']['num_kept_tokens'], np.int64),
    }
    for graph in ('vision_encoder', 'vision_attention'):
        if graph in engines:
            out = engines[graph].run({'images': images})
            outputs |= _vision_numbers(graph, out, golden)
            if 'token_present' in golden:
                overlap[graph] = _both(out, golden).sum().item() / golden['token_present'].sum()
    # token_present: what an early-pruned encoder kept.
    encoded = {name: golden[name] for name in ('visual_tokens', 'token_present') if name in golden}
    for graph, feed, recorded in (
        ('recon_pruner', encoded, ''),
        ('perception', {'images': images}, ''),
        ('plan_pruner', encoded, PLAN_PREFIX),
    ):
        if graph in engines:
            out = engines[graph].run({**feed, **selection})
            # The joined graph's encoder may have left other windows than were recorded.
            same = (np.isfinite(out['scores']) & golden['token_present']
                    if graph == 'perception' and 'token_present' in golden else slice(None))
            outputs[f'{graph}.scores'] = Numbers.of(
                out['scores'][same], golden[recorded + 'scores'][same])
            outputs[f'{graph}.kept_tokens'] = _kept_numbers(out, golden)
            overlap[graph] = np.isin(golden[recorded + 'kept_indices'],
                                     out['kept_indices']).mean().item()
    outputs |= _planner_numbers(bundle, engines, golden)
    return _judged(bundle, golden, outputs, overlap)


def language_report(bundle: Bundle, read: Callable[[Arrays], Arrays]) -> GoldenReport:
    """
    Compare a language model that is no engine: ``read`` gets the recorded prompt and block.

    Its keys and what it must return are those of ``run_language``.
    """
    golden = _recorded(bundle)
    found = read(_language_feeds(bundle, golden)[0])
    return _judged(bundle, golden, _language_numbers(found, golden), {})


def _recorded(bundle: Bundle) -> Arrays:
    with np.load(bundle.path / bundle.manifest['golden']['file']) as archive:
        return dict(archive)


def _judged(bundle: Bundle, golden: Arrays, outputs: Mapping[str, Numbers],
            overlap: Mapping[str, float]) -> GoldenReport:
    # Never relative to less than a metre: an untrained planner's residuals are all zero.
    largest = max(1.0, np.abs(golden.get('waypoint_residuals', 0.0)).max().item())
    errors = {
        name: numbers.max_abs / largest if name.endswith('.waypoint_residuals')
        else numbers.relative_l2
        for name, numbers in outputs.items()
    }
    tolerance = bundle.manifest['golden']['tolerance']
    kept = tolerance['kept_overlap']
    # Bundles of before have one limit for all.
    return GoldenReport(outputs, errors, overlap, tolerance['relative_l2'], kept,
                        min(kept, tolerance.get('encoded_overlap', kept)))


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


def run_language(
    run: Callable[[Arrays], Arrays], feeds: Arrays, cache_shape: Sequence[int]
) -> dict[str, np.ndarray]:
    """
    Run language_model on a prompt and then on a block behind it.

    ``feeds``: token_ids, visual_rows, positions, candidates, kept_tokens and block_ids;
    ``cache_shape`` that of one row. Returns prompt_logits (C,) and block_logits (n, C).
    """
    length, block = len(feeds['token_ids']), feeds['block_ids']
    inputs = ('token_ids', 'visual_rows', 'positions', 'candidates', 'kept_tokens')
    first = run({**{name: feeds[name] for name in inputs},
                 'cache': np.zeros((0, *cache_shape), np.float32),
                 'logit_rows': np.array([length - 1])})
    rows = np.arange(len(block))
    positions = np.tile(feeds['positions'].max() + 1 + rows, (3, 1))
    second = run({**{name: feeds[name] for name in inputs}, 'token_ids': block,
                  'visual_rows': np.full_like(block, -1), 'positions': positions,
                  'cache': first['new_cache'], 'logit_rows': rows})
    return {'prompt_logits': first['logits'][0], 'block_logits': second['logits']}


def golden_of_vision(out: Arrays) -> dict[str, np.ndarray]:
    """Return what is recorded of vision_attention's outputs: features only by their length."""
    return {'attention': out['attention'],
            'feature_norms': np.linalg.norm(out['features'], axis=1)}


def _vision_numbers(graph: str, out: Arrays, golden: Arrays) -> dict[str, Numbers]:
    found = {'visual_tokens': out['visual_tokens']}
    if 'attention' in out:
        found |= golden_of_vision(out)
    both = _both(out, golden) if 'token_present' in golden else slice(None)
    return {f'{graph}.{name}': Numbers.of(value[both], golden[name][both])
            for name, value in found.items()}


def _both(out: Arrays, golden: Arrays) -> np.ndarray:
    """Return the tokens that an early-pruned encoder left now and at the export, bool (N,)."""
    return out['token_present'] & golden['token_present']


def _kept_numbers(out: Arrays, golden: Arrays) -> Numbers:
    # Clipped: an index out of range is a wrong figure here, not an IndexError.
    indices = np.clip(out['kept_indices'], 0, len(golden['visual_tokens']) - 1)
    there = golden['token_present'][indices] if 'token_present' in golden else slice(None)
    return Numbers.of(out['kept_tokens'][there], golden['visual_tokens'][indices][there])


def _planner_numbers(
    bundle: Bundle, engines: Mapping[str, Engine], golden: Arrays
) -> dict[str, Numbers]:
    numbers = {}
    if 'language_model' in engines:
        feeds, cache_shape = _language_feeds(bundle, golden)
        found = run_language(engines['language_model'].run, feeds, cache_shape)
        return _language_numbers(found, golden)
    feeds, expected = _planner_feeds(bundle, golden), golden.get('waypoint_residuals')
    if 'planner' in engines:
        residuals = engines['planner'].run(feeds)['waypoint_residuals']
        numbers['planner.waypoint_residuals'] = Numbers.of(residuals, expected)
    if 'planner_embed' in engines:
        residuals, attention = run_layers(
            lambda graph, inputs: engines[graph].run(inputs), layer_graphs(engines), feeds,
            bundle.planner['num_waypoints'],
        )
        numbers['planner_layers.waypoint_residuals'] = Numbers.of(residuals, expected)
        numbers['planner_layers.attention'] = Numbers.of(attention, golden['layer_attention'])
    return numbers


def _language_numbers(found: Arrays, golden: Arrays) -> dict[str, Numbers]:
    return {f'language_model.{name}': Numbers.of(value, golden[name])
            for name, value in found.items()}


def _language_feeds(bundle: Bundle, golden: Arrays) -> tuple[Arrays, tuple[int, ...]]:
    prefix = 'language_'
    feeds = {name.removeprefix(prefix): value for name, value in golden.items()
             if name.startswith(prefix)}
    cache = bundle.planner['cache']
    return ({**feeds, 'kept_tokens': golden['visual_tokens'][golden['kept_indices']]},
            (cache['layers'], 2, cache['kv_heads'], cache['head_size']))


def _planner_feeds(bundle: Bundle, golden: Arrays) -> Arrays:
    return {
        'kept_tokens': golden['visual_tokens'][golden['kept_indices']],
        'kept_indices': golden['kept_indices'],
        'ego_history': golden_history(bundle.planner['history_steps']),
    }
