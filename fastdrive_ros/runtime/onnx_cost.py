# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
An ONNX file and the sizes of its free dimensions -> multiplications that one run needs.

Counting rule: one MAC (multiply-accumulate) for each product in MatMul, Gemm and Conv nodes,
weights and attention alike, at the shapes that ONNX's own shape inference finds. Elementwise
work (norms, softmax, activations, rotary positions) and sorting are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from fastdrive_ros.runtime.engine import EngineError

_COUNTED = ('MatMul', 'Gemm', 'Conv')


def graph_macs(path: Path, free_dims: Mapping[str, int]) -> int:
    """
    Return the MACs of one run with ``free_dims``, for example {'K': 336}.

    Raises EngineError when a shape cannot be found out.
    """
    model = onnx.load(path, load_external_data=False)
    _load_small_integers(model, path.parent)
    _fix_inputs(model.graph, free_dims)
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise EngineError(f'{path}: expected shapes that follow from {dict(free_dims)}, found '
                          f'{error}. Export the bundle again.') from error
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(_macs(path, node, shapes) for node in graph.node if node.op_type in _COUNTED)


def _macs(path: Path, node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    """Return output elements times the length of the sum behind each of them."""
    first, weight, out = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
    if not (first and weight and out and all(first) and all(weight) and all(out)):
        raise EngineError(f'{path}: expected the shapes of {node.op_type} {node.name!r}, found '
                          f'{first}, {weight} -> {out}. Export the bundle again.')
    if node.op_type == 'Conv':
        return math.prod(out) * math.prod(weight[1:])
    transposed = any(each.name == 'transA' and each.i for each in node.attribute)
    return math.prod(out) * first[0 if transposed else -1]


def _load_small_integers(model: onnx.ModelProto, folder: Path) -> None:
    """Load indices and shapes that lie beside the graph; no weight is one."""
    for tensor in model.graph.initializer:
        if (tensor.data_type == onnx.TensorProto.INT64
                and tensor.data_location == onnx.TensorProto.EXTERNAL):
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def _fix_inputs(graph: onnx.GraphProto, free_dims: Mapping[str, int]) -> None:
    """Set the free dimensions, and forget the symbols that the exporter wrote for them inside."""
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = free_dims[dim.dim_param]
    for value in graph.output:
        value.type.tensor_type.ClearField('shape')
    del graph.value_info[:]
