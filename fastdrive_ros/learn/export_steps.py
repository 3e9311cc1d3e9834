# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The steps of an export, one part of the model after another: load, export, compare, free.

STEPS is the one place where a graph is added. Each step writes its files to the folder, records
golden outputs from fp32, and returns what the manifest says about it; nothing else of it stays in
memory. A step that is finished is not run again (export_journal.py).

Graphs take and give float32 in every precision, with casts at their edges: the host's numpy has
no bf16, golden outputs and pruning methods stay as they are, and the largest tensor that crosses,
[N, D], is a few megabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from fastdrive_ros.core.pruning import num_kept
from fastdrive_ros.learn.checkpoint import DrivingModel
from fastdrive_ros.learn.checkpoint import ModelParts
from fastdrive_ros.learn.early_checks import check_early_vision
from fastdrive_ros.learn.early_checks import scores_of
from fastdrive_ros.learn.early_checks import share_at_stake
from fastdrive_ros.learn.export_progress import timed
from fastdrive_ros.learn.graph_checks import HALF_TOLERANCE
from fastdrive_ros.learn.graph_checks import TOLERANCE
from fastdrive_ros.learn.graph_checks import check_early_perception
from fastdrive_ros.learn.graph_checks import check_perception
from fastdrive_ros.learn.graph_checks import check_planner
from fastdrive_ros.learn.graph_checks import check_pruner
from fastdrive_ros.learn.graph_checks import check_vision
from fastdrive_ros.learn.graph_checks import query_states
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import export_graph
from fastdrive_ros.learn.graphs import join_perception
from fastdrive_ros.learn.language_graph import FREE_DIMS
from fastdrive_ros.learn.language_graph import OUTPUTS
from fastdrive_ros.learn.language_graph import LanguageGraph
from fastdrive_ros.learn.precision import DTYPES
from fastdrive_ros.learn.precision import Reach
from fastdrive_ros.learn.precision import Rounding
from fastdrive_ros.learn.precision import in_float32
from fastdrive_ros.learn.precision import require_range
from fastdrive_ros.learn.precision import require_sure_windows
from fastdrive_ros.learn.precision import rounding
from fastdrive_ros.learn.prompt_file import TextHead
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.rival_export import rival_golden
from fastdrive_ros.learn.rival_export import write_rivals
from fastdrive_ros.learn.text_export import block_example
from fastdrive_ros.learn.text_export import cache_sizes
from fastdrive_ros.learn.text_export import check_language
from fastdrive_ros.learn.text_export import frame_agreement
from fastdrive_ros.learn.text_export import golden_feeds
from fastdrive_ros.learn.text_export import golden_logits
from fastdrive_ros.learn.text_export import same_weights
from fastdrive_ros.learn.waypoint_head import WaypointPlanner
from fastdrive_ros.learn.weight_only import Cost
from fastdrive_ros.learn.weight_only import cost
from fastdrive_ros.learn.weight_only import quantise
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.golden import PLAN_PREFIX
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.golden_inputs import golden_images

Module = TypeVar('Module', bound=nn.Module)

GOLDEN_KEEP_RATIO = 0.5
_PRUNER_INPUTS = 'visual_tokens', 'camera_present', 'num_kept_tokens'
_EARLY = 'token_present'
_PRUNER_OUTPUTS = 'kept_tokens', 'kept_indices', 'scores'
_KEPT_DIMS = {'kept_tokens': {0: 'K'}, 'kept_indices': {0: 'K'}}


@dataclass(frozen=True)
class Work:
    """What every step gets."""

    parts: ModelParts
    precision: str
    weights: str
    """'int8' or 'int4' for the language layers, '' for the precision's type."""
    plan_pruner: Path | None
    text_head: TextHead | None
    folder: Path
    report: Callable[[str], None]
    golden: dict[str, np.ndarray]
    """Recorded so far, by this step's predecessors; a step adds its own."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the graphs."""
        return DTYPES[self.precision]

    @property
    def tolerance(self) -> float:
        """How far a graph may be from torch, relative, both in fp32 on the graph's weights."""
        return TOLERANCE if self.precision == 'fp32' else HALF_TOLERANCE

    def has_stored_type(self, part: str) -> bool:
        """Whether a part's golden outputs, which are from the checkpoint's weights, are exact."""
        return self.parts.stored_dtype(part) == self.dtype

    def path(self, graph: str) -> Path:
        """Return the ONNX file of a graph."""
        return self.folder / f'{graph}.onnx'

    def inputs(self, *names: str) -> dict[str, torch.Tensor]:
        """Return graph inputs by name: the golden ones, as far as they are recorded."""
        parts, tokens = self.parts, self.golden.get('visual_tokens')
        encoded = self.golden.get(_EARLY)
        survivors = parts.num_tokens if encoded is None else int(encoded.sum())
        kept = self.golden.get('kept_indices')
        every = {
            'images': golden_images(parts.num_cameras, parts.height, parts.width),
            'visual_tokens': tokens,
            'camera_present': np.ones(parts.num_cameras, bool),
            'num_kept_tokens': np.array(
                num_kept(GOLDEN_KEEP_RATIO, parts.num_tokens, survivors)),
            _EARLY: encoded,
            'kept_tokens': None if kept is None else tokens[kept],
            'kept_indices': kept,
            'ego_history': golden_history(parts.head.config.history_steps),
        }
        return {name: torch.from_numpy(every[name]) for name in names}


@dataclass
class Facts:
    """What a step leaves for the manifest, by graph."""

    tolerance: float
    differences: dict[str, Difference] = field(default_factory=dict)
    roundings: dict[str, Rounding] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    """Of integer weights."""
    text: dict[str, Any] = field(default_factory=dict)
    """Of a text planner: agreement, vocabulary_size, cache, on_torch."""


def export_vision(work: Work) -> Facts:
    """The encoder."""
    graph, images = 'vision_encoder', work.inputs('images')
    if work.parts.early:
        return _early_vision(work, graph, images)
    facts = Facts(work.tolerance)
    with timed(work.report, f'golden outputs of {graph} by torch in fp32'):
        stored = work.parts.vision(None)
        with torch.inference_mode(), in_float32(stored) as reach:
            tokens = stored(**images)
    work.golden['visual_tokens'] = tokens.numpy()
    vision = work.parts.vision(work.dtype)
    if work.precision != 'fp32':
        require_range(graph, work.precision, reach)
        with timed(work.report, f'{graph} in {work.precision} by torch'), torch.inference_mode():
            found = {'visual_tokens': vision(**images).numpy()}
        facts.roundings[graph] = rounding(
            graph, work.precision, {'visual_tokens': tokens.numpy()}, found)
    with timed(work.report, f'export {graph}'):
        export_graph(vision, images, ['visual_tokens'], {}, work.path(graph))
    if not work.has_stored_type('vision'):
        tokens = _tokens(work)
    facts.differences[graph] = _compared(
        work, graph, partial(check_vision, images['images'], tokens))
    return facts


def export_pruner(work: Work) -> Facts:
    """ReconPruner."""
    return _pruner(work, 'recon_pruner', '', work.parts.pruner(), work.parts.pruner(work.dtype))


def export_plan_pruner(work: Work) -> Facts:
    """A pruner that a planner taught (learn/plan_keeping.py), for method 'plan'."""
    file = work.plan_pruner
    return _pruner(work, 'plan_pruner', PLAN_PREFIX, work.parts.pruner(file=file),
                   work.parts.pruner(work.dtype, file))


def export_perception(work: Work) -> Facts:
    """Encoder and pruner in one graph; its weights are theirs."""
    graph = 'perception'
    join_perception(work.path('vision_encoder'), work.path('recon_pruner'), work.path(graph))
    known = work.inputs('images', 'visual_tokens')
    pruner = work.parts.pruner(work.dtype)
    if early := work.parts.early_vision(work.dtype):
        check = partial(check_early_perception, early, pruner, known['images'])
    else:
        tokens = known['visual_tokens'] if work.has_stored_type('vision') else _tokens(work)
        check = partial(check_perception, known['images'], tokens, pruner)
    return Facts(work.tolerance, {graph: _compared(work, graph, check)})


def export_planner(work: Work) -> Facts:
    """The language model with the waypoint head."""
    graph, head = 'planner', work.parts.head
    inputs = work.inputs('kept_tokens', 'kept_indices', 'ego_history')
    facts = Facts(work.tolerance)

    def in_fp32(planner: WaypointPlanner) -> tuple[dict[str, np.ndarray], torch.Tensor, Reach]:
        states, reach = query_states(planner, inputs)
        residuals = head.residuals(states, inputs['ego_history'][None])[0]
        return {'waypoint_residuals': residuals.numpy()}, states, reach

    with timed(work.report, f'golden outputs of {graph} by torch in fp32'):
        golden, states, reach = in_fp32(work.parts.planner(None))
    planner = work.parts.planner(work.dtype)
    if work.weights:
        golden, states, reach = _integers(work, facts, graph, planner, in_fp32, golden)
    work.golden.update(golden)
    if work.precision != 'fp32':
        require_range(graph, work.precision, reach)
        with timed(work.report, f'{graph} in {work.precision} by torch'), torch.inference_mode():
            found = {'waypoint_residuals': planner(*inputs.values()).numpy()}
        facts.roundings[graph] = rounding(graph, work.precision, golden, found)
    with timed(work.report, f'export {graph}'):
        export_graph(planner, inputs, ['waypoint_residuals'], _KEPT_DIMS, work.path(graph))
    if not work.weights and not work.has_stored_type('llm'):
        _, states, _ = in_fp32(planner)
    facts.differences[graph] = _compared(
        work, graph, partial(check_planner, planner, inputs, states))
    return facts


def export_language(work: Work) -> Facts:
    """The language model of a text planner."""
    graph, head = 'language_model', work.text_head
    kept = work.inputs('kept_tokens')['kept_tokens'].numpy()
    feeds = golden_feeds(work.parts, head, work.golden['kept_indices'], kept)
    facts = Facts(work.tolerance)

    def in_fp32(language: LanguageGraph) -> tuple[dict[str, np.ndarray], float, Reach]:
        with in_float32(language) as reach:
            return (golden_logits(language, feeds, kept), frame_agreement(language, feeds, kept),
                    reach)

    with timed(work.report, f'golden outputs of {graph} by torch in fp32'):
        golden, agreement, reach = in_fp32(work.parts.language(None))
    language = work.parts.language(work.dtype)
    if work.weights:
        golden, agreement, reach = _integers(work, facts, graph, language, in_fp32, golden)
    facts.text = {'agreement': agreement, 'vocabulary_size': len(language.output),
                  'cache': cache_sizes(work.parts, head, language), 'on_torch': {}}
    work.golden.update({**golden, **{f'language_{name}': v for name, v in feeds.items()}})
    if work.precision != 'fp32':
        require_range(graph, work.precision, reach)
        with timed(work.report, f'{graph} in {work.precision} by torch'):
            found = golden_logits(language, feeds, kept)
        facts.roundings[graph] = rounding(graph, work.precision, golden, found)
    example = block_example(language, feeds, kept)
    with timed(work.report, f'export {graph}'):
        export_graph(language, example, OUTPUTS, FREE_DIMS, work.path(graph))
    if not work.weights:    # torch has no products with integers
        facts.text['on_torch'] = _on_torch(work, language, graph)
    facts.differences[graph] = _compared(work, graph, partial(check_language, language, feeds))
    return facts


def _on_torch(work: Work, language: LanguageGraph, graph: str) -> dict[str, Any]:
    """Return what text_backend 'torch' must know; nothing of a model that it does not compute."""
    try:
        shape = work.parts.language_shape
    except EngineError as error:
        work.report(f"text_backend 'torch' will not run this bundle: {error}")
        return {}
    return {'language': asdict(shape), 'same_weights': same_weights(language, work.path(graph))}


def export_rivals(work: Work) -> Facts:
    """The model in pieces (rival_graphs.py), fp32 only."""
    parts = work.parts
    model = DrivingModel(parts.vision(), parts.pruner(), parts.planner(), parts.prompt,
                         parts.tokenizer, parts.early_vision(torch.float32))
    known = work.inputs('images', 'kept_tokens', 'kept_indices', 'ego_history')
    with timed(work.report, 'export the graphs for rival methods and compare them with torch'):
        differences = write_rivals(model, known, work.folder, work.tolerance)
        work.golden.update(
            rival_golden(work.folder, known, parts.head.config.num_waypoints))
    return Facts(work.tolerance, differences)


STEPS: Mapping[str, Callable[[Work], Facts]] = {
    'vision_encoder': export_vision,
    'recon_pruner': export_pruner,
    'perception': export_perception,
    'planner': export_planner,
    'language_model': export_language,
    'plan_pruner': export_plan_pruner,
    'rivals': export_rivals,
}
"""In this order; one of planner and language_model, the last two when they are asked for."""


def _early_vision(work: Work, graph: str, images: Mapping[str, torch.Tensor]) -> Facts:
    """The encoder that drops windows (early_pruning.py)."""
    facts, outputs = Facts(work.tolerance), ('visual_tokens', _EARLY)
    with timed(work.report, f'golden outputs of {graph} by torch in fp32'):
        stored = work.parts.early_vision()
        with torch.inference_mode(), in_float32(stored) as reach:
            tokens, present = stored(**images)
            scores = scores_of(stored, images['images'])
    work.golden.update({'visual_tokens': tokens.numpy(), _EARLY: present.numpy()})
    early = work.parts.early_vision(work.dtype)
    if work.precision != 'fp32':
        require_range(graph, work.precision, reach)
        with timed(work.report, f'{graph} in {work.precision} by torch'), torch.inference_mode():
            found, found_present = early(**images)
            error = scores_of(early, images['images']) - scores
        both, at_stake = present & found_present, share_at_stake(
            early, scores, error.abs().max().item())
        require_sure_windows(work.precision, at_stake)
        facts.roundings[graph] = replace(
            rounding(graph, work.precision, {'visual_tokens': tokens[both].numpy()},
                     {'visual_tokens': found[both].numpy()}),
            encoded_overlap=1.0 - at_stake)
    with timed(work.report, f'export {graph}'):
        export_graph(early, images, outputs, {}, work.path(graph))
    facts.differences[graph] = _compared(work, graph, partial(check_early_vision, early))
    return facts


def _tokens(work: Work) -> torch.Tensor:
    """Return the golden pictures' tokens [N, D] in fp32, on weights in the bundle's precision."""
    vision = work.parts.vision(work.dtype)
    with torch.inference_mode(), in_float32(vision):
        return vision(**work.inputs('images'))


def _pruner(
    work: Work, graph: str, prefix: str, reference: ReconPruner, pruner: ReconPruner
) -> Facts:
    early = work.parts.early_vision()
    inputs = work.inputs(*_PRUNER_INPUTS, *([_EARLY] if early else []))
    with torch.inference_mode(), in_float32(reference) as reach:
        golden = _outputs(reference, inputs)
    work.golden.update({prefix + name: golden[name] for name in ('kept_indices', 'scores')})
    facts = Facts(work.tolerance)
    if work.precision != 'fp32':
        require_range(graph, work.precision, reach)
        with torch.inference_mode():
            found = _outputs(pruner, inputs)
        facts.roundings[graph] = rounding(graph, work.precision, golden, found)
    with timed(work.report, f'export {graph}'):
        export_graph(pruner, inputs, _PRUNER_OUTPUTS, _KEPT_DIMS, work.path(graph))
    facts.differences[graph] = _compared(work, graph, partial(check_pruner, pruner, early=early))
    return facts


def _integers(
    work: Work, facts: Facts, graph: str, module: Module,
    in_fp32: Callable[[Module], tuple[dict[str, np.ndarray], Any, Reach]],
    before: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Any, Reach]:
    """
    Give ``module`` integer weights and note what that costs; return its own ``in_fp32``.

    Engines are held against these outputs, not those ``before``: a mistake would hide in what
    integers cost. That has no limit: whoever asks for int4 asks for it, and one golden input says
    little about driving; `fastdrive evaluate` says it all.
    """
    with timed(work.report, f'{graph} with {work.weights} weights by torch in fp32') as says:
        quantise(module, work.weights)
        found = in_fp32(module)
        facts.costs[graph] = cost(module, work.weights, before, found[0])
        says(str(facts.costs[graph]))
    return found


def _outputs(pruner: ReconPruner, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return what decides a selection; kept tokens are the encoder's own."""
    _, indices, scores = pruner(*inputs.values())
    return {'kept_indices': indices.numpy(), 'scores': scores.numpy()}


def _compared(work: Work, graph: str, check: Callable[[Path, float], Difference]) -> Difference:
    with timed(work.report, f'compare {graph} with torch') as says:
        difference = check(work.path(graph), work.tolerance)
        says(f'relative {difference.relative_l2:.1e} (at most {work.tolerance:g})')
    return difference
