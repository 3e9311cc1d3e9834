# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The tiny bundle with the graphs of `fastdrive export --rivals`: a planner of four attention layers.

Rows: two text, the visual ones, one text, four ego, six queries; slots as in the real planner.
A layer adds half of what its causal attention brings. planner.onnx is the pieces in a row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper
from tiny_bundle import HIDDEN_SIZE
from tiny_bundle import HISTORY_STEPS
from tiny_bundle import NUM_TOKENS
from tiny_bundle import NUM_WAYPOINTS
from tiny_bundle import Value
from tiny_bundle import make_model
from tiny_bundle import tiny_models
from tiny_bundle import write_models

from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.runtime.bundle import Bundle

NUM_LAYERS = 4
NUM_TEXT = 3
NUM_FEATURES = 8
NUM_ROWS = NUM_TEXT + NUM_TOKENS + HISTORY_STEPS + NUM_WAYPOINTS

_KEPT = [('kept_tokens', TensorProto.FLOAT, ['K', HIDDEN_SIZE]),
         ('kept_indices', TensorProto.INT64, ['K'])]
_EGO = 'ego_history', TensorProto.FLOAT, [HISTORY_STEPS, len(EGO_FEATURES)]
_SLOTS = 'slots', TensorProto.INT64, ['S']
_RESIDUALS = [('waypoint_residuals', TensorProto.FLOAT, [NUM_WAYPOINTS, 3])]


def write_tiny_rivals(path: Path, seed: int = 7) -> Bundle:
    """Write the bundle to ``path``."""
    rng = np.random.default_rng(seed)
    models = tiny_models(rng)
    constants = _constants(rng)

    def model(nodes: list[onnx.NodeProto], *inputs_and_outputs: list[Value]) -> onnx.ModelProto:
        used = {name for node in nodes for name in node.input}
        return make_model(nodes, {name: value for name, value in constants.items()
                                  if name in used}, *inputs_and_outputs)

    whole = _embed('rows_0')
    for i in range(NUM_LAYERS):
        whole += _layer(i, f'rows_{i}', f'rows_{i + 1}', f'attention_{i}')
    whole += [helper.make_node('Slice', [f'rows_{NUM_LAYERS}', 'from', 'to'], ['queries']),
              *_output('queries')]
    models |= {
        # The same network as ReconPruner's, here the same weights, too.
        'plan_pruner': models['recon_pruner'],
        'vision_attention': _vision_attention(models['vision_encoder'], rng),
        'planner': model(whole, [*_KEPT, _EGO], _RESIDUALS),
        'planner_embed': model(_embed('hidden'), [*_KEPT, _EGO], [_rows('hidden'), _SLOTS]),
        **{f'planner_layer_{i:02d}': model(
            _layer(i, 'hidden', 'next_hidden', 'attention'), [_rows('hidden'), _SLOTS],
            [_rows('next_hidden'), ('attention', TensorProto.FLOAT, ['S', 'S'])])
            for i in range(NUM_LAYERS)},
        'planner_output': model(
            _output('hidden'),
            [('hidden', TensorProto.FLOAT, [NUM_WAYPOINTS, HIDDEN_SIZE]), _EGO], _RESIDUALS),
    }
    return write_models(path, models, num_rows=NUM_ROWS)


def _rows(name: str) -> Value:
    return name, TensorProto.FLOAT, ['S', HIDDEN_SIZE]


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    def random(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return {
        'places': random(NUM_TOKENS, HIDDEN_SIZE),
        'ego_weight': random(len(EGO_FEATURES), HIDDEN_SIZE) / 10,
        'text': random(NUM_TEXT, HIDDEN_SIZE),
        'query_rows': random(NUM_WAYPOINTS, HIDDEN_SIZE),
        'image_slots': 2 + np.arange(NUM_TOKENS),
        'text_slots': np.array([0, 1, 2 + NUM_TOKENS]),
        'tail_slots': NUM_TEXT + NUM_TOKENS + np.arange(HISTORY_STEPS + NUM_WAYPOINTS),
        **{f'weight_{i}': random(HIDDEN_SIZE, HIDDEN_SIZE) / HIDDEN_SIZE
           for i in range(NUM_LAYERS)},
        'zero': np.array([0]),
        'one': np.array([1]),
        'unseen': np.array(-np.inf, np.float32),
        'half': np.array(0.5, np.float32),
        'from': np.array([-NUM_WAYPOINTS]),
        'to': np.array([1 << 20]),
        'head': random(HIDDEN_SIZE, 3) / 100,
        'prior': random(len(EGO_FEATURES), 3) / 1000,
    }


def _embed(rows: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node('Gather', ['places', 'kept_indices'], ['kept_places']),
        helper.make_node('Add', ['kept_tokens', 'kept_places'], ['placed']),
        helper.make_node('MatMul', ['ego_history', 'ego_weight'], ['ego']),
        helper.make_node('Concat', ['text', 'placed', 'ego', 'query_rows'], [rows], axis=0),
        helper.make_node('Gather', ['image_slots', 'kept_indices'], ['kept_slots']),
        helper.make_node('Concat', ['text_slots', 'kept_slots', 'tail_slots'], ['slots'], axis=0),
    ]


def _layer(i: int, rows: str, after: str, attention: str) -> list[onnx.NodeProto]:
    def node(kind: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], **attributes)

    return [
        node('MatMul', [rows, f'weight_{i}'], f'asked_{i}'),
        node('Transpose', [rows], f'columns_{i}'),
        node('MatMul', [f'asked_{i}', f'columns_{i}'], f'likeness_{i}'),
        node('Unsqueeze', ['slots', 'zero'], f'of_key_{i}'),
        node('Unsqueeze', ['slots', 'one'], f'of_query_{i}'),
        node('LessOrEqual', [f'of_key_{i}', f'of_query_{i}'], f'visible_{i}'),
        node('Where', [f'visible_{i}', f'likeness_{i}', 'unseen'], f'causal_{i}'),
        node('Softmax', [f'causal_{i}'], attention, axis=-1),
        node('MatMul', [attention, rows], f'brought_{i}'),
        node('Mul', [f'brought_{i}', 'half'], f'added_{i}'),
        node('Add', [rows, f'added_{i}'], after),
    ]


def _output(rows: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node('MatMul', [rows, 'head'], ['seen']),
        helper.make_node('ReduceMean', ['ego_history', 'zero'], ['ego_mean'], keepdims=1),
        helper.make_node('MatMul', ['ego_mean', 'prior'], ['expected']),
        helper.make_node('Add', ['seen', 'expected'], ['waypoint_residuals']),
    ]


def _vision_attention(encoder: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    graph = model.graph
    graph.node.extend([
        helper.make_node('ReduceL2', ['visual_tokens', 'channels'], ['attention'], keepdims=0),
        helper.make_node('MatMul', ['visual_tokens', 'mix'], ['features']),
    ])
    graph.initializer.extend([
        onnx.numpy_helper.from_array(np.array([1]), 'channels'),
        onnx.numpy_helper.from_array(
            rng.normal(size=(HIDDEN_SIZE, NUM_FEATURES)).astype(np.float32), 'mix'),
    ])
    graph.output.extend([
        helper.make_tensor_value_info('attention', TensorProto.FLOAT, [NUM_TOKENS]),
        helper.make_tensor_value_info('features', TensorProto.FLOAT, [NUM_TOKENS, NUM_FEATURES]),
    ])
    onnx.checker.check_model(model)
    return model
