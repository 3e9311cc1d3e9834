# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whole exports of tiny checkpoints: ONNX Runtime against transformers, and every refusal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
onnxruntime = pytest.importorskip('onnxruntime')

from tiny_checkpoint import GRIDS  # noqa: E402
from tiny_checkpoint import HIDDEN_SIZE  # noqa: E402
from tiny_checkpoint import Made  # noqa: E402
from tiny_checkpoint import hf_hidden_states  # noqa: E402
from tiny_checkpoint import hf_image_features  # noqa: E402
from tiny_checkpoint import load_both  # noqa: E402
from tiny_checkpoint import random_images  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402

from fastdrive_ros.core.types import NUSCENES_CAMERAS  # noqa: E402
from fastdrive_ros.learn.checkpoint import load_driving_model  # noqa: E402
from fastdrive_ros.learn.checkpoint import open_checkpoint  # noqa: E402
from fastdrive_ros.learn.export import ExportRequest  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.learn.export import require_space  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.graphs import cpu_session  # noqa: E402
from fastdrive_ros.learn.graphs import export_graph  # noqa: E402
from fastdrive_ros.learn.graphs import run_onnx  # noqa: E402
from fastdrive_ros.learn.nano import PRUNER_FILE  # noqa: E402
from fastdrive_ros.learn.nano import write_nano_checkpoint  # noqa: E402
from fastdrive_ros.learn.recon_pruner import load_pruner  # noqa: E402
from fastdrive_ros.learn.recon_pruner import select_tokens  # noqa: E402
from fastdrive_ros.learn.rival_export import check_whole  # noqa: E402
from fastdrive_ros.learn.waypoint_head import HEAD_FILE  # noqa: E402
from fastdrive_ros.learn.waypoint_head import WaypointHead  # noqa: E402
from fastdrive_ros.learn.waypoint_head import WaypointHeadConfig  # noqa: E402
from fastdrive_ros.learn.waypoint_head import save_head  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.runtime.bundle import load_bundle  # noqa: E402
from fastdrive_ros.runtime.engine import layer_graphs  # noqa: E402
from fastdrive_ros.runtime.golden_inputs import golden_images  # noqa: E402
from fastdrive_ros.runtime.load import load_engines  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402

TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Exported:
    """A bundle run by ONNX Runtime, and both torch sides."""

    bundle: Bundle
    made: Made

    def run(self, graph: str, **feeds: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run one graph."""
        session = onnxruntime.InferenceSession(
            self.bundle.graph_path(graph), providers=['CPUExecutionProvider']
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    def chain(
        self, images: torch.Tensor, present: list[bool], kept: int, history: torch.Tensor
    ) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """Run perception and planner: (perception's outputs, waypoint residuals)."""
        seen = self.run(
            'perception', images=images.numpy(), camera_present=np.array(present),
            num_kept_tokens=np.array(kept),
        )
        plan = self.run(
            'planner', kept_tokens=seen['kept_tokens'], kept_indices=seen['kept_indices'],
            ego_history=history.numpy(),
        )
        return seen, plan['waypoint_residuals']

    def transformers_plan(
        self, images: torch.Tensor, history: torch.Tensor, keep: torch.Tensor | None = None
    ) -> np.ndarray:
        """Return the residuals by transformers' own encoder and language model."""
        with torch.inference_mode():
            tokens = hf_image_features(self.made.hf, images)
            states = hf_hidden_states(self.made, tokens, history, keep)
            return self.made.driving.planner.head.residuals(
                states[None, -6:], history[None])[0].numpy()


def request_for(
    checkpoint: Path, out: Path, num_cameras: int = 1, grid: tuple[int, int] = GRIDS[0]
) -> ExportRequest:
    """Return the request for a checkpoint of ``write_checkpoint``."""
    return ExportRequest(
        checkpoint, checkpoint / PRUNER_FILE, out, 'tiny', NUSCENES_CAMERAS[:num_cameras], *grid
    )


def write_trained_checkpoint(folder: Path, num_cameras: int) -> Path:
    """Write a checkpoint whose head answers something."""
    write_checkpoint(folder)
    head = WaypointHead(
        WaypointHeadConfig(HIDDEN_SIZE, num_cameras, trained=True, training='on random numbers')
    )
    torch.nn.init.normal_(head.output.weight)
    torch.nn.init.normal_(head.queries)
    save_head(head, folder / HEAD_FILE)
    return folder


@pytest.fixture(scope='module')
def export(tmp_path_factory: pytest.TempPathFactory):
    """Return a function (cameras, grid) -> Exported that exports each pair once."""
    checkpoints = {num_cameras: write_trained_checkpoint(
        tmp_path_factory.mktemp('checkpoint'), num_cameras) for num_cameras in (1, 3, 6)}
    done: dict[tuple[int, tuple[int, int]], Exported] = {}

    def exported(num_cameras: int, grid: tuple[int, int]) -> Exported:
        if (num_cameras, grid) not in done:
            checkpoint = checkpoints[num_cameras]
            out = tmp_path_factory.mktemp('out') / 'bundle'
            request = request_for(checkpoint, out, num_cameras, grid)
            bundle = export_bundle(request, lambda line: None)
            done[num_cameras, grid] = Exported(
                bundle, load_both(checkpoint, num_cameras, *grid)
            )
        return done[num_cameras, grid]

    return exported


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 difference."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ('num_cameras', 'grid'), [(1, GRIDS[0]), (3, GRIDS[0]), (6, GRIDS[0]), (3, GRIDS[1])]
)
def test_chain_equals_transformers(export, num_cameras: int, grid: tuple[int, int]) -> None:
    """Pictures to waypoints: all tokens kept, and half of them with the others masked."""
    it = export(num_cameras, grid)
    images, history = random_images(num_cameras, *grid), it.made.random_history()
    everyone = [True] * num_cameras
    total = it.bundle.num_tokens
    seen, plan = it.chain(images, everyone, total, history)
    assert seen['kept_indices'].tolist() == list(range(total))
    assert relative(plan, it.transformers_plan(images, history)) <= TOLERANCE
    seen, plan = it.chain(images, everyone, total // 2, history)
    keep = torch.from_numpy(seen['kept_indices'])
    assert relative(plan, it.transformers_plan(images, history, keep)) <= TOLERANCE
    assert relative(plan, it.transformers_plan(images, history)) > 10 * TOLERANCE


def test_a_second_pruner_is_a_graph_of_its_own(tmp_path: Path) -> None:
    """Method 'plan' scores with the weights of --plan-pruner, 'recon' with those of --pruner."""
    checkpoint = write_checkpoint(tmp_path / 'one')
    other = write_checkpoint(tmp_path / 'other', seed=1) / PRUNER_FILE
    request = dataclasses.replace(request_for(checkpoint, tmp_path / 'out'), plan_pruner=other)
    bundle = export_bundle(request, lambda line: None)
    engines = load_engines(bundle, graphs=('vision_encoder', 'recon_pruner', 'plan_pruner'))
    tokens = np.random.default_rng(0).normal(size=(bundle.num_tokens, HIDDEN_SIZE))
    feeds = {'visual_tokens': tokens.astype(np.float32), 'camera_present': np.ones(1, bool),
             'num_kept_tokens': np.array(3)}
    scores = {graph: engines.engines[graph].run(feeds)['scores']
              for graph in ('recon_pruner', 'plan_pruner')}
    grid = bundle.grid_height, bundle.grid_width
    for graph, file in (('recon_pruner', checkpoint / PRUNER_FILE), ('plan_pruner', other)):
        expected = load_pruner(file, 1, *grid).scores(
            torch.from_numpy(feeds['visual_tokens'])[None], torch.ones(1, 1, dtype=torch.bool))
        assert relative(scores[graph], expected[0].detach().numpy()) <= TOLERANCE
    assert "Pruner 'plan': not trained" in bundle.manifest['training']
    with pytest.raises(ExportError, match='expected a ReconPruner .*absent.*no such file'):
        export_bundle(dataclasses.replace(request, out=tmp_path / 'no', plan_pruner=Path(
            tmp_path / 'absent')), lambda line: None)
    assert not (tmp_path / 'no').exists()


def test_absent_camera_equals_its_columns_masked(export) -> None:
    """A missing camera's picture has no influence on scores, selection or plan."""
    it = export(3, GRIDS[0])
    images, history = random_images(3, *GRIDS[0]), it.made.random_history()
    per_camera = it.bundle.tokens_per_camera
    seen, plan = it.chain(images, [True, False, True], 2 * per_camera, history)
    keep = torch.tensor([i for i in range(3 * per_camera) if i // per_camera != 1])
    assert seen['kept_indices'].tolist() == keep.tolist()
    assert np.isneginf(seen['scores'][per_camera:2 * per_camera]).all()
    assert relative(plan, it.transformers_plan(images, history, keep)) <= TOLERANCE
    other = images.clone()
    other[1] = 255 - other[1]
    seen_other, plan_other = it.chain(other, [True, False, True], 2 * per_camera, history)
    np.testing.assert_array_equal(seen_other['scores'], seen['scores'])
    np.testing.assert_array_equal(plan_other, plan)


def test_kept_tokens_for_every_k(export) -> None:
    """K = 1..N: the highest scores, in the original order, the encoder's own values."""
    it = export(1, GRIDS[0])
    tokens = np.random.default_rng(0).normal(size=(42, HIDDEN_SIZE)).astype(np.float32)
    for kept in range(1, 43):
        out = it.run(
            'recon_pruner', visual_tokens=tokens, camera_present=np.array([True]),
            num_kept_tokens=np.array(kept),
        )
        order = np.argsort(-out['scores'], kind='stable')[:kept]
        assert out['kept_indices'].tolist() == sorted(order)
        np.testing.assert_array_equal(out['kept_tokens'], tokens[out['kept_indices']])


def test_ties_in_onnx_runtime(tmp_path: Path) -> None:
    """Many equal scores: the exported selection is that of a stable sort, for every K."""

    class Selection(torch.nn.Module):
        def forward(self, scores: torch.Tensor, num_kept_tokens: torch.Tensor) -> torch.Tensor:
            return select_tokens(scores, num_kept_tokens)

    scores = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(1)).float()
    inputs = {'scores': scores, 'num_kept_tokens': torch.tensor(50)}
    path = tmp_path / 'selection.onnx'
    export_graph(Selection(), inputs, ['kept_indices'], {'kept_indices': {0: 'K'}}, path)
    session = cpu_session(path)
    order = np.argsort(-scores.numpy(), kind='stable')
    for kept in range(1, 201):
        inputs['num_kept_tokens'] = torch.tensor(kept)
        found = run_onnx(session, inputs)['kept_indices']
        assert found.tolist() == sorted(order[:kept])


def test_manifest_says_what_it_is(export) -> None:
    """Grid, prompt, parameters, graphs, and that a part is not trained."""
    bundle = load_bundle(export(3, GRIDS[0]).bundle.path)
    assert (bundle.grid_height, bundle.grid_width, bundle.num_tokens) == (7, 6, 126)
    assert bundle.cameras == NUSCENES_CAMERAS[:3]
    assert not bundle.trained
    assert bundle.planner['trained']
    assert bundle.manifest['training'] == 'Pruner: not trained. Planner: on random numbers.'
    assert bundle.planner['prompt'].count('<|image_pad|>') == 3
    assert 'front left camera: <|vision_start|>' in bundle.planner['prompt']
    assert set(bundle.manifest['graphs']) == {
        'vision_encoder', 'recon_pruner', 'perception', 'planner',
    }
    assert 'tokenizer/tokenizer.json' in bundle.manifest['files']
    inputs, outputs = bundle.graph_specs('perception')
    assert [(spec.name, spec.dtype, spec.shape) for spec in inputs] == [
        ('images', 'uint8', (3, 196, 168, 3)), ('camera_present', 'bool', (3,)),
        ('num_kept_tokens', 'int64', ()),
    ]
    assert [(spec.name, spec.dtype, spec.shape) for spec in outputs] == [
        ('kept_tokens', 'float32', ('K', HIDDEN_SIZE)), ('kept_indices', 'int64', ('K',)),
        ('scores', 'float32', (126,)),
    ]


def test_no_weight_lies_twice_and_no_path_of_this_machine(export) -> None:
    """perception.onnx refers to the data of its parts; stack traces are gone."""
    path = export(1, GRIDS[0]).bundle.path
    assert not (path / 'perception.onnx.data').exists()
    here = str(Path(__file__).resolve().parents[1]).encode()
    for file in path.glob('*.onnx'):
        assert here not in file.read_bytes()
        assert b'site-packages' not in file.read_bytes()


def test_golden_outputs_are_those_of_the_graphs(export) -> None:
    """What runtime/golden.py compares an engine with."""
    it = export(3, GRIDS[0])
    golden = np.load(it.bundle.path / 'golden.npz')
    assert it.bundle.manifest['golden']['num_kept_tokens'] == 63
    assert golden['kept_indices'].shape == (63,)
    images = golden_images(3, *GRIDS[0])
    with torch.inference_mode():
        expected = it.made.driving.vision(torch.from_numpy(images)).numpy()
    assert relative(golden['visual_tokens'], expected) <= TOLERANCE


@pytest.mark.parametrize('graph', ['vision_encoder', 'recon_pruner', 'planner'])
def test_a_graph_that_differs_is_refused_and_nothing_is_written(
    tmp_path: Path, graph: str
) -> None:
    """One altered weight in an untrained export, while it is still being written."""
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    out = tmp_path / 'bundle'

    def alter(line: str) -> None:
        if line.endswith(f'export {graph}'):
            data = out.with_name('bundle.partial') / f'{graph}.onnx.data'
            values = np.fromfile(data, np.float32)
            values[np.argmax(np.abs(values) > 0.01) + np.arange(200)] += 0.5
            values.tofile(data)

    with pytest.raises(ExportError, match=f'exported {graph}.*Nothing was written'):
        export_bundle(request_for(checkpoint, out), alter)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['checkpoint']


def test_the_command_makes_the_nano_bundle_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two commands of engines/README.md; twice only with --force."""
    checkpoint, out = tmp_path / 'checkpoint', tmp_path / 'my_nano'
    assert main(['nano', str(checkpoint)]) == 0
    command = ['export', '--checkpoint', str(checkpoint), '--out', str(out),
               '--height', '56', '--width', '84', '--rivals']
    assert main(command) == 0
    said = capsys.readouterr().out
    assert 'compare planner with torch: relative' in said
    assert 'Not trained: Pruner: not trained. Planner: not trained.' in said
    bundle = load_bundle(out)
    assert (bundle.name, bundle.num_tokens, bundle.trained) == ('my_nano', 36, False)
    golden = np.load(out / 'golden.npz')
    assert np.count_nonzero(golden['waypoint_residuals']) == 0
    assert golden['layer_attention'].shape == (4, bundle.planner['num_rows'] - 36 + 18)
    # The single layers use the weights of planner.onnx.
    assert not [path.name for path in out.glob('planner_*.onnx.data')]
    loaded = load_engines(bundle, backend='onnxruntime', graphs=tuple(bundle.manifest['graphs']))
    layers = layer_graphs(loaded.engines)
    assert len(layers) == 4 and loaded.golden.passed
    model = load_driving_model(checkpoint, checkpoint / PRUNER_FILE, NUSCENES_CAMERAS, 56, 84)
    check_whole(model, out, layers, TOLERANCE)
    with pytest.raises(ExportError, match='exported planner in pieces differs'):
        check_whole(model, out, layers[:3], TOLERANCE)
    assert main(command) != 0
    assert 'has a bundle already: --force replaces it' in capsys.readouterr().err


def test_a_second_nano_can_share_the_encoder_of_the_first(tmp_path: Path) -> None:
    write_nano_checkpoint(tmp_path / 'first')
    write_nano_checkpoint(tmp_path / 'second', seed=1, encoder=tmp_path / 'first')
    first, second = (open_checkpoint(tmp_path / name)[0].state_dict()
                     for name in ('first', 'second'))
    same = {name: torch.equal(value, second[name]) for name, value in first.items()}
    assert all(equal for name, equal in same.items() if name.startswith('model.visual.'))
    assert not same['model.language_model.layers.0.mlp.up_proj.weight']
    write_checkpoint(tmp_path / 'tiny')
    with pytest.raises(ExportError, match='its vision encoder has other shapes'):
        write_nano_checkpoint(tmp_path / 'third', encoder=tmp_path / 'tiny')


def test_nano_is_the_same_every_time(tmp_path: Path) -> None:
    """A seed, and nothing else, decides the weights."""
    for name in ('one', 'two'):
        write_nano_checkpoint(tmp_path / name)
    for file in ('model.safetensors', PRUNER_FILE, HEAD_FILE, 'tokenizer.json'):
        assert (tmp_path / 'one' / file).read_bytes() == (tmp_path / 'two' / file).read_bytes()


def test_no_checkpoint(tmp_path: Path) -> None:
    """No folder, and a folder that is no checkpoint."""
    with pytest.raises(ExportError, match='expected a Hugging Face checkpoint .*nowhere'):
        export_bundle(request_for(tmp_path / 'nowhere', tmp_path / 'bundle'), print)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ExportError, match=r'expected config.json in .*found an empty folder'):
        export_bundle(request_for(tmp_path / 'empty', tmp_path / 'bundle'), print)


def test_another_architecture(tmp_path: Path) -> None:
    """A LLaMA is no Qwen2.5-VL."""
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'llama'}))
    with pytest.raises(ExportError, match="model_type 'qwen2_5_vl'.*found model_type 'llama'"):
        export_bundle(request_for(tmp_path, tmp_path / 'bundle'), print)


def test_bad_requests(tmp_path: Path) -> None:
    """Size, pruner file, another model's pruner, a tokenizer without image tokens."""
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    good = request_for(checkpoint, tmp_path / 'bundle')

    def refuses(match: str, **changes: object) -> None:
        with pytest.raises(ExportError, match=match):
            export_bundle(dataclasses.replace(good, **changes), print)

    refuses('multiples of 28 .*found 225 x 400: try --height 224 --width 392',
            height=225, width=400)
    refuses('expected a ReconPruner .*nowhere.*--pruner', pruner=tmp_path / 'nowhere')
    other = write_checkpoint(tmp_path / 'other', hidden_size=96)
    refuses('hidden size 96, the checkpoint.s visual tokens have 48', pruner=other / PRUNER_FILE)
    refuses('expected a ReconPruner in', pruner=checkpoint / 'model.safetensors')
    config = json.loads((checkpoint / 'config.json').read_text())
    config['image_token_id'] = 5
    (checkpoint / 'config.json').write_text(json.dumps(config))
    refuses('expected 1 times image_token_id 5 .*tokenizer and config do not belong together')
    assert not (tmp_path / 'bundle').exists()


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    """Not even with --force."""
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'letter.txt').write_text('dear reader')
    request = request_for(tmp_path / 'checkpoint', tmp_path / 'home')
    with pytest.raises(ExportError, match='exists and is not a model bundle'):
        export_bundle(dataclasses.replace(request, force=True), print)
    assert (tmp_path / 'home' / 'letter.txt').read_text() == 'dear reader'


def test_a_full_disk_is_said_before_the_work(tmp_path: Path) -> None:
    """In megabytes, for a folder that need not exist yet."""
    with pytest.raises(ExportError, match='expected 1000000000 MB of free space in .*make room'):
        require_space(tmp_path / 'not' / 'yet', 10**15)
