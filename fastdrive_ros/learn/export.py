# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoint folder + pruner -> model bundle, each graph proven against its torch module.

Everything is written to ``<out>.partial``; only a bundle whose every graph agrees with torch is
moved into place, and on any error nothing stays behind.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from fastdrive_ros import __version__
from fastdrive_ros.core.pruning import num_kept
from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.learn.checkpoint import ARCHITECTURE
from fastdrive_ros.learn.checkpoint import DrivingModel
from fastdrive_ros.learn.checkpoint import checkpoint_sha256
from fastdrive_ros.learn.checkpoint import load_driving_model
from fastdrive_ros.learn.graph_checks import check_perception
from fastdrive_ros.learn.graph_checks import check_planner
from fastdrive_ros.learn.graph_checks import check_pruner
from fastdrive_ros.learn.graph_checks import check_vision
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import export_graph
from fastdrive_ros.learn.graphs import join_perception
from fastdrive_ros.runtime.bundle import FORMAT
from fastdrive_ros.runtime.bundle import FORMAT_VERSION
from fastdrive_ros.runtime.bundle import MANIFEST
from fastdrive_ros.runtime.bundle import PARTIAL_SUFFIX
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import golden_history
from fastdrive_ros.runtime.bundle import golden_images
from fastdrive_ros.runtime.bundle import write_bundle
from fastdrive_ros.runtime.onnx_file import onnx_specs

TOLERANCE = 1e-4
GRAPHS = ('vision_encoder', 'recon_pruner', 'perception', 'planner')
GOLDEN_FILE = 'golden.npz'
GOLDEN_KEEP_RATIO = 0.5
# The cut through close scores may fall differently on another backend; fp16 and bf16 need room.
GOLDEN_TOLERANCE = {'relative_l2': 1e-3, 'kept_overlap': 0.99}


@dataclass(frozen=True)
class ExportRequest:
    """What `fastdrive export` was asked for."""

    checkpoint: Path
    pruner: Path
    out: Path
    name: str
    cameras: tuple[str, ...]
    height: int
    width: int
    force: bool = False
    """Replace an older bundle at ``out``."""


def export_bundle(request: ExportRequest, report: Callable[[str], None] = print) -> Bundle:
    """Write the bundle or raise ExportError (or BundleError); ``report`` gets progress lines."""
    _require_free_place(request)
    with _timed(report, f'load {request.checkpoint}'):
        model = load_driving_model(
            request.checkpoint, request.pruner, request.cameras, request.height, request.width
        )
    # Weights, and half as much again for the exporter's first copy of a graph.
    require_space(request.out.parent, int(1.5 * 4 * sum(_parameters(model).values())))
    partial = request.out.with_name(request.out.name + PARTIAL_SUFFIX)
    with _scratch_folder(partial):
        differences = _write_graphs(model, partial, report)
        with _timed(report, 'golden outputs by ONNX Runtime'):
            num_golden = _write_golden(model, partial)
        model.tokenizer.save_pretrained(partial / 'tokenizer')
        manifest = _manifest(request, model, partial, differences, num_golden)
        with _timed(report, f'verify and move to {request.out}'):
            return write_bundle(request.out, manifest)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise ExportError when the disk of ``folder`` (or its first parent that exists) is full."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ExportError(
            f'expected {needed_bytes / 1e6:.0f} MB of free space in {existing}, found '
            f'{free / 1e6:.0f} MB: make room, or choose another --out'
        )


def _require_free_place(request: ExportRequest) -> None:
    out = request.out
    if (out / MANIFEST).is_file():
        if not request.force:
            raise ExportError(f'{out} has a bundle already: --force replaces it')
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(
            f'{out} exists and is not a model bundle (no {MANIFEST} in it), so it is not '
            'replaced: choose another --out, or move it away'
        )


@contextmanager
def _scratch_folder(partial: Path) -> Iterator[None]:
    """Make an empty folder and leave none behind, whatever happens."""
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ExportError(
            f'the disk of {partial.parent} is full, nothing was written: make room, or choose '
            'another --out'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _timed(report: Callable[[str], None], step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    report(f'{time.monotonic() - start:7.1f} s  {step}')


def _write_graphs(
    model: DrivingModel, folder: Path, report: Callable[[str], None]
) -> dict[str, Difference]:
    images, present, kept, tokens, history = _example_inputs(model)
    half = torch.tensor(kept)
    kept_dims = {'kept_tokens': {0: 'K'}, 'kept_indices': {0: 'K'}}
    selection = {'camera_present': present, 'num_kept_tokens': half}
    exports: tuple[tuple[str, nn.Module, dict, list[str]], ...] = (
        ('vision_encoder', model.vision, {'images': images}, ['visual_tokens']),
        ('recon_pruner', model.pruner, {'visual_tokens': tokens, **selection},
         ['kept_tokens', 'kept_indices', 'scores']),
        ('planner', model.planner,
         {'kept_tokens': tokens[:kept], 'kept_indices': torch.arange(kept),
          'ego_history': history}, ['waypoint_residuals']),
    )
    for graph, module, inputs, outputs in exports:
        with _timed(report, f'export {graph}'):
            export_graph(module, inputs, outputs, kept_dims, folder / f'{graph}.onnx')
    join_perception(
        folder / 'vision_encoder.onnx', folder / 'recon_pruner.onnx', folder / 'perception.onnx'
    )
    checks = {
        'vision_encoder': check_vision,
        'recon_pruner': check_pruner,
        'perception': check_perception,
        'planner': check_planner,
    }
    differences = {}
    for graph in GRAPHS:
        start = time.monotonic()
        differences[graph] = checks[graph](model, folder / f'{graph}.onnx', TOLERANCE)
        report(
            f'{time.monotonic() - start:7.1f} s  compare {graph} with torch: relative '
            f'{differences[graph].relative_l2:.1e} (at most {TOLERANCE:g})'
        )
    return differences


def _example_inputs(model: DrivingModel) -> tuple[torch.Tensor, torch.Tensor, int, torch.Tensor,
                                                  torch.Tensor]:
    """Return images, camera_present, K, visual_tokens [N, D] and ego_history to trace with."""
    vision, merge = model.vision, model.vision.pixels_per_token
    shape = vision.grid_height * merge, vision.grid_width * merge
    images = torch.from_numpy(golden_images(vision.num_images, *shape))
    tokens = torch.randn(len(model.prompt.image_slots), model.pruner.config.hidden_size)
    present = torch.ones(vision.num_images, dtype=torch.bool)
    history = torch.from_numpy(golden_history(model.planner.head.config.history_steps))
    return images, present, max(1, len(tokens) // 2), tokens, history


def _write_golden(model: DrivingModel, folder: Path) -> int:
    images, present, _, _, history = _example_inputs(model)
    kept = num_kept(GOLDEN_KEEP_RATIO, len(model.prompt.image_slots))

    def outputs(graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        session = cpu_session(folder / f'{graph}.onnx')
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    golden = outputs('vision_encoder', images=images.numpy())
    pruned = outputs(
        'recon_pruner', visual_tokens=golden['visual_tokens'], camera_present=present.numpy(),
        num_kept_tokens=np.array(kept),
    )
    plan = outputs(
        'planner', kept_tokens=pruned.pop('kept_tokens'), kept_indices=pruned['kept_indices'],
        ego_history=history.numpy(),
    )
    np.savez_compressed(folder / GOLDEN_FILE, **golden, **pruned, **plan)
    return kept


def _parameters(model: DrivingModel) -> dict[str, int]:
    parts: Mapping[str, nn.Module] = {
        'vision': model.vision, 'pruner': model.pruner, 'llm': model.planner,
    }
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _graph_section(path: Path, difference: Difference) -> dict[str, Any]:
    inputs, outputs = (
        [{'name': s.name, 'dtype': s.dtype, 'shape': list(s.shape)} for s in specs]
        for specs in onnx_specs(path)
    )
    check = {
        'max_abs': difference.max_abs, 'relative_l2': difference.relative_l2,
        'tolerance': TOLERANCE,
    }
    return {'file': path.name, 'inputs': inputs, 'outputs': outputs, 'export_check': check}


def _manifest(
    request: ExportRequest,
    model: DrivingModel,
    folder: Path,
    differences: Mapping[str, Difference],
    num_golden: int,
) -> dict[str, Any]:
    vision, pruner, head = model.vision, model.pruner.config, model.planner.head.config
    return {
        'format': FORMAT,
        'format_version': FORMAT_VERSION,
        'name': request.name,
        'cameras': list(request.cameras),
        'image': {
            'height': request.height, 'width': request.width, 'fit': 'stretch', 'channels': 'rgb',
        },
        'tokens': {
            'grid_height': vision.grid_height, 'grid_width': vision.grid_width,
            'per_camera': vision.grid_height * vision.grid_width,
            'total': len(model.prompt.image_slots), 'hidden_size': pruner.hidden_size,
        },
        'precision': 'fp32',
        'pruner': {'method': 'recon', 'trained': pruner.trained},
        'planner': {
            'head': 'waypoint_queries', 'num_waypoints': head.num_waypoints, 'dt_s': head.dt_s,
            'history_steps': head.history_steps, 'history_dt_s': head.history_dt_s,
            'ego_features': list(EGO_FEATURES), 'prompt': model.prompt.text,
            'trained': head.trained,
        },
        'training': f'Pruner: {pruner.training}. Planner: {head.training}.',
        'graphs': {
            graph: _graph_section(folder / f'{graph}.onnx', differences[graph])
            for graph in GRAPHS
        },
        'golden': {
            'file': GOLDEN_FILE, 'num_kept_tokens': num_golden, 'tolerance': GOLDEN_TOLERANCE,
        },
        'source': {
            'architecture': ARCHITECTURE,
            'checkpoint_sha256': checkpoint_sha256(request.checkpoint),
            'parameters': _parameters(model),
            'transformers': transformers.__version__,
            'torch': torch.__version__,
            'fastdrive_ros': __version__,
        },
    }
