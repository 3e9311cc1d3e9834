# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What one Ray actor does: load the models once, then label shard after shard.

Nothing here names Ray: label_fleet makes an actor of the class.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastdrive_ros import __version__
from fastdrive_ros.data.records import DataError

if TYPE_CHECKING:
    from fastdrive_ros.data.header import DatasetHeader
    from fastdrive_ros.learn.foreground import ForegroundConfig


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know; the same for each of them."""

    source: Path
    target: Path
    source_header: DatasetHeader
    target_header: DatasetHeader
    detector: Path
    segmenter: Path
    config: ForegroundConfig
    device: str
    threads: int
    version: str = __version__


class LabelWorker:
    """Models on one device; one shard at a time."""

    def __init__(self, job: Job) -> None:
        """Remember the job; loading is `ready`, whose errors reach the driver."""
        self._job = job
        self._pictures = 0

    def ready(self) -> str:
        """Check what this machine sees and load; return the machine's name."""
        import torch

        from fastdrive_ros.data.store import Dataset
        from fastdrive_ros.data.store import DatasetWriter
        from fastdrive_ros.learn.grounded_sam import GroundedSam

        machine = socket.gethostname()
        job = self._job
        if __version__ != job.version:
            raise DataError(f'fastdrive_ros is {job.version} here and {__version__} on '
                            f'{machine}: install the same version on every machine')
        for folder in (job.source, job.target, job.detector, job.segmenter):
            if not folder.is_dir():
                raise DataError(f'{machine} does not see {folder}: put it where every machine of '
                                'the cluster has it at the same path (a shared folder)')
        self._source = Dataset(job.source)
        if self._source.header != job.source_header:
            raise DataError(f'{machine} has another dataset at {job.source}: put it on a folder '
                            'that all machines share')
        self._writer = DatasetWriter(job.target, job.target_header, print)
        torch.set_num_threads(job.threads)
        self._model = GroundedSam(job.detector, job.segmenter, job.config, job.device)
        return machine

    def label(self, split: str, shard: int) -> str:
        """Label one shard; return '' or why this one shard cannot be read."""
        from fastdrive_ros.learn.label_shard import DamagedShardError
        from fastdrive_ros.learn.label_shard import label_shard

        try:
            label_shard(self._model, self._source, self._writer, split, shard, self._count)
        except DamagedShardError as error:
            return str(error)
        finally:
            self._pictures = 0
        return ''

    def pictures(self) -> int:
        """Return how many pictures of the current shard are done; answers while `label` runs."""
        return self._pictures

    def _count(self, pictures: int) -> None:
        self._pictures += pictures

