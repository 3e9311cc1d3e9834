# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
EngineKey -> a verified engine file: found in the cache, or built once by whoever comes first.

An engine is valid when its sidecar (same name + '.json') holds the whole key and the file's own
sha256. The sidecar is written last, so whatever kills a build leaves nothing that looks valid.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from filelock import Timeout

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import file_sha256
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.host_memory import available_bytes
from fastdrive_ros.runtime.trt_build import build_memory
from fastdrive_ros.runtime.trt_build import import_tensorrt
from fastdrive_ros.runtime.trt_build import require_build_memory

Progress = Callable[[str], None]

_HEARTBEAT_S = 1.0
_POLL_S = 0.05


@dataclass(frozen=True)
class EngineKey:
    """Everything that makes one engine differ from another."""

    graph: str
    onnx_sha256: str
    """Of the ONNX file and its external data (Bundle.graph_sha256)."""
    backend: str
    backend_version: str
    compute_capability: int
    """Major * 10 + minor of the GPU, for example 86."""
    precision: str
    profile: Mapping[str, list[list[int]]]
    """The optimization profile (Bundle.profile): which shapes it is built for."""

    @property
    def sha256(self) -> str:
        """Digest of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Return the engine's file name: readable, and unique by the digest's first digits."""
        return (
            f'{self.graph}_{self.backend}_{self.backend_version}_sm{self.compute_capability}_'
            f'{self.precision}_{self.sha256[:12]}.engine'
        )


@dataclass(frozen=True)
class CachedEngine:
    """An engine file that is what its key says."""

    path: Path
    built_now: bool
    build_s: float
    """What building took, now or when it was built."""
    size_bytes: int


def bundle_key(bundle: Bundle, graph: str, backend: str, compute_capability: int) -> EngineKey:
    """Return the key of a bundle's graph for the installed version of ``backend``."""
    return EngineKey(
        graph=graph,
        onnx_sha256=bundle.graph_sha256(graph),
        backend=backend,
        backend_version=import_tensorrt(backend).__version__,
        compute_capability=compute_capability,
        precision=bundle.precision,
        profile=bundle.profile(graph),
    )


def default_cache_dir() -> Path:
    """Return $XDG_CACHE_HOME/fastdrive_ros/engines, by default under ~/.cache."""
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(root) / 'fastdrive_ros' / 'engines'


def cached_engine(
    key: EngineKey,
    onnx_path: Path,
    cache_dir: Path,
    on_progress: Progress,
    *,
    target_capability: int | None = None,
) -> CachedEngine:
    """
    Return the engine of ``key``, building it when the cache has no valid one.

    One process builds, the others wait for it. ``target_capability`` is given when the engine is
    for a GPU that this machine does not have.
    """
    path = cache_dir / key.file_name
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(path, on_progress):
            found, problem = _look_up(path, key)
            if found is not None:
                return found
            if problem is not None:
                on_progress(f'rebuilding {path}: {problem}')
            return _build(key, onnx_path, path, on_progress, target_capability)
    except OSError as error:
        raise EngineError(
            f'cannot use the engine cache {cache_dir}: {error.strerror}. Make room or give write '
            'permission there, or choose another --cache-dir (engine_cache_dir in the YAML).'
        ) from error


def discard(path: Path) -> None:
    """Forget a cached engine that turned out not to load, so that it is built again."""
    for file in (_sidecar(path), path, _numerics(path)):
        file.unlink(missing_ok=True)


def write_numerics(path: Path, figures: Mapping[str, Any]) -> None:
    """Keep what a GPU made of the golden inputs beside the engine that it ran."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    temporary.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, _numerics(path))


def read_numerics(path: Path) -> Mapping[str, Any] | None:
    """Return what ``write_numerics`` kept; None where the engine was not run."""
    try:
        return json.loads(_numerics(path).read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: Path, on_progress: Progress) -> Iterator[None]:
    """Hold the engine's lock; the kernel frees it when its holder dies, however it dies."""
    lock = FileLock(path.with_name(path.name + '.lock'))
    started = time.monotonic()
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_HEARTBEAT_S, poll_interval=_POLL_S)
        except Timeout:
            waited_s = time.monotonic() - started
            on_progress(f'waiting for another process to build {path.name} ({waited_s:.0f} s)')
    try:
        yield
    finally:
        lock.release()


def _look_up(path: Path, key: EngineKey) -> tuple[CachedEngine | None, str | None]:
    """Return the valid engine, or what is wrong with the one that is there (None: no engine)."""
    sidecar = _sidecar(path)
    if not path.exists() and not sidecar.exists():
        return None, None
    try:
        entry = json.loads(sidecar.read_text(encoding='utf-8'))
        recorded = (entry['key'], entry['sha256'], entry['bytes'], entry['build_s'])
        size = path.stat().st_size
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        return None, f'half written or altered ({type(error).__name__}: {error})'
    recorded_key, digest, recorded_size, build_s = recorded
    if recorded_key != asdict(key):
        return None, f'its sidecar is of another engine ({recorded_key})'
    if size != recorded_size:
        return None, f'truncated or altered (expected {recorded_size} bytes, found {size})'
    if file_sha256(path) != digest:
        return None, 'altered (its sha256 is not the one recorded)'
    return CachedEngine(path, False, build_s, size), None


def _build(
    key: EngineKey,
    onnx_path: Path,
    path: Path,
    on_progress: Progress,
    target_capability: int | None,
) -> CachedEngine:
    for leftover in path.parent.glob(path.name + '.*.tmp'):  # of builders that were killed
        leftover.unlink()
    discard(path)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    sidecar_temporary = _sidecar(temporary)
    started = time.monotonic()
    try:
        _run_builder(key, onnx_path, temporary, on_progress, target_capability)
        build_s = round(time.monotonic() - started, 2)
        size = temporary.stat().st_size
        entry = {
            'key': asdict(key),
            'sha256': file_sha256(temporary),
            'bytes': size,
            'build_s': build_s,
        }
        with sidecar_temporary.open('w', encoding='utf-8') as stream:
            json.dump(entry, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        os.replace(sidecar_temporary, _sidecar(path))
    finally:
        temporary.unlink(missing_ok=True)
        sidecar_temporary.unlink(missing_ok=True)
    return CachedEngine(path, True, build_s, size)


def _run_builder(
    key: EngineKey,
    onnx_path: Path,
    temporary: Path,
    on_progress: Progress,
    target_capability: int | None,
) -> None:
    """Build in a process of its own; tell every second that it is alive."""
    needed, available = build_memory(onnx_path), available_bytes()
    on_progress(f'building {key.graph}: takes up to {needed / 1e9:.1f} GB of host memory, '
                f'{available / 1e9:.1f} GB are available')
    require_build_memory(onnx_path, available)
    job = {
        'parent_pid': os.getpid(),
        'onnx_path': str(onnx_path),
        'engine_path': str(temporary),
        'backend': key.backend,
        'profile': key.profile,
        'compute_capability': target_capability,
    }
    builder = subprocess.Popen(
        [sys.executable, '-m', 'fastdrive_ros.runtime.trt_build', json.dumps(job)],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = time.monotonic()
    on_progress(f'building {key.graph} with {key.backend} (0 s)')
    try:
        while True:
            try:
                _, complaint = builder.communicate(timeout=_HEARTBEAT_S)
                break
            except subprocess.TimeoutExpired:
                seconds = time.monotonic() - started
                on_progress(f'building {key.graph} with {key.backend} ({seconds:.0f} s)')
    finally:
        if builder.poll() is None:  # interrupted: nobody will want what it builds
            builder.kill()
            builder.wait()
    _check_builder(builder.returncode, complaint, key)


def _check_builder(returncode: int, complaint: str, key: EngineKey) -> None:
    if returncode == 1:
        lines = complaint.strip().splitlines()
        raise EngineError(lines[-1] if lines else f'building {key.graph} failed without a word.')
    if returncode != 0:
        cause = signal.Signals(-returncode).name if returncode < 0 else f'exit {returncode}'
        raise EngineError(
            f'the {key.backend} builder of {key.graph} was ended by {cause} (SIGKILL usually '
            'means out of memory, another program took what was free before). Close other '
            'programs or add swap, then run `fastdrive build` again.'
        )


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + '.json')


def _numerics(path: Path) -> Path:
    return path.with_name(path.name + '.numerics.json')
