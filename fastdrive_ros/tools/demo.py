# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive demo`: the sample bag through the live node; a latency table and one picture."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import bundle_path
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.config import share_dir
from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.ros.convert import to_odometry_sample
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.tools.computer import cpu_name
from fastdrive_ros.tools.live import LiveSession
from fastdrive_ros.tools.live import live_session
from fastdrive_ros.tools.live import use_wheels
from fastdrive_ros.tools.replay import print_outcome

KEEP_RATIO = 0.5
SAMPLE_BAG = Path('bags') / 'sim_intersection_10hz'

# How far into the drive the picture is taken.
_MOMENT = 0.82
_EPILOG = """\
example:
  fastdrive demo --out out/demo.png
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'demo', help='play the sample bag and draw one picture', epilog=_EPILOG,
        description='Play the sample bag (11 s, six cameras at 10 Hz) through the live ROS 2 node '
        'with half of the visual tokens kept; print the latency table, draw one picture.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bag', type=Path, help='another bag (default: the sample)')
    parser.add_argument('--bundle', default='', help='another bundle (default: engines/nano)')
    parser.add_argument('--out', type=Path, default=Path('out/demo.png'), metavar='PNG',
                        help='picture to write (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Drive and draw; 0 when at least one plan came."""
    # At the start, not after the drive: a missing matplotlib should cost nobody a minute.
    from fastdrive_ros.tools.demo_picture import draw

    use_wheels(private=True)
    with Bag(args.bag or sample_bag()) as bag:
        given = {**read_preset(choose_preset(bag).preset), 'keep_ratio': KEEP_RATIO,
                 'bundle': args.bundle}
        bundle = load_bundle(bundle_path(check_settings(given)))
        print(f'starting the node with bundle {bundle.name} ...', flush=True)
        with live_session(bag, given, overlay_cameras=bundle.cameras) as session:
            print(f'playing {bag.path.name}: {bag.duration_s:.0f} s, {len(bundle.cameras)} '
                  f'cameras, {KEEP_RATIO:.0%} of the visual tokens kept', flush=True)
            session.player.play(keep_going=session.keep_going)
            session.settle()
            print_outcome(session)
            moment = _moment(session, bag, bundle, given['odometry_topic'])
    if moment is None:
        return 1
    draw(moment, args.out)
    print(f'picture: {args.out}')
    return 0


def sample_bag() -> Path:
    """Return the bag that ships with the source; raises ConfigError when it is not there."""
    path = share_dir() / SAMPLE_BAG
    if not path.is_dir():
        raise ConfigError(f'the sample bag is not installed ({path}): run this in a clone of the '
                          'repository, or give --bag')
    return path


def _moment(session: LiveSession, bag: Bag, bundle: Bundle, odometry_topic: str) -> Any:
    """Return the Moment to draw; None when no plan came with all its overlays."""
    from fastdrive_ros.tools.demo_picture import Moment

    listener = session.listener
    complete = [plan for plan in listener.plans
                if len(listener.overlays.get(plan.stamp_ns, ())) == len(bundle.cameras)]
    if not complete:
        return None
    plan = complete[int(_MOMENT * len(complete))]
    stamps_ns, poses = _driven(bag, odometry_topic)
    pose = poses[np.abs(stamps_ns - plan.stamp_ns).argmin()]
    window = LatencyWindow(len(listener.cycles))
    for cycle in listener.cycles:
        window.record(cycle.stage_ms)
    last = listener.cycles[-1].values
    kept, total = last['kept_tokens'], last['total_tokens']
    training = 'trained' if bundle.trained else f'UNTRAINED: {bundle.untrained}'
    return Moment(
        overlays=listener.overlays[plan.stamp_ns],
        plan_m=_in_vehicle(plan.positions_m, pose),
        driven_m=_in_vehicle(poses[:, :2], pose),
        dt_s=bundle.planner['dt_s'],
        summary=window.summary(),
        title=f'Six cameras in, a trajectory out: the planner reads {kept} of {total} tokens',
        caption='  ·  '.join((
            f'bundle {bundle.name}, {training}', f'N = {total}, K = {kept}',
            f"{last['backend']} {bundle.arithmetic}", cpu_name(), bag.path.name)))


def _driven(bag: Bag, topic: str) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps int64 (P,) and poses (P, 3) x, y, yaw of the whole drive, in its own frame."""
    stamps, poses = [], []
    for message in bag.messages([topic]):
        try:
            sample = to_odometry_sample(bag.decode(message))
        except EgoError:
            continue
        stamps.append(sample.stamp_ns)
        poses.append((*sample.position_m[:2], yaw_of(sample.orientation_xyzw)))
    return np.array(stamps), np.array(poses)


def _in_vehicle(points_m: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return points (P, 2) of the odometry's frame, in the axes of a vehicle at ``pose``."""
    x_m, y_m, yaw_rad = pose
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    offset = points_m - (x_m, y_m)
    return offset @ np.array([[cos, -sin], [sin, cos]])
