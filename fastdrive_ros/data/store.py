# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A dataset, a folder of shards: drives -> DATASET/train/000000/frames.parquet ..., and back.

A shard is written as 000000.partial and renamed when the disk has all of it, so that a shard is
either there and whole, or can be made again. Several processes may write one dataset, each shard
by one of them. The format is explained in docs/dataset.md.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from filelock import Timeout

from fastdrive_ros.data.header import PARTIAL
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.header import read_header
from fastdrive_ros.data.header import write_header
from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.shard import Drive
from fastdrive_ros.data.shard import ShardWriter
from fastdrive_ros.data.shard import list_drives
from fastdrive_ros.data.shard import read_frames
from fastdrive_ros.data.shard import read_scene
from fastdrive_ros.data.shard import sync

_SHARD = re.compile(r'(\d{6,})(\.partial)?')


class ShardBusyError(DataError):
    """Another process is writing the shard."""


class DatasetWriter:
    """Makes a dataset, or continues one."""

    def __init__(self, root: Path, header: DatasetHeader,
                 on_message: Callable[[str], None]) -> None:
        """
        Begin the folder, or see that it was begun with the same header.

        Raises DataError where it was not, or where the folder holds something else.
        """
        write_header(root, header)
        self.root = root
        self.header = header
        self._on_message = on_message

    def done(self, split: str) -> set[int]:
        """Return the numbers of the whole shards; broken ones are removed, with a message."""
        whole = set()
        for path in _shard_folders(self.root, split):
            if path.suffix == PARTIAL:
                self._clear(split, int(path.stem))
                continue
            try:
                list_drives(path, self.header.cameras)
                whole.add(int(path.name))
            except DataError as error:
                self._on_message(f'removed, to be made again: {error}')
                shutil.rmtree(path)
        return whole

    @contextmanager
    def shard(self, split: str, number: int) -> Iterator[ShardWriter]:
        """
        Give a writer for one shard, which appears when the context ends, or not at all.

        Raises DataError when the shard is there already, or another process is writing it.
        """
        path = _split_folder(self.root, split) / f'{number:06d}'
        path.parent.mkdir(exist_ok=True)
        with self._locked(split, number):
            if path.exists():
                raise DataError(f'{path} is there already: whole shards are never written over')
            staging = path.with_name(path.name + PARTIAL)
            staging.mkdir()
            writer = ShardWriter(staging, self.header.cameras)
            try:
                yield writer
                writer.finish()
                staging.rename(path)
            except BaseException:
                writer.abandon()
                shutil.rmtree(staging)
                raise
            sync(path.parent)

    def _clear(self, split: str, number: int) -> None:
        """Remove what an interrupted run left, unless another process is still writing it."""
        with suppress(ShardBusyError), self._locked(split, number):
            pass

    @contextmanager
    def _locked(self, split: str, number: int) -> Iterator[None]:
        """Hold a shard's name, which the kernel frees however its holder dies; tidy after it."""
        path = _split_folder(self.root, split) / f'{number:06d}'
        lock = FileLock(path.with_suffix('.lock'))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ShardBusyError(f'{path} is being written by another process: wait for it, or '
                                 'stop it') from error
        try:
            if path.with_suffix(PARTIAL).exists():
                self._on_message(f'removed {path.with_suffix(PARTIAL)}: the run that wrote it was '
                                 'interrupted')
                shutil.rmtree(path.with_suffix(PARTIAL))
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


class Dataset:
    """Reads a dataset; damaged and unfinished shards are left out, see ``dropped``."""

    def __init__(self, root: Path) -> None:
        """Read the header and every footer; raises DataError when this is no dataset."""
        self.root = root
        self.header = read_header(root)
        self.dropped: list[str] = []
        """A sentence for each shard that was left out."""
        self._drives = {split: self._list_drives(split) for split in SPLITS}

    def shards(self, split: str) -> list[Path]:
        """Return the folders of the whole shards in order."""
        return list(self._drives[split])

    def drives(self, split: str, failed: bool = False) -> list[Drive]:
        """Return where the drives lie, in order: the unit of random access."""
        return [drive for drives in self._drives[split].values() for drive in drives
                if drive.failed == failed]

    def count(self, split: str, failed: bool = False) -> int:
        """Return the number of frames."""
        return sum(drive.num_frames for drive in self.drives(split, failed))

    def read(self, drive: Drive, cameras: Sequence[str] | None = None, masks: bool = True) -> (
            tuple[SceneRecord, list[FrameRecord]]):
        """
        Read one drive, with the pictures of some cameras (default: all) and their masks.

        Raises DataError where the disk has damaged it, or the dataset has no such camera.
        """
        wanted = self.header.cameras if cameras is None else tuple(cameras)
        unknown = set(wanted) - set(self.header.cameras)
        if unknown:
            raise DataError(f"{self.root} has no camera {', '.join(sorted(unknown))}: it has "
                            f"{', '.join(self.header.cameras)}")
        return read_scene(drive), read_frames(drive, wanted, masks)

    def scenes(self, split: str, failed: bool = False) -> Iterator[SceneRecord]:
        """Read scene after scene, no pictures."""
        return (read_scene(drive) for drive in self.drives(split, failed))

    def frames(self, split: str, failed: bool = False, cameras: Sequence[str] | None = None,
               masks: bool = True) -> Iterator[tuple[SceneRecord, FrameRecord]]:
        """Read frame after frame; one drive at a time is in memory."""
        for drive in self.drives(split, failed):
            scene, frames = self.read(drive, cameras, masks)
            for frame in frames:
                yield scene, frame

    def _list_drives(self, split: str) -> dict[Path, list[Drive]]:
        found = {}
        for path in _shard_folders(self.root, split):
            if path.suffix == PARTIAL:
                self.dropped.append(f'{path} is not finished: run the command that made the '
                                    'dataset again, it goes on from here')
                continue
            try:
                found[path] = list_drives(path, self.header.cameras)
            except DataError as error:
                self.dropped.append(str(error))
        return found


def _split_folder(root: Path, split: str) -> Path:
    if split not in SPLITS:
        raise DataError(f"no split '{split}': a dataset has {', '.join(SPLITS)}")
    return root / split


def _shard_folders(root: Path, split: str) -> list[Path]:
    """Return a split's shards, whole or partial, by number."""
    folder = _split_folder(root, split)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _SHARD.fullmatch(path.name)),
                  key=lambda path: (int(path.stem), path.suffix))
