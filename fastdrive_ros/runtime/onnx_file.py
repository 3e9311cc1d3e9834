# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says of itself, read without its weights: its tensors and its data files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from fastdrive_ros.runtime.engine import TensorSpec


def onnx_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return (inputs, outputs) of an ONNX file without reading its weights."""
    graph = onnx.load(path, load_external_data=False).graph
    return tuple(map(_value_spec, graph.input)), tuple(map(_value_spec, graph.output))


def external_data_files(path: Path) -> list[str]:
    """Return the names of the data files that an ONNX file references, sorted."""
    graph = onnx.load(path, load_external_data=False).graph
    return sorted({location for tensor in _tensors(graph) for location in _locations(tensor)})


def _value_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    shape = tuple(
        dim.dim_value if dim.HasField('dim_value') else (dim.dim_param or 'K')
        for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, dtype, shape)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _tensors(subgraph)


def _locations(tensor: onnx.TensorProto) -> list[str]:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return []
    return [entry.value for entry in tensor.external_data if entry.key == 'location']
