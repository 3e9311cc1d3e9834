# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures to kept tokens on real (tiny) graphs, by every pruning method."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import pytest

from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.perception import Perception
from fastdrive_ros.perception import perception_graphs
from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.golden_inputs import golden_images
from fastdrive_ros.runtime.load import load_engines

IMAGES = golden_images(6, 28, 56)
EVERYONE = np.ones(6, bool)
BUT_THE_THIRD = np.array([True, True, False, True, True, True])
THIRD = range(16, 24)
BEFORE = [method for method in METHODS if method not in INSIDE and method != 'none']

Make = Callable[..., Perception]


@pytest.fixture(scope='module')
def engines(rival_bundle: Bundle) -> Iterator[Mapping[str, Engine]]:
    graphs = ('vision_encoder', 'vision_attention', 'recon_pruner', 'plan_pruner')
    loaded = load_engines(rival_bundle, backend='onnxruntime', graphs=graphs, num_threads=1)
    yield loaded.engines
    for engine in loaded.engines.values():
        engine.close()


@pytest.fixture(scope='module')
def make(engines: Mapping[str, Engine]) -> Make:
    return lambda method, camera_floor=0.0: Perception(engines, method, 2, 4, camera_floor)


def test_a_method_needs_only_the_graphs_it_looks_at() -> None:
    assert perception_graphs('recon') == ('vision_encoder', 'recon_pruner')
    assert perception_graphs('plan') == ('vision_encoder', 'plan_pruner')
    assert perception_graphs('vispruner') == ('vision_attention',)
    assert perception_graphs('divprune') == perception_graphs('fastv') == ('vision_encoder',)


@pytest.mark.parametrize('method', METHODS)
def test_a_sight_holds_what_the_method_asked_for_and_no_more(make: Make, method: str) -> None:
    perception = make(method)
    sight = perception.encode(IMAGES, EVERYONE, 5)
    assert sight.tokens.shape == (48, 16) and sight.stamp_ns == 5
    looked_at = {need.removeprefix('plan_') for need in perception.needs}
    shapes = {'scores': (48,), 'attention': (48,), 'features': (48, 8)}
    for name, shape in shapes.items():
        value = getattr(sight, name)
        assert (value is not None) == (name in looked_at)
        assert value is None or value.shape == shape


@pytest.mark.parametrize('present', [EVERYONE, BUT_THE_THIRD])
def test_recon_keeps_what_the_graph_itself_would_keep(
        make: Make, engines: Mapping[str, Engine], present: np.ndarray) -> None:
    perception = make('recon')
    sight = perception.encode(IMAGES, present, 0)
    for num_kept in (1, 7, 40):
        kept = perception.prune(sight, num_kept)
        own = engines['recon_pruner'].run({
            'visual_tokens': sight.tokens, 'camera_present': present,
            'num_kept_tokens': np.array(num_kept)})
        np.testing.assert_array_equal(kept.indices, own['kept_indices'])
        np.testing.assert_array_equal(kept.tokens, own['kept_tokens'])
        np.testing.assert_array_equal(kept.scores, own['scores'])


def test_each_learned_method_asks_its_own_graph(make: Make, engines: Mapping[str, Engine]) -> None:
    asked = []

    class Counted(dict):
        def __getitem__(self, graph: str) -> Engine:
            asked.append(graph)
            return super().__getitem__(graph)

    for method in ('recon', 'plan'):
        Perception(Counted(engines), method, 2, 4).encode(IMAGES, EVERYONE, 0)
    assert asked == ['vision_encoder', 'recon_pruner', 'vision_encoder', 'plan_pruner']


@pytest.mark.parametrize('method', BEFORE)
def test_exactly_k_tokens_of_the_cameras_that_came(make: Make, method: str) -> None:
    perception = make(method)
    sight = perception.encode(IMAGES, BUT_THE_THIRD, 3)
    for num_kept in (1, 20, 40):
        kept = perception.prune(sight, num_kept)
        assert len(kept.indices) == num_kept and (np.diff(kept.indices) > 0).all()
        assert not np.isin(kept.indices, THIRD).any()
        np.testing.assert_array_equal(kept.tokens, sight.tokens[kept.indices])
        assert (kept.method, kept.num_tokens) == (method, 48)


@pytest.mark.parametrize('method', ['none', *INSIDE])
def test_who_does_not_prune_here_passes_on_all_that_came(make: Make, method: str) -> None:
    perception = make(method)
    kept = perception.prune(perception.encode(IMAGES, BUT_THE_THIRD, 0), 5)
    assert kept.indices.tolist() == [*range(16), *range(24, 48)]


@pytest.mark.parametrize('method', BEFORE)
def test_a_floor_of_one_gives_every_camera_as_much(make: Make, method: str) -> None:
    perception = make(method, camera_floor=1.0)
    kept = perception.prune(perception.encode(IMAGES, BUT_THE_THIRD, 0), 15)
    assert np.bincount(kept.indices // 8, minlength=6).tolist() == [3, 3, 0, 3, 3, 3]


def test_the_stages_are_timed_and_the_joined_graph_is_one_of_them(
        make: Make, rival_bundle: Bundle) -> None:
    batch, timer = CameraBatch(IMAGES, BUT_THE_THIRD), StageTimer()
    split = make('recon').perceive(batch, 0, 12, timer)
    assert set(timer.stage_ms) == {'encode', 'prune'}
    loaded = load_engines(rival_bundle, backend='onnxruntime', graphs=('perception',))
    timer = StageTimer()
    joined = Perception(loaded.engines, 'recon', 2, 4).perceive(batch, 0, 12, timer)
    loaded.engines['perception'].close()
    assert set(timer.stage_ms) == {'encode'}
    np.testing.assert_array_equal(joined.indices, split.indices)
    np.testing.assert_allclose(joined.tokens, split.tokens, rtol=1e-5)
    assert (joined.method, joined.num_tokens) == (split.method, split.num_tokens)
