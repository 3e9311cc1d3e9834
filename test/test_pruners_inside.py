# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Methods inside the language model: cuts by hand, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import make_pruner
from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.pruners.sparsevlm import cluster
from fastdrive_ros.pruners.sparsevlm import pruned_layers
from fastdrive_ros.pruners.sparsevlm import raters
from fastdrive_ros.pruners.vla_pruner import NEW_SCENE_NS

SECOND_NS = 1_000_000_000


def make_layer(index: int, attention, embeddings, num_text: int = 1, num_queries: int = 1,
               num_layers: int = 4, visual_indices=None, text_embeddings=None) -> Layer:
    """Rows: text, visual, one ego row, queries."""
    attention = np.asarray(attention, np.float32)
    embeddings = np.asarray(embeddings, np.float32)
    visual_indices = (np.arange(len(embeddings)) if visual_indices is None
                      else np.asarray(visual_indices))
    first = num_text + len(visual_indices)
    rows = np.arange(first + 1 + num_queries)
    rng = np.random.default_rng(0)
    if text_embeddings is None:
        text_embeddings = rng.normal(size=(num_text, embeddings.shape[1]))
    return Layer(index, num_layers, rng.normal(size=(len(rows), embeddings.shape[1])), attention,
                 rows[num_text:first], visual_indices, rows[:num_text], rows[first:first + 1],
                 rows[first + 1:], embeddings, np.asarray(text_embeddings, np.float32))


def attention_of(last, size: int) -> np.ndarray:
    """Return (size, size) where every row that sees all gives the visual columns ``last``."""
    attention = np.full((size, size), 0.01, np.float32)
    attention[:, 1:1 + len(last)] = last
    return attention


def run(pruner, num_kept: int, stamp_ns: int, num_layers: int = 4, n: int = 12,
        seed: int = 0) -> list[int]:
    """Drive a pruner through all layers with random attention; return the tokens that stay."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, 6)).astype(np.float32)
    indices = np.arange(n)
    pruner.begin(num_kept, stamp_ns)
    for index in range(num_layers):
        size = 1 + len(indices) + 2
        attention = rng.random((size, size)) + 1e-3
        cut = pruner.after(make_layer(index, attention, embeddings, num_layers=num_layers,
                                      visual_indices=indices))
        if cut is not None:
            assert isinstance(cut, Cut)
            assert (np.diff(cut.keep) > 0).all()
            places = np.concatenate([cut.keep, cut.merged_places])
            assert len(set(places.tolist())) == len(places) == len(cut.keep) + len(cut.merged)
            indices = indices[np.sort(places)]
    return indices.tolist()


@given(st.sampled_from(INSIDE), st.integers(1, 40), st.floats(0.02, 1.0), st.integers(4, 36),
       st.integers(0, 99))
@settings(max_examples=120, deadline=None)
def test_every_method_ends_with_exactly_k_rows(name, n, ratio, num_layers, seed):
    num_kept = max(1, int(n * ratio))
    kept = run(make_pruner(name), num_kept, SECOND_NS, num_layers, n, seed)
    assert len(kept) == num_kept
    assert kept == run(make_pruner(name), num_kept, SECOND_NS, num_layers, n, seed)


def test_fastv_takes_what_the_last_row_attends_to_after_two_layers():
    attention = attention_of([0.5, 0.5, 0.5, 0.5], 7)
    attention[-1, 1:5] = [0.1, 0.4, 0.2, 0.4]
    pruner = make_pruner('fastv')
    pruner.begin(2, 0)
    assert pruner.after(make_layer(0, attention, np.eye(4))) is None
    assert pruner.after(make_layer(1, attention, np.eye(4))).keep.tolist() == [1, 3]
    assert pruner.after(make_layer(2, attention, np.eye(4))) is None
    pruner.begin(4, 0)
    assert pruner.after(make_layer(1, attention, np.eye(4))) is None  # nothing to cut


def test_efficientvla_takes_key_task_and_diverse_tokens():
    # Ten tokens, K = 8: key = the 4 most relevant (0 1 2 3), task = floor(0.5 * 4) = 2 (4 5),
    # diverse: of 6 7 8 9 the two least like the key tokens, which all point along x: 8 and 9.
    relevance = np.arange(10, 0, -1) / 100
    embeddings = np.array([[1, 0]] * 4 + [[1, 1]] * 4 + [[0, 1]] * 2, np.float32)
    pruner = make_pruner('efficientvla')
    pruner.begin(8, 0)
    cut = pruner.after(make_layer(1, attention_of(relevance, 13), embeddings))
    assert cut.keep.tolist() == [0, 1, 2, 3, 4, 5, 8, 9]


def test_vla_pruner_by_hand_without_and_with_a_memory():
    # S_vl (mean over all rows) prefers 0 and 1; the queries look at 3 only.
    attention = attention_of([0.4, 0.3, 0.1, 0.0], 7)
    attention[-1, 1:5] = [0.0, 0.0, 0.0, 0.6]
    # 0 and 1 are doubles, so max-min diversity over {0, 1, 3} keeps one of them and 3.
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    pruner = make_pruner('vla_pruner')

    def cycle(stamp_ns: int) -> list[int]:
        pruner.begin(2, stamp_ns)
        assert pruner.after(make_layer(1, attention, embeddings)) is None
        cut = pruner.after(make_layer(2, attention, embeddings))
        pruner.after(make_layer(3, attention, embeddings))
        return cut.keep.tolist()

    assert cycle(SECOND_NS) == [0, 1]
    assert cycle(2 * SECOND_NS) == [0, 3]
    assert cycle(2 * SECOND_NS + NEW_SCENE_NS + 1) == [0, 1]  # another scene
    assert cycle(SECOND_NS) == [0, 1]                          # time ran backwards


def test_vla_pruners_window_weighs_the_newest_most():
    # One layer counts (the last of two). Cycle 1 looks at token 0, cycle 2 at token 1:
    # S^_act = 0.8 * [0 1 0] + 0.64 * [1 0 0].
    pruner = make_pruner('vla_pruner')
    for stamp, looked in ((1, 0), (2, 1)):
        attention = np.zeros((6, 6))
        attention[-1, 1 + looked] = 1.0
        pruner.begin(3, stamp)
        pruner.after(make_layer(1, attention, np.eye(3), num_layers=2))
    pruner.begin(3, 3)
    np.testing.assert_allclose(pruner._action_attention(), [0.64, 0.8, 0.0])


def test_sparsevlm_cuts_after_the_papers_layers_in_proportion():
    assert pruned_layers(32) == [2, 6, 15]
    assert pruned_layers(36) == [2, 7, 17]
    assert pruned_layers(4) == [0, 1, 2]


def test_sparsevlms_raters_are_the_telling_words_that_see_every_picture():
    # Three words, the first before the pictures. m by hand: each visual token is like word 1.
    attention = np.full((7, 7), 0.1)
    attention[0, 3:5] = 0.0
    layer = make_layer(0, attention, [[1.0, 0], [1, 0]], num_text=3,
                       text_embeddings=[[9, 9], [2, 0], [0, 2]])
    assert raters(layer).tolist() == [1]


def test_recycled_tokens_are_the_means_of_clusters():
    # Two groups of six on a line, a centimetre apart, three metres between them.
    along = np.concatenate([np.arange(6), 300 + np.arange(6)]) / 100
    means, centres = cluster(np.stack([along, np.zeros(12)], axis=1), 2)
    np.testing.assert_allclose(np.sort(means[:, 0]), [0.025, 3.025], atol=1e-6)
    assert sorted(centre // 6 for centre in centres.tolist()) == [0, 1]


def test_words_before_a_picture_are_no_context():
    attention = np.full((6, 6), 0.1)
    attention[0, 2] = 0.0
    layer = make_layer(0, attention, np.eye(3))
    assert layer.context_rows.tolist() == [4, 5]


@pytest.mark.parametrize('name', INSIDE)
def test_methods_that_forget_nothing_do_not_mix_drives(name: str):
    pruner = make_pruner(name)
    first = run(pruner, 4, SECOND_NS)
    run(pruner, 4, 2 * SECOND_NS, seed=5)
    assert run(pruner, 4, 10 * SECOND_NS) == first
