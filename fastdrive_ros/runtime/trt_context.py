# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Execution contexts of TensorRT: made, told what to run on, then queued on a stream.

What was run: all of it over a stand-in for TensorRT (test_trt_engine.py, test_trt_graphs.py). What
was not: over a real context, which needs a GPU.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.runtime.cuda_lane import ALIGNMENT
from fastdrive_ros.runtime.engine import EngineError


@dataclass(frozen=True)
class Binding:
    """All that a context is told: two equal ones queue the same work."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of the inputs in device memory."""
    values: Mapping[str, np.ndarray]
    """Of the inputs that TensorRT reads on the host (num_kept_tokens)."""
    addresses: Mapping[str, int]
    """Of every input and output in device memory."""

    @property
    def key(self) -> Hashable:
        """What to compare by."""
        return (tuple(self.shapes.items()),
                tuple((name, value.tobytes()) for name, value in self.values.items()),
                tuple(self.addresses.items()))


class TrtContext:
    """An execution context; it stays as it was bound until it is bound again."""

    def __init__(self, context: Any, graph: str, log: Any, config: Any = None) -> None:
        """Take TensorRT's own, the graph's name and log for error messages; keep ``config``."""
        self._context = context
        self._config = config
        self._graph = graph
        self._log = log
        self._values: dict[str, np.ndarray] = {}

    def bind(self, binding: Binding, outputs: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Tell it everything; return the shape that each output will have."""
        for name, shape in binding.shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineError(
                    f'{self._graph} was not built for {name} of shape {shape}: '
                    + '; '.join(self._log.errors[-1:])
                )
        # TensorRT reads these when it infers shapes and when it is queued: they must stay.
        values = {name: _aligned(value) for name, value in binding.values.items()}
        for name, value in values.items():
            self._set_address(name, value.ctypes.data)
        for name, address in binding.addresses.items():
            self._set_address(name, address)
        self._values = values
        return self._output_shapes(outputs)

    def enqueue(self, stream: Any) -> None:
        """Queue one run on what was bound."""
        if not self._context.execute_async_v3(int(stream)):
            raise EngineError(
                f'{self._graph} failed in TensorRT: {"; ".join(self._log.errors[-3:])}'
            )

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f'{self._graph} refused the address {address:#x} for {name}: '
                              + '; '.join(self._log.errors[-1:]))

    def _output_shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        try:
            unset = self._context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f'{self._graph} cannot tell its shapes: {error}; '
                              + '; '.join(self._log.errors[-1:])) from error
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        for name, shape in shapes.items():
            if unset or -1 in shape:
                raise EngineError(f'{self._graph} cannot tell the shape of {name} before it runs, '
                                  f'found {shape}; unset: {unset}')
        return shapes


def context_in(memory: tuple[int, int], trt: Any, engine: Any, graph: str, log: Any
               ) -> TrtContext:
    """
    Return a context that works in ``memory``: address and bytes, at least the engine's own demand.

    Contexts may share it as long as only one of them runs at a time.
    """
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    context = _started(engine.create_execution_context(strategy), graph, log)
    context.set_device_memory(*memory)
    return TrtContext(context, graph, log)


def rtx_context(records: bool, trt: Any, engine: Any, graph: str, log: Any) -> TrtContext:
    """Return TensorRT-RTX's context; ``records``: CUDA graphs by itself, which it can from 1.2."""
    config = None
    if records and hasattr(trt, 'CudaGraphStrategy'):
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    arguments = () if config is None else (config,)
    context = _started(engine.create_execution_context(*arguments), graph, log)
    return TrtContext(context, graph, log, config)


def _started(context: Any, graph: str, log: Any) -> Any:
    if context is None:
        raise EngineError(f'TensorRT cannot start {graph}: '
                          + ('; '.join(log.errors[-3:]) or 'too little GPU memory?'))
    return context


def _aligned(value: np.ndarray) -> np.ndarray:
    """Return a copy at an address that TensorRT takes."""
    memory = np.empty(value.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start:start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy
