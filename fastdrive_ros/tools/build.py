# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive build`: a bundle's graphs -> TensorRT engines in the cache, before the drive."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from fastdrive_ros.assemble import method_graphs
from fastdrive_ros.planners import LANGUAGE
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.cuda_memory import Cuda
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine_cache import Progress
from fastdrive_ros.runtime.engine_cache import default_cache_dir
from fastdrive_ros.runtime.engine_cache import read_numerics
from fastdrive_ros.runtime.load import build_engine
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.runtime.trt_build import import_tensorrt
from fastdrive_ros.tools.tables import print_table

_DESCRIPTION = """\
Build the engines of a model bundle and keep them in the cache, so that the node starts at once.

On the vehicle's computer: builds for its GPU, runs the engines and checks them against the golden
outputs of the bundle; the figures stay beside the engines (.numerics.json). Without a GPU:
TensorRT-RTX engines for the --compute-capability you name; they cannot be run or checked here,
the node checks them when it loads them.
An engine that is in the cache and unaltered is not built again.
"""
_EPILOG = """\
examples:
  fastdrive build engines/nano
  fastdrive build engines/nano --backend tensorrt_rtx --compute-capability 86
  fastdrive build engines/nano --pruner fastv     # for a node with pruner: fastv

capabilities: 75 Turing, 80 A100, 86 RTX 30xx and A-series, 89 RTX 40xx, 120 RTX 50xx.
Jetson Orin (87) has full TensorRT: build on the Jetson itself.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'build',
        help="build a bundle's engines for this computer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bundle', type=Path, metavar='BUNDLE', help='folder with manifest.json')
    parser.add_argument(
        '--backend',
        choices=('auto', 'tensorrt', 'tensorrt_rtx'),
        default='auto',
        help='auto: tensorrt where it is installed, else tensorrt_rtx (default)',
    )
    parser.add_argument(
        '--compute-capability',
        type=int,
        metavar='N',
        help="target GPU without having it, for example 86 (default: this computer's GPU)",
    )
    parser.add_argument(
        '--cache-dir',
        type=Path,
        metavar='DIR',
        help='where engines are kept (default: ~/.cache/fastdrive_ros/engines)',
    )
    parser.add_argument(
        '--fused',
        action='store_true',
        help='encoder and pruner as one engine, for a node with fuse_perception: true',
    )
    parser.add_argument(
        '--pruner',
        choices=tuple(METHODS),
        metavar='METHOD',
        help="the engines of another pruning method (default: the bundle's own)",
    )
    parser.add_argument(
        '--text-backend',
        choices=('engine', 'torch'),
        default='engine',
        help='torch: no engine of the language model, for a node with text_backend: torch',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build every engine; return 0, or raise EngineError with what is wrong."""
    bundle = load_bundle(args.bundle)
    if args.fused and args.pruner:
        raise EngineError('--fused joins the encoder with ReconPruner: leave out --pruner, or '
                          '--fused')
    graphs = method_graphs(bundle, args.pruner or bundle.pruner_method, args.fused)
    if args.text_backend == 'torch':
        graphs = tuple(graph for graph in graphs if graph != LANGUAGE)
    cache_dir = args.cache_dir or default_cache_dir()
    backend = _backend(args.backend)
    capability, for_this_gpu = _target(args.compute_capability)
    rows, paths = [], {}
    with _progress() as on_progress:
        for graph in graphs:
            engine = build_engine(
                bundle,
                graph,
                backend,
                capability,
                cache_dir,
                on_progress,
                for_this_gpu=for_this_gpu,
            )
            paths[graph] = engine.path
            rows.append((
                graph,
                'built' if engine.built_now else 'in cache',
                f'{engine.build_s:.1f}',
                f'{engine.size_bytes / 1e6:.1f}',
                str(engine.path),
            ))
        verdict = (
            _check(bundle, backend, graphs, cache_dir, on_progress)
            if for_this_gpu
            else 'Numerics: not run here, and so not verified. `fastdrive build` on the vehicle, '
            'and the node when it loads them, compare these engines with the golden outputs.'
        )
    print_table(
        f'{bundle.name} with {backend} for sm{capability} ({bundle.arithmetic})',
        ('graph', 'engine', 'build s', 'MB', 'file'),
        rows,
    )
    if for_this_gpu:
        print_table('on this GPU against fp32',
                    ('output', 'max abs', 'relative L2', 'cosine', 'kept in common'),
                    [row for graph, path in paths.items() for row in _numerics(graph, path)])
    print(verdict)
    return 0


def _numerics(graph: str, path: Path) -> list[tuple[str, ...]]:
    """Return a table row for each output of an engine that was run."""
    figures = read_numerics(path)
    if figures is None:
        return [(graph, 'not run here', '', '', '')]
    kept = figures['kept_overlap']
    return [
        (f'{graph}.{name}', f'{found["max_abs"]:.2e}', f'{found["relative_l2"]:.2e}',
         f'{found["cosine"]:.6f}', '' if kept is None else f'{kept:.1%}')
        for name, found in figures['outputs'].items()
    ]


def _backend(asked: str) -> str:
    """Return the backend to build with: the one asked for, or the first that is installed."""
    if asked != 'auto':
        import_tensorrt(asked)
        return asked
    missing = []
    for backend in ('tensorrt', 'tensorrt_rtx'):
        try:
            import_tensorrt(backend)
        except EngineError as error:
            missing.append(str(error))
        else:
            return backend
    raise EngineError(
        'expected TensorRT or TensorRT-RTX, found neither. ' + ' '.join(missing)
        + ' The backend onnxruntime needs no build.'
    )


def _target(asked: int | None) -> tuple[int, bool]:
    """Return the compute capability to build for, and whether it is this computer's GPU."""
    if asked is not None:
        return asked, False
    try:
        return Cuda().device().compute_capability, True
    except EngineError as error:
        raise EngineError(
            f'expected a GPU to build for, found none ({error}). '
            'Name the target: fastdrive build BUNDLE --backend tensorrt_rtx '
            '--compute-capability 86'
        ) from error


def _check(
    bundle: Bundle, backend: str, graphs: tuple[str, ...], cache_dir: Path, on_progress: Progress
) -> str:
    loaded = load_engines(
        bundle, backend=backend, graphs=graphs, cache_dir=cache_dir, on_progress=on_progress
    )
    for engine in loaded.engines.values():
        engine.close()
    return f'Run on {loaded.device}, golden outputs reproduced: {loaded.golden}'


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Yield what tells people that work goes on: a spinner on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    from rich.console import Console

    with Console(stderr=True).status('reading the cache') as status:
        yield status.update
