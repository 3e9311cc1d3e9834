# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a plan costs in multiplications: each row plans once on an example, every graph counted.

Every run of a graph counts by runtime/onnx_cost.py at the shapes it really had, so a method that
prunes inside the language model pays for the layers before, and one with a scorer pays for that.
What methods compute outside of graphs (sorting, distances between tokens) is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastdrive_ros.assemble import golden_batch
from fastdrive_ros.assemble import golden_ego
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import Array
from fastdrive_ros.runtime.engine import DeviceArray
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.onnx_cost import graph_macs
from fastdrive_ros.tools.evaluate_models import Models
from fastdrive_ros.tools.evaluate_rows import Row

_STAMP_NS = 1_000_000_000

COUNTING_RULE = (
    'GMAC: 1e9 multiply-accumulates of all MatMul, Gemm and Conv nodes that one plan runs through '
    '(vision encoder with all cameras, scorer, language model with its prompt, ego and query '
    'tokens), at the shapes of the ONNX graphs; attention counts, elementwise work, sorting and '
    'what training-free methods compute outside of the graphs do not.')


def plan_macs(bundles: Mapping[str, Bundle], engines: Mapping[str, Mapping[str, Engine]],
              rows: Iterable[Row]) -> dict[str, int]:
    """Return the MACs of one plan with all cameras, by row name; baselines have none."""
    ledger: list[tuple[Path, tuple[tuple[str, int], ...]]] = []
    counted = {name: {graph: _CountedEngine(engine, bundles[name].graph_path(graph), ledger)
                      for graph, engine in graphs.items()} for name, graphs in engines.items()}
    models = Models(bundles, counted, camera_floor=0.0)
    macs_of = cache(lambda path, sizes: graph_macs(path, dict(sizes)))
    macs = {}
    for row in rows:
        if row.planner:
            _run(models, row, ledger)
            macs[row.name] = sum(macs_of(path, sizes) for path, sizes in ledger)
    return macs


class _CountedEngine:
    """An engine that notes each run and the sizes it had."""

    def __init__(self, engine: Engine, path: Path,
                 ledger: list[tuple[Path, tuple[tuple[str, int], ...]]]) -> None:
        self.input_specs, self.output_specs = engine.input_specs, engine.output_specs
        self.close: Callable[[], None] = engine.close
        self._engine = engine
        self._path = path
        self._ledger = ledger

    def memory(self, name: str) -> DeviceArray | None:
        """Return the engine's own."""
        return self._engine.memory(name)

    def run(self, feeds: Mapping[str, Array],
            into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run, and note it."""
        sizes = {dim: size for spec in self.input_specs
                 for dim, size in zip(spec.shape, feeds[spec.name].shape)
                 if isinstance(dim, str)}
        self._ledger.append((self._path, tuple(sizes.items())))
        return self._engine.run(feeds, into)


def _run(models: Models, row: Row, ledger: list[tuple[Path, tuple[tuple[str, int], ...]]]) -> None:
    """Leave in the ledger what one plan of a row runs through."""
    bundle = models.bundle
    ledger.clear()
    sight = models.encode(row.method, golden_batch(bundle), _STAMP_NS)
    budget = sight.budget(row.keep_ratio)
    kept = models.prune(row.method, sight, budget)
    models.planner(row.planner, row.method).plan(
        kept, golden_ego(bundle, _STAMP_NS), budget)
