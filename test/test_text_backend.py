# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""text_backend torch: a bundle's language model, run by torch, writes what its graph writes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('tokenizers')
pytest.importorskip('transformers')

from make_inputs import make_set  # noqa: E402
from test_text_bundle import PROMPTS  # noqa: E402
from test_text_bundle import T0_NS  # noqa: E402
from test_text_bundle import bundle as bundle  # noqa: E402 - a fixture
from test_text_bundle import checkpoint as checkpoint  # noqa: E402 - a fixture
from test_text_bundle import ego_at  # noqa: E402
from test_text_bundle import request  # noqa: E402
from test_text_bundle import settings  # noqa: E402

from fastdrive_ros.assemble import build_pipeline  # noqa: E402
from fastdrive_ros.core.trajectory import GateLimits  # noqa: E402
from fastdrive_ros.core.types import EgoState  # noqa: E402
from fastdrive_ros.core.types import KeptTokens  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.planners import torch_language  # noqa: E402
from fastdrive_ros.planners import torch_weights  # noqa: E402
from fastdrive_ros.planners.language_memory import LanguageShape  # noqa: E402
from fastdrive_ros.planners.text_decoding import Answer  # noqa: E402
from fastdrive_ros.planners.text_decoding import Writer  # noqa: E402
from fastdrive_ros.planners.torch_language import InEngine  # noqa: E402
from fastdrive_ros.planners.torch_weights import load_language  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402
from fastdrive_ros.runtime.bundle import BundleError  # noqa: E402
from fastdrive_ros.runtime.engine import DeviceArray  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402
from fastdrive_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from fastdrive_ros.tools import bench_bundle  # noqa: E402
from fastdrive_ros.tools import bench_text  # noqa: E402
from fastdrive_ros.tools.cli import main  # noqa: E402
from fastdrive_ros.tools.hf_generate import HfWriter  # noqa: E402

BAG = Path(__file__).resolve().parent.parent / 'bags' / 'sim_intersection_10hz'


def kept_tokens(bundle: Bundle, ego: EgoState) -> KeptTokens:
    seed = int(ego.stamp_ns - T0_NS)
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.permutation(bundle.num_tokens)[:9])
    return KeptTokens(rng.standard_normal((9, bundle.hidden_size)).astype(np.float32), indices,
                      num_tokens=bundle.num_tokens)


def test_the_same_plans_are_written(bundle: Bundle) -> None:
    by_engine = build_pipeline(settings(bundle))
    by_torch = build_pipeline(settings(bundle, text_backend='torch'))
    for number in range(12):
        ego = ego_at(T0_NS + number)
        texts = {each.pipeline.planner.plan(kept_tokens(bundle, ego), ego, 9).text
                 for each in (by_engine, by_torch)}
        assert len(texts) == 1
    assert 'language_model' not in by_torch.loaded.engines
    assert f'Language model: torch {torch.__version__} on the CPU' in by_torch.loaded.reason
    assert by_torch.loaded.golden.errors['language_model.block_logits'] < 1e-5


def test_a_set_becomes_a_plan(bundle: Bundle) -> None:
    built = build_pipeline(settings(bundle, text_backend='torch', fuse_perception=True))
    built.pipeline.settings = dataclasses.replace(built.pipeline.settings,
                                                  limits=GateLimits(*[1e9] * 5))
    result = built.pipeline.run(make_set(bundle.cameras), ego_at, lambda: T0_NS)
    assert result.refusal is None, result.refusal
    assert result.trajectory.waypoints.shape == (6, 3)
    built.pipeline.close()


def test_what_cuda_would_record_is_what_the_prompts_need(
        bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_language.Replay, '__init__', padded_replay)
    built = build_pipeline(settings(bundle, text_backend='torch', keep_ratio=0.5))
    replay = built.pipeline.planner.model._replay
    known = set(replay.seen)
    assert known
    for number in range(12):
        ego = ego_at(T0_NS + number)
        built.pipeline.planner.plan(kept_tokens(bundle, ego), ego, 9)
    assert set(replay.seen) == known, 'a cycle would have had to record a graph'


def padded_replay(self: torch_language.Replay, device: torch.device) -> None:
    """On the CPU, with CUDA's few shapes; remembers which passes were asked for."""
    self.fixed_shapes, self._stream, self.seen = True, None, []

    def run(key: object, work: object) -> None:
        self.seen.append(key)
        work()

    type(self).__call__ = lambda self, key, work: run(key, work)


def test_a_bundle_of_before_says_so(bundle: Bundle) -> None:
    graph = bundle.graph_path('language_model')
    section = {key: value for key, value in bundle.planner.items() if key != 'language'}
    with pytest.raises(EngineError, match='expected the shape of the language model .* found '
                       'none: --weights, .* Export the bundle again, or set text_backend'):
        load_language(graph, section, needs_gpu=False)


def test_another_arithmetic_is_not_driven_with(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / 'copy')
    manifest = json.loads((copy / 'manifest.json').read_text())
    manifest['planner']['language']['rope_theta'] = 1.5
    (copy / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match='do not reproduce the golden outputs .*block_logits'):
        build_pipeline(settings(dataclasses.replace(bundle, path=copy), text_backend='torch'))


def test_weights_that_torch_cannot_take(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bundle.graph_path('language_model')
    whole = torch_weights.OnnxWeights

    class Fewer(whole):
        def __contains__(self, name: str) -> bool:
            return 'layers.1.mlp' not in name and super().__contains__(name)

    class Whole(whole):
        def __getitem__(self, name: str) -> np.ndarray:
            return super().__getitem__(name).astype(np.int8)

    for kind, message in ((Fewer, r"expected a weight 'layers\.1\.mlp\.gate_proj\.weight'"),
                          (Whole, r"expected weight 'norm\.weight' .* found int8")):
        monkeypatch.setattr(torch_weights, 'OnnxWeights', kind)
        with pytest.raises(EngineError, match=message):
            load_language(graph, bundle.planner, needs_gpu=False)


def test_too_little_memory_is_said_before_anything_is_loaded(
        bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_weights, 'free_bytes', lambda device: 1 << 20)
    with pytest.raises(EngineError, match=r'free on cpu, found 0\.00 GiB: keep fewer tokens'):
        load_language(bundle.graph_path('language_model'), bundle.planner, needs_gpu=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this torch has a GPU')
def test_engines_on_a_gpu_want_torch_there_too(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match='other graphs run on the GPU, this torch .* finds none'):
        load_language(bundle.graph_path('language_model'), bundle.planner, needs_gpu=True)


def test_build_leaves_its_engine_out(bundle: Bundle, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('tensorrt_rtx')
    assert main(['build', str(bundle.path), '--backend', 'tensorrt_rtx', '--compute-capability',
                 '86', '--cache-dir', str(tmp_path), '--text-backend', 'torch']) == 0
    assert 'language_model' not in capsys.readouterr().out
    assert {path.name.partition('_tensorrt')[0] for path in tmp_path.glob('*.engine')} == {
        'vision_encoder', 'recon_pruner'}


def test_a_waypoint_head_has_no_language_model() -> None:
    from fastdrive_ros.config import check_settings
    with pytest.raises(BundleError, match="for planners that write text, .* 'waypoint_queries'"):
        build_pipeline(check_settings({'text_backend': 'torch'}))


def test_memory_of_an_engine_is_described_as_torch_reads_it() -> None:
    array = DeviceArray(4096, (100, 8), np.dtype(np.float32))[10:40]
    assert InEngine(array).__cuda_array_interface__ == {
        'shape': (30, 8), 'typestr': '<f4', 'data': (4096 + 10 * 32, False), 'strides': None,
        'version': 3}


def test_the_bench_lets_transformers_answer_the_same_prompts(
        bundle: Bundle, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_text.bench(BAG, str(bundle.path), 2, 'torch', checkpoint)
    ways = result['ways']
    # A random model goes on until the limit; generate's first token belongs to the prefill.
    assert ways[bench_text.GENERATE]['passes'] == 199
    assert ways[bench_text.PLAIN]['passes'] == 200
    bench_text.print_report(result)
    out = capsys.readouterr().out
    assert 'text_backend torch; prefill p50' in out and "transformers'" in out
    row = next(line.split() for line in out.splitlines() if "transformers' generate" in line)
    assert row[row.index('x') - 1] == '1.00', 'ratios are to transformers where it ran'


def test_the_folder_s_own_ways_of_generating_do_not_count(bundle: Bundle,
                                                           checkpoint: Path) -> None:
    settings_file = checkpoint / 'generation_config.json'
    before = settings_file.read_text()
    ego = ego_at(T0_NS)
    planner = build_pipeline(settings(bundle)).pipeline.planner
    prompt = planner.prompt(kept_tokens(bundle, ego), ego)
    plain = HfWriter(checkpoint, bundle, end_token=-1, max_tokens=12).write(prompt)[0]
    try:
        settings_file.write_text(json.dumps({**json.loads(before), 'repetition_penalty': 1.5,
                                             'do_sample': True, 'temperature': 3.0}))
        assert HfWriter(checkpoint, bundle, -1, 12).write(prompt)[0] == plain
    finally:
        settings_file.write_text(before)


def test_what_was_opened_is_closed_when_the_rest_fails(
        bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(OnnxEngine, 'close', lambda self: closed.append(self))
    monkeypatch.setattr(torch_language.TorchLanguageModel, 'close', lambda self: closed.append(0))

    def fails(self: object, shortest: int, longest: int) -> None:
        raise EngineError('too little memory to record')

    monkeypatch.setattr(torch_language.TorchLanguageModel, 'warm_up', fails)
    with pytest.raises(EngineError, match='too little memory to record'):
        build_pipeline(settings(bundle, text_backend='torch'))
    assert len(closed) == 3         # encoder, pruner, language model


def test_a_closed_model_holds_nothing(bundle: Bundle) -> None:
    model = load_language(bundle.graph_path('language_model'), bundle.planner, needs_gpu=False)
    model.close()
    assert not any(isinstance(value, torch.Tensor) and value.is_floating_point()
                   and value.numel() > len(model._host_logits) for value in vars(model).values())


def test_a_rotation_that_torch_does_not_compute_is_left_to_the_engine(
        checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(text: object, tied: bool) -> None:
        raise EngineError("expected a language model with 'rope_type': 'default', found yarn.")

    monkeypatch.setattr(LanguageShape, 'from_config', refuses)
    said: list[str] = []
    made = export_bundle(request(checkpoint, tmp_path / 'b', PROMPTS / 'front.yaml'), said.append)
    assert any("text_backend 'torch' will not run this bundle: expected" in line for line in said)
    assert 'language' not in made.planner
    with pytest.raises(EngineError, match='other models than Qwen2.5-VL'):
        build_pipeline(settings(made, text_backend='torch'))


def test_a_bundle_s_stages_do_not_guess_from_the_trial_before(bundle: Bundle) -> None:
    passes: dict[int, list[int]] = {}
    write = Writer.write

    def counted(self: Writer, *arguments: object) -> Answer:
        answer = write(self, *arguments)
        passes.setdefault(answer.num_passes, []).append(1)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, 'write', counted)
        result = bench_bundle.bench(bundle.path, (9, 8, 7), repeats=2)
    assert {row['method'] for row in result['rows']} == {
        'none', 'recon', 'divprune', 'prune2drive'}
    # The plan of the same pictures as a guess would take a handful of passes.
    assert min(passes) > 8, passes


def test_the_bench_refuses_another_checkpoint(bundle: Bundle, checkpoint: Path,
                                              tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint, tmp_path / 'other')
    weights = bytearray((other / 'model.safetensors').read_bytes())
    weights[-1] ^= 1
    (other / 'model.safetensors').write_bytes(weights)
    with pytest.raises(EngineError, match='expected the checkpoint that tiny-text was exported '
                       r'from \(\w{12}\), found \w{12} in .*other'):
        bench_text.bench(BAG, str(bundle.path), 2, 'engine', other)


def test_generate_writes_what_our_plain_greedy_writes(bundle: Bundle, checkpoint: Path) -> None:
    built = build_pipeline(settings(bundle))
    planner, everything = built.pipeline.planner, np.arange(bundle.planner['vocabulary_size'])
    writer = HfWriter(checkpoint, bundle, end_token=-1, max_tokens=12)
    for number in range(3):
        ego = ego_at(T0_NS + number)
        kept = kept_tokens(bundle, ego)
        theirs, _, _ = writer.write(planner.prompt(kept, ego))
        logits, ours = planner.model.prefill(planner.prompt(kept, ego), everything), []
        for _ in range(12):
            ours.append(int(logits.argmax()))
            logits = planner.model.extend(np.array(ours[-1:]), everything)[0]
        assert theirs == ours
    built.pipeline.close()
