# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Scenes -> evaluators, each a process with engines of its own: here, or on a Ray cluster.

A scene is evaluated by one of them from its first frame to its last, and its result comes back
whole; whoever calls keeps it. Ctrl-C and errors leave nothing half done and nobody running.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fastdrive_ros.data.records import DataError
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.tools.evaluate_store import SceneResult
from fastdrive_ros.tools.evaluate_worker import Job
from fastdrive_ros.tools.evaluate_worker import SceneEvaluator
from fastdrive_ros.tools.evaluate_worker import Task

_POLL_S = 0.5
_DIED = ('an evaluating process died, most likely for want of memory: run the same command with '
         'fewer --workers, whole scenes are kept')


def evaluate_here(job: Job, tasks: Sequence[Task], workers: int,
                  on_result: Callable[[SceneResult], None],
                  on_frames: Callable[[int], None]) -> None:
    """Evaluate in local processes; ``on_frames`` hears how many frames are done in all."""
    # Not forked: the engines of this process have threads.
    context = multiprocessing.get_context('spawn')
    frames, stop = context.Value('q', 0), context.Event()
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _start,
                             (job, frames, stop)) as pool:
        waiting = {pool.submit(_evaluate, task) for task in tasks}
        try:
            while waiting:
                finished, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
                for future in finished:
                    on_result(future.result())
                on_frames(frames.value)
        except BrokenProcessPool as error:
            raise DataError(_DIED) from error
        finally:
            # After an error or Ctrl-C: nobody begins another scene, and who is at one leaves it.
            stop.set()
            for future in waiting:
                future.cancel()


def evaluate_on_ray(address: str, job: Job, tasks: Sequence[Task], workers: int,
                    on_result: Callable[[SceneResult], None],
                    on_frames: Callable[[int], None]) -> None:
    """Evaluate on a cluster that sees dataset and bundles at the same paths."""
    from fastdrive_ros.tools.label_fleet import ray_session

    with ray_session(address, workers, gpus=0) as ray:
        gpus = 0 if job.on_cpu else 1
        actor_class = ray.remote(num_cpus=1, num_gpus=gpus)(SceneEvaluator)
        queue = list(reversed(tasks))
        running: dict[Any, tuple[Any, Task]] = {}

        def give(actor: Any) -> None:
            if queue:
                task = queue.pop()
                running[actor.evaluate.remote(task)] = (actor, task)

        for _ in range(min(workers, len(tasks))):
            give(actor_class.remote(job))
        frames = 0
        while running:
            done, _ = ray.wait(list(running))
            actor, task = running.pop(done[0])
            try:
                on_result(ray.get(done[0]))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, (DataError, EngineError, OSError)):
                    raise error.cause from None  # the sentence, without the worker's traceback
                raise
            except ray.exceptions.RayActorError as error:
                raise DataError(f'{_DIED} ({error})') from error
            frames += task.drive.num_frames
            on_frames(frames)
            give(actor)


_here: dict[str, Any] = {}


def _start(job: Job, frames: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us, once
    _here.update(evaluator=None, job=job, frames=frames, stop=stop, parent=os.getppid())


def _evaluate(task: Task) -> SceneResult:
    if _here['evaluator'] is None:  # not in _start, whose errors nobody hears
        _here['evaluator'] = SceneEvaluator(_here['job'])
    return _here['evaluator'].evaluate(task, _count)


class _StoppedError(Exception):
    """The parent wants an end, or is gone; the scene is given up."""


def _count() -> None:
    if os.getppid() != _here['parent']:
        os._exit(1)  # killed above our heads: nobody will ever ask for another scene
    if _here['stop'].is_set():
        raise _StoppedError
    with _here['frames'].get_lock():
        _here['frames'].value += 1
