# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bench model --bundle`: every method's stages on the engines that drive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip('matplotlib')

from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.tools import bench_bundle  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402

NANO = Path(__file__).resolve().parent.parent / 'engines' / 'nano'


def test_stages_of_all_methods_and_a_picture(
        rival_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = rival_bundle.num_tokens
    assert main(['bench', 'model', '--bundle', str(rival_bundle.path), '--kept', '12', '6',
                 '--repeats', '2', '--out', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])['model']
    rows = {(row['method'], row['kept']): row for row in result['rows']}
    assert list(rows)[:3] == [('none', every), ('recon', 12), ('recon', 6)]
    assert {method for method, _ in rows} == {
        'none', 'recon', 'plan', 'divprune', 'vispruner', 'prune2drive', 'fastv', 'sparsevlm',
        'vla_pruner', 'efficientvla'}
    for row in rows.values():
        took = {stage: each['p50'] for stage, each in row['stages_ms'].items()}
        assert {'encode', 'prune', 'plan', 'prefill', 'total'} <= set(took)
        assert took['prefill'] <= took['plan']
    # Fewer kept cost the planner less; a method before it, without a scorer, the least.
    assert rows['recon', 6]['macs'] < rows['recon', 12]['macs'] < rows['recon', 12]['macs'] * 2
    assert rows['divprune', 12]['macs'] < rows['recon', 12]['macs'] < rows['none', every]['macs']
    assert json.loads((tmp_path / 'model.json').read_text()) == result
    assert (tmp_path / 'model.png').read_bytes().startswith(b'\x89PNG')
    assert f'head waypoint_queries): N = {every}, onnxruntime on CPU' in out


def test_tokens_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bench', 'model', '--bundle', str(NANO), '--kept', '672']) == 2
    assert '--kept: expected 1 to 671 of the 672 tokens that the encoder of nano leaves' in (
        capsys.readouterr().err)


def test_options_of_checkpoints_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bench', 'model', '--bundle', str(NANO), '--dtype', 'float16', '--grid',
                 '1x2x3']) == 2
    assert "measures the bundle's own engines: leave out --dtype, --grid" in (
        capsys.readouterr().err)


def test_a_bundle_without_rivals_is_measured_with_what_it_has(tiny_bundle: Bundle) -> None:
    assert bench_bundle._methods(tiny_bundle) == ['recon', 'divprune', 'prune2drive']
