# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A labelled dataset -> tables, quality sheet, warnings, and a last line of JSON.

All of it is about the whole dataset, earlier runs' shards too: the reports beside the shards tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.data.records import DataError
from fastdrive_ros.tools.tables import print_table

if TYPE_CHECKING:
    from fastdrive_ros.learn.foreground import ForegroundConfig
    from fastdrive_ros.learn.label_report import Coverage
    from fastdrive_ros.learn.label_report import PictureReport
    from fastdrive_ros.tools.label_fleet import Task
    from fastdrive_ros.tools.label_sheet import Tile

_TILES = 24
_DAMAGED_SHOWN = 10


def finish(out: Path, tasks: Sequence[Task], troubles: list[str], config: ForegroundConfig,
           sheet: Path) -> int:
    """Print what the labelling came to and draw the sheet; return the exit code."""
    from fastdrive_ros.learn.label_report import Coverage

    coverage, readable = Coverage(), []
    for task in tasks:
        try:
            for picture in _report(out, task):
                coverage.add(picture)
            readable.append(task)
        except DataError as error:
            troubles.append(str(error))
    classes = [sought.name for sought in config.classes]
    _print_tables(coverage, classes)
    empty = [name for name in classes if not coverage.with_class.get(name)]
    for name in empty if coverage.pictures else ():
        print(f'warning: no picture shows {name}: its prompts may not fit, or its thresholds are '
              'too high')
    _print_damaged(coverage.damaged, troubles)
    if coverage.pictures:
        _write_sheet(out, readable, coverage, classes, sheet)
        print(f'wrote {out}; look at {sheet}')
    print(json.dumps({
        'pictures': coverage.pictures, 'damaged_pictures': len(coverage.damaged),
        'shards': len(readable), 'troubles': len(troubles), 'latency': coverage.latency(),
        'pictures_with_class': {name: coverage.with_class.get(name, 0) for name in classes},
        'foreground_share': coverage.foreground_share(),
        'sheet': str(sheet) if coverage.pictures else None}))
    return 1 if coverage.damaged or troubles else 0


def _report(out: Path, task: Task) -> Iterator[PictureReport]:
    from fastdrive_ros.learn.label_report import read_report

    return read_report(out, task.split, task.shard)


def _print_tables(coverage: Coverage, classes: Sequence[str]) -> None:
    print_table('time per picture', ('stage', 'median ms', 'p95 ms'), [
        (stage, f"{values['median_ms']:.1f}", f"{values['p95_ms']:.1f}")
        for stage, values in coverage.latency().items()])
    print_table(f'found in {coverage.pictures} pictures', ('class', 'pictures', 'share'), [
        (name, str(coverage.with_class.get(name, 0)),
         f'{coverage.with_class.get(name, 0) / max(coverage.pictures, 1):.1%}')
        for name in classes])
    print_table('foreground', ('camera', 'pictures', 'mean share'), [
        (camera, str(len(coverage.by_camera[camera])), f'{share:.1%}')
        for camera, share in coverage.foreground_share().items()])


def _print_damaged(damaged: Sequence[PictureReport], troubles: Sequence[str]) -> None:
    for picture in damaged[:_DAMAGED_SHOWN]:
        print(f'not labelled: {picture.scene} frame {picture.index} {picture.camera}: '
              f'{picture.damage}')
    if len(damaged) > _DAMAGED_SHOWN:
        print(f'not labelled: {len(damaged) - _DAMAGED_SHOWN} more pictures')
    for trouble in troubles:
        print(f'left out: {trouble}')


def _write_sheet(out: Path, tasks: Sequence[Task], coverage: Coverage, classes: Sequence[str],
                 sheet: Path) -> None:
    import cv2

    from fastdrive_ros.tools.label_sheet import draw_sheet

    total = coverage.pictures + len(coverage.damaged)
    rgb = draw_sheet(list(_tiles(out, tasks, spread(total, _TILES))), classes)
    whole, png = cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert whole, 'OpenCV encodes any uint8 (H, W, 3)'
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_bytes(png.tobytes())


def spread(total: int, wanted: int) -> set[int]:
    """Return up to ``wanted`` of 0 .. total - 1, evenly spread, and not all of one camera."""
    # Reports go camera by camera: a step that is a multiple of six would show one camera only.
    return {min((2 * i + 1) * total // (2 * wanted) + i % 6, total - 1) for i in range(wanted)}


def _tiles(out: Path, tasks: Sequence[Task], chosen: set[int]) -> Iterator[Tile]:
    from fastdrive_ros.data.store import Dataset

    labelled = Dataset(out)
    ordinal = -1
    for task in tasks:
        for picture in _report(out, task):
            ordinal += 1
            if ordinal in chosen and not picture.damage:
                yield _tile(labelled, picture)


def _tile(labelled: Any, picture: PictureReport) -> Tile:
    import cv2
    import numpy as np

    from fastdrive_ros.learn.label_shard import decode_picture
    from fastdrive_ros.tools.label_sheet import Tile

    drives = [drive for drive in labelled.drives(picture.split)
              if int(drive.shard.name) == picture.shard]
    _, frames = labelled.read(drives[picture.drive], (picture.camera,))
    shown = frames[picture.index].pictures[picture.camera]
    header = labelled.header
    return Tile(f'{picture.split}/{picture.shard:06d} {picture.scene} #{picture.index} '
                f'{picture.camera}',
                decode_picture(shown, (header.image_width, header.image_height)),
                cv2.imdecode(np.frombuffer(shown.mask_png, np.uint8), cv2.IMREAD_GRAYSCALE),
                [(box.name, box.score, box.corners_px) for box in picture.boxes])
