# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A verified bundle -> engines that run and reproduce its golden outputs, and why this backend.

'auto' takes the first that works of tensorrt, tensorrt_rtx, onnxruntime on CUDA, onnxruntime on
the CPU, and keeps what was wrong with each better one. A backend asked for by name is never
replaced by another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.cuda_lane import Lane
from fastdrive_ros.runtime.cuda_memory import Cuda
from fastdrive_ros.runtime.device_memory import require_device_memory
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine_cache import CachedEngine
from fastdrive_ros.runtime.engine_cache import Progress
from fastdrive_ros.runtime.engine_cache import bundle_key
from fastdrive_ros.runtime.engine_cache import cached_engine
from fastdrive_ros.runtime.engine_cache import default_cache_dir
from fastdrive_ros.runtime.engine_cache import discard
from fastdrive_ros.runtime.engine_cache import write_numerics
from fastdrive_ros.runtime.golden import GoldenReport
from fastdrive_ros.runtime.golden import golden_report
from fastdrive_ros.runtime.golden import require_passed
from fastdrive_ros.runtime.onnx_engine import OnnxEngine
from fastdrive_ros.runtime.trt_build import import_tensorrt
from fastdrive_ros.runtime.trt_engine import TrtEngine
from fastdrive_ros.runtime.trt_engine import UnusableFileError
from fastdrive_ros.runtime.trt_graphs import RUNS_TO_REPLAY

# Best first: what to say, backend, ONNX Runtime's device.
_CANDIDATES = (
    ('tensorrt', 'tensorrt', ''),
    ('tensorrt_rtx', 'tensorrt_rtx', ''),
    ('onnxruntime on CUDA', 'onnxruntime', 'cuda'),
    ('onnxruntime on the CPU', 'onnxruntime', 'cpu'),
)


@dataclass(frozen=True)
class LoadedEngines:
    """Engines that have run and were right."""

    engines: Mapping[str, Engine]
    backend: str
    """'tensorrt', 'tensorrt_rtx' or 'onnxruntime'."""
    reason: str
    """Why this backend, and why not the better ones."""
    device: str
    """What it runs on, in words."""
    golden: GoldenReport

    @property
    def trouble(self) -> str:
        """What goes on slower than it could, as of now: engines without CUDA graphs."""
        return '; '.join(engine.trouble for engine in self.engines.values()
                         if isinstance(engine, TrtEngine) and engine.trouble)


@dataclass(frozen=True)
class _Request:
    bundle: Bundle
    graphs: Sequence[str]
    num_threads: int
    cache_dir: Path
    on_progress: Progress


def load_engines(
    bundle: Bundle,
    *,
    backend: str = 'auto',
    graphs: Sequence[str] = ('vision_encoder', 'recon_pruner', 'planner'),
    num_threads: int = 0,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> LoadedEngines:
    """
    Load ``graphs``, run each and check it against the bundle's golden outputs.

    ``on_progress`` gets a line at least every second while an engine is being built, which can
    take minutes. Raises EngineError when ``backend`` (for 'auto': every one) does not work.
    """
    candidates = [entry for entry in _CANDIDATES if backend in ('auto', entry[1])]
    if not candidates:
        known = ('auto', *dict.fromkeys(entry[1] for entry in _CANDIDATES))
        raise EngineError(f'expected a backend of {", ".join(known)}, found {backend!r}.')
    request = _Request(
        bundle,
        graphs,
        num_threads,
        cache_dir or default_cache_dir(),
        on_progress or (lambda line: None),
    )
    failures: list[str] = []
    for label, name, device in candidates:
        try:
            engines, device_words, golden = _load_checked(request, name, device)
        except BundleError:
            raise
        except EngineError as error:
            failures.append(f'{label}: {error}')
            request.on_progress(f'{label} does not work here')
            continue
        asked = 'best that works here' if backend == 'auto' else 'asked for by name'
        reason = '. '.join([f'{label}, {asked}', *(f'Not {why.rstrip(".")}' for why in failures)])
        return LoadedEngines(engines, name, reason + '.', device_words, golden)
    raise EngineError(
        f'no engine for {bundle.name}: expected backend {backend!r} to work. '
        + ' '.join(f'{why.rstrip(".")}.' for why in failures)
    )


def build_engine(
    bundle: Bundle,
    graph: str,
    backend: str,
    compute_capability: int,
    cache_dir: Path,
    on_progress: Progress,
    *,
    for_this_gpu: bool = True,
) -> CachedEngine:
    """Return one graph's engine from the cache, built if it is not there."""
    return cached_engine(
        bundle_key(bundle, graph, backend, compute_capability),
        bundle.graph_path(graph),
        cache_dir,
        on_progress,
        target_capability=None if for_this_gpu else compute_capability,
    )


def _load_checked(
    request: _Request, backend: str, device: str
) -> tuple[dict[str, Engine], str, GoldenReport]:
    """Load every graph and check it; nothing stays loaded when one of them fails."""
    load, device_words = _loader(request, backend, device)
    with ExitStack() as loaded:
        engines = {graph: loaded.enter_context(closing(load(graph))) for graph in request.graphs}
        on_trt = {graph: engine for graph, engine in engines.items()
                  if isinstance(engine, TrtEngine)}
        # TensorRT's until recorded runs are replayed. Driving has another K: assemble.py runs it.
        for _ in range(RUNS_TO_REPLAY if on_trt else 1):
            golden = golden_report(request.bundle, engines)
            for graph, engine in on_trt.items():
                write_numerics(engine.path, {
                    'device': device_words, 'num_tokens': request.bundle.num_tokens,
                    **golden.of_graph(graph)})
            require_passed(request.bundle, golden)
        loaded.pop_all()  # all is well: keep them open
    return engines, device_words, golden


def _loader(
    request: _Request, backend: str, device: str
) -> tuple[Callable[[str], Engine], str]:
    """Return what loads one graph by name, and the device in words."""
    bundle = request.bundle
    if backend == 'onnxruntime':
        if device == 'cpu' and bundle.precision == 'bf16':
            raise EngineError(
                f'ONNX Runtime has no bf16 on the CPU, and {bundle.name} computes in it: use a '
                'GPU, or export with `fastdrive export --precision fp32`'
            )
        threads = request.num_threads or 'all'
        words = f'CPU, {threads} of {len(os.sched_getaffinity(0))} cores'
        return lambda graph: OnnxEngine(
            bundle.graph_path(graph),
            bundle.graph_specs(graph),
            num_threads=request.num_threads,
            device=device,
        ), words if device == 'cpu' else 'CUDA device 0'
    import_tensorrt(backend)
    cuda = Cuda()
    lane, gpu = Lane(cuda), cuda.device()
    require_device_memory(bundle, request.graphs, cuda.free_bytes(), f"{gpu.name}'s memory")
    return lambda graph: _load_trt(
        request, graph, backend, lane, gpu.compute_capability
    ), f'{gpu.name} (sm{gpu.compute_capability})'


def _load_trt(
    request: _Request, graph: str, backend: str, lane: Lane, compute_capability: int
) -> TrtEngine:
    """Open a graph's engine; one from the cache that does not open is built again, once."""
    bundle = request.bundle

    def built() -> CachedEngine:
        return build_engine(
            bundle, graph, backend, compute_capability, request.cache_dir, request.on_progress
        )

    def opened(path: Path) -> TrtEngine:
        return TrtEngine(
            path,
            bundle.graph_specs(graph),
            backend=backend,
            largest={name: size.most for name, size in bundle.free_sizes(graph).items()},
            lane=lane,
        )

    cached = built()
    try:
        return opened(cached.path)
    except UnusableFileError as error:
        if cached.built_now:
            raise
        request.on_progress(f'rebuilding {cached.path}: {error}')
        discard(cached.path)
        return opened(built().path)
