# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One shard, a folder of Parquet files: drives -> row groups, and back.

    scenes.parquet, frames.parquet                  row group i of both is drive i
    failed_scenes.parquet, failed_frames.parquet    the same for drives that failed, where any did

Pages carry checksums: a bit that flips on the disk is an error when it is read, not a picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastdrive_ros.data import schema
from fastdrive_ros.data.records import COMMANDS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord

_SCENES, _FRAMES, _FAILED = 'scenes.parquet', 'frames.parquet', 'failed_'
_NUM_FRAMES = 'num_frames'


@dataclass(frozen=True)
class Drive:
    """Where a drive lies in a dataset."""

    shard: Path
    failed: bool
    row_group: int
    num_frames: int


@dataclass(frozen=True)
class Weight:
    """What a camera's pictures of one drive take on the disk."""

    pictures: int
    jpeg_bytes: int
    mask_bytes: int


class ShardWriter:
    """Writes the files of one shard; DatasetWriter.shard makes it and finishes it."""

    def __init__(self, folder: Path, cameras: Sequence[str]) -> None:
        """Take an empty folder."""
        self.frames_written = 0
        """Frames of good drives so far."""
        self._folder = folder
        self._cameras = tuple(cameras)
        self._files: dict[str, pq.ParquetWriter] = {}

    def add(self, scene: SceneRecord, frames: Sequence[FrameRecord]) -> None:
        """Write one drive, whole; a failed one goes to the files of its own."""
        _check(scene, frames, self._cameras)
        kind = '' if scene.good else _FAILED
        self._begin(kind)
        self._files[kind + _FRAMES].write_table(schema.frames_to_table(frames, self._cameras))
        self._files[kind + _SCENES].write_table(schema.scene_to_table(scene, len(frames)))
        self.frames_written += len(frames) if scene.good else 0

    def finish(self) -> None:
        """Write the footers, and have the disk keep it all."""
        self._begin('')
        for name, file in self._files.items():
            file.close()
            sync(self._folder / name)
        sync(self._folder)

    def abandon(self) -> None:
        """Let go of the files, which are to be removed."""
        for file in self._files.values():
            # A full disk refuses the footer, too; why the shard is abandoned is being raised.
            with suppress(OSError, pa.ArrowException):
                file.close()

    def _begin(self, kind: str) -> None:
        """Open the two files for good or failed drives, unless they are."""
        if kind + _SCENES in self._files:
            return
        for name, columns in ((_SCENES, schema.SCENES),
                              (_FRAMES, schema.frames_schema(self._cameras))):
            kinds = schema.leaves(columns)
            packed = {path: 'none' if pa.types.is_binary(leaf) else 'zstd'
                      for path, leaf in kinds.items()}
            words = [path for path, leaf in kinds.items() if pa.types.is_string(leaf)]
            counted = [path for path, leaf in kinds.items() if not pa.types.is_binary(leaf)]
            self._files[kind + name] = pq.ParquetWriter(
                self._folder / (kind + name), columns, compression=packed, use_dictionary=words,
                write_statistics=counted, write_page_checksum=True)


def list_drives(folder: Path, cameras: Sequence[str]) -> list[Drive]:
    """
    Return the drives of a shard from its footers, good ones first.

    Raises DataError when the shard is damaged.
    """
    return [*_list_drives(folder, '', cameras), *(
        _list_drives(folder, _FAILED, cameras)
        if any((folder / (_FAILED + name)).exists() for name in (_SCENES, _FRAMES)) else ())]


def read_scene(drive: Drive) -> SceneRecord:
    """Read what is known of a drive as a whole; raises DataError when it is damaged."""
    with _opened(drive.shard, _name(drive, _SCENES)) as file:
        return schema.scene_from_table(file.read_row_group(drive.row_group))


def read_frames(drive: Drive, cameras: Sequence[str], masks: bool) -> list[FrameRecord]:
    """Read a drive's frames, with the pictures of these cameras only; raises DataError."""
    with _opened(drive.shard, _name(drive, _FRAMES)) as file:
        table = file.read_row_group(drive.row_group, schema.frame_columns(cameras, masks))
        return schema.frames_from_table(table, cameras)


def weigh(drive: Drive, cameras: Sequence[str]) -> dict[str, Weight]:
    """Return {camera: Weight} from the footer; no picture is read."""
    with _opened(drive.shard, _name(drive, _FRAMES)) as file:
        group = file.metadata.row_group(drive.row_group)
        columns = {group.column(i).path_in_schema: group.column(i)
                   for i in range(group.num_columns)}
        return {camera: Weight(
            group.num_rows - columns[f'{camera}.stamp_ns'].statistics.null_count,
            columns[f'{camera}.jpeg'].total_compressed_size,
            columns[f'{camera}.mask_png'].total_compressed_size) for camera in cameras}


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(drive: Drive, name: str) -> str:
    return _FAILED + name if drive.failed else name


def _list_drives(folder: Path, kind: str, cameras: Sequence[str]) -> Iterator[Drive]:
    with _opened(folder, kind + _SCENES) as scenes, _opened(folder, kind + _FRAMES) as frames:
        for file, columns in ((scenes, schema.SCENES), (frames, schema.frames_schema(cameras))):
            if not file.schema_arrow.equals(columns):
                raise DataError(_damaged(folder, 'columns that are not those of the format'))
        counts = scenes.read([_NUM_FRAMES])[_NUM_FRAMES].to_pylist()
        rows = [frames.metadata.row_group(i).num_rows for i in range(frames.num_row_groups)]
        if counts != rows or scenes.num_row_groups != len(counts):
            raise DataError(_damaged(
                folder, f'{kind}{_SCENES} tells of {counts} frames, {kind}{_FRAMES} has {rows}'))
    for i, count in enumerate(counts):
        yield Drive(folder, bool(kind), i, count)


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[pq.ParquetFile]:
    """Open one of a shard's files; what goes wrong until it is closed is damage, as DataError."""
    if not (folder / name).is_file():
        raise DataError(_damaged(folder, f'{name} is missing'))
    try:
        with pq.ParquetFile(folder / name, page_checksum_verification=True) as file:
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not Arrow's: no damage
            raise OSError(error.errno, os.strerror(error.errno), str(folder / name)) from error
        raise DataError(_damaged(folder, f'{name}: {error}')) from error


def _damaged(folder: Path, reason: str) -> str:
    return (f'{folder} is damaged ({reason}): remove that folder and run the command that made '
            'the dataset again, it makes what is missing')


def _check(scene: SceneRecord, frames: Sequence[FrameRecord], cameras: Sequence[str]) -> None:
    """Raise ValueError for records that break the promises of records.py."""
    stamps_ns = [frame.stamp_ns for frame in frames]
    for right, promise in (
            (all(frame.scene == scene.name for frame in frames), "frames bear the scene's name"),
            ([frame.index for frame in frames] == list(range(len(frames))), 'indices are 0, 1, 2'),
            (all(a < b for a, b in zip(stamps_ns, stamps_ns[1:])), 'stamps of frames increase'),
            (all(stamp_ns > 0 for stamp_ns in (*stamps_ns[:1], *scene.ego.stamps_ns[:1])),
             'stamps are above 0, core/ego.py takes no other'),
            (all(frame.command in COMMANDS for frame in frames), f'commands are of {COMMANDS}'),
            (all(set(frame.pictures) <= set(cameras) for frame in frames),
             f'pictures are of {tuple(cameras)}')):
        if not right:
            raise ValueError(f'scene {scene.name} breaks a promise of its records: {promise}')
