# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The one training loop: a task and its samples -> weights, through any interruption.

    RUN/run.json          what is trained with which settings; another one is never mixed in
    RUN/last.pt           weights, optimiser, step; replaced as a whole, never half written
    RUN/metrics.jsonl     a line every few steps
    RUN/tensorboard/      the same for TensorBoard, with pictures
    RUN/pictures/         what the model sees, as PNG

Step k sees the same batch whether the run was interrupted or not, so a resumed run ends with the
same weights. Ctrl-C finishes the step, saves and stops. Several GPUs: `accelerate launch`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate import PartialState
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import StepBatches
from fastdrive_ros.learn.samples import loader

RUN_FILE, STATE_FILE, METRICS_FILE = 'run.json', 'last.pt', 'metrics.jsonl'
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast; the same for every task."""

    steps: int
    batch_size: int = 8
    """Frames of a step, over all processes."""
    learning_rate: float = 1e-3
    """At its peak; it falls to a hundredth of that as a cosine."""
    warmup_steps: int = 100
    weight_decay: float = 0.05
    """AdamW's, on matrices only."""
    gradient_clip: float = 1.0
    """Largest norm of a step's gradient."""
    precision: str = 'bf16'
    """'bf16' (autocast) or 'fp32'."""
    compile: bool = False
    """torch.compile what takes the time: a third faster on CPUs, needs a C++ compiler."""
    brightness: float = 0.2
    """Share by which gain and offset of a frame's pictures vary."""
    seed: int = 0
    num_workers: int = 1
    """Processes that read and decode ahead."""
    log_every: int = 20
    validate_every: int = 500
    validation_batches: int = 24
    picture_every: int = 500
    save_every: int = 100


class Task(Protocol):
    """What is trained, and on what."""

    name: str
    model: nn.Module
    """forward(batch) -> {'loss': ..., other scalars}."""
    settings: Mapping[str, Any]
    """JSON-able; a run goes on only with the same."""
    rates: Mapping[str, float]
    """Beginning of a parameter's name -> share of the learning rate that it gets."""

    def samples(self, split: str, brightness: float) -> FrameSamples:
        """Return the frames of a split."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters of ``model`` that a checkpoint must hold, by name."""

    def picture(self, batch: Batch) -> np.ndarray | None:
        """Return uint8 (H, W, 3) RGB of what the model makes of one batch, if there is any."""


class Stopped(KeyboardInterrupt):
    """The run was interrupted; everything is saved."""


def train(task: Task, config: LoopConfig, out: Path,
          on_step: Callable[[int, str], None], say: Callable[[str], None]) -> None:
    """
    Train to the last step, from where ``out`` stopped.

    Raises DataError when ``out`` belongs to another run, Stopped after Ctrl-C.
    """
    accelerator = Accelerator(mixed_precision='no' if config.precision == 'fp32' else 'bf16',
                              cpu=not torch.cuda.is_available())
    settings = {'task': task.name, **task.settings, **dataclasses.asdict(config)}
    if accelerator.is_main_process:
        _begin(out, settings)
    accelerator.wait_for_everyone()
    run = _Run(task, config, out, accelerator)
    if run.step:
        say(f'going on from step {run.step} of {config.steps}')
    with _interruptible() as interrupted:
        for batch in run.batches():
            run.learn(batch)
            on_step(run.step, run.note)
            if _anywhere(accelerator, interrupted):
                run.save()
                raise Stopped(f'saved step {run.step} of {config.steps}: the same command goes on')
    run.save()
    run.writer.close()


class _Run:
    """Everything that changes from step to step."""

    def __init__(self, task: Task, config: LoopConfig, out: Path,
                 accelerator: Accelerator) -> None:
        self.step, self.note = 0, ''
        self._task, self._config, self._out, self._accelerator = task, config, out, accelerator
        self._optimiser = torch.optim.AdamW(
            _groups(task.model, config.weight_decay, task.rates), lr=config.learning_rate,
            betas=(0.9, 0.98))
        self._window: list[dict[str, float]] = []
        self._load()
        self._model, self._optimiser = accelerator.prepare(task.model, self._optimiser)
        self.writer = SummaryWriter(out / 'tensorboard', purge_step=self.step or None)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from this step on."""
        config, accelerator = self._config, self._accelerator
        samples = self._task.samples('train', config.brightness)
        order = StepBatches(samples.lengths, config.batch_size, self.step, config.steps,
                            config.seed, accelerator.process_index, accelerator.num_processes)
        for batch in loader(samples, order, config.num_workers):
            yield self._to_device(batch)

    def learn(self, batch: Batch) -> None:
        """Take one step, then do what is due after it."""
        config, accelerator = self._config, self._accelerator
        self._model.train()
        for group in self._optimiser.param_groups:
            group['lr'] = group['share'] * learning_rate(self.step, config)
        with accelerator.autocast():
            figures = self._model(batch)
        if not torch.isfinite(figures['loss']):
            raise DataError(f'the loss is not finite at step {self.step}: lower learning_rate or '
                            f'gradient_clip, and go on from {self._out / STATE_FILE}')
        accelerator.backward(figures['loss'])
        accelerator.clip_grad_norm_(self._model.parameters(), config.gradient_clip)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._window.append({name: value.item() for name, value in figures.items()})
        last = self.step == config.steps
        if self.step % config.log_every == 0 or last:
            self._log('train', _mean(self._window))
            self._window.clear()
        if self.step % config.validate_every == 0 or last:
            self._log('val', self._validate())
        if self.step % config.picture_every == 0 or last:
            self._picture()
        if self.step % config.save_every == 0:
            self.save()

    def save(self) -> None:
        """Replace RUN/last.pt."""
        if not self._accelerator.is_main_process:
            return
        path = self._out / STATE_FILE
        partial = path.with_suffix('.partial')
        with partial.open('wb') as file:
            torch.save({
                'step': self.step, 'window': self._window,
                'weights': self._task.weights(),
                'optimiser': self._optimiser.state_dict(),
            }, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def _load(self) -> None:
        path = self._out / STATE_FILE
        if not path.is_file():
            return
        state = torch.load(path, map_location='cpu', weights_only=True)
        self._task.model.load_state_dict(state['weights'], strict=False)
        self._optimiser.load_state_dict(state['optimiser'])
        self.step, self._window = state['step'], state['window']
        if self._accelerator.is_main_process:
            _forget_after(self._out / METRICS_FILE, self.step)

    def _validate(self) -> dict[str, float]:
        """Return the mean figures over the same frames every time."""
        config, accelerator = self._config, self._accelerator
        samples = self._task.samples('val', 0.0)
        size = min(config.batch_size, len(samples) // accelerator.num_processes
                   * accelerator.num_processes)
        batches = min(config.validation_batches, len(samples) // size)
        order = StepBatches(samples.lengths, size, 0, batches, 0, accelerator.process_index,
                            accelerator.num_processes)
        self._model.eval()
        found = []
        with torch.no_grad(), accelerator.autocast():
            for batch in loader(samples, order, config.num_workers):
                figures = self._model(self._to_device(batch))
                found.append({name: accelerator.reduce(value, 'mean').item()
                              for name, value in figures.items()})
        return _mean(found)

    def _picture(self) -> None:
        if not self._accelerator.is_main_process:
            return
        samples = self._task.samples('val', 0.0)
        batch = torch.utils.data.default_collate([samples[len(samples) // 2]])
        with torch.no_grad():
            picture = self._task.picture(self._to_device(batch))
        if picture is None:
            return
        folder = self._out / 'pictures'
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f'{self.step:07d}.png'), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self.writer.add_image('picture', picture, self.step, dataformats='HWC')

    def _log(self, split: str, figures: Mapping[str, float]) -> None:
        if not self._accelerator.is_main_process:
            return
        row = {'step': self.step, 'split': split,
               'learning_rate': learning_rate(self.step - 1, self._config), **figures}
        with (self._out / METRICS_FILE).open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')
        for name, value in figures.items():
            self.writer.add_scalar(f'{split}/{name}', value, self.step)
        if split == 'train':
            self.note = f'loss {figures["loss"]:.3f}'

    def _to_device(self, batch: Batch) -> Batch:
        return {name: value.to(self._accelerator.device, non_blocking=True)
                for name, value in batch.items()}


def learning_rate(step: int, config: LoopConfig) -> float:
    """Return the rate of step 0, 1, ...: linear warm-up, then a cosine to a hundredth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    part = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * part)))


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what the optimiser may change, by name; a frozen encoder is not saved again."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()
            if parameter.requires_grad}


def local_batch(config: LoopConfig) -> int:
    """Return how many frames of a step are this process's."""
    return config.batch_size // _processes().num_processes


def is_main_process() -> bool:
    """Return whether this process is the one of `accelerate launch` that writes files."""
    return _processes().is_main_process


def saved_step(out: Path) -> int:
    """Return the step that a run would go on from."""
    path = out / STATE_FILE
    return torch.load(path, map_location='cpu', weights_only=True)['step'] if path.is_file() else 0


def _processes() -> PartialState:
    """Return who trains along; who asks first decides for all whether that is on CPUs."""
    return PartialState(cpu=not torch.cuda.is_available())


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Return the rows of RUN/metrics.jsonl."""
    path = out / METRICS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def _groups(model: nn.Module, weight_decay: float,
            rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return AdamW's groups: biases, norms and single vectors do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = next((rates[start] for start in rates if name.startswith(start)), 1.0)
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return [{'params': parameters, 'share': share, 'weight_decay': decay}
            for (share, decay), parameters in groups.items()]


def _begin(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the run's folder, or see that it was begun with the same settings."""
    path = out / RUN_FILE
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f'{out} holds something else than a training run: choose another '
                            '--out')
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + '\n', encoding='utf-8')
        return
    begun = json.loads(path.read_text(encoding='utf-8'))
    other = [f'{name} {begun.get(name)!r}, now {settings.get(name)!r}'
             for name in sorted({*begun, *settings}) if begun.get(name) != settings.get(name)]
    if other:
        raise DataError(f'{out} was begun with {"; ".join(other)}: give the same settings to go '
                        'on, or another --out to begin anew')


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    if path.is_file():
        rows = [line for line in path.read_text(encoding='utf-8').splitlines()
                if json.loads(line)['step'] <= step]
        path.write_text(''.join(f'{row}\n' for row in rows), encoding='utf-8')


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one is obeyed at once."""
    found: list[int] = []

    def note(signum: int, frame: Any) -> None:
        if found:
            raise KeyboardInterrupt
        found.append(signum)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _anywhere(accelerator: Accelerator, interrupted: list[int]) -> bool:
    """Return whether any process was interrupted, so that all stop at the same step."""
    if accelerator.num_processes == 1:
        return bool(interrupted)
    flag = torch.tensor(float(bool(interrupted)), device=accelerator.device)
    return accelerator.reduce(flag, 'sum').item() > 0
