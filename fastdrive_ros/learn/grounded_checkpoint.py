# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A folder with a Grounding DINO or SAM checkpoint -> (processor, model), or why not.

Nothing is downloaded: the folder holds config.json, processor files and weights, as
`save_pretrained` and a download of the whole repository leave them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForMaskGeneration
from transformers import AutoModelForZeroShotObjectDetection
from transformers import AutoProcessor
from transformers.utils import logging as transformers_logging

from fastdrive_ros.data.records import DataError

_WEIGHTS = ('*.safetensors', 'pytorch_model*.bin')
_HASH_BLOCK = 1 << 22


@dataclass(frozen=True)
class Part:
    """One of the two models: what its folder must hold."""

    name: str
    model_types: tuple[str, ...]
    """What config.json may say."""
    needs: tuple[tuple[str, ...], ...]
    """Of each tuple at least one file must be there, besides config.json and weights."""
    fitting: str
    """Public checkpoints that fit, by name."""
    loader: Any


_PICTURES = ('preprocessor_config.json', 'processor_config.json')
DETECTOR = Part('detector', ('grounding-dino',),
                (_PICTURES, ('tokenizer.json', 'vocab.txt'), ('tokenizer_config.json',)),
                'IDEA-Research/grounding-dino-base or IDEA-Research/grounding-dino-tiny',
                AutoModelForZeroShotObjectDetection)
# The published SAM 2 checkpoints call themselves sam2_video; their picture part is Sam2Model.
SEGMENTER = Part('segmenter', ('sam', 'sam2', 'sam2_video'), (_PICTURES,),
                 'facebook/sam-vit-huge, facebook/sam-vit-base or facebook/sam2.1-hiera-large',
                 AutoModelForMaskGeneration)


def check_checkpoint(part: Part, folder: Path) -> None:
    """Refuse a folder that cannot be this part, without reading any weights."""
    mend = f'. Checkpoints that fit: {part.fitting}, the whole repository in one folder'
    wanted = ' or '.join(part.model_types)
    if not folder.is_dir():
        raise DataError(f'expected a {wanted} checkpoint folder as {part.name} at {folder}, found '
                        f'no such folder{mend}')
    file = folder / 'config.json'
    if not file.is_file():
        found = ', '.join(sorted(entry.name for entry in folder.iterdir())[:8]) or 'nothing'
        raise DataError(f'expected config.json in the {part.name} folder {folder}, found '
                        f'{found}{mend}')
    try:
        model_type = json.loads(file.read_text(encoding='utf-8')).get('model_type')
    except (ValueError, AttributeError) as error:
        raise DataError(f'expected a JSON object in {file}, found {error}{mend}') from error
    if model_type not in part.model_types:
        raise DataError(f'expected model_type {wanted} in {file} for the {part.name}, found '
                        f'{model_type!r}: it is another architecture{mend}')
    for files in part.needs:
        if not any((folder / name).is_file() for name in files):
            raise DataError(f"expected {' or '.join(files)} in the {part.name} folder {folder}, "
                            f'found neither: the processor is missing{mend}')
    if not _weights(folder):
        raise DataError(f"expected weights ({' or '.join(_WEIGHTS)}) in the {part.name} folder "
                        f'{folder}, found none{mend}')


def load_checkpoint(part: Part, folder: Path, device: str) -> tuple[Any, torch.nn.Module]:
    """Return (processor, model in evaluation mode on the device), every weight from the folder."""
    check_checkpoint(part, folder)
    with _quiet_transformers():
        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model, report = part.loader.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise DataError(f'the {part.name} in {folder} cannot be loaded: {_first(error)}. Are '
                            f'all files whole? Checkpoints that fit: {part.fitting}') from error
    # transformers would fill the gaps with random numbers and only warn.
    missing = sorted(report['missing_keys'])
    if missing:
        raise DataError(f'the {part.name} in {folder} lacks {len(missing)} of its weights '
                        f"({', '.join(missing[:3])} ...): the files do not belong to its "
                        f'config.json. Checkpoints that fit: {part.fitting}')
    return processor, model.eval().to(device)


def checkpoint_sha256(folder: Path) -> str:
    """Return one sha256 over config, processor files and weights, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted({*folder.glob('*.json'), *folder.glob('vocab.txt'), *_weights(folder)}):
        digest.update(path.name.encode())
        with path.open('rb') as stream:
            while block := stream.read(_HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _weights(folder: Path) -> list[Path]:
    return sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))


def _first(error: Exception) -> str:
    """Return the message's first line: transformers goes on for a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide weight-loading bars and reports; what matters of them is raised."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
