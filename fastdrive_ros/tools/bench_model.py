# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
`fastdrive bench model`: FastDriveVLA's efficiency table (Table 4) on the user's own machine.

Every trial runs once in each round, one after another, so that whatever slows a machine down
slows all of them; ratios are only formed within a run. A trial that raises leaves its error in
the table and the others go on. Rounds before the first recorded one warm up.

What was run: the CPU. What was not: CUDA, for no GPU was there.
"""

from __future__ import annotations

import argparse
import functools
import resource
import sys
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from fastdrive_ros.config import ConfigError
from fastdrive_ros.tools.bench_model_setup import SHAPES
from fastdrive_ros.tools.bench_model_setup import TEXT_TOKENS
from fastdrive_ros.tools.bench_model_setup import has_weights
from fastdrive_ros.tools.computer import cpu_name
from fastdrive_ros.tools.computer import gpu_state

if TYPE_CHECKING:
    import torch

    from fastdrive_ros.tools.bench_model_setup import Subject

BEFORE = 'divprune', 'vispruner', 'prune2drive', 'uniform'
INSIDE = 'fastv', 'sparsevlm', 'efficientvla'
_WARM_UP_ROUNDS = 1
_DTYPES = 'float32', 'bfloat16', 'float16'

Trial = tuple[str, int, Callable[[], dict[str, Any]]]
"""What, tokens kept, and a call that does it once and returns its stages' milliseconds."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fastdrive bench model`."""
    group = parser.add_argument_group('bench model')
    what = group.add_mutually_exclusive_group()
    what.add_argument('--checkpoint', type=Path, metavar='DIR',
                      help='Qwen2.5-VL folder, with recon_pruner.safetensors if there is one; '
                      'of a bare config.json the weights are random; '
                      "text: let transformers' generate answer, too, from the bundle's checkpoint")
    what.add_argument('--shape', choices=tuple(SHAPES),
                      help='random weights of this size (default: small)')
    group.add_argument('--grid', type=_grid, default=(1, 57, 57), metavar='VxRxC',
                       help='cameras, rows and columns of visual tokens; 6x9x16 are six pictures '
                       'of 252x448 (default: 1x57x57, the 1596x1596 of the paper)')
    group.add_argument('--kept', type=_at_least(1), nargs='+', metavar='K',
                       help='visual tokens kept (default: 75, 50 and 25 %% of N)')
    group.add_argument('--methods', nargs='*', choices=(*BEFORE, *INSIDE), metavar='METHOD',
                       default=[*BEFORE, *INSIDE],
                       help='rivals measured beside ReconPruner (default: all of %(choices)s)')
    group.add_argument('--answer-tokens', type=_at_least(2), default=100, metavar='T',
                       help='tokens of an answer (default: %(default)s)')
    group.add_argument('--passes', type=_at_least(1), default=18, metavar='P',
                       help='passes that write an answer with forced text and guesses; random '
                       'weights cannot tell, `bench text` of a trained planner does (default: '
                       '%(default)s, as it found for 100 tokens)')
    group.add_argument('--read', type=_at_least(1), default=171, metavar='R',
                       help='tokens that those passes read, wrong guesses among them '
                       '(default: %(default)s)')
    group.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto',
                       help='(default: cuda where there is one)')
    group.add_argument('--dtype', choices=_DTYPES,
                       help='(default: bfloat16 on cuda, float32 on the CPU)')
    group.add_argument('--repeats', type=_at_least(1), default=10, metavar='N',
                       help='recorded rounds (default: %(default)s)')
    group.add_argument('--out', type=Path, default=Path('bench_model'), metavar='DIR',
                       help='folder for model.json and model.png (default: %(default)s)')


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """
    Measure and return everything as what JSON can hold.

    Raises EngineError when memory does not suffice, before anything is loaded.
    """
    import torch

    from fastdrive_ros.tools.bench_model_inside import inside_macs
    from fastdrive_ros.tools.bench_model_setup import bench_config
    from fastdrive_ros.tools.bench_model_setup import make_subject

    tokens = args.grid[0] * args.grid[1] * args.grid[2]
    kept = sorted(set(args.kept or [tokens * part // 4 for part in (3, 2, 1)]), reverse=True)
    if not args.passes <= args.answer_tokens <= args.read:
        raise ConfigError(f'expected at most as many --passes as --answer-tokens, and no fewer '
                          f'tokens to --read, found {args.passes}, {args.answer_tokens} and '
                          f'{args.read}')
    if kept[0] > tokens:
        raise ConfigError(f'--kept: expected at most the N = {tokens} tokens of --grid, found '
                          f'{kept[0]}')
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = args.dtype or ('bfloat16' if device == 'cuda' else 'float32')
    config = bench_config(args.shape, args.checkpoint)
    before = gpu_state()
    name = args.checkpoint.name if args.checkpoint else args.shape or 'small'
    # The last pass of an answer may read a few wrong guesses behind it.
    longest_answer = args.answer_tokens + -(-args.read // args.passes)
    subject = make_subject(config, name, args.checkpoint, args.grid, longest_answer, device, dtype)
    trials = _trials(subject, kept, args)
    rows = run_trials(trials, args.repeats)
    for row in rows:
        if row['name'] in INSIDE and not row['error']:
            row.update(_soft(lambda: inside_macs(subject, row['name'], row['kept'])))  # noqa: B023
    return {
        'bench': 'model', **_protocol(subject, args, kept, dtype),
        'hardware': {'cpu': cpu_name(), 'threads': torch.get_num_threads(),
                     'gpu_before': before, 'gpu_after': gpu_state()},
        'rows': rows, 'cost': _soft(lambda: _cost(subject, kept, args.answer_tokens)),
        'memory': _soft(lambda: _memory(subject, kept, args.answer_tokens)),
        'agreement': {str(count): _soft(lambda: _agreement(subject, count))  # noqa: B023
                      for count in dict.fromkeys((tokens, *kept))},
    }


def run_trials(trials: Sequence[Trial], repeats: int) -> list[dict[str, Any]]:
    """
    Run all trials in turns; return for each its name, K, and percentiles of every stage.

    ``error`` is the first line of what a trial raised, which then does not run again.
    """
    samples: list[dict[str, list[float]]] = [{} for _ in trials]
    errors: list[str | None] = [None] * len(trials)
    for number in range(_WARM_UP_ROUNDS + repeats):
        for i, (_, _, work) in enumerate(trials):
            if errors[i]:
                continue
            outcome = _soft(work)
            errors[i] = outcome.get('error')
            if number < _WARM_UP_ROUNDS or errors[i]:
                continue
            for stage, ms in outcome.items():
                samples[i].setdefault(stage, []).extend(ms if isinstance(ms, list) else [ms])
        print(f'round {number + 1} of {_WARM_UP_ROUNDS + repeats}', file=sys.stderr)
    return [{'name': name, 'kept': kept, 'error': error,
             'stages_ms': {stage: _summary(took) for stage, took in sample.items()}}
            for (name, kept, _), error, sample in zip(trials, errors, samples)]


def _trials(subject: Subject, kept: Sequence[int], args: argparse.Namespace) -> list[Trial]:
    from fastdrive_ros.tools import bench_model_stages as stages
    from fastdrive_ros.tools.bench_model_inside import prefill_inside

    every, answer = subject.num_tokens, args.answer_tokens
    tokens = _tokens(subject)
    trials: list[Trial] = [
        ('transformers', every, functools.partial(stages.generate_from_pixels, subject, answer))]
    for count in (every, *(each for each in kept if each < every)):
        method = 'none' if count == every else 'recon'
        trials += [
            (method, count, functools.partial(
                stages.chain, subject, method, count, answer, args.passes,
                args.read)),
            ('transformers, pruned prompt' if count < every else 'transformers, from tokens',
             count, functools.partial(stages.generate, subject, tokens, count, answer)),
            ('blocks', count, functools.partial(stages.blocks, subject, tokens, count))]
    sights: list[Any] = []
    if 'vispruner' in args.methods:
        trials.append(('vispruner', every, functools.partial(_see, subject, sights)))
    for name in args.methods:
        for count in (each for each in kept if each < every):
            if name in INSIDE:
                work = functools.partial(prefill_inside, subject, name, tokens, count)
            else:
                work = functools.partial(_prune_rival, subject, name, tokens, count, sights)
            trials.append((name, count, work))
    return trials


def _tokens(subject: Subject) -> torch.Tensor:
    """Return visual tokens for what follows the encoder; noise where the encoder fails."""
    import torch

    from fastdrive_ros.tools.bench_model_stages import encode

    found = _soft(lambda: {'tokens': encode(subject)})
    return found.get('tokens', torch.randn(
        subject.num_tokens, subject.shape.hidden_size, device=subject.device,
        dtype=subject.dtype))


def _see(subject: Subject, sights: list[Any]) -> dict[str, Any]:
    """Encode as VisPruner wants it: with the attention map that an ordinary pass does not make."""
    import torch

    from fastdrive_ros.tools.bench_model_stages import Clock

    with torch.inference_mode():
        sights[:], encode_ms = Clock(subject.device)(
            lambda: [subject.vision.sight(subject.images)])
    return {'encode': encode_ms}


def _prune_rival(subject: Subject, name: str, tokens: torch.Tensor, count: int,
                 sights: list[Any]) -> dict[str, Any]:
    from fastdrive_ros.tools.bench_model_stages import prune_only

    return prune_only(subject, name, sights[0] if name == 'vispruner' else (tokens,), count)


def _protocol(subject: Subject, args: argparse.Namespace, kept: Sequence[int],
              dtype: str) -> dict[str, Any]:
    import torch
    import transformers

    return {
        'model': subject.name,
        'weights': 'checkpoint' if has_weights(args.checkpoint) else 'random',
        'pruner_weights': 'trained' if subject.pruner_is_trained else 'random',
        'device': str(subject.device), 'dtype': dtype, 'grid': list(subject.grid),
        'tokens': subject.num_tokens, 'kept': list(kept), 'text_tokens': TEXT_TOKENS,
        'answer_tokens': args.answer_tokens, 'passes': args.passes, 'read': args.read,
        'repeats': args.repeats, 'warm_up_rounds': _WARM_UP_ROUNDS,
        'torch': torch.__version__, 'transformers': transformers.__version__}


def _cost(subject: Subject, kept: Sequence[int], answer_tokens: int) -> dict[str, Any]:
    from fastdrive_ros.tools.bench_model_cost import cost_table

    return cost_table(subject, kept, answer_tokens)


def _agreement(subject: Subject, count: int) -> dict[str, Any]:
    from fastdrive_ros.tools.bench_model_stages import agreement

    return agreement(subject, _tokens(subject), count)


def _memory(subject: Subject, kept: Sequence[int], answer_tokens: int) -> dict[str, Any]:
    """Return bytes: weights by part, keys and values by K, and the most that was in use."""
    import torch

    size = subject.dtype.itemsize
    per_row = 2 * subject.shape.num_layers * subject.shape.num_kv_heads * subject.shape.head_dim
    parameters = {
        'vision': sum(p.numel() for p in subject.hf.model.visual.parameters()),
        'pruner': sum(p.numel() for p in subject.pruner.parameters()),
        'language': subject.shape.parameters}
    cuda = subject.device.type == 'cuda'
    # The process holds transformers' weights beside ours, so this is the bench's peak.
    peak = (torch.cuda.max_memory_allocated(subject.device) if cuda
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
    return {
        'parameters': parameters,
        'weights': {part: count * size for part, count in parameters.items()},
        'keys_values': {str(count): (count + TEXT_TOKENS + answer_tokens) * per_row * size
                        for count in dict.fromkeys((subject.num_tokens, *kept))},
        'peak_of_the_bench': peak, 'peak_is': 'torch.cuda' if cuda else 'resident set'}


def _soft(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a call returns, or its error: on a strange machine the rest still counts."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - recorded, shown in the table
        words = str(error).strip().splitlines() or ['']
        return {'error': f'{type(error).__name__}: {words[0][:200]}'}


def _summary(took_ms: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(took_ms, (50, 95, 99))
    return {'min': round(float(min(took_ms)), 4), 'p50': round(float(p50), 4),
            'p95': round(float(p95), 4), 'p99': round(float(p99), 4), 'count': len(took_ms)}


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f'expected a number from {least}, found {text!r}')
        return int(text)

    return number


def _grid(text: str) -> tuple[int, int, int]:
    parts = text.split('x')
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f'expected cameras x rows x columns, as 6x9x16, found '
                                         f'{text!r}')
    return int(parts[0]), int(parts[1]), int(parts[2])
