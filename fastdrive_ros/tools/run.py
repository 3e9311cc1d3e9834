# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive run BAG --out DIR`: plan on a bag without ROS; the same plans on every computer."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros import __version__
from fastdrive_ros.assemble import Assembly
from fastdrive_ros.assemble import build_pipeline
from fastdrive_ros.assemble import early_pruning_note
from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.bags import typestore
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import check_settings
from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.ros.messages import bag_classes
from fastdrive_ros.ros.messages import cycle_message
from fastdrive_ros.ros.messages import kept_by_camera
from fastdrive_ros.ros.messages import path_message
from fastdrive_ros.tools.appearing import appearing
from fastdrive_ros.tools.offline import Cycle
from fastdrive_ros.tools.offline import OfflineDrive
from fastdrive_ros.tools.options import add_settings_options
from fastdrive_ros.tools.options import given_settings
from fastdrive_ros.tools.tables import print_latency

TRAJECTORY_TOPIC = '/fastdrive/output/trajectory'
CYCLE_TOPIC = '/fastdrive/debug/cycle'
RESULT_JSON = 'result.json'

_HARDWARE_ID = 'fastdrive_ros/run'
_EPILOG = f"""\
example:
  fastdrive run bags/sim_intersection_10hz --out out/intersection --keep-ratio 0.5

DIR/result/ is a rosbag2 with {TRAJECTORY_TOPIC} and {CYCLE_TOPIC},
DIR/{RESULT_JSON} tells every cycle. Both appear together, or not at all.
Exit code 0: at least one plan. 1: every cycle was refused (the reasons are printed).
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'run', help='plan on a bag without ROS', epilog=_EPILOG,
        description='Plan on every frame set of a bag, without ROS and as fast as it goes. The '
        "bag's own times are the clock, so a slow computer gives the same plans as a fast one.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to make')
    parser.add_argument('--force', action='store_true', help='replace the result that is in DIR')
    parser.add_argument('--max-sets', type=int, metavar='N', help='stop after N frame sets')
    add_settings_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan; 0 when at least one plan came out."""
    _check_out(args.out, args.force)
    with Bag(args.bag) as bag:
        settings = check_settings(given_settings(args, bag))
        assembly = build_pipeline(settings, _say if sys.stderr.isatty() else None)
        try:
            with appearing(args.out, args.force) as folder:
                report = drive_to(folder, bag, assembly, settings, args.max_sets)
        finally:
            assembly.pipeline.close()
    _print(report, args.out)
    return 0 if report['summary']['plans'] else 1


def drive_to(folder: Path, bag: Bag, assembly: Assembly, settings: Mapping[str, Any],
             max_sets: int | None = None) -> dict[str, Any]:
    """Plan on a bag, make ``folder`` with result/ and result.json, return what the JSON says."""
    drive = OfflineDrive(bag, assembly, settings)
    folder.mkdir()
    latency = LatencyWindow(1_000_000)
    cycles = []
    with BagWriter(folder / 'result') as writer:
        for cycle in _with_progress(islice(drive.cycles(), max_sets), bag):
            _write_messages(writer, cycle, assembly, settings)
            latency.record(cycle.stage_ms)
            cycles.append(cycle_record(cycle))
    bundle = assembly.bundle
    report = {
        'fastdrive_ros': __version__,
        'bag': str(bag.path),
        'bundle': {'name': bundle.name, 'trained': bundle.trained, 'untrained': bundle.untrained,
                   'sha256': {graph: bundle.graph_sha256(graph)
                              for graph in bundle.manifest['graphs']},
                   'early_pruning': early_pruning_note(bundle, settings['keep_ratio'])},
        'backend': assembly.loaded.backend,
        'pruner': assembly.method,
        'settings': dict(settings),
        'summary': _summary(cycles, assembly, drive, latency),
        'cycles': cycles,
    }
    (folder / RESULT_JSON).write_text(json.dumps(report, indent=1) + '\n')
    return report


def cycle_record(cycle: Cycle) -> dict[str, Any]:
    """Return one cycle as JSON has it; lengths in metres, angles in radians."""
    result = cycle.result
    trajectory, refusal, kept = result.trajectory, result.refusal, result.kept
    return {
        'stamp_ns': result.stamp_ns,
        'log_ns': cycle.log_ns,
        'waypoints': (None if trajectory is None
                      else np.round(trajectory.waypoints, 6).tolist()),
        'refusal': refusal and {'reason': refusal.reason, 'detail': refusal.detail},
        'missing_cameras': list(result.missing),
        'frame_errors': {camera: error.reason for camera, error in result.frame_errors.items()},
        'kept_indices': [] if kept is None else kept.indices.tolist(),
        'total_tokens': result.num_tokens,
        'spread_ms': cycle.frame_set.spread_ms,
        'frame_age_ms': result.frame_age_ms,
        'stage_ms': {stage: round(ms, 3) for stage, ms in cycle.stage_ms.items()},
    }


def _summary(cycles: list[dict[str, Any]], assembly: Assembly, drive: OfflineDrive,
             latency: LatencyWindow) -> dict[str, Any]:
    return {
        'sets': dict(assembly.synchronizer.set_counts),
        'plans': sum(cycle['refusal'] is None for cycle in cycles),
        'plans_without_a_camera': sum(cycle['refusal'] is None and bool(cycle['missing_cameras'])
                                      for cycle in cycles),
        'refusals': dict(Counter(cycle['refusal']['reason'] for cycle in cycles
                                 if cycle['refusal'])),
        'frame_drops': drive.frame_drops,
        'latency_ms': latency.summary(),
    }


def _write_messages(writer: BagWriter, cycle: Cycle, assembly: Assembly,
                    settings: Mapping[str, Any]) -> None:
    classes, bundle = bag_classes(typestore()), assembly.bundle
    if cycle.result.trajectory is not None:
        writer.write(TRAJECTORY_TOPIC, 'nav_msgs/msg/Path', cycle.log_ns,
                     path_message(classes, cycle.result, settings['output_frame']))
    writer.write(CYCLE_TOPIC, 'diagnostic_msgs/msg/DiagnosticArray', cycle.log_ns, cycle_message(
        classes, cycle.result, cycle.stage_ms,
        {'keep_ratio': settings['keep_ratio'], 'spread_ms': cycle.frame_set.spread_ms,
         'backend': assembly.loaded.backend,
         **kept_by_camera(cycle.result, bundle.cameras, bundle.tokens_per_camera)}, _HARDWARE_ID))


def _check_out(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise ConfigError(f'{out} is there already: choose another --out, or replace it with '
                          '--force')
    if not (out / RESULT_JSON).is_file():
        raise ConfigError(f'{out} is not a result of `fastdrive run` (no {RESULT_JSON}): it is '
                          'not replaced, choose another --out')


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _with_progress(cycles: Iterator[Cycle], bag: Bag) -> Iterator[Cycle]:
    if not sys.stderr.isatty():
        yield from cycles
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task('planning', total=bag.duration_s)
        for cycle in cycles:
            progress.update(task, completed=(cycle.log_ns - bag.start_ns) / 1e9)
            yield cycle


def _print(report: Mapping[str, Any], out: Path) -> None:
    summary = report['summary']
    sets = summary['sets']
    print(f"{sets['whole']} whole sets, {sets['partial']} partial, {sets['refused']} refused by "
          f"the synchroniser; {summary['plans']} plans, {summary['plans_without_a_camera']} of "
          'them without a camera')
    for reason, count in summary['refusals'].items():
        detail = next(cycle['refusal']['detail'] for cycle in report['cycles']
                      if cycle['refusal'] and cycle['refusal']['reason'] == reason)
        print(f'  refused {count}: {reason}: {detail}')
    for source, reasons in summary['frame_drops'].items():
        for reason, count in reasons.items():
            print(f'  dropped {count} of {source}: {reason}')
    bundle = report['bundle']
    print_latency(f"latency, {bundle['name']} with pruner {report['pruner']} on "
                  f"{report['backend']} (sync is bag time)",
                  summary['latency_ms'])
    if bundle['early_pruning']:
        print(f"note: {bundle['early_pruning']}")
    if bundle['untrained']:
        print(f"note: bundle {bundle['name']} is untrained: {bundle['untrained']}")
    print(f'wrote {out}')
