# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The loop and the planner's task: interrupted or not, the same weights, which can plan."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_training import CAMERAS
from make_training import write_training_data

torch = pytest.importorskip('torch', reason='training needs the extra [train]')
pytest.importorskip('accelerate', reason='training needs the extra [train]')
pytest.importorskip('pyarrow', reason='datasets need the extra [data]')

from tiny_checkpoint import write_checkpoint

from fastdrive_ros.config import ConfigError
from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.checkpoint import load_driving_model
from fastdrive_ros.learn.loop import METRICS_FILE
from fastdrive_ros.learn.loop import STATE_FILE
from fastdrive_ros.learn.loop import LoopConfig
from fastdrive_ros.learn.loop import Stopped
from fastdrive_ros.learn.loop import learning_rate
from fastdrive_ros.learn.loop import read_metrics
from fastdrive_ros.learn.loop import train
from fastdrive_ros.learn.planner_task import PlannerTask
from fastdrive_ros.learn.planner_training import PlannerTrainingConfig
from fastdrive_ros.learn.planner_training import class_shares
from fastdrive_ros.learn.planner_training import extrapolation
from fastdrive_ros.learn.planner_training import fit_prior
from fastdrive_ros.learn.planner_training import way_loss
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.samples import read_ways
from fastdrive_ros.tools.recipe import read_recipe

LOOP = LoopConfig(steps=6, batch_size=2, warmup_steps=2, precision='fp32', num_workers=0,
                  log_every=2, validate_every=3, validation_batches=1, picture_every=3,
                  save_every=4)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp('data') / 'tiny')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


def make_task(checkpoint: Path, data: Path, loop: LoopConfig = LOOP, **config) -> PlannerTask:
    torch.manual_seed(0)  # the helpers' weights
    config = PlannerTrainingConfig(**{'prior_steps': 20, **config})
    return PlannerTask(checkpoint, data, CAMERAS, 56, 112, config, loop)


def run(task: PlannerTask, out: Path, loop: LoopConfig = LOOP,
        on_step: Callable[[int, str], None] = lambda step, note: None) -> dict[str, torch.Tensor]:
    train(task, loop, out, on_step, print)
    return {name: value.detach().clone() for name, value in task.weights().items()}


def interrupt_at(wanted: int) -> Callable[[int, str], None]:
    def on_step(step: int, note: str) -> None:
        if step == wanted:
            os.kill(os.getpid(), signal.SIGINT)
    return on_step


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
        checkpoint: Path, data: Path, tmp_path: Path):
    whole = run(make_task(checkpoint, data), tmp_path / 'whole')
    with pytest.raises(Stopped, match='saved step 3 of 6'):
        run(make_task(checkpoint, data), tmp_path / 'halves', on_step=interrupt_at(3))
    resumed = run(make_task(checkpoint, data), tmp_path / 'halves')
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert read_metrics(tmp_path / 'whole') == read_metrics(tmp_path / 'halves')
    assert [row['step'] for row in read_metrics(tmp_path / 'whole')] == [2, 3, 4, 6, 6]


def test_a_run_that_was_killed_goes_on_from_what_was_saved(
        checkpoint: Path, data: Path, tmp_path: Path):
    def die(step: int, note: str) -> None:
        if step == 5:
            raise OSError('killed')
    whole = run(make_task(checkpoint, data), tmp_path / 'whole')
    with pytest.raises(OSError, match='killed'):
        run(make_task(checkpoint, data), tmp_path / 'killed', on_step=die)
    (tmp_path / 'killed' / STATE_FILE).with_suffix('.partial').write_bytes(b'half a checkpoint')
    resumed = run(make_task(checkpoint, data), tmp_path / 'killed')
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert read_metrics(tmp_path / 'whole') == read_metrics(tmp_path / 'killed')


def test_a_run_begun_with_other_settings_is_not_gone_on_with(
        checkpoint: Path, data: Path, tmp_path: Path):
    run(make_task(checkpoint, data), tmp_path / 'run')
    other = LoopConfig(**{**vars(LOOP), 'learning_rate': 0.5})
    with pytest.raises(DataError, match=r'begun with learning_rate 0\.001, now 0\.5'):
        train(make_task(checkpoint, data), other, tmp_path / 'run', print, print)
    (tmp_path / 'papers').mkdir()
    (tmp_path / 'papers' / 'thesis.txt').write_text('years of work')
    with pytest.raises(DataError, match='something else than a training run'):
        train(make_task(checkpoint, data), LOOP, tmp_path / 'papers', print, print)


def test_the_trained_checkpoint_loads_says_so_and_plans(
        checkpoint: Path, data: Path, tmp_path: Path):
    task = make_task(checkpoint, data)
    run(task, tmp_path / 'run')
    task.write(tmp_path / 'trained', 'six steps')
    made = load_driving_model(
        tmp_path / 'trained', tmp_path / 'trained' / 'recon_pruner.safetensors', CAMERAS, 56, 112)
    assert made.planner.head.config.trained
    assert made.planner.head.config.training == 'six steps'
    batch = torch.utils.data.default_collate([task.samples('val', 0.0)[i] for i in (0, 1)])
    task.model.eval()
    with torch.no_grad():
        tokens = task.model.encode(batch['images'])
        head = task.model.planner.head
        states = task.model.query_states(tokens, batch['ego_history'])
        expected = head.residuals(states, batch['ego_history'])
        found = [made.planner(made.vision(batch['images'][i]), torch.arange(16),
                              batch['ego_history'][i]) for i in (0, 1)]
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-4)
    assert expected.abs().max() > 1e-3, 'six steps moved nothing'


def test_a_frozen_encoder_stays_as_it_was(checkpoint: Path, data: Path, tmp_path: Path):
    task = make_task(checkpoint, data, freeze_encoder=True)
    before = [p.clone() for p in (*task.model.vision.parameters(),
                                  *task.model.patch_embed.parameters())]
    weights = run(task, tmp_path / 'run')
    assert not any(name.startswith(('vision', 'patch_embed')) for name in weights)
    after = (*task.model.vision.parameters(), *task.model.patch_embed.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_gradients_reach_the_patch_convolution(checkpoint: Path, data: Path):
    task = make_task(checkpoint, data)
    torch.nn.init.normal_(task.model.planner.head.output.weight)  # zero lets nothing through
    batch = torch.utils.data.default_collate([task.samples('train', 0.0)[i] for i in (0, 1)])
    figures = task.model(batch)
    figures['loss'].backward()
    assert task.model.patch_embed.proj.weight.grad.abs().max() > 0


def test_steps_beyond_the_recording_do_not_count(checkpoint: Path, data: Path):
    task = make_task(checkpoint, data, class_weight=0.0, light_weight=0.0, above_weight=0.0)
    task.model.eval()
    batch = torch.utils.data.default_collate([task.samples('train', 0.0)[i] for i in (0, 1)])
    before = task.model(batch)['loss']
    batch['known'][1, 3:] = False
    masked = task.model(batch)['loss']
    batch['waypoints'][1, 3:] = 1e6
    assert task.model(batch)['loss'] == masked != before


def test_the_prior_learns_the_way_from_odometry_alone(checkpoint: Path, data: Path):
    # Every drive is the same arc: constant speed and turn rate are already right, so a way that
    # bends twice as much is what there is to learn.
    task = make_task(checkpoint, data, prior_steps=0)
    ways = read_ways(data, task.shape)
    ways['waypoints'] = 2.0 * ways['waypoints']
    head = task.model.planner.head
    before, _ = way_loss(head.prior(ways['ego_history']), ways, head.config, 2.0)
    config = PlannerTrainingConfig(prior_steps=300)
    fit_prior(head, ways, config, seed=0)
    after, l2_m = way_loss(head.prior(ways['ego_history']), ways, head.config, 2.0)
    assert after < 0.1 * before
    first = [p.clone() for p in head.ego_prior.parameters()]
    assert not any(p.requires_grad for p in head.ego_prior.parameters())
    again = make_task(checkpoint, data, prior_steps=0).model.planner.head
    fit_prior(again, ways, config, seed=0)
    assert all(map(torch.equal, first, again.ego_prior.parameters()))


def test_the_readout_is_fitted_once_more_when_all_else_is_done(checkpoint: Path, data: Path):
    task = make_task(checkpoint, data, readout_frames=8, readout_steps=20)
    head = task.model.planner.head
    before = head.output.weight.clone()
    others = {name: value.clone() for name, value in task.model.named_parameters()
              if 'readout' not in name and 'output' not in name}
    seen: list[int] = []
    task.fit_readout(seen.append)
    assert seen == [2, 4, 6, 8]
    assert not torch.equal(head.output.weight, before)
    after = dict(task.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in others.items())


def test_what_is_seen_from_above_by_hand(data: Path):
    # make_drives: drivable columns 240 to 271 of 512 cells of 0.2 m, so 3.2 m to the left and 3 m
    # to the right of base_link; a car 12 m ahead, a walker 8 m ahead and 4 m to the right.
    sample = FrameSamples(data, 'train', SampleShape(CAMERAS, 56, 112))[0]
    drivable = sample['drivable']
    assert drivable.shape == (24, 16)
    np.testing.assert_allclose(drivable[0, 5:11], [0, 0.6, 1, 1, 0.6, 0], atol=1e-6)
    agents = sample['agents']
    walker = (int((40 - 8) / 2), int((16 + 4) / 2))
    assert agents[walker] == 1.0
    assert agents[int((40 - 12) / 2)].max() == 1.0
    assert agents[:10].max() == 0.0


def test_class_shares_by_hand():
    # One camera of two tokens side by side: all road; half sky, a quarter car, a quarter unknown.
    classes = torch.full((1, 1, 4, 8), CLASSES.index('ROAD'), dtype=torch.uint8)
    classes[..., :2, 4:] = CLASSES.index('SKY')
    classes[..., 2:, 4:6] = CLASSES.index('CAR')
    classes[..., 2:, 6:] = 255
    shares = class_shares(classes, 1, 2)[0, 0]
    assert shares[0, CLASSES.index('ROAD')] == 1
    assert shares[1, CLASSES.index('SKY')] == 0.5
    assert shares[1, CLASSES.index('CAR')] == 0.25
    assert shares[1].sum() == 0.75


def test_extrapolation_is_the_vehicles_own():
    head = type('Head', (), {'num_waypoints': 6, 'dt_s': 0.5})
    history = torch.zeros(1, 4, 7)
    history[0, -1, 4:6] = torch.tensor([7.0, -0.3])
    ego = EgoState(0, 'map', (0, 0, 0), (0, 0, 0, 1), 0.0, 7.0, -0.3, 0.0, history[0].numpy())
    np.testing.assert_allclose(extrapolation(history, head)[0], extrapolate(ego, 6, 0.5),
                               atol=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    config = LoopConfig(steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == pytest.approx(1.0)
    assert learning_rate(60, config) == pytest.approx(0.01 + 0.99 * 0.5)
    assert learning_rate(110, config) == pytest.approx(0.01)


def test_recipes_are_read_and_refused(tmp_path: Path):
    recipe = tmp_path / 'mine.yaml'
    recipe.write_text('steps: 10\nlearning_rate: 1e-3\n')
    loop, config = read_recipe(str(recipe), ['class_weight=0', 'seed=3'], LoopConfig,
                               PlannerTrainingConfig)
    assert (loop.steps, loop.learning_rate, loop.seed, config.class_weight) == (10, 1e-3, 3, 0.0)
    with pytest.raises(ConfigError, match='no setting stepz; there are .*steps'):
        read_recipe(str(recipe), ['stepz=1'], LoopConfig)
    with pytest.raises(ConfigError, match="'steps' must be a int, found 1.5"):
        read_recipe(str(recipe), ['steps=1.5'], LoopConfig)
    with pytest.raises(ConfigError, match="name=value, found 'steps'"):
        read_recipe(str(recipe), ['steps'], LoopConfig)
    with pytest.raises(ConfigError, match="no recipe 'planner_giant'.*planner_nano_cpu"):
        read_recipe('planner_giant', [], LoopConfig)


def test_metrics_are_lines_of_json(checkpoint: Path, data: Path, tmp_path: Path):
    run(make_task(checkpoint, data), tmp_path / 'run')
    lines = (tmp_path / 'run' / METRICS_FILE).read_text().splitlines()
    row = json.loads(lines[-1])
    assert row['split'] == 'val'
    assert row['l2_m'] > 0
