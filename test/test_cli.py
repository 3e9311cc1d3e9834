# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command `fastdrive`: help without heavy imports, errors as sentences, clean exits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from make_bags import write_bag

from fastdrive_ros import __version__
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools import cli
from fastdrive_ros.tools import run as run_verb
from fastdrive_ros.tools.cli import VERBS
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent


def loaded_by(*arguments: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter loads for these arguments."""
    script = ('import sys; from fastdrive_ros.tools.cli import main\n'
              'try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n'
              "print('LOADED', *{name.partition('.')[0] for name in sys.modules})")
    out = subprocess.run([sys.executable, '-c', script, *arguments], cwd=REPOSITORY, check=True,
                         capture_output=True, text=True).stdout
    return set(out.rpartition('LOADED')[2].split())


def test_help_names_every_verb_and_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    out = capsys.readouterr().out
    assert all(re.search(rf'^    {verb}\s+\w', out, re.MULTILINE) for verb in VERBS)
    assert not loaded_by('--help') & {'numpy', 'torch', 'rclpy', 'rosbags', 'onnxruntime', 'cv2'}


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_teaches_with_an_example_without_torch_and_ros(verb: str) -> None:
    out = subprocess.run([sys.executable, '-m', 'fastdrive_ros.tools.cli', verb, '--help'],
                         cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert f'usage: fastdrive {verb}' in out
    assert f'\n  fastdrive {verb}' in out
    assert not loaded_by(verb, '--help') & {'torch', 'rclpy', 'matplotlib', 'transformers'}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='0'):
        main(['--version'])
    assert capsys.readouterr().out == f'fastdrive_ros {__version__}\n'


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'required: VERB'),
    (['fly'], "invalid choice: 'fly'"),
    (['run', 'bag'], 'required: --out'),
    (['run', 'bag', '--out', 'x', '--keep-ratio', 'half'], "invalid float value: 'half'"),
])
def test_a_wrong_command_line(arguments: list[str], message: str,
                              capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'message'), [
    (['--set', 'keep_ration=0.5'], "unknown parameter 'keep_ration'; did you mean 'keep_ratio'?"),
    (['--keep-ratio', '1.5'], "parameter 'keep_ratio' must be within 0.01 .. 1"),
    (['--set', 'backend'], "--set wants NAME=VALUE, found 'backend'"),
    (['--set', 'backend=quantum'], "parameter 'backend' must be one of auto, onnxruntime"),
    (['--preset', 'waymo'], "no topic preset 'waymo', there are: autoware_carla"),
    (['--params-file', 'absent.yaml'], 'cannot read the parameter file absent.yaml'),
    (['--bundle', 'absent'], 'expected a model bundle at absent'),
])
def test_user_errors_are_one_sentence_and_exit_code_2(
        options: list[str], message: str, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=1)
    assert main(['run', str(bag), '--out', str(tmp_path / 'out'), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith('fastdrive: error: ')
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / 'out').exists()


def test_an_unwritable_place_is_a_user_error(tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=1)
    (tmp_path / 'file').touch()
    assert main(['run', str(bag), '--out', str(tmp_path / 'file' / 'out')]) == 2
    assert str(tmp_path / 'file') in capsys.readouterr().err


def raising(error: BaseException) -> Any:
    def run(args: Any) -> int:
        raise error
    return run


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_verb, 'run', raising(KeyError('oops')))
    with pytest.raises(KeyError, match='oops'):
        main(['run', 'bag', '--out', 'x'])


@pytest.mark.parametrize(('error', 'code', 'message'), [
    (KeyboardInterrupt(), cli.INTERRUPTED, 'fastdrive: interrupted'),
    (ModuleNotFoundError('rclpy', name='rclpy'), 2, 'needs rclpy: source a ROS 2 installation'),
    (ModuleNotFoundError('nav', name='nav_msgs.msg'), 2, 'needs rclpy'),
    (ModuleNotFoundError('plt', name='matplotlib'), 2, "pip install 'fastdrive_ros[viz]'"),
    (OSError(28, 'No space left on device', '/out'), 2, 'the disk is full'),
])
def test_what_the_world_does_to_us(error: BaseException, code: int, message: str,
                                   monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_verb, 'run', raising(error))
    assert main(['run', 'bag', '--out', 'x']) == code
    assert message in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', num_sets=1)
    finished = subprocess.run(
        f'{sys.executable} -m fastdrive_ros.tools.cli inspect {bag} | true', shell=True,
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert finished.stderr == ''


def test_settings_add_up_in_order(tiny_bundle: Bundle, tmp_path: Path) -> None:
    params = tmp_path / 'params.yaml'
    params.write_text('/**:\n  ros__parameters:\n    keep_ratio: 0.75\n'
                      '    sync:\n      deadline_ms: 90.0\n    output_frame: base_link\n')
    bag = write_bag(tmp_path / 'bag', num_sets=1)
    assert main(['run', str(bag), '--out', str(tmp_path / 'out'), '--bundle',
                 str(tiny_bundle.path), '--backend', 'onnxruntime', '--params-file', str(params),
                 '--keep-ratio', '0.25', '--set', 'sync.deadline_ms=80']) == 0
    settings = json.loads((tmp_path / 'out' / 'result.json').read_text())['settings']
    assert settings['keep_ratio'] == 0.25              # an option over the file
    assert settings['sync.deadline_ms'] == 80.0        # --set over the file
    assert settings['output_frame'] == 'base_link'     # the file over the default
    assert settings['camera_topics.CAM_FRONT'] == '/CAM_FRONT/image_rect_compressed'
