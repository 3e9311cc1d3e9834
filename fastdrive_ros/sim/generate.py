# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Frames wanted -> shards of drives, by several processes, interrupted and continued at will.

Which drives a shard holds follows from its number alone, so the dataset is the same however many
processes made it; a process has one world and makes one shard after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import Future
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.drive import JPEG_QUALITY
from fastdrive_ros.sim.drive import drive
from fastdrive_ros.sim.drive import seeds_of
from fastdrive_ros.sim.world import WORLD_VERSION
from fastdrive_ros.sim.world import World
from fastdrive_ros.sim.world import WorldSettings

FRAMES_A_SHARD = 200
_HELD_OUT_EVERY = 20
"""One shard in so many is val, another one test."""
_LICENSE = ('Rendered by fastdrive_ros with MetaDrive (Apache-2.0); the car models belong to '
            'their authors, see CREDITS.md of `fastdrive data assets`.')


def header(settings: WorldSettings, rate_hz: float,
           frames_a_shard: int = FRAMES_A_SHARD) -> DatasetHeader:
    """Return what a dataset of the simulator is made with."""
    return DatasetHeader(
        'metadrive', 'metadrive', NUSCENES_CAMERAS, settings.width, settings.height, rate_hz,
        {'simulator': 'metadrive 0.4.3', 'world_version': WORLD_VERSION,
         'jpeg_quality': JPEG_QUALITY, 'frames_a_shard': frames_a_shard}, _LICENSE)


def shards_for(frames: int, frames_a_shard: int = FRAMES_A_SHARD) -> dict[str, int]:
    """Return how many shards of each split hold this many frames; more frames, never fewer."""
    count = max(1, -(-frames // frames_a_shard))
    held_out = [len(range(place, count, _HELD_OUT_EVERY)) for place in (1, 2)]
    return dict(zip(SPLITS, (count - sum(held_out), *held_out)))


@dataclass
class Tally:
    """How far all processes are together."""

    frames: Any
    """Shared counters: frames taken, drives kept, drives failed."""
    drives: Any
    failed: Any
    stop: Any
    """Shared event: finish nothing, leave."""


def generate(root: Path, dataset: DatasetHeader, frames: int, workers: int,
             on_progress: Callable[[int, int], None], say: Callable[[str], None]) -> (
                 Mapping[str, int]):
    """
    Make what is missing for ``frames`` frames; return {'shards', 'drives', 'failed'} made now.

    Raises SimError when a process cannot draw or dies; what is whole stays.
    """
    writer = DatasetWriter(root, dataset, say)
    jobs = []
    for split, count in shards_for(frames, dataset.settings['frames_a_shard']).items():
        done = writer.done(split)
        jobs += [(split, number) for number in range(count) if number not in done]
    context = multiprocessing.get_context('spawn')
    tally = Tally(*(context.Value('q', 0) for _ in range(3)), context.Event())
    with ProcessPoolExecutor(workers, context, _start, (root, dataset, tally, workers)) as pool:
        waiting: set[Future[None]] = {pool.submit(_make_shard, *job) for job in jobs}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                on_progress(tally.frames.value, tally.failed.value)
        except BrokenProcessPool as error:
            raise SimError(
                'a process of the simulator died, probably for want of memory (each needs about '
                '1 GB): run the same command with fewer --workers, whole shards are kept'
            ) from error
        finally:
            # After an error or Ctrl-C: nobody begins another shard, and who is at one leaves it.
            tally.stop.set()
            for future in waiting:
                future.cancel()
    return {'shards': len(jobs), 'drives': tally.drives.value, 'failed': tally.failed.value}


class _StoppedError(Exception):
    """The parent wants an end; the shard in the making is given up."""


_here: dict[str, Any] = {}


def _start(root: Path, dataset: DatasetHeader, tally: Tally, workers: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us, once
    # The processor draws; threads beside the processes would only take turns.
    os.environ['LP_NUM_THREADS'] = str(max(0, (os.cpu_count() or 1) // workers - 1))
    _here.update(root=root, dataset=dataset, tally=tally, world=None, parent=os.getppid())


def _make_shard(split: str, number: int) -> None:
    try:
        _drive_shard(split, number)
    except _StoppedError:
        if os.getppid() != _here['parent']:
            os._exit(1)  # killed above our heads: nobody will ever ask for another shard
        raise


def _drive_shard(split: str, number: int) -> None:
    dataset, tally = _here['dataset'], _here['tally']
    if _here['world'] is None:
        _here['world'] = World(WorldSettings(dataset.image_width, dataset.image_height))
    writer = DatasetWriter(_here['root'], dataset, print)
    with writer.shard(split, number) as shard:
        for seed in seeds_of(split, number):
            made = drive(_here['world'], seed, dataset.rate_hz, lambda: _count(tally))
            if made is None:
                continue
            shard.add(made.scene, made.frames)
            with tally.drives.get_lock():
                tally.drives.value += made.scene.good
            with tally.failed.get_lock():
                tally.failed.value += not made.scene.good
            if shard.frames_written >= dataset.settings['frames_a_shard']:
                break


def _count(tally: Tally) -> None:
    if tally.stop.is_set() or os.getppid() != _here['parent']:
        raise _StoppedError
    with tally.frames.get_lock():
        tally.frames.value += 1
