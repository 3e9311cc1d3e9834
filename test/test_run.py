# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive run`: a result whole or not at all, and bad bags with declared consequences."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_bags import PERIOD_NS
from make_bags import T0_NS
from make_bags import write_bag

from fastdrive_ros.bags import Bag
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
TRAJECTORY, CYCLE = '/fastdrive/output/trajectory', '/fastdrive/debug/cycle'


class Runner:
    """Runs the verb with the tiny bundle."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.out = folder / 'out'
        self.options = ['--bundle', str(bundle.path), '--backend', 'onnxruntime']

    def __call__(self, bag: Path, *options: str) -> int:
        return main(['run', str(bag), '--out', str(self.out), *self.options, *options])

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.out / 'result.json').read_text())


@pytest.fixture
def run(tiny_bundle: Bundle, tmp_path: Path) -> Runner:
    return Runner(tiny_bundle, tmp_path)


def test_a_plan_from_every_sweep(run: Runner, tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / 'bag'), '--keep-ratio', '0.25') == 0
    result = run.result
    assert result['summary']['sets']['whole'] == result['summary']['plans'] == 5
    assert result['settings']['keep_ratio'] == 0.25
    assert result['bundle']['name'] == 'tiny'
    assert set(result['bundle']['sha256']) >= {'vision_encoder', 'planner'}
    cycle = result['cycles'][0]
    assert cycle['stamp_ns'] == T0_NS
    assert cycle['log_ns'] == T0_NS + 25_000_000     # when the sixth camera came
    assert cycle['total_tokens'] == 48
    assert len(cycle['kept_indices']) == 12
    # 5 m/s straight ahead; the tiny planner's residual is centimetres.
    assert np.array(cycle['waypoints'])[:, 0] == pytest.approx(
        [2.5, 5.0, 7.5, 10.0, 12.5, 15.0], abs=0.5)
    assert cycle['stage_ms']['sync'] == 25.0


def test_the_result_is_a_bag(run: Runner, tmp_path: Path) -> None:
    run(write_bag(tmp_path / 'bag'))
    with Bag(run.out / 'result') as bag:
        assert bag.topics[TRAJECTORY].count == bag.topics[CYCLE].count == 5
        path = bag.decode(next(bag.messages([TRAJECTORY])))
        cycle = bag.decode(next(bag.messages([CYCLE])))
    assert path.header.frame_id == 'map'
    assert path.poses[0].header.stamp.nanosec == 500_000_000
    values = {value.key: value.value for value in cycle.status[0].values}
    assert values['kept_tokens'] == '24'
    assert cycle.status[0].message == 'plan published'


def test_max_sets(run: Runner, tmp_path: Path) -> None:
    run(write_bag(tmp_path / 'bag'), '--max-sets', '2')
    assert len(run.result['cycles']) == 2


def test_five_of_six_cameras_are_declared(run: Runner, tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / 'bag', num_sets=10, cameras=NUSCENES_CAMERAS[:5])) == 0
    summary = run.result['summary']
    assert summary['sets']['partial'] == 10
    assert summary['plans_without_a_camera'] == summary['plans'] == 10
    assert all(cycle['missing_cameras'] == ['CAM_BACK_RIGHT'] and cycle['total_tokens'] == 40
               for cycle in run.result['cycles'])


def test_five_of_six_are_refused_where_the_sixth_is_required(
        run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', cameras=NUSCENES_CAMERAS[:5])
    assert run(bag, '--set', 'sync.required_cameras=[CAM_BACK_RIGHT]') == 1
    assert run.result['summary']['sets']['refused'] == 5
    assert '0 plans' in capsys.readouterr().out


def test_too_few_cameras_make_no_plan(run: Runner, tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / 'bag', cameras=NUSCENES_CAMERAS[:3])) == 1
    assert run.result['summary']['sets']['refused'] == 5


def test_no_odometry_refuses_every_cycle_and_says_so(
        run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_bag(tmp_path / 'bag', odometry=False)) == 1
    assert run.result['summary']['refusals'] == {'odometry_absent': 5}
    assert 'refused 5: odometry_absent: no odometry has come' in capsys.readouterr().out
    with Bag(run.out / 'result') as bag:
        assert TRAJECTORY not in bag.topics
        assert bag.topics[CYCLE].count == 5


def test_a_corrupt_picture_costs_one_camera_of_one_set(run: Runner, tmp_path: Path) -> None:
    garbage = np.frombuffer(b'\xff\xd8 not a picture', np.uint8)
    bag = write_bag(tmp_path / 'bag', images={(2, 'CAM_FRONT'): garbage})
    assert run(bag) == 0
    cycles = run.result['cycles']
    assert [cycle['missing_cameras'] for cycle in cycles] == [[], [], ['CAM_FRONT'], [], []]
    assert cycles[2]['frame_errors'].keys() == {'CAM_FRONT'}
    assert sum(run.result['summary']['frame_drops']['CAM_FRONT'].values()) == 1


def test_a_bag_without_the_cameras_of_the_settings(
        run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_bag(tmp_path / 'bag'), '--preset', 'nuscenes_image_raw') == 2
    error = capsys.readouterr().err
    assert 'none of the camera topics' in error
    assert 'fastdrive inspect' in error
    assert not run.out.exists()


def test_nothing_is_overwritten_unasked(
        run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag')
    assert run(bag, '--max-sets', '1') == 0
    assert run(bag) == 2
    assert 'is there already' in capsys.readouterr().err
    assert len(run.result['cycles']) == 1
    assert run(bag, '--force') == 0
    assert len(run.result['cycles']) == 5
    assert not list(tmp_path.glob('*.partial'))


def test_force_never_replaces_what_is_no_result(
        run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.out.mkdir()
    (run.out / 'thesis.tex').touch()
    assert run(write_bag(tmp_path / 'bag'), '--force') == 2
    assert 'is not a result' in capsys.readouterr().err
    assert (run.out / 'thesis.tex').exists()


def test_a_sweep_that_waits_for_its_deadline_leaves_at_the_deadline(
        run: Runner, tmp_path: Path) -> None:
    run(write_bag(tmp_path / 'bag', num_sets=1, cameras=NUSCENES_CAMERAS[:5]))
    (cycle,) = run.result['cycles']
    assert cycle['log_ns'] == T0_NS + 75_000_000
    assert cycle['frame_age_ms'] == 75.0


def command(run: Runner, bag: Path) -> list[str]:
    return [sys.executable, '-m', 'fastdrive_ros.tools.cli', 'run', str(bag),
            '--out', str(run.out), *run.options]


def test_sigint_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=2000)
    process = subprocess.Popen(command(run, bag), cwd=REPOSITORY, stderr=subprocess.PIPE)
    end_s = time.monotonic() + 60
    while not list(tmp_path.glob('out.*.partial/out/result/*.mcap')):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end_s, 'it did not begin to write'
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert error.decode().splitlines()[-1] == 'fastdrive: interrupted'
    # CPython raises SIGINT once more at its end when the first one hit code that was exec'd.
    assert process.returncode in (130, -signal.SIGINT)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ['bag']


def test_a_full_disk_is_one_sentence_and_leaves_nothing(run: Runner, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=50)
    # A file may not grow beyond 4 kB: the same error path as no space left on the device.
    finished = subprocess.run(
        command(run, bag), cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert finished.returncode == 2, finished.stderr
    assert 'fastdrive: error: the disk is full' in finished.stderr
    assert 'Traceback' not in finished.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ['bag']


def test_odometry_in_bursts_costs_the_first_sweeps_only(run: Runner, tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / 'bag', num_sets=15, odometry_burst=5)) == 0
    # Until the first burst is logged, 0.4 s into the bag, there is nothing to plan with.
    refused = [cycle['refusal'] is not None for cycle in run.result['cycles']]
    assert refused == [True] * 4 + [False] * 11


def test_stamps_and_clock_far_apart_are_refused_with_the_reason(
        run: Runner, tmp_path: Path) -> None:
    assert run(write_bag(tmp_path / 'bag'), '--set', 'max_frame_age_ms=20') == 1
    assert run.result['summary']['refusals'] == {'frame_too_old': 5}
    assert run.result['cycles'][0]['stamp_ns'] + PERIOD_NS == run.result['cycles'][1]['stamp_ns']
