# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The first sweeps of the sample bag plan today what they planned when somebody last looked.

Tolerances: waypoints within 1e-3 m (rad), at least 99 % of the kept tokens the same, refusals,
stamps and missing cameras exactly the same; times are not compared. A difference is either a bug
or a change that was meant. When it was meant, record it again, and look at the diff:

    python test/test_golden.py --update-golden
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE_BAG = REPOSITORY / 'bags' / 'sim_intersection_10hz'
REAL_BAG = REPOSITORY.parent / 'shared' / 'data' / 'bags' / 'scene0103_sixcam_lowres_2hz'
GOLDEN = Path(__file__).resolve().parent / 'golden' / 'sim_intersection_10hz.json'
NUM_SETS = 20
KEPT = ('stamp_ns', 'waypoints', 'refusal', 'missing_cameras', 'kept_indices', 'total_tokens')


def plan_on(bag: Path, folder: Path, *options: str) -> dict[str, Any]:
    code = main(['run', str(bag), '--out', str(folder / 'out'), '--backend', 'onnxruntime',
                 *options])
    assert code == 0
    return json.loads((folder / 'out' / 'result.json').read_text())


def compared(cycle: dict[str, Any]) -> dict[str, Any]:
    chosen = {name: cycle[name] for name in KEPT}
    return {**chosen, 'refusal': cycle['refusal'] and cycle['refusal']['reason']}


def overlap(a: list[int], b: list[int]) -> float:
    return len(set(a) & set(b)) / max(len(a), len(b), 1)


def test_the_sample_bag_plans_as_recorded(tmp_path: Path) -> None:
    recorded = json.loads(GOLDEN.read_text())
    cycles = plan_on(SAMPLE_BAG, tmp_path, '--max-sets', str(NUM_SETS))['cycles']
    assert len(cycles) == len(recorded) == NUM_SETS
    for cycle, golden in zip(map(compared, cycles), recorded):
        for name in ('stamp_ns', 'refusal', 'missing_cameras', 'total_tokens'):
            assert cycle[name] == golden[name], (name, cycle['stamp_ns'])
        assert (cycle['waypoints'] is None) == (golden['waypoints'] is None)
        if golden['waypoints'] is not None:
            np.testing.assert_allclose(cycle['waypoints'], golden['waypoints'], atol=1e-3)
        assert overlap(cycle['kept_indices'], golden['kept_indices']) >= 0.99


def test_two_runs_agree_to_the_last_digit(tmp_path: Path) -> None:
    first, second = (
        plan_on(SAMPLE_BAG, tmp_path / name, '--max-sets', '5')['cycles'] for name in 'ab')
    assert list(map(compared, first)) == list(map(compared, second))


@pytest.mark.skipif(not REAL_BAG.is_dir(), reason=f'real data is not here: {REAL_BAG}')
def test_every_real_sweep_is_a_set_and_every_good_set_a_plan(tmp_path: Path) -> None:
    result = plan_on(REAL_BAG, tmp_path)
    sets = result['summary']['sets']
    assert (sets['whole'], sets['partial'], sets['refused']) == (23, 0, 0)
    # The first sweep is logged 11 ms before the first odometry, and waits for it.
    assert result['summary']['refusals'] == {}
    assert result['summary']['plans'] == 23
    assert result['cycles'][0]['frame_age_ms'] > result['cycles'][1]['frame_age_ms']


def update() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cycles = plan_on(SAMPLE_BAG, Path(folder), '--max-sets', str(NUM_SETS))['cycles']
    lines = ',\n'.join(json.dumps(compared(cycle), separators=(',', ':')) for cycle in cycles)
    GOLDEN.write_text(f'[\n{lines}\n]\n')
    print(f'wrote {GOLDEN}')


if __name__ == '__main__':
    if sys.argv[1:] != ['--update-golden']:
        sys.exit(__doc__)
    update()
