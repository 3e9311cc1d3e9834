# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Simulated rigs for the synchroniser: camera timing, loss, death, jitter -> sets and a score.

Run it for the table: ``PYTHONPATH=. python test/sync_scenarios.py``.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.sync import SyncConfig
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet

MS = 1_000_000
START_NS = 1_532_402_927_000_000_000
ARRIVAL_NS = 5_000_000_000_000
"""Monotonic time of START_NS: the two clocks have nothing in common."""

# Stamps relative to the lidar's, scene-0061.
NUSCENES_PHASES_MS = {
    'CAM_FRONT_LEFT': -43.1, 'CAM_FRONT': -35.5, 'CAM_FRONT_RIGHT': -27.6,
    'CAM_BACK_LEFT': -0.5, 'CAM_BACK': -10.4, 'CAM_BACK_RIGHT': -20.1,
}
NUSCENES = tuple(NUSCENES_PHASES_MS)
_PICTURE = EncodedImage('jpeg', np.zeros(0, np.uint8))


def make_frame(camera: str, stamp_ms: float, arrival_ms: float | None = None) -> Frame:
    """Return a frame ``stamp_ms`` after START_NS; it arrives at once unless told otherwise."""
    arrival_ms = stamp_ms if arrival_ms is None else arrival_ms
    return Frame(camera, START_NS + round(stamp_ms * MS), ARRIVAL_NS + round(arrival_ms * MS),
                 _PICTURE)


def nuscenes_sweeps_ms(duration_s: float) -> list[float]:
    """Return sweep times: 12 Hz taken from a 20 Hz trigger, so 50 or 100 ms apart."""
    return [50.0 * (k * 5 // 3) for k in range(int(duration_s * 12))]


def uniform_sweeps_ms(duration_s: float, rate_hz: float) -> list[float]:
    """Return evenly spaced sweep times."""
    return [k * 1e3 / rate_hz for k in range(int(duration_s * rate_hz))]


@dataclass(frozen=True)
class Rig:
    """How the cameras of a scenario behave."""

    sweeps_ms: Sequence[float]
    phases_ms: Mapping[str, float]
    loss: float = 0.0
    lost: Collection[tuple[str, int]] = ()
    """(camera, sweep) that never arrive, besides the random ones."""
    arrival_jitter_ms: float = 30.0
    stamp_jitter_ms: float = 0.0
    seed: int = 1

    def frames(self) -> list[Frame]:
        """Return what arrives, in order of arrival (each camera's own order is kept)."""
        rng = random.Random(self.seed)
        frames = []
        for camera, phase_ms in self.phases_ms.items():
            arrived_ms = 0.0
            for k, sweep_ms in enumerate(self.sweeps_ms):
                stamp_ms = sweep_ms + 100.0 + phase_ms + rng.uniform(-1, 1) * self.stamp_jitter_ms
                arrived_ms = max(arrived_ms, stamp_ms + rng.uniform(0, self.arrival_jitter_ms))
                if rng.random() >= self.loss and (camera, k) not in self.lost:
                    frames.append(make_frame(camera, stamp_ms, arrived_ms))
        return sorted(frames, key=lambda frame: frame.arrival_ns)

    def sweep_of(self, frame: Frame) -> int:
        """Return the sweep a frame was taken in."""
        stamp_ms = (frame.stamp_ns - START_NS) / MS - 100.0 - self.phases_ms[frame.camera]
        return int(np.argmin(np.abs(np.asarray(self.sweeps_ms) - stamp_ms)))


@dataclass(frozen=True)
class Score:
    """What the table counts."""

    sets_per_sweep: float
    whole: int
    partial: int
    mixed_ratio: float
    wait_p50_ms: float
    wait_p99_ms: float


def play(sync: FrameSynchronizer, frames: Iterable[Frame]) -> list[FrameSet]:
    """Push frames as they arrive, poll at each deadline between them and once at the end."""
    left = []
    for frame in frames:
        while (deadline_ns := sync.next_deadline_ns) is not None and (
                deadline_ns < frame.arrival_ns):
            left += sync.poll(deadline_ns)
        left += sync.push(frame)
    while (deadline_ns := sync.next_deadline_ns) is not None:
        left += sync.poll(deadline_ns)
    return left


def score(rig: Rig, config: SyncConfig) -> Score:
    """Play a rig through a new synchroniser."""
    sets = play(FrameSynchronizer(tuple(rig.phases_ms), config), rig.frames())
    mixed = sum(len({rig.sweep_of(frame) for frame in s.frames.values()}) > 1 for s in sets)
    waits_ms = [(s.ready_ns - s.first_arrival_ns) / MS for s in sets]
    partial = sum(bool(s.missing) for s in sets)
    return Score(len(sets) / len(rig.sweeps_ms), len(sets) - partial, partial,
                 mixed / max(1, len(sets)), *np.percentile(waits_ms, (50, 99)))


def every(camera: str, sweeps: Iterable[int]) -> set[tuple[str, int]]:
    """Return ``lost`` for a camera that is dead in these sweeps."""
    return {(camera, k) for k in sweeps}


def _print_table() -> None:
    nuscenes, default = nuscenes_sweeps_ms(60.0), SyncConfig()
    half = {name: phase / 2.0 for name, phase in NUSCENES_PHASES_MS.items()}
    rows = {
        'nuScenes, no loss, no jitter': (
            Rig(nuscenes, NUSCENES_PHASES_MS, arrival_jitter_ms=0), default),
        'nuScenes, no loss': (Rig(nuscenes, NUSCENES_PHASES_MS), default),
        'nuScenes, 2 % loss, no jitter': (
            Rig(nuscenes, NUSCENES_PHASES_MS, loss=0.02, arrival_jitter_ms=0), default),
        'nuScenes, 2 % loss': (Rig(nuscenes, NUSCENES_PHASES_MS, loss=0.02), default),
        'nuScenes, 10 % loss': (Rig(nuscenes, NUSCENES_PHASES_MS, loss=0.1), default),
        **{f'nuScenes, {name} dies at 20 s': (
            Rig(nuscenes, NUSCENES_PHASES_MS, lost=every(name, range(240, 720))), default)
           for name in NUSCENES},
        'nuScenes, CAM_FRONT never came': (
            Rig(nuscenes, NUSCENES_PHASES_MS, lost=every('CAM_FRONT', range(720))), default),
        'nuScenes, 2 % loss, CAM_FRONT_LEFT never came': (
            Rig(nuscenes, NUSCENES_PHASES_MS, loss=0.02,
                lost=every('CAM_FRONT_LEFT', range(720))), default),
        'nuScenes, one frame lost': (
            Rig(nuscenes, NUSCENES_PHASES_MS, lost={('CAM_FRONT_LEFT', 300)}), default),
        'nuScenes, 2 % loss, 8 ms stamp jitter, 60 ms window': (
            Rig(nuscenes, NUSCENES_PHASES_MS, loss=0.02, stamp_jitter_ms=8.0),
            SyncConfig(window_ms=60.0, deadline_ms=90.0)),
        '12 Hz even, 2 % loss': (
            Rig(uniform_sweeps_ms(60.0, 12.0), NUSCENES_PHASES_MS, loss=0.02), default),
        '30 Hz even, spread 21 ms, 25 ms window, 2 % loss': (
            Rig(uniform_sweeps_ms(60.0, 30.0), half, loss=0.02),
            SyncConfig(window_ms=25.0, deadline_ms=55.0)),
        '10 Hz triggered, 20 ms stamp jitter, 50 ms window, 2 % loss': (
            Rig(uniform_sweeps_ms(60.0, 10.0), dict.fromkeys(NUSCENES, 0.0), loss=0.02,
                stamp_jitter_ms=20.0), SyncConfig(window_ms=50.0)),
    }
    print('| scenario (60 s, 0-30 ms arrival jitter) | sets per sweep | whole | partial '
          '| mixed | wait p50 / p99 ms |\n|---|---|---|---|---|---|')
    for title, (rig, config) in rows.items():
        s = score(rig, config)
        print(f'| {title} | {s.sets_per_sweep:.3f} | {s.whole} | {s.partial} '
              f'| {s.mixed_ratio:.2%} | {s.wait_p50_ms:.1f} / {s.wait_p99_ms:.1f} |')


if __name__ == '__main__':
    _print_table()
