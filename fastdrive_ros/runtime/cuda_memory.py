# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The CUDA runtime through NVIDIA's cuda-python: all that TensorRT needs, without torch.

What was run: the import; every function, with arguments as here, on cuda-bindings 12.9 and 13.0 as
far as their "no driver" (of cuda-python 12.6 only the signatures were compared); the order of the
calls on a stand-in (test/trt_stand_ins.py). What was not: any of it on a GPU.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.runtime.engine import EngineError

# cuda-python >= 12.8 and 13, then the name it had before (JetPack 6 ships CUDA 12.6).
_MODULES = ('cuda.bindings.runtime', 'cuda.cudart')


@dataclass(frozen=True)
class CudaDevice:
    """The GPU that engines are built for and run on."""

    name: str
    compute_capability: int
    """Major * 10 + minor: 86 for Ampere desktop cards, 87 for Orin."""


class Cuda:
    """The CUDA runtime with errors as EngineError; device 0, which the caller's thread owns."""

    def __init__(self) -> None:
        """Load cuda-python and find a GPU."""
        self._api = _import_cuda()
        count = self.call('cudaGetDeviceCount')
        if count < 1:
            raise EngineError('expected an NVIDIA GPU, found none.')
        self.call('cudaSetDevice', 0)

    def call(self, function: str, *args: Any) -> Any:
        """Call a CUDA runtime function; return its one result, or None when it has none."""
        try:
            error, *results = getattr(self._api, function)(*args)
        except RuntimeError as failure:  # cuda-python 12.6 where there is no driver at all
            raise EngineError(f'CUDA {function} failed: {failure}. Is the driver installed? '
                              'nvidia-smi should name the GPU.') from failure
        if int(error) != 0:
            _, words = self._api.cudaGetErrorString(error)
            raise EngineError(
                f'CUDA {function} failed: {words.decode()} ({int(error)}). Check the GPU and its '
                'driver with nvidia-smi (Jetson: tegrastats).'
            )
        return results[0] if results else None

    def device(self) -> CudaDevice:
        """Return what device 0 is."""
        properties = self.call('cudaGetDeviceProperties', 0)
        name = properties.name
        return CudaDevice(
            name.decode().rstrip('\0') if isinstance(name, bytes) else name,
            properties.major * 10 + properties.minor,
        )

    def free_bytes(self) -> int:
        """Return how much memory of device 0 nobody uses now."""
        return self.call('cudaMemGetInfo')  # (free, total)

    def stream(self) -> Any:
        """
        Return a new stream.

        It does not wait for the default stream: another thread's work there would spoil what is
        being recorded here.
        """
        return self.call('cudaStreamCreateWithFlags', self._api.cudaStreamNonBlocking)

    def pinned(self, num_bytes: int) -> np.ndarray:
        """
        Return uint8 (num_bytes,) of page-locked memory; ``free_pinned`` it.

        The GPU copies from and to it by itself; of other memory the driver makes a copy first.
        """
        address = self.call('cudaHostAlloc', num_bytes, self._api.cudaHostAllocDefault)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(int(address)))

    def free_pinned(self, memory: np.ndarray) -> None:
        """Give ``pinned`` memory back; nobody may look at it afterwards."""
        self.call('cudaFreeHost', memory.ctypes.data)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Queue host to device; ``array`` must be contiguous and live until the stream is done."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call('cudaMemcpyAsync', address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Queue device to host; ``array`` is filled when the stream is done."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call('cudaMemcpyAsync', array.ctypes.data, address, array.nbytes, kind, stream)

    def copy(self, target: int, source: int, num_bytes: int, stream: Any) -> None:
        """Queue device to device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call('cudaMemcpyAsync', target, source, num_bytes, kind, stream)

    def fill(self, address: int, value: int, num_bytes: int, stream: Any) -> None:
        """Queue setting every byte of device memory to ``value``."""
        self.call('cudaMemsetAsync', address, value, num_bytes, stream)

    def record(self, work: Callable[[], None], stream: Any) -> Any:
        """
        Return what ``work`` queues on ``stream`` as a graph for cudaGraphLaunch; nothing runs.

        Destroy it with cudaGraphExecDestroy. Where ``work`` fails or cannot be recorded the
        stream is as before and EngineError, or what ``work`` raised, says why.
        """
        # Of this thread only: what another one allocates meanwhile does no harm.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call('cudaStreamBeginCapture', stream, mode)
        try:
            work()
        except BaseException:
            error, graph = self._api.cudaStreamEndCapture(stream)
            if int(error) == 0:
                self.call('cudaGraphDestroy', graph)
            self._api.cudaGetLastError()  # or the next call of TensorRT takes it for its own
            raise
        try:
            graph = self.call('cudaStreamEndCapture', stream)
        except EngineError:
            self._api.cudaGetLastError()
            raise
        try:
            return self.call('cudaGraphInstantiate', graph, 0)
        finally:
            self.call('cudaGraphDestroy', graph)


def _import_cuda() -> Any:
    reasons = []
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reasons.append(f'{name}: {error}')
    raise EngineError(
        f'expected NVIDIA\'s cuda-python to reach the GPU, found {"; ".join(reasons)}. Install it '
        'with `pip install cuda-python` in the major version of your CUDA.'
    )
