# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive sim`: the simulated world as a live vehicle on ROS 2 topics."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.data_sim import picture_size

if TYPE_CHECKING:
    from fastdrive_ros.ros.sim_node import SimReport

_DESCRIPTION = """\
Drive the simulated world live: six cameras with their calibration, odometry, tf and /clock, on
the topics of the default preset. Drives seed after seed until Ctrl-C; between two drives /clock
goes 5 s ahead, because the vehicle is put elsewhere.

Whoever listens needs use_sim_time. Slower than asked, it says by how much: in the log, on
/diagnostics and at the end. Needs once: `fastdrive data assets`.
"""
_EPILOG = """\
examples:
  fastdrive sim
  fastdrive sim --seed 7 --speed 0.5 --seconds 60
  ros2 launch fastdrive_ros sim.launch.py rviz:=true     # the planner with it

Ends with one line of JSON.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'sim', help='drive the simulated world live', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0, metavar='N',
                        help='of the first drive; the next count up (default: %(default)s). '
                        '`fastdrive data sim` never trains on 200000000 and above')
    parser.add_argument('--speed', type=float, default=1.0, metavar='X',
                        help='simulated seconds a second (default: %(default)g); 0: as fast as '
                        'it renders')
    parser.add_argument('--rate-hz', type=float, default=10.0, metavar='HZ',
                        help='pictures a simulated second, 10 divided by a whole number '
                        '(default: %(default)g)')
    parser.add_argument('--seconds', type=float, default=0.0, metavar='S',
                        help='end after so many simulated seconds (default: never)')
    parser.add_argument('--size', type=picture_size, default=(448, 252), metavar='WxH',
                        help='of the pictures (default: 448x252)')


def run(args: argparse.Namespace) -> int:
    """Drive; 0 at the end of --seconds."""
    from fastdrive_ros.tools.live import use_wheels

    use_wheels()
    from fastdrive_ros.ros.sim_node import simulator

    width, height = args.size
    settings = {'seed': args.seed, 'speed': args.speed, 'rate_hz': args.rate_hz,
                'seconds': args.seconds, 'width': width, 'height': height}
    with simulator(settings=settings) as node:
        try:
            node.drive()
        finally:  # Ctrl-C is how most drives end
            print_report(node.report, args.speed)
    return 0


def print_report(report: SimReport, speed: float) -> None:
    """Print what was driven, and a line of JSON."""
    factor = report.simulated_s / report.elapsed_s if report.elapsed_s else 0.0
    outcomes = ', '.join(f'{count} {outcome}' for outcome, count in report.outcomes.items())
    print(f'{report.simulated_s:.0f} s driven in {report.elapsed_s:.0f} s, {report.frames} '
          f'six-camera frames; drives ended: {outcomes or "none"}')
    if report.behind_s:
        print(f'note: {report.behind_s:.1f} s behind the speed of {speed:g} that was asked')
    print(json.dumps({
        'simulated_s': round(report.simulated_s, 1), 'elapsed_s': round(report.elapsed_s, 1),
        'real_time_factor': round(factor, 3), 'speed': speed, 'frames': report.frames,
        'behind_s': round(report.behind_s, 1), 'outcomes': dict(report.outcomes)}))
