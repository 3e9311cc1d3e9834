# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data inspect DATASET`: counts, sizes, balances, a contact sheet; and is it whole."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.core.classes import FOREGROUND
from fastdrive_ros.tools.progress import showing
from fastdrive_ros.tools.tables import print_table

if TYPE_CHECKING:  # pyarrow is not needed for --help
    from fastdrive_ros.data.store import Dataset

_EPILOG = """\
example:
  fastdrive data inspect my_dataset --sheet sheet.png
  fastdrive data inspect my_dataset --verify      # reads every byte

Exit code 0: nothing wrong was found. 1: something was (the reasons are listed).
"""
_BAR = 40
_TROUBLES_SHOWN = 20


def add_parser(subparsers: Any) -> None:
    """Add the word."""
    parser = subparsers.add_parser(
        'inspect', help='say what a dataset holds, draw a contact sheet', epilog=_EPILOG,
        description='Count scenes, frames and pictures, show the balance of classes, commands '
        'and conditions, and say what is damaged.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', type=Path, metavar='DATASET', help='folder with dataset.json')
    parser.add_argument('--json', action='store_true', help='print one JSON document instead')
    parser.add_argument('--sheet', type=Path, metavar='PNG',
                        help='draw eight frames with their masks')
    parser.add_argument('--verify', action='store_true',
                        help='read every byte, decode every picture and mask')
    parser.add_argument('--digest', action='store_true',
                        help="compute each split's checksums: equal data, equal digest")


def run(args: argparse.Namespace) -> int:
    """Inspect; 0 when nothing is wrong."""
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.tools.dataset_survey import survey

    dataset = Dataset(args.dataset)
    with showing('reading', 'drives', sum(len(dataset.drives(s)) for s in SPLITS)) as progress:
        report = survey(dataset, _counting(progress))
    if args.verify:
        report['troubles'] = list(dict.fromkeys(report['troubles'] + _verify(dataset)))
    if args.digest:
        report['digest'] = _digest(dataset)
    if args.sheet:
        from fastdrive_ros.tools.contact_sheet import draw_sheet

        draw_sheet(dataset, args.sheet)
        report['sheet'] = str(args.sheet)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report, args.verify)
    return 1 if report['troubles'] else 0


def _counting(progress: Callable[[int], None]) -> Callable[..., None]:
    """Return what adds to the count that a progress bar shows."""
    done = 0

    def add(more: int = 1) -> None:
        nonlocal done
        done += more
        progress(done)

    return add


def _verify(dataset: Dataset) -> list[str]:
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.tools.dataset_check import check

    total = sum(dataset.count(split, failed) for split in SPLITS for failed in (False, True))
    with showing('verifying', 'frames', total) as progress:
        return list(check(dataset, _counting(progress)))


def _digest(dataset: Dataset) -> dict[str, Any]:
    from fastdrive_ros.data.digest import digest
    from fastdrive_ros.data.records import SPLITS

    splits = [split for split in SPLITS if dataset.drives(split)]
    with showing('digesting', 'frames', sum(map(dataset.count, splits))) as progress:
        add = _counting(progress)
        return {split: vars(digest(dataset, split, add)) for split in splits}


def _print(report: Mapping[str, Any], verified: bool) -> None:
    width, height = report['image_size']
    print(f"{report['dataset']}: {report['name']}, {report['source']}, "
          f"{len(report['cameras'])} cameras of {width}x{height}, {report['rate_hz']:g} Hz")
    print(f"licence: {report['license'] or 'not stated'}\n")
    splits = {name: split for name, split in report['splits'].items() if split['shards']}
    if not splits:
        print('no whole shard yet: nothing to count')
    else:
        _print_splits(splits)
        _print_balances(splits)
        _print_speeds(splits)
    for name, found in report['conditions'].items():
        print(f'{name}: ' + (f"{found['min']:g} to {found['max']:g}, median {found['median']:g}"
                             if found.keys() == {'min', 'median', 'max'} else
                             ', '.join(f'{value} {count}' for value, count in found.items())))
    for split, sums in report.get('digest', {}).items():
        print(f"digest {split}: images {sums['images']}\n"
              f"{'':{len(split) + 7}}  labels {sums['labels']}")
    for trouble in report['troubles'][:_TROUBLES_SHOWN]:
        print(f'trouble: {trouble}')
    if len(report['troubles']) > _TROUBLES_SHOWN:
        print(f"... and {len(report['troubles']) - _TROUBLES_SHOWN} more, all with --json")
    if not report['troubles']:
        print('every byte was read: all is well' if verified else
              'nothing wrong with what was read; --verify reads every byte')
    if 'sheet' in report:
        print(f"wrote {report['sheet']}")


def _print_splits(splits: Mapping[str, Any]) -> None:
    print_table('splits', ('split', 'shards', 'scenes', 'frames', 'hours', 'MB', 'MB/frame',
                           'failed drives'), [
        (name, str(split['shards']), str(split['scenes']), str(split['frames']),
         f"{split['hours']:.2f}", f"{split['MB']:.1f}", f"{split['MB_per_frame']:.4f}",
         ', '.join(f'{outcome} {count}' for outcome, count in split['failed'].items()) or '0')
        for name, split in splits.items()])
    _print_across('pictures', splits, lambda split: {
        camera: str(facts['pictures']) for camera, facts in split['cameras'].items()})
    _print_across('kB a picture + kB its mask', splits, lambda split: {
        camera: f"{facts['jpeg_kB']:.1f} + {facts['mask_kB']:.1f}"
        for camera, facts in split['cameras'].items()})


def _print_balances(splits: Mapping[str, Any]) -> None:
    masks = ', '.join(f"{split['masks_sampled']} of {name}" for name, split in splits.items())
    for title, cells in (
            (f'foreground, share of pixels (masks read: {masks})', lambda split: {
                camera: _percent(facts['foreground'])
                for camera, facts in split['cameras'].items()}),
            ('classes, share of pixels (* foreground)', lambda split: {
                f"{name}{' *' if name in FOREGROUND else ''}": _percent(share)
                for name, share in split['classes'].items()}),
            ('lane centres within 30 m, projected', lambda split: _lanes(split['lane_points'])),
            ('commands, frames', lambda split: _counts(split['commands'])),
            ('traffic light ahead, frames', lambda split: _counts(split['traffic_lights'])),
            ('road users, boxes', lambda split: _counts(split['agents']))):
        _print_across(title, splits, cells)


def _lanes(points: Mapping[str, int]) -> dict[str, str]:
    """Masks, calibration, odometry and map agree where lane centres fall on the road."""
    if not points['projected']:
        return {}
    return {'points': str(points['projected']), 'not hidden by a thing': str(points['bare']),
            'of those on road or paint': _percent(points['on_road'] / max(1, points['bare']))}


def _print_speeds(splits: Mapping[str, Any]) -> None:
    """Draw how fast the vehicle was, all splits together."""
    rows = list(zip(*(split['speeds_mps'] for split in splits.values())))
    frames = [sum(bin['frames'] for bin in row) for row in rows]
    edges = [row[0]['from'] for row in rows]
    print('speed, m/s, frames')
    for low, high, count in zip(edges, [*edges[1:], float('inf')], frames):
        bar = '#' * round(_BAR * count / max(*frames, 1))
        print(f"  {low:4.1f} {f'to {high:4.1f}' if high < float('inf') else 'and up '}  "
              f'{count:7d}  {bar}'.rstrip())


def _print_across(title: str, splits: Mapping[str, Any],
                  cells: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> None:
    """Print a table with a column for each split."""
    columns = {name: cells(split) for name, split in splits.items()}
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    if rows:
        print_table(title, ('', *columns), [
            (row, *(column.get(row, '0') for column in columns.values())) for row in rows])


def _counts(counter: Mapping[str, int]) -> dict[str, str]:
    return {name: str(count) for name, count in counter.items()}


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.2f} %'
