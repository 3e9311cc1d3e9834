# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
TensorRT: the real RTX builder and the real refusals without a GPU.

No GPU is needed, so ``run`` sees stand-ins: StandInCuda keeps "device memory" in this process and
StandInTensorRT answers the calls of a context by running the ONNX graph. They show that addresses,
shapes and types are handed over as the API wants them; they say nothing about a real GPU.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fastdrive_ros.runtime import load
from fastdrive_ros.runtime import trt_engine
from fastdrive_ros.runtime.bundle import Bundle
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


def test_an_engine_that_does_not_open_is_an_error(
    tiny_bundle: Bundle, tmp_path: Path, rtx: Any
) -> None:
    path = tmp_path / 'planner_tensorrt_rtx.engine'
    path.write_bytes(b'foreign')
    with pytest.raises(EngineError, match='cannot open .*`fastdrive build` on this machine'):
        TrtEngine(
            path,
            tiny_bundle.graph_specs('planner'),
            backend='tensorrt_rtx',
            largest={'K': 48},
            cuda=StandInCuda(),  # type: ignore[arg-type]
        )


class StandInCuda:
    """Device memory that is host memory: the calls TrtEngine makes of Cuda, checked."""

    def __init__(self) -> None:
        self.allocated: dict[int, Any] = {}
        self.stream_open = False
        self.free = 10**9
        self.sent_bytes = 0

    def free_bytes(self) -> int:
        return self.free

    def call(self, function: str, *args: Any) -> Any:
        if function == 'cudaMalloc':
            memory = ctypes.create_string_buffer(args[0])
            self.allocated[ctypes.addressof(memory)] = memory
            return ctypes.addressof(memory)
        if function == 'cudaFree':
            del self.allocated[args[0]]
        elif function == 'cudaStreamCreate':
            self.stream_open = True
            return 77
        elif function == 'cudaStreamDestroy':
            self.stream_open = False
        else:
            assert function == 'cudaStreamSynchronize'
        return None

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.flags.c_contiguous
        assert array.nbytes <= len(self.allocated[address])
        self.sent_bytes += array.nbytes
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy(self, target: int, source: int, num_bytes: int, stream: int) -> None:
        ctypes.memmove(target, source, num_bytes)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.nbytes <= len(self.allocated[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)


class StandInTensorRT:
    """TensorRT's module, engine and context in one; computes with ONNX Runtime."""

    __version__ = '0.0'
    TensorLocation = types.SimpleNamespace(HOST='host', DEVICE='device')

    def __init__(self, onnx_path: Path, int64_as: str) -> None:
        self._session = onnxruntime.InferenceSession(onnx_path)
        self._int64_as = int64_as
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = {value.name: value for value in self._session.get_outputs()}
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.num_io_tensors = len(self._inputs) + len(self._outputs)

    def Runtime(self, log: Any) -> StandInTensorRT:  # noqa: N802 (TensorRT's name)
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> StandInTensorRT:
        return self

    device_memory_size = 10**6

    def create_execution_context(self) -> StandInTensorRT:
        return self

    def nptype(self, dtype: str) -> type:
        return np.dtype(dtype).type

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_location(self, name: str) -> str:
        return 'host' if name == 'num_kept_tokens' else 'device'

    def get_tensor_dtype(self, name: str) -> str:
        kind = {**self._inputs, **self._outputs}[name].type
        names = {'tensor(float)': 'float32', 'tensor(int64)': self._int64_as,
                 'tensor(bool)': 'bool', 'tensor(uint8)': 'uint8'}
        return names[kind]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return max(shape) <= 10_000

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = {dim: size for given, shape in self._shapes.items()
                 for dim, size in zip(self._inputs[given].shape, shape) if isinstance(dim, str)}
        if 'num_kept_tokens' in self._addresses:
            sizes['K'] = int(self._read('num_kept_tokens', ()))
        return tuple(sizes.get(dim, dim) for dim in self._outputs[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {name: self._read(name, self._shapes.get(name, ())) for name in self._inputs}
        for name, array in zip(self._outputs, self._session.run(None, feeds), strict=True):
            array = array.astype(self.get_tensor_dtype(name))
            ctypes.memmove(self._addresses[name], array.ctypes.data, array.nbytes)
        return True

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(self.get_tensor_dtype(name))
        count = int(np.prod(shape))
        data = ctypes.string_at(self._addresses[name], count * dtype.itemsize)
        array = np.frombuffer(data, dtype).reshape(shape)
        return array.astype('int64') if dtype == np.int32 else array


@pytest.fixture(params=['int64', 'int32'])
def stand_ins(
    request: pytest.FixtureRequest,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[dict[str, TrtEngine], StandInCuda]]:
    """Every graph as a TrtEngine over the stand-ins."""
    cuda = StandInCuda()
    engines = {}
    monkeypatch.setattr(trt_engine, 'make_logger', lambda trt: types.SimpleNamespace(errors=[]))
    for graph in _GRAPHS:
        trt = StandInTensorRT(tiny_bundle.graph_path(graph), request.param)
        monkeypatch.setattr(trt_engine, 'import_tensorrt', lambda backend, trt=trt: trt)
        path = tmp_path / f'{graph}_tensorrt.engine'
        path.write_bytes(b'an engine')
        engines[graph] = TrtEngine(
            path,
            tiny_bundle.graph_specs(graph),
            backend='tensorrt',
            largest={'K': 48},
            cuda=cuda,  # type: ignore[arg-type]
        )
    yield engines, cuda


def test_run_over_stand_ins_reproduces_the_golden_outputs(
    tiny_bundle: Bundle, stand_ins: tuple[dict[str, TrtEngine], StandInCuda]
) -> None:
    engines, cuda = stand_ins
    assert max(check_golden(tiny_bundle, engines).errors.values()) == 0.0
    for engine in engines.values():
        engine.close()
        engine.close()
    assert not cuda.allocated
    assert not cuda.stream_open
    with pytest.raises(EngineError, match='planner was closed'):
        engines['planner'].run({})


def test_kept_count_changes_from_run_to_run_over_stand_ins(
    stand_ins: tuple[dict[str, TrtEngine], StandInCuda],
) -> None:
    engines, _ = stand_ins
    tokens = np.random.default_rng(0).normal(size=(16, 48)).astype(np.float32).T  # not contiguous
    for num_kept in (5, 48, 1):
        out = engines['recon_pruner'].run({
            'visual_tokens': tokens,
            'camera_present': np.ones(6, bool),
            'num_kept_tokens': np.array(num_kept, np.int64),
        })
        assert out['kept_tokens'].shape == (num_kept, 16)
        assert out['kept_indices'].dtype == np.int64
        np.testing.assert_array_equal(out['kept_tokens'], tokens[out['kept_indices']])


def test_too_little_gpu_memory_is_said_before_it_is_taken(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = StandInTensorRT(tiny_bundle.graph_path('planner'), 'int64')
    monkeypatch.setattr(trt_engine, 'make_logger', lambda trt: types.SimpleNamespace(errors=[]))
    monkeypatch.setattr(trt_engine, 'import_tensorrt', lambda backend: trt)
    path = tmp_path / 'planner_tensorrt.engine'
    path.write_bytes(bytes(2 * 10**7))
    cuda = StandInCuda()
    for free, what in ((10**7, r'planner needs 0.02 GB of GPU memory for its weights, found 0.01'),
                       (2 * 10**7, '')):
        cuda.free, trt.device_memory_size = free, 3 * 10**7
        expected = what or r'planner needs 0.03 GB of GPU memory for its workspace and buffers'
        with pytest.raises(EngineError, match=expected):
            TrtEngine(path, tiny_bundle.graph_specs('planner'), backend='tensorrt',
                      largest={'K': 48}, cuda=cuda)  # type: ignore[arg-type]
    assert not cuda.allocated


def test_figures_stay_beside_the_engines_that_were_run(
    tiny_bundle: Bundle,
    stand_ins: tuple[dict[str, TrtEngine], StandInCuda],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also, and most of all, when they are why the engines are refused."""
    engines, _ = stand_ins
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
