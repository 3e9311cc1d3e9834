# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The text planner's graph and its loop against transformers' own forward and generate, fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip('tokenizers')
torch = pytest.importorskip('torch')

from tiny_text import CAMERAS  # noqa: E402
from tiny_text import FORM  # noqa: E402
from tiny_text import GRID  # noqa: E402
from tiny_text import HIDDEN_SIZE  # noqa: E402
from tiny_text import VOCABULARY_SIZE  # noqa: E402
from tiny_text import encode  # noqa: E402
from tiny_text import text_model  # noqa: E402

from fastdrive_ros.core.types import KeptTokens  # noqa: E402
from fastdrive_ros.learn.graphs import export_graph  # noqa: E402
from fastdrive_ros.learn.language_graph import FREE_DIMS  # noqa: E402
from fastdrive_ros.learn.language_graph import INPUTS  # noqa: E402
from fastdrive_ros.learn.language_graph import OUTPUTS  # noqa: E402
from fastdrive_ros.learn.language_graph import LanguageGraph  # noqa: E402
from fastdrive_ros.planners.engine_language import EngineLanguage  # noqa: E402
from fastdrive_ros.planners.language import PromptRows  # noqa: E402
from fastdrive_ros.planners.text_answer import AnswerGrammar  # noqa: E402
from fastdrive_ros.planners.text_decoding import Writer  # noqa: E402
from fastdrive_ros.planners.text_draft import Draft  # noqa: E402
from fastdrive_ros.planners.text_prompt import PromptBuilder  # noqa: E402
from fastdrive_ros.planners.text_prompt import TextPrompt  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402
from fastdrive_ros.runtime.engine import TensorSpec  # noqa: E402
from fastdrive_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from fastdrive_ros.runtime.onnx_file import onnx_specs  # noqa: E402

NUM_TOKENS = len(CAMERAS) * GRID[0] * GRID[1]
CACHE = {'layers': 3, 'kv_heads': 1, 'head_size': HIDDEN_SIZE // 3, 'max_rows': 600}
EVERYTHING = np.arange(VOCABULARY_SIZE)
PROMPT = TextPrompt(
    system='You drive.', history_entry='(t-{age_s:.1f}s) [{x_m}, {y_m}] at {speed_mps} m/s',
    user='Behind: {CAM_BACK}, in front: {CAM_FRONT}. The last {history_s} s: {history}')


class TorchEngine:
    """The graph's module itself as an Engine, so that many cases run without an export."""

    output_specs: tuple[TensorSpec, ...] = ()
    input_specs = (TensorSpec('kept_tokens', 'float32', ('K', HIDDEN_SIZE)),)

    def __init__(self, graph: LanguageGraph) -> None:
        self.graph = graph

    def memory(self, name: str) -> None:
        """Return nothing: this is the host."""

    def run(self, feeds: Mapping[str, np.ndarray],
            into: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(np.array(feeds[name])) for name in INPUTS]
        with torch.inference_mode():
            outputs = {name: out.numpy() for name, out in zip(OUTPUTS, self.graph(*tensors))}
        for name, target in into.items():
            np.copyto(target, outputs[name])
        return outputs

    def close(self) -> None:
        """Nothing to free."""


def language_graph() -> LanguageGraph:
    model = text_model()
    return LanguageGraph(model.model.language_model, model.lm_head.weight)


@pytest.fixture(scope='module')
def grammar() -> AnswerGrammar:
    return AnswerGrammar(FORM, encode)


@pytest.fixture(scope='module')
def onnx_engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    """The exported graph in ONNX Runtime."""
    example = {
        'token_ids': torch.arange(20), 'visual_rows': torch.full((20,), -1),
        'kept_tokens': torch.randn(5, HIDDEN_SIZE), 'positions': torch.arange(20).expand(3, -1),
        'cache': torch.randn(9, 3, 2, 1, HIDDEN_SIZE // 3), 'logit_rows': torch.arange(3),
        'candidates': torch.arange(11)}
    path = tmp_path_factory.mktemp('graph') / 'language_model.onnx'
    export_graph(language_graph(), example, OUTPUTS, FREE_DIMS, path)
    return OnnxEngine(path, onnx_specs(path), num_threads=1)


def torch_language() -> EngineLanguage:
    return EngineLanguage(TorchEngine(language_graph()), CACHE)


def tokens_and_history(seed: int, keep: float = 1.0) -> tuple[KeptTokens, np.ndarray]:
    generator = np.random.default_rng(seed)
    visual = generator.standard_normal((NUM_TOKENS, HIDDEN_SIZE)).astype(np.float32)
    indices = np.sort(generator.permutation(NUM_TOKENS)[:round(keep * NUM_TOKENS)])
    history = generator.standard_normal((7, 7)).astype(np.float32)
    history[:, 6] = np.arange(7) >= seed % 5
    return KeptTokens(visual[indices], indices, num_tokens=NUM_TOKENS), history


def rows_of(kept: KeptTokens, history: np.ndarray, begin: tuple[int, ...] = ()) -> PromptRows:
    return PromptBuilder(PROMPT, encode, CAMERAS, GRID, 0.5).rows(kept, history, begin)


def hf_inputs(kept: KeptTokens, rows: PromptRows) -> dict[str, torch.Tensor]:
    """Return the unpruned prompt as transformers takes it, with M-RoPE ids of its own."""
    model = text_model().model
    ids = torch.from_numpy(rows.token_ids)[None]
    is_image = ids == model.config.image_token_id
    grid = torch.tensor([[1, 2 * GRID[0], 2 * GRID[1]]] * len(CAMERAS))
    positions, _ = model.get_rope_index(ids, mm_token_type_ids=is_image.int(),
                                        image_grid_thw=grid)
    embeddings = model.language_model.embed_tokens(ids)
    embeddings[is_image] = torch.from_numpy(kept.tokens[rows.visual_rows[rows.visual_rows >= 0]])
    return {'inputs_embeds': embeddings, 'position_ids': positions}


def test_unpruned_rows_are_transformers_prompt_and_positions() -> None:
    kept, history = tokens_and_history(3)
    rows = rows_of(kept, history)
    np.testing.assert_array_equal(rows.positions, hf_inputs(kept, rows)['position_ids'][:, 0])
    assert rows.next_position == rows.positions.max() + 1
    # The text shows the back camera first; the bundle's order has it second.
    assert rows.visual_rows[rows.visual_rows >= 0].tolist() == [*range(12, 24), *range(12)]


def test_pruned_rows_keep_the_positions_that_they_had() -> None:
    whole, history = tokens_and_history(3)
    kept = whole.only(np.array([0, 5, 13, 23]))
    full, rows = rows_of(whole, history), rows_of(kept, history)
    for row, index in ((0, 0), (1, 5), (2, 13), (3, 23)):
        np.testing.assert_array_equal(rows.positions[:, rows.visual_rows == row],
                                      full.positions[:, full.visual_rows == index])
    assert len(rows.token_ids) == len(full.token_ids) - 20
    assert rows.next_position == full.next_position


def test_history_is_written_as_far_as_it_is_known() -> None:
    history = np.zeros((7, 7), np.float32)
    history[-2:] = [[-4.004, 0.001, 0.0, 1.0, 8.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0, 8.5, 0.0, 1.0]]
    text = PROMPT.text(CAMERAS, history, 0.5)
    assert 'The last 0.5 s: (t-0.5s) [-4.0, 0.0] at 8.0 m/s, (t-0.0s) [0.0, 0.0] at 8.5 m/s<' \
        in text
    assert text.startswith('<|im_start|>system\nYou drive.<|im_end|>\n<|im_start|>user\nBehind: <')
    assert text.endswith('<|im_end|>\n<|im_start|>assistant\n')


@pytest.mark.parametrize('seed', range(3))
def test_keep_ratio_1_is_transformers_generate_token_for_token(seed: int) -> None:
    kept, history = tokens_and_history(seed)
    rows = rows_of(kept, history)
    expected = text_model().generate(
        **hf_inputs(kept, rows), do_sample=False, max_new_tokens=30, eos_token_id=-1,
        output_logits=True, return_dict_in_generate=True)
    language = torch_language()
    logits = language.prefill(rows, EVERYTHING)
    # A random model repeats itself, so equal tokens alone would say little: logits, too.
    for token, theirs in zip(expected.sequences[0].tolist(), expected.logits, strict=True):
        np.testing.assert_allclose(logits, theirs[0].numpy(), atol=1e-5 * theirs.abs().max())
        assert int(logits.argmax()) == token
        logits = language.extend(np.array([token]), EVERYTHING)[0]


def test_pruned_logits_are_those_of_the_whole_prompt_with_the_dropped_columns_masked() -> None:
    whole, history = tokens_and_history(1)
    kept = whole.only(np.arange(0, NUM_TOKENS, 3))
    full = rows_of(whole, history)
    inputs = hf_inputs(whole, full)
    stays = torch.from_numpy((full.visual_rows < 0) | np.isin(full.visual_rows, kept.indices))
    length = len(stays)
    seen = torch.ones(length, length).tril().bool() & stays
    mask = torch.zeros(length, length).masked_fill(~seen, -torch.inf)[None, None]
    model = text_model()
    with torch.inference_mode():
        out = model.model.language_model(inputs_embeds=inputs['inputs_embeds'],
                                         position_ids=inputs['position_ids'],
                                         attention_mask={'full_attention': mask})
        expected = model.lm_head(out.last_hidden_state[0, -1]).numpy()
    found = torch_language().prefill(rows_of(kept, history), EVERYTHING)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('keep', [1.0, 0.5])
def test_blocks_are_the_same_as_single_tokens_and_forgetting_leaves_no_trace(keep: float) -> None:
    rows = rows_of(*tokens_and_history(2, keep))
    tokens = np.array(encode('[12.5, -0.3'))
    singly, together, wandering = torch_language(), torch_language(), torch_language()
    for language in (singly, together, wandering):
        language.prefill(rows, EVERYTHING)
    one_by_one = np.stack([singly.extend(tokens[i:i + 1], EVERYTHING)[0]
                           for i in range(len(tokens))])
    np.testing.assert_allclose(together.extend(tokens, EVERYTHING), one_by_one, atol=2e-4)
    before = wandering.num_rows
    wandering.extend(tokens[::-1].copy(), EVERYTHING)
    wandering.forget(before)
    np.testing.assert_allclose(wandering.extend(tokens, EVERYTHING), one_by_one, atol=2e-4)
    assert wandering.num_rows == before + len(tokens)


def test_plans_are_the_same_with_and_without_blocks_and_drafts_over_200_cases(
        onnx_engine: OnnxEngine) -> None:
    grammar = AnswerGrammar(dataclasses.replace(FORM, num_waypoints=3), encode)
    writer = Writer(grammar)
    passes, answers = [], set()
    language = EngineLanguage(onnx_engine, CACHE)
    for case in range(200):
        kept, history = tokens_and_history(case, keep=(1.0, 0.5, 0.25)[case % 3])
        rows = rows_of(kept, history, writer.begin.tokens)
        logits = writer.prefill(language, rows)
        start = language.num_rows
        plain = writer.write_singly(language, logits)
        # A draft that is partly right: the answer itself, moved a little.
        points = np.array(plain.numbers, float).reshape(3, 2) * (1.0, 1.02)[case % 2]
        for guess, count in ((None, 0), (Draft(grammar, points).tokens, 1 + case % 20)):
            language.forget(start)
            answer = (writer.write(language, logits, guess, count) if guess
                      else writer.write(language, logits))
            assert answer.numbers == plain.numbers
            assert answer.tokens == plain.tokens
            assert answer.num_passes <= plain.num_passes
            passes.append(answer.num_passes / plain.num_passes)
        answers.add(plain.numbers)
    assert len(answers) > 50                               # the cases differ
    assert np.mean(passes[::2]) < 1.0 and np.mean(passes[1::2]) < np.mean(passes[::2])


def test_the_grammar_answers_what_constrained_generate_answers(grammar: AnswerGrammar) -> None:
    kept, history = tokens_and_history(7)
    rows = rows_of(kept, history)
    start = len(rows.token_ids)

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        node = grammar.root
        for token in ids.tolist():
            node = node.edges[token]
        return sorted(node.edges) or encode('<|im_end|>')

    expected = text_model().generate(
        **hf_inputs(kept, rows), do_sample=False, max_new_tokens=120,
        prefix_allowed_tokens_fn=allowed)[0].tolist()
    writer, language = Writer(grammar), torch_language()
    answer = writer.write(language, writer.prefill(
        language, rows_of(kept, history, writer.begin.tokens)))
    assert list(answer.tokens) == expected[:len(answer.tokens)]
    assert language.num_rows >= start + len(writer.begin.tokens)


def test_the_exported_graph_answers_as_torch_does(
        grammar: AnswerGrammar, onnx_engine: OnnxEngine) -> None:
    writer = Writer(grammar)
    for case in range(4):
        rows = rows_of(*tokens_and_history(case, keep=0.5), writer.begin.tokens)
        onnx, torch_side = EngineLanguage(onnx_engine, CACHE), torch_language()
        logits = [writer.prefill(language, rows) for language in (onnx, torch_side)]
        np.testing.assert_allclose(*logits, atol=1e-4 * np.abs(logits[1]).max())
        assert writer.write(onnx, logits[0]).tokens == writer.write(torch_side, logits[1]).tokens


def test_a_sequence_longer_than_the_cache_is_an_error() -> None:
    language = EngineLanguage(TorchEngine(language_graph()), {**CACHE, 'max_rows': 50})
    with pytest.raises(EngineError, match='at most 50 rows, found'):
        language.prefill(rows_of(*tokens_and_history(0)), EVERYTHING)
