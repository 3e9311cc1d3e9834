# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The graphs of rival_graphs.py -> ONNX files that equal torch, and in a row equal planner.onnx.

Also what of their outputs a bundle records, for runtime/golden.py to compare engines with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.external_data_helper import ExternalDataInfo

from fastdrive_ros.learn.checkpoint import DrivingModel
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import check_outputs
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.graphs import export_graph
from fastdrive_ros.learn.graphs import run_onnx
from fastdrive_ros.learn.rival_graphs import RivalGraph
from fastdrive_ros.learn.rival_graphs import rival_graphs
from fastdrive_ros.runtime.engine import layer_graphs
from fastdrive_ros.runtime.golden import golden_of_vision
from fastdrive_ros.runtime.golden import run_layers

_Place = tuple[str, int, int]
"""Data file, offset and length, in bytes."""
# Every third row: gaps between slots, as pruning leaves them.
_STRIDE = 3
_OUTPUT_WEIGHT = 'head.output.weight'


def write_rivals(
    model: DrivingModel, example: Mapping[str, torch.Tensor], folder: Path, tolerance: float
) -> dict[str, Difference]:
    """
    Write all graphs beside planner.onnx and return how far each is from torch.

    Raises ExportError where one differs, or all of them together from planner.onnx.
    """
    differences = {}
    stored = {hashlib.sha256(value).digest(): place for graph in ('vision_encoder', 'planner')
              for _, place, value in _weights(
                  onnx.load(folder / f'{graph}.onnx', load_external_data=False), folder)}
    for graph in rival_graphs(model, example):
        path = folder / f'{graph.name}.onnx'
        export_graph(graph.module, graph.inputs, graph.outputs, graph.free_dims, path)
        _share_weights(path, stored)
        differences[graph.name] = check_outputs(graph.name, _pairs(graph, path), tolerance)
    check_whole(model, folder, layer_graphs(differences), tolerance)
    return differences


def check_whole(
    model: DrivingModel, folder: Path, layers: tuple[str, ...], tolerance: float
) -> Difference:
    """Compare all pieces in a row with planner.onnx, both with a random output layer."""
    head = model.planner.head
    generator = torch.Generator().manual_seed(4)
    # An untrained output layer is zero and would hide every difference before it.
    weight = torch.randn(head.output.weight.shape, generator=generator).numpy()
    run = _runner(folder, {_OUTPUT_WEIGHT: weight})
    total = len(model.prompt.image_slots)

    def pairs() -> Iterator[tuple[dict, dict]]:
        for indices in (torch.arange(total), torch.arange(0, total, _STRIDE)):
            feeds = {
                'kept_tokens': torch.randn(
                    len(indices), head.config.hidden_size, generator=generator).numpy(),
                'kept_indices': indices.numpy(),
                'ego_history': torch.randn(
                    head.config.history_steps, head.ego_projection.in_features,
                    generator=generator).numpy(),
            }
            residuals, _ = run_layers(run, layers, feeds, head.config.num_waypoints)
            yield run('planner', feeds), {'waypoint_residuals': residuals}

    return check_outputs('planner in pieces', pairs(), tolerance)


def rival_golden(
    folder: Path, known: Mapping[str, torch.Tensor], num_waypoints: int
) -> dict[str, np.ndarray]:
    """Return what a bundle records of them; ``known`` has pictures and the planner's inputs."""
    run = _runner(folder)
    feeds = {name: known[name].numpy() for name in ('kept_tokens', 'kept_indices', 'ego_history')}
    layers = layer_graphs(path.stem for path in folder.glob('*.onnx'))
    _, received = run_layers(run, layers, feeds, num_waypoints)
    seen = run('vision_attention', {'images': known['images'].numpy()})
    return {**golden_of_vision(seen), 'layer_attention': received}


def _share_weights(path: Path, stored: dict[bytes, _Place]) -> None:
    """
    Let a graph use equal weights of the graphs before it, so that none lies in a bundle twice.

    ``stored`` says by a weight's digest where it lies, and learns this graph's own, which are all
    that stays in its data file.
    """
    model = onnx.load(path, load_external_data=False)
    data, own = path.with_name(f'{path.name}.data'), bytearray()
    for tensor, _, value in _weights(model, path.parent):
        digest = hashlib.sha256(value).digest()
        if digest not in stored:
            stored[digest] = data.name, len(own), len(value)
            own += value
        del tensor.external_data[:]
        for key, entry in zip(('location', 'offset', 'length'), stored[digest], strict=True):
            tensor.external_data.add(key=key, value=str(entry))
    onnx.save(model, path)
    data.write_bytes(own) if own else data.unlink()


def _weights(
    model: onnx.ModelProto, folder: Path
) -> Iterator[tuple[onnx.TensorProto, _Place, bytes]]:
    """Yield every weight that lies in a data file: the tensor, where it lies, its bytes."""
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = ExternalDataInfo(tensor)
            with (folder / info.location).open('rb') as file:
                file.seek(info.offset)
                yield tensor, (info.location, info.offset, info.length), file.read(info.length)


def _pairs(graph: RivalGraph, path: Path) -> Iterator[tuple[dict, dict]]:
    """Yield (expected, found) on the example inputs, and on fewer rows of what may have fewer."""
    session = cpu_session(path)
    fewer = {name: value[::_STRIDE] if name in graph.free_dims else value
             for name, value in graph.inputs.items()}
    for inputs in (graph.inputs, fewer) if graph.free_dims else (graph.inputs,):
        with torch.inference_mode():
            outputs = graph.module(*inputs.values())
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        expected = {name: value.numpy() for name, value in zip(graph.outputs, values, strict=True)}
        yield expected, run_onnx(session, {
            name: value.contiguous() for name, value in inputs.items()
        })


def _runner(
    folder: Path, output_weight: Mapping[str, np.ndarray] | None = None
) -> Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return what runs a graph of the folder by name, the head's with another output weight."""

    def run(graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        has_head = graph in ('planner', 'planner_output')
        session = cpu_session(folder / f'{graph}.onnx', output_weight if has_head else None)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run
