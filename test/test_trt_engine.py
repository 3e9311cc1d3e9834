# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
TensorRT: the real RTX builder and the real refusals without a GPU.

No GPU is needed, so ``run`` sees stand-ins (trt_stand_ins.py). They show that addresses, shapes
and types are handed over as the API wants them; they say nothing about a real GPU.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trt_stand_ins import StandInCudart
from trt_stand_ins import StandInMachine
from trt_stand_ins import StandInTensorRT

from fastdrive_ros.runtime import cuda_memory
from fastdrive_ros.runtime import load
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.cuda_lane import Lane
from fastdrive_ros.runtime.cuda_memory import Cuda
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine_cache import read_numerics
from fastdrive_ros.runtime.golden import Numbers
from fastdrive_ros.runtime.golden import check_golden
from fastdrive_ros.runtime.trt_build import build_engine_file
from fastdrive_ros.runtime.trt_build import import_tensorrt
from fastdrive_ros.runtime.trt_engine import TrtEngine
from fastdrive_ros.tools.build import _numerics

_GRAPHS = ('vision_encoder', 'recon_pruner', 'perception', 'planner')


@pytest.fixture(scope='module')
def rtx() -> Any:
    """Return the real TensorRT-RTX module."""
    return pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')


def _build(bundle: Bundle, graph: str, path: Path, **changes: Any) -> None:
    options = {'profile': bundle.profile(graph), 'compute_capability': 86, **changes}
    build_engine_file(bundle.graph_path(graph), path, 'tensorrt_rtx', **options)


@pytest.mark.usefixtures('rtx')
@pytest.mark.parametrize('graph', _GRAPHS)
def test_every_graph_of_the_contract_builds(
    tiny_bundle: Bundle, tmp_path: Path, graph: str
) -> None:
    path = tmp_path / 'graph.engine'
    _build(tiny_bundle, graph, path)
    assert path.stat().st_size > 10_000


@pytest.mark.usefixtures('rtx')
@pytest.mark.parametrize('graph', [
    'vision_attention', 'planner_embed', 'planner_layer_00', 'planner_output'])
def test_every_graph_for_rival_methods_builds(
    rival_bundle: Bundle, tmp_path: Path, graph: str
) -> None:
    path = tmp_path / 'graph.engine'
    _build(rival_bundle, graph, path)
    assert path.stat().st_size > 10_000


@pytest.mark.usefixtures('rtx')
def test_an_unknown_capability_names_the_known_ones(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match='builds for SM75, SM80, SM86.* found SM87.*Orin'):
        _build(tiny_bundle, 'planner', tmp_path / 'x.engine', compute_capability=87)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures('rtx')
def test_a_damaged_onnx_says_so(tmp_path: Path) -> None:
    (tmp_path / 'planner.onnx').write_bytes(b'not a graph')
    with pytest.raises(EngineError, match='tensorrt_rtx .* cannot parse .*planner.onnx'):
        build_engine_file(
            tmp_path / 'planner.onnx',
            tmp_path / 'x.engine',
            'tensorrt_rtx',
            profile={},
            compute_capability=86,
        )


@pytest.mark.usefixtures('rtx')
def test_more_tokens_than_topk_selects_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    expected = 'recon_pruner.onnx: TensorRT selects at most 3840 .*has 3841.*smaller --height'
    with pytest.raises(EngineError, match=expected):
        _build(tiny_bundle, 'recon_pruner', tmp_path / 'x.engine',
               profile={'num_kept_tokens': [[1], [1920], [3841]]})
    many = {name: [least, usual, [3841, *most[1:]]]
            for name, (least, usual, most) in tiny_bundle.profile('planner').items()}
    _build(tiny_bundle, 'planner', tmp_path / 'x.engine', profile=many)  # selects nothing


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'tensorrt', None)
    with pytest.raises(EngineError, match='tensorrt is not installed .*JetPack brings it'):
        import_tensorrt('tensorrt')


def test_a_runtime_without_builder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lean = types.ModuleType('tensorrt')
    monkeypatch.setattr(lean, '__version__', '10.3.0', raising=False)
    monkeypatch.setitem(__import__('sys').modules, 'tensorrt', lean)
    with pytest.raises(EngineError, match='tensorrt 10.3.0 has no builder'):
        import_tensorrt('tensorrt')


@pytest.mark.usefixtures('rtx')
def test_an_engine_that_does_not_open_is_an_error(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudart = StandInCudart()
    monkeypatch.setattr(cuda_memory, '_import_cuda', lambda: cudart)
    path = tmp_path / 'planner_tensorrt_rtx.engine'
    path.write_bytes(b'foreign')
    with pytest.raises(EngineError, match='cannot open .*`fastdrive build` on this machine'):
        TrtEngine(
            path,
            tiny_bundle.graph_specs('planner'),
            backend='tensorrt_rtx',
            largest={'K': 48},
            lane=Lane(Cuda()),
        )
    assert not cudart.held


@pytest.fixture(params=['int64', 'int32'])
def machine(
    request: pytest.FixtureRequest,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> StandInMachine:
    """Every graph as a TrtEngine over the stand-ins."""
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch, request.param)
    for graph in _GRAPHS:
        machine.load(graph)
    return machine


def test_run_over_stand_ins_reproduces_the_golden_outputs(
    tiny_bundle: Bundle, machine: StandInMachine
) -> None:
    assert max(check_golden(tiny_bundle, machine.engines).errors.values()) == 0.0
    assert machine.cudart.count('cudaStreamCreateWithFlags') == 1
    assert machine.cudart.count('cudaHostAlloc') <= 4  # once a direction; twice if one is larger
    for engine in machine.engines.values():
        assert machine.cudart.held
        engine.close()
        engine.close()
    assert not machine.cudart.held
    with pytest.raises(EngineError, match='planner was closed'):
        machine.engines['planner'].run({})


def test_kept_count_changes_from_run_to_run_over_stand_ins(machine: StandInMachine) -> None:
    tokens = np.random.default_rng(0).normal(size=(16, 48)).astype(np.float32).T  # not contiguous
    earlier = []
    for num_kept in (5, 48, 1):
        out = machine.engines['recon_pruner'].run({
            'visual_tokens': tokens,
            'camera_present': np.ones(6, bool),
            'num_kept_tokens': np.array(num_kept, np.int64),
        })
        assert out['kept_tokens'].shape == (num_kept, 16)
        assert out['kept_indices'].dtype == np.int64
        earlier.append(out)
    for out in earlier:  # the caller's own, whatever ran since
        np.testing.assert_array_equal(out['kept_tokens'], tokens[out['kept_indices']])
    machine.close()


def test_too_little_gpu_memory_is_said_before_it_is_taken(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    trt = StandInTensorRT(tiny_bundle.graph_path('planner'), 'int64', machine.cudart)
    for free, expected in (
            (1, r'planner needs 0.00 GB of GPU memory for its weights, found 0.00'),
            (2 * 10**7, r'planner needs 0.03 GB of GPU memory for its workspace and buffers')):
        machine.cudart.free, trt.device_memory_size = free, 3 * 10**7
        with pytest.raises(EngineError, match=expected):
            machine.load('planner', trt=trt)
    assert not machine.cudart.held


def test_what_was_taken_is_given_back_when_loading_fails(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    machine.cudart.pinned_left = 100
    with pytest.raises(EngineError, match=r'cudaHostAlloc failed: out of memory \(2\)'):
        machine.load('planner')
    assert not machine.cudart.held


def test_figures_stay_beside_the_engines_that_were_run(
    tiny_bundle: Bundle,
    machine: StandInMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also, and most of all, when they are why the engines are refused."""
    engines = machine.engines
    graphs = ('recon_pruner', 'planner')
    monkeypatch.setattr(load, '_loader', lambda *args: (engines.__getitem__, 'a GPU (sm87)'))
    assert read_numerics(engines['planner'].path) is None
    assert load.load_engines(tiny_bundle, backend='tensorrt', graphs=graphs).golden.passed
    found = read_numerics(engines['recon_pruner'].path)
    assert (found['passed'], found['kept_overlap'], found['device']) == (True, 1.0, 'a GPU (sm87)')
    assert set(found['outputs']) == {'scores', 'kept_tokens'}
    assert found['outputs']['scores'] == {
        'max_abs': 0.0, 'relative_l2': 0.0, 'cosine': pytest.approx(1.0)}
    assert _numerics('recon_pruner', engines['recon_pruner'].path)[0][0] == 'recon_pruner.scores'
    assert _numerics('planner', Path('/never/run.engine')) == [
        ('planner', 'not run here', '', '', '')]
    run = engines['planner'].run
    monkeypatch.setattr(engines['planner'], 'run', lambda feeds: {
        name: value + np.float32(0.5) for name, value in run(feeds).items()})
    with pytest.raises(EngineError, match='do not reproduce the golden outputs'):
        load.load_engines(tiny_bundle, backend='tensorrt', graphs=('planner',))
    found = read_numerics(engines['planner'].path)
    assert not found['passed']
    assert found['outputs']['waypoint_residuals']['max_abs'] == pytest.approx(0.5)


def test_numbers_of_an_output_by_hand() -> None:
    found = Numbers.of(np.array([3.0, 0.0]), np.array([3.0, 4.0]))
    assert (found.max_abs, found.relative_l2, found.cosine) == pytest.approx((4.0, 0.8, 0.6))
    zero = np.zeros(3, np.float32)
    assert Numbers.of(zero, zero) == Numbers(0.0, 0.0, 1.0)
