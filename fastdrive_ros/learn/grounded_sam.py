# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Pictures -> class-id masks, by Grounded-SAM: text finds boxes, boxes become masks.

    uint8 (H, W, 3) RGB --Grounding DINO, all prompts in one text--> boxes with classes
                        --SAM or SAM 2--> a mask a box --foreground.paint--> uint8 (H, W)

A box gets its class from the detector's scores on the tokens of each phrase, as Grounding DINO's
own evaluation does it, not from the words transformers' post-processing returns: those are
whatever tokens passed a threshold ('traffic', 'car van'), and fit no phrase any more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.foreground import Box
from fastdrive_ros.learn.foreground import ForegroundConfig
from fastdrive_ros.learn.foreground import distinct
from fastdrive_ros.learn.foreground import paint
from fastdrive_ros.learn.grounded_checkpoint import DETECTOR
from fastdrive_ros.learn.grounded_checkpoint import SEGMENTER
from fastdrive_ros.learn.grounded_checkpoint import load_checkpoint

_MIN_SIDE_PX = 1.0


@dataclass(frozen=True)
class Labels:
    """What one picture shows."""

    mask: np.ndarray
    """uint8 (H, W), class ids."""
    boxes: tuple[Box, ...]
    """Best first."""
    detect_ms: float
    """The batch's time by its number of pictures."""
    segment_ms: float
    """Masks and painting."""


class GroundedSam:
    """Both models on one device."""

    def __init__(self, detector: Path, segmenter: Path, config: ForegroundConfig,
                 device: str) -> None:
        """Load; DataError when a folder does not fit or the prompts cannot be read."""
        self._config = config
        self._device = device
        self._detector_processor, self._detector = load_checkpoint(DETECTOR, detector, device)
        self._segmenter_processor, self._segmenter = load_checkpoint(SEGMENTER, segmenter, device)
        self._text = self._detector_processor.tokenizer(
            config.text(), return_tensors='pt', return_token_type_ids=True)
        self._spans = phrase_spans(self._detector_processor.tokenizer,
                                   self._text['input_ids'][0].tolist(), config,
                                   self._detector.config.max_text_len)

    @property
    def pictures_per_batch(self) -> int:
        """How many pictures the detector sees at once."""
        return self._config.pictures_per_batch

    @torch.inference_mode()
    def label(self, pictures: Sequence[np.ndarray]) -> list[Labels]:
        """Label RGB pictures, uint8 (H, W, 3) each, in batches of the config's size."""
        labels = []
        try:
            for start in range(0, len(pictures), self._config.pictures_per_batch):
                batch = pictures[start:start + self._config.pictures_per_batch]
                began_s = time.perf_counter()
                found = self._detect(batch)
                detect_ms = self._since_ms(began_s) / len(batch)
                labels += [self._segment(picture, boxes, detect_ms)
                           for picture, boxes in zip(batch, found)]
        except torch.OutOfMemoryError as error:
            raise DataError('the GPU memory ran out: lower pictures_per_batch or boxes_per_batch '
                            'in the foreground config, or label with fewer workers') from error
        return labels

    def _detect(self, pictures: Sequence[np.ndarray]) -> list[list[Box]]:
        inputs = self._detector_processor.image_processor(images=list(pictures),
                                                          return_tensors='pt')
        text = {name: tokens.repeat(len(pictures), 1) for name, tokens in self._text.items()}
        outputs = self._detector(**inputs.to(self._device),
                                 **{name: tokens.to(self._device)
                                    for name, tokens in text.items()})
        scores = outputs.logits.sigmoid().cpu().numpy()  # (B, queries, tokens)
        boxes = outputs.pred_boxes.cpu().numpy()  # (B, queries, 4) middle and size, 0..1
        return [to_boxes(scores[i], boxes[i], self._spans, self._config, *picture.shape[:2])
                for i, picture in enumerate(pictures)]

    def _segment(self, picture: np.ndarray, boxes: list[Box], detect_ms: float) -> Labels:
        began_s = time.perf_counter()
        mask = paint(*picture.shape[:2], [sought.name for sought in self._config.classes],
                     list(self._areas(picture, boxes).items()))
        return Labels(mask, tuple(boxes), detect_ms, self._since_ms(began_s))

    def _areas(self, picture: np.ndarray, boxes: list[Box]) -> dict[str, np.ndarray]:
        """Return {class: bool (H, W), all its boxes' masks in one}."""
        areas: dict[str, np.ndarray] = {}
        if not boxes:
            return areas
        inputs = self._segmenter_processor(
            images=picture, input_boxes=[[list(box.corners_px) for box in boxes]],
            return_tensors='pt')
        sizes = [inputs['original_sizes']]
        if 'reshaped_input_sizes' in inputs:  # SAM pads its square, SAM 2 stretches
            sizes.append(inputs['reshaped_input_sizes'])
        corners = inputs['input_boxes'].to(self._device, torch.float32)
        embeddings = self._segmenter.get_image_embeddings(
            inputs['pixel_values'].to(self._device))
        named = iter(boxes)
        # Merged batch by batch: hundreds of boxes would be gigabytes of masks.
        for some in corners.split(self._config.boxes_per_batch, dim=1):
            outputs = self._segmenter(image_embeddings=embeddings, input_boxes=some,
                                      multimask_output=False)
            masks = self._segmenter_processor.post_process_masks(outputs.pred_masks, *sizes)[0]
            for box, mask in zip(islice(named, len(masks)), masks[:, 0].cpu().numpy()):
                areas[box.name] = mask | areas.get(box.name, False)
        return areas

    def _since_ms(self, began_s: float) -> float:
        if self._device.startswith('cuda'):
            torch.cuda.synchronize()
        return (time.perf_counter() - began_s) * 1e3


def phrase_spans(tokenizer: Any, token_ids: Sequence[int], config: ForegroundConfig,
                 max_tokens: int) -> list[slice]:
    """Return where each phrase of the config lies in the tokenised text."""
    if len(token_ids) > max_tokens:
        raise DataError(f'the prompts are {len(token_ids)} tokens together, the detector reads '
                        f'{max_tokens}: use fewer or shorter prompts')
    dot = tokenizer.convert_tokens_to_ids('.')
    ends = [i for i, token in enumerate(token_ids) if token == dot]
    starts = [1] + [end + 1 for end in ends]  # 0 is [CLS]
    spans = [slice(start, end) for start, end in zip(starts, ends)]
    phrases = config.phrases()
    if len(spans) != len(phrases):
        raise DataError(f"the detector's tokenizer reads {len(spans)} phrases in "
                        f"'{config.text()}', there are {len(phrases)} prompts: its files do not "
                        'belong to a Grounding DINO checkpoint')
    for (phrase, sought), span in zip(phrases, spans):
        if tokenizer.unk_token_id in token_ids[span]:
            raise DataError(f"class {sought.name}: the detector's tokenizer does not know the "
                            f"prompt '{phrase}': use another word")
    return spans


def to_boxes(scores: np.ndarray, middles: np.ndarray, spans: Sequence[slice],
             config: ForegroundConfig, height: int, width: int) -> list[Box]:
    """
    Return what counts of one picture's detections, best first, without duplicates.

    scores: float (queries, tokens) 0..1; middles: float (queries, 4) as middle x, y and width,
    height, in shares of the picture. A query is of the class whose phrase has the highest mean.
    """
    best = np.stack([scores[:, span].max(axis=1) for span in spans], axis=1)  # (queries, phrases)
    mean = np.stack([scores[:, span].mean(axis=1) for span in spans], axis=1)
    owners = [sought for _, sought in config.phrases()]
    counts = ((best >= [sought.box_threshold for sought in owners])
              & (mean >= [sought.text_threshold for sought in owners]))
    mean = np.where(counts, mean, 0.0)
    phrase, score = mean.argmax(axis=1), mean.max(axis=1)
    corners = np.concatenate([middles[:, :2] - middles[:, 2:] / 2,
                              middles[:, :2] + middles[:, 2:] / 2], axis=1)
    corners = corners.clip(0.0, 1.0) * (width, height, width, height)
    keep = counts.any(axis=1) & (
        (corners[:, 2:] - corners[:, :2]) >= _MIN_SIDE_PX).all(axis=1)
    phrase, score, corners = phrase[keep], score[keep], corners[keep]
    return [Box(owners[phrase[i]].name, float(score[i]), tuple(corners[i].tolist()))
            for i in distinct(corners, score, config.duplicate_iou)]
