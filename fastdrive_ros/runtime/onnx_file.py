# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says of itself: its tensors, its data files, its weights one by one."""

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


def weight_bytes(path: Path) -> int:
    """Return how much of the data files an ONNX file uses; small tensors inside it not counted."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(int(entry.value) for tensor in _tensors(graph) if _locations(tensor)
               for entry in tensor.external_data if entry.key == 'length')


class OnnxWeights:
    """The initializers of a graph by their names, mapped from its data files."""

    def __init__(self, path: Path) -> None:
        """Read the file without its weights."""
        self._folder = path.parent
        graph = onnx.load(path, load_external_data=False).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def __contains__(self, name: str) -> bool:
        """Return whether there is an initializer of this name."""
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one; bf16 is a numpy type of ml_dtypes. KeyError when there is none."""
        tensor = self._tensors[name]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return onnx.numpy_helper.to_array(tensor)
        place = {entry.key: entry.value for entry in tensor.external_data}
        # Copy on write: who takes the memory over may want it writable.
        data = np.memmap(self._folder / place['location'], np.uint8, 'c',
                         int(place.get('offset', 0)), int(place['length']))
        return data.view(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(
            tuple(tensor.dims))


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
