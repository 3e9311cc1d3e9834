# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive replay`: bags through the live node, a process of its own, over real DDS."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from make_bags import IMAGE
from make_bags import T0_NS
from make_bags import image_message
from make_bags import write_bag

pytest.importorskip('rclpy', reason='ROS 2 is not installed (source one, or pip install .[ros])')

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import typestore
from fastdrive_ros.config import check_settings
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.ros.bag_player import shifted
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools import demo
from fastdrive_ros.tools.bench_node import bench_memory
from fastdrive_ros.tools.bench_node import bench_node
from fastdrive_ros.tools.cli import main
from fastdrive_ros.tools.replay import at_rate

REPOSITORY = Path(__file__).resolve().parent.parent
_domains = itertools.count(os.getpid() % 100)


@pytest.fixture(autouse=True)
def private_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DDS domain for each test, on this computer only."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(next(_domains) % 100 + 1))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def options(bundle: Bundle) -> list[str]:
    return ['--bundle', str(bundle.path), '--backend', 'onnxruntime', '--set', 'num_threads=1']


@pytest.mark.parametrize(('rate', 'deadline_ms'), [(1.0, 75.0), (4.0, 75.0), (0.5, 150.0)])
def test_a_slow_replay_waits_longer_for_a_sweep(rate: float, deadline_ms: float) -> None:
    assert check_settings(at_rate({}, rate))['sync.deadline_ms'] == deadline_ms


def test_every_sweep_becomes_a_plan_and_is_recorded(
        tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=20)
    code = main(['replay', str(bag), '--record', str(tmp_path / 'said'), *options(tiny_bundle)])
    out = capsys.readouterr().out
    assert code == 0
    assert '140 messages played' in out
    assert 'end_to_end' in out
    with Bag(tmp_path / 'said') as said:
        cycles = [said.decode(m) for m in said.messages(['/fastdrive/debug/cycle'])]
        plans = [said.decode(m) for m in said.messages(['/fastdrive/output/trajectory'])]
    # Latest wins: a busy computer may supersede a set, but it never invents or repeats one.
    stamps = [stamp_to_ns(cycle.header.stamp) for cycle in cycles]
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= {T0_NS + i * 100_000_000 for i in range(20)}
    assert len(plans) == len(cycles) >= 15
    assert plans[0].header.frame_id == 'map'


def test_a_loop_jumps_back_and_planning_goes_on(
        tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=10)
    assert main(['replay', str(bag), '--loop', '2', '--record', str(tmp_path / 'said'),
                 *options(tiny_bundle)]) == 0
    assert '140 messages played' in capsys.readouterr().out
    with Bag(tmp_path / 'said') as said:
        stamps = [stamp_to_ns(said.decode(m).header.stamp)
                  for m in said.messages(['/fastdrive/output/trajectory'])]
    assert max(stamps.count(stamp) for stamp in stamps) == 2    # planned in both passes


def test_five_of_six_cameras_are_declared(
        tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=10, cameras=NUSCENES_CAMERAS[:5])
    assert main(['replay', str(bag), *options(tiny_bundle)]) == 0
    plans, partial = (int(words.split()[0]) for words in
                      capsys.readouterr().out.split('; ')[1].split(', '))
    assert plans == partial > 0


def test_no_odometry_publishes_nothing_and_says_why(
        tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=5, odometry=False)
    assert main(['replay', str(bag), *options(tiny_bundle)]) == 1
    out = capsys.readouterr().out
    assert ' 0 plans' in out
    assert 'odometry_absent: no odometry has come' in out


def test_what_cannot_be_played_is_said(
        tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    sample = REPOSITORY / 'bags' / 'sim_intersection_10hz'
    code = main(['replay', str(sample), '--rate', '5', *options(tiny_bundle)])
    captured = capsys.readouterr()
    assert code == 0
    try:
        import tf2_msgs  # noqa: F401
    except ModuleNotFoundError:
        assert 'not played: /tf_static (tf2_msgs/msg/TFMessage is not installed)' in captured.err


def test_a_node_that_refuses_to_start_is_quoted(
        tiny_bundle_copy: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_bundle_copy.path / 'planner.onnx.data').unlink()
    bag = write_bag(tmp_path / 'bag', num_sets=1)
    assert main(['replay', str(bag), *options(tiny_bundle_copy)]) == 2
    error = capsys.readouterr().err
    assert 'the node does not start: ' in error
    assert 'expected the file planner.onnx.data' in error


def test_an_existing_record_is_not_overwritten(
        tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=1)
    assert main(['replay', str(bag), '--record', str(bag), *options(tiny_bundle)]) == 2
    assert 'is there already' in capsys.readouterr().err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_player_and_the_node(
        number: signal.Signals, tiny_bundle: Bundle, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=300)
    process = subprocess.Popen(
        [sys.executable, '-u', '-m', 'fastdrive_ros.tools.cli', 'replay', str(bag),
         '--record', str(tmp_path / 'said'), *options(tiny_bundle)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith('playing'):
            break
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    assert len(children) == 1
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert not Path('/proc', children[0]).exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ['bag']


def test_a_node_that_dies_ends_the_replay(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=300)
    process = subprocess.Popen(
        [sys.executable, '-u', '-m', 'fastdrive_ros.tools.cli', 'replay', str(bag),
         *options(tiny_bundle)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith('playing'):
            break
    (child,) = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(int(child), signal.SIGTERM)
    end_s = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end_s:
        time.sleep(0.05)
    _, error = process.communicate(timeout=1)
    assert process.returncode == 2
    assert 'the node ended with exit code' in error


def test_a_shifted_message_differs_in_its_stamp_only() -> None:
    data = bytes(typestore().serialize_cdr(image_message(T0_NS, 'CAM_FRONT'), IMAGE))
    moved = typestore().deserialize_cdr(shifted(data, 1_500_000_001), IMAGE)
    whole = typestore().deserialize_cdr(data, IMAGE)
    assert stamp_to_ns(moved.header.stamp) == T0_NS + 1_500_000_001
    assert moved.header.frame_id == 'CAM_FRONT'
    assert moved.data.tobytes() == whole.data.tobytes()


def test_the_demo_draws_its_picture(
        tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('matplotlib', reason='matplotlib is not installed: pip install .[viz]')
    bag = write_bag(tmp_path / 'bag', num_sets=15)
    picture = tmp_path / 'out' / 'demo.png'
    assert main(['demo', '--bag', str(bag), '--bundle', str(tiny_bundle.path),
                 '--out', str(picture)]) == 0
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert f'picture: {picture}' in capsys.readouterr().out


def test_the_demo_finds_the_sample_bag() -> None:
    with Bag(demo.sample_bag()) as bag:
        assert bag.duration_s == pytest.approx(10.9)


def test_the_node_bench_adds_up(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=10)
    result = bench_node(bag, str(tiny_bundle.path), 3.0)
    assert result['plans_hz'] == pytest.approx(10.0, rel=0.3)
    assert result['refused'] == 0
    assert result['tokens_kept'] == 24
    overhead = result['overhead_ms']
    assert 0.0 < overhead['also_without_decode_preprocess_p50'] < (
        overhead['all_but_models_and_sync_p50']) < result['stages_ms']['end_to_end']['max']


def test_the_memory_bench_samples_the_node(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=10)
    result = bench_memory(bag, str(tiny_bundle.path), 0.05)
    assert result['cycles'] > 15
    assert 10.0 < result['rss_mb_last_minute'] <= result['rss_mb_max']
