# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
ReconPruner's training (FastDriveVLA, arXiv 2507.23318): what is kept must rebuild the foreground.

    scores S -> mask M (straight through) -> kept tokens rebuild the foreground,
                                             dropped tokens rebuild the background
    L = alpha L_fore + (1 - alpha) L_back                                       (eq. 8)

The second half is what the paper calls adversarial: without it keeping everything would cost
nothing. The encoder is frozen and no planner takes part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from fastdrive_ros.core.classes import foreground
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.reconstruction import Reconstructor
from fastdrive_ros.learn.reconstruction import picture_loss
from fastdrive_ros.learn.selection import above_random_share
from fastdrive_ros.learn.selection import selection_figures
from fastdrive_ros.learn.selection import straight_through
from fastdrive_ros.learn.vision import FixedGridVision

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PrunerTrainingConfig:
    """The paper's numbers, and one field for each choice that it leaves open."""

    lambda_ssim: float = 0.2
    """Share of 1 - SSIM in a picture's loss, the rest is MSE (paper)."""
    alpha: float = 0.5
    """Share of the foreground's loss (paper)."""
    decoder_layers: int = 6
    """Paper."""
    decoder_hidden_size: int = 0
    """0: as wide as the visual tokens, as in the paper."""
    target: str = 'pixels'
    """What kept tokens must give back. 'pixels' (the paper); 'mask': the region's mask (the
    paper's ablation); 'plan': what the planner makes of all tokens (ours, plan_keeping.py), where
    of these fields only pruner_rate counts and threshold must be 'random'."""
    adversarial: bool = True
    """False: L = L_fore alone (the paper's ablation)."""
    init: str = 'language_model'
    """'language_model': pruner and decoder begin as copies of the checkpoint's layers, spread
    evenly, for they read the same tokens; 'random'. Open in the paper."""
    shared_decoder: bool = True
    """One decoder for both halves: the paper writes one symbol."""
    fill_value: float = 0.0
    """Of the other region in a wanted picture: what a dropped token is, too. Open."""
    threshold: str = 'zero'
    """'zero': M = 1[S > 0] (paper's eq. 3), which trains where the line between both regions is;
    'random': the best r of a frame's tokens, r drawn anew for every frame between 0.1 and 0.9.
    The vehicle keeps the best K, whatever the sign: this trains the order in which tokens go."""
    orient_frames: int = 16
    """Frames to look at before the first step: if the untrained scorer ranks their foreground
    last, its sign is turned. The loss hardly minds whether kept tokens show the foreground or
    leave it out (a token knows its neighbours), so chance would decide. 0: let it. Open in the
    paper."""
    pruner_rate: float = 0.1
    """The pruner's share of the learning rate. At the decoder's own rate a few steps move all
    scores across zero at once, and the decoder has to begin anew. Open in the paper."""
    ssim_window: int = 11
    """Pixels; the usual gaussian of SSIM. Open."""
    shrink: int = 1
    """Rebuild pictures this much smaller: on CPUs the loss costs more than the models. Open."""
    cameras_per_step: int = 0
    """Rebuild this many cameras of a frame, drawn anew in every step; 0: all. Scores are always
    made for all cameras together, as in the vehicle. Open."""

    def __post_init__(self) -> None:
        """Refuse words that mean nothing."""
        words = {'target': ('pixels', 'mask', 'plan'), 'init': ('language_model', 'random'),
                 'threshold': ('zero', 'random')}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ValueError(f'{name} must be one of {", ".join(known)}, found '
                                 f'{getattr(self, name)!r}')
        if self.target == 'plan' and self.threshold != 'random':
            raise ValueError("target 'plan' needs threshold 'random': at a threshold of zero it "
                             'would keep every token')
        if not (0.0 <= self.lambda_ssim <= 1.0 and 0.0 <= self.alpha <= 1.0):
            raise ValueError('lambda_ssim and alpha are shares between 0 and 1, found '
                             f'{self.lambda_ssim} and {self.alpha}')


class PrunerTraining(nn.Module):
    """What the loop trains: a pruner, and decoders that are thrown away afterwards."""

    def __init__(self, vision: FixedGridVision, pruner: ReconPruner,
                 language_model: Qwen2_5_VLTextModel, config: PrunerTrainingConfig) -> None:
        """Take a frozen encoder and the pruner; the language model only lends its weights."""
        super().__init__()
        self.config = config
        self.vision = vision.requires_grad_(False)
        self.pruner = pruner
        layers = list(language_model.layers) if config.init == 'language_model' else []
        if layers:
            pruner.layer.load_state_dict(layers[0].state_dict())
        pixels_per_token = vision.image_height // vision.grid_height
        if pixels_per_token % config.shrink:
            raise ValueError(f'shrink {config.shrink} must divide the {pixels_per_token} pixels '
                             'of a visual token')
        width = config.decoder_hidden_size or pruner.config.hidden_size
        channels = 3 if config.target == 'pixels' else 1
        decoders = [Reconstructor(pruner.config, config.decoder_layers, width,
                                  vision.grid_height, vision.grid_width, channels,
                                  pixels_per_token // config.shrink, layers)
                    for _ in range(1 if config.shared_decoder or not config.adversarial else 2)]
        self.decoders = nn.ModuleList(decoders)
        is_foreground = torch.from_numpy(foreground(torch.arange(256, dtype=torch.uint8).numpy()))
        self.register_buffer('is_foreground', is_foreground, persistent=False)
        self.register_buffer('steps_done', torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Batch:
        """Map images uint8 [B, V, H, W, 3], present [B, V], classes [B, V, H, W] to scalars."""
        tokens = self.encode(batch['images'])                           # (B, V, n, D)
        fore = self.is_foreground[batch['classes'].int()]               # (B, V, H, W)
        scores = self.scores(tokens, batch['present'])                  # (B, V, n)
        generator = torch.Generator().manual_seed(int(self.steps_done))
        over = self._over_threshold(scores, batch['present'], generator)
        chosen = self._choose(batch['present'], generator)              # (P, 2): frame, camera
        frame, camera = chosen.unbind(1)
        mask = straight_through(over[frame, camera])[..., None]         # (P, n, 1)
        kept = tokens[frame, camera] * mask
        dropped = tokens[frame, camera] * (1.0 - mask)
        picture = self._pixels(batch['images'][frame, camera])          # (P, 3, H, W)
        region = fore[frame, camera][:, None].float()                   # (P, 1, H, W)
        loss_fore = self._loss(picture, region, kept, self.decoders[0])
        loss = loss_fore
        figures = {}
        if self.config.adversarial:
            loss_back = self._loss(picture, 1.0 - region, dropped, self.decoders[-1])
            loss = self.config.alpha * loss_fore + (1.0 - self.config.alpha) * loss_back
            figures['loss_back'] = loss_back.detach()
        return {'loss': loss, 'loss_fore': loss_fore.detach(), **figures,
                **selection_figures(scores.detach(), fore, batch['present'])}

    def _over_threshold(self, scores: torch.Tensor, present: torch.Tensor,
                        generator: torch.Generator | None) -> torch.Tensor:
        """Return scores [B, V, n] less what a token must beat to be kept."""
        if self.config.threshold == 'zero':
            return scores
        return above_random_share(scores, present, generator if self.training else None)

    def orient(self, batch: Batch) -> None:
        """
        Look at some frames before the first step.

        Turns the scorer's sign unless most foreground is in the better half of the tokens, and
        makes what the decoders add everywhere as large as a token.
        """
        with torch.no_grad():
            tokens = self.encode(batch['images'])
            for decoder in self.decoders:
                decoder.everywhere *= tokens[batch['present']].square().mean().sqrt()
            scores = self.scores(tokens, batch['present'])
            fore = self.is_foreground[batch['classes'].int()]
            if selection_figures(scores, fore, batch['present'])['recall_half'] < 0.5:
                self.pruner.scorer.weight.neg_()
                self.pruner.scorer.bias.neg_()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [B, V, H, W, 3] to [B, V, n, D], without gradient."""
        with torch.no_grad():
            tokens = self.vision(images.flatten(0, 1))
        return tokens.unflatten(0, (*images.shape[:2], -1))

    def scores(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Map [B, V, n, D], bool [B, V] to float32 [B, V, n]; absent cameras -inf."""
        return self.pruner.scores(tokens.flatten(1, 2), present).view(tokens.shape[:3])

    def rebuild(self, tokens: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map one frame's [V, n, D] and [V, n] to what kept and dropped tokens show."""
        present = scores.isfinite().all(1)
        mask = straight_through(self._over_threshold(scores[None], present[None], None)[0])
        halves = tokens * mask[..., None], tokens * (1.0 - mask[..., None])
        shown = [decoder(half) for decoder, half in zip((self.decoders[0], self.decoders[-1]),
                                                        halves)]
        return tuple(map(torch.sigmoid, shown)) if self.config.target == 'mask' else tuple(shown)

    def _choose(self, present: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return which (frame, camera) pairs are rebuilt in this step."""
        count = self.config.cameras_per_step
        if not self.training:
            return present.nonzero()
        self.steps_done += 1
        if not count:
            return present.nonzero()
        # What is drawn follows from the step: torch's own generator would make a run that goes
        # on draw other cameras.
        drawn = torch.rand(present.shape, generator=generator).to(present.device)
        first = drawn.masked_fill(~present, 2.0).argsort(1).argsort(1) < count
        return (first & present).nonzero()

    def _loss(self, picture: torch.Tensor, region: torch.Tensor, tokens: torch.Tensor,
              decoder: Reconstructor) -> torch.Tensor:
        found = decoder(tokens)
        region = self._shrunk(region)
        if self.config.target == 'mask':
            return functional.binary_cross_entropy_with_logits(found, region)
        wanted = self._wanted(picture, region)
        # Autocast would take SSIM's differences of close numbers in bf16.
        with torch.autocast(found.device.type, enabled=False):
            return picture_loss(wanted, found.float(), self.config.lambda_ssim,
                                self.config.ssim_window)

    def _wanted(self, picture: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        """Return a picture whose other region is filled."""
        return picture * region + self.config.fill_value * (1.0 - region)

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [P, H, W, 3] to [P, 3, H, W] in [0, 1], shrunk."""
        return self._shrunk(images.permute(0, 3, 1, 2).float() / 255.0)

    def _shrunk(self, pictures: torch.Tensor) -> torch.Tensor:
        shrink = self.config.shrink
        return functional.avg_pool2d(pictures, shrink) if shrink > 1 else pictures
