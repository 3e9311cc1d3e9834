# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive export`: a Qwen2.5-VL checkpoint and a ReconPruner -> a model bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help needs no torch
    from fastdrive_ros.learn.early_pruning import EarlyRequest

_DESCRIPTION = """\
Make a model bundle: ONNX graphs, tokenizer, golden outputs and a manifest.

The checkpoint is a Hugging Face folder of Qwen2_5_VLForConditionalGeneration, of any size. With
a waypoint_head.safetensors in it the bundle has that head, without one an untrained head that
leaves the plan to kinematic extrapolation; with --prompt it writes its plan as text. Every graph
is compared with the torch model; when one differs, nothing is written. Interrupted, it goes on
where it was when started again. Needs the extra [train]: pip install 'fastdrive_ros[train]'.
"""
_EPILOG = """\
example:
  fastdrive nano /tmp/nano
  fastdrive export --checkpoint /tmp/nano --out my_bundle
  ros2 launch fastdrive_ros fastdrive.launch.py bundle:=my_bundle
  fastdrive export --checkpoint Impromptu-3B --pruner recon_pruner.safetensors --precision bf16 \\
      --prompt my_prompt.yaml --height 392 --width 672 --out impromptu

A 3B model wants --precision bf16 (7.1 GB of disk; fp16 is refused where it overflows); with
--weights int4 its language model takes 1.5 GB instead of 5.6. Weights are mapped from the
checkpoint, so in its own type an export needs little memory. When it is killed, the same command
goes on after the last finished graph: docs/full_size.md.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'export',
        help='make a model bundle from a Qwen2.5-VL checkpoint',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--checkpoint', type=Path, required=True, metavar='DIR',
        help='Hugging Face folder: config.json, *.safetensors, tokenizer',
    )
    parser.add_argument(
        '--pruner', type=Path, metavar='FILE',
        help='ReconPruner weights (default: recon_pruner.safetensors in the checkpoint)',
    )
    parser.add_argument(
        '--plan-pruner', type=Path, metavar='FILE',
        help="weights for method 'plan', of `fastdrive train pruner --recipe pruner_plan_nano_cpu`"
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='BUNDLE', help='folder to write'
    )
    parser.add_argument(
        '--cameras', nargs='+', metavar='NAME',
        help="camera names in the model's order (default: the prompt file's, or nuScenes' six)",
    )
    parser.add_argument(
        '--height', type=int, default=224,
        help='rows of one picture, a multiple of 28 (default: %(default)s)',
    )
    parser.add_argument(
        '--width', type=int, default=392,
        help='columns of one picture, a multiple of 28 (default: %(default)s)',
    )
    parser.add_argument(
        '--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32',
        help='what the graphs compute in; their inputs and outputs stay fp32 (default: fp32). '
        'Measured against fp32, and refused where it overflows',
    )
    parser.add_argument(
        '--weights', choices=('int8', 'int4'),
        help='store the matrices of the language layers as int8 (a scale a channel) or int4 (in '
        'blocks of 128); everything computes in --precision all the same. What it costs is '
        'printed (default: as --precision)',
    )
    parser.add_argument(
        '--prompt', type=Path, metavar='FILE',
        help='for checkpoints that write their waypoints as text (Impromptu-VLA): what they are '
        'asked and how they answer; config/prompts/front.yaml is an example',
    )
    parser.add_argument('--name', help="the model's name (default: the name of the out folder)")
    parser.add_argument(
        '--rivals', action='store_true',
        help='write the graphs, too, that the methods fastv, sparsevlm, vla_pruner, efficientvla '
        'and vispruner look into: attention maps, single language layers',
    )
    parser.add_argument(
        '--early-pruning', type=_block_and_share, metavar='BLOCK:SHARE',
        help='drop background windows inside the vision tower after a block (from 0), so that at '
        "most a share of each camera's tokens goes on, as 1:0.5; needs --early-score",
    )
    parser.add_argument(
        '--early-score', type=Path, metavar='FILE', help='what `fastdrive train early` wrote'
    )
    parser.add_argument(
        '--force', action='store_true', help='replace the bundle that is at --out already'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, print one line a step; return the exit code."""
    from fastdrive_ros.core.types import NUSCENES_CAMERAS
    from fastdrive_ros.learn.export import ExportRequest
    from fastdrive_ros.learn.export import export_bundle
    from fastdrive_ros.learn.nano import PRUNER_FILE
    from fastdrive_ros.learn.prompt_file import shown_cameras
    from fastdrive_ros.learn.weight_only import Cost

    prompt = args.prompt.expanduser() if args.prompt else None
    usual = shown_cameras(prompt, NUSCENES_CAMERAS) if prompt else NUSCENES_CAMERAS
    out = args.out.expanduser()
    checkpoint = args.checkpoint.expanduser()
    bundle = export_bundle(
        ExportRequest(
            checkpoint=checkpoint,
            pruner=(args.pruner or checkpoint / PRUNER_FILE).expanduser(),
            plan_pruner=args.plan_pruner.expanduser() if args.plan_pruner else None,
            out=out,
            name=args.name or out.resolve().name,
            cameras=tuple(args.cameras or usual),
            height=args.height,
            width=args.width,
            precision=args.precision,
            weights=args.weights or '',
            prompt=prompt,
            rivals=args.rivals,
            force=args.force,
            early=_early_request(args),
        ),
        lambda line: print(line, flush=True),
    )
    size_mb = sum(entry['bytes'] for entry in bundle.manifest['files'].values()) / 1e6
    print(f'{bundle.path}: {bundle.num_tokens} visual tokens of {bundle.hidden_size} channels, '
          f'{size_mb:.1f} MB')
    if bundle.encoded_per_camera < bundle.tokens_per_camera:
        print(f'early pruning after block {args.early_pruning[0]}: '
              f'{bundle.encoded_per_camera} of {bundle.tokens_per_camera} tokens of each camera '
              'go on')
    for graph, section in bundle.manifest['graphs'].items():
        if 'weights' in section:
            print(f'{graph}: {Cost(**section["weights"])}. What that means for plans: '
                  '`fastdrive evaluate`')
    if not bundle.trained:
        print('Not trained: ' + bundle.manifest['training'])
    return 0


def _block_and_share(text: str) -> tuple[int, float]:
    block, _, share = text.partition(':')
    try:
        return int(block), float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected BLOCK:SHARE, for example 1:0.5, found {text!r}') from None


def _early_request(args: argparse.Namespace) -> EarlyRequest | None:
    from fastdrive_ros.learn.early_pruning import EarlyRequest
    from fastdrive_ros.learn.graphs import ExportError

    if (args.early_pruning is None) != (args.early_score is None):
        raise ExportError('--early-pruning BLOCK:SHARE and --early-score FILE go together: the '
                          'file of `fastdrive train early` says which windows are background')
    if args.early_pruning is None:
        return None
    return EarlyRequest(*args.early_pruning, args.early_score.expanduser())
