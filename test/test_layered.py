# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The prefill layer by layer: whole it is the planner's, cut it is what the rows left would do."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import pytest
from tiny_rivals import NUM_LAYERS
from tiny_rivals import NUM_ROWS
from tiny_rivals import NUM_TEXT

from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners import make_planner
from fastdrive_ros.planners import planner_graphs
from fastdrive_ros.planners.layered import LayeredPlanner
from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.load import load_engines

Engines = Mapping[str, Engine]
# Rows of the tiny planner with all 48 tokens: 3 text, 48 visual, 4 ego, 6 queries.
ALL = np.arange(48)
EGO = EgoState(10**9, 'map', (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), 0.0, 5.0, 0.1, 0.0,
               golden_history(4))


@pytest.fixture(scope='module')
def engines(rival_bundle: Bundle) -> Iterator[Engines]:
    graphs = ('planner', *planner_graphs('fastv', rival_bundle.manifest['graphs']))
    loaded = load_engines(rival_bundle, backend='onnxruntime', graphs=graphs, num_threads=1)
    yield loaded.engines
    for engine in loaded.engines.values():
        engine.close()


def tokens(indices: np.ndarray = ALL) -> KeptTokens:
    drawn = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    return KeptTokens(drawn[indices], indices, method='test', num_tokens=48)


class CutOnce:
    """Cuts after one layer, and remembers what it was shown."""

    def __init__(self, after_layer: int, cut: Cut) -> None:
        self.layers: list[Layer] = []
        self._after_layer = after_layer
        self._cut = cut

    def begin(self, num_kept: int, stamp_ns: int) -> None:
        self.began = num_kept, stamp_ns

    def after(self, layer: Layer) -> Cut | None:
        self.layers.append(layer)
        return self._cut if layer.index == self._after_layer else None


class Noted:
    """An engine that remembers its feeds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.feeds: list[Mapping[str, np.ndarray]] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.feeds.append(feeds)
        return self._engine.run(feeds)


def plan_with(bundle: Bundle, engines: Engines, pruner: CutOnce,
              kept: KeptTokens) -> tuple[np.ndarray, np.ndarray]:
    """Return waypoints and the tokens that were left."""
    output = LayeredPlanner(bundle.planner, engines, pruner).plan(kept, EGO, 5)
    assert pruner.began == (5, EGO.stamp_ns)
    return output.waypoints, output.kept_indices


@pytest.mark.parametrize('method', INSIDE)
def test_everything_kept_is_the_plain_planner(
        rival_bundle: Bundle, engines: Engines, method: str) -> None:
    plain = make_planner(rival_bundle.manifest, rival_bundle.path, engines, 'none')
    layered = make_planner(rival_bundle.manifest, rival_bundle.path, engines, method)
    for kept in (tokens(), tokens(ALL[ALL % 8 != 3])):
        expected = plain.plan(kept, EGO, 48)
        found = layered.plan(kept, EGO, 48)
        np.testing.assert_allclose(found.waypoints, expected.waypoints, atol=1e-5)
        np.testing.assert_array_equal(found.kept_indices, kept.indices)
        assert expected.kept_indices is None and 'prefill' in found.stage_ms


@pytest.mark.parametrize('method', INSIDE)
def test_a_method_ends_with_exactly_k_and_plans_otherwise(
        rival_bundle: Bundle, engines: Engines, method: str) -> None:
    layered = make_planner(rival_bundle.manifest, rival_bundle.path, engines, method)
    whole = layered.plan(tokens(), EGO, 48).waypoints
    output = layered.plan(tokens(), EGO, 12)
    assert len(output.kept_indices) == 12
    assert (np.diff(output.kept_indices) > 0).all()
    assert np.abs(output.waypoints - whole).max() > 1e-4


def test_rows_that_were_cut_are_gone_from_the_next_layer_on(
        rival_bundle: Bundle, engines: Engines) -> None:
    pruner = CutOnce(1, Cut(np.array([0, 4, 47])))
    waypoints, left = plan_with(rival_bundle, engines, pruner, tokens())
    assert left.tolist() == [0, 4, 47]

    def run(graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return engines[graph].run(feeds)

    kept = tokens()
    out = run('planner_embed', kept_tokens=kept.tokens, kept_indices=kept.indices,
              ego_history=EGO.history)
    hidden, slots = out['hidden'], out['slots']
    for i in range(NUM_LAYERS):
        hidden = run(f'planner_layer_{i:02d}', hidden=hidden, slots=slots)['next_hidden']
        if i == 1:
            rows = [0, 1, 2, 3 + 0, 3 + 4, 3 + 47, *range(51, 61)]
            hidden, slots = hidden[rows], slots[rows]
    residuals = run('planner_output', hidden=hidden[-6:], ego_history=EGO.history)
    expected = extrapolate(EGO, 6, 0.5) + residuals['waypoint_residuals']
    np.testing.assert_allclose(waypoints, expected, atol=1e-6)


def test_a_merged_row_takes_the_place_it_was_given(
        rival_bundle: Bundle, engines: Engines) -> None:
    noted = Noted(engines['planner_layer_01'])
    merged = np.arange(16, dtype=np.float32)[None]
    pruner = CutOnce(0, Cut(np.array([2, 5]), merged, np.array([3])))
    _, left = plan_with(rival_bundle, {**engines, 'planner_layer_01': noted}, pruner, tokens())
    assert left.tolist() == [2, 3, 5]
    fed = noted.feeds[0]
    # Slots: text 0 and 1, tokens from 2 on, text 50, then 4 ego and 6 queries.
    assert fed['slots'].tolist() == [0, 1, 50, 4, 5, 7, *range(51, 61)]
    before = pruner.layers[0].hidden
    np.testing.assert_array_equal(fed['hidden'][3:6], [before[3 + 2], merged[0], before[3 + 5]])
    assert pruner.layers[1].visual_indices.tolist() == [2, 3, 5]


def test_what_a_method_is_shown(rival_bundle: Bundle, engines: Engines) -> None:
    indices = ALL[8:]                                    # the first camera is absent
    pruner = CutOnce(0, Cut(np.arange(0, 40, 2)))
    plan_with(rival_bundle, engines, pruner, tokens(indices))
    assert [(layer.index, layer.num_layers) for layer in pruner.layers] == [
        (i, NUM_LAYERS) for i in range(NUM_LAYERS)]
    first, second = pruner.layers[:2]
    assert first.text_rows.tolist() == [0, 1, 2]
    assert first.visual_rows.tolist() == list(range(3, 43))
    assert first.ego_rows.tolist() == [43, 44, 45, 46]
    assert first.query_rows.tolist() == list(range(47, 53))
    assert second.visual_rows.tolist() == list(range(3, 23))
    assert second.query_rows.tolist() == list(range(27, 33))
    np.testing.assert_array_equal(second.visual_indices, indices[::2])
    np.testing.assert_allclose(first.attention.sum(axis=1), 1.0, atol=1e-5)
    # Text before the pictures sees none of them, text after them sees all.
    assert (first.attention[0, first.visual_rows] == 0.0).all()
    assert (first.attention[2, first.visual_rows] > 0.0).all()
    embedded = engines['planner_embed'].run({
        'kept_tokens': tokens(indices).tokens, 'kept_indices': indices,
        'ego_history': EGO.history})['hidden']
    np.testing.assert_array_equal(second.text_embeddings, embedded[:NUM_TEXT])
    np.testing.assert_array_equal(second.embeddings[8:], embedded[NUM_TEXT:NUM_TEXT + 40])
    assert not second.embeddings[:8].any()


def test_the_graphs_of_a_method(rival_bundle: Bundle) -> None:
    assert rival_bundle.free_sizes('planner') == {'K': (1, 24, 48)}
    assert rival_bundle.free_sizes('planner_layer_00')['S'] == (1, 30, NUM_ROWS) == (1, 30, 61)
    assert rival_bundle.profile('planner')['kept_indices'] == [[1], [24], [48]]
    assert planner_graphs('recon', rival_bundle.manifest['graphs']) == ('planner',)
    assert planner_graphs('fastv', ['planner']) == (
        'planner_embed', 'planner_layer_00', 'planner_output')


def test_another_head_is_refused(rival_bundle: Bundle, engines: Engines) -> None:
    manifest = {**rival_bundle.manifest, 'planner': {'head': 'diffusion'}}
    with pytest.raises(EngineError, match="wants planner head 'diffusion', this version has"):
        make_planner(manifest, rival_bundle.path, engines, 'recon')
