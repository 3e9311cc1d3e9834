# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive visualize` from a dataset, a bag, folders of pictures: what is drawn, and refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from make_rigged_bags import write_rigged_bag
from test_evaluate import write_drives
from tiny_bundle import NUM_TOKENS

pytest.importorskip('pyarrow', reason="datasets need pip install 'fastdrive_ros[data]'")
pytest.importorskip('matplotlib', reason="pictures need pip install 'fastdrive_ros[viz]'")

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools import visualize_frames
from fastdrive_ros.tools.cli import USER_ERROR
from fastdrive_ros.tools.cli import main
from fastdrive_ros.tools.evaluate_models import Models
from fastdrive_ros.tools.evaluate_models import load_planners
from fastdrive_ros.tools.visualize_ways import ways_of

METHODS = ('none', 'uniform', 'recon', 'fastv')


@pytest.fixture(scope='module')
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drives(tmp_path_factory.mktemp('drives') / 'three')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with pictures of five of the six cameras."""
    pictures = tmp_path / 'sweep'
    pictures.mkdir()
    for i, camera in enumerate(NUSCENES_CAMERAS[:5]):
        image = np.full((54, 96, 3), 40 * i, np.uint8)
        assert cv2.imwrite(str(pictures / f'{camera}.{"png" if i % 2 else "jpg"}'), image)
    return pictures


def draw(bundle: Bundle, out: Path, *source: str) -> int:
    return main(['visualize', '--bundle', str(bundle.path), '--out', str(out), *source])


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == USER_ERROR
    return capsys.readouterr().err


def test_frames_of_a_dataset_are_spread_over_its_drives(
        rival_bundle: Bundle, drives: Path, tmp_path: Path):
    assert draw(rival_bundle, tmp_path / 'out', '--data', str(drives), '--pruners', *METHODS,
                '--keep', '0.5') == 0
    assert names(tmp_path / 'out') == [
        f'drive-{i}_0004_{what}.png' for i in range(3) for what in ('kept_0.5', 'plans')]


def test_the_drawn_plans_are_those_of_the_evaluation(rival_bundle: Bundle, drives: Path):
    planners = load_planners([rival_bundle.path], METHODS, print)
    models = Models(planners.bundles, planners.engines, 0.0)
    frame, = visualize_frames.of_dataset(drives, 'test', ['drive-1'], 1, rival_bundle)
    ways = {(way.method, way.keep_ratio): way
            for way in ways_of(frame, models, METHODS, [0.5, 0.25])}
    planners.close()
    assert list(ways) == [('extrapolation', 1.0), ('none', 1.0), *(
        (method, ratio) for method in METHODS[1:] for ratio in (0.5, 0.25))]
    assert len(ways['none', 1.0].kept) == NUM_TOKENS
    for method in METHODS[1:]:
        assert len(ways[method, 0.5].kept) == NUM_TOKENS // 2
    # The picture says how far off a plan is: the truth is that of the frame's odometry.
    assert frame.truth.known.all() and np.isfinite(ways['recon', 0.5].waypoints).all()
    assert frame.shares.totals()['foreground'] > 0


def test_sweeps_of_a_bag_have_odometry_and_so_plans(rival_bundle: Bundle, tmp_path: Path):
    write_rigged_bag(tmp_path / 'bag')
    assert draw(rival_bundle, tmp_path / 'out', '--bag', str(tmp_path / 'bag'), '--frames', '1',
                '--pruners', 'uniform', '--keep', '0.25') == 0
    kept, plans = names(tmp_path / 'out')
    assert kept.startswith('bag_') and kept.endswith('_kept_0.25.png')
    assert plans.endswith('_plans.png')


def test_pictures_alone_give_no_plans_and_an_absent_camera_stays_absent(
        rival_bundle: Bundle, folder: Path, tmp_path: Path):
    frame = visualize_frames.of_folder(folder, rival_bundle)
    assert frame.batch.present.tolist() == [True] * 5 + [False]
    assert frame.ego is None and frame.shares is None
    assert draw(rival_bundle, tmp_path / 'out', '--pictures', str(folder), '--keep', '0.5',
                '--pruners', 'recon', 'fastv') == 0
    assert names(tmp_path / 'out') == ['sweep_kept_0.5.png']


def test_what_cannot_be_drawn_is_refused(rival_bundle: Bundle, drives: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]):
    def refused(*source: str) -> str:
        return refusal(capsys, draw(rival_bundle, tmp_path / 'out', *source))

    assert 'has no picture of the bundle' in refused('--pictures', str(tmp_path))
    assert 'has no drive-7 in split test; it has drive-0' in refused(
        '--data', str(drives), '--scene', 'drive-7')
    assert 'no whole drive in split val' in refused('--data', str(drives), '--split', 'val')
    assert '--keep 1: a ratio lies between 0 and 1' in refused(
        '--data', str(drives), '--keep', '1')
    assert 'belong together' in refused('--data', str(drives), '--rebuild', 'run')


def test_a_damaged_picture_is_named(rival_bundle: Bundle, folder: Path):
    first = NUSCENES_CAMERAS[0]
    (folder / f'{first}.jpg').write_bytes(b'no picture')
    with pytest.raises(DataError, match=f'sweep: {first}: '):
        visualize_frames.of_folder(folder, rival_bundle)
