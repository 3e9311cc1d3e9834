# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Grounded-SAM labelling: the config, the merging rule, the models, and the checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('transformers', reason='labelling needs the extra [label]')

from tiny_grounded_sam import bert_tokenizer
from tiny_grounded_sam import write_detector
from tiny_grounded_sam import write_segmenter

from fastdrive_ros.config import share_dir
from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.classes import FOREGROUND
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.foreground import ForegroundConfig
from fastdrive_ros.learn.foreground import Sought
from fastdrive_ros.learn.foreground import distinct
from fastdrive_ros.learn.foreground import paint
from fastdrive_ros.learn.foreground import read_foreground
from fastdrive_ros.learn.grounded_checkpoint import DETECTOR
from fastdrive_ros.learn.grounded_checkpoint import SEGMENTER
from fastdrive_ros.learn.grounded_checkpoint import check_checkpoint
from fastdrive_ros.learn.grounded_checkpoint import checkpoint_sha256
from fastdrive_ros.learn.grounded_checkpoint import load_checkpoint
from fastdrive_ros.learn.grounded_sam import GroundedSam
from fastdrive_ros.learn.grounded_sam import phrase_spans
from fastdrive_ros.learn.grounded_sam import to_boxes

SHIPPED = share_dir() / 'config' / 'foreground.yaml'
ROAD, CAR, PEDESTRIAN = (CLASSES.index(name) for name in ('ROAD', 'CAR', 'PEDESTRIAN'))
TWO = ForegroundConfig(0.3, 0.25, 0.8, 2, 2, (
    Sought('ROAD', ('road',), 0.3, 0.25),
    Sought('TRAFFIC_LIGHT', ('traffic light',), 0.4, 0.25)))


@pytest.fixture(scope='module')
def detector(tmp_path_factory: Any) -> Path:
    return write_detector(tmp_path_factory.mktemp('models') / 'detector')


@pytest.fixture(scope='module')
def segmenter(tmp_path_factory: Any) -> Path:
    return write_segmenter(tmp_path_factory.mktemp('models') / 'segmenter')


def noise(count: int, height: int = 48, width: int = 80) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


# The config file.


def changed(folder: Path, **fields: Any) -> Path:
    """Return the shipped config with some fields replaced; None takes one out."""
    tree = {**yaml.safe_load(SHIPPED.read_text()), **fields}
    file = folder / 'foreground.yaml'
    file.write_text(yaml.safe_dump({key: value for key, value in tree.items()
                                    if value is not None}, sort_keys=False))
    return file


def test_the_shipped_config_seeks_the_classes_of_the_paper_and_paints_people_last():
    config = read_foreground(SHIPPED)
    names = [sought.name for sought in config.classes]
    assert (names[0], names[-1]) == ('ROAD', 'PEDESTRIAN')
    assert set(FOREGROUND) - set(names) == {'LANE_LINE', 'CROSSWALK'}
    assert config.text().startswith('road. traffic barrier. guard rail. ')
    assert config.text().endswith(' traffic light. person.')


def test_a_class_may_have_its_own_thresholds(tmp_path: Path):
    config = read_foreground(changed(tmp_path, classes=[
        {'class': 'CAR', 'prompts': ['car', 'van'], 'box_threshold': 0.5}]))
    assert config.classes == (Sought('CAR', ('car', 'van'), 0.5, 0.25),)


def test_batch_sizes_are_no_part_of_what_labels_are(tmp_path: Path):
    usual = read_foreground(SHIPPED)
    assert read_foreground(changed(tmp_path, boxes_per_batch=1)).identity() == usual.identity()
    assert read_foreground(changed(tmp_path, box_threshold=0.4)).identity() != usual.identity()


@pytest.mark.parametrize(('fields', 'match'), [
    ({'treshold': 1}, r'foreground.yaml: unknown field treshold in the file, there are box_thr'),
    ({'duplicate_iou': None}, 'duplicate_iou missing'),
    ({'box_threshold': 1.5}, 'box_threshold must be above 0 and at most 1, found 1.5'),
    ({'boxes_per_batch': 0}, 'boxes_per_batch must be a whole number from 1, found 0'),
    ({'classes': []}, 'at least one class'),
    ({'classes': ['CAR']}, 'an entry of classes must be fields'),
    ({'classes': [{'class': 'CAT', 'prompts': ['cat']}]}, "unknown class 'CAT', there are CAR,"),
    ({'classes': [{'class': 'CAR', 'prompts': []}]}, 'class CAR needs a list of prompts'),
    ({'classes': [{'class': 'CAR', 'prompts': [' ']}]}, 'class CAR has an empty prompt'),
    ({'classes': [{'class': 'CAR', 'prompts': ['Car.']}]}, "prompt 'Car.' must be in lower case"),
    ({'classes': [{'class': 'CAR', 'prompts': ['car'], 'colour': 1}]}, 'unknown field colour in'),
    ({'classes': [{'class': 'CAR', 'prompts': ['car']}] * 2}, 'class CAR is there more than once'),
    ({'classes': [{'class': 'CAR', 'prompts': ['car']}, {'class': 'BUS', 'prompts': ['car']}]},
     'prompt car is there more than once'),
    ({'classes': [{'class': 'CAR', 'prompts': ['car'], 'box_threshold': 0.1}]},
     'class CAR: text_threshold 0.25 is above box_threshold 0.1'),
])
def test_a_wrong_config_is_refused(tmp_path: Path, fields: dict[str, Any], match: str):
    with pytest.raises(DataError, match=match):
        read_foreground(changed(tmp_path, **fields))


def test_a_config_that_is_no_yaml_or_not_there_is_refused(tmp_path: Path):
    (tmp_path / 'bad.yaml').write_text('classes: [')
    for name in ('bad.yaml', 'none.yaml'):
        with pytest.raises(DataError, match=f'cannot read the foreground config .*{name}'):
            read_foreground(tmp_path / name)


# The merging rule.


def test_later_classes_are_painted_over_earlier_ones():
    road = np.ones((2, 4), dtype=bool)
    car = np.array([[0, 1, 1, 0]] * 2, dtype=bool)
    person = np.array([[0, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    mask = paint(2, 4, ('ROAD', 'CAR', 'PEDESTRIAN'),
                 [('PEDESTRIAN', person), ('CAR', car), ('ROAD', road)])
    assert mask.tolist() == [[ROAD, CAR, PEDESTRIAN, ROAD], [ROAD, CAR, CAR, ROAD]]


def test_what_nothing_covers_is_unlabeled_and_a_mask_of_another_size_is_refused():
    assert paint(2, 3, ('CAR',), []).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match='the picture is 3x2, a mask of CAR is 2x3'):
        paint(2, 3, ('CAR',), [('CAR', np.ones((3, 2), dtype=bool))])


def test_of_boxes_that_nearly_coincide_the_best_stays():
    # 10x10 boxes; the second is moved by 1 (IoU 90/110 = 0.818), the third by 2 (80/120 = 0.667).
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10]], dtype=float)
    assert distinct(boxes, np.array([0.5, 0.9, 0.7]), 0.8).tolist() == [1]
    assert distinct(boxes, np.array([0.9, 0.5, 0.7]), 0.8).tolist() == [0, 2]
    assert distinct(boxes, np.array([0.9, 0.5, 0.7]), 0.9).tolist() == [0, 2, 1]
    assert distinct(boxes[:0], np.zeros(0), 0.8).tolist() == []


# Text and boxes.


def test_each_phrase_has_its_tokens(tmp_path: Path):
    tokenizer = bert_tokenizer(tmp_path)
    ids = tokenizer(TWO.text())['input_ids']
    # [CLS] road . traffic light . [SEP]
    assert phrase_spans(tokenizer, ids, TWO, 256) == [slice(1, 2), slice(3, 5)]
    with pytest.raises(DataError, match='7 tokens together, the detector reads 6'):
        phrase_spans(tokenizer, ids, TWO, 6)
    with pytest.raises(DataError, match='reads 2 phrases in .* there are 3 prompts'):
        three = ForegroundConfig(0.3, 0.25, 0.8, 2, 2, (
            *TWO.classes, Sought('CAR', ('car',), 0.3, 0.25)))
        phrase_spans(tokenizer, ids, three, 256)


def test_a_word_the_tokenizer_does_not_know_is_refused(tmp_path: Path):
    config = ForegroundConfig(0.3, 0.25, 0.8, 2, 2, (Sought('CAR', ('zeppelin',), 0.3, 0.25),))
    tokenizer = bert_tokenizer(tmp_path)
    with pytest.raises(DataError, match="class CAR: .* does not know the prompt 'zeppelin'"):
        phrase_spans(tokenizer, tokenizer(config.text())['input_ids'], config, 256)


def test_a_box_is_of_the_class_whose_phrase_fits_best():
    # Tokens: [CLS] road . traffic light . [SEP]
    scores = np.array([
        [0.0, 0.9, 0.0, 0.1, 0.1, 0.0, 0.0],   # road
        [0.0, 0.31, 0.0, 0.7, 0.6, 0.0, 0.0],  # both pass; traffic light's mean 0.65 wins
        [0.0, 0.2, 0.0, 0.45, 0.01, 0.0, 0.0],  # only 'traffic': mean 0.23 is below 0.25
        [0.0, 0.1, 0.9, 0.39, 0.39, 0.0, 0.0],  # best word below the class's own 0.4; a dot
        [0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0],   # repeats the first box
    ])
    middles = np.array([[0.5, 0.5, 0.5, 1.0], [0.9, 0.5, 0.4, 0.2], [0.2, 0.2, 0.2, 0.2],
                        [0.4, 0.4, 0.2, 0.2], [0.5, 0.5, 0.5, 0.98]])
    boxes = to_boxes(scores, middles, [slice(1, 2), slice(3, 5)], TWO, 100, 200)
    assert [(box.name, round(box.score, 3)) for box in boxes] == [
        ('ROAD', 0.9), ('TRAFFIC_LIGHT', 0.65)]
    assert boxes[0].corners_px == pytest.approx((50, 0, 150, 100))
    assert boxes[1].corners_px == pytest.approx((140, 40, 200, 60))  # cut at the picture's edge


# The models.


def test_tiny_models_label_pictures_of_every_size(detector: Path, segmenter: Path):
    model = GroundedSam(detector, segmenter, read_foreground(SHIPPED), 'cpu')
    pictures = [*noise(7), *noise(1, 90, 50)]
    labels = model.label(pictures)
    assert [found.mask.shape for found in labels] == [picture.shape[:2] for picture in pictures]
    for found, picture in zip(labels, pictures):
        names = {box.name for box in found.boxes}
        assert {CLASSES[i] for i in np.unique(found.mask)} <= {'UNLABELED', *names}
        corners = np.array([box.corners_px for box in found.boxes])
        assert (corners >= 0).all() and (corners <= [*picture.shape[1::-1]] * 2).all()
        assert list(found.boxes) == sorted(found.boxes, key=lambda box: -box.score)
    assert sum(len(found.boxes) for found in labels) > 8
    assert any(len(np.unique(found.mask)) > 1 for found in labels)


def test_labels_do_not_depend_on_the_batch_sizes(
        tmp_path: Path, detector: Path, segmenter: Path):
    file = changed(tmp_path, pictures_per_batch=1, boxes_per_batch=1)
    pictures = noise(4)
    one, many = (GroundedSam(detector, segmenter, read_foreground(path), 'cpu').label(pictures)
                 for path in (file, SHIPPED))
    for a, b in zip(one, many):
        assert [box.name for box in a.boxes] == [box.name for box in b.boxes]
        assert (a.mask != b.mask).mean() < 0.01


def test_a_picture_in_which_nothing_is_found_is_background(
        tmp_path: Path, detector: Path, segmenter: Path):
    file = changed(tmp_path, classes=[{'class': 'CAR', 'prompts': ['car'], 'box_threshold': 1.0,
                                       'text_threshold': 1.0}])
    found, = GroundedSam(detector, segmenter, read_foreground(file), 'cpu').label(noise(1))
    assert found.boxes == () and not found.mask.any()


# Folders that are no checkpoint.


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / 'copy'))


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match='grounding-dino checkpoint folder as detector at .*none, '
                                        'found no such folder. .* IDEA-Research/grounding-dino-b'):
        check_checkpoint(DETECTOR, tmp_path / 'none')
    with pytest.raises(DataError, match='expected config.json in the segmenter folder .*, found '
                                        'nothing. .* facebook/sam-vit-huge'):
        check_checkpoint(SEGMENTER, tmp_path)
    (tmp_path / 'config.json').write_text('[]')
    with pytest.raises(DataError, match='expected a JSON object in .*config.json'):
        check_checkpoint(SEGMENTER, tmp_path)


def test_another_architecture_is_refused_by_name(detector: Path, segmenter: Path):
    with pytest.raises(DataError, match="expected model_type grounding-dino in .*, found 'sam'"):
        check_checkpoint(DETECTOR, segmenter)
    with pytest.raises(DataError, match="model_type sam or sam2 or .*, found 'grounding-dino'"):
        check_checkpoint(SEGMENTER, detector)


@pytest.mark.parametrize(('lost', 'match'), [
    ('processor_config.json', 'expected preprocessor_config.json or processor_config.json in the'),
    ('tokenizer_config.json', 'expected tokenizer_config.json .* the processor is missing'),
    ('model.safetensors', r'expected weights \(\*.safetensors or .* found none'),
])
def test_a_missing_file_is_named(tmp_path: Path, detector: Path, lost: str, match: str):
    folder = copy_of(detector, tmp_path)
    (folder / lost).unlink()
    with pytest.raises(DataError, match=match):
        check_checkpoint(DETECTOR, folder)


def test_weights_cut_short_are_refused(tmp_path: Path, segmenter: Path):
    file = copy_of(segmenter, tmp_path) / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match='the segmenter in .* cannot be loaded: .*whole.*sam-vit'):
        load_checkpoint(SEGMENTER, file.parent, 'cpu')


def test_weights_of_another_model_are_never_filled_up_with_random_numbers(
        tmp_path: Path, detector: Path, segmenter: Path):
    folder = copy_of(segmenter, tmp_path)
    shutil.copy(detector / 'model.safetensors', folder / 'model.safetensors')
    with pytest.raises(DataError, match='lacks .* of its weights .*do not belong'):
        load_checkpoint(SEGMENTER, folder, 'cpu')


def test_another_checkpoint_has_another_sha256(tmp_path: Path, segmenter: Path):
    same = copy_of(segmenter, tmp_path)
    assert checkpoint_sha256(same) == checkpoint_sha256(segmenter)
    other = write_segmenter(tmp_path / 'other', seed=1)
    assert checkpoint_sha256(other) != checkpoint_sha256(segmenter)
    assert json.loads((other / 'config.json').read_text())['model_type'] == 'sam'
