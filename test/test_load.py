# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The best backend that works is loaded, with reasons, and only when its numbers are right."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fastdrive_ros.planners import planner_graphs
from fastdrive_ros.runtime import load
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.golden import check_golden
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.runtime.trt_engine import UnusableFileError

needs_no_cuda = pytest.mark.skipif(
    'CUDAExecutionProvider' in onnxruntime.get_available_providers(), reason='has CUDA'
)


@needs_no_cuda
def test_auto_says_why_not_the_better_ones(tiny_bundle: Bundle) -> None:
    lines: list[str] = []
    loaded = load_engines(tiny_bundle, on_progress=lines.append)
    assert loaded.backend == 'onnxruntime'
    assert loaded.reason.startswith('onnxruntime on the CPU, best that works here. Not tensorrt: ')
    assert 'Not tensorrt_rtx: ' in loaded.reason
    assert 'Not onnxruntime on CUDA: expected CUDAExecutionProvider' in loaded.reason
    assert loaded.device.startswith('CPU, all of ')
    assert set(loaded.engines) == {'vision_encoder', 'recon_pruner', 'planner'}
    assert loaded.golden.passed
    assert lines[0] == 'tensorrt does not work here'


def test_the_fused_graph_is_checked_too(tiny_bundle: Bundle) -> None:
    loaded = load_engines(
        tiny_bundle, backend='onnxruntime', graphs=('perception', 'planner'), num_threads=1
    )
    assert set(loaded.golden.kept_overlap) == {'perception'}
    assert set(loaded.golden.errors) == {
        'perception.scores', 'perception.kept_tokens', 'planner.waypoint_residuals'
    }
    assert 'kept tokens in common: perception 100.0% (limit 99.0%)' in str(loaded.golden)


@pytest.mark.parametrize('backend', ['tensorrt', 'tensorrt_rtx'])
def test_a_backend_asked_for_by_name_is_never_swapped(
    tiny_bundle: Bundle, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__('sys').modules, backend, None)
    with pytest.raises(EngineError, match=f"expected backend '{backend}' to work. {backend}: "):
        load_engines(tiny_bundle, backend=backend, cache_dir=tmp_path)


def test_an_unknown_backend(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="auto, tensorrt, .* found 'openvino'"):
        load_engines(tiny_bundle, backend='openvino')


def test_a_graph_the_bundle_lacks_is_not_blamed_on_the_backend(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no graph 'decoder'"):
        load_engines(tiny_bundle, backend='onnxruntime', graphs=('decoder',))


def test_the_planner_in_pieces_is_checked_as_a_whole(rival_bundle: Bundle) -> None:
    graphs = ('vision_attention', *planner_graphs('fastv', rival_bundle.manifest['graphs']))
    loaded = load_engines(rival_bundle, backend='onnxruntime', graphs=graphs)
    assert set(loaded.golden.errors) == {
        'vision_attention.visual_tokens', 'vision_attention.attention',
        'vision_attention.feature_norms', 'planner_layers.waypoint_residuals',
        'planner_layers.attention',
    }


@pytest.mark.parametrize(('name', 'graph'), [
    ('attention', 'vision_attention'), ('feature_norms', 'vision_attention'),
    ('layer_attention', 'planner_layers'), ('waypoint_residuals', 'planner_layers'),
])
def test_other_attention_is_refused(
    rival_bundle: Bundle, tmp_path: Path, name: str, graph: str
) -> None:
    bundle = load_bundle(shutil.copytree(rival_bundle.path, tmp_path / 'rivals'))
    with np.load(bundle.path / 'golden.npz') as archive:
        bundle = _with_golden(bundle, **{name: archive[name] + np.float32(0.1)})
    graphs = ('vision_attention', *planner_graphs('fastv', bundle.manifest['graphs']))
    quantity = name.removeprefix('layer_')
    with pytest.raises(EngineError, match=rf'golden.*{graph}\.{quantity} \d'):
        load_engines(bundle, backend='onnxruntime', graphs=graphs)


def _with_golden(bundle: Bundle, **changes: np.ndarray) -> Bundle:
    """Return the bundle with other recorded outputs, valid in every other respect."""
    path = bundle.path / 'golden.npz'
    with np.load(path) as archive:
        np.savez(path, **{**archive, **changes})
    return _resealed(bundle, 'golden.npz')


def _resealed(bundle: Bundle, name: str) -> Bundle:
    content = (bundle.path / name).read_bytes()
    manifest = json.loads((bundle.path / 'manifest.json').read_text())
    manifest['files'][name] = {
        'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)
    }
    (bundle.path / 'manifest.json').write_text(json.dumps(manifest))
    return load_bundle(bundle.path)


def test_other_numbers_are_refused_with_figures(tiny_bundle_copy: Bundle) -> None:
    with np.load(tiny_bundle_copy.path / 'golden.npz') as archive:
        scores = archive['scores'] * np.float32(1.25)
        moved = archive['waypoint_residuals'] + np.float32(0.5)
    bundle = _with_golden(tiny_bundle_copy, scores=scores, waypoint_residuals=moved)
    expected = (
        r'do not reproduce the golden outputs.*recon_pruner.scores 2.0e-01.*'
        r'planner.waypoint_residuals 5.0e-01 \(limit 1.0e-03\)'
    )
    with pytest.raises(EngineError, match=expected):
        load_engines(bundle, backend='onnxruntime')


def test_other_kept_tokens_are_refused(tiny_bundle_copy: Bundle) -> None:
    with np.load(tiny_bundle_copy.path / 'golden.npz') as archive:
        kept = archive['kept_indices']
    swapped = np.sort(np.append(kept[1:], np.setdiff1d(np.arange(48), kept)[0]))
    bundle = _with_golden(tiny_bundle_copy, kept_indices=swapped)
    with pytest.raises(EngineError, match=r'recon_pruner 91.7% \(limit 99.0%\)'):
        load_engines(bundle, backend='onnxruntime')


def test_not_a_number_is_refused(tiny_bundle_copy: Bundle) -> None:
    graph = onnx.load(tiny_bundle_copy.graph_path('planner'))
    head = next(tensor for tensor in graph.graph.initializer if tensor.name == 'head')
    nan = np.full_like(numpy_helper.to_array(head), np.nan)
    head.CopyFrom(numpy_helper.from_array(nan, 'head'))
    onnx.save_model(graph, tiny_bundle_copy.graph_path('planner'))
    bundle = _resealed(tiny_bundle_copy, 'planner.onnx')
    with pytest.raises(EngineError, match='planner.waypoint_residuals inf'):
        load_engines(bundle, backend='onnxruntime')


@needs_no_cuda
def test_engines_of_a_failed_load_are_closed(
    tiny_bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Recorded(load.OnnxEngine):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            opened.append(self)

    monkeypatch.setattr(load, 'OnnxEngine', Recorded)
    bundle = _with_golden(tiny_bundle_copy, scores=np.zeros(48, np.float32))
    with pytest.raises(EngineError, match='golden'):
        load_engines(bundle, backend='onnxruntime')
    assert len(opened) == 3
    with pytest.raises(EngineError, match='was closed'):
        opened[0].run({})


def test_an_index_out_of_range_is_a_figure_not_a_crash(tiny_bundle: Bundle) -> None:
    class OutOfRange:
        input_specs = output_specs = ()

        def run(self, feeds: object) -> dict[str, np.ndarray]:
            return {
                'scores': np.zeros(48, np.float32),
                'kept_indices': np.full(12, 999),
                'kept_tokens': np.zeros((12, 16), np.float32),
            }

        def close(self) -> None:
            """Hold nothing."""

    with pytest.raises(EngineError, match='recon_pruner 0.0%'):
        check_golden(tiny_bundle, {'recon_pruner': OutOfRange()})


def test_a_cached_engine_that_does_not_open_is_built_again(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    opened: list[Path] = []

    class OpensAtTheThirdTry:
        def __init__(self, path: Path, *specs: object, **options: object) -> None:
            opened.append(path)
            if len(opened) < 3:
                raise UnusableFileError('built for another GPU')

    monkeypatch.setattr(load, 'TrtEngine', OpensAtTheThirdTry)
    class TakesMoreThanThereIs:
        def __init__(self, *specs: object, **options: object) -> None:
            raise EngineError('planner needs 3.00 GB of GPU memory')

    lines: list[str] = []
    request = load._Request(tiny_bundle, ('planner',), 0, tmp_path, lines.append)
    arguments = (request, 'planner', 'tensorrt_rtx', None, 86)
    with pytest.raises(EngineError, match='built for another GPU'):  # a new one: no second try
        load._load_trt(*arguments)  # type: ignore[arg-type]
    load._load_trt(*arguments)  # type: ignore[arg-type]
    assert len(opened) == 3
    # Too little memory is no fault of the file.
    monkeypatch.setattr(load, 'TrtEngine', TakesMoreThanThereIs)
    with pytest.raises(EngineError, match='needs 3.00 GB'):
        load._load_trt(*arguments)  # type: ignore[arg-type]
    assert lines[-1].startswith('building') or not lines[-1].startswith('rebuilding')
    # A builder on a busy computer says more than once that it is building.
    words = [word for word, _ in itertools.groupby(line.partition(' ')[0] for line in lines)]
    assert words == ['building', 'rebuilding', 'building']
