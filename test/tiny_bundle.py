# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A whole model bundle in 20 kB: the real graph contracts, real arithmetic, no transformer.

V=6 cameras of 28x56 px, 14 px patches: a 2x4 grid, N=48 tokens of D=16; 4 history rows, 6
waypoints. The encoder is one convolution, a token's score is a dot product, the planner is a
pooled two-layer network; selection, masking and order are those of the real pruner.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnx import compose
from onnx import helper
from onnx import numpy_helper

from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle_writing import write_bundle
from fastdrive_ros.runtime.engine import layer_graphs
from fastdrive_ros.runtime.golden import PLAN_PREFIX
from fastdrive_ros.runtime.golden import golden_of_vision
from fastdrive_ros.runtime.golden import run_layers
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.golden_inputs import golden_images
from fastdrive_ros.runtime.onnx_file import onnx_specs

CAMERAS = (
    'CAM_FRONT_LEFT',
    'CAM_FRONT',
    'CAM_FRONT_RIGHT',
    'CAM_BACK_LEFT',
    'CAM_BACK',
    'CAM_BACK_RIGHT',
)
HEIGHT, WIDTH, PATCH = 28, 56, 14
GRID_HEIGHT, GRID_WIDTH = HEIGHT // PATCH, WIDTH // PATCH
PER_CAMERA = GRID_HEIGHT * GRID_WIDTH
NUM_TOKENS = len(CAMERAS) * PER_CAMERA
HIDDEN_SIZE = 16
HISTORY_STEPS = 4
NUM_WAYPOINTS = 6
NUM_KEPT = 12

Value = tuple[str, int, list[Any]]
"""Name, ONNX type and shape of a graph's input or output."""


def write_tiny_bundle(path: Path, seed: int = 7) -> Bundle:
    """Write the tiny bundle to ``path`` as `fastdrive export` writes a real one."""
    return write_models(path, tiny_models(np.random.default_rng(seed)))


def tiny_models(rng: np.random.Generator) -> dict[str, onnx.ModelProto]:
    """Return the graphs by name, without the fused one."""
    return {
        'vision_encoder': _vision_encoder(rng),
        'recon_pruner': _recon_pruner(rng),
        'planner': _planner(rng),
    }


def write_models(
    path: Path, models: Mapping[str, onnx.ModelProto], **planner: Any
) -> Bundle:
    """Write graphs, fuse two of them, run all for the golden outputs; ``planner``: more facts."""
    partial = path.with_name(path.name + '.partial')
    partial.mkdir(parents=True)
    for graph, model in models.items():
        onnx.save_model(
            model,
            partial / f'{graph}.onnx',
            save_as_external_data=True,
            location=f'{graph}.onnx.data',
            size_threshold=64,  # shapes stay inside, as ONNX Runtime wants them
        )
    _write_perception(partial)
    _write_golden(partial)
    return write_bundle(path, _manifest(partial, [*models, 'perception'], planner))


def _vision_encoder(rng: np.random.Generator) -> onnx.ModelProto:
    weight = rng.normal(0.0, 0.1, (HIDDEN_SIZE, 3, PATCH, PATCH)).astype(np.float32)
    return make_model(
        [
            helper.make_node('Cast', ['images'], ['pixels'], to=TensorProto.FLOAT),
            helper.make_node('Mul', ['pixels', 'scale'], ['scaled']),
            helper.make_node('Transpose', ['scaled'], ['planar'], perm=[0, 3, 1, 2]),
            helper.make_node('Conv', ['planar', 'patch'], ['maps'], strides=[PATCH, PATCH]),
            helper.make_node('Transpose', ['maps'], ['tokens_last'], perm=[0, 2, 3, 1]),
            helper.make_node('Reshape', ['tokens_last', 'token_shape'], ['visual_tokens']),
        ],
        {
            'scale': np.array(1 / 255, np.float32),
            'patch': weight,
            'token_shape': np.array([NUM_TOKENS, HIDDEN_SIZE]),
        },
        inputs=[('images', TensorProto.UINT8, [len(CAMERAS), HEIGHT, WIDTH, 3])],
        outputs=[('visual_tokens', TensorProto.FLOAT, [NUM_TOKENS, HIDDEN_SIZE])],
    )


def _recon_pruner(rng: np.random.Generator) -> onnx.ModelProto:
    return make_model(
        [
            helper.make_node('MatMul', ['visual_tokens', 'score_weight'], ['raw_scores']),
            helper.make_node('Gather', ['camera_present', 'token_camera'], ['token_present']),
            helper.make_node('Where', ['token_present', 'raw_scores', 'absent'], ['scores']),
            helper.make_node('Reshape', ['num_kept_tokens', 'one'], ['count']),
            helper.make_node('TopK', ['scores', 'count'], ['best', 'by_score'], axis=0),
            helper.make_node('Cast', ['by_score'], ['unsorted'], to=TensorProto.FLOAT),
            helper.make_node(
                'TopK', ['unsorted', 'count'], ['ascending', 'order'], axis=0, largest=0
            ),
            helper.make_node('Cast', ['ascending'], ['kept_indices'], to=TensorProto.INT64),
            helper.make_node('Gather', ['visual_tokens', 'kept_indices'], ['kept_tokens']),
        ],
        {
            'score_weight': rng.normal(size=HIDDEN_SIZE).astype(np.float32),
            'token_camera': np.repeat(np.arange(len(CAMERAS)), PER_CAMERA),
            'absent': np.array(-np.inf, np.float32),
            'one': np.array([1]),
        },
        inputs=[
            ('visual_tokens', TensorProto.FLOAT, [NUM_TOKENS, HIDDEN_SIZE]),
            ('camera_present', TensorProto.BOOL, [len(CAMERAS)]),
            ('num_kept_tokens', TensorProto.INT64, []),
        ],
        outputs=[
            ('kept_tokens', TensorProto.FLOAT, ['K', HIDDEN_SIZE]),
            ('kept_indices', TensorProto.INT64, ['K']),
            ('scores', TensorProto.FLOAT, [NUM_TOKENS]),
        ],
    )


def _planner(rng: np.random.Generator) -> onnx.ModelProto:
    ego_size = HISTORY_STEPS * len(EGO_FEATURES)
    return make_model(
        [
            helper.make_node('Gather', ['positions', 'kept_indices'], ['kept_positions']),
            helper.make_node('Add', ['kept_tokens', 'kept_positions'], ['placed']),
            helper.make_node('ReduceMean', ['placed', 'axis'], ['pooled'], keepdims=1),
            helper.make_node('Reshape', ['ego_history', 'ego_row'], ['ego_flat']),
            helper.make_node('MatMul', ['ego_flat', 'ego_weight'], ['ego']),
            helper.make_node('Add', ['pooled', 'ego'], ['summed']),
            helper.make_node('Tanh', ['summed'], ['hidden']),
            helper.make_node('MatMul', ['hidden', 'head'], ['flat']),
            helper.make_node('Reshape', ['flat', 'waypoint_shape'], ['waypoint_residuals']),
        ],
        {
            'positions': rng.normal(size=(NUM_TOKENS, HIDDEN_SIZE)).astype(np.float32),
            'axis': np.array([0]),
            'ego_row': np.array([1, ego_size]),
            'ego_weight': rng.normal(0.0, 0.1, (ego_size, HIDDEN_SIZE)).astype(np.float32),
            'head': rng.normal(0, 0.01, (HIDDEN_SIZE, NUM_WAYPOINTS * 3)).astype(np.float32),
            'waypoint_shape': np.array([NUM_WAYPOINTS, 3]),
        },
        inputs=[
            ('kept_tokens', TensorProto.FLOAT, ['K', HIDDEN_SIZE]),
            ('kept_indices', TensorProto.INT64, ['K']),
            ('ego_history', TensorProto.FLOAT, [HISTORY_STEPS, len(EGO_FEATURES)]),
        ],
        outputs=[('waypoint_residuals', TensorProto.FLOAT, [NUM_WAYPOINTS, 3])],
    )


def make_model(
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    inputs: list[Value],
    outputs: list[Value],
) -> onnx.ModelProto:
    """Return a checked model of these nodes."""
    graph = helper.make_graph(
        nodes,
        'tiny',
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _write_perception(partial: Path) -> None:
    encoder, pruner = (
        onnx.load(partial / f'{graph}.onnx', load_external_data=False).graph
        for graph in ('vision_encoder', 'recon_pruner')
    )
    # Graphs, not models: merge_models would look for the data files in the working directory.
    graph = compose.merge_graphs(encoder, pruner, [('visual_tokens', 'visual_tokens')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    (partial / 'perception.onnx').write_bytes(model.SerializeToString())


def _write_golden(partial: Path) -> None:
    def run(graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = onnxruntime.InferenceSession(partial / f'{graph}.onnx')
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    encoded = run('vision_encoder', {'images': golden_images(len(CAMERAS), HEIGHT, WIDTH)})
    kept = run(
        'recon_pruner',
        {
            **encoded,
            'camera_present': np.ones(len(CAMERAS), bool),
            'num_kept_tokens': np.array(NUM_KEPT, np.int64),
        },
    )
    feeds = {
        'kept_tokens': kept['kept_tokens'],
        'kept_indices': kept['kept_indices'],
        'ego_history': golden_history(HISTORY_STEPS),
    }
    golden = {
        'visual_tokens': encoded['visual_tokens'],
        'scores': kept['scores'],
        'kept_indices': kept['kept_indices'],
        'waypoint_residuals': run('planner', feeds)['waypoint_residuals'],
    }
    if (partial / 'plan_pruner.onnx').exists():  # the same weights as recon_pruner's
        golden |= {PLAN_PREFIX + name: kept[name] for name in ('scores', 'kept_indices')}
    if layers := layer_graphs(path.stem for path in partial.glob('*.onnx')):
        _, golden['layer_attention'] = run_layers(run, layers, feeds, NUM_WAYPOINTS)
        golden |= golden_of_vision(run('vision_attention', {'images': golden_images(
            len(CAMERAS), HEIGHT, WIDTH)}))
    np.savez(partial / 'golden.npz', **golden)


def _manifest(
    partial: Path, names: Sequence[str], planner: Mapping[str, Any]
) -> dict[str, Any]:
    graphs = {}
    for graph in names:
        inputs, outputs = onnx_specs(partial / f'{graph}.onnx')
        graphs[graph] = {
            'file': f'{graph}.onnx',
            'inputs': [vars(spec) for spec in inputs],
            'outputs': [vars(spec) for spec in outputs],
            'export_check': {'max_abs': 0.0, 'relative_l2': 0.0, 'tolerance': 1e-3},
        }
    return {
        'format': 'fastdrive-bundle',
        'format_version': 1,
        'name': 'tiny',
        'cameras': list(CAMERAS),
        'image': {'height': HEIGHT, 'width': WIDTH, 'fit': 'stretch', 'channels': 'rgb'},
        'tokens': {
            'grid_height': GRID_HEIGHT,
            'grid_width': GRID_WIDTH,
            'per_camera': PER_CAMERA,
            'total': NUM_TOKENS,
            'hidden_size': HIDDEN_SIZE,
        },
        'precision': 'fp32',
        'pruner': {'method': 'recon', 'trained': False},
        'planner': {
            'head': 'waypoint_queries',
            'num_waypoints': NUM_WAYPOINTS,
            'dt_s': 0.5,
            'history_steps': HISTORY_STEPS,
            'history_dt_s': 0.5,
            'ego_features': list(EGO_FEATURES),
            'prompt': '',
            'trained': False,
            **planner,
        },
        'training': 'Not trained: random weights for tests.',
        'graphs': graphs,
        'golden': {
            'file': 'golden.npz',
            'num_kept_tokens': NUM_KEPT,
            'tolerance': {'relative_l2': 1e-3, 'kept_overlap': 0.99},
        },
        'source': {'architecture': 'tiny', 'checkpoint_sha256': '', 'parameters': {}},
    }
