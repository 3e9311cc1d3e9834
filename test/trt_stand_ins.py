# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Stand-ins for the CUDA runtime (as cuda-python has it) and for TensorRT, for machines without GPU.

They keep the rules that our code must keep, and break what breaks them: work queued on a stream is
done when somebody waits for it and not before; while a stream records, nothing runs, waiting or
allocating spoils the recording, and so does memory that is not pinned; a graph replays the
addresses and shapes it was recorded with, and is undefined once its context was touched; a context
must run once after new shapes before it is recorded. They say nothing about a real GPU.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fastdrive_ros.runtime import cuda_memory
from fastdrive_ros.runtime import trt_engine
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.cuda_lane import Lane
from fastdrive_ros.runtime.cuda_memory import Cuda
from fastdrive_ros.runtime.trt_engine import TrtEngine

_ALIGNMENT = 256
_WORDS = {2: b'out of memory', 400: b'invalid resource handle',
          900: b'operation not permitted when stream is capturing',
          901: b'operation failed due to a previous error during capture'}


class StandInCudart:
    """cuda.bindings.runtime with "device memory" in this process."""

    cudaMemcpyKind = types.SimpleNamespace(  # noqa: N815 (CUDA's names)
        cudaMemcpyHostToDevice='up', cudaMemcpyDeviceToHost='down', cudaMemcpyDeviceToDevice='on')
    cudaStreamCaptureMode = types.SimpleNamespace(  # noqa: N815
        cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self) -> None:
        self.free = 10**9
        self.pinned_left = 10**9
        self.sent_bytes = 0
        self.calls: list[str] = []
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.replays: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.spoiled = False
        self._names = iter(range(1000, 10**6))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith('cuda') and name[4:5].isupper():
            object.__getattribute__(self, 'calls').append(name)
        return object.__getattribute__(self, name)

    @property
    def held(self) -> dict[str, int]:
        """How much of each kind was not given back."""
        kinds = ('device', 'pinned', 'streams', 'graphs', 'replays')
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    def count(self, call: str) -> int:
        """How often a function was called."""
        return self.calls.count(call)

    def queue(self, work: Callable[[], None], stream: int) -> None:
        """Take work for a stream: to do later, or to record."""
        (self.streams[stream] if self.recording is None else self.recording).append(work)

    def is_device(self, address: int, num_bytes: int) -> bool:
        """Whether all of these bytes are device memory of one allocation."""
        return self._within(self.device, address, num_bytes)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, _WORDS[error]

    def cudaGetLastError(self) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return 0, 1

    def cudaSetDevice(self, device: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:  # noqa: N802
        return 0, types.SimpleNamespace(name=b'Stand-in', major=8, minor=7)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:  # noqa: N802
        return 0, self.free, 10**9

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        return self._allocate(self.device, size)

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        return self._release(self.device, address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int | None]:  # noqa: N802
        if size > self.pinned_left:
            return 2, None
        return self._allocate(self.pinned, size)

    def cudaFreeHost(self, address: int) -> tuple[int]:  # noqa: N802
        assert not any(self.streams.values()), 'copies may still be under way'
        return self._release(self.pinned, address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        self.streams[name := next(self._names)] = []
        return 0, name

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        assert not self.streams.pop(stream), 'destroyed with work left'
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        if self.recording is not None:
            self.spoiled = True
            return (900,)
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str,  # noqa: N802
                        stream: int) -> tuple[int]:
        host = {'up': source, 'down': target}.get(kind)
        assert kind == 'down' or self.is_device(target, size)
        assert kind == 'up' or self.is_device(source, size)
        if kind == 'up':
            self.sent_bytes += size
        if host is None or self._within(self.pinned, host, size):
            self.queue(lambda: ctypes.memmove(target, source, size), stream)
        elif self.recording is not None:
            self.spoiled = True
            return (900,)
        elif kind == 'up':  # the driver takes its copy at once
            data = ctypes.string_at(source, size)
            self.queue(lambda: ctypes.memmove(target, data, size), stream)
        else:
            self.queue(lambda: ctypes.memmove(target, source, size), stream)
            self.cudaStreamSynchronize(stream)
        return (0,)

    def cudaMemsetAsync(self, address: int, value: int, size: int,  # noqa: N802
                        stream: int) -> tuple[int]:
        assert self.is_device(address, size)
        self.queue(lambda: ctypes.memset(address, value, size), stream)
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: N802
        assert self.recording is None
        assert stream in self.streams
        assert mode == 1
        self.recording, self.spoiled = [], False
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:  # noqa: N802
        assert self.recording is not None
        recorded, self.recording = self.recording, None
        if self.spoiled:
            return 901, None
        self.graphs[name := next(self._names)] = recorded
        return 0, name

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:  # noqa: N802
        self.replays[name := next(self._names)] = self.graphs[graph]
        return 0, name

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:  # noqa: N802
        del self.graphs[graph]
        return (0,)

    def cudaGraphLaunch(self, replay: int, stream: int) -> tuple[int]:  # noqa: N802
        if replay not in self.replays:
            return (400,)
        for step in self.replays[replay]:
            self.queue(step, stream)
        return (0,)

    def cudaGraphExecDestroy(self, replay: int) -> tuple[int]:  # noqa: N802
        del self.replays[replay]
        return (0,)

    def _allocate(self, where: dict[int, Any], size: int) -> tuple[int, int | None]:
        if self.recording is not None:
            self.spoiled = True
            return 900, None
        memory = ctypes.create_string_buffer(size + _ALIGNMENT)
        address = ctypes.addressof(memory)
        address += -address % _ALIGNMENT
        where[address] = (memory, size)
        return 0, address

    def _release(self, where: dict[int, Any], address: int) -> tuple[int]:
        del where[address]
        return (0,)

    @staticmethod
    def _within(where: dict[int, Any], address: int, num_bytes: int) -> bool:
        return any(start <= address and address + num_bytes <= start + size
                   for start, (_, size) in where.items())


class StandInTensorRT:
    """TensorRT's module and engine in one; computes with ONNX Runtime."""

    __version__ = '0.0'
    TensorLocation = types.SimpleNamespace(HOST='host', DEVICE='device')
    ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED='ours')
    device_memory_size = 10**6

    def __init__(self, onnx_path: Path, int64_as: str, cudart: StandInCudart) -> None:
        self.cudart = cudart
        self.fault: str | None = None
        """What goes wrong when runs are recorded, see StandInContext."""
        self.contexts = 0
        self.session = onnxruntime.InferenceSession(onnx_path)
        self.int64_as = int64_as
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def Runtime(self, log: Any) -> StandInTensorRT:  # noqa: N802 (TensorRT's name)
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> StandInTensorRT:
        return self

    def create_execution_context(self, strategy: Any = None) -> StandInContext | None:
        self.contexts += 1
        if self.fault == 'no memory' and self.contexts > 1:
            return None
        return StandInContext(self, strategy)

    def nptype(self, dtype: str) -> type:
        return np.dtype(dtype).type

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_location(self, name: str) -> str:
        return 'host' if name == 'num_kept_tokens' else 'device'

    def get_tensor_dtype(self, name: str) -> str:
        kind = {**self.inputs, **self.outputs}[name].type
        names = {'tensor(float)': 'float32', 'tensor(int64)': self.int64_as,
                 'tensor(bool)': 'bool', 'tensor(uint8)': 'uint8'}
        return names[kind]


class StandInContext:
    """
    An execution context.

    Of the engine's ``fault``, while it is recorded: 'refuses' returns False; 'waits' waits for the
    stream; 'nothing' records nothing; 'old inputs' records the inputs' values; 'astray' writes its
    outputs elsewhere; 'worse and worse' is right twice. With 'fails' no run can be queued at all.
    """

    def __init__(self, engine: StandInTensorRT, strategy: Any) -> None:
        self._engine = engine
        self._needs_memory = strategy == 'ours'
        self._memory: tuple[int, int] | None = None
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._touched = 0
        self._settled = -1

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == self._engine.device_memory_size
        assert self._engine.cudart.is_device(address, size)
        self._memory = address, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._touched += 1
        self._shapes[name] = shape
        return max(shape, default=0) <= 10_000

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._touched += 1
        self._addresses[name] = address
        return address % _ALIGNMENT == 0

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.inputs if name not in self._addresses]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = {dim: size for given, shape in self._shapes.items()
                 for dim, size in zip(self._engine.inputs[given].shape, shape, strict=True)
                 if isinstance(dim, str)}
        if 'num_kept_tokens' in self._addresses:
            sizes['K'] = int(self._read('num_kept_tokens', ()))
        return tuple(sizes.get(dim, dim) for dim in self._engine.outputs[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        cudart, fault = self._engine.cudart, self._engine.fault
        if self._needs_memory and not self._memory or fault == 'fails':
            return False
        if cudart.recording is None:
            self._settled = self._touched
            cudart.queue(self._work(), stream)
            return True
        if self._settled != self._touched:  # would record, or spoil, what it has put off
            return False
        if fault == 'waits':
            cudart.cudaStreamSynchronize(stream)
        if fault != 'nothing':
            cudart.queue(self._recorded_work(fault), stream)
        return fault != 'refuses'

    def _recorded_work(self, fault: str | None) -> Callable[[], None]:
        touched = self._touched
        work = self._work(frozen=fault == 'old inputs')
        addresses = {name: self._addresses[name] for name in self._engine.outputs}
        runs = iter(range(10**6))

        def replayed() -> None:
            if fault == 'astray':
                return
            work()
            if self._touched != touched or fault == 'worse and worse' and next(runs) > 1:
                for address in addresses.values():
                    ctypes.memset(address, 0x7f, 4)

        return replayed

    def _work(self, frozen: bool = False) -> Callable[[], None]:
        """Return one run on the shapes, host values and addresses of now."""
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        now = {name: self._read(name, shapes.get(name, ())) for name in self._engine.inputs
               if frozen or self._engine.get_tensor_location(name) == 'host'}

        def work() -> None:
            feeds = {name: now[name] if name in now
                     else self._read(name, shapes.get(name, ()), addresses)
                     for name in self._engine.inputs}
            found = self._engine.session.run(None, feeds)
            for name, array in zip(self._engine.outputs, found, strict=True):
                array = array.astype(self._engine.get_tensor_dtype(name))
                assert self._engine.cudart.is_device(addresses[name], array.nbytes)
                ctypes.memmove(addresses[name], array.ctypes.data, array.nbytes)

        return work

    def _read(self, name: str, shape: tuple[int, ...],
              addresses: dict[str, int] | None = None) -> np.ndarray:
        dtype = np.dtype(self._engine.get_tensor_dtype(name))
        address = (addresses or self._addresses)[name]
        data = ctypes.string_at(address, int(np.prod(shape)) * dtype.itemsize)
        array = np.frombuffer(data, dtype).reshape(shape)
        return array.astype('int64') if dtype == np.int32 else array


class StandInMachine:
    """Engines of a bundle over the stand-ins, all on one lane."""

    def __init__(self, bundle: Bundle, folder: Path, patch: pytest.MonkeyPatch,
                 int64_as: str = 'int64') -> None:
        self.cudart = StandInCudart()
        patch.setattr(cuda_memory, '_import_cuda', lambda: self.cudart)
        patch.setattr(trt_engine, 'make_logger', lambda trt: types.SimpleNamespace(errors=[]))
        self.lane = Lane(Cuda())
        self.trt: dict[str, StandInTensorRT] = {}
        self.engines: dict[str, TrtEngine] = {}
        self._bundle, self._folder, self._patch = bundle, folder, patch
        self._int64_as = int64_as

    def load(self, graph: str, backend: str = 'tensorrt', trt: Any = None) -> TrtEngine:
        """Load a graph's engine."""
        trt = trt or StandInTensorRT(self._bundle.graph_path(graph), self._int64_as, self.cudart)
        self._patch.setattr(trt_engine, 'import_tensorrt', lambda backend: trt)
        path = self._folder / f'{graph}_{backend}.engine'
        path.write_bytes(b'an engine')
        self.trt[graph] = trt
        self.engines[graph] = TrtEngine(
            path, self._bundle.graph_specs(graph), backend=backend, lane=self.lane,
            largest={name: size.most for name, size in self._bundle.free_sizes(graph).items()})
        return self.engines[graph]

    def close(self) -> None:
        """Close every engine; nothing may be left of them."""
        for engine in self.engines.values():
            engine.close()
        assert not self.cudart.held
