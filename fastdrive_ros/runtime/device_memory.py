# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A bundle's graphs -> the memory that they take on a device, before anything is loaded there.

    weights   those that a graph uses; an engine holds about as much (docs/full_size.md)
    buffers   every input and output in its largest shape, the cache of a text planner among them

What only TensorRT knows, an engine's workspace, comes on top and is asked for when it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.onnx_file import weight_bytes


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that a graph, or several, take at least."""

    weights: int
    buffers: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.buffers

    def __str__(self) -> str:
        """Return it in powers of ten, which is what cards and Jetsons are sold by."""
        return (f'{_words(self.total)} ({_words(self.weights)} of weights, '
                f'{_words(self.buffers)} of inputs, outputs and cache)')


def device_memory(bundle: Bundle, graphs: Sequence[str]) -> DeviceMemory:
    """Return what ``graphs`` take together; weights that two of them use count twice."""
    weights = sum(weight_bytes(bundle.graph_path(graph)) for graph in graphs)
    return DeviceMemory(weights, sum(_buffers(bundle, graph) for graph in graphs))


def require_device_memory(bundle: Bundle, graphs: Sequence[str], free_bytes: int,
                          where: str) -> None:
    """Raise EngineError, with all numbers, when a device has less free than ``graphs`` take."""
    memory = device_memory(bundle, graphs)
    if memory.total > free_bytes:
        parts = ', '.join(f'{graph} {_words(device_memory(bundle, [graph]).total)}'
                          for graph in graphs)
        raise EngineError(
            f'{bundle.name} takes at least {memory} of {where}: {parts}; found '
            f'{_words(free_bytes)} free. End what else uses it, or export with '
            + ('--precision bf16, ' if bundle.precision == 'fp32' else '')
            + '--weights int8 or int4, fewer cameras or smaller pictures')


def _words(num_bytes: int) -> str:
    return f'{num_bytes / 1e9:.2f} GB' if num_bytes >= 1e9 else f'{num_bytes / 1e6:.1f} MB'


def _buffers(bundle: Bundle, graph: str) -> int:
    sizes = {name: size.most for name, size in bundle.free_sizes(graph).items()}
    return sum(
        math.prod(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        * np.dtype(spec.dtype).itemsize
        for specs in bundle.graph_specs(graph) for spec in specs)
