# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
language.LanguageModel on torch: Qwen2.5-VL's text model, CPU or CUDA, without HF's generate.

The cache is allocated once; a caller's few numbers travel in one pinned buffer each way; logits
are products with the candidates' rows of the output layer alone. On CUDA every pass is a recorded
graph (torch_replay.py): blocks of 1, 2, 4 ... 64 tokens by cached rows in steps of 256, prompts by
rows in steps of 64. Padding is harmless: causal attention and later rows overwrite it.

The only files with torch outside of learn/ and tools/: planners that do not use a text model on
torch never import them.

What was run: everything on the CPU, padded shapes included. What was not: CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional

from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.planners.language_memory import MAX_BLOCK
from fastdrive_ros.planners.language_memory import ROW_BUCKET
from fastdrive_ros.planners.language_memory import allocated_rows
from fastdrive_ros.planners.torch_decoder import Cache
from fastdrive_ros.planners.torch_decoder import Decoder
from fastdrive_ros.planners.torch_replay import Replay
from fastdrive_ros.runtime.engine import DeviceArray
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.host_memory import available_bytes

PROMPT_BUCKET = 64
_MOST_CANDIDATE_SETS = 64
# Of what answers bring: fixed text and guesses (planners/text.py).
_LONGEST_BLOCK = 32


class TorchLanguageModel:
    """One sequence at a time, one thread. Raises EngineError when a run fails."""

    def __init__(self, decoder: Decoder, max_rows: int) -> None:
        """Allocate for at most ``max_rows`` rows of prompt and answer, on the weights' device."""
        self.num_rows = 0
        self.max_rows = max_rows
        self.decoder = decoder
        table = decoder.embedding
        rows, device = allocated_rows(max_rows), table.device
        self._replay = Replay(device)
        with torch.inference_mode():
            self._cache = Cache(decoder.shape, rows, table)
            self._kept = table.new_zeros(rows, table.shape[1])
            self._hidden = table.new_zeros(MAX_BLOCK, table.shape[1])
            # Ids, visual rows, three positions; of a block its first row and position, and ids.
            self._prompt = torch.zeros(rows, 5, dtype=torch.int64, device=device)
            self._block = torch.zeros(2 + MAX_BLOCK, dtype=torch.int64, device=device)
            self._last = torch.zeros(1, dtype=torch.int64, device=device)
        pinned = device.type == 'cuda'
        self._host_prompt = torch.zeros(rows, 5, dtype=torch.int64, pin_memory=pinned)
        self._host_block = torch.zeros(2 + MAX_BLOCK, dtype=torch.int64, pin_memory=pinned)
        self._host_logits = torch.zeros(0)
        self._heads: dict[bytes, torch.Tensor] = {}
        self._lose()

    @property
    def words(self) -> str:
        """What it runs on, for people."""
        device = self._block.device
        place = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'the CPU'
        return f'torch {torch.__version__} on {place}'

    def prefill(self, prompt: PromptRows, candidates: np.ndarray) -> np.ndarray:
        """
        Forget everything, read a prompt; float32 (C,): logits of int64 (C,) after it.

        ``kept_tokens`` may lie on this device already, as a torch tensor of any float type or in
        the memory of an engine.
        """
        self._lose()
        rows = len(prompt.token_ids)
        self._require_room(rows)
        if rows == 0 or len(prompt.visual_rows) != rows or prompt.positions.shape != (3, rows):
            raise ValueError(
                f'expected S >= 1 token ids with visual rows (S,) and positions (3, S), found '
                f'{rows}, {np.shape(prompt.visual_rows)}, {np.shape(prompt.positions)}')
        visual, kept = np.asarray(prompt.visual_rows), prompt.kept_tokens
        if visual.max(initial=-1) >= len(kept):
            raise ValueError(f'expected visual rows below the {len(kept)} kept tokens, found '
                             f'{visual.max()}')
        if isinstance(kept, np.ndarray):
            kept = torch.from_numpy(np.require(kept, np.float32, 'W'))
        elif isinstance(kept, DeviceArray):
            kept = torch.as_tensor(InEngine(kept), device=self._block.device)
        is_visual = visual >= 0
        padded = self._padded(rows, PROMPT_BUCKET)
        host = self._host_prompt.numpy()
        host[:padded] = 0, -1, 0, 0, 0
        host[:rows, 0] = np.where(is_visual, 0, prompt.token_ids)
        host[:rows, 1] = visual
        host[:rows, 2:] = prompt.positions.T
        with self._running():
            self._kept[:len(kept)].copy_(kept, non_blocking=True)
            self._prompt[:padded].copy_(self._host_prompt[:padded], non_blocking=True)
            self._last.fill_(rows - 1)
            self._replay(('prompt', padded), lambda: self._read_prompt(padded))
            logits = self._logits(1, candidates)[0]
        self.num_rows = rows
        # Of each row, for who forgets down to it, -1 where a visual token stands; then the next.
        self._prompt_positions = np.append(
            np.where(is_visual, -1, prompt.positions[0]), prompt.next_position)
        return logits

    def extend(self, token_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Read int64 (n,) further tokens; float32 (n, C): logits after each of them."""
        if not len(self._prompt_positions):
            raise ValueError('expected a prompt before its answer: call prefill first')
        self._require_room(self.num_rows + len(token_ids))
        logits = [np.empty((0, len(candidates)), np.float32)]
        for start in range(0, len(token_ids), MAX_BLOCK):
            logits.append(self._extend(token_ids[start:start + MAX_BLOCK], candidates))
        return np.concatenate(logits)

    def forget(self, num_rows: int) -> None:
        """
        Keep only the first ``num_rows`` of the cache.

        What is read next stands where the first forgotten row stood, which must have been text.
        """
        if not 0 < num_rows <= self.num_rows:
            raise ValueError(f'expected 1 to {self.num_rows} rows to keep, found {num_rows}')
        if num_rows < len(self._prompt_positions) and self._prompt_positions[num_rows] < 0:
            raise ValueError(f'expected text in the first forgotten row, {num_rows}, found a '
                             'visual token: what follows would have no position')
        # A prompt cut short: its answer goes on at the position of the row that was cut.
        self._prompt_positions = self._prompt_positions[:num_rows + 1]
        self.num_rows = num_rows

    def warm_up(self, shortest: int, longest: int) -> None:
        """
        Record all passes that prompts of ``shortest`` to ``longest`` rows and answers need.

        Otherwise the first cycle with a new size pays for it (a graph takes about as long to
        record as three passes). The cache is empty afterwards. On the CPU nothing is recorded.
        """
        if not self._replay.fixed_shapes:
            return
        width, one = self.decoder.shape.hidden_size, np.zeros(1, np.int64)
        longest = min(longest, self.max_rows)
        for rows in {*range(shortest, longest, PROMPT_BUCKET), longest}:
            ids = np.zeros(rows, np.int64)
            self.prefill(PromptRows(ids, ids - 1, np.zeros((0, width), np.float32),
                                    np.zeros((3, rows), np.int64), 0), one)
        for rows in {*range(shortest, self.max_rows, ROW_BUCKET), self.max_rows}:
            block = 1
            while block <= min(_LONGEST_BLOCK, rows):
                self.num_rows = rows - block
                self.extend(np.zeros(block, np.int64), one)
                block *= 2
        self._lose()

    def close(self) -> None:
        """Give the memory back; it cannot run afterwards."""
        device = self._block.device
        for name in ('decoder', '_cache', '_kept', '_hidden', '_heads', '_replay'):
            self.__dict__.pop(name, None)
        if device.type == 'cuda':
            torch.cuda.empty_cache()

    def _lose(self) -> None:
        self.num_rows = 0
        self._prompt_positions = np.zeros(0, np.int64)

    def _read_prompt(self, padded: int) -> None:
        token_ids, visual, *axes = self._prompt[:padded].unbind(1)
        hidden = torch.where(
            (visual >= 0)[:, None], self._kept.index_select(0, visual.clamp(min=0)),
            functional.embedding(token_ids, self.decoder.embedding))
        last = self.decoder.read_prompt(hidden, torch.stack(axes), self._cache, self._last)
        self._hidden[:1].copy_(self.decoder.normed(last, self.decoder.norm))

    def _extend(self, token_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        count = len(token_ids)
        padded = 1 << (count - 1).bit_length() if self._replay.fixed_shapes else count
        seen = self._padded(self.num_rows + padded, ROW_BUCKET)
        host = self._host_block.numpy()
        prompt_rows = len(self._prompt_positions) - 1
        host[:2] = self.num_rows, self._prompt_positions[-1] + self.num_rows - prompt_rows
        host[2:2 + count] = token_ids
        host[2 + count:2 + padded] = 0
        with self._running():
            self._block.copy_(self._host_block, non_blocking=True)
            self._replay(('block', padded, seen), lambda: self._read_block(padded, seen))
            logits = self._logits(count, candidates)
        self.num_rows += count
        return logits

    def _read_block(self, padded: int, seen: int) -> None:
        ahead = torch.arange(padded, device=self._block.device)
        self._hidden[:padded].copy_(self.decoder.read_block(
            self._block[2:2 + padded], self._block[0] + ahead, self._block[1] + ahead,
            self._cache, seen))

    def _logits(self, count: int, candidates: np.ndarray) -> np.ndarray:
        """Return float32 (count, C) of the first rows that the last pass left."""
        head = self._candidate_rows(np.ascontiguousarray(candidates, dtype=np.int64))
        logits = functional.linear(self._hidden[:count], head).float().flatten()
        if len(self._host_logits) < len(logits):
            self._host_logits = torch.zeros(len(logits), pin_memory=logits.is_cuda)
        self._host_logits[:len(logits)].copy_(logits, non_blocking=True)
        self._replay.wait()
        return self._host_logits[:len(logits)].numpy().reshape(count, -1).copy()

    def _candidate_rows(self, candidates: np.ndarray) -> torch.Tensor:
        key = candidates.tobytes()
        if key not in self._heads:
            if len(self._heads) >= _MOST_CANDIDATE_SETS:
                self._heads.clear()
            head = self.decoder.head
            chosen = torch.from_numpy(candidates.copy()).to(head.device)
            self._heads[key] = head.index_select(0, chosen)
        return self._heads[key]

    def _padded(self, rows: int, bucket: int) -> int:
        return -(-rows // bucket) * bucket if self._replay.fixed_shapes else rows

    def _require_room(self, rows: int) -> None:
        if rows > self.max_rows:
            raise EngineError(f'expected at most the {self.max_rows} rows that the cache was made '
                              f'for, found {rows}: keep fewer tokens or make it longer.')

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            with torch.inference_mode(), self._replay.on_stream():
                yield
        except RuntimeError as error:
            self._lose()
            raise EngineError(f'the language model failed on {self._block.device}: {error}. The '
                              'cache is lost, start again with a prompt.') from error


class InEngine:
    """An engine's memory as torch takes it without a copy: the CUDA array interface, version 3."""

    def __init__(self, array: DeviceArray) -> None:
        """Describe rows of device memory, one after another."""
        self.__cuda_array_interface__ = {
            'shape': array.shape, 'typestr': array.dtype.str, 'data': (array.address, False),
            'strides': None, 'version': 3}


def free_bytes(device: torch.device) -> int:
    """Return what may still be allocated, on a GPU by the driver's figure."""
    if device.type == 'cuda':
        # What torch holds in reserve counts as free for torch.
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    return available_bytes()
