# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle takes of a device: added up by hand, refused with the numbers, shown to people."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from fastdrive_ros.runtime import load
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.device_memory import DeviceMemory
from fastdrive_ros.runtime.device_memory import device_memory
from fastdrive_ros.runtime.device_memory import require_device_memory
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.runtime.onnx_file import OnnxWeights
from fastdrive_ros.runtime.onnx_file import weight_bytes
from fastdrive_ros.tools.cli import main

NANO = Path(__file__).resolve().parent.parent / 'engines' / 'nano'


def test_buffers_are_every_input_and_output_at_its_largest(tiny_bundle: Bundle) -> None:
    tokens, cameras = 48, len(tiny_bundle.cameras)
    # Tokens in and out, present, K, indices, scores.
    expected = 2 * tokens * 16 * 4 + cameras + 8 + tokens * 8 + tokens * 4
    assert device_memory(tiny_bundle, ['recon_pruner']).buffers == expected
    assert device_memory(tiny_bundle, ['recon_pruner'] * 2).buffers == 2 * expected


def test_weights_are_those_that_the_graph_uses(tmp_path: Path) -> None:
    whole = weight_bytes(NANO / 'planner.onnx')
    assert whole <= (NANO / 'planner.onnx.data').stat().st_size
    # Its pieces use parts of the same file.
    assert weight_bytes(NANO / 'planner_layer_00.onnx') < whole / 3
    weights, graph = OnnxWeights(NANO / 'planner.onnx'), onnx.load(NANO / 'planner.onnx').graph
    for tensor in graph.initializer:
        np.testing.assert_array_equal(weights[tensor.name], onnx.numpy_helper.to_array(tensor))
    assert 'nothing' not in weights
    with pytest.raises(KeyError):
        weights['nothing']


def test_what_does_not_fit_is_refused_with_the_numbers(tiny_bundle: Bundle) -> None:
    graphs = ('vision_encoder', 'recon_pruner')
    total = device_memory(tiny_bundle, graphs).total
    require_device_memory(tiny_bundle, graphs, total, 'it')
    with pytest.raises(EngineError, match=r'tiny takes at least .* MB \(.* of weights, .* of inp.*'
                       r'\) of it: vision_encoder .* MB, recon_pruner .*; found 0\.0 MB free'):
        require_device_memory(tiny_bundle, graphs, 10, 'it')
    assert str(DeviceMemory(5_560_000_000, 70_000_000)) == (
        '5.63 GB (5.56 GB of weights, 70.0 MB of inputs, outputs and cache)')


def test_a_load_refuses_before_it_builds(
        tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name='a small card', compute_capability=86)
    cuda = SimpleNamespace(device=lambda: gpu, free_bytes=lambda: 10)
    monkeypatch.setattr(load, 'import_tensorrt', lambda backend: None)
    monkeypatch.setattr(load, 'Cuda', lambda: cuda)
    said: list[str] = []
    with pytest.raises(EngineError, match="of a small card's memory: vision_encoder"):
        load_engines(tiny_bundle, backend='tensorrt', cache_dir=tmp_path, on_progress=said.append)
    assert not any('building' in line for line in said) and not list(tmp_path.iterdir())


def test_inspect_tells_of_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['inspect', str(NANO)]) == 0
    out = capsys.readouterr().out
    for words in ('nano (fp32), every file verified', '672, 112 a camera', 'planner_layer_03',
                  'vision_encoder, recon_pruner, planner take at least 18.'):
        assert words in out
    assert main(['inspect', str(NANO), '--picture', 'path.png']) == 2
    assert 'draws the driven path of a bag, a bundle has none' in capsys.readouterr().err
    assert main(['inspect', str(NANO), '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert report['num_tokens'] == 672 and report['trained'] is True
    assert report['device_memory']['graphs'] == ['vision_encoder', 'recon_pruner', 'planner']
