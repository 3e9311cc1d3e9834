# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A bundle's language_model.onnx -> the same model on torch: its weights are taken, not its nodes.

What drives is then still the verified file of the bundle, and its golden logits say whether torch
computes what was exported.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdrive_ros.planners.language_memory import LanguageShape
from fastdrive_ros.planners.language_memory import plan_memory
from fastdrive_ros.planners.language_memory import require_memory
from fastdrive_ros.planners.torch_decoder import Decoder
from fastdrive_ros.planners.torch_language import TorchLanguageModel
from fastdrive_ros.planners.torch_language import free_bytes
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.onnx_file import OnnxWeights

_INSTEAD = "set text_backend to 'engine'"
_TYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# transformers' names -> those of learn/language_graph.py; tied tables are one, the last.
_TABLES = {'embed_tokens.weight': ('embeddings', 'output'), 'lm_head.weight': ('output',)}


def load_language(graph: Path, planner: Mapping[str, Any], needs_gpu: bool,
                  num_threads: int = 0) -> TorchLanguageModel:
    """
    Load the language model of a text bundle, tensor by tensor, onto the GPU where there is one.

    ``planner`` is the manifest's section; ``needs_gpu`` says that kept tokens will be in the
    memory of a GPU; ``num_threads`` is torch's on a CPU, 0: all cores. Raises EngineError before
    anything is loaded when memory does not suffice or torch finds no GPU that is needed, and for
    a bundle without the model's shape or its weights.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if needs_gpu and device.type == 'cpu':
        raise EngineError(f"text_backend 'torch': the other graphs run on the GPU, this torch "
                          f'{torch.__version__} finds none: install one with CUDA, or {_INSTEAD}')
    if 'language' not in planner:
        raise EngineError(f'expected the shape of the language model in the manifest beside '
                          f'{graph}, found none: --weights, other models than Qwen2.5-VL and '
                          f'older exports have none. Export the bundle again, or {_INSTEAD}')
    section = planner['language']
    shape = LanguageShape(**{**section, 'mrope_section': tuple(section['mrope_section'])})
    weight = _weights(graph, planner['same_weights'])
    dtype, max_rows = weight('norm.weight').dtype, planner['cache']['max_rows']
    require_memory(plan_memory(shape, max_rows, dtype.itemsize, device.type), free_bytes(device),
                   str(device))
    if num_threads:
        torch.set_num_threads(num_threads)
    with torch.inference_mode():
        return TorchLanguageModel(Decoder(shape, lambda name: weight(name).to(device)), max_rows)


def _weights(graph: Path, same: Mapping[str, str]) -> Callable[[str], torch.Tensor]:
    """Return what gives a weight by transformers' name, mapped from the file."""
    file = OnnxWeights(graph)

    def weight(name: str) -> torch.Tensor:
        if same.get(name) == '':
            # A bias of zeros, which the file leaves out; as many as its matrix has rows.
            return torch.zeros_like(weight(name.replace('.bias', '.weight'))[:, 0])
        names = (same.get(each, each) for each in _TABLES.get(name, (name,)))
        known = [each for each in names if each in file]
        if not known:
            raise EngineError(f'expected a weight {name!r} in {graph}, found none: export the '
                              f'bundle again, or {_INSTEAD}')
        array = file[known[0]]
        if array.dtype.name not in _TYPES:
            raise EngineError(f'expected weight {name!r} of {graph} as one of '
                              f'{", ".join(_TYPES)}, found {array.dtype}: {_INSTEAD}')
        # Through whole numbers of the same size: torch does not know numpy's bfloat16.
        bits = array.view(np.dtype(f'int{8 * array.itemsize}'))
        return torch.from_numpy(np.require(bits, requirements='W')).view(_TYPES[array.dtype.name])

    return weight
