# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bench model`: its table adds up, its counts are right, its rivals are the rivals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoint import make_driving_model
from tiny_checkpoint import random_images
from tiny_checkpoint import write_checkpoint

from fastdrive_ros.learn.fused_vision import FusedVision
from fastdrive_ros.learn.rival_graphs import VisionAttention
from fastdrive_ros.planners.language_memory import LanguageShape
from fastdrive_ros.tools import bench_model
from fastdrive_ros.tools import bench_model_cost as cost
from fastdrive_ros.tools import bench_model_setup as setup
from fastdrive_ros.tools import computer
from fastdrive_ros.tools.bench_model_inside import InsidePrefill
from fastdrive_ros.tools.bench_model_inside import inside_macs
from fastdrive_ros.tools.bench_model_report import _print_ratios
from fastdrive_ros.tools.bench_model_setup import SHAPES
from fastdrive_ros.tools.bench_model_setup import Subject
from fastdrive_ros.tools.bench_model_stages import prune
from fastdrive_ros.tools.bench_model_stages import shares
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
TINY: dict[str, Any] = {
    'vision_config': {'depth': 2, 'hidden_size': 32, 'intermediate_size': 48, 'num_heads': 2,
                      'fullatt_block_indexes': [1], 'out_hidden_size': 48},
    'text_config': {
        'vocab_size': 1024, 'hidden_size': 48, 'intermediate_size': 64, 'num_hidden_layers': 4,
        'num_attention_heads': 3, 'num_key_value_heads': 1, 'initializer_range': 0.2,
        'bos_token_id': 1018, 'eos_token_id': 1019,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4,
                            'mrope_section': [2, 3, 3]}},
    'tie_word_embeddings': True, 'image_token_id': 1020, 'video_token_id': 1021,
    'vision_start_token_id': 1022, 'vision_end_token_id': 1023,
}
GRID = 2, 5, 6
N, TEXT = 60, setup.TEXT_TOKENS


@pytest.fixture(scope='module')
def subject() -> Subject:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, 'tiny', TINY)
        return setup.make_subject(setup.bench_config('tiny', None), 'tiny', None, GRID, 6, 'cpu',
                                  'float32')


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, dict[str, Any]]:
    """Return what the command prints, and the JSON at its end."""
    assert main(['bench', 'model', '--device', 'cpu', '--grid', '2x5x6', '--repeats', '1',
                 '--answer-tokens', '6', '--passes', '4', '--read', '9', *options]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])['model']


def test_the_table_adds_up_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SHAPES, 'tiny', TINY)
    out, result = run(capsys, '--shape', 'tiny', '--out', str(tmp_path))
    assert [row['error'] for row in result['rows']] == [None] * len(result['rows'])
    assert (result['tokens'], result['kept']) == (N, [45, 30, 15])
    rows = {(row['name'], row['kept']): row['stages_ms'] for row in result['rows']}
    assert set(rows) == {
        ('transformers', N), ('none', N), ('transformers, from tokens', N), ('vispruner', N),
        *(('blocks', count) for count in (N, 45, 30, 15)),
        *((name, count) for count in (45, 30, 15) for name in (
            'recon', 'transformers, pruned prompt', *bench_model.BEFORE, *bench_model.INSIDE))}
    for kept in (N, 45, 30, 15):
        took = {stage: each['p50'] for stage, each in
                rows['none' if kept == N else 'recon', kept].items()}
        before = took['encode'] + took['prune'] + took['prefill']
        assert took['end_to_end'] == pytest.approx(before + took['answer'], abs=0.01)
        assert took['end_to_end_passes'] == pytest.approx(before + took['passes'], abs=0.01)
        assert rows['none' if kept == N else 'recon', kept]['decode']['count'] == 5
        assert result['agreement'][str(kept)]['relative'] < 1e-4
    assert result['memory']['keys_values']['15'] == (15 + TEXT + 6) * 2 * 4 * 16 * 4
    assert json.loads((tmp_path / 'model.json').read_text()) == result
    assert (tmp_path / 'model.png').read_bytes().startswith(b'\x89PNG')
    for words in ('end to end', 'prefill with cuts', 'TFLOP of one plan',
                  'keys and values, K = 15', 'one pass over so many tokens',
                  '(+0.00 % against ours)'):
        assert words in out


def test_nothing_fails_in_the_precision_of_a_gpu(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SHAPES, 'tiny', TINY)
    _, result = run(capsys, '--shape', 'tiny', '--dtype', 'bfloat16', '--out', str(tmp_path))
    assert [row['error'] for row in result['rows']] == [None] * len(result['rows'])
    assert result['dtype'] == 'bfloat16'


def test_a_checkpoint_and_its_pruner(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / 'mine')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    out, result = run(capsys, '--checkpoint', str(folder), '--kept', '7', '--methods',
                      '--out', str(tmp_path / 'out'))
    assert (result['weights'], result['pruner_weights']) == ('checkpoint', 'trained')
    assert {row['kept'] for row in result['rows']} == {N, 7}
    assert result['agreement']['7']['relative'] < 1e-4
    assert "no picture, matplotlib is missing: pip install 'fastdrive_ros[viz]'" in out


def test_there_is_room_for_wrong_guesses_behind_the_longest_answer(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SHAPES, 'tiny', TINY)
    # Longer than any block that is measured; the last of four passes reads 20, of them 9 right.
    _, result = run(capsys, '--shape', 'tiny', '--answer-tokens', '36', '--read', '80',
                    '--methods', '--kept', '7', '--out', str(tmp_path))
    assert [row['error'] for row in result['rows']] == [None] * len(result['rows'])


def test_a_bare_config_gets_random_weights(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / 'mine')
    for file in folder.glob('*.safetensors'):
        file.unlink()
    _, result = run(capsys, '--checkpoint', str(folder), '--kept', '7', '--methods',
                    '--out', str(tmp_path / 'out'))
    assert (result['weights'], result['pruner_weights']) == ('random', 'random')
    assert [row['error'] for row in result['rows']] == [None] * len(result['rows'])


def test_what_raises_is_recorded_and_the_rest_goes_on() -> None:
    calls = []

    def broken() -> dict[str, float]:
        calls.append('broken')
        raise RuntimeError('no kernel for this card\nand more')

    rows = bench_model.run_trials([
        ('good', 3, lambda: {'prefill': 2.0}), ('bad', 3, broken),
        ('many', 3, lambda: {'decode': [1.0, 3.0]})], repeats=2)
    assert rows[1] == {'name': 'bad', 'kept': 3, 'stages_ms': {},
                       'error': 'RuntimeError: no kernel for this card'}
    assert calls == ['broken']
    assert rows[0]['stages_ms']['prefill'] == {
        'min': 2.0, 'p50': 2.0, 'p95': 2.0, 'p99': 2.0, 'count': 2}
    assert rows[2]['stages_ms']['decode']['count'] == 4
    assert rows[2]['stages_ms']['decode']['p50'] == 2.0


@pytest.mark.parametrize(('options', 'message'), [
    (['--kept', '61'], 'expected at most the N = 60 tokens of --grid, found 61'),
    (['--checkpoint', 'absent'], 'expected a Qwen2.5-VL checkpoint folder: absent'),
])
def test_refusals(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bench', 'model', '--grid', '2x5x6', '--device', 'cpu', *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'message'), [
    (['--grid', '57x57'], "expected cameras x rows x columns, as 6x9x16, found '57x57'"),
    (['--answer-tokens', '1'], "expected a number from 2, found '1'"),
    (['--shape', 'small', '--checkpoint', 'x'], 'not allowed with argument'),
])
def test_a_wrong_command_line(options: list[str], message: str,
                              capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        main(['bench', 'model', *options])
    assert message in capsys.readouterr().err


def test_memory_too_small_is_said_before_anything_is_made(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr('fastdrive_ros.planners.torch_language.free_bytes', lambda _: 1 << 30)
    assert main(['bench', 'model', '--shape', 'qwen2.5-vl-3b', '--device', 'cpu',
                 '--dtype', 'bfloat16']) == 2
    err = capsys.readouterr().err
    # Twice 3,085.9 million, 629.1 of the tower, twice 77.1: 6.955e9 parameters of two bytes.
    # 3249 tokens, 200 of text, 100 of an answer, ten that the last pass may guess beyond it.
    assert 'GiB for 3559 rows (weights 12.96' in err
    assert 'free on cpu, found 1.00 GiB: keep fewer tokens' in err


def test_macs_by_hand() -> None:
    # D = 4, kv = 2, I = 6: q 16, k and v 8 each, out 16, MLP 72 products a row.
    shape = LanguageShape(3, 4, 6, 2, 1, 50, True, (1, 1, 1), 1e4, 1e-6)
    assert cost.layer_macs(shape, 1, 0, 1) == 16 + 8 + 8 + 16 + 72
    assert cost.layer_macs(shape, 5, 7, 5) == 5 * 120 + 2 * 5 * 7 * 4
    # One wanted row: keys and values of five, everything else of one.
    assert cost.layer_macs(shape, 5, 7, 1) == 5 * 16 + 104 + 2 * 7 * 4
    assert cost.language_macs(shape, 5, 2, 1, 10) == 2 * (5 * 120 + 280) + 240 + 40
    assert cost.cut_macs(shape, [5, 5, 2], 0) == 2 * (600 + 200) + 2 * 16 + 104 + 2 * 2 * 4
    assert cost.pruner_macs(shape, 9) == 10 * 120 + 2 * 10 * 10 * 4 + 9 * 4


def test_the_full_size_is_what_was_counted_before() -> None:
    # export_probe.md, 6: torch's counter on transformers' 3B body, 3249 and 812 rows.
    shape = LanguageShape(36, 2048, 11008, 16, 2, 151_936, True, (16, 24, 24), 1e6, 1e-6)
    assert 2e-12 * cost.language_macs(shape, 3249, 0, 3249, 0) == pytest.approx(21.14, abs=0.01)
    assert 2e-12 * cost.language_macs(shape, 812, 0, 812, 0) == pytest.approx(4.70, abs=0.01)


def test_torch_counts_the_same(subject: Subject) -> None:
    found = cost.cost_table(subject, [30], 6)
    for stage, flops in found['flops_at_every_token'].items():
        assert flops['ours'] == flops['torch'], stage
    every, half = found['macs']
    assert (every['prune'], half['prune']) == (0, cost.pruner_macs(subject.shape, N))
    assert every['prefill'] - every['answer'] > half['prefill'] - half['answer']


def test_vision_without_weights_is_the_exported_vision() -> None:
    made = make_driving_model(2, 196, 168)
    images = random_images(2, 196, 168)
    fused = FusedVision(made.hf.model.visual, 2, 196, 168)
    with torch.inference_mode():
        expected = VisionAttention(made.driving.vision)(images)
        for ours, theirs in zip(fused.sight(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fused(images), expected[0], atol=1e-5, rtol=1e-4)


def test_recon_pruner_chooses_the_same_with_fused_attention(subject: Subject) -> None:
    tokens = torch.randn(N, 48)
    kept, chosen = prune(subject, 'recon', tokens, 20)
    attention = subject.pruner.layer.self_attn.config
    attention._attn_implementation = 'eager'
    again = prune(subject, 'recon', tokens, 20)[1]
    attention._attn_implementation = 'sdpa'
    assert chosen.tolist() == again.tolist()
    assert torch.equal(kept, tokens[chosen])


@torch.inference_mode()
def test_fastv_is_transformers_with_columns_masked_from_layer_two_on(subject: Subject) -> None:
    tokens, kept = torch.randn(N, 48), 20
    rows = subject.rows(tokens, torch.arange(N))
    prefill = InsidePrefill(subject, 'fastv', kept)
    last = prefill.run(rows)
    assert prefill.rows_of_layer == [N + TEXT, N + TEXT, kept + TEXT, kept + TEXT]

    text = subject.hf.model.language_model
    hidden = text.embed_tokens(torch.from_numpy(rows.token_ids))
    hidden[torch.from_numpy(rows.visual_rows >= 0)] = tokens
    positions = torch.from_numpy(rows.positions)
    mask = torch.full((N + TEXT, N + TEXT), -torch.inf).triu(1)
    rotary = text.rotary_emb(hidden, positions[:, None])
    hidden = hidden[None]
    for index, layer in enumerate(text.layers):
        if index == 1:
            layer.self_attn.config._attn_implementation = 'eager'
            weights = layer.self_attn(layer.input_layernorm(hidden), mask[None, None],
                                      position_embeddings=rotary)[1]
            layer.self_attn.config._attn_implementation = 'sdpa'
        hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)
        if index == 1:
            seen = weights[0].mean(0)[-1, rows.visual_rows >= 0]
            best = seen.topk(kept).indices.sort().values
            dropped = np.isin(rows.visual_rows, np.setdiff1d(np.arange(N), best))
            mask[:, torch.from_numpy(dropped)] = -torch.inf
            mask.fill_diagonal_(0.0)
    assert prefill.visual_rows[prefill.visual_rows >= 0].tolist() == best.tolist()
    torch.testing.assert_close(last, hidden[0, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('method', bench_model.INSIDE)
def test_inside_methods_end_with_k_rows_and_pay_for_the_layers_before(
        subject: Subject, method: str) -> None:
    kept = 20
    prefill = InsidePrefill(subject, method, kept)
    with torch.inference_mode():
        prefill.run(subject.rows(torch.randn(N, 48), torch.arange(N)))
    assert np.count_nonzero(prefill.visual_rows >= 0) == kept
    assert np.count_nonzero(prefill.visual_rows < 0) == TEXT
    assert prefill.rows_of_layer[0] == N + TEXT and prefill.rows_of_layer[-1] == kept + TEXT
    macs = inside_macs(subject, method, kept)['macs']
    pruned_before = cost.language_macs(subject.shape, kept + TEXT, 0, 1, 16)
    assert pruned_before < macs < cost.language_macs(subject.shape, N + TEXT, 0, 1, 16)


def test_passes_cover_an_answer() -> None:
    assert shares(100, 60) == [2] * 40 + [1] * 20
    assert shares(7, 1) == [7]


def test_more_passes_than_tokens_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bench', 'model', '--answer-tokens', '10', '--read', '9']) == 2
    assert 'no fewer tokens to --read, found 18, 10 and 9' in capsys.readouterr().err


def test_ratios_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    def row(name: str, kept: int, **stages: float) -> dict[str, Any]:
        return {'name': name, 'kept': kept, 'error': None,
                'stages_ms': {stage: {'p50': ms, 'p95': ms} for stage, ms in stages.items()}}

    def ours(name: str, kept: int, prune: float, prefill: float, whole: float) -> dict[str, Any]:
        return row(name, kept, prune=prune, prefill=prefill, answer=50.0, passes=10.0,
                   end_to_end=whole, end_to_end_passes=whole - 40.0)

    _print_ratios({'tokens': 100, 'kept': [25], 'passes': 3, 'read': 9, 'rows': [
        row('transformers', 100, end_to_end=400.0), ours('none', 100, 0.0, 100.0, 200.0),
        row('transformers, from tokens', 100, prefill=120.0, answer=60.0),
        ours('recon', 25, 5.0, 25.0, 100.0),
        row('transformers, pruned prompt', 25, prefill=30.0, answer=55.0)]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['100', '1.20x', '1.00x', '1.20x', '6.00x', '2.00x', '2.50x'] in lines
    assert ['25', '4.00x', '3.33x', '1.10x', '5.50x', '4.00x', '6.67x'] in lines


def test_clocks_are_the_drivers_words_or_not_available(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    assert set(computer.gpu_state().values()) == {'not available'}
    program = tmp_path / 'nvidia-smi'
    program.write_text('#!/bin/sh\ncase "$*" in\n'
                       '*event_reasons*) echo "Field is not valid" ; exit 2 ;;\n'
                       '*throttle_reasons*) echo 0x0000000000000004 ;;\n'
                       '*) echo "NVIDIA X, 580.1, P0, 1980 MHz, 3201 MHz, 1980 MHz, 3201 MHz, '
                       '120.00 W, 700.00 W, 34" ;;\nesac\n')
    endless = tmp_path / 'tegrastats'
    endless.write_text('#!/bin/sh\necho "RAM 1/2MB CPU [3%@729]"\nexec /bin/sleep 30\n')
    for each in (program, endless):
        each.chmod(0o755)
    state = computer.gpu_state()
    assert state['tegrastats'] == 'RAM 1/2MB CPU [3%@729]'
    assert (state['name'], state['clocks.sm'], state['temperature.gpu']) == (
        'NVIDIA X', '1980 MHz', '34')
    assert state['throttle'] == '0x0000000000000004'
    assert state['nvpmodel'] == 'not available'


def test_torch_and_transformers_are_all_it_needs() -> None:
    script = ('import sys\n'
              "for name in ('rosbags', 'cv2', 'onnx', 'onnxruntime', 'rich', 'simplejpeg', "
              "'matplotlib', 'rclpy', 'pyarrow'):\n    sys.modules[name] = None\n"
              'from fastdrive_ros.tools import bench\n'
              'from fastdrive_ros.tools import bench_model_inside\n'
              'from fastdrive_ros.tools import bench_model_report\n'
              'from fastdrive_ros.learn import fused_vision, recon_pruner\n'
              'from fastdrive_ros.planners import torch_language\n')
    subprocess.run([sys.executable, '-c', script], check=True, cwd=REPOSITORY)
