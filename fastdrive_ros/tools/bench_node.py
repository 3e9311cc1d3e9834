# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The live node measured from outside: a looped bag over DDS, what it reports, and /proc.

Passes go on from one another (stamps are shifted), so the node sees one long drive. Overhead is
what a cycle costs beside the models and beside waiting for the last camera of the sweep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import bundle_path
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.tools.demo import sample_bag
from fastdrive_ros.tools.live import LiveSession
from fastdrive_ros.tools.live import live_session
from fastdrive_ros.tools.live import use_wheels
from fastdrive_ros.tools.tables import print_latency
from fastdrive_ros.tools.tables import print_table

KEEP_RATIO = 0.5

_MODEL_STAGES = ('encode', 'prune', 'plan')
_SENSOR_STAGES = ('decode', 'preprocess')
_WARM_UP_S = 3.0
_SAMPLE_S = 1.0
_FLAT_FROM_S = 60.0


@dataclass(frozen=True)
class _Drive:
    """One live run, warm-up left out."""

    stages: Sequence[Mapping[str, float]]
    refused: int
    arrivals_s: np.ndarray
    superseded: int
    seconds: float
    cpu_s: float
    rss_mb: Sequence[tuple[float, float]]
    """(seconds since the start, resident megabytes)."""
    cameras: int
    values: Mapping[str, str]
    """Of one cycle, and the names of bag and bundle."""


def bench_node(bag_path: Path | None, bundle: str, seconds: float) -> dict[str, Any]:
    """Drive for ``seconds`` at the keep ratio, then once more with every token kept."""
    drive = _drive(bag_path, bundle, KEEP_RATIO, seconds)
    plain = _drive(bag_path, bundle, 1.0, seconds / 4)
    strict = [_beside(stages, _MODEL_STAGES) for stages in drive.stages]
    lean = [_beside(stages, (*_MODEL_STAGES, *_SENSOR_STAGES)) for stages in drive.stages]
    ages_ms = np.array([stages['frame_age'] for stages in drive.stages])
    times_s = drive.arrivals_s - drive.arrivals_s[0]
    plan_ms, plain_ms = _median(drive, 'plan'), _median(plain, 'plan')
    prune_ms = _median(drive, 'prune')
    return {
        'bench': 'node', **_protocol(drive), 'seconds': round(drive.seconds, 1),
        'plans_hz': round((len(times_s) - 1) / times_s[-1], 3),
        'cycles': len(drive.stages), 'refused': drive.refused, 'superseded': drive.superseded,
        'stages_ms': _summary(drive),
        'overhead_ms': {
            'all_but_models_and_sync_p50': round(float(np.median(strict)), 3),
            'all_but_models_and_sync_p95': round(float(np.percentile(strict, 95)), 3),
            'also_without_decode_preprocess_p50': round(float(np.median(lean)), 3),
            'also_without_decode_preprocess_p95': round(float(np.percentile(lean, 95)), 3)},
        'frame_age_slope_ms_per_s': round(float(np.polyfit(times_s, ages_ms, 1)[0]), 4),
        'cpu_cores': round(drive.cpu_s / drive.seconds, 3),
        'pruning': {
            'plan_ms_p50': round(plan_ms, 3), 'plan_ms_p50_all_tokens': round(plain_ms, 3),
            'plan_speed_up': round(plain_ms / plan_ms, 3),
            'speed_up_with_prune': round(plain_ms / (plan_ms + prune_ms), 3)},
    }


def bench_memory(bag_path: Path | None, bundle: str, minutes: float) -> dict[str, Any]:
    """Drive for ``minutes`` and watch the node's resident memory."""
    drive = _drive(bag_path, bundle, KEEP_RATIO, minutes * 60.0)
    times_s, rss_mb = np.array(drive.rss_mb).T
    # The first minute is warm-up: arenas, thread stacks, the first full windows.
    first_from_s = _FLAT_FROM_S if times_s[-1] > 3 * _FLAT_FROM_S else times_s[-1] / 3
    span_s = min(_FLAT_FROM_S, times_s[-1] / 3)
    first = rss_mb[(times_s >= first_from_s) & (times_s < first_from_s + span_s)].mean()
    last = rss_mb[times_s >= times_s[-1] - span_s].mean()
    return {
        'bench': 'memory', **_protocol(drive), 'minutes': round(drive.seconds / 60, 2),
        'cycles': len(drive.stages), 'rss_mb_second_minute': round(float(first), 2),
        'rss_mb_last_minute': round(float(last), 2), 'rss_mb_max': round(float(rss_mb.max()), 2),
        'growth_percent': round(float(100 * (last / first - 1)), 3),
    }


def print_node(result: Mapping[str, Any]) -> None:
    """Print the node bench."""
    print_latency(_title('live node', result), result['stages_ms'])
    overhead, pruning = result['overhead_ms'], result['pruning']
    print_table('beside the stages', ('what', 'value'), [
        ('overhead: all but models and sync wait, p50 (p95) ms',
         f"{overhead['all_but_models_and_sync_p50']:.2f} "
         f"({overhead['all_but_models_and_sync_p95']:.2f})"),
        ('  of it outside decode and preprocess',
         f"{overhead['also_without_decode_preprocess_p50']:.2f} "
         f"({overhead['also_without_decode_preprocess_p95']:.2f})"),
        ('plans a second', f"{result['plans_hz']:.2f}"),
        ('refused / superseded sets', f"{result['refused']} / {result['superseded']}"),
        ('frame age trend (a growing queue rises), ms/s',
         f"{result['frame_age_slope_ms_per_s']:+.3f}"),
        ('processor cores in use', f"{result['cpu_cores']:.2f}"),
        ('plan with every token kept, p50 ms', f"{pruning['plan_ms_p50_all_tokens']:.2f}"),
        ("plan faster by pruning (the pruner's time counted)",
         f"{pruning['plan_speed_up']:.2f}x ({pruning['speed_up_with_prune']:.2f}x)")])


def print_memory(result: Mapping[str, Any]) -> None:
    """Print the memory bench."""
    print_table(_title('memory', result), ('resident', 'MB'), [
        ('second minute', f"{result['rss_mb_second_minute']:.1f}"),
        ('last minute', f"{result['rss_mb_last_minute']:.1f}"),
        ('most', f"{result['rss_mb_max']:.1f}"),
        ('growth, %', f"{result['growth_percent']:+.2f}")])


def _title(what: str, result: Mapping[str, Any]) -> str:
    return (f"{what}: {result['bundle']} on {result['backend']}, N = {result['tokens_total']}, "
            f"K = {result['tokens_kept']}, {result['cameras']} cameras from {result['bag']}")


def _protocol(drive: _Drive) -> dict[str, Any]:
    values = drive.values
    return {'bag': values['bag'], 'bundle': values['bundle'], 'precision': values['precision'],
            'backend': values['backend'], 'cameras': drive.cameras,
            'tokens_total': int(values['total_tokens']), 'tokens_kept': int(values['kept_tokens'])}


def _beside(stages: Mapping[str, float], counted: tuple[str, ...]) -> float:
    return stages['end_to_end'] - stages['sync'] - sum(stages.get(name, 0.0) for name in counted)


def _median(drive: _Drive, stage: str) -> float:
    return float(np.median([stages[stage] for stages in drive.stages]))


def _summary(drive: _Drive) -> dict[str, dict[str, float]]:
    window = LatencyWindow(len(drive.stages))
    for stages in drive.stages:
        window.record(stages)
    return {stage: {name: round(value, 3) for name, value in values.items()}
            for stage, values in window.summary().items()}


def _drive(bag_path: Path | None, bundle: str, keep_ratio: float, seconds: float) -> _Drive:
    use_wheels(private=True)
    with Bag(bag_path or sample_bag()) as bag:
        fit = choose_preset(bag)
        given = {**read_preset(fit.preset), 'keep_ratio': keep_ratio, 'bundle': bundle}
        model = load_bundle(bundle_path(check_settings(given)))
        with live_session(bag, given) as session:
            watch = _Watch(session, seconds)
            _play_on(session, bag, bag.topics[next(iter(fit.cameras.values()))].count, watch)
            session.settle()
            return _drive_of(session, watch, len(fit.cameras), {
                'bag': bag.path.name, 'bundle': model.name, 'precision': model.precision})


def _play_on(session: LiveSession, bag: Bag, num_frames: int, keep_going: Callable[[], bool]
             ) -> None:
    """Play pass after pass, each one frame period after the last, until told to stop."""
    duration_ns = bag.end_ns - bag.start_ns
    pass_ns = duration_ns + duration_ns // max(1, num_frames - 1)
    shift_ns = 0
    while keep_going():
        session.player.play(shift_ns=shift_ns, keep_going=keep_going)
        shift_ns += pass_ns
        session.player.idle((pass_ns - duration_ns) / 1e9, rate=1.0)


class _Watch:
    """Asked before every message: samples the node's memory, and says when time is up."""

    def __init__(self, session: LiveSession, seconds: float) -> None:
        self.rss_mb: list[tuple[float, float]] = []
        self.started_s = time.monotonic()
        self.cpu_start_s = 0.0
        self._session = session
        self._seconds = seconds
        self._next_s = _SAMPLE_S

    def __call__(self) -> bool:
        elapsed_s = time.monotonic() - self.started_s
        if elapsed_s >= self._next_s:
            self._session.node.check()
            self._next_s += _SAMPLE_S
            self.rss_mb.append((elapsed_s, _rss_mb(self._session.node.pid)))
            if elapsed_s < _WARM_UP_S:
                self.cpu_start_s = _cpu_s(self._session.node.pid)
        return elapsed_s < self._seconds + _WARM_UP_S


def _drive_of(session: LiveSession, watch: _Watch, cameras: int, names: Mapping[str, str]
              ) -> _Drive:
    cycles = [cycle for cycle in session.listener.cycles
              if cycle.arrival_s - watch.started_s >= _WARM_UP_S]
    planned = [cycle for cycle in cycles if not cycle.refusal]
    first = int(cycles[0].values['superseded'])
    return _Drive(
        stages=[cycle.stage_ms for cycle in planned], refused=len(cycles) - len(planned),
        arrivals_s=np.array([cycle.arrival_s for cycle in planned]),
        superseded=int(cycles[-1].values['superseded']) - first,
        seconds=cycles[-1].arrival_s - cycles[0].arrival_s,
        cpu_s=_cpu_s(session.node.pid) - watch.cpu_start_s, rss_mb=watch.rss_mb, cameras=cameras,
        # Not the last one's: the player stops in the middle of a sweep.
        values={**cycles[0].values, **names})


def _rss_mb(pid: int) -> float:
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def _cpu_s(pid: int) -> float:
    # The fields after the command's name, which may itself hold spaces and brackets.
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
