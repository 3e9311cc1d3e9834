# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive build` with the real TensorRT-RTX builder, for a GPU that is not here."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.tools import build

pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')

_NANO = Path(__file__).parents[1] / 'engines' / 'nano'


def _fastdrive_build(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    build.add_parser(parser.add_subparsers())
    args = parser.parse_args(['build', *map(str, arguments)])
    return args.run(args)


def _options(cache_dir: Path) -> list[object]:
    return ['--backend', 'tensorrt_rtx', '--compute-capability', 86, '--cache-dir', cache_dir]


def test_builds_once_and_says_what_was_not_verified(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _fastdrive_build(tiny_bundle.path, *_options(tmp_path)) == 0
    out, err = capsys.readouterr()
    assert 'building vision_encoder with tensorrt_rtx (0 s)' in err
    assert re.search(r'building planner: takes up to 1.1 GB of host memory, [\d.]+ GB are', err)
    assert out.startswith('tiny with tensorrt_rtx for sm86 (fp32)')
    assert out.count(' built ') == 3
    assert str(tmp_path / 'planner_tensorrt_rtx_') in out
    assert 'Numerics: not run here, and so not verified' in out
    assert _fastdrive_build(tiny_bundle.path, *_options(tmp_path)) == 0
    out, err = capsys.readouterr()
    assert out.count(' in cache ') == 3
    assert err == ''


def test_fused_builds_what_a_fused_node_loads(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _fastdrive_build(tiny_bundle.path, '--fused', *_options(tmp_path)) == 0
    names = {path.name.partition('_tensorrt')[0] for path in tmp_path.glob('*.engine')}
    assert names == {'perception', 'planner'}


def test_another_method_has_other_engines(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    assert _fastdrive_build(tiny_bundle.path, '--pruner', 'uniform', *_options(tmp_path)) == 0
    names = {path.name.partition('_tensorrt')[0] for path in tmp_path.glob('*.engine')}
    assert names == {'vision_encoder', 'planner'}
    with pytest.raises(EngineError, match='leave out --pruner, or --fused'):
        _fastdrive_build(tiny_bundle.path, '--fused', '--pruner', 'recon')


def test_without_gpu_and_target_the_command_that_works_is_told(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> None:
        raise EngineError('no driver')

    monkeypatch.setattr(build, 'Cuda', no_gpu)
    with pytest.raises(EngineError, match='no driver.*--compute-capability 86'):
        _fastdrive_build(tiny_bundle.path)


@pytest.mark.skipif(not (_NANO / 'manifest.json').is_file(), reason='engines/nano is not here')
@pytest.mark.parametrize('fused', [(), ('--fused',)])
def test_the_sample_bundle_builds(
    tmp_path: Path, fused: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _fastdrive_build(_NANO, *fused, *_options(tmp_path)) == 0
    assert 'nano with tensorrt_rtx for sm86' in capsys.readouterr().out
