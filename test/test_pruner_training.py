# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""ReconPruner's training against the paper's equations, by hand and on a real small checkpoint."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_training import CAMERAS
from make_training import write_training_data

torch = pytest.importorskip('torch', reason='training needs the extra [train]')
pytest.importorskip('accelerate', reason='training needs the extra [train]')
pytest.importorskip('pyarrow', reason='datasets need the extra [data]')

from tiny_checkpoint import HIDDEN_SIZE
from tiny_checkpoint import write_checkpoint

from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.loop import LoopConfig
from fastdrive_ros.learn.loop import train
from fastdrive_ros.learn.loop import trained_weights
from fastdrive_ros.learn.pruner_task import PrunerTask
from fastdrive_ros.learn.pruner_task import load_training
from fastdrive_ros.learn.pruner_task import rebuilt_picture
from fastdrive_ros.learn.pruner_training import PrunerTrainingConfig
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import load_pruner
from fastdrive_ros.learn.reconstruction import Reconstructor
from fastdrive_ros.learn.reconstruction import picture_loss
from fastdrive_ros.learn.reconstruction import tiled
from fastdrive_ros.learn.selection import foreground_share
from fastdrive_ros.learn.selection import selection_figures
from fastdrive_ros.learn.selection import straight_through

LOOP = LoopConfig(steps=2, batch_size=2, precision='fp32', num_workers=0, log_every=1,
                  validate_every=2, validation_batches=1, picture_every=2, save_every=2)
TOKENS = ReconPrunerConfig(32, 48, 2, 1, (2, 3, 3))


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp('data') / 'tiny')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


def make_task(checkpoint: Path, data: Path, **config) -> PrunerTask:
    config = PrunerTrainingConfig(**{'decoder_layers': 2, 'orient_frames': 0, **config})
    return PrunerTask(checkpoint, data, CAMERAS, 56, 112, config, LOOP)


def make_batch(task: PrunerTask) -> dict[str, torch.Tensor]:
    samples = task.samples('train', 0.0)
    return torch.utils.data.default_collate([samples[0], samples[1]])


def test_the_mask_is_one_above_zero_and_its_gradient_is_that_of_the_scores():
    scores = torch.tensor([-2.0, 0.0, 0.5, 3.0], requires_grad=True)
    mask = straight_through(scores)
    assert mask.tolist() == [0.0, 0.0, 1.0, 1.0]
    (mask * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert scores.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_random_threshold_keeps_another_share_of_each_frame_and_half_where_it_is_shown(
        checkpoint: Path, data: Path):
    model = make_task(checkpoint, data, threshold='random').model
    scores = torch.arange(16.0).view(1, 2, 8) - 100.0  # not one above zero
    present = torch.ones(1, 2, dtype=torch.bool)

    def kept(generator: torch.Generator | None, there: torch.Tensor = present) -> int:
        return int((model._over_threshold(scores, there, generator) > 0).sum())

    drawn = {kept(torch.Generator().manual_seed(seed)) for seed in range(60)}
    assert drawn == set(range(1, 15))  # a tenth to nine tenths of 16, rounded down
    assert kept(None) == 8
    # Half of the camera that is there.
    scores[:, 0] = -torch.inf
    assert kept(None, torch.tensor([[False, True]])) == 4


def test_a_scorer_that_ranks_the_foreground_last_is_turned(checkpoint: Path, data: Path):
    model = make_task(checkpoint, data, orient_frames=4).model
    batch = make_batch(make_task(checkpoint, data))

    def recall() -> float:
        scores = model.scores(model.encode(batch['images']), batch['present'])
        fore = model.is_foreground[batch['classes'].int()]
        return selection_figures(scores, fore, batch['present'])['recall_half'].item()

    before = recall()
    with torch.no_grad():
        model.pruner.scorer.weight.neg_()
        model.pruner.scorer.bias.neg_()
    assert recall() == pytest.approx(1.0 - before, abs=0.02)
    model.orient(batch)
    assert recall() >= 0.5


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
        checkpoint: Path, data: Path, tmp_path: Path):
    def run(out: Path, stop_at: int = 0) -> dict[str, torch.Tensor]:
        def on_step(step: int, note: str) -> None:
            if step == stop_at:
                raise OSError('killed')
        task = make_task(checkpoint, data, cameras_per_step=1)
        train(task, loop, out, on_step, print)
        return task.weights()

    loop = dataclasses.replace(LOOP, steps=4, save_every=1)
    whole = run(tmp_path / 'whole')
    with pytest.raises(OSError, match='killed'):
        run(tmp_path / 'halves', stop_at=1)
    resumed = run(tmp_path / 'halves')
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_two_processes_train_as_one(checkpoint: Path, data: Path, tmp_path: Path):
    """Real processes, as `accelerate launch` starts them; each sees its half of every batch."""
    root = Path(__file__).resolve().parents[1]
    found = []
    for processes in (1, 2):
        out = tmp_path / f'by {processes}'
        settings = ('steps=4', 'batch_size=2', 'precision=fp32', 'num_workers=0', 'shrink=1',
                    'cameras_per_step=0', 'orient_frames=0', 'decoder_layers=1')
        done = subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', '--standalone',
             f'--nproc_per_node={processes}', '-m', 'fastdrive_ros', 'train', 'pruner',
             '--checkpoint', checkpoint, '--data', data, '--out', out, '--cameras', *CAMERAS,
             '--height', '56', '--width', '112', *(word for setting in settings
                                                   for word in ('--set', setting))],
            cwd=root, env={**os.environ, 'PYTHONPATH': str(root)}, capture_output=True, text=True,
            timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('next: fastdrive export') == 1  # one of them speaks
        found.append(load_pruner(out / 'recon_pruner.safetensors', 2, 2, 4).state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0.0, atol=2e-4)


def test_picture_loss_by_hand():
    # Constant pictures a and b: SSIM is its luminance term (2ab + c1) / (a^2 + b^2 + c1).
    a, b, c1 = 0.8, 0.4, 0.01**2
    one, other = torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b)
    similarity = (2 * a * b + c1) / (a**2 + b**2 + c1)
    expected = 0.2 * (1 - similarity) + 0.8 * (a - b)**2
    assert picture_loss(one, other, 0.2, 11).item() == pytest.approx(expected, abs=1e-4)
    noise = torch.rand(1, 3, 16, 16)
    assert picture_loss(noise, noise, 0.2, 11).item() == pytest.approx(0.0, abs=1e-5)


def test_each_token_lands_on_its_own_patch():
    # Two rows of three tokens, one channel, 2 x 2 pixels; token k says 4k .. 4k + 3.
    patches = torch.arange(24.0).view(1, 6, 4)
    picture = tiled(patches, (2, 3), 1, 2)[0, 0]
    assert picture.tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11],
                                [12, 13, 16, 17, 20, 21], [14, 15, 18, 19, 22, 23]]


def test_the_decoder_sees_every_token_from_every_token():
    torch.manual_seed(0)
    decoder = Reconstructor(TOKENS, 1, 32, 2, 3, 3, 4).eval()
    tokens = torch.randn(1, 6, 32)
    before = decoder(tokens)
    tokens[0, 5] += 1.0  # the last token: a causal layer would leave the first patch alone
    after = decoder(tokens)
    assert (after - before)[0, :, :4, :4].abs().max() > 1e-4
    assert after.shape == (1, 3, 8, 12)


def test_the_gradient_of_a_closed_mask_is_no_steeper_than_that_of_an_open_one():
    torch.manual_seed(0)
    decoder = Reconstructor(TOKENS, 2, 32, 2, 3, 3, 4)
    tokens = torch.randn(64, 6, 32)

    def steepness(mask: float) -> float:
        masks = torch.full((64, 6, 1), mask, requires_grad=True)
        (decoder(tokens * masks) - 0.5).square().mean().backward()
        return masks.grad.abs().mean().item()

    assert steepness(0.0) < 5.0 * steepness(1.0)
    with torch.no_grad():
        decoder.everywhere.zero_()
    assert steepness(0.0) > 20.0 * steepness(1.0)  # what it is there for


def test_width_and_depth_of_the_decoder_are_free():
    decoder = Reconstructor(TOKENS, 3, 64, 2, 3, 1, 2)
    assert decoder(torch.randn(2, 6, 32)).shape == (2, 1, 4, 6)
    assert len(decoder.layers) == 3


def test_loss_is_alpha_of_the_foreground_and_the_rest_of_the_background(
        checkpoint: Path, data: Path):
    task = make_task(checkpoint, data, alpha=0.25)
    figures = task.model(make_batch(task))
    expected = 0.25 * figures['loss_fore'] + 0.75 * figures['loss_back']
    assert figures['loss'].item() == pytest.approx(expected.item(), rel=1e-6)


def test_kept_tokens_rebuild_the_foreground_and_dropped_ones_the_background(
        checkpoint: Path, data: Path):
    """All kept: the background's decoder sees zeros only, and with other pictures the same."""
    task = make_task(checkpoint, data)
    tokens = torch.randn(1, 2, 8, HIDDEN_SIZE)
    scores = torch.ones(1, 2, 8)
    _, back = task.model.rebuild(tokens[0], scores[0])
    _, other = task.model.rebuild(torch.randn(2, 8, HIDDEN_SIZE), scores[0])
    assert torch.equal(back, other)
    fore, _ = task.model.rebuild(tokens[0], -scores[0])
    assert torch.equal(fore, back)  # one decoder for both


def test_absent_cameras_have_no_part(checkpoint: Path, data: Path):
    task = make_task(checkpoint, data)
    batch = make_batch(task)
    batch['present'][:, 1] = False
    before = task.model(batch)['loss']
    before.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())
    batch['images'][:, 1] = 255 - batch['images'][:, 1]
    batch['classes'][:, 1] = 0
    assert task.model(batch)['loss'] == before


def test_the_encoder_is_frozen_and_not_saved(checkpoint: Path, data: Path, tmp_path: Path):
    task = make_task(checkpoint, data)
    before = [parameter.clone() for parameter in task.model.vision.parameters()]
    train(task, LOOP, tmp_path / 'run', lambda step, note: None, print)
    assert all(map(torch.equal, before, task.model.vision.parameters()))
    names = trained_weights(task.model)
    assert names
    assert not any(name.startswith('vision') for name in names)
    assert (tmp_path / 'run' / 'pictures' / '0000002.png').is_file()


def test_a_run_can_be_looked_at_and_another_checkpoint_is_refused(
        checkpoint: Path, data: Path, tmp_path: Path):
    task = make_task(checkpoint, data)
    train(task, LOOP, tmp_path / 'run', lambda step, note: None, print)
    loaded = load_training(tmp_path / 'run', checkpoint)
    batch = make_batch(task)
    assert np.array_equal(rebuilt_picture(loaded, batch), task.picture(batch))
    other = write_checkpoint(tmp_path / 'other', seed=1)
    with pytest.raises(DataError, match='was trained on another checkpoint than .*other'):
        load_training(tmp_path / 'run', other)
    with pytest.raises(DataError, match='is no run of `fastdrive train pruner`'):
        load_training(tmp_path, checkpoint)


def test_the_trained_pruner_loads_and_says_how_it_was_made(
        checkpoint: Path, data: Path, tmp_path: Path):
    task = make_task(checkpoint, data)
    train(task, LOOP, tmp_path / 'run', lambda step, note: None, print)
    task.write(tmp_path / 'pruner.safetensors', 'two steps')
    loaded = load_pruner(tmp_path / 'pruner.safetensors', 2, 2, 4)
    assert (loaded.config.trained, loaded.config.training) == (True, 'two steps')
    batch = make_batch(task)
    tokens = task.model.encode(batch['images'])
    with torch.no_grad():
        torch.testing.assert_close(loaded.scores(tokens.flatten(1, 2), batch['present']),
                                   task.model.scores(tokens, batch['present']).flatten(1))


@pytest.mark.parametrize('config', [
    {'target': 'mask'}, {'adversarial': False}, {'init': 'random'}, {'shared_decoder': False},
    {'shrink': 2}, {'cameras_per_step': 1}, {'threshold': 'random'}, {'decoder_hidden_size': 32}])
def test_every_choice_runs_and_reaches_the_pruner(checkpoint: Path, data: Path, config: dict):
    task = make_task(checkpoint, data, **config)
    figures = task.model(make_batch(task))
    figures['loss'].backward()
    assert task.model.pruner.query.grad.abs().max() > 0
    assert ('loss_back' in figures) == config.get('adversarial', True)


def test_pruner_and_decoder_begin_as_the_language_models_layers(checkpoint: Path, data: Path):
    model = make_task(checkpoint, data).model
    first = model.pruner.layer.mlp.up_proj.weight
    assert torch.equal(model.decoders[0].layers[0].mlp.up_proj.weight, first)
    assert not torch.equal(model.decoders[0].layers[1].mlp.up_proj.weight, first)


def test_foreground_share_and_recall_by_hand():
    # One camera, 2 x 4 tokens of 2 x 2 pixels: token 0 all foreground, token 5 half, no other.
    fore = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    fore[0, 0, :2, :2] = True
    fore[0, 0, 2:, 2] = True
    share = foreground_share(fore, 8)
    assert share.flatten().tolist() == [1, 0, 0, 0, 0, 0.5, 0, 0]
    # Best half: tokens 0, 1, 2, 3; best quarter: 0, 1. Token 0 holds 2/3 of the foreground.
    scores = torch.tensor([[[8.0, 7, 6, 5, 4, 3, 2, -1]]])
    figures = selection_figures(scores, fore, torch.ones(1, 1, dtype=torch.bool))
    assert figures['kept_share'].item() == pytest.approx(7 / 8)
    assert figures['recall_half'].item() == pytest.approx(2 / 3)
    assert figures['recall_quarter'].item() == pytest.approx(2 / 3)


def test_refuses_frames_without_masks_and_words_that_mean_nothing(
        checkpoint: Path, tmp_path: Path):
    bare = write_training_data(tmp_path / 'bare', masks=False)
    with pytest.raises(DataError, match='no masks of CAM_FRONT, CAM_BACK: .*fastdrive data label'):
        make_task(checkpoint, bare).samples('train', 0.0)
    with pytest.raises(ValueError, match='target must be one of pixels, mask, plan, found'):
        PrunerTrainingConfig(target='depth')
    with pytest.raises(ValueError, match='shares between 0 and 1'):
        PrunerTrainingConfig(alpha=2.0)


def test_the_picture_has_a_line_for_each_camera_and_six_columns(checkpoint: Path, data: Path):
    task = make_task(checkpoint, data)
    with torch.no_grad():
        picture = task.picture(make_batch(task))
    assert picture.shape == (2 * 56, 6 * 112, 3)
    assert picture.dtype == np.uint8
