# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pieces for rival methods against transformers: attention maps, features, layer by layer."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from tiny_checkpoint import GRIDS  # noqa: E402
from tiny_checkpoint import Made  # noqa: E402
from tiny_checkpoint import hf_hidden_states  # noqa: E402
from tiny_checkpoint import hf_image_features  # noqa: E402
from tiny_checkpoint import make_driving_model  # noqa: E402
from tiny_checkpoint import random_images  # noqa: E402
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl  # noqa: E402
from transformers.vision_utils import get_vision_window_index  # noqa: E402

from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.learn.rival_graphs import PlannerEmbed  # noqa: E402
from fastdrive_ros.learn.rival_graphs import PlannerLayer  # noqa: E402
from fastdrive_ros.learn.rival_graphs import PlannerOutput  # noqa: E402
from fastdrive_ros.learn.rival_graphs import VisionAttention  # noqa: E402

RAGGED = GRIDS[0]
LAST_FULL = 1


@pytest.fixture(scope='module')
def made() -> Made:
    return make_driving_model(3, *RAGGED)


def test_vision_attention_is_that_of_transformers(made: Made) -> None:
    """Its last full block's weights by its own parts, and its states before its own merger."""
    images, visual = random_images(3, *RAGGED), made.hf.model.visual
    seen: dict[str, Any] = {}

    def note_attention(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.update(kwargs, hidden=kwargs.get('hidden_states', *args[:1]))

    def note_merger(module: torch.nn.Module, args: Any) -> None:
        seen['features'] = args[0]

    attn = visual.blocks[LAST_FULL].attn
    hooks = [attn.register_forward_pre_hook(note_attention, with_kwargs=True),
             visual.merger.register_forward_pre_hook(note_merger)]
    with torch.inference_mode():
        tokens = hf_image_features(made.hf, images)
        for hook in hooks:
            hook.remove()
        qkv = attn.qkv(seen['hidden']).unflatten(1, (3, attn.num_heads, -1))
        query, key = modeling_qwen2_5_vl.apply_rotary_pos_emb_vision(
            qkv[:, 0], qkv[:, 1], *seen['position_embeddings'])
        weights = torch.softmax(torch.einsum(
            'vqhc,vkhc->vhqk', query.unflatten(0, (3, -1)) * attn.scaling,
            key.unflatten(0, (3, -1))), dim=-1)
        found = VisionAttention(made.driving.vision)(images)
    received = weights.mean((1, 2)).unflatten(1, (-1, 4)).mean(2)       # (V, n) in window order
    features = seen['features'].unflatten(0, (3, -1, 4)).mean(2)        # (V, n, C)
    vision = made.driving.vision
    grid = torch.tensor([[1, vision.grid_height * 2, vision.grid_width * 2]])
    order, _ = get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14)
    rank = torch.argsort(order)
    torch.testing.assert_close(found[0], tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], received[:, rank].flatten(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[2], features[:, rank].flatten(0, 1), atol=1e-4, rtol=1e-4)
    # Every query hands out 1, over the four patches of each of the 42 tokens.
    torch.testing.assert_close(found[1].view(3, -1).sum(1) * 4, torch.ones(3))


def test_a_tower_without_full_attention_is_refused(made: Made) -> None:
    vision = made.driving.vision
    full_attention, vision.full_attention = vision.full_attention, frozenset()
    try:
        with pytest.raises(ExportError, match='found none: export without --rivals'):
            VisionAttention(vision)
    finally:
        vision.full_attention = full_attention


@pytest.mark.parametrize('stride', [1, 3])
def test_layers_in_a_row_are_the_planner(made: Made, stride: int) -> None:
    """And what they tell of attention is what transformers says of the whole sequence."""
    planner = made.driving.planner
    torch.nn.init.normal_(planner.head.output.weight)
    tokens, history = made.random_tokens(), made.random_history()
    indices = torch.arange(0, len(tokens), stride)
    with torch.inference_mode():
        hidden, slots = PlannerEmbed(planner)(tokens[indices], indices, history)
        told = []
        for i in range(len(planner.layers)):
            hidden, attention = PlannerLayer(planner, i)(hidden, slots)
            told.append(attention)
        residuals = PlannerOutput(planner)(hidden[-6:], history)
        expected = planner(tokens[indices], indices, history)
        theirs = hf_attention(made, tokens, history, indices)
    torch.testing.assert_close(residuals, expected, atol=1e-4, rtol=1e-4)
    assert slots.tolist() == made.slots(indices).tolist()
    for ours, whole in zip(told, theirs, strict=True):
        torch.testing.assert_close(ours, whole[slots][:, slots], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.sum(1), torch.ones(len(slots)))


def hf_attention(made: Made, tokens: torch.Tensor, history: torch.Tensor,
                 keep: torch.Tensor) -> list[torch.Tensor]:
    """Return (S, S) of each language layer, mean over heads, by transformers' eager attention."""
    model, told = made.hf.model.language_model, []
    usual, model.config._attn_implementation = model.config._attn_implementation, 'eager'
    hooks = [layer.self_attn.register_forward_hook(
        lambda module, args, outputs: told.append(outputs[1][0].mean(0)))
        for layer in model.layers]
    try:
        hf_hidden_states(made, tokens, history, keep)
    finally:
        model.config._attn_implementation = usual
        for hook in hooks:
            hook.remove()
    return told
