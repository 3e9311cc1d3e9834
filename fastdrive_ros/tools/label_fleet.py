# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Shards -> workers on Ray, on this computer or on a cluster; the only file that drives Ray.

Each worker is an actor that keeps the models and gets one shard at a time. A worker that dies is
replaced and its shard given out again. Progress is asked for, not streamed: the Ray client
(ray://...) has no streaming actor methods.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastdrive_ros.data.records import DataError
from fastdrive_ros.tools.label_worker import Job
from fastdrive_ros.tools.label_worker import LabelWorker

# Nothing goes through the object store here: tasks carry a name, results a sentence. Ray's least.
_OBJECT_STORE_BYTES = 80 * 2 ** 20
_POLL_S = 1.0
_MAX_TRIES = 3


@dataclass(frozen=True)
class Task:
    """One shard to label."""

    split: str
    shard: int
    pictures: int

    def __str__(self) -> str:
        """Return the shard's path below the dataset."""
        return f'{self.split}/{self.shard:06d}'


@contextmanager
def ray_session(address: str | None, workers: int, gpus: int) -> Iterator[Any]:
    """Give the ray module, connected: to a cluster, or to one of our own that ends with us."""
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'  # Ray reports home otherwise
    # Ray warns that it will change what it does without GPUs; our workers are told their device.
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')
    import ray

    quiet = {'log_to_driver': False, 'logging_level': 'ERROR'}
    try:
        if address is None:
            # A checkout that is not installed is found by the workers, too, wherever they start.
            modules = {'env_vars': {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}}
            ray.init('local', num_cpus=workers, num_gpus=gpus, include_dashboard=False,
                     object_store_memory=_OBJECT_STORE_BYTES, runtime_env=modules, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(f'Ray could not start ({_line(error)}). With --address: does a cluster '
                        'run there, with the same Python, Ray and RAY_AUTH_MODE? `ray status` on '
                        'it says; without: is memory or /dev/shm full?') from error
    try:
        yield ray
    finally:
        ray.shutdown()


class Fleet:
    """Workers and the shards they are at."""

    def __init__(self, ray: Any, job: Job, workers: int, on_message: Callable[[str], None],
                 on_pictures: Callable[[int], None]) -> None:
        """Start the workers; on_pictures hears of pictures done, all together."""
        self._ray = ray
        self._job = job
        self._say = on_message
        self._on_pictures = on_pictures
        gpus = 1 if job.device.startswith('cuda') else 0
        # Two threads of control: one labels, one answers how far it is.
        self._actor_class = ray.remote(num_cpus=1, num_gpus=gpus, max_concurrency=2)(LabelWorker)
        self._running: dict[Any, tuple[Any, Task | None]] = {}
        self._tries: Counter[Task] = Counter()
        self._whole_pictures = 0
        self._workers = workers

    def run(self, tasks: Sequence[Task]) -> dict[Task, str]:
        """Label all shards; return {shard: why it cannot be read}, empty when all is well."""
        queue = deque(tasks)
        failures: dict[Task, str] = {}
        try:
            for _ in range(min(self._workers, len(queue))):
                self._start()
            while self._running:
                done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
                for reference in done:
                    actor, task = self._running.pop(reference)
                    self._settle(reference, actor, task, queue, failures)
                self._on_pictures(self._whole_pictures + self._pictures_under_way())
        finally:
            for actor, _ in self._running.values():
                self._ray.kill(actor)
        return failures

    def _start(self) -> None:
        actor = self._actor_class.remote(self._job)
        self._running[actor.ready.remote()] = (actor, None)

    def _settle(self, reference: Any, actor: Any, task: Task | None, queue: deque[Task],
                failures: dict[Task, str]) -> None:
        """Take what came of a call; give the worker its next shard."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (DataError, OSError)):
                raise _told(error.cause) from None  # the sentence, without the worker's traceback
            raise
        except self._ray.exceptions.RayError as error:  # died, or was killed for its memory
            self._replace(task, error, queue)
            return
        if task is None:
            self._say(f'a worker is ready on {answer}')
        else:
            self._whole_pictures += task.pictures
            if answer:
                failures[task] = answer
        if queue:
            following = queue.popleft()
            label = actor.label.remote(following.split, following.shard)
            self._running[label] = (actor, following)
        else:
            self._ray.kill(actor)

    def _replace(self, task: Task | None, error: Exception, queue: deque[Task]) -> None:
        """Give a dead worker's shard to a new one."""
        if task is None:
            raise DataError(f'a worker did not start ({_line(error)}): are fastdrive_ros[label], '
                            'torch and transformers installed on every machine, and is there '
                            'memory for the models?') from error
        self._tries[task] += 1
        if self._tries[task] == _MAX_TRIES:
            raise DataError(f'the worker died {_MAX_TRIES} times at shard {task}, most likely for '
                            'want of memory: label with fewer --workers, or lower '
                            'boxes_per_batch in the foreground config') from error
        self._say(f'a worker died at shard {task}: the shard starts again')
        queue.appendleft(task)
        self._start()

    def _pictures_under_way(self) -> int:
        asked = [actor.pictures.remote() for actor, task in self._running.values() if task]
        if not asked:
            return 0
        answered, _ = self._ray.wait(asked, num_returns=len(asked), timeout=_POLL_S)
        return sum(self._count(reference) for reference in answered)

    def _count(self, reference: Any) -> int:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError:
            return 0  # its shard's own call says so, too, and is where a death is dealt with


def _told(error: DataError | OSError) -> Exception:
    """Return what to raise here for what a worker raised."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError('the disk is full: whole shards are kept, make room and start again')
    return error


def _line(error: Exception) -> str:
    """Return the message's last line: Ray puts the cause there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip('.') if lines else type(error).__name__
