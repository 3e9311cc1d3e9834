# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
`fastdrive bench model --bundle`: a bundle's own engines, stage by stage and method by method.

    encode    pictures to tokens (and what the method looks at besides them)
    prune     its choice, ReconPruner's graph or numpy on the host
    plan      the planner; prefill and answer apart where it writes text

The vehicle's own parts on one golden frame, every trial once a round. `bench model --checkpoint`
holds our arithmetic against transformers'; this says what the engines that drive take here.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.assemble import golden_batch
from fastdrive_ros.assemble import golden_ego
from fastdrive_ros.assemble import method_graphs
from fastdrive_ros.config import ConfigError
from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.perception import Perception
from fastdrive_ros.planners import make_planner
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.device_memory import device_memory
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.runtime.trt_graphs import MOST_GRAPHS
from fastdrive_ros.runtime.trt_graphs import RUNS_TO_REPLAY
from fastdrive_ros.tools.computer import gpu_state
from fastdrive_ros.tools.evaluate_cost import plan_macs
from fastdrive_ros.tools.evaluate_rows import UNPRUNED
from fastdrive_ros.tools.evaluate_rows import Row
from fastdrive_ros.tools.tables import print_table

# By chance or by place: they are for quality, not for time.
_LEFT_OUT = ('random', 'uniform')
# Further apart than a text planner's memory, which would otherwise guess its own plan of the same
# pictures: its answers start without a last plan, as in the first cycle of a drive.
_BETWEEN_PLANS_NS = 10_000_000_000
_STAGES = ('encode', 'prune', 'plan', 'prefill', 'answer', 'total')


def bench(path: Path, kept: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure all methods that a bundle has the graphs of, at N and at every K of ``kept``."""
    bundle = load_bundle(path)
    methods = _methods(bundle)
    every = bundle.num_tokens
    encoded = bundle.encoded_per_camera * len(bundle.cameras)
    kept = sorted(set(kept or [encoded * part // 4 for part in (3, 2, 1)]), reverse=True)
    if not 0 < kept[-1] <= kept[0] < encoded:
        raise ConfigError(f'--kept: expected 1 to {encoded - 1} of the {encoded} tokens that the '
                          f'encoder of {bundle.name} leaves (N = {every}), found {kept}')
    if len(kept) >= MOST_GRAPHS:
        raise ConfigError(f'--kept: expected at most {MOST_GRAPHS - 1} numbers, which is what '
                          f"TensorRT's recorded runs are kept for, found {len(kept)}")
    graphs = tuple(dict.fromkeys(
        graph for method in (UNPRUNED, *methods) for graph in method_graphs(bundle, method)))
    before = gpu_state()
    loaded = load_engines(bundle, graphs=graphs,
                          on_progress=lambda line: print(line, file=sys.stderr))
    bundles, engines = {bundle.name: bundle}, {bundle.name: loaded.engines}
    trials = [(UNPRUNED, encoded), *((method, count) for method in methods for count in kept)]
    try:
        windows = _rounds(bundle, loaded.engines, trials, repeats)
        # The half token keeps a ratio from being rounded to one token less.
        rows = {(method, count): Row(
            method, bundle.name, 1.0 if count == encoded else (count + 0.5) / every)
            for method, count in trials}
        macs = plan_macs(bundles, engines, rows.values())
    finally:
        for engine in loaded.engines.values():
            engine.close()
    return {
        'bench': 'bundle', 'bundle': bundle.name, 'precision': bundle.arithmetic,
        'backend': loaded.backend, 'device': loaded.device, 'num_tokens': every,
        'planner': bundle.planner['head'], 'repeats': repeats,
        'gpu_before': before, 'gpu_after': gpu_state(),
        'device_memory_bytes': device_memory(bundle, graphs).total,
        'rows': [{'method': method, 'kept': count, 'macs': macs[rows[method, count].name],
                  'stages_ms': window.summary()}
                 for (method, count), window in zip(trials, windows, strict=True)],
    }


def _methods(bundle: Bundle) -> list[str]:
    """Return the methods that the bundle has graphs for, its own one first."""
    possible = [bundle.pruner_method]
    for method in METHODS:
        if method in (UNPRUNED, *_LEFT_OUT, *possible):
            continue
        try:
            method_graphs(bundle, method)
        except BundleError:
            continue
        possible.append(method)
    return possible


def _rounds(bundle: Bundle, engines: Mapping[str, Engine], trials: Sequence[tuple[str, int]],
            repeats: int) -> list[LatencyWindow]:
    """Return for each trial the milliseconds of every stage, of all recorded rounds."""
    batch = golden_batch(bundle)
    parts = {method: (
        Perception(engines, method, bundle.grid_height, bundle.grid_width),
        make_planner(bundle.manifest, bundle.path, engines, method)) for method, _ in trials}
    stamps_ns = itertools.count(0, _BETWEEN_PLANS_NS)

    def plan(method: str, count: int) -> dict[str, float]:
        perception, planner = parts[method]
        timer, stamp_ns = StageTimer(), next(stamps_ns)
        tokens = perception.perceive(batch, stamp_ns, count, timer)
        with timer('plan'):
            output = planner.plan(tokens, golden_ego(bundle, stamp_ns), count)
        return {**timer.stage_ms, 'total': sum(timer.stage_ms.values()), **output.stage_ms}

    windows = [LatencyWindow(repeats) for _ in trials]
    for number in range(1 + repeats):
        for trial, window in zip(trials, windows, strict=True):
            # At first as often in a row as TensorRT wants to see a run before it is recorded.
            for _ in range(1 if number else RUNS_TO_REPLAY):
                stages = plan(*trial)
            if number:
                window.record(stages)
        print(f'round {number + 1} of {1 + repeats}', file=sys.stderr)
    return windows


def print_report(result: dict[str, Any]) -> None:
    """Print the table; 'faster' is the whole plan against the unpruned one."""
    whole = result['rows'][0]['stages_ms']['total']['p50']
    print_table(
        f"{result['bundle']} ({result['precision']}, head {result['planner']}): N = "
        f"{result['num_tokens']}, {result['backend']} on {result['device']}; p50 (p95) ms of "
        f"{result['repeats']}",
        ('method', 'K', 'GMAC', *_STAGES, 'faster'),
        [(row['method'], str(row['kept']), f"{row['macs'] / 1e9:.2f}",
          *(_cell(row['stages_ms'].get(stage)) for stage in _STAGES),
          f"{whole / row['stages_ms']['total']['p50']:.2f}x") for row in result['rows']])


def _cell(spread: dict[str, float] | None) -> str:
    return '-' if spread is None else f"{spread['p50']:.1f} ({spread['p95']:.1f})"


def draw_plot(result: dict[str, Any], path: Path) -> Path:
    """Write one PNG: stages of the unpruned plan and of the bundle's own method, stacked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    own = result['rows'][1]['method']
    rows = [row for row in result['rows'] if row['method'] in (UNPRUNED, own)]
    figure = Figure(figsize=(8.0, 4.6), dpi=110)
    axes, bottom = figure.subplots(), np.zeros(len(rows))
    for stage, colour in (('encode', '#9fb7c9'), ('prune', '#c98a1b'), ('plan', '#d1352b')):
        heights = [row['stages_ms'][stage]['p50'] for row in rows]
        axes.bar(range(len(rows)), heights, 0.6, bottom, color=colour, label=stage)
        bottom += heights
    axes.set_xticks(range(len(rows)), [f"{row['method']}\nK = {row['kept']}" for row in rows])
    axes.set_ylabel('ms, p50')
    axes.set_ylim(0, 1.15 * bottom.max())
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc='upper right')
    axes.set_title(f"{result['bundle']} ({result['precision']}), {result['backend']} on "
                   f"{result['device']}", loc='left', fontsize=10)
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(path)
    return path
