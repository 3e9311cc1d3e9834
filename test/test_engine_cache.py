# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine cache against the real TensorRT-RTX builder: one build, and nothing half written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from dataclasses import replace
from pathlib import Path

import pytest

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine_cache import CachedEngine
from fastdrive_ros.runtime.engine_cache import EngineKey
from fastdrive_ros.runtime.engine_cache import bundle_key
from fastdrive_ros.runtime.engine_cache import cached_engine
from fastdrive_ros.runtime.engine_cache import default_cache_dir

pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')

_ROOT = Path(__file__).parents[1]
# A build in a process of its own, to kill: argv = bundle, graph, cache folder.
_BUILD = """
import sys
from pathlib import Path
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.load import build_engine
engine = build_engine(load_bundle(sys.argv[1]), sys.argv[2], 'tensorrt_rtx', 86,
                      Path(sys.argv[3]), lambda line: print(line, flush=True), for_this_gpu=False)
print('built_now', engine.built_now, flush=True)
"""


def _key(bundle: Bundle, graph: str = 'planner') -> EngineKey:
    return bundle_key(bundle, graph, 'tensorrt_rtx', 86)


def _cached(bundle: Bundle, cache_dir: Path, lines: list[str] | None = None) -> CachedEngine:
    return cached_engine(
        _key(bundle),
        bundle.graph_path('planner'),
        cache_dir,
        (lines if lines is not None else []).append,
        target_capability=86,
    )


def _start_build(bundle: Bundle, cache_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', _BUILD, str(bundle.path), 'planner', str(cache_dir)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _await_line(process: subprocess.Popen[str], start: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f'no line {start!r}: {process.communicate()[1]}')


def _files(cache_dir: Path) -> set[str]:
    """Return the suffixes of what lies in the cache, the locks apart."""
    return {file.name.partition('.engine')[2] for file in cache_dir.iterdir()} - {'.lock'}


def test_the_second_time_is_a_hit(tiny_bundle: Bundle, tmp_path: Path) -> None:
    lines: list[str] = []
    first = _cached(tiny_bundle, tmp_path, lines)
    assert first.built_now
    assert first.size_bytes == first.path.stat().st_size > 0
    assert lines[0].startswith('building planner: takes up to 1.1 GB of host memory')
    assert lines[1] == 'building planner with tensorrt_rtx (0 s)'
    second = _cached(tiny_bundle, tmp_path)
    assert second == replace(first, built_now=False)
    assert _files(tmp_path) == {'', '.json'}


def test_the_file_name_can_be_read(tiny_bundle: Bundle) -> None:
    key = replace(_key(tiny_bundle), backend_version='1.7.1')
    assert key.file_name == f'planner_tensorrt_rtx_1.7.1_sm86_fp32_{key.sha256[:12]}.engine'


@pytest.mark.parametrize(
    'change',
    [
        {'graph': 'recon_pruner'},
        {'onnx_sha256': 'f' * 64},
        {'backend': 'tensorrt'},
        {'backend_version': '1.7.2'},
        {'compute_capability': 89},
        {'precision': 'fp16'},
        {'profile': {'kept_tokens': [[1, 16], [24, 16], [49, 16]]}},
    ],
)
def test_every_field_makes_another_engine(tiny_bundle: Bundle, change: dict[str, object]) -> None:
    key = _key(tiny_bundle)
    assert replace(key, **change).sha256 != key.sha256
    assert set(asdict(key)) == {
        'graph', 'onnx_sha256', 'backend', 'backend_version', 'compute_capability', 'precision',
        'profile',
    }


def _truncate(engine: CachedEngine) -> None:
    os.truncate(engine.path, engine.size_bytes // 2)


def _flip(engine: CachedEngine) -> None:
    data = bytearray(engine.path.read_bytes())
    data[1000] ^= 1
    engine.path.write_bytes(data)


def _sidecar(engine: CachedEngine) -> Path:
    return engine.path.with_name(engine.path.name + '.json')


def _foreign(engine: CachedEngine) -> None:
    entry = json.loads(_sidecar(engine).read_text())
    entry['key']['compute_capability'] = 89
    _sidecar(engine).write_text(json.dumps(entry))


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (_truncate, 'truncated or altered'),
        (_flip, 'its sha256 is not the one recorded'),
        (_foreign, 'its sidecar is of another engine'),
        (lambda engine: _sidecar(engine).write_text('{"key": '), 'half written or altered'),
        (lambda engine: _sidecar(engine).write_text('[]'), 'half written or altered'),
        (lambda engine: _sidecar(engine).write_text('{}'), 'half written or altered'),
        (lambda engine: _sidecar(engine).unlink(), 'half written or altered'),
        (lambda engine: engine.path.unlink(), 'half written or altered'),
    ],
)
def test_damage_is_reported_and_mended(
    tiny_bundle: Bundle, tmp_path: Path, damage: object, words: str
) -> None:
    engine = _cached(tiny_bundle, tmp_path)
    assert callable(damage)
    damage(engine)
    lines: list[str] = []
    assert _cached(tiny_bundle, tmp_path, lines).built_now
    assert lines[0].startswith(f'rebuilding {engine.path}')
    assert words in lines[0]
    assert not _cached(tiny_bundle, tmp_path).built_now


def test_two_processes_build_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    processes = [_start_build(tiny_bundle, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted('built_now True' in output for output in outputs) == [False, True]
    assert _files(tmp_path) == {'', '.json'}


def test_waiting_for_the_other_process_is_said(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('fastdrive_ros.runtime.engine_cache._HEARTBEAT_S', 0.05)
    first = _start_build(tiny_bundle, tmp_path)
    _await_line(first, 'building planner')
    os.killpg(first.pid, signal.SIGSTOP)
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        os.killpg(first.pid, signal.SIGCONT)

    cached = cached_engine(
        _key(tiny_bundle),
        tiny_bundle.graph_path('planner'),
        tmp_path,
        note,
        target_capability=86,
    )
    first.communicate(timeout=60)
    assert not cached.built_now
    assert lines[0].startswith('waiting for another process to build planner_tensorrt_rtx')


@pytest.mark.parametrize('kill', [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_leaves_nothing_that_looks_valid(
    tiny_bundle: Bundle, tmp_path: Path, kill: signal.Signals
) -> None:
    process = _start_build(tiny_bundle, tmp_path)
    _await_line(process, 'building planner')
    process.send_signal(kill)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert _files(tmp_path) <= {f'.{process.pid}.tmp'}
    if kill == signal.SIGINT:
        assert not _files(tmp_path)
    engine = _cached(tiny_bundle, tmp_path)
    assert engine.built_now
    assert _files(tmp_path) == {'', '.json'}


def test_leftovers_of_a_killed_build_are_removed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    leftover = tmp_path / (_key(tiny_bundle).file_name + '.4242.tmp')
    leftover.write_bytes(b'half')
    _cached(tiny_bundle, tmp_path)
    assert not leftover.exists()


def test_a_full_disk_is_said_and_leaves_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    # The real limit of the kernel on this process and its builder: files of at most 100 kB.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(EngineError, match=r'cannot write an engine of .* MB.*--cache-dir'):
            _cached(tiny_bundle, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not _files(tmp_path)


@pytest.mark.skipif(not os.access('/dev/full', os.W_OK), reason='no /dev/full here')
def test_no_space_left_names_the_cause(tiny_bundle: Bundle) -> None:
    from fastdrive_ros.runtime.trt_build import build_engine_file

    with pytest.raises(EngineError, match='No space left on device. Make room'):
        build_engine_file(
            tiny_bundle.graph_path('planner'),
            Path('/dev/full'),
            'tensorrt_rtx',
            profile=tiny_bundle.profile('planner'),
            compute_capability=86,
        )


def test_a_cache_that_cannot_be_made(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(EngineError, match='cannot use the engine cache .*--cache-dir'):
        _cached(tiny_bundle, tmp_path / 'file' / 'cache')


def test_a_builder_that_is_killed_is_explained(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / 'python'
    killed.write_text('#!/bin/sh\nkill -9 $$\n')
    killed.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(killed))
    with pytest.raises(EngineError, match='was ended by SIGKILL .*out of memory'):
        _cached(tiny_bundle, tmp_path / 'cache')
    assert not _files(tmp_path / 'cache')


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_cache_dir() == tmp_path / 'fastdrive_ros' / 'engines'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert default_cache_dir() == tmp_path / '.cache' / 'fastdrive_ros' / 'engines'
