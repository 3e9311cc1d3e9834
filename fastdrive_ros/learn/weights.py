# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Part of a checkpoint folder -> a torch module, without reading the rest of the folder.

Tensors are mapped from the safetensors files, not copied: a part in the files' own type costs no
memory that the system could not take back. Only another type makes a copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors import safe_open
from torch import nn

from fastdrive_ros.learn.graphs import ExportError

# Names of one part's weights begin with one of these, by the version of transformers that wrote
# them; the first one that fits is taken.
VISION_PREFIXES = 'model.visual.', 'visual.'
OUTPUT_PREFIXES = 'lm_head.', 'language_model.lm_head.'
LANGUAGE_PREFIXES = 'model.language_model.', 'language_model.model.', 'model.'

Module = TypeVar('Module', bound=nn.Module)


class Weights:
    """All safetensors files of a folder that belong to the model, by the names in them."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is read before it is needed."""
        self.folder = folder

    def load(
        self,
        make: Callable[[], Module],
        prefixes: tuple[str, ...],
        dtype: torch.dtype | None = None,
    ) -> Module:
        """
        Return ``make()`` with its weights, in ``dtype`` or (None) in the type of the files.

        ExportError when the folder lacks one of them, or has it in another shape.
        """
        with init_empty_weights():
            module = make()
        wanted = {name: self._name(name, prefixes) for name in module.state_dict()}
        tensors = self._read(wanted, dtype)
        try:
            module.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ExportError(
                f'cannot load the checkpoint {self.folder}: its weights do not fit its '
                f'config.json: {error}'
            ) from error
        return module.eval().requires_grad_(False)

    def stored_dtype(self, prefixes: tuple[str, ...]) -> torch.dtype:
        """Return the type of a part's weights in the files."""
        name = next(name for prefix in prefixes for name in self.file_of
                    if name.startswith(prefix))
        return self._read({name: name}, None)[name].dtype

    @cached_property
    def file_of(self) -> Mapping[str, str]:
        """Return the file of every weight."""
        index = self.folder / 'model.safetensors.index.json'
        try:
            if index.is_file():
                return json.loads(index.read_text(encoding='utf-8'))['weight_map']
            single = 'model.safetensors'
            with safe_open(self.folder / single, 'pt') as file:
                return dict.fromkeys(file.keys(), single)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ExportError(
                f'cannot load the checkpoint {self.folder}: expected model.safetensors or '
                f'model.safetensors.index.json and its shards, found {error!r}'
            ) from error

    def _name(self, name: str, prefixes: tuple[str, ...]) -> str:
        for prefix in prefixes:
            if prefix + name in self.file_of:
                return prefix + name
        raise ExportError(
            f'cannot load the checkpoint {self.folder}: expected a weight {prefixes[-1] + name}, '
            'found none: the weights are not those of its config.json'
        )

    def _read(
        self, wanted: Mapping[str, str], dtype: torch.dtype | None
    ) -> dict[str, torch.Tensor]:
        """Return {name in the module: tensor} of {name in the module: name in the files}."""
        tensors = {}
        try:
            with ExitStack() as opened:
                files: dict[str, Any] = {}
                for name, stored in wanted.items():
                    path = self.file_of[stored]
                    if path not in files:
                        files[path] = opened.enter_context(safe_open(self.folder / path, 'pt'))
                    tensors[name] = files[path].get_tensor(stored).to(dtype)
        except (OSError, SafetensorError) as error:
            raise ExportError(f'cannot load the checkpoint {self.folder}: {error}') from error
        return tensors
