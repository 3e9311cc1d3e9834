# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Learning to drive from an expert: encoder, language model and waypoint queries, end to end.

    images -> encoder -> all N tokens -> language model with queries -> residual on extrapolation

Nothing is pruned here; a pruner is added afterwards without touching the planner (FastDriveVLA's
plug and play). A small model starts from nothing, where a large one was trained on the world's
pictures, so three helpers that are thrown away afterwards teach it to see: what share of each
class lies under a visual token; what the traffic light ahead shows; and where, from above, one
may drive and others are.

What the way so far says of the way to come is fitted first, from odometry alone, and then fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.learn import from_above
from fastdrive_ros.learn.prompt import Prompt
from fastdrive_ros.learn.samples import LIGHTS
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.vision import Normalisation
from fastdrive_ros.learn.vision import folded_patch_weight
from fastdrive_ros.learn.waypoint_head import WaypointHead
from fastdrive_ros.learn.waypoint_head import WaypointHeadConfig
from fastdrive_ros.learn.waypoint_head import WaypointPlanner

Batch = dict[str, torch.Tensor]

# Metres below which an error no longer pulls harder: L2's gradient has no direction at zero.
_SMOOTH_M = 0.05
_FIT_RATE, _FIT_DECAY, _FIT_BATCH = 1e-3, 0.05, 256
# Few pixels, much to know: without this the encoder learns sky and road and is content.
_CLASS_WEIGHT = {
    'TRAFFIC_LIGHT': 10.0, 'PEDESTRIAN': 5.0, 'BIKE': 5.0, 'TRAFFIC_SIGN': 3.0, 'CAR': 3.0,
    'TRUCK': 3.0, 'BUS': 3.0, 'CROSSWALK': 3.0, 'LANE_LINE': 3.0, 'FENCE': 2.0,
}


@dataclass(frozen=True)
class PlannerTrainingConfig:
    """Weights of the losses; none of them is from a paper."""

    class_weight: float = 0.5
    """Of the encoder's class shares; 0 for an encoder that can see already."""
    light_weight: float = 0.1
    """Of the traffic light's state."""
    above_weight: float = 8.0
    """Of the drivable area and the road users from above, a mean over cells: with less, the way's
    noise drowns it and the queries do not learn to look."""
    prior_steps: int = 3000
    """Of 256 frames, to fit the prior; 0 leaves it as it is."""
    readout_frames: int = 0
    """Frames whose query states are kept after the training to fit the readout once more; 0: none.
    A short training shows each picture once or twice, the readout could learn from more."""
    readout_steps: int = 1500
    """Of 256 frames, for that."""
    readout_dropout: float = 0.5
    """Share of a state's numbers hidden in each step of it: a few thousand frames are soon known
    by heart."""
    yaw_weight_m: float = 2.0
    """Metres that an error of one radian counts."""
    freeze_encoder: bool = False
    """Train language model and queries only: a second planner on the same encoder."""


class PlannerTraining(nn.Module):
    """What the loop trains: the parts of a checkpoint, and three helpers."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, head: WaypointHead,
                 prompt: Prompt, normalisation: Normalisation, image_shape: tuple[int, int, int],
                 config: PlannerTrainingConfig) -> None:
        """Share the checkpoint's layers; ``image_shape`` is V, height, width."""
        super().__init__()
        self.config = config
        self._normalisation = normalisation
        self.vision = FixedGridVision(model.model.visual, *image_shape, normalisation)
        self.patch_embed = model.model.visual.patch_embed
        self.planner = WaypointPlanner(model.model.language_model, head, prompt)
        # Same numbers as eager, a fraction of the memory.
        model.model.language_model.config._attn_implementation = 'sdpa'
        width = model.config.text_config.hidden_size
        self.class_helper = nn.Linear(width, len(CLASSES))
        self.light_helper = nn.Linear(width, len(LIGHTS))
        self.above_helper = nn.Linear(
            width * head.config.num_waypoints, 2 * from_above.SHAPE[0] * from_above.SHAPE[1])
        head.ego_prior.requires_grad_(False)
        for parameter in (*self.vision.parameters(), *self.patch_embed.parameters()):
            parameter.requires_grad_(not config.freeze_encoder)
        # Made from patch_embed in every step, so not weights of their own.
        self.vision.patch_weight.requires_grad_(False)
        self.vision.patch_bias.requires_grad_(False)
        weights = [_CLASS_WEIGHT.get(name, 1.0) for name in CLASSES]
        self.register_buffer('class_weights', torch.tensor(weights), persistent=False)

    def forward(self, batch: Batch) -> Batch:
        """Map a batch of samples.FrameSamples to losses and figures, each a scalar."""
        tokens = self.encode(batch['images'])                           # (B, N, D)
        per_camera = self.vision.grid_height * self.vision.grid_width
        seen = batch['present'].repeat_interleave(per_camera, dim=1)    # (B, N)
        queries = self.query_states(tokens, batch['ego_history'])       # (B, T, D)
        head = self.planner.head
        residuals = head.residuals(queries, batch['ego_history']).float()
        way, l2_m = way_loss(residuals, batch, head.config, self.config.yaw_weight_m)
        classes = self._class_loss(tokens, batch['classes'], seen)
        lights = functional.cross_entropy(
            self.light_helper(queries.mean(1)).float(), batch['light'], ignore_index=-1,
            reduction='sum') / (batch['light'] >= 0).sum().clamp(min=1)
        above = self._above_loss(queries, batch)
        loss = (way + self.config.class_weight * classes + self.config.light_weight * lights
                + self.config.above_weight * above)
        return {
            'loss': loss, 'loss_way': way.detach(), 'loss_classes': classes.detach(),
            'loss_light': lights.detach(), 'loss_above': above.detach(), 'l2_m': l2_m,
        }

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [B, V, H, W, 3] to tokens [B, N, D]."""
        weight, bias = folded_patch_weight(self.patch_embed.proj.weight, self._normalisation)
        tokens = self.vision.encode(images.flatten(0, 1), weight, bias)
        return tokens.unflatten(0, (images.shape[0], -1))

    def query_states(self, tokens: torch.Tensor, ego_history: torch.Tensor) -> torch.Tensor:
        """Run the language model on every token: [B, N, D], [B, Hh, F] -> [B, T, D]."""
        hidden = self.planner.unpruned_states(tokens, ego_history)
        return hidden[:, -self.planner.head.config.num_waypoints:]

    def _class_loss(self, tokens: torch.Tensor, classes: torch.Tensor,
                    seen: torch.Tensor) -> torch.Tensor:
        """Return the cross entropy of class shares under each token, weighted by class."""
        shares = class_shares(classes, self.vision.grid_height, self.vision.grid_width)
        shares = shares.flatten(1, 2) * self.class_weights              # (B, N, classes)
        logs = functional.log_softmax(self.class_helper(tokens).float(), dim=-1)
        weight = shares.sum(-1) * seen
        return -(shares * logs).sum(-1).mul(seen).sum() / weight.sum().clamp(min=1.0)


    def _above_loss(self, queries: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean binary cross entropy of both maps, where they were recorded."""
        wanted = torch.stack([batch['drivable'], batch['agents']], dim=1)   # (B, 2, 24, 16)
        logits = self.above_helper(queries.flatten(1)).float().view_as(wanted)
        known = wanted.isfinite()
        losses = functional.binary_cross_entropy_with_logits(
            logits, wanted.nan_to_num(), reduction='none')
        return (losses * known).sum() / known.sum().clamp(min=1)


def way_loss(residuals: torch.Tensor, batch: Batch, head: WaypointHeadConfig,
             yaw_weight_m: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (loss, mean L2 in metres, without gradient) of residuals [B, T, 3]."""
    error = residuals - (batch['waypoints'] - extrapolation(batch['ego_history'], head))
    known = batch['known'].float()                                      # (B, T)
    steps = known.sum().clamp(min=1.0)
    distance_m = (error[..., :2].square().sum(-1) + _SMOOTH_M**2).sqrt()
    yaw_rad = (error[..., 2].square() + (_SMOOTH_M / yaw_weight_m)**2).sqrt()
    loss = ((distance_m + yaw_weight_m * yaw_rad) * known).sum() / steps
    return loss, (error.detach()[..., :2].norm(dim=-1) * known).sum() / steps


def fit_prior(head: WaypointHead, ways: Batch, config: PlannerTrainingConfig,
              seed: int) -> None:
    """Fit ``head.ego_prior`` to ego_history [M, Hh, F], waypoints [M, T, 3] and known [M, T]."""
    _fit(lambda batch: head.prior(batch['ego_history']), [head.ego_prior], head.config, ways,
         config.prior_steps, config, seed)


def fit_readout(head: WaypointHead, ways: Batch, config: PlannerTrainingConfig,
                seed: int) -> None:
    """Like ``fit_prior``, for what the head reads in the queries' states [M, T, D]."""
    head.readout.reset_parameters()
    nn.init.zeros_(head.output.weight)
    nn.init.zeros_(head.output.bias)

    def residuals(batch: Batch) -> torch.Tensor:
        states = functional.dropout(batch['states'].float(), config.readout_dropout)
        return head.residuals(states, batch['ego_history'])

    _fit(residuals, [head.readout, head.output], head.config, ways, config.readout_steps, config,
         seed)


def _fit(residuals: Callable[[Batch], torch.Tensor], parts: Sequence[nn.Module],
         head: WaypointHeadConfig, ways: Batch, steps: int, config: PlannerTrainingConfig,
         seed: int) -> None:
    """Train some parts on rows that are all in memory; the rate falls to zero."""
    parameters = [parameter.requires_grad_(True) for part in parts
                  for parameter in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, _FIT_RATE, weight_decay=_FIT_DECAY)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    for step in range(steps):
        optimiser.param_groups[0]['lr'] = _FIT_RATE * (1.0 - step / steps)
        chosen = torch.randint(len(ways['known']), (_FIT_BATCH,), generator=random)
        batch = {name: value[chosen] for name, value in ways.items()}
        loss, _ = way_loss(residuals(batch), batch, head, config.yaw_weight_m)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    optimiser.zero_grad()  # a gradient left behind would count in every norm to come
    for parameter in parameters:
        parameter.requires_grad_(False)


def class_shares(classes: torch.Tensor, grid_height: int, grid_width: int) -> torch.Tensor:
    """Map class ids uint8 [B, V, H, W] to shares [B, V, n, classes]; unlabelled pixels: none."""
    classes = classes[..., ::2, ::2]  # every fourth pixel says the same for a quarter of the time
    batch, cameras, height, width = classes.shape
    cells = classes.reshape(batch, cameras, grid_height, height // grid_height,
                            grid_width, width // grid_width)
    cells = cells.transpose(3, 4).flatten(4).flatten(2, 3)              # (B, V, n, pixels)
    return torch.stack([(cells == i).float().mean(-1) for i in range(len(CLASSES))], dim=-1)


def extrapolation(ego_history: torch.Tensor, head: WaypointHeadConfig) -> torch.Tensor:
    """Return [B, T, 3]: core.trajectory.extrapolate of the history's last row, in torch."""
    times_s = head.dt_s * torch.arange(1, head.num_waypoints + 1, device=ego_history.device)
    speed_mps, yaw_rate_radps = ego_history[:, -1, 4:6].float().unbind(-1)
    half_rad = yaw_rate_radps[:, None] * times_s / 2.0                  # (B, T)
    chord_m = speed_mps[:, None] * times_s * torch.sinc(half_rad / torch.pi)
    return torch.stack(
        [chord_m * half_rad.cos(), chord_m * half_rad.sin(), 2.0 * half_rad], dim=-1)
