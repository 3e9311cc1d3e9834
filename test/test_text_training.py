# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training a text planner: its loss is transformers' own, and what it learns it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs the extra [train]')
pytest.importorskip('accelerate', reason='training needs the extra [train]')
pytest.importorskip('pyarrow', reason='datasets need the extra [data]')

from make_training import write_training_data  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402

from fastdrive_ros.assemble import build_pipeline  # noqa: E402
from fastdrive_ros.config import check_settings  # noqa: E402
from fastdrive_ros.learn.export import ExportRequest  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.learn.loop import LoopConfig  # noqa: E402
from fastdrive_ros.learn.loop import read_metrics  # noqa: E402
from fastdrive_ros.learn.loop import train  # noqa: E402
from fastdrive_ros.learn.nano import PRUNER_FILE  # noqa: E402
from fastdrive_ros.learn.text_task import TextTask  # noqa: E402
from fastdrive_ros.learn.text_training import TextTrainingConfig  # noqa: E402

PROMPT = Path(__file__).resolve().parent.parent / 'config' / 'prompts' / 'front.yaml'
LOOP = LoopConfig(steps=60, batch_size=2, warmup_steps=5, learning_rate=5e-3, precision='fp32',
                  num_workers=0, log_every=10, validate_every=60, validation_batches=1,
                  picture_every=100, save_every=100)


@pytest.fixture(scope='module')
def task(tmp_path_factory: pytest.TempPathFactory) -> TextTask:
    folder = tmp_path_factory.mktemp('text')
    data = write_training_data(folder / 'data')
    return TextTask(write_checkpoint(folder / 'checkpoint'), data, PROMPT, ('CAM_FRONT',), 56, 112,
                    TextTrainingConfig(), LOOP)


def batch_of(task: TextTask, *numbers: int) -> dict:
    samples = task.samples('train', 0.0)
    rows = [samples[number] for number in numbers]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_the_loss_is_that_of_transformers_forward_on_each_frame_alone(task: TextTask) -> None:
    batch = batch_of(task, 0, 1)
    batch['known'][:] = True
    model, qwen = task.model.eval(), task._qwen
    expected = []
    with torch.inference_mode():
        found = model(batch)
        tokens = model.encode(batch['images'])
        for row in range(2):
            rows, num_answered = model._example(batch['ego_history'][row].numpy(),
                                                batch['waypoints'][row].numpy())
            ids = torch.from_numpy(rows.token_ids)[None]
            is_image = ids == qwen.config.image_token_id
            embeddings = qwen.get_input_embeddings()(ids)
            embeddings[is_image] = tokens[row]
            positions, _ = qwen.model.get_rope_index(
                ids, mm_token_type_ids=is_image.int(), image_grid_thw=torch.tensor([[1, 4, 8]]))
            labels = ids.clone()
            labels[:, :-num_answered] = -100
            expected.append(qwen(inputs_embeds=embeddings, position_ids=positions,
                                 labels=labels).loss)
    np.testing.assert_allclose(found['loss'], torch.stack(expected).mean(), rtol=1e-5)


def test_a_frame_whose_way_is_not_known_teaches_nothing(task: TextTask) -> None:
    batch = batch_of(task, 0, 1)
    batch['known'][:] = True
    batch['known'][1, -1] = False
    alone = {name: value[:1] for name, value in batch.items()}
    with torch.inference_mode():
        # The vision tower is for as many pictures as the training's batch.
        alone = {name: torch.cat([value, value]) for name, value in alone.items()}
        np.testing.assert_allclose(task.model(batch)['loss'], task.model(alone)['loss'],
                                   rtol=1e-5)


def test_a_short_training_learns_the_form_and_drives(task: TextTask, tmp_path: Path) -> None:
    frozen = task.model.patch_embed.proj.weight.clone()
    train(task, LOOP, tmp_path / 'run', lambda step, note: None, lambda line: None)
    rows = [row for row in read_metrics(tmp_path / 'run') if row['split'] == 'train']
    assert rows[-1]['loss'] < 0.5 * rows[0]['loss']
    assert rows[-1]['token_accuracy'] > 0.6
    assert torch.equal(frozen, task.model.patch_embed.proj.weight)
    checkpoint = tmp_path / 'run' / 'checkpoint'
    task.write(checkpoint)
    bundle = export_bundle(ExportRequest(
        checkpoint, checkpoint / PRUNER_FILE, tmp_path / 'bundle', 'text', ('CAM_FRONT',), 56, 112,
        prompt=PROMPT), lambda line: None)
    assert bundle.planner['frame_agreement'] > 0.6 and bundle.planner['trained']
    build_pipeline(check_settings({'bundle': str(bundle.path),
                                   'backend': 'onnxruntime'})).pipeline.close()
