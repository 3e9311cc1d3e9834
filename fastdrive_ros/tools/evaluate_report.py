# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What was evaluated and how, in one document -> summary.json, summary.md, plots, the terminal."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdrive_ros import __version__
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.metrics.bootstrap import RESAMPLES
from fastdrive_ros.metrics.bootstrap import SEED
from fastdrive_ros.tools.computer import cpu_name
from fastdrive_ros.tools.evaluate_cost import COUNTING_RULE
from fastdrive_ros.tools.evaluate_models import LoadedPlanners
from fastdrive_ros.tools.evaluate_plots import draw_plots
from fastdrive_ros.tools.evaluate_rows import Row
from fastdrive_ros.tools.evaluate_store import SceneResult
from fastdrive_ros.tools.evaluate_store import write_whole
from fastdrive_ros.tools.evaluate_summary import counts
from fastdrive_ros.tools.evaluate_summary import summarise
from fastdrive_ros.tools.evaluate_table import markdown
from fastdrive_ros.tools.evaluate_table import print_summary
from fastdrive_ros.tools.evaluate_truth import ROAD_USERS
from fastdrive_ros.tools.evaluate_truth import VEHICLES

RULES = {
    'intervals': f'Intervals: 95 %, {RESAMPLES} resamples of whole scenes, seed {SEED}; figures '
                 'are ratios of sums, differences are of the same draws.',
    'mean_box': 'mean_box, as Impromptu-VLA after SparseDrive: box of 4.084 x 1.85 m against the '
                f"boxes of {', '.join(ROAD_USERS)}; mean over the steps up to the horizon; a step "
                'in which the recorded way collides is no collision.',
    'any_cell': 'any_cell, as OmniDrive after ST-P3: the same box on a raster of 0.2 m '
                f"(published: 0.1 m) against {', '.join(VEHICLES)} and ground no car may drive; "
                'any step up to the horizon; not counted where the recorded way collides, or '
                'where the vehicle is off the road already.',
    'both': 'Both: six steps of 0.5 s, only frames whose steps are all known; the box is 1.486 m '
            'ahead of base_link, the rear axle (published: 0.5 m ahead of the lidar, the same '
            'place).',
    'compute': COUNTING_RULE,
}


def identity(dataset: Dataset, split: str, planners: LoadedPlanners,
             camera_floor: float) -> dict[str, Any]:
    """Return all that decides the numbers, whichever rows are asked for."""
    header = dataset.header
    scenes = [[scene.name, drive.num_frames]
              for scene, drive in zip(dataset.scenes(split), dataset.drives(split))]
    first = next(iter(planners.bundles.values()))
    return {
        'format': 'fastdrive-evaluation', 'format_version': 1, 'fastdrive_ros': __version__,
        'dataset': {'name': header.name, 'source': header.source, 'rate_hz': header.rate_hz,
                    'settings': dict(header.settings), 'split': split, 'scenes': len(scenes),
                    'scenes_sha256': hashlib.sha256(json.dumps(scenes).encode()).hexdigest()},
        'encoder_sha256': first.graph_sha256('vision_encoder'),
        'pruner_sha256': first.graph_sha256('recon_pruner'),
        'camera_floor': camera_floor, 'backend': planners.backend}


def summary_of(results: Sequence[SceneResult], rows: Sequence[Row], macs: Mapping[str, int],
               planners: LoadedPlanners, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole document, JSON-able."""
    return {
        'dataset': fixed['dataset'], 'frames': counts(results),
        'planners': [{
            'name': name, 'training': bundle.manifest.get('training', 'not stated.'),
            'tokens': bundle.num_tokens, 'cameras': len(bundle.cameras),
            'precision': bundle.arithmetic, 'sha256': planners.sha256[name],
            'early_pruning': bundle.manifest.get('early_pruning')}
            for name, bundle in planners.bundles.items()],
        'backend': planners.backend, 'device': planners.device, 'hardware': cpu_name(),
        'version': __version__, 'commit': _commit(), 'camera_floor': fixed['camera_floor'],
        'rules': RULES, 'rows': summarise(results, rows, macs)}


def report(out: Path, summary: Mapping[str, Any]) -> None:
    """Write and print it all; the last line is JSON."""
    write_whole(out / 'summary.json', (json.dumps(summary, indent=1) + '\n').encode())
    write_whole(out / 'summary.md', markdown(summary).encode())
    plots = draw_plots(summary, out / 'plots')
    print_summary(summary)
    print('wrote ' + ', '.join(map(str, (out / 'summary.json', out / 'summary.md', *plots))))
    print(json.dumps({
        **{name: summary[name] for name in ('dataset', 'frames', 'backend', 'device', 'hardware',
                                            'version', 'commit', 'camera_floor')},
        'planners': {each['name']: each['sha256'] for each in summary['planners']},
        'l2_mean_avg_m': {row['name']: row['figures']['l2_mean_avg']['value']
                          for row in summary['rows']}}))


def _commit() -> str | None:
    """Return the commit of a checkout, '+' when files differ from it; None where it is none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / '.git').exists() or not shutil.which('git'):
        return None
    found = subprocess.run(['git', '-C', str(root), 'describe', '--always', '--dirty=+',
                            '--exclude=*'], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
