# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real 1600x900 sweeps through the whole pipeline: each good one plans, a mixed one never."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_inputs import make_odometry

from fastdrive_ros.assemble import build_pipeline
from fastdrive_ros.config import check_settings
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet

FRAMES = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'nuscenes_frames'
pytestmark = pytest.mark.skipif(not FRAMES.is_dir(), reason=f'{FRAMES} (real pictures) is missing')


@pytest.fixture(scope='module')
def assembly() -> Any:
    built = build_pipeline(check_settings({'backend': 'onnxruntime'}))
    yield built
    built.pipeline.close()


def frame_sets(assembly: Any, folder: Path, stamps_us: dict[str, int]) -> list[FrameSet]:
    """Push the six files in the order they were taken, as if each arrived when it was."""
    assembly.synchronizer.reset()
    first_us = min(stamps_us.values())
    sets = []
    for camera, stamp_us in sorted(stamps_us.items(), key=lambda item: item[1]):
        image = EncodedImage('jpeg', np.fromfile(folder / f'{camera}.jpg', np.uint8))
        sets += assembly.synchronizer.push(
            Frame(camera, stamp_us * 1000, (stamp_us - first_us) * 1000, image))
    return sets + assembly.synchronizer.poll(10**12)


@pytest.mark.parametrize('folder', sorted(FRAMES.glob('*')), ids=lambda folder: folder.name)
def test_every_good_sweep_plans_and_a_mixed_one_is_no_sweep(assembly: Any, folder: Path) -> None:
    meta = json.loads((folder / 'meta.json').read_text())
    sets = frame_sets(assembly, folder, meta['stamps_us'])
    if 'UNSYNCED' in meta['id']:
        assert sets == []
        return
    assert [frame_set.missing for frame_set in sets] == [()]
    t0_ns = sets[0].stamp_ns
    speed_mps = meta.get('speed_mps', 5.0)
    assembly.ego.reset()
    for i in range(-20, 1):
        assembly.ego.push(make_odometry(t0_ns + i * 100_000_000, speed_mps, t0_ns))
    result = assembly.pipeline.run(sets[0], assembly.ego.at, lambda: t0_ns + 60_000_000)
    assert result.refusal is None and result.missing == ()
    assert (len(result.kept.indices), result.num_tokens) == (336, 672)
    # Trained in a simulated world: nothing is promised here, but the plan must be one of a car
    # that is as fast as this one, and near what it then did where that is known.
    waypoints = result.trajectory.waypoints
    times_s = 0.5 * np.arange(1, 7)
    assert np.isfinite(waypoints).all()
    assert (np.hypot(waypoints[:, 0] - speed_mps * times_s, waypoints[:, 1])
            < 0.5 + 1.5 * times_s).all()
    for (time_s, x_m, y_m), waypoint in zip(meta.get('future_xy_3s', []), waypoints):
        assert np.hypot(x_m - waypoint[0], y_m - waypoint[1]) < 0.5 + 1.2 * time_s
