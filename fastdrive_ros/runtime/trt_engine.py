# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
TensorRT and TensorRT-RTX as an Engine: an engine file -> named arrays in, named arrays out.

Host arrays go up, run and come back on one CUDA stream. Device buffers are allocated once, for the
largest K; shape inputs (num_kept_tokens) stay in host memory, where TensorRT reads them.

What was run: opening a real TensorRT-RTX engine without a GPU, which must be refused, and ``run``
against stand-ins for the execution context and for CUDA (test_trt_engine.py). A real context on a
real GPU was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastdrive_ros.runtime.cuda_memory import Cuda
from fastdrive_ros.runtime.engine import Array
from fastdrive_ros.runtime.engine import DeviceArray
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import TensorSpec
from fastdrive_ros.runtime.feeds import check_feeds
from fastdrive_ros.runtime.trt_build import import_tensorrt
from fastdrive_ros.runtime.trt_build import make_logger

# Bytes; TensorRT reads and writes tensors from such addresses on only.
_ALIGNMENT = 256


class TrtEngine:
    """
    One engine file of ``backend`` 'tensorrt' or 'tensorrt_rtx'.

    It may be loaded by one thread and run by another: the CUDA runtime's context is the process's.
    """

    def __init__(
        self,
        path: Path,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        *,
        backend: str,
        largest: Mapping[str, int],
        cuda: Cuda,
    ) -> None:
        """
        Deserialize the engine; ``specs`` are (inputs, outputs) as the bundle declares them.

        ``largest`` is what each free dimension grows to, for the buffers.
        """
        trt = import_tensorrt(backend)
        self.path = path
        self.input_specs, self.output_specs = specs
        self._name = path.name.partition(f'_{backend}')[0]
        self._log = make_logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._require_memory(cuda, path.stat().st_size, 'its weights')
        # Mapped: a 3B model's engine would otherwise take its whole size of host memory, too.
        self._engine = self._runtime.deserialize_cuda_engine(np.memmap(path, np.uint8, 'r'))
        if self._engine is None:
            raise EngineError(
                f'{backend} {trt.__version__} cannot open {path}: '
                + ('; '.join(self._log.errors[-3:]) or 'it gave no reason')
                + '. It was built for another GPU or version, or there is no GPU here: run '
                '`fastdrive build` on this machine.'
            )
        self._check_tensors(path)
        # numpy type of each tensor inside the engine; TensorRT may hold int64 as int32.
        self._dtypes = {
            spec.name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(spec.name)))
            for spec in (*self.input_specs, *self.output_specs)
        }
        self._on_host = {
            spec.name
            for spec in self.input_specs
            if self._engine.get_tensor_location(spec.name) == trt.TensorLocation.HOST
        }
        sizes = {
            spec.name: self._max_bytes(spec, largest)
            for spec in (*self.input_specs, *self.output_specs)
            if spec.name not in self._on_host
        }
        self._require_memory(cuda, self._workspace_bytes() + sum(sizes.values()),
                             'its workspace and buffers')
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f'{backend} cannot start {self._name}: '
                + ('; '.join(self._log.errors[-3:]) or 'too little GPU memory?')
            )
        self._cuda, self._largest = cuda, largest
        self._stream = cuda.call('cudaStreamCreate')
        self._buffers = {name: cuda.call('cudaMalloc', size) for name, size in sizes.items()}

    def memory(self, name: str) -> DeviceArray:
        """Return an input's or output's own device memory, in its largest shape."""
        spec = next(s for s in (*self.input_specs, *self.output_specs) if s.name == name)
        shape = tuple(self._largest[d] if isinstance(d, str) else d for d in spec.shape)
        return DeviceArray(int(self._buffers[name]), shape, self._dtypes[name])

    def run(self, feeds: Mapping[str, Array],
            into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """
        Run once; return every output by name.

        What is in device memory already is not sent, what goes ``into`` device memory not fetched.
        """
        if self._context is None:
            raise EngineError(f'{self._name} was closed; load it again before running it.')
        check_feeds(self._name, self.input_specs, feeds)
        sent = {
            name: array if isinstance(array, DeviceArray)
            else np.ascontiguousarray(array, self._dtypes[name]).reshape(array.shape)
            for name, array in feeds.items()
        }  # also keeps the arrays alive until the stream is done
        for name, array in sent.items():
            self._set_input(name, array)
        staying = {name: target for name, target in (into or {}).items()
                   if isinstance(target, DeviceArray)}
        outputs = {spec.name: self._place_output(spec.name, staying.get(spec.name))
                   for spec in self.output_specs}
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(
                f'{self._name} failed in TensorRT: {"; ".join(self._log.errors[-3:])}'
            )
        for name, array in outputs.items():
            if name not in staying:
                self._cuda.download(array, self._buffers[name], self._stream)
            elif array.address != staying[name].address:
                self._cuda.copy(staying[name].address, array.address, array.nbytes, self._stream)
        self._cuda.call('cudaStreamSynchronize', self._stream)
        found = {spec.name: outputs[spec.name].astype(spec.dtype, copy=False)
                 for spec in self.output_specs if spec.name not in staying}
        for name, target in (into or {}).items():
            if name in found:
                np.copyto(target, found[name])
            found[name] = target
        return found

    def close(self) -> None:
        """Free context, engine and device memory."""
        if self._context is None:
            return
        self._cuda.call('cudaStreamSynchronize', self._stream)
        self._context = self._engine = self._runtime = None
        for address in self._buffers.values():
            self._cuda.call('cudaFree', address)
        self._cuda.call('cudaStreamDestroy', self._stream)

    def _require_memory(self, cuda: Cuda, needed_bytes: int, what: str) -> None:
        """Raise EngineError when the GPU has less free than the next step of loading takes."""
        free_bytes = cuda.free_bytes()
        if free_bytes < needed_bytes:
            raise EngineError(
                f'{self._name} needs {needed_bytes / 1e9:.2f} GB of GPU memory for {what}, found '
                f'{free_bytes / 1e9:.2f} GB free: end what else runs on the GPU, or export a '
                'smaller model or in --precision bf16'
            )

    def _workspace_bytes(self) -> int:
        """Return what a context takes; TensorRT 11 has only the newer name."""
        if hasattr(self._engine, 'device_memory_size_v2'):
            return self._engine.device_memory_size_v2
        return self._engine.device_memory_size

    def _set_input(self, name: str, array: Array) -> None:
        if name in self._on_host:
            address = array.ctypes.data
        else:
            here = isinstance(array, DeviceArray)
            address = array.address if here else int(self._buffers[name])
            if not self._context.set_input_shape(name, array.shape):
                raise EngineError(
                    f'{self._name} was not built for {name} of shape {array.shape}: '
                    + '; '.join(self._log.errors[-1:])
                )
            if not here:
                self._cuda.upload(address, array, self._stream)
        self._context.set_tensor_address(name, address)

    def _place_output(self, name: str, target: DeviceArray | None) -> Array:
        """
        Give an output its memory; return the host array that will receive it, or where it stays.

        That is ``target`` itself where TensorRT can write there.
        """
        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise EngineError(
                f'{self._name} cannot tell the shape of {name} before it runs, found {shape}; '
                'unset: ' + str(self._context.infer_shapes())
            )
        own = int(self._buffers[name])
        if target is None:
            self._context.set_tensor_address(name, own)
            return np.empty(shape, self._dtypes[name])
        if target.shape != shape or target.dtype != self._dtypes[name]:
            raise EngineError(f'{self._name} gives {name} of shape {shape} and '
                              f'{self._dtypes[name]}, its place has {target.shape} and '
                              f'{target.dtype}')
        address = own if target.address % _ALIGNMENT else target.address
        self._context.set_tensor_address(name, address)
        return DeviceArray(address, shape, target.dtype)

    def _max_bytes(self, spec: TensorSpec, largest: Mapping[str, int]) -> int:
        sizes = (largest[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        return math.prod(sizes) * self._dtypes[spec.name].itemsize

    def _check_tensors(self, path: Path) -> None:
        expected = {spec.name for spec in (*self.input_specs, *self.output_specs)}
        indices = range(self._engine.num_io_tensors)
        found = {self._engine.get_tensor_name(index) for index in indices}
        if found != expected:
            raise EngineError(
                f'{path} expected tensors {sorted(expected)}, found {sorted(found)}. Delete it; '
                '`fastdrive build` makes it again.'
            )
