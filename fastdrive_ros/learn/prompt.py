# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The driving prompt: camera names -> token ids, M-RoPE ids and where each visual token stands.

Everything is computed once on the full prompt, before any pruning; a kept token is then looked
up by its index and keeps the position that it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase
from transformers import Qwen2_5_VLModel

IMAGE_TOKEN = '<|image_pad|>'
PLACE_WAVES = 4


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt with room for N visual tokens; L is its full length."""

    text: str
    """With one image placeholder a camera, as a person would write it."""
    token_ids: torch.Tensor
    """int64 [L], each placeholder repeated once for every visual token of its camera."""
    positions: torch.Tensor
    """int64 [3, L]: transformers' M-RoPE ids (time, row, column)."""
    image_slots: torch.Tensor
    """int64 [N]: where in the sequence each visual token stands."""
    grid: tuple[int, int, int]
    """Cameras, and rows and columns of tokens in each."""

    @property
    def text_slots(self) -> torch.Tensor:
        """int64 [L - N]: where the text tokens stand."""
        is_text = torch.ones(len(self.token_ids), dtype=torch.bool)
        is_text[self.image_slots] = False
        return is_text.nonzero().squeeze(1)


    def place_features(self) -> torch.Tensor:
        """
        Return float32 [N, V + 4 waves]: which camera, and sines and cosines of row and column.

        Rows and columns count from -1 to 1 whatever the grid; wave k has 2^k half turns on it.
        """
        cameras, rows, columns = self.grid
        which = torch.eye(cameras).repeat_interleave(rows * columns, dim=0)
        row, column = torch.meshgrid(_middles(rows), _middles(columns), indexing='ij')
        place = torch.stack([row, column]).flatten(1).repeat(1, cameras)    # (2, N)
        angles = (torch.pi / 2 * 2.0 ** torch.arange(PLACE_WAVES))[:, None, None] * place
        waves = torch.cat([angles.sin(), angles.cos()]).flatten(0, 1)       # (4 waves, N)
        return torch.cat([which, waves.T], dim=1)


def _middles(count: int) -> torch.Tensor:
    """Return the middles of ``count`` equal parts of -1 .. 1."""
    return (2.0 * torch.arange(count) + 1.0) / count - 1.0


def driving_prompt(cameras: Sequence[str], horizon_s: float) -> str:
    """Return the prompt: each camera named before its picture, in the bundle's order."""
    views = ''.join(
        f'{camera.removeprefix("CAM_").replace("_", " ").lower()} camera: '
        f'<|vision_start|>{IMAGE_TOKEN}<|vision_end|>\n'
        for camera in cameras
    )
    return (
        '<|im_start|>system\nYou drive the vehicle.<|im_end|>\n'
        f'<|im_start|>user\n{views}'
        f'Plan the next {horizon_s:g} seconds.<|im_end|>\n<|im_start|>assistant\n'
    )


def build_prompt(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    model: Qwen2_5_VLModel,
    num_cameras: int,
    grid_height: int,
    grid_width: int,
) -> Prompt:
    """Tokenise a prompt with one placeholder a camera and give every token its position."""
    image_id = model.config.image_token_id
    short = tokenizer(text, add_special_tokens=False)['input_ids']
    if short.count(image_id) != num_cameras:
        raise ValueError(
            f'expected {num_cameras} times image_token_id {image_id} of config.json in the '
            f'tokenised prompt, found {short.count(image_id)}: tokenizer and config do not '
            f'belong together ({IMAGE_TOKEN} is {tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)} '
            'in the tokenizer)'
        )
    tokens = grid_height * grid_width
    ids = [token for known in short for token in [known] * (tokens if known == image_id else 1)]
    token_ids = torch.tensor(ids)
    is_image = token_ids == image_id
    merge = model.config.vision_config.spatial_merge_size
    grid = torch.tensor([[1, grid_height * merge, grid_width * merge]] * num_cameras)
    # Without mm_token_type_ids transformers falls back to plain 1-D positions and says nothing.
    positions, _ = model.get_rope_index(
        token_ids[None], mm_token_type_ids=is_image.int()[None], image_grid_thw=grid
    )
    return Prompt(text, token_ids, positions[:, 0], is_image.nonzero().squeeze(1),
                  (num_cameras, grid_height, grid_width))
