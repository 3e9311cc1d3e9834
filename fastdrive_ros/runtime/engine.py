# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole contract between us and a model: named arrays in, named arrays out."""

from __future__ import annotations

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


def layer_graphs(graphs: Iterable[str]) -> tuple[str, ...]:
    """Return the single language layers (planner_layer_00, ...) among graphs, in their order."""
    return tuple(sorted(graph for graph in graphs if graph.startswith('planner_layer_')))


class Engine(Protocol):
    """One loaded graph. Not thread safe: one thread at a time (loading may be another's)."""

    input_specs: tuple[TensorSpec, ...]
    output_specs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """
        Run once on host arrays that match ``input_specs``; return every output by name.

        Raises EngineError on a missing, unknown or mis-shaped input and on a failed run.
        """

    def close(self) -> None:
        """Free the memory; the engine cannot run afterwards. Calling twice is harmless."""
