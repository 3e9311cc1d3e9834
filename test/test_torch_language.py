# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The text model on torch: transformers' tokens and logits, whatever is padded or forgotten."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoint import Made
from tiny_checkpoint import load_both
from tiny_checkpoint import write_checkpoint
from transformers import Qwen2_5_VLConfig

from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.planners.language_memory import LanguageShape
from fastdrive_ros.planners.language_memory import plan_memory
from fastdrive_ros.planners.language_memory import require_memory
from fastdrive_ros.planners.torch_decoder import Decoder
from fastdrive_ros.planners.torch_language import TorchLanguageModel
from fastdrive_ros.planners.torch_product import Product
from fastdrive_ros.runtime.engine import EngineError

TOLERANCE = 1e-5
ANSWER = 24
ALL = np.arange(512)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def made(checkpoint: Path) -> Made:
    return load_both(checkpoint, 2, 196, 168)


@pytest.fixture(scope='module')
def tokens(made: Made) -> torch.Tensor:
    torch.manual_seed(3)
    return made.random_tokens()


@pytest.fixture(params=[False, True], ids=['exact', 'padded'])
def model(made: Made, request: pytest.FixtureRequest) -> TorchLanguageModel:
    return make_model(made, padded=request.param)


def make_model(made: Made, padded: bool = False, max_rows: int = 400) -> TorchLanguageModel:
    text = made.hf.model.language_model
    shape = LanguageShape.from_config(text.config, made.hf.config.tie_word_embeddings)

    def weight(name: str) -> torch.Tensor:
        return made.hf.lm_head.weight if name == 'lm_head.weight' else text.get_parameter(name)

    model = TorchLanguageModel(Decoder(shape, weight), max_rows)
    model._replay.fixed_shapes = padded  # what CUDA asks for
    return model


def rows_of(made: Made, tokens: torch.Tensor, kept: torch.Tensor) -> PromptRows:
    """Return the driving prompt with only the ``kept`` visual tokens."""
    prompt = made.driving.prompt
    there = torch.sort(torch.cat([prompt.text_slots, prompt.image_slots[kept]])).values
    visual = torch.full((len(prompt.token_ids),), -1)
    visual[prompt.image_slots[kept]] = torch.arange(len(kept))
    return PromptRows(prompt.token_ids[there].numpy(), visual[there].numpy(),
                      tokens[kept].numpy(), prompt.positions[:, there].numpy(),
                      int(prompt.positions.max()) + 1)


def every(tokens: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(tokens))


@torch.inference_mode()
def hf_logits(made: Made, tokens: torch.Tensor, kept: torch.Tensor,
              answer: np.ndarray) -> np.ndarray:
    """Return transformers' logits (1 + n, vocabulary): all columns there, the dropped masked."""
    prompt, model = made.driving.prompt, made.hf.model
    ids = torch.cat([prompt.token_ids, torch.from_numpy(answer)])
    embeds = model.get_input_embeddings()(ids)
    embeds[prompt.image_slots] = tokens
    more = prompt.positions.max() + 1 + torch.arange(len(answer))
    positions = torch.cat([prompt.positions, more.expand(3, -1)], dim=1)
    seen = torch.ones(1, len(ids), dtype=torch.long)
    seen[0, prompt.image_slots] = 0
    seen[0, prompt.image_slots[kept]] = 1
    hidden = model.language_model(
        inputs_embeds=embeds[None], position_ids=positions[:, None], attention_mask=seen,
        use_cache=False).last_hidden_state[0]
    return made.hf.lm_head(hidden[len(prompt.token_ids) - 1:]).numpy()


def greedy(model: TorchLanguageModel, prompt: PromptRows) -> tuple[np.ndarray, np.ndarray]:
    logits = [model.prefill(prompt, ALL)]
    answer = []
    while len(answer) < ANSWER:
        answer.append(int(logits[-1].argmax()))
        logits.append(model.extend(np.array(answer[-1:]), ALL)[0])
    return np.array(answer), np.stack(logits[:-1])


def test_every_token_kept_answers_as_generate_does(
        made: Made, tokens: torch.Tensor, model: TorchLanguageModel) -> None:
    prompt = made.driving.prompt
    answer, logits = greedy(model, rows_of(made, tokens, every(tokens)))
    embeds = made.hf.model.get_input_embeddings()(prompt.token_ids).detach().clone()
    embeds[prompt.image_slots] = tokens
    out = made.hf.generate(
        inputs_embeds=embeds[None], position_ids=prompt.positions[:, None], do_sample=False,
        attention_mask=torch.ones(1, len(embeds), dtype=torch.long), max_new_tokens=ANSWER,
        min_new_tokens=ANSWER, eos_token_id=None, output_logits=True,
        return_dict_in_generate=True)
    assert answer.tolist() == out.sequences[0].tolist()
    assert len(set(answer.tolist())) > 4, 'an answer that repeats itself shows little'
    np.testing.assert_allclose(logits, torch.cat(out.logits).numpy(), atol=TOLERANCE)


@pytest.mark.parametrize('share', [1.0, 0.5, 0.25])
def test_pruned_is_the_whole_prompt_with_dropped_columns_masked(
        made: Made, tokens: torch.Tensor, model: TorchLanguageModel, share: float) -> None:
    kept = torch.randperm(len(tokens))[:round(share * len(tokens))].sort().values
    answer, logits = greedy(model, rows_of(made, tokens, kept))
    expected = hf_logits(made, tokens, kept, answer)
    np.testing.assert_allclose(logits, expected[:-1], atol=TOLERANCE)


def test_renumbered_positions_would_be_noticed(made: Made, tokens: torch.Tensor) -> None:
    kept = every(tokens)[::3]
    prompt = rows_of(made, tokens, kept)
    near = np.tile(np.arange(len(prompt.token_ids)), (3, 1))
    wrong = dataclasses.replace(prompt, positions=near, next_position=near.max() + 1)
    model = make_model(made)
    assert np.abs(model.prefill(prompt, ALL) - model.prefill(wrong, ALL)).max() > 1e-3


@pytest.mark.parametrize('blocks', [(1,) * 7, (2, 5), (7,), (3, 4), (6, 1)])
def test_blocks_of_any_length_are_one_token_at_a_time(
        made: Made, tokens: torch.Tensor, model: TorchLanguageModel,
        blocks: tuple[int, ...]) -> None:
    kept = every(tokens)[::2]
    answer = np.array([7, 300, 12, 12, 499, 31, 5])
    logits = [model.prefill(rows_of(made, tokens, kept), ALL)[None]]
    for block in np.split(answer, np.cumsum(blocks)[:-1]):
        logits.append(model.extend(block, ALL))
    expected = hf_logits(made, tokens, kept, answer)
    np.testing.assert_allclose(np.concatenate(logits), expected, atol=TOLERANCE)


def test_an_answer_longer_than_a_pass_and_than_a_bucket(made: Made, tokens: torch.Tensor,
                                                       model: TorchLanguageModel) -> None:
    kept = every(tokens)[::2]
    answer = np.random.default_rng(0).integers(0, 512, 200)
    model.prefill(rows_of(made, tokens, kept), ALL)
    logits = model.extend(answer, ALL)
    assert model.num_rows > 256
    np.testing.assert_allclose(logits, hf_logits(made, tokens, kept, answer)[1:], atol=TOLERANCE)


def test_forgetting_is_never_having_gone_ahead(made: Made, tokens: torch.Tensor,
                                               model: TorchLanguageModel) -> None:
    prompt = rows_of(made, tokens, every(tokens)[::2])
    model.prefill(prompt, ALL)
    model.extend(np.array([4, 5]), ALL)
    rows = model.num_rows
    model.extend(np.arange(100, 140), ALL)
    model.forget(rows)
    assert model.num_rows == rows
    again = model.extend(np.array([6, 7, 8]), ALL)
    expected = hf_logits(made, tokens, every(tokens)[::2], np.array([4, 5, 6, 7, 8]))[3:]
    np.testing.assert_allclose(again, expected, atol=TOLERANCE)


def test_forgetting_the_end_of_the_prompt(made: Made, tokens: torch.Tensor,
                                          model: TorchLanguageModel) -> None:
    prompt = rows_of(made, tokens, every(tokens)[::2])
    first = model.prefill(prompt, ALL)
    rows = len(prompt.token_ids)
    model.extend(np.array([9]), ALL)
    model.forget(rows - 3)
    again = model.extend(prompt.token_ids[-3:], ALL)
    np.testing.assert_allclose(again[-1], first, atol=TOLERANCE)
    visual = int(np.flatnonzero(prompt.visual_rows >= 0)[-1])
    with pytest.raises(ValueError, match=f'expected text in the first forgotten row, {visual}'):
        model.forget(visual)


def test_passes_neither_ask_the_host_nor_leave_the_device(made: Made) -> None:
    # What a CUDA graph cannot record raises on 'meta', too: values read, other devices' tensors.
    text = made.hf.model.language_model
    shape = LanguageShape.from_config(text.config, made.hf.config.tie_word_embeddings)

    def weight(name: str) -> torch.Tensor:
        found = made.hf.lm_head.weight if name == 'lm_head.weight' else text.get_parameter(name)
        return found.to('meta')

    model = TorchLanguageModel(Decoder(shape, weight), 400)
    with torch.inference_mode():
        model._read_prompt(64)
        model._read_block(4, 256)
        with pytest.raises(RuntimeError):
            model._hidden.sum().item()
        with pytest.raises(RuntimeError):
            model._hidden + torch.zeros(64, shape.hidden_size)


def test_a_second_prompt_forgets_the_first(made: Made, tokens: torch.Tensor,
                                           model: TorchLanguageModel) -> None:
    long, short = rows_of(made, tokens, every(tokens)), rows_of(made, tokens, every(tokens)[:5])
    fresh = make_model(made).prefill(short, ALL)
    model.prefill(long, ALL)
    np.testing.assert_allclose(model.prefill(short, ALL), fresh, atol=TOLERANCE)
    assert model.num_rows == len(short.token_ids)


def test_candidates_are_rows_of_all_logits(made: Made, tokens: torch.Tensor,
                                           model: TorchLanguageModel) -> None:
    prompt, chosen = rows_of(made, tokens, every(tokens)), np.array([300, 3, 3])
    whole = model.prefill(prompt, ALL)
    np.testing.assert_allclose(model.prefill(prompt, chosen), whole[chosen], atol=TOLERANCE)
    assert model.extend(np.array([1, 2]), chosen).shape == (2, 3)
    assert model.extend(np.array([], np.int64), chosen).shape == (0, 3)


def test_kept_tokens_may_be_a_tensor_and_ids_of_visual_rows_anything(
        made: Made, tokens: torch.Tensor, model: TorchLanguageModel) -> None:
    prompt = rows_of(made, tokens, every(tokens))
    expected = model.prefill(prompt, ALL)
    ids = np.where(prompt.visual_rows >= 0, -77, prompt.token_ids)
    given = dataclasses.replace(prompt, token_ids=ids, kept_tokens=tokens.double())
    np.testing.assert_allclose(model.prefill(given, ALL), expected, atol=TOLERANCE)


def test_warming_up_leaves_nothing_behind(made: Made, tokens: torch.Tensor,
                                          model: TorchLanguageModel) -> None:
    prompt = rows_of(made, tokens, every(tokens))
    expected = make_model(made).prefill(prompt, ALL)
    model.warm_up(5, len(prompt.token_ids))
    assert model.num_rows == 0
    with pytest.raises(ValueError, match='expected a prompt before its answer'):
        model.extend(np.array([1]), ALL)
    np.testing.assert_allclose(model.prefill(prompt, ALL), expected, atol=TOLERANCE)


def test_refusals(made: Made, tokens: torch.Tensor) -> None:
    prompt = rows_of(made, tokens, every(tokens))
    rows = len(prompt.token_ids)
    model = make_model(made, max_rows=rows + 1)
    with pytest.raises(EngineError, match=f'at most the {rows - 1} rows .* found {rows}: keep'):
        make_model(made, max_rows=rows - 1).prefill(prompt, ALL)
    model.prefill(prompt, ALL)
    model.extend(np.array([1]), ALL)
    with pytest.raises(EngineError, match=f'found {rows + 2}'):
        model.extend(np.array([1]), ALL)
    assert model.num_rows == rows + 1
    with pytest.raises(ValueError, match=f'expected 1 to {rows + 1} rows to keep, found 999'):
        model.forget(999)
    with pytest.raises(ValueError, match='expected visual rows below the 3 kept tokens'):
        model.prefill(dataclasses.replace(prompt, kept_tokens=prompt.kept_tokens[:3]), ALL)
    narrow = dataclasses.replace(prompt, kept_tokens=prompt.kept_tokens[:, :7])
    with pytest.raises(EngineError, match='the language model failed on cpu'):
        model.prefill(narrow, ALL)
    with pytest.raises(ValueError, match='call prefill first'):
        model.extend(np.array([1]), ALL)


def qwen_3b() -> LanguageShape:
    return LanguageShape(36, 2048, 11008, 16, 2, 151_936, True, (16, 24, 24), 1e6, 1e-6)


def test_the_shape_counts_what_transformers_has(made: Made) -> None:
    shape = make_model(made).decoder.shape
    found = {*made.hf.model.language_model.parameters(), *made.hf.lm_head.parameters()}
    assert shape.parameters == sum(each.numel() for each in found)
    assert qwen_3b().layer_parameters == 77_076_992
    assert round(qwen_3b().parameters / 1e6, 1) == 3085.9


def test_the_published_config_of_the_3b(tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text(json.dumps({
        'model_type': 'qwen2_5_vl', 'hidden_act': 'silu', 'hidden_size': 2048,
        'vocab_size': 151_936, 'num_hidden_layers': 36, 'num_attention_heads': 16,
        'num_key_value_heads': 2, 'intermediate_size': 11008, 'tie_word_embeddings': True,
        'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]}, 'rope_theta': 1e6,
        'use_sliding_window': False, 'sliding_window': 32768, 'max_window_layers': 70,
        'rms_norm_eps': 1e-6, 'vision_config': {'out_hidden_size': 2048}}))
    config = Qwen2_5_VLConfig.from_pretrained(tmp_path)
    assert LanguageShape.from_config(config.text_config, config.tie_word_embeddings) == qwen_3b()


def test_memory_is_planned_by_hand_and_refused_with_numbers() -> None:
    plan = plan_memory(qwen_3b(), 3500, 2, 'cuda')
    assert plan.weights == 2 * qwen_3b().parameters
    # 3500 rows and one block of 64 in buckets of 256: 3584; 36 layers x 2 x 2 heads x 128 x 2 B.
    assert plan.cache == 3584 * 36 * 2 * 2 * 128 * 2
    assert plan.total == plan.weights + plan.cache + plan.activations + plan.workspace
    assert plan_memory(qwen_3b(), 3500, 4, 'cuda').activations > 16 * 3584**2 * 4
    with pytest.raises(EngineError, match=(
            r'expected 6\.\d\d GiB for 3500 rows \(weights 5\.75, cache 0\.12, '
            r'activations 0\.\d\d, workspace 0\.25\) free on cuda:0, found 4\.00 GiB: keep '
            'fewer tokens')):
        require_memory(plan, 4 << 30, 'cuda:0')
    require_memory(plan, plan.total, 'cuda:0')


def test_what_the_plan_calls_cache_and_inputs_is_allocated(made: Made) -> None:
    model = make_model(made)
    shape = model.decoder.shape
    plan = plan_memory(shape, 400, 4, 'cpu')
    assert plan.cache == model._cache.keys.nbytes + model._cache.values.nbytes
    assert plan.activations > model._kept.nbytes + model._hidden.nbytes


def test_what_the_decoder_does_not_compute_is_refused(made: Made) -> None:
    text = made.hf.config.text_config
    odd = type(text)(**{**text.to_dict(), 'hidden_act': 'gelu'})
    with pytest.raises(EngineError, match="'hidden_act': 'silu'.*found.*'hidden_act': 'gelu'"):
        LanguageShape.from_config(odd, tied=True)


def test_other_planners_come_without_torch() -> None:
    script = ('import sys, fastdrive_ros.planners, fastdrive_ros.planners.language, '
              'fastdrive_ros.planners.language_memory, fastdrive_ros.planners.layered, '
              "fastdrive_ros.assemble; assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, '-c', script], check=True,
                   cwd=Path(__file__).resolve().parent.parent)


@pytest.mark.parametrize('rows', [1, 3, 40])
@pytest.mark.parametrize('with_bias', [False, True])
def test_a_packed_matrix_multiplies_as_a_plain_one(rows: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(24, 16, generator=generator)
    bias = torch.randn(24, generator=generator) if with_bias else None
    inputs = torch.randn(rows, 16, generator=generator)
    packed, plain = Product(weight, bias), Product(weight.double(), None)
    assert packed.is_packed == torch.backends.mkldnn.is_available() and not plain.is_packed
    expected = inputs.double() @ weight.double().T
    with torch.inference_mode():
        torch.testing.assert_close(
            packed(inputs).double(), expected + (0.0 if bias is None else bias.double()),
            atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(plain(inputs.double()), expected)
        torch.testing.assert_close(plain.added_to(expected, inputs.double()), 2 * expected)
