# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bundle is used whole and unaltered, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import file_sha256
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.bundle_writing import write_bundle
from fastdrive_ros.runtime.engine import TensorSpec
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.golden_inputs import golden_images
from fastdrive_ros.runtime.onnx_file import external_data_files


def _rewrite(bundle: Bundle, **changes: Any) -> Path:
    manifest = {**bundle.manifest, **changes}
    (bundle.path / 'manifest.json').write_text(json.dumps(manifest))
    return bundle.path


def test_a_written_bundle_says_what_it_is(tiny_bundle: Bundle) -> None:
    bundle = load_bundle(tiny_bundle.path)
    assert bundle.name == 'tiny'
    assert bundle.cameras[1] == 'CAM_FRONT'
    assert (bundle.image_height, bundle.image_width) == (28, 56)
    assert (bundle.grid_height, bundle.grid_width) == (2, 4)
    assert (bundle.tokens_per_camera, bundle.num_tokens, bundle.hidden_size) == (8, 48, 16)
    assert bundle.precision == 'fp32'
    assert bundle.planner['num_waypoints'] == 6
    assert not bundle.trained
    inputs, outputs = bundle.graph_specs('planner')
    assert inputs[0] == TensorSpec('kept_tokens', 'float32', ('K', 16))
    assert outputs == (TensorSpec('waypoint_residuals', 'float32', (6, 3)),)


@pytest.mark.parametrize(('planner', 'pruner', 'head', 'words'), [
    (True, True, 'text', ''),
    (True, False, 'text', 'the kept tokens are arbitrary'),
    (False, True, 'text', 'the plan is not in the words of its training'),
    (False, False, 'waypoint_queries',
     'the plan is kinematic extrapolation, the kept tokens are arbitrary'),
])
def test_what_is_not_trained_is_named(tiny_bundle: Bundle, planner: bool, pruner: bool, head: str,
                                      words: str) -> None:
    manifest = {**tiny_bundle.manifest, 'pruner': {'method': 'recon', 'trained': pruner},
                'planner': {**tiny_bundle.planner, 'head': head, 'trained': planner}}
    bundle = Bundle(tiny_bundle.path, manifest)
    assert bundle.untrained == words and bundle.trained == (not words)


def test_every_file_is_listed_and_perception_stores_no_weight_twice(tiny_bundle: Bundle) -> None:
    on_disk = {file.name for file in tiny_bundle.path.iterdir()} - {'manifest.json'}
    assert set(tiny_bundle.manifest['files']) == on_disk
    assert external_data_files(tiny_bundle.graph_path('perception')) == [
        'recon_pruner.onnx.data',
        'vision_encoder.onnx.data',
    ]
    assert not (tiny_bundle.path / 'perception.onnx.data').exists()


def test_graph_sha256_covers_the_weights(tiny_bundle: Bundle, tmp_path: Path) -> None:
    onnx_and_data = [
        file_sha256(tiny_bundle.path / name) for name in ('planner.onnx', 'planner.onnx.data')
    ]
    expected = hashlib.sha256('\n'.join(onnx_and_data).encode()).hexdigest()
    assert tiny_bundle.graph_sha256('planner') == expected
    other = write_tiny_bundle(tmp_path / 'other', seed=8)
    assert file_sha256(other.graph_path('planner')) == onnx_and_data[0]
    assert other.graph_sha256('planner') != expected


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match='found no such folder.*fastdrive export'):
        load_bundle(tmp_path / 'absent')


def test_no_manifest(tmp_path: Path) -> None:
    (tmp_path / 'weights.bin').touch()
    with pytest.raises(BundleError, match=r"expected manifest.json .* found \['weights.bin'\]"):
        load_bundle(tmp_path)


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / 'manifest.json').write_text('{')
    with pytest.raises(BundleError, match='expected JSON'):
        load_bundle(tmp_path)


@pytest.mark.parametrize('content', ['[]', '{}', '{"format": "gguf"}'])
def test_another_format(tmp_path: Path, content: str) -> None:
    (tmp_path / 'manifest.json').write_text(content)
    with pytest.raises(BundleError, match="expected format 'fastdrive-bundle'"):
        load_bundle(tmp_path)


def test_a_newer_format_asks_for_an_update(tiny_bundle_copy: Bundle) -> None:
    with pytest.raises(BundleError, match='found 2.*newer than this fastdrive_ros: update that'):
        load_bundle(_rewrite(tiny_bundle_copy, format_version=2))


def test_an_older_format_asks_for_a_new_export(tiny_bundle_copy: Bundle) -> None:
    with pytest.raises(BundleError, match='found 0. Make it again with `fastdrive export'):
        load_bundle(_rewrite(tiny_bundle_copy, format_version=0))


def test_a_section_that_is_missing_is_named(tiny_bundle_copy: Bundle) -> None:
    with pytest.raises(BundleError, match="expected int at 'image.height'.*found None"):
        load_bundle(_rewrite(tiny_bundle_copy, image={'width': 56}))


@pytest.mark.parametrize(
    'change', [{'graphs': {'planner': {}}}, {'files': {'planner.onnx': {}}}]
)
def test_an_entry_that_is_not_whole(tiny_bundle_copy: Bundle, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match='whole entries .* is missing'):
        load_bundle(_rewrite(tiny_bundle_copy, **change))


def test_token_counts_must_follow_from_the_grid(tiny_bundle_copy: Bundle) -> None:
    cameras = tiny_bundle_copy.manifest['cameras'][:5]
    with pytest.raises(BundleError, match='expected 8 tokens per camera and 40 in all.*8 and 48'):
        load_bundle(_rewrite(tiny_bundle_copy, cameras=cameras))


def test_missing_file(tiny_bundle_copy: Bundle) -> None:
    (tiny_bundle_copy.path / 'planner.onnx.data').unlink()
    with pytest.raises(BundleError, match='expected the file planner.onnx.data'):
        load_bundle(tiny_bundle_copy.path)


def test_truncated_file(tiny_bundle_copy: Bundle) -> None:
    file = tiny_bundle_copy.path / 'planner.onnx.data'
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match='was altered: expected .* bytes'):
        load_bundle(tiny_bundle_copy.path)


def test_one_flipped_bit(tiny_bundle_copy: Bundle) -> None:
    file = tiny_bundle_copy.path / 'vision_encoder.onnx.data'
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match='was altered: expected sha256'):
        load_bundle(tiny_bundle_copy.path)


def test_weights_that_the_manifest_does_not_list(tiny_bundle_copy: Bundle) -> None:
    files = dict(tiny_bundle_copy.manifest['files'])
    del files['planner.onnx.data']
    with pytest.raises(BundleError, match='planner.onnx .*references planner.onnx.data'):
        load_bundle(_rewrite(tiny_bundle_copy, files=files))


def test_a_graph_that_differs_from_the_manifest(tiny_bundle_copy: Bundle) -> None:
    graphs = json.loads(json.dumps(tiny_bundle_copy.manifest['graphs']))
    graphs['planner']['outputs'][0]['shape'] = [8, 3]
    with pytest.raises(BundleError, match=r'outputs of .*planner.onnx differ.*\[8, 3\].*\[6, 3\]'):
        load_bundle(_rewrite(tiny_bundle_copy, graphs=graphs))


def test_a_graph_the_bundle_does_not_have(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no graph 'decoder'; it has .*'planner'"):
        tiny_bundle.graph_path('decoder')


def test_a_new_export_replaces_the_old_bundle(tmp_path: Path) -> None:
    old = write_tiny_bundle(tmp_path / 'tiny', seed=1)
    new = write_tiny_bundle(tmp_path / 'tiny', seed=2)
    assert new.graph_sha256('planner') != old.graph_sha256('planner')
    assert load_bundle(tmp_path / 'tiny').manifest['files'] == new.manifest['files']
    assert [entry.name for entry in tmp_path.iterdir()] == ['tiny']


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / 'home' / 'thesis.tex'
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(BundleError, match='is not a model bundle'):
        write_tiny_bundle(tmp_path / 'home')
    assert precious.exists()


def test_a_bad_export_leaves_the_old_bundle(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny')
    (tmp_path / 'tiny.partial').mkdir()
    with pytest.raises(BundleError, match=r'golden.npz, expected it among.*found \[\]'):
        write_bundle(bundle.path, bundle.manifest)
    assert load_bundle(bundle.path) == bundle


def test_nothing_exported(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match='expected the exported files in .*tiny.partial'):
        write_bundle(tmp_path / 'tiny', {})


def test_golden_inputs_are_the_same_on_every_platform() -> None:
    images = golden_images(6, 224, 392)
    assert images.shape == (6, 224, 392, 3)
    assert images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest()[:12] == '7f03ddfc7094'
    assert images.std() > 40.0
    assert len({view.tobytes() for view in images}) == 6


def test_golden_history_ends_now() -> None:
    history = golden_history(4)
    assert history.shape == (4, len(EGO_FEATURES))
    assert history[-1].tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0, 5.0, 0.1, 1.0])
    assert history[0].tolist() == pytest.approx([-7.5, 0.5625, -0.15, 0.988686, 5.0, 0.1, 1.0])
