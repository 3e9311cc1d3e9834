# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bench encoders`: work and plans of several bundles, and the picture of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate import command
from test_evaluate import summary_of
from test_evaluate import write_drives
from tiny_bundle import HIDDEN_SIZE
from tiny_bundle import NUM_TOKENS
from tiny_bundle import PATCH
from tiny_bundle import write_tiny_bundle

pytest.importorskip('pyarrow', reason="datasets need pip install 'fastdrive_ros[data]'")
matplotlib = pytest.importorskip('matplotlib')

from fastdrive_ros.data.records import DataError  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.tools.bench_encoders import bench  # noqa: E402
from fastdrive_ros.tools.bench_encoders import time_ms  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402
from fastdrive_ros.tools.early_picture import draw  # noqa: E402


@pytest.fixture(scope='module')
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of other weights."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundles') / 'other', seed=8)


@pytest.fixture(scope='module')
def evaluations(tiny_bundle: Bundle, other: Bundle,
                tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both bundles on the same two drives."""
    folder = tmp_path_factory.mktemp('evaluations')
    data = write_drives(folder / 'drives', drives=2)
    outs = [folder / 'tiny', folder / 'other']
    for bundle, out in zip((tiny_bundle, other), outs):
        assert command(bundle.path, data, out, '--pruners', 'recon', '--workers', '1') == 0
    return outs


def test_each_repeat_runs_every_encoder() -> None:
    order = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            order.append(self.name)
            return {}

    assert time_ms([Slow('a'), Slow('b')], {}, 3).shape == (3, 2)
    assert ''.join(order[-6:]) == 'ababab'


def test_figures_are_those_of_the_evaluations(
        tiny_bundle: Bundle, other: Bundle, evaluations: list[Path],
        capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bench', 'encoders', '--bundles', str(tiny_bundle.path), str(other.path),
                 '--evaluations', *map(str, evaluations)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])['encoders']
    assert found['scenes'] == 2 and len(lines) > 8
    for each, out in zip(found['bundles'], evaluations):
        assert each['macs'] == NUM_TOKENS * HIDDEN_SIZE * 3 * PATCH * PATCH
        assert (each['macs_ratio'], each['encoded_share']) == (1.0, 1.0)
        rows = {row['name'].partition('/')[2]: row['figures'] for row in summary_of(out)['rows']
                if row['planner']}
        assert each['quality'].keys() == rows.keys() == {'none', 'recon@0.5'}
        for row, figures in rows.items():
            for name in ('l2_mean_avg', 'foreground_recall', 'miss_rate'):
                for key, value in figures[name].items():
                    if key != 'frames':
                        assert each['quality'][row][name][key] == pytest.approx(value, rel=1e-5)
    first, second = (each['quality']['none'] for each in found['bundles'])
    assert first['l2_relative_percent']['value'] == 0.0
    assert second['l2_relative_percent']['value'] == pytest.approx(
        100 * (second['l2_mean_avg']['value'] / first['l2_mean_avg']['value'] - 1))


def test_refusals(tiny_bundle: Bundle, other: Bundle, evaluations: list[Path],
                  tmp_path: Path) -> None:
    paths = [tiny_bundle.path, other.path]
    for bundles, folders, why in (
            ([], [], '--bundles names the bundles'),
            (paths, evaluations[:1], 'one evaluation for each of the 2 bundles'),
            (paths, evaluations[::-1], 'give --bundles and --evaluations in the same order'),
            (paths, [evaluations[0], tmp_path], 'is no evaluation .no evaluation.json in it')):
        with pytest.raises(DataError, match=why):
            bench(bundles, folders, repeats=1)
    with pytest.raises(DataError, match='needs an unpruned bundle first, then early-pruned ones'):
        draw(bench(paths, evaluations, repeats=1), tmp_path / 'no.png')
    assert not (tmp_path / 'no.png').exists()


def test_the_picture_has_a_line_for_each_block(
        tiny_bundle: Bundle, evaluations: list[Path], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Any] = bench([tiny_bundle.path], evaluations[:1], repeats=1)
    for block in (0, 2):
        for share in (0.25, 0.5):
            early = copy.deepcopy(figures['bundles'][0])
            figures['bundles'].append(early | {
                'early_pruning': {'after_block': block}, 'encoded_share': share})
    labels = []
    real = matplotlib.axes.Axes.errorbar

    def noted(self: Any, places: list[float], *args: Any, **more: Any) -> Any:
        labels.append((more['label'], len(places)))
        return real(self, places, *args, **more)

    monkeypatch.setattr(matplotlib.axes.Axes, 'errorbar', noted)
    draw(figures, tmp_path / 'early.png')
    assert (tmp_path / 'early.png').read_bytes().startswith(b'\x89PNG')
    assert set(labels) == {(f'after block {block}{after}', 3) for block in (0, 2)
                           for after in ('', ', then recon@0.5')}
