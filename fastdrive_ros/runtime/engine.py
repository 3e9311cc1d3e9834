# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole contract between us and a model: named arrays in, named arrays out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class EngineError(Exception):
    """A model cannot be built, loaded, verified or run; the message says how to mend it."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one graph input or output."""

    name: str
    dtype: str
    """numpy's name: 'float32', 'uint8', 'int64', 'bool'."""
    shape: tuple[int | str, ...]
    """A string is a dimension that may differ from run to run, for example ('K', 512)."""


@dataclass(frozen=True)
class DeviceArray:
    """An array in the memory of the device that engines run on; it belongs to one of them."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        """Return the size of the first axis."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Return some rows, one after another, of the same memory."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError(f'rows of device memory go one by one, found step {step}')
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        return DeviceArray(self.address + start * size, (max(0, stop - start), *self.shape[1:]),
                           self.dtype)

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.dtype.itemsize * math.prod(self.shape)


Array = np.ndarray | DeviceArray


def layer_graphs(graphs: Iterable[str]) -> tuple[str, ...]:
    """Return the single language layers (planner_layer_00, ...) among graphs, in their order."""
    return tuple(sorted(graph for graph in graphs if graph.startswith('planner_layer_')))


class Engine(Protocol):
    """One loaded graph. Not thread safe: one thread at a time (loading may be another's)."""

    input_specs: tuple[TensorSpec, ...]
    output_specs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array],
            into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """
        Run once on arrays that match ``input_specs``; return every output by name.

        Outputs named in ``into`` are written there instead: rows of a ``memory``, or of a host
        array. Other arrays that come back are the caller's own. Raises EngineError on a missing,
        unknown or mis-shaped input and on a failed run.
        """

    def memory(self, name: str) -> DeviceArray | None:
        """
        Return the device memory of an input or output in its largest shape; None: on the host.

        What stays there need not travel: feed it to this engine or to another of the device.
        """

    def close(self) -> None:
        """Free the memory; the engine cannot run afterwards. Calling twice is harmless."""
