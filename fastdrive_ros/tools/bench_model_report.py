# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `fastdrive bench model` measured -> tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdrive_ros.tools.computer import NOT_AVAILABLE
from fastdrive_ros.tools.tables import print_table

PLAIN = 'transformers'
"""The row that all ratios are formed against: generate from pixels, every token."""
OURS = 'none', 'recon'
_NONE = '-'
_GIB = 1 << 30


def print_report(result: Mapping[str, Any]) -> None:
    """Print all tables."""
    cameras, height, width = result['grid']
    print_table(
        f"{result['model']}, {result['weights']} weights, {result['dtype']} on "
        f"{device_name(result)}; N = {result['tokens']} tokens ({cameras} x {height} x {width}), "
        f"{result['text_tokens']} of text, answer {result['answer_tokens']} tokens; p50 (p95) ms "
        f"of {result['repeats']}",
        ('method', 'K', 'encode', 'prune', 'prefill', 'a token', 'answer',
         f"answer in {result['passes']} passes", 'end to end', 'with passes'),
        [_row(row, ('encode', 'prune', 'prefill', 'decode', 'answer', 'passes', 'end_to_end',
                    'end_to_end_passes'))
         for row in result['rows'] if row['name'] in OURS or row['name'].startswith(PLAIN)])
    _print_ratios(result)
    rivals = [row for row in result['rows']
              if row['name'] not in (*OURS, 'blocks') and not row['name'].startswith(PLAIN)]
    if rivals:
        print_table("rivals' own part, p50 (p95) ms: before the language model numpy on the host, "
                    f"inside it on {result['device']} with choices by numpy",
                    ('method', 'K', 'encode', 'prune', 'prefill with cuts'),
                    [_row(row, ('encode', 'prune', 'prefill')) for row in rivals])
    _print_blocks(result)
    for row in result['rows']:
        if row['error']:
            print(f"failed: {row['name']}, K = {row['kept']}: {row['error']}")
    _print_cost(result)
    _print_memory(result)
    print_table("our logits against transformers' forward, prompt and 12 answer tokens",
                ('K', 'largest difference / spread of logits'),
                [(count, found.get('error') or f"{found['relative']:.2e}")
                 for count, found in result['agreement'].items()])
    _print_machine(result)


def _print_machine(result: Mapping[str, Any]) -> None:
    before, after = (result['hardware'][when] for when in ('gpu_before', 'gpu_after'))
    known = [name for name in before if {before[name], after[name]} != {NOT_AVAILABLE}]
    if not known:
        print('clocks, power mode, throttling of a graphics card: not available\n')
        return
    print_table('graphics card', ('', 'before', 'after'),
                [(name, before[name], after[name]) for name in known])


def device_name(result: Mapping[str, Any]) -> str:
    """Return the name of what the models ran on."""
    hardware = result['hardware']
    return hardware['gpu_before']['name'] if result['device'].startswith('cuda') else (
        hardware['cpu'])


def median(result: Mapping[str, Any], name: str, kept: int, stage: str) -> float | None:
    """Return a stage's p50 in ms, or None where it was not measured."""
    for row in result['rows']:
        if (row['name'], row['kept']) == (name, kept) and stage in row['stages_ms']:
            return row['stages_ms'][stage]['p50']
    return None


def _print_ratios(result: Mapping[str, Any]) -> None:
    """Print how many times faster our p50 is than plain transformers' in the same run."""
    every = result['tokens']

    def theirs(count: int, stage: str) -> float | None:
        name = f'{PLAIN}, from tokens' if count == every else f'{PLAIN}, pruned prompt'
        return median(result, name, count, stage)

    rows = []
    for count in dict.fromkeys((every, *result['kept'])):
        name = 'none' if count == every else 'recon'
        took = {stage: median(result, name, count, stage) for stage in (
            'prune', 'prefill', 'answer', 'passes', 'end_to_end', 'end_to_end_passes')}
        before = None if took['prefill'] is None else took['prune'] + took['prefill']
        whole = median(result, PLAIN, every, 'end_to_end')
        rows.append((str(count), *(_times(*pair) for pair in (
            (theirs(every, 'prefill'), before),
            (median(result, 'none', every, 'prefill'), before),
            (theirs(count, 'answer'), took['answer']), (theirs(count, 'answer'), took['passes']),
            (whole, took['end_to_end']), (whole, took['end_to_end_passes'])))))
    print_table(
        "times faster than transformers' plain generate, p50 in this run: prune + prefill at K "
        'against a prefill of N, the answer at the same K, pixels to answer against every token',
        ('K', 'prune + prefill', '(against ours at N)', 'answer one by one',
         f"answer in {result['passes']} passes ({result['read']} tokens read)", 'end to end',
         'with passes'), rows)


def _times(theirs: float | None, ours: float | None) -> str:
    return f'{theirs / ours:.2f}x' if theirs and ours else _NONE


def _row(row: Mapping[str, Any], stages: tuple[str, ...]) -> tuple[str, ...]:
    if row['error']:
        return row['name'], str(row['kept']), 'failed', *[''] * (len(stages) - 1)
    return row['name'], str(row['kept']), *(_cell(row['stages_ms'].get(stage))
                                            for stage in stages)


def _cell(summary: Mapping[str, float] | None) -> str:
    return _NONE if summary is None else f"{summary['p50']:.1f} ({summary['p95']:.1f})"


def _print_blocks(result: Mapping[str, Any]) -> None:
    rows = [row for row in result['rows'] if row['name'] == 'blocks']
    stages = sorted({stage for row in rows for stage in row['stages_ms']},
                    key=lambda stage: int(stage.removeprefix('block_')))
    print_table('one pass over so many tokens of the answer, p50 (p95) ms',
                ('', 'K', *(stage.removeprefix('block_') for stage in stages)),
                [('ours', *_row(row, tuple(stages))[1:]) for row in rows])


def _print_cost(result: Mapping[str, Any]) -> None:
    cost = result['cost']
    if 'error' in cost:
        print(f"cost: {cost['error']}\n")
        return
    every = cost['macs'][0]

    def times(*stages: str) -> tuple[str, ...]:
        whole = sum(every[stage] for stage in stages)
        return tuple(f'{whole / sum(row[stage] for stage in stages):.2f}x'
                     for row in cost['macs'])

    columns = [tuple(f'{2e-12 * row[stage]:.3f}' for row in cost['macs'])
               for stage in ('encode', 'prune', 'prefill', 'answer')]
    # The paper's 7.5x fits only a count with the encoder above the line and not below it.
    mixed = tuple(f"{(every['encode'] + every['prefill']) / (row['prune'] + row['prefill']):.2f}x"
                  for row in cost['macs'])
    print_table('TFLOP of one plan', (
        'K', 'encode', 'prune', 'prefill', 'answer', 'prefill alone', 'prune + prefill',
        'with encode', '(encoder only above)'), list(zip(
            (str(row['kept']) for row in cost['macs']), *columns, times('prefill'),
            times('prune', 'prefill'), times('encode', 'prune', 'prefill'), mixed, strict=True)))
    print(f"{cost['rule']}.\nThe last column is no like-for-like ratio: it counts the encoder at "
          f'every token and leaves it out when pruned.')
    for stage, flops in cost['flops_at_every_token'].items():
        print(f"torch's own counter, {stage} at N: {flops['torch'] * 1e-12:.3f} TFLOP "
              f"({100 * (flops['torch'] / flops['ours'] - 1):+.2f} % against ours)")
    for row in result['rows']:
        if 'macs' in row:
            print(f"{row['name']}, K = {row['kept']}: prefill {2e-12 * row['macs']:.3f} TFLOP "
                  f"({every['prefill'] / row['macs']:.2f}x)")
    print()


def _print_memory(result: Mapping[str, Any]) -> None:
    memory = result['memory']
    if 'error' in memory:
        print(f"memory: {memory['error']}\n")
        return
    rows = [(f'weights: {part}', f"{memory['parameters'][part] / 1e6:.1f}", f'{size / _GIB:.3f}')
            for part, size in memory['weights'].items()]
    rows += [(f'keys and values, K = {count}', '', f'{size / _GIB:.3f}')
             for count, size in memory['keys_values'].items()]
    rows.append((f"most in use, transformers beside ours ({memory['peak_is']})", '',
                 f"{memory['peak_of_the_bench'] / _GIB:.3f}"))
    print_table('memory', ('', 'million parameters', 'GiB'), rows)
