# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pruner that a planner teaches: closed gates are dropped tokens, and both have a gradient."""

from __future__ import annotations

import dataclasses
from pathlib import Path

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
from fastdrive_ros.learn.pruner_task import PrunerTask
from fastdrive_ros.learn.pruner_task import load_training
from fastdrive_ros.learn.pruner_training import PrunerTrainingConfig
from fastdrive_ros.learn.recon_pruner import load_pruner
from fastdrive_ros.learn.waypoint_head import HEAD_FILE
from fastdrive_ros.learn.waypoint_head import save_head
from fastdrive_ros.learn.waypoint_head import untrained_head

LOOP = LoopConfig(steps=2, batch_size=2, precision='fp32', num_workers=0, log_every=1,
                  validate_every=2, validation_batches=1, picture_every=2, save_every=2)
CONFIG = PrunerTrainingConfig(target='plan', threshold='random', pruner_rate=1.0)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Masks are for the figures only.
    return write_training_data(tmp_path_factory.mktemp('data') / 'tiny', masks=False)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp('checkpoint'))
    head = untrained_head(HIDDEN_SIZE, len(CAMERAS))
    head.config = dataclasses.replace(head.config, trained=True)
    torch.nn.init.normal_(head.output.weight, generator=torch.Generator().manual_seed(1))
    save_head(head, folder / HEAD_FILE)
    return folder


@pytest.fixture
def task(checkpoint: Path, data: Path) -> PrunerTask:
    return PrunerTask(checkpoint, data, CAMERAS, 56, 112, CONFIG, LOOP)


def make_batch(task: PrunerTask) -> dict[str, torch.Tensor]:
    samples = task.samples('train', 0.0)
    return torch.utils.data.default_collate([samples[0], samples[1]])


def test_a_closed_gate_is_a_dropped_token(task: PrunerTask):
    model, batch = task.model, make_batch(task)
    tokens = model.encode(batch['images'])                              # (2, 2, 8, D)
    kept = torch.tensor([0, 3, 4, 9, 15])
    gates = torch.zeros(2, 16)
    gates[:, kept] = 1.0
    with torch.no_grad():
        gated = model.query_states(tokens, gates.view(2, 2, 8), batch['ego_history'])
        model.planner.layers[0].self_attn.config._attn_implementation = 'eager'
        pruned = model.planner.hidden_states(
            tokens.flatten(1, 2)[:, kept], kept.expand(2, -1), batch['ego_history'])
    torch.testing.assert_close(gated, pruned[:, -6:], rtol=1e-4, atol=1e-5)


def test_kept_and_dropped_tokens_have_a_gradient(task: PrunerTask):
    model, batch = task.model, make_batch(task)
    gates = torch.zeros(2, 2, 8)
    gates[..., ::2] = 1.0
    gates.requires_grad_(True)
    states = model.query_states(model.encode(batch['images']), gates, batch['ego_history'])
    states.square().sum().backward()
    assert (gates.grad.abs() > 0).all()


def test_only_the_pruner_learns_and_with_every_token_kept_there_is_nothing_to_learn(
        task: PrunerTask, monkeypatch: pytest.MonkeyPatch):
    figures = task.model(make_batch(task))
    figures['loss'].backward()
    learning = {name for name, parameter in task.model.named_parameters()
                if parameter.grad is not None and parameter.grad.abs().max() > 0}
    assert learning and all(name.startswith('pruner.') for name in learning)
    assert figures['states'] > 0
    monkeypatch.setattr('fastdrive_ros.learn.plan_keeping.above_random_share',
                        lambda scores, present, generator: torch.ones_like(scores))
    kept = task.model(make_batch(task))
    assert kept['states'].item() == pytest.approx(0.0, abs=1e-9)
    assert kept['off_m'].item() == pytest.approx(0.05, abs=1e-4)  # its rounded tip


def test_absent_cameras_have_no_part(task: PrunerTask):
    batch = make_batch(task)
    batch['present'][:, 1] = False
    task.model.eval()
    before = task.model(batch)['loss']
    before.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())
    batch['images'][:, 1] = 255 - batch['images'][:, 1]
    assert task.model(batch)['loss'].item() == pytest.approx(before.item(), abs=1e-4)


def test_it_trains_and_loads_as_any_pruner_and_rebuilds_nothing(
        task: PrunerTask, checkpoint: Path, tmp_path: Path):
    train(task, LOOP, tmp_path / 'run', lambda step, note: None, print)
    task.write(tmp_path / 'pruner.safetensors', 'two steps')
    loaded = load_pruner(tmp_path / 'pruner.safetensors', 2, 2, 4)
    assert loaded.config.trained
    with pytest.raises(DataError, match="trained with target 'plan': it rebuilds nothing"):
        load_training(tmp_path / 'run', checkpoint)


def test_what_cannot_be_learned_from_is_refused(data: Path, tmp_path: Path):
    bare = write_checkpoint(tmp_path / 'bare')
    with pytest.raises(DataError, match='holds no trained planner'):
        PrunerTask(bare, data, CAMERAS, 56, 112, CONFIG, LOOP)
    with pytest.raises(ValueError, match="target 'plan' needs threshold 'random'"):
        PrunerTrainingConfig(target='plan')
