# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that answers in text: prompt file -> bundle -> pipeline -> trajectory."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip('torch')
pytest.importorskip('tokenizers')
pytest.importorskip('transformers')

from make_inputs import make_set  # noqa: E402
from tiny_text import HIDDEN_SIZE  # noqa: E402
from tiny_text import encode  # noqa: E402
from tiny_text import qwen_tokenizer  # noqa: E402
from tiny_text import text_model  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from trt_stand_ins import StandInMachine  # noqa: E402

from fastdrive_ros.assemble import build_pipeline  # noqa: E402
from fastdrive_ros.config import check_settings  # noqa: E402
from fastdrive_ros.core.latency import StageTimer  # noqa: E402
from fastdrive_ros.core.trajectory import GateLimits  # noqa: E402
from fastdrive_ros.core.types import CameraBatch  # noqa: E402
from fastdrive_ros.core.types import EgoState  # noqa: E402
from fastdrive_ros.learn.export import ExportRequest  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.nano import PRUNER_FILE  # noqa: E402
from fastdrive_ros.learn.prompt_file import read_prompt_file  # noqa: E402
from fastdrive_ros.learn.prompt_file import shown_cameras  # noqa: E402
from fastdrive_ros.learn.recon_pruner import ReconPruner  # noqa: E402
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig  # noqa: E402
from fastdrive_ros.learn.recon_pruner import save_pruner  # noqa: E402
from fastdrive_ros.perception import Perception  # noqa: E402
from fastdrive_ros.planners import make_planner  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.runtime.engine import DeviceArray  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402
from fastdrive_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from fastdrive_ros.runtime.trt_build import build_engine_file  # noqa: E402
from fastdrive_ros.tools import bench_text  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS = REPOSITORY / 'config' / 'prompts'
SIX = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK',
       'CAM_BACK_RIGHT')
T0_NS = 1_700_000_000_000_000_000


def write_text_checkpoint(folder: Path) -> Path:
    model = text_model()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=qwen_tokenizer(), eos_token='<|im_end|>',
                            pad_token='<|endoftext|>').save_pretrained(folder)
    pruner = ReconPruner(ReconPrunerConfig.for_model(model.config.text_config), 1, 1, 1)
    save_pruner(pruner, folder / PRUNER_FILE)
    return folder


def request(checkpoint: Path, out: Path, prompt: Path, **changes: object) -> ExportRequest:
    made = ExportRequest(checkpoint, checkpoint / PRUNER_FILE, out, 'tiny-text', ('CAM_FRONT',),
                         84, 168, prompt=prompt)
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_checkpoint(tmp_path_factory.mktemp('text') / 'checkpoint')


@pytest.fixture(scope='module')
def bundle(checkpoint: Path) -> Bundle:
    return export_bundle(request(checkpoint, checkpoint.parent / 'bundle', PROMPTS / 'front.yaml'),
                         lambda line: None)


def settings(bundle: Bundle, **changes: object) -> dict:
    return check_settings({'bundle': str(bundle.path), 'backend': 'onnxruntime',
                           'max_frame_age_ms': 60000.0, **changes})


def ego_at(stamp_ns: int) -> EgoState:
    history = np.zeros((7, 7), np.float32)
    history[:, 0], history[:, 3:5], history[:, 6] = np.arange(-18.0, 1.0, 3.0), (1.0, 6.0), 1.0
    return EgoState(stamp_ns, 'odom', (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), 0.0, 6.0, 0.0, 0.0,
                    history)


def test_the_manifest_says_what_is_asked_and_how_it_is_answered(bundle: Bundle) -> None:
    planner = bundle.planner
    raw = yaml.safe_load((PROMPTS / 'front.yaml').read_text())
    assert planner['head'] == 'text'
    assert {name: planner['answer'][name] for name in raw['answer']} == raw['answer']
    assert planner['prompt'] == raw['prompt']
    assert planner['cache']['layers'] == 3 and planner['cache']['head_size'] == HIDDEN_SIZE // 3
    assert set(bundle.manifest['graphs']) == {'vision_encoder', 'recon_pruner', 'perception',
                                              'language_model'}
    # A random model does not write our sentences by itself, so it is no planner.
    assert planner['frame_agreement'] < 0.5 and not bundle.trained
    assert 'by itself it writes 0% of the fixed text' in bundle.manifest['training']


@pytest.mark.parametrize('fused', [False, True])
def test_pictures_and_odometry_become_a_written_plan(bundle: Bundle, fused: bool) -> None:
    built = build_pipeline(settings(bundle, fuse_perception=fused, keep_ratio=0.5))
    # A random model writes any numbers at all: the gate is opened for it.
    built.pipeline.settings = dataclasses.replace(built.pipeline.settings,
                                                  limits=GateLimits(*[1e9] * 5))
    assert {'language_model.prompt_logits', 'language_model.block_logits'} <= set(
        built.loaded.golden.errors)
    results = [built.pipeline.run(make_set(('CAM_FRONT',), stamp_ns=T0_NS + 100_000_000 * i),
                                  ego_at, lambda: T0_NS) for i in range(2)]
    built.pipeline.close()
    for result in results:
        assert result.refusal is None, result.refusal
        assert result.trajectory.waypoints.shape == (6, 3)
        assert {'decode', 'encode', 'prefill', 'answer', 'plan'} <= set(result.stage_ms)
        assert len(result.kept.indices) == 9
    # The same pictures and history: a second plan, drafted from the first, is the same plan.
    np.testing.assert_array_equal(results[0].trajectory.waypoints,
                                  results[1].trajectory.waypoints)


def test_the_real_builder_takes_the_language_model(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    profile = bundle.profile('language_model')
    rows = bundle.planner['cache']['max_rows']
    assert [shape[0] for shape in profile['cache']] == [0, rows // 2, rows]
    assert profile['candidates'][2] == [bundle.planner['vocabulary_size']]
    engine = tmp_path / 'language_model.engine'
    build_engine_file(bundle.graph_path('language_model'), engine, 'tensorrt_rtx',
                      profile=profile, compute_capability=86)
    assert engine.stat().st_size > 10_000


def test_the_bench_writes_every_plan_in_every_way(
        bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_text.bench(REPOSITORY / 'bags' / 'sim_intersection_10hz', str(bundle.path), 3)
    ways = result['ways']
    assert result['plans'] == 3
    singly = ways[bench_text.SINGLY]
    for name, way in ways.items():
        if name != bench_text.PLAIN:                  # a random model does not write our form
            assert way['same_plans'] == 3, name
            assert way['passes'] <= singly['passes'], name
    assert ways[bench_text.BLOCKS]['passes'] < singly['passes']
    assert ways['blocks, 8 guessed']['tokens_read'] >= ways[bench_text.BLOCKS]['tokens_read']
    bench_text.print_report(result)
    out = capsys.readouterr().out
    assert 'tiny-text: 3 plans, N = 18, keep 0.5, fp32, onnxruntime on CPU' in out
    assert '3 of 3' in out


def test_the_bench_wants_a_planner_that_writes() -> None:
    with pytest.raises(EngineError, match="found head 'waypoint_queries' in .*--prompt"):
        bench_text.bench(REPOSITORY / 'bags' / 'sim_intersection_10hz', '', 3)


def test_on_a_device_cache_and_kept_tokens_stay_there(
        bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = StandInMachine(bundle, tmp_path, monkeypatch)
    device = {graph: machine.load(graph) for graph in ('perception', 'language_model')}
    host = {graph: OnnxEngine(bundle.graph_path(graph), bundle.graph_specs(graph), num_threads=1)
            for graph in device}
    images = np.random.default_rng(0).integers(0, 256, (1, 84, 168, 3), np.uint8)
    batch = CameraBatch(images, np.ones(1, bool))
    planners, texts = {}, {}
    for name, engines in (('host', host), ('device', device)):
        planners[name] = make_planner(bundle.manifest, bundle.path, engines, 'recon')
        kept = Perception(engines, 'recon', 3, 6).perceive(batch, T0_NS, 9, StageTimer())
        texts[name] = planners[name].plan(kept, ego_at(T0_NS), 9).text
    assert isinstance(kept.tokens, DeviceArray)
    assert texts['device'] == texts['host']
    # Ids and positions of a few hundred rows, once each; the cache (384 bytes a row) not once.
    sent_bytes = machine.cudart.sent_bytes - images.nbytes
    assert 0 < sent_bytes < 384 * planners['device'].model.num_rows
    # Cycle after cycle: what sees and prunes is replayed, a text never, however often it repeats.
    for _ in range(3):
        kept = Perception(device, 'recon', 3, 6).perceive(batch, T0_NS, 9, StageTimer())
        assert planners['device'].plan(kept, ego_at(T0_NS), 9).text == texts['host']
    sizes = {'S': 4, 'P': 0, 'K': 1, 'R': 1, 'C': 2}
    again = {spec.name: np.zeros([sizes.get(dim, dim) for dim in spec.shape], spec.dtype)
             for spec in device['language_model'].input_specs}
    for _ in range(3):
        device['language_model'].run(again)
    assert [engine.num_graphs for engine in device.values()] == [1, 0]
    assert machine.cudart.count('cudaGraphLaunch') == 4  # one proof, three cycles
    machine.close()


def test_methods_inside_a_waypoint_head_are_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="'fastv' cuts inside the language model of a waypoint"):
        build_pipeline(settings(bundle, pruner='fastv'))


def test_a_bundle_without_its_tokenizer_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / 'copy')
    manifest = json.loads((copy / 'manifest.json').read_text())
    del manifest['files']['tokenizer/tokenizer.json']
    (copy / 'manifest.json').write_text(json.dumps(manifest))
    (copy / 'tokenizer' / 'tokenizer.json').unlink()
    with pytest.raises(EngineError, match='expected a tokenizer in .*tokenizer.json'):
        build_pipeline(settings(dataclasses.replace(bundle, path=copy)))


def test_rivals_and_text_do_not_go_together(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match='a text planner .--prompt. has no such graphs'):
        export_bundle(request(checkpoint, tmp_path / 'b', PROMPTS / 'front.yaml', rivals=True))


@pytest.mark.parametrize(('name', 'cameras'), [('front', ('CAM_FRONT',)), ('six_cameras', SIX)])
def test_the_shipped_prompts_are_whole(name: str, cameras: tuple[str, ...]) -> None:
    path = PROMPTS / f'{name}.yaml'
    head = read_prompt_file(path, cameras)
    assert shown_cameras(path, SIX) == cameras
    text = head.prompt.text(cameras, ego_at(0).history, head.history_dt_s)
    assert text.count('<|image_pad|>') == len(cameras)
    assert '(t-3.0s) [-18.0, 0.0], Velocity: 6.0 m/s' in text
    assert '  ' not in text
    assert len(encode('<|image_pad|>')) == 1


@pytest.mark.parametrize(('change', 'message'), [
    ({'answer': None}, 'expected a mapping under answer'),
    ({'answer': {'before': 'x'}}, 'missing or unknown: after, num_waypoints'),
    ({'dt_s': -0.5}, 'expected dt_s above 0'),
    ({'speed': 1}, 'missing or unknown: speed'),
    ({'prompt': {'system': '', 'user': 'No picture.', 'history_entry': ''}},
     'expected the cameras CAM_FRONT in braces .* found none'),
    ({'prompt': {'system': '', 'user': '{CAM_FRONT} {speed}', 'history_entry': ''}},
     "something else in braces: KeyError.'speed'"),
    ({'prompt': {'system': 3, 'user': '{CAM_FRONT}', 'history_entry': ''}},
     'expected str at prompt.system'),
])
def test_a_prompt_file_that_is_not_right_is_refused(tmp_path: Path, change: dict,
                                                    message: str) -> None:
    raw = yaml.safe_load((PROMPTS / 'front.yaml').read_text())
    path = tmp_path / 'prompt.yaml'
    path.write_text(yaml.safe_dump({**raw, **change}))
    with pytest.raises(ExportError, match=message):
        read_prompt_file(path, ('CAM_FRONT',))


def test_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match='cannot read it.*config/prompts/ has examples'):
        read_prompt_file(tmp_path / 'none.yaml', ('CAM_FRONT',))
