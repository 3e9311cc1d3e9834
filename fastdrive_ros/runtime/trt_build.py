# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One ONNX graph -> one serialized TensorRT engine file.

The same code for full TensorRT (module ``tensorrt``, 10.3 of JetPack 6 up to 11) and for
TensorRT-RTX (module ``tensorrt_rtx``), which also builds with no GPU when it is told a compute
capability. Run as a module it builds in a process of its own: killing it, or its running out of
memory, then harms nobody.

What was run: the TensorRT-RTX 1.7 builder, without a GPU. What was not: the builder of full
TensorRT, whose API was compared name by name (10.3, 10.16, 11.0, 11.4) but not executed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdrive_ros.runtime.bundle import K_AS_VALUE
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.onnx_file import external_data_files
from fastdrive_ros.runtime.trt_limits import TOPK_LIMIT
from fastdrive_ros.runtime.trt_limits import topk_mend

# Bytes of scratch memory the builder's tactics may use.
_WORKSPACE_BYTES = 2 << 30
# Host memory of a build: libraries, and the weights in the network and in the finished engine.
# Measured: 11.6 GB for 5.56 GB of weights (docs/full_size.md). The ONNX files are mapped.
_BUILD_BASE_BYTES = 1 << 30
_BUILD_FACTOR = 2.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_INSTALL = {
    'tensorrt': 'JetPack brings it; on a desktop `pip install tensorrt`',
    'tensorrt_rtx': '`pip install tensorrt-rtx-cu13`',
}


def import_tensorrt(backend: str) -> Any:
    """Return the module of 'tensorrt' or 'tensorrt_rtx'; EngineError when it is not usable."""
    try:
        module = importlib.import_module(backend)
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        raise EngineError(f'{backend} is not installed ({error}): {_INSTALL[backend]}.') from error
    if not hasattr(module, 'Builder'):
        raise EngineError(
            f'{backend} {module.__version__} has no builder (found the lean runtime or stubs): '
            f'{_INSTALL[backend]}.'
        )
    return module


def build_engine_file(
    onnx_path: Path,
    engine_path: Path,
    backend: str,
    *,
    profile: Mapping[str, list[list[int]]],
    compute_capability: int | None = None,
) -> None:
    """
    Build the engine of ``onnx_path`` and write it to ``engine_path``.

    ``profile`` has least, usual and largest shape of each input that has free dimensions (or, of
    num_kept_tokens, its value). ``compute_capability`` (86, ...) names the target GPU,
    which only TensorRT-RTX can build for without having it; None means this machine's GPU.
    """
    trt = import_tensorrt(backend)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        errors = '; '.join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f'{backend} {trt.__version__} cannot parse {onnx_path}: {errors}')
    most_kept = profile[K_AS_VALUE][2][0] if K_AS_VALUE in profile else 0
    if most_kept > TOPK_LIMIT and any(
        network.get_layer(index).type == trt.LayerType.TOPK for index in range(network.num_layers)
    ):
        raise EngineError(f'{backend} cannot build {onnx_path}: {topk_mend(most_kept)}')
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    # 10-bit mantissas would miss the golden outputs, and what a graph in bf16 keeps in fp32 (the
    # pruner's scores, the waypoint head) it keeps so for its digits.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, profile))
    if compute_capability is not None:
        _target(trt, config, compute_capability)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f'{backend} {trt.__version__} cannot build {onnx_path}: '
            + ('; '.join(logger.errors[-3:]) or 'it gave no reason')
        )
    _write(engine_path, plan)


def build_memory(onnx_path: Path) -> int:
    """Return how many bytes of host memory building this graph takes at most."""
    data = (onnx_path.with_name(name) for name in external_data_files(onnx_path))
    weights = sum(path.stat().st_size for path in (onnx_path, *data))
    return int(_BUILD_BASE_BYTES + _BUILD_FACTOR * weights)


def require_build_memory(onnx_path: Path, available_bytes: int) -> None:
    """Raise EngineError when a build would be ended by the kernel for want of memory."""
    needed = build_memory(onnx_path)
    if available_bytes < needed:
        raise EngineError(
            f'building {onnx_path.stem} needs {needed / 1e9:.1f} GB of host memory, found '
            f'{available_bytes / 1e9:.1f} GB available: end other programs or add swap (Jetson: '
            'build without the desktop), or export a smaller model or in --precision bf16'
        )


def make_logger(trt: Any) -> Any:
    """Return a TensorRT logger that keeps the errors in ``.errors`` and prints nothing."""

    class ErrorLog(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return ErrorLog()


def _profile(builder: Any, network: Any, shapes: Mapping[str, list[list[int]]]) -> Any:
    """Return the optimization profile of all inputs that are not of one shape only."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            profile.set_shape_input(tensor.name, *shapes[tensor.name])
        elif -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *map(tuple, shapes[tensor.name]))
    return profile


def _target(trt: Any, config: Any, compute_capability: int) -> None:
    if not hasattr(config, 'set_compute_capability'):
        raise EngineError(
            f'{trt.__name__} builds only for the GPU it runs on, so compute capability '
            f'{compute_capability} cannot be asked for: build on that machine, or use '
            'tensorrt_rtx.'
        )
    names = (name for name in dir(trt.ComputeCapability) if name.startswith('SM'))
    known = sorted(names, key=lambda name: int(name[2:]))
    name = f'SM{compute_capability}'
    if name not in known:
        raise EngineError(
            f'{trt.__name__} {trt.__version__} builds for {", ".join(known)}, found {name}. '
            'Jetson Orin (87) and Hopper (90) need full TensorRT.'
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)


def _write(path: Path, plan: Any) -> None:
    try:
        with path.open('wb') as stream:
            stream.write(plan)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise EngineError(
            f'cannot write an engine of {memoryview(plan).nbytes / 1e6:.0f} MB to {path.parent}: '
            f'{error.strerror}. Make room there, or choose another --cache-dir '
            '(engine_cache_dir in the YAML).'
        ) from error


def _main() -> int:
    """Build what the one argument, a JSON object of build_engine_file's arguments, asks for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the default ends the C++ builder at once
    job = json.loads(sys.argv[1])
    # No orphan when kill -9 hits the parent: from now on by the kernel, until now by the check.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.pop('parent_pid'):
        return 1
    try:
        build_engine_file(Path(job.pop('onnx_path')), Path(job.pop('engine_path')), **job)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(_main())
