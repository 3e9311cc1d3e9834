# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data sim`: the same dataset by any number of workers, interrupted or not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('metadrive', reason="the simulator needs pip install 'fastdrive_ros[sim]'")
pytest.importorskip('pyarrow', reason="datasets need pip install 'fastdrive_ros[data]'")

from fastdrive_ros.data.digest import digest  # noqa: E402
from fastdrive_ros.data.records import SPLITS  # noqa: E402
from fastdrive_ros.data.records import DataError  # noqa: E402
from fastdrive_ros.data.store import Dataset  # noqa: E402
from fastdrive_ros.sim.assets import SimError  # noqa: E402
from fastdrive_ros.sim.assets import assets_dir  # noqa: E402
from fastdrive_ros.sim.assets import check_egl  # noqa: E402
from fastdrive_ros.sim.generate import generate  # noqa: E402
from fastdrive_ros.sim.generate import header  # noqa: E402
from fastdrive_ros.sim.world import WorldSettings  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402

FRAMES, SHARD = 24, 8
"""Three shards: one of each split, a drive in each."""
HEADER = header(WorldSettings(96, 54), 1.0, SHARD)


@pytest.fixture(scope='module', autouse=True)
def _can_draw() -> None:
    try:
        check_egl()
        assets_dir()
    except SimError as error:
        pytest.skip(str(error))


def make(root: Path, workers: int, frames: int = FRAMES) -> list[str]:
    said: list[str] = []
    generate(root, HEADER, frames, workers, lambda taken, failed: None, said.append)
    return said


def digests(root: Path) -> list[tuple[str, str]]:
    dataset = Dataset(root)
    assert not dataset.dropped
    return [(each.images, each.labels) for each in (digest(dataset, split) for split in SPLITS)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset that one process made in one go."""
    root = tmp_path_factory.mktemp('sim') / 'whole'
    make(root, workers=1)
    return root


def test_every_split_has_its_frames_and_drives_of_its_own(whole: Path):
    dataset = Dataset(whole)
    assert all(dataset.count(split) >= SHARD for split in SPLITS)
    seeds = [{scene.seed for scene in dataset.scenes(split)} for split in SPLITS]
    assert not (seeds[0] & seeds[1] or seeds[0] & seeds[2] or seeds[1] & seeds[2])
    assert all(scene.good for split in SPLITS for scene in dataset.scenes(split))


def test_two_workers_make_the_same_dataset_as_one(whole: Path, tmp_path: Path):
    make(tmp_path / 'two', workers=2)
    assert digests(tmp_path / 'two') == digests(whole)


_SCRIPT = """
import sys
from pathlib import Path
from fastdrive_ros.sim.generate import generate, header
from fastdrive_ros.sim.world import WorldSettings
if __name__ == '__main__':
    try:
        generate(Path(sys.argv[1]), header(WorldSettings(96, 54), 1.0, 8), 24, 1,
                 lambda taken, failed: print(taken, flush=True), print)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL], ids=['ctrl-c', 'kill -9'])
def test_an_interrupted_run_goes_on_and_ends_the_same(whole: Path, tmp_path: Path,
                                                      how: signal.Signals):
    root, script = tmp_path / 'data', tmp_path / 'make.py'
    script.write_text(_SCRIPT)
    process = subprocess.Popen([sys.executable, str(script), str(root)], text=True,
                               stdout=subprocess.PIPE)
    for line in process.stdout:
        if line.strip().isdigit() and int(line) > 2:  # in the middle of the first shard
            break
    process.send_signal(how)
    code = process.wait(60)
    process.stdout.close()
    assert code == (130 if how == signal.SIGINT else -9)
    if how == signal.SIGKILL:
        # The worker sees at its next frame that its parent is gone.
        deadline = time.monotonic() + 60
        while list(root.rglob('*.lock')) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert sum(Dataset(root).count(split) for split in SPLITS) < FRAMES
    make(root, workers=1)
    assert digests(root) == digests(whole)


def test_more_frames_are_added_to_what_is_there(whole: Path, tmp_path: Path):
    root = tmp_path / 'grown'
    make(root, workers=1, frames=SHARD)
    assert [Dataset(root).count(split) > 0 for split in SPLITS] == [True, False, False]
    make(root, workers=1)
    assert digests(root) == digests(whole)


def test_other_settings_are_another_dataset(whole: Path):
    with pytest.raises(DataError, match='rate_hz'):
        generate(whole, header(WorldSettings(96, 54), 2.0, SHARD), FRAMES, 1,
                 lambda taken, failed: None, print)


@pytest.mark.parametrize(('arguments', 'sentence'), [
    (['--frames', '0'], 'at least one frame and one worker are needed, got 0 frames'),
    (['--frames', '9000000000'], 'frames need about 1350000.0 GB'),
    (['--size', '4k'], 'a size is WIDTHxHEIGHT, as 448x252, not 4k'),
    (['--rate-hz', '3'], 'invalid choice: 3.0'),
])
def test_what_cannot_be_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        arguments: list[str], sentence: str):
    try:
        code = main(['data', 'sim', str(tmp_path / 'out'), *arguments])
    except SystemExit as error:  # argparse's way
        code = error.code
    assert code == 2 and not (tmp_path / 'out').exists()
    assert sentence in capsys.readouterr().err


def test_without_models_the_command_says_what_to_run(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'empty'))
    assert main(['data', 'sim', str(tmp_path / 'out')]) == 2
    assert 'run `fastdrive data assets`, once' in capsys.readouterr().err
