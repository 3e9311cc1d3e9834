# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Exports in bf16 and fp16, part by part: what is refused, what is exact, what may be inexact."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from safetensors.torch import load_file  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from test_export import request_for  # noqa: E402
from test_export import write_trained_checkpoint  # noqa: E402
from tiny_checkpoint import GRIDS  # noqa: E402
from tiny_checkpoint import HIDDEN_SIZE  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402

from fastdrive_ros.core.types import NUSCENES_CAMERAS  # noqa: E402
from fastdrive_ros.learn.checkpoint import ModelParts  # noqa: E402
from fastdrive_ros.learn.checkpoint import open_checkpoint  # noqa: E402
from fastdrive_ros.learn.checkpoint import open_parts  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.learn.graph_checks import check_pruner  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.graphs import cpu_session  # noqa: E402
from fastdrive_ros.learn.graphs import export_graph  # noqa: E402
from fastdrive_ros.learn.graphs import lifted  # noqa: E402
from fastdrive_ros.learn.graphs import run_onnx  # noqa: E402
from fastdrive_ros.learn.nano import PRUNER_FILE  # noqa: E402
from fastdrive_ros.learn.precision import MAX_ROUNDING  # noqa: E402
from fastdrive_ros.learn.precision import Reach  # noqa: E402
from fastdrive_ros.learn.precision import Rounding  # noqa: E402
from fastdrive_ros.learn.precision import golden_tolerance  # noqa: E402
from fastdrive_ros.learn.precision import in_float32  # noqa: E402
from fastdrive_ros.learn.precision import require_range  # noqa: E402
from fastdrive_ros.learn.precision import rounding  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402
from fastdrive_ros.runtime.load import load_engines  # noqa: E402
from fastdrive_ros.runtime.trt_build import build_engine_file  # noqa: E402

GRAPHS = ('vision_encoder', 'recon_pruner', 'perception', 'planner')


def parts_of(checkpoint: Path, num_cameras: int = 1) -> ModelParts:
    return open_parts(checkpoint, checkpoint / PRUNER_FILE, NUSCENES_CAMERAS[:num_cameras],
                      *GRIDS[0])


@pytest.fixture(scope='module')
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of two cameras in bf16, from a checkpoint in fp32."""
    folder = tmp_path_factory.mktemp('bf16')
    request = request_for(write_trained_checkpoint(folder / 'checkpoint', 2), folder / 'out', 2)
    return export_bundle(dataclasses.replace(request, precision='bf16'), lambda line: None)


def test_bf16_bundle_says_what_rounding_costs(bf16: Bundle) -> None:
    """Per graph in the manifest; three times the worst is what an engine may differ."""
    graphs = bf16.manifest['graphs']
    found = {graph: section['rounding'] for graph, section in graphs.items()
             if graph != 'perception'}
    assert set(found) == {'vision_encoder', 'recon_pruner', 'planner'}
    assert all(1e-4 < entry['relative_l2'] <= MAX_ROUNDING for entry in found.values())
    worst = max(entry['relative_l2'] for entry in found.values())
    tolerance = bf16.manifest['golden']['tolerance']
    assert tolerance['relative_l2'] == pytest.approx(3 * worst)
    assert all(section['export_check']['relative_l2'] <= 1e-3 for section in graphs.values())
    assert bf16.precision == 'bf16'


def test_bf16_graphs_touch_the_host_in_fp32_and_score_in_fp32(bf16: Bundle) -> None:
    """Layers are bf16; pictures' folding, scorer and head are not."""
    types = {onnx.TensorProto.BFLOAT16: 'bf16', onnx.TensorProto.FLOAT: 'fp32'}
    stored: dict[str, str] = {}
    scorers = []
    for graph in ('vision_encoder', 'recon_pruner', 'planner'):
        for spec in sum(bf16.graph_specs(graph), ()):
            assert spec.dtype in ('float32', 'uint8', 'int64', 'bool')
        model = onnx.load(bf16.graph_path(graph), load_external_data=False)
        stored |= {tensor.name: types[tensor.data_type] for tensor in model.graph.initializer
                   if tensor.data_type in types}
        scorers += [types[tensor.data_type] for tensor in model.graph.initializer
                    if tensor.dims == [HIDDEN_SIZE, 1]]
    assert scorers == ['fp32']
    in_fp32 = {name for name, kind in stored.items() if kind == 'fp32'}
    assert {'patch_weight', 'scorer.bias', 'head.output.weight'} <= in_fp32
    assert stored['layer.input_layernorm.weight'] == 'bf16'
    assert stored['layers.0.input_layernorm.weight'] == 'bf16'
    assert sum(kind == 'bf16' for kind in stored.values()) > 50


def test_golden_outputs_are_from_fp32_whatever_the_precision(bf16: Bundle) -> None:
    checkpoint = bf16.path.with_name('checkpoint')
    golden = np.load(bf16.path / 'golden.npz')
    parts = parts_of(checkpoint, 2)
    inputs = (torch.from_numpy(golden['visual_tokens']), torch.ones(2, dtype=torch.bool),
              torch.tensor(len(golden['kept_indices'])))
    with torch.inference_mode():
        _, indices, scores = parts.pruner()(*inputs)
    np.testing.assert_allclose(golden['scores'], scores.numpy(), rtol=1e-5, atol=1e-5)
    assert golden['kept_indices'].tolist() == indices.tolist()


def test_the_cpu_refuses_bf16_and_the_real_builder_takes_it(
    bf16: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match='no bf16 on the CPU.*--precision fp32'):
        load_engines(bf16, backend='onnxruntime')
    pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    for graph in GRAPHS:
        engine = tmp_path / f'{graph}.engine'
        build_engine_file(bf16.graph_path(graph), engine, 'tensorrt_rtx',
                          profile=bf16.profile(graph), compute_capability=86)
        assert engine.stat().st_size > 10_000


def test_an_altered_bf16_weight_is_found(tmp_path: Path) -> None:
    """The file that is compared is the one that is shipped."""
    parts = parts_of(write_checkpoint(tmp_path / 'checkpoint'))
    pruner = parts.pruner(torch.bfloat16)
    path = tmp_path / 'recon_pruner.onnx'
    inputs = {'visual_tokens': torch.randn(parts.num_tokens, HIDDEN_SIZE),
              'camera_present': torch.ones(1, dtype=torch.bool),
              'num_kept_tokens': torch.tensor(5)}
    export_graph(pruner, inputs, ['kept_tokens', 'kept_indices', 'scores'],
                 {'kept_tokens': {0: 'K'}, 'kept_indices': {0: 'K'}}, path)
    assert check_pruner(pruner, path, 1e-3).relative_l2 < 1e-3
    data = path.with_name('recon_pruner.onnx.data')
    values = np.fromfile(data, np.uint16)
    values[len(values) // 2:len(values) // 2 + 500] ^= 0x0080    # the exponent's last bit
    values.tofile(data)
    with pytest.raises(ExportError, match='exported recon_pruner differs'):
        check_pruner(pruner, path, 1e-3)


@pytest.mark.parametrize('half', [onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16])
def test_a_lifted_graph_rounds_nothing(tmp_path: Path, half: int) -> None:
    """Weight, constant and casts in a half type; 1 + 2^-12 would be 1 in either."""
    def tensor(name: str, value: float) -> onnx.TensorProto:
        return onnx.helper.make_tensor(name, half, [1], [value])

    def node(kind: str, inputs: list[str], out: str, **attributes: object) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, inputs, [out], **attributes)

    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node('Cast', ['x'], 'low', to=half), node('Constant', [], 'three', value=tensor('c', 3)),
         node('Mul', ['low', 'two'], 'twice'), node('Mul', ['twice', 'three'], 'six'),
         node('Cast', ['six'], 'y', to=floats)], 'graph',
        [onnx.helper.make_tensor_value_info('x', floats, [1])],
        [onnx.helper.make_tensor_value_info('y', floats, [1])], [tensor('two', 2)])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid('', 18)], ir_version=10)
    onnx.save(model, tmp_path / 'graph.onnx')
    x = torch.tensor([1.0 + 2.0**-12])
    assert run_onnx(cpu_session(tmp_path / 'graph.onnx'), {'x': x})['y'] == 6.0 + 6 * 2.0**-12
    assert lifted(model)
    assert not lifted(onnx.ModelProto())


def test_an_encoder_that_overflows_fp16_is_refused(tmp_path: Path) -> None:
    """A down projection that reaches beyond 65504, which bf16 holds."""
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    weights = load_file(checkpoint / 'model.safetensors')
    weights['visual.blocks.1.mlp.down_proj.weight'] *= 3e5
    save_file(weights, checkpoint / 'model.safetensors', metadata={'format': 'pt'})
    request = dataclasses.replace(request_for(checkpoint, tmp_path / 'out'), precision='fp16')
    expected = (r'vision_encoder overflows in fp16: .*at most 3.28e\+04.*found .* in layer '
                r'blocks\.[12]\..*Nothing was written. Export with --precision bf16')
    with pytest.raises(ExportError, match=expected):
        export_bundle(request, lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['checkpoint']


def test_values_that_are_not_finite_or_too_far_off_are_refused() -> None:
    """Overflow inside a layer, which no layer's entrance or exit shows, ends in the outputs."""
    fine = {'visual_tokens': np.ones((4, 2), np.float32)}
    broken = {'visual_tokens': np.full((4, 2), np.nan, np.float32)}
    with pytest.raises(ExportError, match='vision_encoder overflows in fp16: visual_tokens has'):
        rounding('vision_encoder', 'fp16', fine, broken)
    with pytest.raises(ExportError, match='too inexact in bf16.*at most 0.1.*found 0.2'):
        rounding('planner', 'bf16', fine, {'visual_tokens': fine['visual_tokens'] * 1.2})
    require_range('planner', 'fp16', Reach({'layers.0': 3e4}))
    with pytest.raises(ExportError, match='found 4e.04 in layer layers.1'):
        require_range('planner', 'fp16', Reach({'layers.0': 3e4, 'layers.1': 4e4}))


def test_tolerance_follows_from_what_was_measured() -> None:
    assert golden_tolerance({}) == {
        'relative_l2': 1e-3, 'kept_overlap': 0.99, 'encoded_overlap': 0.99}
    found = golden_tolerance({'a': Rounding(0.004, encoded_overlap=0.9),
                              'b': Rounding(0.001, kept_overlap=0.98)})
    assert found == pytest.approx({
        'relative_l2': 0.012, 'kept_overlap': 0.94, 'encoded_overlap': 0.7})


def test_fp32_with_one_layer_at_a_time_is_fp32(tmp_path: Path) -> None:
    """A bf16 module in ``in_float32`` equals the fp32 module on the same weights, and recovers."""
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    weights = load_file(checkpoint / 'model.safetensors')
    rounded = {name: value.bfloat16().float() for name, value in weights.items()}
    save_file(rounded, checkpoint / 'model.safetensors', metadata={'format': 'pt'})
    parts = parts_of(checkpoint)
    images = torch.randint(0, 256, (1, *GRIDS[0], 3), dtype=torch.uint8)
    vision, exact = parts.vision(torch.bfloat16), parts.vision()
    with torch.inference_mode():
        before = vision(images)
        with in_float32(vision) as reach:
            found = vision(images)
        torch.testing.assert_close(found, exact(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(vision(images), before, rtol=0, atol=0)
        assert not torch.allclose(before, found, rtol=1e-4)
    assert {weight.dtype for weight in vision.blocks.parameters()} == {torch.bfloat16}
    assert max(reach.largest, key=reach.largest.get) in dict(vision.named_modules())


def test_scores_in_bf16_are_not_tied(tmp_path: Path) -> None:
    """With a scorer in bf16 most of many scores would equal another one."""
    parts = parts_of(write_checkpoint(tmp_path / 'checkpoint'))
    tokens = torch.randn(1, parts.num_tokens, HIDDEN_SIZE)
    with torch.inference_mode():
        scores = parts.pruner(torch.bfloat16).scores(tokens, torch.ones(1, 1, dtype=torch.bool))
    assert scores.dtype == torch.float32
    assert len(scores.unique()) == parts.num_tokens
    assert len(scores.bfloat16().unique()) < parts.num_tokens


@pytest.mark.parametrize('prefixes', [('visual.', 'model.'),
                                      ('model.visual.', 'model.language_model.')])
def test_parts_of_shards_are_the_whole_checkpoint(
    tmp_path: Path, prefixes: tuple[str, str]
) -> None:
    """Under the names of either transformers; what is not there is said."""
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    whole, _ = open_checkpoint(checkpoint)
    weights = load_file(checkpoint / 'model.safetensors')
    if prefixes[0] != 'visual.':
        weights = {
            name.replace('visual.', prefixes[0], 1) if name.startswith('visual.')
            else name.replace('model.', prefixes[1], 1): value for name, value in weights.items()}
        save_file(weights, checkpoint / 'model.safetensors', metadata={'format': 'pt'})
    else:
        (checkpoint / 'model.safetensors').unlink()
        whole.save_pretrained(checkpoint, max_shard_size='200KB')
        assert len(list(checkpoint.glob('model-*.safetensors'))) > 2
    parts = parts_of(checkpoint)
    for part, original in ((parts.vision(None), whole.model.visual),
                           (parts.planner(None), whole.model.language_model)):
        expected = original.state_dict()
        shared = part.state_dict().keys() & expected.keys()
        assert len(shared) > 20
        for name in shared:
            assert torch.equal(part.state_dict()[name], expected[name]), name


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    weights = load_file(checkpoint / 'model.safetensors')
    norm = weights.pop('visual.blocks.2.norm1.weight')
    save_file(weights, checkpoint / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ExportError, match='expected a weight visual.blocks.2.norm1.weight, found'):
        parts_of(checkpoint).vision()
    weights['visual.blocks.2.norm1.weight'] = norm[:5].clone()
    save_file(weights, checkpoint / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ExportError, match='do not fit its config.json'):
        parts_of(checkpoint).vision()
