# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime runs what the bundle declares and refuses the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.onnx_engine import OnnxEngine

Feeds = dict[str, np.ndarray]


@pytest.fixture
def load(tiny_bundle: Bundle) -> Callable[[str], OnnxEngine]:
    """Load a graph of the tiny bundle."""
    return lambda graph: OnnxEngine(
        tiny_bundle.graph_path(graph), tiny_bundle.graph_specs(graph), num_threads=1
    )


def _pruner_feeds(num_kept: int, absent: int | None = None) -> Feeds:
    tokens = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    present = np.ones(6, bool)
    if absent is not None:
        present[absent] = False
    return {
        'visual_tokens': tokens,
        'camera_present': present,
        'num_kept_tokens': np.array(num_kept, np.int64),
    }


@pytest.mark.parametrize('num_kept', [1, 12, 48])
def test_kept_count_is_chosen_run_by_run(
    load: Callable[[str], OnnxEngine], num_kept: int
) -> None:
    engine = load('recon_pruner')
    feeds = _pruner_feeds(num_kept)
    out = engine.run(feeds)
    best = np.sort(np.argsort(-out['scores'], kind='stable')[:num_kept])
    assert out['kept_indices'].tolist() == best.tolist()
    assert out['kept_indices'].dtype == np.int64
    np.testing.assert_array_equal(out['kept_tokens'], feeds['visual_tokens'][best])


def test_an_absent_camera_is_never_kept(load: Callable[[str], OnnxEngine]) -> None:
    out = load('recon_pruner').run(_pruner_feeds(40, absent=2))
    assert np.isneginf(out['scores'][16:24]).all()
    assert not set(out['kept_indices']) & set(range(16, 24))


def test_the_fused_graph_equals_its_parts(load: Callable[[str], OnnxEngine]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 28, 56, 3), np.uint8)
    selection = {k: v for k, v in _pruner_feeds(9).items() if k != 'visual_tokens'}
    encoded = load('vision_encoder').run({'images': images})
    parts = load('recon_pruner').run({**encoded, **selection})
    fused = load('perception').run({'images': images, **selection})
    assert set(fused) == set(parts)
    np.testing.assert_array_equal(fused['kept_indices'], parts['kept_indices'])
    np.testing.assert_allclose(fused['kept_tokens'], parts['kept_tokens'], rtol=1e-5)


def test_wrong_feeds_say_what_was_expected(load: Callable[[str], OnnxEngine]) -> None:
    engine = load('planner')
    good: Feeds = {
        'kept_tokens': np.zeros((5, 16), np.float32),
        'kept_indices': np.arange(5),
        'ego_history': np.zeros((4, 7), np.float32),
    }
    assert engine.run(good)['waypoint_residuals'].shape == (6, 3)
    with pytest.raises(EngineError, match=r"planner expected inputs .*, found \['kept_tokens'\]"):
        engine.run({'kept_tokens': good['kept_tokens']})
    with pytest.raises(EngineError, match='expected ego_history as float32, found float64'):
        engine.run({**good, 'ego_history': np.zeros((4, 7))})
    with pytest.raises(EngineError, match=r'ego_history of shape \[4, 7\], found \[3, 7\]'):
        engine.run({**good, 'ego_history': np.zeros((3, 7), np.float32)})
    with pytest.raises(EngineError, match=r'kept_indices of shape \[K\], found \[6\] where K=5'):
        engine.run({**good, 'kept_indices': np.arange(6)})
    with pytest.raises(EngineError, match=r'kept_tokens of shape \[K, 16\], found \[0, 16\]'):
        engine.run({**good, 'kept_tokens': np.zeros((0, 16), np.float32)})


def test_a_failed_run_is_an_engine_error(load: Callable[[str], OnnxEngine]) -> None:
    with pytest.raises(EngineError, match='recon_pruner failed in ONNX Runtime'):
        load('recon_pruner').run(_pruner_feeds(49))


def test_a_closed_engine_does_not_run(load: Callable[[str], OnnxEngine]) -> None:
    engine = load('recon_pruner')
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match='was closed'):
        engine.run(_pruner_feeds(1))


def test_a_damaged_graph_is_an_engine_error(tmp_path: Path) -> None:
    path = tmp_path / 'planner.onnx'
    path.write_bytes(b'not a graph')
    with pytest.raises(EngineError, match='cannot load'):
        OnnxEngine(path, ((), ()))


@pytest.mark.skipif(
    'CUDAExecutionProvider' in onnxruntime.get_available_providers(), reason='has CUDA'
)
def test_cuda_is_never_swapped_for_the_cpu(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match='expected CUDAExecutionProvider'):
        OnnxEngine(
            tiny_bundle.graph_path('planner'), tiny_bundle.graph_specs('planner'), device='cuda'
        )
