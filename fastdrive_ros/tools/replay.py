# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive replay BAG`: play a bag through the live node over DDS, and say how it went."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import check_settings
from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.tools.appearing import appearing
from fastdrive_ros.tools.live import LiveSession
from fastdrive_ros.tools.live import live_session
from fastdrive_ros.tools.live import use_wheels
from fastdrive_ros.tools.options import add_settings_options
from fastdrive_ros.tools.options import given_settings
from fastdrive_ros.tools.tables import print_latency

_LATE_MS = 50.0
_EPILOG = """\
example:
  fastdrive replay bags/sim_intersection_10hz --rate 0.5 --loop 3

The node is a process of its own with use_sim_time; watch it meanwhile with RViz or `ros2 topic`.
Exit code 0: at least one plan came. 1: none came (the reasons are printed).
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'replay', help='play a bag through the live node', epilog=_EPILOG,
        description='Start the planner node, play a bag to it over DDS with /clock, and print '
        'what it published, what it refused and how long every stage took.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--rate', type=float, default=1.0, help='speed (default: %(default)s)')
    parser.add_argument('--loop', type=int, default=1, metavar='N',
                        help='play N times; the clock jumps back, as with ros2 bag play --loop')
    parser.add_argument('--record', type=Path, metavar='DIR',
                        help="write the node's trajectories and cycles to a bag")
    add_settings_options(parser)


def run(args: argparse.Namespace) -> int:
    """Replay; 0 when at least one plan came."""
    if args.rate <= 0.0 or args.loop < 1:
        raise ConfigError(f'--rate must be above 0 and --loop at least 1, found {args.rate:g} and '
                          f'{args.loop}')
    if args.record and args.record.exists():
        raise ConfigError(f'{args.record} is there already: choose another --record')
    use_wheels()
    with ExitStack() as stack:
        bag = stack.enter_context(Bag(args.bag))
        given = at_rate(given_settings(args, bag), args.rate)
        recorder = _Recorder()
        if args.record:
            folder = stack.enter_context(appearing(args.record))
            recorder.writer = stack.enter_context(BagWriter(folder))
        session = stack.enter_context(live_session(
            bag, given, record=recorder if args.record else None, on_progress=_say))
        recorder.session = session
        for topic, reason in session.player.skipped.items():
            _say(f'not played: {topic} ({reason})')
        _say(f'playing {bag.duration_s / args.rate:.0f} s' + (
            f', {args.loop} times' if args.loop > 1 else ''))
        for _ in range(args.loop):
            session.player.play(args.rate, keep_going=session.keep_going)
        session.settle()
        print_outcome(session)
    return 0 if session.listener.plans else 1


def at_rate(given: dict[str, Any], rate: float) -> dict[str, Any]:
    """
    Return the settings for a slower playback: sweeps take longer to come in, so wait longer.

    The deadline is wall time, because on a vehicle there is no other.
    """
    deadline_ms = check_settings(given)['sync.deadline_ms']
    return given if rate >= 1.0 else {**given, 'sync.deadline_ms': deadline_ms / rate}


class _Recorder:
    """Writes what the node said, at bag time."""

    writer: BagWriter
    session: LiveSession

    def __call__(self, topic: str, type_name: str, data: bytes) -> None:
        self.writer.write(topic, type_name, self.session.player.now_ns, data)


def print_outcome(session: LiveSession) -> None:
    """Print plans, refusals by reason and the latency of every stage."""
    listener, player = session.listener, session.player
    cycles = listener.cycles
    partial = sum(bool(cycle.values['missing_cameras']) and not cycle.refusal for cycle in cycles)
    superseded = cycles[-1].values['superseded'] if cycles else '0'
    print(f'{player.published} messages played; {len(listener.plans)} plans, {partial} of them '
          f'without a camera; {superseded} sets superseded by newer ones')
    messages = {cycle.refusal: cycle.message for cycle in cycles if cycle.refusal}
    for reason, count in Counter(cycle.refusal for cycle in cycles if cycle.refusal).items():
        print(f'  refused {count}: {messages[reason]}')
    if not cycles:
        print(f'no cycle at all; its log: {session.node.last_words()}')
        return
    window = LatencyWindow(len(cycles))
    for cycle in cycles:
        window.record(cycle.stage_ms)
    print_latency(f"latency on {cycles[-1].values['backend']}, keep ratio "
                  f"{cycles[-1].values['keep_ratio']}", window.summary())
    if player.lag_ms > _LATE_MS:
        print(f'note: messages left up to {player.lag_ms:.0f} ms late, this computer is too slow '
              'for the rate')


def _say(text: str) -> None:
    print(text, file=sys.stderr)
