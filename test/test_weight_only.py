# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bundles with int8 and int4 weights: numbers by hand, file against torch, cost, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from test_export import request_for  # noqa: E402
from test_export import write_trained_checkpoint  # noqa: E402
from test_export_precision import parts_of  # noqa: E402
from test_text_bundle import PROMPTS  # noqa: E402
from test_text_bundle import request as text_request  # noqa: E402
from test_text_bundle import write_text_checkpoint  # noqa: E402
from torch import nn  # noqa: E402

from fastdrive_ros.learn import export  # noqa: E402
from fastdrive_ros.learn.export import ExportRequest  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.learn.graph_checks import check_planner  # noqa: E402
from fastdrive_ros.learn.graph_checks import query_states  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.graphs import cpu_session  # noqa: E402
from fastdrive_ros.learn.graphs import export_graph  # noqa: E402
from fastdrive_ros.learn.weight_only import Cost  # noqa: E402
from fastdrive_ros.learn.weight_only import IntegerLinear  # noqa: E402
from fastdrive_ros.learn.weight_only import bytes_saved  # noqa: E402
from fastdrive_ros.learn.weight_only import cost  # noqa: E402
from fastdrive_ros.learn.weight_only import quantise  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.runtime.golden_inputs import golden_history  # noqa: E402
from fastdrive_ros.runtime.load import load_engines  # noqa: E402
from fastdrive_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from fastdrive_ros.runtime.trt_build import build_engine_file  # noqa: E402

TYPES = {onnx.TensorProto.INT8: 'int8', onnx.TensorProto.INT4: 'int4'}


def linear(weights: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], weights.shape[0])
    layer.weight.data = weights
    return layer


def stored(path: Path) -> dict[str, np.ndarray]:
    """Return every matrix of integers in a file, multiplied out by numpy, by its layer."""
    model = onnx.load(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == 'DequantizeLinear':
            integers, scales = (onnx.numpy_helper.to_array(tensors[name]).astype(np.float64)
                                for name in node.input)
            scales = np.atleast_2d(scales)
            found[node.input[0].removesuffix('.integers')] = integers * scales.repeat(
                len(integers) // len(scales), axis=0)
    return found


def builds(path: Path, folder: Path, profile: dict[str, list[list[int]]]) -> None:
    """Build an engine where TensorRT-RTX is installed."""
    pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    build_engine_file(path, folder / 'engine', 'tensorrt_rtx', profile=profile,
                      compute_capability=86)
    assert (folder / 'engine').stat().st_size > 10_000


class Layers(nn.Module):
    """Two linear layers where ``quantise`` looks for them."""

    def __init__(self, size: int = 128, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dtype = dtype
        self.layers = nn.ModuleList([nn.Linear(size, 2 * size, bias=False),
                                     nn.Linear(2 * size, 16)]).to(dtype).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.layers[0](x.to(self.dtype)).relu()).float()


def test_int8_by_hand() -> None:
    """1.27 is 127 hundredths; a channel of zeros stays zeros, one of 1e-42 becomes zero."""
    weights = torch.tensor([[1.27, -0.5, 0.014], [0.0, 0.0, 0.0], [1e-42, 0.0, -1e-42]])
    layer = IntegerLinear(linear(weights), 'int8')
    assert layer.integers.T.tolist()[:2] == [[127, -50, 1], [0, 0, 0]]
    torch.testing.assert_close(layer.scales[0], torch.tensor(0.01))
    torch.testing.assert_close(
        layer.weight().T, torch.tensor([[1.27, -0.5, 0.01], [0.0] * 3, [0.0] * 3]))


def test_int4_by_hand() -> None:
    """Two blocks of 128 with their own scales: 0.7 / 7 and 70 / 7."""
    weights = torch.zeros(1, 256)
    weights[0, :4] = torch.tensor([0.7, 0.34, -0.36, -0.7])
    weights[0, 128:131] = torch.tensor([70.0, -26.0, 4.0])
    layer = IntegerLinear(linear(weights), 'int4')
    assert layer.integers[:4, 0].tolist() == [7, 3, -4, -7]
    assert layer.integers[128:131, 0].tolist() == [7, -3, 0]
    torch.testing.assert_close(layer.scales, torch.tensor([[0.1], [10.0]]))
    torch.testing.assert_close(layer.weight()[[1, 129], 0], torch.tensor([0.3, -30.0]))


@pytest.mark.parametrize(('size', 'how'), [
    (2048, ('int4', 128)), (192, ('int4', 64)), (48, ('int4', 16)), (1180, ('int8', 1180))])
def test_inputs_that_are_no_multiple_of_the_block(size: int, how: tuple[str, int]) -> None:
    layer = IntegerLinear(nn.Linear(size, 3), 'int4')
    assert (layer.kind, layer.block) == how
    x = torch.randn(2, size)
    torch.testing.assert_close(layer(x), x @ layer.weight() + layer.bias)


def test_scales_in_bf16_are_made_up_for_by_the_integers() -> None:
    """1.003 / 127 is no bf16; whatever the scale, no weight is further off than half of it."""
    weights = torch.linspace(-1.003, 1.003, 64).bfloat16().view(1, 64)
    layer = IntegerLinear(linear(weights), 'int8')
    assert layer.scales.dtype == torch.bfloat16
    exact = layer.integers.double() * layer.scales.double()
    assert (exact.T - weights.double()).abs().max() <= 0.502 * layer.scales.item()


@pytest.mark.parametrize('kind', ['int8', 'int4'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_file_has_the_integers_of_torch(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    module = Layers(dtype=dtype)
    quantise(module, kind)
    path, x = tmp_path / 'graph.onnx', torch.randn(5, 128)
    export_graph(module, {'x': x}, ['y'], {'x': {0: 'S'}}, path)
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(path)
    assert [entry.version for entry in model.opset_import] == [21]
    assert [TYPES[tensor.data_type] for tensor in model.graph.initializer
            if tensor.data_type in TYPES] == [kind, kind]
    matrices = stored(path)
    assert list(matrices) == ['layers.0', 'layers.1']
    for index, matrix in enumerate(matrices.values()):
        expected = module.layers[index].weight().double().numpy()
        np.testing.assert_allclose(matrix, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-6)
    # ONNX Runtime, bf16 lifted, against numpy on what lies in the file.
    first, second = matrices.values()
    bias = module.layers[1].bias.double().numpy()
    hidden = np.maximum(x.double().numpy() @ first, 0.0)
    y = hidden @ second + bias
    found = cpu_session(path).run(None, {'x': x.numpy()})[0]
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)
    if dtype == torch.float32:
        np.testing.assert_allclose(module(x).numpy(), y, rtol=1e-4, atol=1e-5)
    builds(path, tmp_path, {'x': [[1, 128], [5, 128], [9, 128]]})


def test_onnx_runtime_rounds_nothing_else(tmp_path: Path) -> None:
    """By itself it would round the activations to int8, too: 1 % off instead of 1e-6."""
    module = Layers(512)
    quantise(module, 'int4')
    x = torch.randn(9, 512)
    export_graph(module, {'x': x}, ['y'], {'x': {0: 'S'}}, tmp_path / 'graph.onnx')
    bundle = Bundle(tmp_path, {'graphs': {'graph': {
        'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': ['S', 512]}],
        'outputs': [{'name': 'y', 'dtype': 'float32', 'shape': ['S', 16]}]}}})
    engine = OnnxEngine(tmp_path / 'graph.onnx', bundle.graph_specs('graph'))
    np.testing.assert_allclose(engine.run({'x': x.numpy()})['y'], module(x).numpy(),
                               rtol=1e-4, atol=1e-5)


def test_cost_by_hand() -> None:
    """A waypoint 5 cm away; two of three choices the same; small norms count as one."""
    module = Layers()
    quantise(module, 'int4')
    before = {'waypoint_residuals': np.zeros((2, 3), np.float32)}
    after = {'waypoint_residuals': np.array([[0.03, 0.04, 0.0], [0.0, 0.0, 0.12]], np.float32)}
    found = cost(module, 'int4', before, after)
    assert found.matrices == {'int4 in blocks of 128': 2}
    assert found.largest_m == pytest.approx(0.05)       # a turn is no metre
    assert found.relative_l2 == pytest.approx(0.13)
    logits = {'prompt_logits': np.array([1.0, 2.0]), 'block_logits': np.array([[3.0, 1], [2, 0]])}
    changed = {**logits, 'block_logits': np.array([[3.0, 1], [2, 2.5]])}
    found = cost(module, 'int4', logits, changed)
    assert (found.same_choices, found.num_choices, found.largest_m) == (2, 3, None)
    assert found.relative_l2 == pytest.approx(2.5 / 19 ** 0.5)
    assert str(found) == ('2 int4 in blocks of 128; against the weights before: 57.35% of the '
                          'outputs, 2 of 3 greedy choices are the same')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained_checkpoint(tmp_path_factory.mktemp('weights') / 'checkpoint', 1)


def export_interrupted(request: ExportRequest) -> Bundle:
    """Export, ended after the last step and taken up again, which is to change nothing."""
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as ended, pytest.raises(KeyboardInterrupt):
        ended.setattr(export, 'write_bundle', interrupt)
        export_bundle(request, lambda line: None)
    lines: list[str] = []
    bundle = export_bundle(request, lines.append)
    assert not [line for line in lines if line.startswith('step')]
    return bundle


@pytest.fixture(scope='module')
def bundles(checkpoint: Path):  # noqa: ANN201
    """Return a function (weights, precision) -> Bundle that exports each pair once."""
    made: dict[tuple[str, str], Bundle] = {}

    def export_once(weights: str, precision: str = 'fp32') -> Bundle:
        request = dataclasses.replace(
            request_for(checkpoint, checkpoint.with_name(f'{precision}-{weights}')),
            weights=weights, precision=precision)
        if (weights, precision) not in made:
            made[weights, precision] = export_interrupted(request)
        return made[weights, precision]

    return export_once


def planner_residuals(checkpoint: Path, bundle: Bundle, quantised: bool) -> np.ndarray:
    """Return torch's golden residuals, on the file's matrices or the checkpoint's."""
    planner = parts_of(checkpoint).planner()
    if quantised:
        matrices = stored(bundle.graph_path('planner'))
        layers = {name: layer for name, layer in planner.named_modules() if name in matrices}
        assert layers.keys() == matrices.keys()
        for name, layer in layers.items():
            layer.weight.data = torch.from_numpy(matrices[name].T.astype(np.float32)).contiguous()
    golden = np.load(bundle.path / 'golden.npz')
    kept = golden['kept_indices']
    with torch.inference_mode():
        return planner(torch.from_numpy(golden['visual_tokens'][kept]), torch.from_numpy(kept),
                       torch.from_numpy(golden_history(4))).numpy()


@pytest.mark.parametrize('weights', ['int8', 'int4'])
def test_a_waypoint_bundle(checkpoint: Path, bundles, weights: str) -> None:  # noqa: ANN001
    """Engines must reproduce the integers' own outputs; what integers change stands apart."""
    bundle = bundles(weights)
    golden = np.load(bundle.path / 'golden.npz')['waypoint_residuals']
    np.testing.assert_allclose(golden, planner_residuals(checkpoint, bundle, True), atol=1e-4)
    original = planner_residuals(checkpoint, bundle, False)
    said = Cost(**bundle.manifest['graphs']['planner']['weights'])
    moved = np.linalg.norm((golden - original)[:, :2], axis=1).max()
    assert said.largest_m == pytest.approx(moved, rel=1e-3)
    assert moved > 1e-3
    assert said.matrices == ({'int8 per channel': 14} if weights == 'int8' else
                             {'int4 in blocks of 16': 12, 'int4 in blocks of 64': 2})
    loaded = load_engines(bundle, backend='onnxruntime')
    assert max(loaded.golden.errors.values()) < 1e-4
    assert bundle.arithmetic == f'fp32, {weights} weights'
    assert len(stored(bundle.graph_path('planner'))) == 14
    assert not stored(bundle.graph_path('vision_encoder'))
    model = onnx.load(bundle.graph_path('planner'), load_external_data=False)
    floats = {tensor.name for tensor in model.graph.initializer
              if tensor.data_type == onnx.TensorProto.FLOAT}
    assert {'head.output.weight', 'head.readout.weight', 'cos_table'} <= floats


def test_the_real_builder_takes_a_whole_planner(bundles, tmp_path: Path) -> None:  # noqa: ANN001
    """In bf16, whose rounding is less than what int4 costs: both are told apart."""
    bundle = bundles('int4', 'bf16')
    section = bundle.manifest['graphs']['planner']
    assert section['rounding']['relative_l2'] < section['weights']['relative_l2']
    builds(bundle.graph_path('planner'), tmp_path, bundle.profile('planner'))


def test_an_altered_integer_is_found(checkpoint: Path, tmp_path: Path) -> None:
    """The file that is compared is the one that is shipped."""
    parts = parts_of(checkpoint)
    planner = parts.planner()
    quantise(planner, 'int4')
    inputs = {'kept_tokens': torch.randn(5, 48), 'kept_indices': torch.arange(5),
              'ego_history': torch.from_numpy(golden_history(4))}
    path = tmp_path / 'planner.onnx'
    export_graph(planner, inputs, ['waypoint_residuals'],
                 {'kept_tokens': {0: 'K'}, 'kept_indices': {0: 'K'}}, path)
    states, _ = query_states(planner, inputs)
    assert check_planner(planner, inputs, states, path, 1e-4).relative_l2 < 1e-4
    model = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer
                  if tensor.data_type == onnx.TensorProto.INT4)
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = np.fromfile(tmp_path / place['location'], np.uint8)
    start = int(place['offset'])
    data[start:start + int(place['length'])] ^= 0x33
    data.tofile(tmp_path / place['location'])
    with pytest.raises(ExportError, match='exported planner differs'):
        check_planner(planner, inputs, states, path, 1e-4)


def test_a_text_bundle_with_int4(tmp_path: Path) -> None:
    checkpoint = write_text_checkpoint(tmp_path / 'checkpoint')
    lines: list[str] = []
    bundle = export_bundle(text_request(checkpoint, tmp_path / 'out', PROMPTS / 'front.yaml',
                                        weights='int4'), lines.append)
    said = Cost(**bundle.manifest['graphs']['language_model']['weights'])
    assert said.matrices == {'int4 in blocks of 16': 18, 'int4 in blocks of 64': 3}
    assert 0.0 < said.relative_l2 < 1.0
    assert (said.num_choices, said.largest_m) == (4, None)
    assert [line for line in lines if str(said) in line]
    loaded = load_engines(bundle, backend='onnxruntime', graphs=('language_model',))
    assert max(loaded.golden.errors.values()) < 1e-4
    tables = onnx.load(bundle.graph_path('language_model'), load_external_data=False)
    assert [tensor.data_type for tensor in tables.graph.initializer
            if tensor.name == 'embeddings'] == [onnx.TensorProto.FLOAT]


def test_what_integers_follow_from(checkpoint: Path, tmp_path: Path) -> None:
    """An export begun with other weights is no use to this one."""
    request = request_for(checkpoint, tmp_path / 'out')
    found, other = (export._depends_on(dataclasses.replace(request, weights=weights))
                    for weights in ('', 'int8'))
    assert {name for name, value in found.items() if value != other[name]} == {'weights'}


def test_rivals_want_full_weights(checkpoint: Path, tmp_path: Path) -> None:
    request = dataclasses.replace(request_for(checkpoint, tmp_path / 'out'), rivals=True,
                                  weights='int8')
    with pytest.raises(ExportError, match='--rivals .*without --weights'):
        export_bundle(request, print)


def test_room_that_is_asked_for(checkpoint: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    """int4 in bf16 is 2 bytes less 4 bits and a 128th of a scale, int8 one byte; 3B by hand."""
    assert bytes_saved('int8', 2, 1000) == 1000
    assert bytes_saved('int4', 2, 128000) == 128000 * 1.5 - 2000
    # Two layers of 48 channels: q and o, k and v of 16, three matrices of 64.
    assert parts_of(checkpoint).matrix_weights() == 2 * (2 * 48**2 + 2 * 48 * 16 + 3 * 48 * 64)
    matrices = 36 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    sizes = {'vision': 668_700_000, 'pruner': 77_100_000, 'llm': 2_778_100_000}
    monkeypatch.setattr(export.ModelParts, 'matrix_weights', lambda self: matrices)
    monkeypatch.setattr(export.ModelParts, 'parameters', lambda self, text=False: sizes)
    monkeypatch.setattr(export.ModelParts, 'stored_dtype', lambda self, part: torch.bfloat16)
    monkeypatch.setattr(export, 'available_bytes', lambda: 10**9)
    request = dataclasses.replace(request_for(checkpoint, tmp_path / 'out'), weights='int4',
                                  precision='bf16')
    lines: list[str] = []
    # 1.5 GB of encoder and pruner, 1.4 of int4; 2.8 of int8 in torch beside the libraries' 4.3.
    with pytest.raises(ExportError, match=r'expected 7.2 GB of free memory'):
        export_bundle(request, lines.append)
    assert any('needs 3.1 GB of disk, 7.2 GB of memory' in line for line in lines)
