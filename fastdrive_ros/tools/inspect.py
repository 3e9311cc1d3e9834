# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive inspect`: of a bag preset, rates, stamps, sweeps, gaps; a bundle: inspect_bundle."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import PresetFit
from fastdrive_ros.bags import fit_presets
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.tools.bag_survey import image_topics
from fastdrive_ros.tools.bag_survey import survey
from fastdrive_ros.tools.inspect_bundle import inspect_bundle
from fastdrive_ros.tools.inspect_bundle import print_bundle
from fastdrive_ros.tools.tables import print_table

_EPILOG = """\
examples:
  fastdrive inspect bags/sim_intersection_10hz --picture path.png
  fastdrive inspect engines/nano

The picture shows where the vehicle went, on the ground, in what its cameras saw: where that lies
on the driven lane, the bag's stamps, calibration, transforms and odometry agree.

Exit code 0: plans can be made on it. 1: not as it is (the reasons are listed).
Of a bundle every file is verified, and what it takes of a GPU's memory is added up.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'inspect', help='say what a bag or a model bundle holds', epilog=_EPILOG,
        description='Say which topic preset fits a bag, its rates and stamp spreads, how many '
        'sweeps it makes, what is missing, and the command to run next. Of a model bundle: its '
        'cameras, tokens, planner, graphs, training and memory.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path, metavar='BAG',
                        help='rosbag2 folder, .mcap or .db3 file; or a bundle with manifest.json')
    parser.add_argument('--json', action='store_true', help='print one JSON document instead')
    parser.add_argument('--picture', type=Path, metavar='PNG',
                        help='draw the driven path into a few sweeps of the cameras')


def run(args: argparse.Namespace) -> int:
    """Inspect; 0 when plans can be made on the bag, or the bundle is whole."""
    if (args.bag / 'manifest.json').is_file():
        if args.picture:
            raise ConfigError('--picture draws the driven path of a bag, a bundle has none')
        report = inspect_bundle(args.bag)
        print(json.dumps(report, indent=2)) if args.json else print_bundle(report)
        return 0
    with Bag(args.bag) as bag:
        fits = fit_presets(bag.topics)
        best = fits[0]
        report = _survey(bag, best) if best.cameras else _nothing(bag)
        report['preset_scores'] = {fit.preset: round(fit.score, 3) for fit in fits}
        sync, odometry = report.get('sync'), report.get('odometry')
        plannable = bool(sync and sync['whole'] + sync['partial'] and odometry)
        report['next'] = _next_command(args.bag) if plannable else ''
        if args.json:
            print(json.dumps(report, indent=2))
        else:
            _print(report)
        if args.picture:
            _draw(bag, best, args.picture)
    return 0 if plannable else 1


def _draw(bag: Bag, fit: PresetFit, path: Path) -> None:
    from fastdrive_ros.tools.path_picture import draw

    draw(bag, fit, check_settings(read_preset(fit.preset)), path)
    print(f'picture: {path}', file=sys.stderr)


def _survey(bag: Bag, fit: PresetFit) -> dict[str, Any]:
    return survey(bag, fit, check_settings(read_preset(fit.preset)))


def _nothing(bag: Bag) -> dict[str, Any]:
    others = image_topics(bag)
    advice = (f"image topics of no preset: {', '.join(others)}. Name them in a parameter file "
              '(camera_topics.CAM_FRONT and so on) and give it with --params-file'
              if others else 'no image topic at all: nothing to plan from')
    return {'bag': str(bag.path), 'duration_s': round(bag.duration_s, 3), 'preset': '',
            'cameras': {}, 'troubles': [advice],
            'topics': {topic.name: topic.type for topic in bag.topics.values()}}


def _next_command(bag: Path) -> str:
    return f'fastdrive replay {bag}'


def _print(report: Mapping[str, Any]) -> None:
    print(f"{report['bag']}: {report['duration_s']:.1f} s")
    scores = ', '.join(f'{name} {score:.0%}' for name, score in report['preset_scores'].items()
                       if score)
    print(f"preset {report['preset'] or 'none'}   [{scores or 'none finds a camera'}]\n")
    if report['cameras']:
        first = next(iter(report['cameras'].values()))
        print_table(f"cameras: {first['topic']} ({first['type']}) and so on",
                    ('camera', 'count', 'Hz', 'gap ms', 'size', 'format', 'kB', 'log delay ms',
                     'info'),
                    [_camera_row(camera, facts) for camera, facts in report['cameras'].items()])
        _print_sync(report['sync'])
    else:
        print_table('topics', ('topic', 'type'), list(report['topics'].items()))
    if report.get('odometry'):
        _print_odometry(report['odometry'])
    if 'tf' in report:
        print(f"tf: {', '.join(report['tf']) or 'none (not needed: no transform is looked up)'}")
    for trouble in report['troubles']:
        print(f'note: {trouble}')
    print(f"\nnext: {report['next']}" if report['next'] else '\nno plan can be made on this bag')


def _camera_row(camera: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    gap, delay, info = facts['gap_ms'], facts['log_after_stamp_ms'], facts['camera_info']
    return (camera, str(facts['messages']), f"{facts['rate_hz']:.2f}",
            f"{gap['min']:.0f}..{gap['max']:.0f}" if gap else '-',
            '{}x{}'.format(*facts['size']) if facts['size'] else '?', facts['format'][:24],
            f"{facts['mean_kB']:.0f}", f"{delay['p50']:.0f}, max {delay['max']:.0f}",
            'none' if not info else 'fits' if tuple(info) == tuple(facts['size'] or ()) else
            '{}x{}'.format(*info))


def _print_sync(sync: Mapping[str, Any]) -> None:
    spread = sync['spread_ms']
    print(f"sweeps: {sync['whole']} whole, {sync['partial']} partial, {sync['refused']} refused"
          + (f"; stamp spread p50 {spread['p50']:.1f} ms, max {spread['max']:.1f} ms "
             f"(window {sync['window_ms']:g} ms)" if spread else ''))
    for what, count in sync['frame_drops'].items():
        print(f'  dropped {count} of {what}')


def _print_odometry(odometry: Mapping[str, Any]) -> None:
    delay, burst = odometry['log_after_stamp_ms'], odometry['largest_burst']
    print(f"odometry: {odometry['topic']}, {odometry['messages']} messages, "
          f"{odometry['rate_hz']:.1f} Hz, {odometry['frame_id']} -> {odometry['child_frame_id']}, "
          f"logged {delay['p50']:.0f} (max {delay['max']:.0f}) ms after its stamp"
          + (f', in bursts of up to {burst} (normal for converted bags)' if burst > 2 else ''))
