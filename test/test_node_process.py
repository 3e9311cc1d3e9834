# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node as people start it: a process with --ros-args, told to stop at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 (rclpy) is not installed')

from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402


def start_node(*parameters: str) -> subprocess.Popen[str]:
    ros_args = [word for parameter in parameters for word in ('-p', parameter)]
    return subprocess.Popen(
        [sys.executable, '-m', 'fastdrive_ros.ros.node', '--ros-args', *ros_args],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, 'ROS_DOMAIN_ID': str(os.getpid() % 90 + 102 - 90)})


def read_until(process: subprocess.Popen[str], words: str) -> str:
    text = ''
    for line in process.stdout:
        text += line
        if words in line:
            return text
    raise AssertionError(f'the node ended without saying {words!r}:\n{text}')


def finish(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=30)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f'the node did not stop: {process.communicate()[0]}') from None


@pytest.mark.parametrize('words', ['planning; listening to', 'bundle tiny'])
def test_sigint_ends_it_cleanly(tiny_bundle: Bundle, words: str) -> None:
    node = start_node(f'bundle:={tiny_bundle.path}', 'backend:=onnxruntime')
    read_until(node, words)
    node.send_signal(signal.SIGINT)
    rest = finish(node)
    assert node.returncode == 0, rest
    assert 'Traceback' not in rest


@pytest.mark.parametrize('delay_s', [0.3, 0.6, 0.9, 1.2])
def test_sigint_while_starting_never_hangs(tiny_bundle: Bundle, delay_s: float) -> None:
    node = start_node(f'bundle:={tiny_bundle.path}', 'backend:=onnxruntime')
    time.sleep(delay_s)  # the moment is the point of this test, whatever happens then
    node.send_signal(signal.SIGINT)
    finish(node)
    assert node.returncode in (0, 1, 130, -signal.SIGINT)


def test_a_bad_parameter_ends_it_with_one_sentence() -> None:
    node = start_node('keep_ratio:=7.0')
    text = finish(node)
    assert node.returncode == 2
    assert "parameter 'keep_ratio' must be within 0.01 .. 1, found 7.0" in text
    assert 'Traceback' not in text


def test_a_missing_bundle_keeps_it_up_and_says_why(tmp_path: Path) -> None:
    node = start_node(f'bundle:={tmp_path}/none')
    text = read_until(node, 'expected a model bundle')
    assert 'fastdrive export' in text
    assert node.poll() is None  # alive, so that /diagnostics can go on saying it
    node.send_signal(signal.SIGINT)
    finish(node)
