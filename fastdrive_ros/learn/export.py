# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoint folder + pruner -> model bundle, each graph proven against its torch module.

Everything is written to ``<out>.partial``; only a bundle whose every graph agrees with torch is
moved into place, and on any error nothing stays behind.
"""

from __future__ import annotations

import dataclasses
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
from fastdrive_ros.learn.checkpoint import load_pruner_for
from fastdrive_ros.learn.early_checks import pruner_inputs
from fastdrive_ros.learn.early_checks import vision_outputs
from fastdrive_ros.learn.early_pruning import EarlyRequest
from fastdrive_ros.learn.early_pruning import prune_early
from fastdrive_ros.learn.graph_checks import check_perception
from fastdrive_ros.learn.graph_checks import check_planner
from fastdrive_ros.learn.graph_checks import check_pruner
from fastdrive_ros.learn.graph_checks import check_vision
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import export_graph
from fastdrive_ros.learn.graphs import join_perception
from fastdrive_ros.learn.graphs import run_onnx
from fastdrive_ros.learn.rival_export import rival_golden
from fastdrive_ros.learn.rival_export import write_rivals
from fastdrive_ros.runtime.bundle import FORMAT
from fastdrive_ros.runtime.bundle import FORMAT_VERSION
from fastdrive_ros.runtime.bundle import MANIFEST
from fastdrive_ros.runtime.bundle import PARTIAL_SUFFIX
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import golden_history
from fastdrive_ros.runtime.bundle import golden_images
from fastdrive_ros.runtime.bundle import write_bundle
from fastdrive_ros.runtime.golden import PLAN_PREFIX
from fastdrive_ros.runtime.onnx_file import onnx_specs

TOLERANCE = 1e-4
CHECKS = {
    'vision_encoder': check_vision,
    'recon_pruner': check_pruner,
    'perception': check_perception,
    'planner': check_planner,
}
GRAPHS = tuple(CHECKS)
_PRUNER_OUTPUTS = ['kept_tokens', 'kept_indices', 'scores']
_KEPT_DIMS = {'kept_tokens': {0: 'K'}, 'kept_indices': {0: 'K'}}
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
    plan_pruner: Path | None = None
    """A pruner that a planner taught (learn/plan_keeping.py), for method 'plan'."""
    rivals: bool = False
    """Write the graphs of rival_graphs.py, too."""
    force: bool = False
    """Replace an older bundle at ``out``."""
    early: EarlyRequest | None = None
    """Drop windows inside the encoder (early_pruning.py)."""


def export_bundle(request: ExportRequest, report: Callable[[str], None] = print) -> Bundle:
    """Write the bundle or raise ExportError (or BundleError); ``report`` gets progress lines."""
    _require_free_place(request)
    with _timed(report, f'load {request.checkpoint}'):
        model = load_driving_model(
            request.checkpoint, request.pruner, request.cameras, request.height, request.width
        )
    if request.early:
        model = dataclasses.replace(model, early=prune_early(model.vision, request.early))
    # Weights, and half as much again for the exporter's first copy of a graph.
    require_space(request.out.parent, int(1.5 * 4 * sum(_parameters(model).values())))
    partial = request.out.with_name(request.out.name + PARTIAL_SUFFIX)
    with _scratch_folder(partial):
        differences = _write_graphs(model, partial, request.rivals, report)
        training = f'Pruner: {model.pruner.config.training}.'
        if request.plan_pruner:
            taught = dataclasses.replace(model, pruner=load_pruner_for(model, request.plan_pruner))
            training += f" Pruner 'plan': {taught.pruner.config.training}."
            with _timed(report, 'export plan_pruner and compare it with torch'):
                differences['plan_pruner'] = _write_pruner(taught, partial, 'plan_pruner')
        with _timed(report, 'golden outputs by ONNX Runtime'):
            num_golden = _write_golden(model, partial, request)
        model.tokenizer.save_pretrained(partial / 'tokenizer')
        manifest = _manifest(request, model, partial, differences, num_golden)
        manifest['training'] = f"{training} {manifest['training']}"
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
    model: DrivingModel, folder: Path, rivals: bool, report: Callable[[str], None]
) -> dict[str, Difference]:
    example = _example_inputs(model)
    plan = _pick(example, 'kept_tokens', 'kept_indices', 'ego_history')
    exports: tuple[tuple[str, nn.Module, dict[str, torch.Tensor], list[str]], ...] = (
        ('vision_encoder', model.encoder, _pick(example, 'images'), vision_outputs(model)),
        ('recon_pruner', model.pruner, _pick(example, *pruner_inputs(model)), _PRUNER_OUTPUTS),
        ('planner', model.planner, plan, ['waypoint_residuals']),
    )
    differences: dict[str, Difference] = {}
    paths = {graph: folder / f'{graph}.onnx' for graph in GRAPHS}
    for graph, module, inputs, outputs in exports:
        with _timed(report, f'export {graph}'):
            export_graph(module, inputs, outputs, _KEPT_DIMS, paths[graph])
        differences[graph] = _compare(graph, model, paths[graph], report)
    join_perception(paths['vision_encoder'], paths['recon_pruner'], paths['perception'])
    differences['perception'] = _compare('perception', model, paths['perception'], report)
    if rivals:
        with _timed(report, 'export the graphs for rival methods and compare them with torch'):
            differences |= write_rivals(model, example, folder, TOLERANCE)
    return differences


def _write_pruner(model: DrivingModel, folder: Path, graph: str) -> Difference:
    """Write the model's pruner under another name."""
    path = folder / f'{graph}.onnx'
    export_graph(model.pruner, _pick(_example_inputs(model), *pruner_inputs(model)),
                 _PRUNER_OUTPUTS, _KEPT_DIMS, path)
    return check_pruner(model, path, TOLERANCE)


def _compare(
    graph: str, model: DrivingModel, path: Path, report: Callable[[str], None]
) -> Difference:
    start = time.monotonic()
    difference = CHECKS[graph](model, path, TOLERANCE)
    report(
        f'{time.monotonic() - start:7.1f} s  compare {graph} with torch: relative '
        f'{difference.relative_l2:.1e} (at most {TOLERANCE:g})'
    )
    return difference


def _example_inputs(model: DrivingModel) -> dict[str, torch.Tensor]:
    """Return every graph input by name; pictures and history are the golden ones."""
    vision, num_tokens = model.vision, len(model.prompt.image_slots)
    tokens = torch.randn(num_tokens, model.pruner.config.hidden_size)
    kept = num_kept(GOLDEN_KEEP_RATIO, num_tokens, model.tokens_encoded)
    images = golden_images(vision.num_images, vision.image_height, vision.image_width)
    history = golden_history(model.planner.head.config.history_steps)
    return {
        'images': torch.from_numpy(images),
        'visual_tokens': tokens,
        'camera_present': torch.ones(vision.num_images, dtype=torch.bool),
        'num_kept_tokens': torch.tensor(kept),
        'kept_tokens': tokens[:kept],
        'kept_indices': torch.arange(kept),
        'ego_history': torch.from_numpy(history),
        'token_present': torch.ones(num_tokens, dtype=torch.bool),
    }


def _pick(tensors: Mapping[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensors[name] for name in names}


def _write_golden(model: DrivingModel, folder: Path, request: ExportRequest) -> int:
    """Run the exported graphs one after another; return K of the recorded selection."""
    known = _example_inputs(model)
    golden = {}
    for graph in ('vision_encoder', 'recon_pruner', 'planner'):
        session = cpu_session(folder / f'{graph}.onnx')
        feeds = _pick(known, *(value.name for value in session.get_inputs()))
        golden |= run_onnx(session, feeds)
        known |= {name: torch.from_numpy(value) for name, value in golden.items()}
    if request.plan_pruner:
        found = run_onnx(cpu_session(folder / 'plan_pruner.onnx'),
                         _pick(known, *pruner_inputs(model)))
        golden |= {PLAN_PREFIX + name: found[name] for name in ('scores', 'kept_indices')}
    if request.rivals:
        golden |= rival_golden(folder, known, model.planner.head.config.num_waypoints)
    del golden['kept_tokens']  # visual_tokens at kept_indices
    np.savez_compressed(folder / GOLDEN_FILE, **golden)
    return int(known['num_kept_tokens'])


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
    early = {'early_pruning': model.early.manifest()} if model.early else {}
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
        **early,
        'precision': 'fp32',
        'pruner': {'method': 'recon', 'trained': pruner.trained},
        'planner': {
            'head': 'waypoint_queries', 'num_waypoints': head.num_waypoints, 'dt_s': head.dt_s,
            'history_steps': head.history_steps, 'history_dt_s': head.history_dt_s,
            'ego_features': list(EGO_FEATURES), 'prompt': model.prompt.text,
            'num_rows': len(model.planner.cos_table),
            'trained': head.trained,
        },
        'training': f'Planner: {head.training}.',
        'graphs': {
            graph: _graph_section(folder / f'{graph}.onnx', differences[graph])
            for graph in differences
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
