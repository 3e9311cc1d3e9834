# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoint folder + pruner -> model bundle, each graph proven against its torch module.

Everything is written to ``<out>.partial``, one part of the model after another (export_steps.py),
and only a bundle whose every graph agrees with torch is moved into place. An export that was
killed goes on with the first step that is not finished; one that is refused leaves nothing.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import hashlib
import shutil
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from fastdrive_ros import __version__
from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.learn.checkpoint import ARCHITECTURE
from fastdrive_ros.learn.checkpoint import ModelParts
from fastdrive_ros.learn.checkpoint import checkpoint_sha256
from fastdrive_ros.learn.checkpoint import open_parts
from fastdrive_ros.learn.early_pruning import EarlyRequest
from fastdrive_ros.learn.export_journal import Journal
from fastdrive_ros.learn.export_journal import only_export
from fastdrive_ros.learn.export_journal import remove
from fastdrive_ros.learn.export_progress import timed
from fastdrive_ros.learn.export_steps import STEPS
from fastdrive_ros.learn.export_steps import Work
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.precision import DTYPES
from fastdrive_ros.learn.precision import Rounding
from fastdrive_ros.learn.precision import golden_tolerance
from fastdrive_ros.learn.prompt_file import read_prompt_file
from fastdrive_ros.learn.text_export import TRAINED_AGREEMENT
from fastdrive_ros.learn.weight_only import bytes_saved
from fastdrive_ros.runtime.bundle import FORMAT
from fastdrive_ros.runtime.bundle import FORMAT_VERSION
from fastdrive_ros.runtime.bundle import MANIFEST
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import file_sha256
from fastdrive_ros.runtime.bundle_writing import PARTIAL_SUFFIX
from fastdrive_ros.runtime.bundle_writing import WORK_FOLDER
from fastdrive_ros.runtime.bundle_writing import write_bundle
from fastdrive_ros.runtime.host_memory import available_bytes
from fastdrive_ros.runtime.onnx_file import onnx_specs
from fastdrive_ros.runtime.trt_limits import TOPK_LIMIT
from fastdrive_ros.runtime.trt_limits import topk_mend

GOLDEN_FILE = 'golden.npz'
# What the steps need beside the weights of a part: libraries, activations, one layer in fp32.
_BASE_BYTES = 4 << 30
# A model of fewer weights fits wherever torch does.
_SMALL = 10**8


class NoRoomError(ExportError):
    """Too little disk or memory: nothing is wrong with the model, and an export may go on."""


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
    precision: str = 'fp32'
    """'fp32', 'bf16' or 'fp16': what the graphs compute in."""
    weights: str = ''
    """'int8' or 'int4' for the matrices of the language layers (weight_only.py)."""
    plan_pruner: Path | None = None
    """A pruner that a planner taught (learn/plan_keeping.py), for method 'plan'."""
    prompt: Path | None = None
    """A prompt file (prompt_file.py): the planner writes text."""
    rivals: bool = False
    """Write the graphs of rival_graphs.py, too."""
    force: bool = False
    """Replace an older bundle at ``out``."""
    early: EarlyRequest | None = None
    """Drop windows inside the encoder (early_pruning.py)."""

    @property
    def steps(self) -> list[str]:
        """Names of the steps that were asked for."""
        asked = {'planner': self.prompt is None, 'language_model': self.prompt is not None,
                 'plan_pruner': self.plan_pruner is not None, 'rivals': self.rivals}
        return [step for step in STEPS if asked.get(step, True)]


def export_bundle(request: ExportRequest, report: Callable[[str], None] = print) -> Bundle:
    """Write the bundle or raise ExportError (or BundleError); ``report`` gets progress lines."""
    _require_free_place(request)
    parts = open_parts(
        request.checkpoint, request.pruner, request.cameras, request.height, request.width
    )
    if request.early:
        parts = dataclasses.replace(parts, early=request.early)
        parts.early_vision()    # to refuse what cannot be before the work
    if request.plan_pruner:
        parts.pruner(file=request.plan_pruner)
    if request.rivals and request.prompt:
        raise ExportError(
            '--rivals cut inside the language model of a waypoint head; a text planner (--prompt) '
            'has no such graphs: leave one of the two out'
        )
    if request.rivals and request.precision != 'fp32':
        raise ExportError(
            '--rivals are graphs to evaluate with, in fp32 only: export them in a bundle of '
            'their own with --precision fp32'
        )
    if request.rivals and request.weights:
        raise ExportError(
            '--rivals are graphs to evaluate with, on full weights only: export them in a bundle '
            'of their own without --weights'
        )
    partial = request.out.with_name(request.out.name + PARTIAL_SUFFIX)
    with only_export(partial):
        try:
            return _export(request, parts, partial, report)
        except NoRoomError:
            raise   # what is finished stays
        except ExportError:
            remove(partial)
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ExportError(
                f'the disk of {partial.parent} is full: make room, and the same command goes on '
                f'after what is finished in {partial}; or delete that folder and choose another '
                '--out'
            ) from error


def _export(
    request: ExportRequest, parts: ModelParts, partial: Path, report: Callable[[str], None]
) -> Bundle:
    with timed(report, f'read {request.checkpoint}'):
        depends_on = _depends_on(request)
    journal = Journal(partial, depends_on)
    journal.take_up(request.steps, report)
    finished = [step for step in request.steps if journal.facts(step) is not None]
    if finished != request.steps:
        try:
            _require_room(request, parts, finished, report)
        except NoRoomError:
            if not finished:
                remove(partial)
            raise
    if parts.num_tokens > TOPK_LIMIT:
        report('      note  only ONNX Runtime will run this bundle: '
               + topk_mend(parts.num_tokens))
    text_head = read_prompt_file(request.prompt, request.cameras) if request.prompt else None
    work = Work(parts, request.precision, request.weights, request.plan_pruner, text_head,
                partial, report, {})
    for number, step in enumerate(request.steps, 1):
        recorded = partial / WORK_FOLDER / f'{step}.npz'
        if journal.facts(step) is not None:
            work.golden.update(np.load(recorded))
            continue
        report(f'step {number} of {len(request.steps)}: {step}')
        before = set(work.golden)
        facts = STEPS[step](work)
        np.savez(recorded, **{name: work.golden[name] for name in work.golden.keys() - before})
        journal.finish(step, asdict(facts))
        gc.collect()
    np.savez_compressed(partial / GOLDEN_FILE, **work.golden)
    parts.tokenizer.save_pretrained(partial / 'tokenizer')
    manifest = _manifest(request, parts, partial, journal, depends_on['checkpoint'])
    with timed(report, f'verify and move to {request.out}'):
        return write_bundle(request.out, manifest)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise NoRoomError when the disk of ``folder`` (or its first parent that exists) is full."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise NoRoomError(
            f'expected {needed_bytes / 1e6:.0f} MB of free space in {existing}, found '
            f'{free / 1e6:.0f} MB: make room, or choose another --out'
        )


def require_memory(needed_bytes: int, available: int) -> None:
    """Raise NoRoomError when the export would not fit into what memory is ``available``."""
    if available < needed_bytes:
        raise NoRoomError(
            f'expected {needed_bytes / 1e9:.1f} GB of free memory, found {available / 1e9:.1f} '
            "GB: end other programs, or export in the checkpoint's own type (--precision bf16), "
            'which needs no copy of its weights'
        )


def _require_room(
    request: ExportRequest, parts: ModelParts, finished: list[str],
    report: Callable[[str], None],
) -> None:
    """Say what disk and memory the steps that are left need; NoRoomError where it is missing."""
    sizes = parts.parameters(request.prompt is not None)
    itemsize = DTYPES[request.precision].itemsize
    written = {'vision_encoder': sizes['vision'], 'recon_pruner': sizes['pruner'],
               'planner': sizes['llm'], 'language_model': sizes['llm'],
               'plan_pruner': sizes['pruner']}
    disk = sum(1.02 * itemsize * size for step, size in written.items()
               if step in request.steps and step not in finished)
    # A part in the files' own type is mapped from them; in another one it is a copy.
    copied = [size for name, size in sizes.items()
              if parts.stored_dtype(name) != DTYPES[request.precision]]
    held = sum(copied) if request.rivals else max(copied, default=0)
    held_bytes = itemsize * held
    if request.weights and not {'planner', 'language_model'} & {*finished}:
        matrices = parts.matrix_weights()
        disk -= bytes_saved(request.weights, itemsize, matrices)
        held_bytes = max(held_bytes, matrices)      # a byte each while they are in torch
    memory = _BASE_BYTES + 1.05 * held_bytes
    if sum(sizes.values()) < _SMALL:
        memory = 0
    report(f'      needs {disk / 1e9:.1f} GB of disk, {memory / 1e9:.1f} GB of memory; weights: '
           + ', '.join(f'{name} {size / 1e6:.1f} M' for name, size in sizes.items()))
    require_space(request.out.parent, int(disk))
    require_memory(int(memory), available_bytes())


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


def _depends_on(request: ExportRequest) -> dict[str, Any]:
    """Return what the files of an export follow from, in words that people know."""
    settings = hashlib.sha256()
    for path in sorted(request.checkpoint.glob('*.json')):
        settings.update(path.name.encode() + path.read_bytes())
    pruners = [path and file_sha256(path) for path in (request.pruner, request.plan_pruner)]
    prompt = request.prompt and file_sha256(request.prompt)
    return {
        'checkpoint': checkpoint_sha256(request.checkpoint),
        'tokenizer or settings': settings.hexdigest(),
        'pruner': pruners[0],
        'plan pruner': pruners[1],
        'prompt file': prompt,
        'cameras': list(request.cameras),
        'picture size': [request.height, request.width],
        'early pruning': request.early and [
            request.early.block, request.early.share, file_sha256(request.early.score)],
        'precision': request.precision,
        'weights': request.weights,
        'version of torch, transformers or fastdrive_ros': [
            torch.__version__, transformers.__version__, __version__],
    }


def _graph_section(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    inputs, outputs = (
        [{'name': s.name, 'dtype': s.dtype, 'shape': list(s.shape)} for s in specs]
        for specs in onnx_specs(path)
    )
    check = {**facts['differences'][path.stem], 'tolerance': facts['tolerance']}
    section = {'file': path.name, 'inputs': inputs, 'outputs': outputs, 'export_check': check}
    if path.stem in facts['roundings']:
        section['rounding'] = facts['roundings'][path.stem]
    if path.stem in facts['costs']:
        section['weights'] = facts['costs'][path.stem]
    return section


def _queries_section(parts: ModelParts) -> tuple[dict[str, Any], str]:
    """Return the manifest's ``planner`` of a waypoint head, and how it was trained."""
    head = parts.head.config
    return {
        'head': 'waypoint_queries', 'num_waypoints': head.num_waypoints, 'dt_s': head.dt_s,
        'history_steps': head.history_steps, 'history_dt_s': head.history_dt_s,
        'ego_features': list(EGO_FEATURES), 'prompt': parts.prompt.text,
        'num_rows': len(parts.prompt.token_ids) + head.history_steps + head.num_waypoints,
        'trained': head.trained,
    }, f'Planner: {head.training}.'


def _text_section(
    request: ExportRequest, done: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], str]:
    """Return the manifest's ``planner`` of a text head, and what is known of its training."""
    (text,) = (facts['text'] for facts in done if facts['text'])
    agreement = text['agreement']
    return {
        **read_prompt_file(request.prompt, request.cameras).section(),
        'ego_features': list(EGO_FEATURES), 'cache': text['cache'],
        **text['on_torch'],
        'num_rows': text['cache']['max_rows'], 'frame_agreement': agreement,
        'vocabulary_size': text['vocabulary_size'],
        'trained': agreement >= TRAINED_AGREEMENT,
    }, (f'Planner: as the checkpoint is; by itself it writes {agreement:.0%} of the fixed text '
        f'that its answers begin with ({request.prompt.name}).')


def _manifest(
    request: ExportRequest, parts: ModelParts, folder: Path, journal: Journal, checkpoint: str
) -> dict[str, Any]:
    done = [journal.facts(step) for step in request.steps]
    roundings = {graph: Rounding(**found) for facts in done
                 for graph, found in facts['roundings'].items()}
    cameras, grid_height, grid_width = parts.prompt.grid
    pruner = parts.pruner().config
    training = f'Pruner: {pruner.training}.'
    if request.plan_pruner:
        training += f" Pruner 'plan': {parts.pruner(file=request.plan_pruner).config.training}."
    if request.prompt:
        planner, planner_training = _text_section(request, done)
    else:
        planner, planner_training = _queries_section(parts)
    with np.load(folder / GOLDEN_FILE) as golden:
        num_golden = len(golden['kept_indices'])
    return {
        'format': FORMAT,
        'format_version': FORMAT_VERSION,
        'name': request.name,
        'cameras': list(request.cameras),
        'image': {
            'height': request.height, 'width': request.width, 'fit': 'stretch', 'channels': 'rgb',
        },
        'tokens': {
            'grid_height': grid_height, 'grid_width': grid_width,
            'per_camera': parts.num_tokens // cameras,
            'total': parts.num_tokens, 'hidden_size': parts.hidden_size,
        },
        **({'early_pruning': early.manifest()} if (early := parts.early_vision()) else {}),
        'precision': request.precision,
        'pruner': {'method': 'recon', 'trained': pruner.trained},
        'planner': planner,
        'training': f'{training} {planner_training}',
        'graphs': {
            graph: _graph_section(folder / f'{graph}.onnx', facts)
            for facts in done for graph in facts['differences']
        },
        'golden': {
            'file': GOLDEN_FILE, 'num_kept_tokens': num_golden,
            'tolerance': golden_tolerance(roundings),
        },
        'source': {
            'architecture': ARCHITECTURE,
            'checkpoint_sha256': checkpoint,
            'parameters': parts.parameters(request.prompt is not None),
            'transformers': transformers.__version__,
            'torch': torch.__version__,
            'fastdrive_ros': __version__,
        },
    }
