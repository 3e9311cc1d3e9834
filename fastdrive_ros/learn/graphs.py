# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Torch module -> ONNX file, and the proof that both say the same.

Opset 18, attention decomposed, K the only free dimension: what TensorRT 10.3 (JetPack 6) and
later, TensorRT-RTX and ONNX Runtime all take (integer weights want opset 21: weight_only.py).
Weights lie beside the graph in one .data file.

In bf16 and fp16 the proof has two halves: the file with every rounding taken out equals torch in
fp32 on the same weights (here), and what the rounding itself does is measured (precision.py).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import compose
from torch import nn

from fastdrive_ros.learn import weight_only
from fastdrive_ros.runtime.engine import EngineError

OPSET = 18
_HALF_TYPES = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16


class ExportError(EngineError):
    """A checkpoint cannot become a bundle: what was expected, what was found, what mends it."""


@dataclass(frozen=True)
class Difference:
    """How far ONNX Runtime is from torch, worst over all outputs and inputs that were tried."""

    max_abs: float = 0.0
    relative_l2: float = 0.0

    def worst(self, expected: np.ndarray, found: np.ndarray) -> Difference:
        """Return the greater of this and the difference of two arrays of one shape."""
        finite = np.isfinite(expected)
        if expected.shape != found.shape or not np.array_equal(finite, np.isfinite(found)):
            return Difference(float('inf'), float('inf'))
        error = found[finite].astype(np.float64) - expected[finite]
        scale = np.linalg.norm(expected[finite].astype(np.float64))
        relative = np.linalg.norm(error) / max(scale, np.finfo(np.float64).tiny)
        return Difference(
            max(self.max_abs, float(np.abs(error).max(initial=0.0))),
            max(self.relative_l2, float(relative)),
        )


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    free_dims: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    """Write ``path`` and ``path``.data; ``free_dims`` as {'kept_tokens': {0: 'K'}}."""
    shapes = tuple(
        dict.fromkeys(free_dims.get(name, ()), torch.export.Dim.DYNAMIC) or None
        for name in inputs
    )
    opset = weight_only.OPSET if weight_only.integer_layers(module) else OPSET
    # The exporter's talk of its own deprecations and of torchvision, which nothing here needs.
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    weight_only.pack_int4(program.model)
    program.save(path, external_data=True)
    model = onnx.load(path, load_external_data=False)
    name_free_dims(model, free_dims)
    forget_origin(model)
    onnx.save(model, path)


def forget_origin(model: onnx.ModelProto) -> None:
    """Drop the stack traces (with this machine's paths) that the exporter writes everywhere."""
    graph = model.graph
    for part in (
        model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info,
        *graph.initializer,
    ):
        part.doc_string = ''
        del part.metadata_props[:]


def name_free_dims(model: onnx.ModelProto, free_dims: Mapping[str, Mapping[int, str]]) -> None:
    """Give the exporter's invented symbols (s17, u0) of graph inputs and outputs their names."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in free_dims.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_param = name


def join_perception(vision: Path, pruner: Path, path: Path) -> None:
    """Chain both graphs in one file that refers to their .data files: no weight lies twice."""
    first, second = (
        compose.add_prefix(
            onnx.load(file, load_external_data=False), f'{file.stem}/',
            rename_inputs=False, rename_outputs=False,
        )
        for file in (vision, pruner)
    )
    # visual_tokens, and token_present after early pruning.
    handed_on = [(value.name, value.name) for value in first.graph.output]
    # Not merge_models: its checker looks for the data files in the working directory.
    graph = compose.merge_graphs(first.graph, second.graph, handed_on, name=path.stem)
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=first.opset_import, ir_version=first.ir_version
        ),
        path,
    )


def run_onnx(
    session: onnxruntime.InferenceSession, inputs: Mapping[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """Run on torch tensors; return every output by name."""
    names = [output.name for output in session.get_outputs()]
    feeds = {name: value.numpy() for name, value in inputs.items()}
    return dict(zip(names, session.run(names, feeds), strict=True))


def cpu_session(
    path: Path, overrides: Mapping[str, np.ndarray] | None = None
) -> onnxruntime.InferenceSession:
    """
    Open a graph in ONNX Runtime on the CPU; ``overrides`` replaces initializers by name.

    A graph in bf16 or fp16, which ONNX Runtime's CPU cannot run (or only partly), is ``lifted``
    to fp32: the same nodes on the same weights from the same files, without any rounding. Integer
    weights are multiplied out where they are used.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
        for name, value in (overrides or {}).items()
    }
    for name, value in values.items():
        options.add_initializer(name, value)
    graph: Path | bytes = path
    model = onnx.load(path, load_external_data=False)
    if lifted(model) or any(node.op_type == 'DequantizeLinear' for node in model.graph.node):
        graph = model.SerializeToString()
        options.add_session_config_entry(
            'session.model_external_initializers_file_folder_path', str(path.parent.resolve()))
        # Folding or packing would hold all weights in fp32 at once; so it is one node's at a time.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry('session.disable_prepacking', '1')
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # The usual order makes many layers' weights before the first of them is used.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])


def lifted(model: onnx.ModelProto) -> bool:
    """
    Make a graph that computes in bf16 or fp16 compute in fp32; False where there is nothing to do.

    Weights stay as they are, in their files; a Cast after each one makes it fp32 when it is used.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type in _HALF_TYPES}
    has_half = bool(stored)
    for node in graph.node:
        node.input[:] = [f'{name}/lifted' if name in stored else name for name in node.input]
        for attribute in node.attribute:
            if node.op_type == 'Cast' and attribute.name == 'to' and attribute.i in _HALF_TYPES:
                attribute.i, has_half = onnx.TensorProto.FLOAT, True
            elif attribute.t.data_type in _HALF_TYPES:
                value = onnx.numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(value))
                has_half = True
    if not has_half:
        return False
    del graph.value_info[:]
    nodes = [
        onnx.helper.make_node('Cast', [name], [f'{name}/lifted'], to=onnx.TensorProto.FLOAT)
        for name in sorted(stored)
    ]
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def check_outputs(
    graph: str,
    pairs: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    tolerance: float,
) -> Difference:
    """Compare (expected, found) outputs; raise ExportError beyond the relative tolerance."""
    difference = Difference()
    for expected, found in pairs:
        for name, value in expected.items():
            difference = difference.worst(value, found[name])
    if not difference.relative_l2 <= tolerance:
        raise ExportError(
            f'the exported {graph} differs from the torch module: expected a relative '
            f'difference of at most {tolerance:g}, found {difference.relative_l2:.3g} (largest '
            f'{difference.max_abs:.3g}). Nothing was written. Export again; if it stays, these '
            'versions of torch and onnxruntime do not export this model.'
        )
    return difference
