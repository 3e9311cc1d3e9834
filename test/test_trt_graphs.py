# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Runs replayed as CUDA graphs give what plain runs give, or are not replayed.

Over the stand-ins of trt_stand_ins.py; nothing here ran on a GPU.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trt_stand_ins import StandInCudart
from trt_stand_ins import StandInMachine
from trt_stand_ins import StandInTensorRT

from fastdrive_ros.assemble import rehearse
from fastdrive_ros.perception import Perception
from fastdrive_ros.planners import make_planner
from fastdrive_ros.runtime import cuda_memory
from fastdrive_ros.runtime import load
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.cuda_lane import Lane
from fastdrive_ros.runtime.cuda_memory import Cuda
from fastdrive_ros.runtime.engine import DeviceArray
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine_cache import read_numerics
from fastdrive_ros.runtime.onnx_engine import OnnxEngine
from fastdrive_ros.runtime.trt_graphs import MOST_GRAPHS

_FAULTS = {
    'refuses': 'recon_pruner failed in TensorRT',
    'waits': r'cudaStreamEndCapture failed: .*during capture \(901\)',
    'no memory': 'TensorRT cannot start recon_pruner: too little GPU memory',
    'nothing': 'a replayed run gave other values of .*kept_tokens',
    'old inputs': 'a replayed run gave other values of .*scores',
    'astray': 'a replayed run gave other values of .*kept_indices',
}

Feeds = dict[str, np.ndarray]


@pytest.fixture(params=['int64', 'int32'])
def machine(request: pytest.FixtureRequest, tiny_bundle: Bundle, tmp_path: Path,
            monkeypatch: pytest.MonkeyPatch) -> StandInMachine:
    """Return the pruner as a TrtEngine over the stand-ins."""
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch, request.param)
    machine.load('recon_pruner')
    return machine


@pytest.fixture
def expect(tiny_bundle: Bundle) -> Callable[[Feeds], Feeds]:
    """Return what runs the pruner's graph on ONNX Runtime."""
    return OnnxEngine(tiny_bundle.graph_path('recon_pruner'),
                      tiny_bundle.graph_specs('recon_pruner'), num_threads=1).run


def _feeds(num_kept: int, seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    return {'visual_tokens': rng.normal(size=(48, 16)).astype(np.float32),
            'camera_present': rng.random(6) < 0.9,
            'num_kept_tokens': np.array(num_kept, np.int64)}


def _same(found: Feeds, expected: Feeds) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_second_run_records_and_later_ones_are_one_launch(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine, cudart = machine.engines['recon_pruner'], machine.cudart
    outs = []
    for seed in range(6):  # other inputs every time
        feeds = _feeds(12, seed)
        launches = cudart.count('cudaGraphLaunch')
        outs.append((engine.run(feeds), expect(feeds)))
        assert engine.num_graphs == (seed > 0)
        assert cudart.count('cudaGraphLaunch') - launches == (0, 2, 1, 1, 1, 1)[seed]
    for found, expected in outs:  # and none of them was written over since
        _same(found, expected)
    assert cudart.count('cudaStreamBeginCapture') == 1
    assert machine.trt['recon_pruner'].contexts == 2
    assert not engine.trouble
    machine.close()


def test_another_k_is_another_graph_and_the_first_is_found_again(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine = machine.engines['recon_pruner']
    for seed, num_kept in enumerate((12, 12, 12, 7, 12, 7, 7, 12, 7, 48, 12)):
        feeds = _feeds(num_kept, seed)
        _same(engine.run(feeds), expect(feeds))
    assert engine.num_graphs == 2
    assert machine.cudart.count('cudaStreamBeginCapture') == 2
    machine.close()


def test_what_never_comes_twice_in_a_row_is_never_recorded(machine: StandInMachine) -> None:
    engine = machine.engines['recon_pruner']
    for seed in range(3):
        for num_kept in (4, 5, 6):
            engine.run(_feeds(num_kept, seed))
    assert engine.num_graphs == machine.cudart.count('cudaStreamBeginCapture') == 0


def test_many_keep_ratios_hold_few_graphs(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine = machine.engines['recon_pruner']
    ratios = range(1, MOST_GRAPHS + 4)
    for num_kept in (*ratios, 1, MOST_GRAPHS + 3):
        for seed in range(3):
            feeds = _feeds(num_kept, seed)
            _same(engine.run(feeds), expect(feeds))
    assert engine.num_graphs == len(machine.cudart.replays) == MOST_GRAPHS
    # 1 was dropped and recorded again, the last was still there.
    assert machine.cudart.count('cudaStreamBeginCapture') == len(ratios) + 1
    assert not machine.cudart.graphs
    machine.close()


def test_the_graph_not_used_for_longest_goes_first(machine: StandInMachine) -> None:
    engine = machine.engines['recon_pruner']
    for num_kept in (*range(1, MOST_GRAPHS + 1), 1, MOST_GRAPHS + 1):
        for seed in range(2):
            engine.run(_feeds(num_kept, seed))
    recorded = machine.cudart.count('cudaStreamBeginCapture')
    for seed in range(2):
        engine.run(_feeds(1, seed))
    assert machine.cudart.count('cudaStreamBeginCapture') == recorded == MOST_GRAPHS + 1
    for seed in range(2):
        engine.run(_feeds(2, seed))
    assert machine.cudart.count('cudaStreamBeginCapture') == recorded + 1


def test_k_as_a_shape_is_another_graph_too(
        machine: StandInMachine, tiny_bundle: Bundle) -> None:
    engine = machine.load('planner')
    plain = OnnxEngine(tiny_bundle.graph_path('planner'), tiny_bundle.graph_specs('planner'),
                       num_threads=1)
    rng = np.random.default_rng(0)
    (history,) = (spec.shape for spec in engine.input_specs if spec.name == 'ego_history')
    for num_kept in (12, 12, 12, 20, 20, 12, 20):
        feeds = {'kept_tokens': rng.normal(size=(num_kept, 16)).astype(np.float32),
                 'kept_indices': np.sort(rng.choice(48, num_kept, replace=False)),
                 'ego_history': rng.normal(size=history).astype(np.float32)}
        _same(engine.run(feeds), plain.run(feeds))
    assert engine.num_graphs == 2
    machine.close()


def test_a_failed_run_does_no_harm_to_the_next(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine, feeds = machine.engines['recon_pruner'], _feeds(12, 0)
    machine.trt['recon_pruner'].fault = 'fails'
    with pytest.raises(EngineError, match='recon_pruner failed in TensorRT'):
        engine.run(feeds)
    machine.load('vision_encoder')  # whose pictures want larger memory than is there
    machine.trt['recon_pruner'].fault = None
    _same(engine.run(feeds), expect(feeds))
    machine.close()


@pytest.mark.parametrize('fault', _FAULTS)
def test_a_graph_that_fails_is_given_up_aloud_and_no_value_is_wrong(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds], fault: str,
        caplog: pytest.LogCaptureFixture) -> None:
    engine = machine.engines['recon_pruner']
    for seed in range(2):
        engine.run(_feeds(48, seed))
    assert engine.num_graphs == 1
    machine.trt['recon_pruner'].fault = fault
    for seed, num_kept in enumerate((12, 12, 12, 5, 5, 48, 48)):
        feeds = _feeds(num_kept, seed)
        _same(engine.run(feeds), expect(feeds))
    assert engine.num_graphs == 0  # the good one went, too: what is in doubt does not drive
    assert re.search(
        f'^recon_pruner goes on without CUDA graphs: .*{_FAULTS[fault]}', engine.trouble)
    assert caplog.messages == [engine.trouble]
    assert machine.cudart.count('cudaStreamBeginCapture') == 2 - (fault == 'no memory')
    assert machine.cudart.recording is None
    machine.close()


def test_an_output_in_another_place_is_another_graph(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine, cuda = machine.engines['recon_pruner'], machine.lane.cuda
    address = cuda.call('cudaMalloc', 4096)
    places = {start: DeviceArray(address + start, (12, 16), np.dtype(np.float32))
              for start in (0, 1024, 8)}  # TensorRT cannot write to the last: it is copied there
    seed = 0
    for start in (0, 0, 1024, 0, 1024, 1024, 8, 8, 0, 8):
        seed += 1
        feeds, place = _feeds(12, seed), places[start]
        cuda.fill(address, 0, 4096, machine.lane.stream)
        found = engine.run(feeds, {'kept_tokens': place})
        assert found.pop('kept_tokens') is place
        there = np.empty((12, 16), np.float32)
        cuda.download(there, place.address, machine.lane.stream)
        _same({**found, 'kept_tokens': there}, expect(feeds))
    assert engine.num_graphs == 3
    wrong = DeviceArray(address, (11, 16), np.dtype(np.float32))
    for _ in range(2):
        with pytest.raises(EngineError, match=r'gives kept_tokens of shape \(12, 16\)'):
            engine.run(feeds, {'kept_tokens': wrong})
    _same(engine.run(feeds), expect(feeds))
    cuda.call('cudaFree', address)
    machine.close()


def test_an_input_from_another_place_is_another_graph(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine, cuda = machine.engines['recon_pruner'], machine.lane.cuda
    addresses = [cuda.call('cudaMalloc', 48 * 16 * 4) for _ in range(2)]
    for seed, which in enumerate((0, 0, 0, 1, 0, 1, 1, 1)):
        feeds = _feeds(12, seed)
        cuda.upload(addresses[which], feeds['visual_tokens'], machine.lane.stream)
        there = DeviceArray(addresses[which], (48, 16), np.dtype(np.float32))
        _same(engine.run({**feeds, 'visual_tokens': there}), expect(feeds))
    assert engine.num_graphs == 2
    assert not engine.trouble
    for address in addresses:
        cuda.call('cudaFree', address)
    machine.close()


def test_host_arrays_receive_what_they_are_given_for(
        machine: StandInMachine, expect: Callable[[Feeds], Feeds]) -> None:
    engine, rows = machine.engines['recon_pruner'], np.zeros((20, 16), np.float32)
    for seed in range(3):
        feeds = _feeds(12, seed)
        found = engine.run(feeds, {'kept_tokens': rows[4:16]})
        _same(found, expect(feeds))
        np.testing.assert_array_equal(rows[4:16], expect(feeds)['kept_tokens'])
    assert not rows[:4].any()
    assert not rows[16:].any()


def test_pageable_memory_cannot_be_recorded_and_the_stream_goes_on(
        monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = StandInCudart()
    monkeypatch.setattr(cuda_memory, '_import_cuda', lambda: cudart)
    cuda = Cuda()
    stream, address = cuda.stream(), cuda.call('cudaMalloc', 64)
    pinned, pageable = cuda.pinned(64), np.arange(64, dtype=np.uint8)
    with pytest.raises(EngineError, match='cudaMemcpyAsync failed: .*stream is capturing'):
        cuda.record(lambda: cuda.upload(address, pageable, stream), stream)
    with pytest.raises(KeyError):
        cuda.record(lambda: {}['nothing'], stream)
    graph = cuda.record(lambda: cuda.upload(address, pinned, stream), stream)
    pinned[:] = pageable[::-1]
    cuda.call('cudaGraphLaunch', graph, stream)
    back = np.empty(64, np.uint8)
    cuda.download(back, address, stream)
    np.testing.assert_array_equal(back, pageable[::-1])
    assert cudart.held == {'device': 1, 'pinned': 1, 'streams': 1, 'replays': 1}


def test_a_missing_driver_is_an_engine_error_in_every_cuda_python(
        monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise RuntimeError('Failed to dlopen libcuda.so.1')

    monkeypatch.setattr(cuda_memory, '_import_cuda',
                        lambda: types.SimpleNamespace(cudaGetDeviceCount=no_driver))
    with pytest.raises(EngineError, match='cudaGetDeviceCount failed: .*libcuda.*installed'):
        Cuda()


def _loaded(machine: StandInMachine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch,
            fault: str | None = None) -> load.LoadedEngines:
    def opened(graph: str) -> Any:
        engine = machine.load(graph)
        machine.trt[graph].fault = fault if graph == 'planner' else None
        return engine

    monkeypatch.setattr(load, '_loader', lambda *args: (opened, 'a GPU (sm87)'))
    return load.load_engines(bundle, backend='tensorrt',
                             graphs=('vision_encoder', 'recon_pruner', 'planner'))


def test_loading_checks_the_golden_outputs_of_replayed_runs(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    loaded = _loaded(machine, tiny_bundle, monkeypatch)
    assert max(loaded.golden.errors.values()) == 0.0
    assert [engine.num_graphs for engine in loaded.engines.values()] == [1, 1, 1]
    assert machine.cudart.count('cudaGraphLaunch') == 9  # each: proven, replayed, replayed again
    assert loaded.reason == 'tensorrt, asked for by name.'
    machine.close()


@pytest.mark.parametrize('fault', ['nothing', 'old inputs'])
def test_loading_says_which_engine_goes_without_graphs(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Also of one that replays old inputs, though golden inputs are the same every time."""
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    loaded = _loaded(machine, tiny_bundle, monkeypatch, fault)
    assert max(loaded.golden.errors.values()) == 0.0
    assert [engine.num_graphs for engine in loaded.engines.values()] == [1, 1, 0]
    assert loaded.trouble == (
        'planner goes on without CUDA graphs: a replayed run gave other values of '
        'waypoint_residuals than a plain one on the same inputs')
    machine.close()


def test_what_drives_is_recorded_before_it_drives(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    loaded = _loaded(machine, tiny_bundle, monkeypatch)
    perception = Perception(loaded.engines, 'recon', tiny_bundle.grid_height,
                            tiny_bundle.grid_width)
    planner = make_planner(tiny_bundle.manifest, tiny_bundle.path, loaded.engines, 'recon')
    rehearse(tiny_bundle, perception, planner, 20)
    # The pruner scores with K = 1 when driving, the planner has the K of keep_ratio.
    assert [engine.num_graphs for engine in loaded.engines.values()] == [1, 2, 2]
    recorded = machine.cudart.count('cudaStreamBeginCapture')
    rehearse(tiny_bundle, perception, planner, 20)
    assert machine.cudart.count('cudaStreamBeginCapture') == recorded
    assert loaded.trouble == ''
    machine.close()


def test_closing_goes_on_behind_what_fails(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    loaded = _loaded(machine, tiny_bundle, monkeypatch)
    broken = EngineError('CUDA cudaStreamSynchronize failed: an illegal address')

    def fails(self: Lane) -> None:
        raise broken

    monkeypatch.setattr(Lane, 'wait', fails)
    for engine in loaded.engines.values():
        with pytest.raises(EngineError, match='an illegal address'):
            engine.close()
        engine.close()      # twice is harmless
    assert not machine.cudart.held


def test_replays_that_go_wrong_after_their_proof_are_refused_at_start(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    with pytest.raises(EngineError, match='planner.waypoint_residuals .*do not reproduce|'
                                          'do not reproduce .*planner.waypoint_residuals'):
        _loaded(machine, tiny_bundle, monkeypatch, 'worse and worse')
    assert not machine.cudart.held
    assert not read_numerics(machine.engines['planner'].path)['passed']


def test_tensorrt_rtx_records_by_itself_where_no_value_is_on_the_host(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rtx(StandInTensorRT):
        CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE='whole')
        config: Any = None

        def create_runtime_config(self) -> Any:
            return types.SimpleNamespace()

        def create_execution_context(self, strategy: Any = None) -> Any:
            self.config = strategy
            return super().create_execution_context(strategy)

    machine = StandInMachine(tiny_bundle, tmp_path, monkeypatch)
    for graph in ('vision_encoder', 'planner', 'recon_pruner'):
        trt = Rtx(tiny_bundle.graph_path(graph), 'int64', machine.cudart)
        machine.load(graph, 'tensorrt_rtx', trt)
        assert trt.contexts == 1
    assert [getattr(machine.trt[graph].config, 'cuda_graph_strategy', None)
            for graph in machine.trt] == ['whole', 'whole', None]
    for seed in range(3):
        machine.engines['recon_pruner'].run(_feeds(12, seed))
    assert machine.cudart.count('cudaStreamBeginCapture') == 0
    machine.close()


def test_the_names_used_of_tensorrt_rtx_are_there() -> None:
    trt = pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert trt.IRuntimeConfig.cuda_graph_strategy.fset
    for name in ('set_device_memory', 'infer_shapes', 'set_tensor_address', 'execute_async_v3'):
        assert hasattr(trt.IExecutionContext, name), name
    assert hasattr(trt.ICudaEngine, 'create_runtime_config')
