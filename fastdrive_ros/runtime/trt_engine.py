# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
TensorRT and TensorRT-RTX as an Engine: an engine file -> named arrays in, named arrays out.

Host arrays go up, run and come back on one CUDA stream, through pinned memory (cuda_lane.py).
Device buffers are allocated once, for the largest K; shape inputs (num_kept_tokens) stay in host
memory, where TensorRT reads them. Runs that come again are replayed as CUDA graphs: with TensorRT
by trt_graphs.py, with TensorRT-RTX, which compiles kernels while it runs, by itself.

What was run: opening a real TensorRT-RTX engine without a GPU, which must be refused, and ``run``
against stand-ins for the execution context and for CUDA (test_trt_engine.py, test_trt_graphs.py).
A real context on a real GPU was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.runtime.cuda_lane import ALIGNMENT
from fastdrive_ros.runtime.cuda_lane import Lane
from fastdrive_ros.runtime.cuda_lane import arena_bytes
from fastdrive_ros.runtime.engine import Array
from fastdrive_ros.runtime.engine import DeviceArray
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import TensorSpec
from fastdrive_ros.runtime.feeds import check_feeds
from fastdrive_ros.runtime.trt_build import import_tensorrt
from fastdrive_ros.runtime.trt_build import make_logger
from fastdrive_ros.runtime.trt_context import Binding
from fastdrive_ros.runtime.trt_context import TrtContext
from fastdrive_ros.runtime.trt_context import context_in
from fastdrive_ros.runtime.trt_context import rtx_context
from fastdrive_ros.runtime.trt_graphs import MOST_GRAPHS
from fastdrive_ros.runtime.trt_graphs import Replays
from fastdrive_ros.runtime.trt_graphs import Sent


class UnusableFileError(EngineError):
    """An engine file that another one, built here and now, may take the place of."""


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
        lane: Lane,
    ) -> None:
        """
        Deserialize the engine; ``specs`` are (inputs, outputs) as the bundle declares them.

        ``largest`` is what each free dimension grows to, for the buffers; ``lane`` the way to the
        GPU, of all engines that are loaded together.
        """
        trt = import_tensorrt(backend)
        self.path = path
        self.input_specs, self.output_specs = specs
        self._largest, self._lane = largest, lane
        self._name = path.name.partition(f'_{backend}')[0]
        self._log = make_logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._opened(f'{backend} {trt.__version__}')
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
            spec.name: self._max_bytes(spec)
            for spec in (*self.input_specs, *self.output_specs)
            if spec.name not in self._on_host
        }
        self._require_memory(self._workspace_bytes() + sum(sizes.values()),
                             'its workspace and buffers')
        self._buffers: dict[str, int] = {}
        self._workspace = 0
        self._context: TrtContext | None = None
        lane.join()
        self._open = True
        try:
            self._start(trt, backend, sizes)
        except BaseException:
            self.close()
            raise

    def _opened(self, backend: str) -> Any:
        self._require_memory(self.path.stat().st_size, 'its weights')
        # Mapped: a 3B model's engine would otherwise take its whole size of host memory, too.
        engine = self._runtime.deserialize_cuda_engine(np.memmap(self.path, np.uint8, 'r'))
        if engine is None:
            raise UnusableFileError(
                f'{backend} cannot open {self.path}: '
                + ('; '.join(self._log.errors[-3:]) or 'it gave no reason')
                + '. It was built for another GPU or version, or there is no GPU here: run '
                '`fastdrive build` on this machine.'
            )
        return engine

    @property
    def trouble(self) -> str:
        """Why runs are not replayed as CUDA graphs though they could be; empty: no trouble."""
        return self._replays.trouble

    @property
    def num_graphs(self) -> int:
        """How many runs are kept as CUDA graphs; those of TensorRT-RTX are not counted."""
        return len(self._replays)

    def memory(self, name: str) -> DeviceArray:
        """Return an input's or output's own device memory, in its largest shape."""
        spec = next(s for s in (*self.input_specs, *self.output_specs) if s.name == name)
        return DeviceArray(self._buffers[name], self._max_shape(spec), self._dtypes[name])

    def run(self, feeds: Mapping[str, Array],
            into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """
        Run once; return every output by name.

        What is in device memory already is not sent, what goes ``into`` device memory not fetched.
        Host arrays that come back are the caller's own.
        """
        into = into or {}
        staying = {name: target for name, target in into.items()
                   if isinstance(target, DeviceArray)}
        with self._lane.turn:
            if not self._open:
                raise EngineError(f'{self._name} was closed; load it again before running it.')
            check_feeds(self._name, self.input_specs, feeds)
            shapes, binding = self._queue(feeds, staying)
            return self._fetch(shapes, binding, into)

    def close(self) -> None:
        """Free graphs, contexts, engine and device memory; with the last engine the lane's."""
        with self._lane.turn:
            if not self._open:
                return
            self._open = False
        # Last in, first out; what fails (a broken GPU) does not keep the rest from being freed.
        with ExitStack() as freeing:
            freeing.callback(self._lane.leave)
            freeing.callback(self._free)

    def _free(self) -> None:
        with self._lane.turn, ExitStack() as freeing:
            for address in (*self._buffers.values(), self._workspace):
                if address:
                    freeing.callback(self._lane.cuda.call, 'cudaFree', address)
            freeing.callback(self._forget)
            freeing.callback(self._replays.close)
            freeing.callback(self._lane.wait)

    def _forget(self) -> None:
        self._context = self._engine = self._runtime = None

    def _start(self, trt: Any, backend: str, sizes: Mapping[str, int]) -> None:
        """Allocate everything and make the context of plain runs."""
        # Rows of a cache: shapes and addresses differ from pass to pass, so none comes again.
        growing = any('P' in spec.shape for spec in self.input_specs)
        by_itself = backend == 'tensorrt_rtx'
        cuda, engine, outputs = self._lane.cuda, self._engine, [s.name for s in self.output_specs]

        def new_context() -> TrtContext:
            memory = self._workspace, self._workspace_bytes()
            return context_in(memory, trt, engine, self._name, self._log)

        self._replays = Replays(self._name, self._lane, new_context,
                                {name: self._dtypes[name] for name in outputs},
                                most=0 if growing or by_itself else MOST_GRAPHS)
        for name, size in sizes.items():
            self._buffers[name] = int(cuda.call('cudaMalloc', size))
        if by_itself:
            # It is said to follow shapes and addresses; of values on the host (num_kept_tokens)
            # nothing is said, so graphs that have one are left as they are.
            self._context = rtx_context(not growing and not self._on_host, trt, engine,
                                        self._name, self._log)
        else:
            size = max(ALIGNMENT, self._workspace_bytes())
            self._workspace = int(cuda.call('cudaMalloc', size))
            self._context = new_context()
        if growing:  # a cache stays on the device; what travels beside it is small
            return
        with self._lane.turn:
            self._lane.reserve('up', arena_bytes(
                sizes[spec.name] for spec in self.input_specs if spec.name in sizes))
            self._lane.reserve('down', arena_bytes(sizes[name] for name in outputs))

    def _queue(self, feeds: Mapping[str, Array], staying: Mapping[str, DeviceArray],
               ) -> tuple[Mapping[str, tuple[int, ...]], Binding]:
        """Queue uploads and the run, recorded or plain; return the outputs' shapes."""
        binding = self._bound(feeds, staying)
        replay = self._replays.find(binding)
        shapes = replay.shapes if replay else self._context.bind(
            binding, [spec.name for spec in self.output_specs])
        self._check_places(staying, shapes)
        sent = self._stage(feeds)
        replay = replay or self._replays.record(binding, self._context, sent)
        for address, array in sent:
            self._lane.cuda.upload(address, array, self._lane.stream)
        (replay or self._context).enqueue(self._lane.stream)
        return shapes, binding

    def _bound(self, feeds: Mapping[str, Array],
               staying: Mapping[str, DeviceArray]) -> Binding:
        shapes, values, addresses = {}, {}, {}
        for name in (spec.name for spec in self.input_specs):
            array = feeds[name]
            if name in self._on_host:
                values[name] = np.asarray(array, self._dtypes[name])
                continue
            shapes[name] = tuple(array.shape)
            here = isinstance(array, DeviceArray)
            addresses[name] = array.address if here else self._buffers[name]
        for name in (spec.name for spec in self.output_specs):
            # TensorRT cannot write anywhere: what it cannot reach is copied there afterwards.
            own = name not in staying or staying[name].address % ALIGNMENT
            addresses[name] = self._buffers[name] if own else staying[name].address
        return Binding(shapes, values, addresses)

    def _stage(self, feeds: Mapping[str, Array]) -> Sent:
        """Return what travels, in pinned memory, contiguous and in the engine's types."""
        names = [spec.name for spec in self.input_specs if spec.name not in self._on_host
                 and not isinstance(feeds[spec.name], DeviceArray)]
        arrays = self._lane.arrays('up', ((feeds[name].shape, self._dtypes[name])
                                          for name in names))
        for name, array in zip(names, arrays, strict=True):
            np.copyto(array, feeds[name], casting='same_kind')
        return [(self._buffers[name], array) for name, array in zip(names, arrays, strict=True)]

    def _fetch(self, shapes: Mapping[str, tuple[int, ...]], binding: Binding,
               into: Mapping[str, Array]) -> dict[str, Array]:
        """Queue downloads, wait for everything, and give each output to its receiver."""
        cuda, stream = self._lane.cuda, self._lane.stream
        names = [name for name in shapes if not isinstance(into.get(name), DeviceArray)]
        came = dict(zip(names, self._lane.arrays(
            'down', ((shapes[name], self._dtypes[name]) for name in names)), strict=True))
        for name, address in binding.addresses.items():
            if name in came:
                cuda.download(came[name], address, stream)
            elif name in shapes and into[name].address != address:
                cuda.copy(into[name].address, address, into[name].nbytes, stream)
        self._lane.wait()
        found: dict[str, Array] = {}
        for spec in self.output_specs:
            if spec.name in into:
                found[spec.name] = into[spec.name]
                if spec.name in came:
                    np.copyto(into[spec.name], came[spec.name])
            else:
                found[spec.name] = came[spec.name].astype(spec.dtype)  # a copy: the caller's own
        return found

    def _check_places(self, staying: Mapping[str, DeviceArray],
                      shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, target in staying.items():
            if target.shape != shapes[name] or target.dtype != self._dtypes[name]:
                raise EngineError(f'{self._name} gives {name} of shape {shapes[name]} and '
                                  f'{self._dtypes[name]}, its place has {target.shape} and '
                                  f'{target.dtype}')

    def _require_memory(self, needed_bytes: int, what: str) -> None:
        """Raise EngineError when the GPU has less free than the next step of loading takes."""
        free_bytes = self._lane.cuda.free_bytes()
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

    def _max_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        return tuple(self._largest[dim] if isinstance(dim, str) else dim for dim in spec.shape)

    def _max_bytes(self, spec: TensorSpec) -> int:
        return math.prod(self._max_shape(spec)) * self._dtypes[spec.name].itemsize

    def _check_tensors(self, path: Path) -> None:
        expected = {spec.name for spec in (*self.input_specs, *self.output_specs)}
        indices = range(self._engine.num_io_tensors)
        found = {self._engine.get_tensor_name(index) for index in indices}
        if found != expected:
            raise UnusableFileError(
                f'{path} expected tensors {sorted(expected)}, found {sorted(found)}. Delete it; '
                '`fastdrive build` makes it again.'
            )
