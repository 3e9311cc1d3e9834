# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Bundles -> the vehicle's own parts, shared where planners and methods share them.

All planners have one encoder and one pruner, so a frame is encoded once for all methods that
need the same of it; only pruning and planning are done for each row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdrive_ros.assemble import method_graphs
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.metrics.judge import NUM_STEPS
from fastdrive_ros.metrics.judge import STEP_S
from fastdrive_ros.perception import Perception
from fastdrive_ros.planners import Planner
from fastdrive_ros.planners import make_planner
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.tools.evaluate_rows import UNPRUNED

_SHARED = ('vision_encoder', 'recon_pruner')


def load_bundles(paths: Sequence[Path]) -> dict[str, Bundle]:
    """
    Load bundles that can be compared, by the names of their folders, the first one first.

    Raises BundleError where encoder or pruner differ, or a plan has other steps than the figures.
    """
    bundles: dict[str, Bundle] = {}
    for path in paths:
        bundle = load_bundle(path)
        name = bundle.path.resolve().name
        if name in bundles:
            raise BundleError(f'{bundle.path} and {bundles[name].path} are folders of the same '
                              "name, which is the planner's name in all tables: rename one")
        bundles[name] = bundle
    first, *others = bundles.values()
    for bundle in bundles.values():
        _check_steps(bundle)
    for bundle in others:
        _check_shared(first, bundle)
    return bundles


def _check_steps(bundle: Bundle) -> None:
    steps, step_s = bundle.planner['num_waypoints'], bundle.planner['dt_s']
    if steps < NUM_STEPS or abs(step_s - STEP_S) > 1e-6:
        raise BundleError(
            f'{bundle.path} plans {steps} waypoints {step_s:g} s apart, both protocols need '
            f'{NUM_STEPS} or more, {STEP_S:g} s apart: export a bundle with such a planner')


def _check_shared(first: Bundle, other: Bundle) -> None:
    different = [graph for graph in _SHARED
                 if first.graph_sha256(graph) != other.graph_sha256(graph)]
    if first.cameras != other.cameras:
        different.append('cameras')
    different += [name for name in ('history_steps', 'history_dt_s')
                  if first.planner[name] != other.planner[name]]
    if different:
        raise BundleError(
            f"{other.path} has not the same {', '.join(different)} as {first.path}: planners are "
            'compared on the same tokens, so export both with the same encoder and pruner '
            '(`fastdrive export --checkpoint`), or evaluate them one by one')


@dataclass(frozen=True)
class LoadedPlanners:
    """Bundles to compare, with the engines of every method that is compared."""

    bundles: Mapping[str, Bundle]
    engines: Mapping[str, Mapping[str, Engine]]
    """Planner -> graph -> engine."""
    methods: tuple[str, ...]
    backend: str
    device: str

    @property
    def sha256(self) -> dict[str, str]:
        """One sha256 a planner, over the files that its manifest lists."""
        return {name: hashlib.sha256(json.dumps(
            bundle.manifest['files'], sort_keys=True).encode()).hexdigest()
            for name, bundle in self.bundles.items()}

    @property
    def on_cpu(self) -> bool:
        """Whether no graphics card is needed."""
        return self.device.startswith('CPU')

    def close(self) -> None:
        """Free the engines."""
        for engines in self.engines.values():
            for engine in engines.values():
                engine.close()


def load_planners(paths: Sequence[Path], methods: Sequence[str] | None,
                  say: Callable[[str], None], backend: str = 'auto') -> LoadedPlanners:
    """
    Load bundles with all graphs that ``methods`` need; None takes the methods they have all of.

    Each engine has one thread: processes run side by side. Raises BundleError or EngineError.
    """
    bundles = load_bundles(paths)
    chosen = tuple(methods) if methods else _possible(bundles.values(), say)
    unknown = sorted(set(chosen) - set(METHODS))
    if unknown:
        raise BundleError(f"no pruner {', '.join(unknown)}, there are {', '.join(METHODS)}")
    engines, loaded = {}, None
    for name, bundle in bundles.items():
        graphs = dict.fromkeys(graph for method in (UNPRUNED, *chosen)
                               for graph in method_graphs(bundle, method))
        loaded = load_engines(bundle, backend=backend, graphs=tuple(graphs), num_threads=1,
                              on_progress=say)
        engines[name] = loaded.engines
    assert loaded is not None
    return LoadedPlanners(bundles, engines, chosen, loaded.backend, loaded.device)


def _possible(bundles: Iterable[Bundle], say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the methods that every bundle has the graphs for, and say which are left out."""
    possible = []
    for method in METHODS:
        try:
            for bundle in bundles:
                method_graphs(bundle, method)
            possible.append(method)
        except BundleError as error:
            say(f'left out: {error}')
    return tuple(possible)


class Models:
    """Everything between pictures and waypoints, for several planners and methods."""

    def __init__(self, bundles: Mapping[str, Bundle],
                 engines: Mapping[str, Mapping[str, Engine]], camera_floor: float) -> None:
        """Take loaded engines, planner -> graph -> engine; the first planner's encode for all."""
        self.bundle = next(iter(bundles.values()))
        self._bundles = bundles
        self._engines = engines
        self._camera_floor = camera_floor
        self._perceptions: dict[str, Perception] = {}

    def needs(self, method: str) -> frozenset[str]:
        """Return what a method wants to look at; who needs the same can share a Sight."""
        return self._perception(method).needs

    def encode(self, method: str, batch: CameraBatch, stamp_ns: int) -> Sight:
        """Return what a method may look at."""
        return self._perception(method).encode(batch.images, batch.present, stamp_ns)

    def prune(self, method: str, sight: Sight, num_kept: int) -> KeptTokens:
        """Return what the planner is given."""
        return self._perception(method).prune(sight, num_kept)

    def planner(self, name: str, method: str) -> Planner:
        """Return a new planner, without memory of any frame."""
        bundle = self._bundles[name]
        return make_planner(bundle.manifest, bundle.path, self._engines[name], method)

    def _perception(self, method: str) -> Perception:
        if method not in self._perceptions:
            first = next(iter(self._engines.values()))
            self._perceptions[method] = Perception(
                first, method, self.bundle.grid_height, self.bundle.grid_width,
                self._camera_floor)
        return self._perceptions[method]
