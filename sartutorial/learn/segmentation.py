"""The segmentation model: the pretrained encoder and a UPerNet decoder (paper section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartutorial import InputError, checkpoints, lulc
from sartutorial.encoders import Encoder, EncoderConfig

GROUPS = 16  # of every GroupNorm (authors' code)


def resized(x: Tensor, side: int) -> Tensor:
    """Bilinear, corners aligned, as everywhere in the authors' decoder."""
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=True)


def twice(x: Tensor) -> Tensor:
    """A map at twice its resolution."""
    return resized(x, 2 * x.shape[-1])


def bottleneck(channels: int, width: int) -> nn.Sequential:
    """1x1 convolution, GroupNorm, GELU, dropout 0.5."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1), nn.GroupNorm(GROUPS, width), nn.GELU(), nn.Dropout(0.5)
    )


class UPerNet(nn.Module):
    """UPerNet (Xiao et al. 2018) as the authors wire it to Swin, from their code.

    ``channels`` are those of the encoder's four taps; ``width`` is theirs 256. It differs from the
    original: GELU and dropout, max pooling in the pyramid, laterals upsampled before the sum, and a
    head that grows to full resolution in two steps.
    """

    def __init__(self, channels: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveMaxPool2d(bins),
                nn.Conv2d(channels[3], width, 1),
                nn.GroupNorm(GROUPS, width),
                nn.GELU(),
            )
            for bins in (1, 2, 3, 6)
        )
        self.fuse_pyramid = bottleneck(channels[3] + 4 * width, width)
        self.project = nn.Conv2d(width, width, 1)
        self.laterals = nn.ModuleList(bottleneck(c, width) for c in channels[:3])  # f1, f2, f3
        self.smooth = nn.ModuleList(bottleneck(width, width) for _ in range(3))
        self.fuse = bottleneck(4 * width, width)
        self.head = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.GroupNorm(GROUPS, width),
                    nn.GELU(),
                )
                for _ in range(2)
            ]
            + [nn.Conv2d(width, classes, 3, padding=1)]
        )

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Four maps, f1 at 1/8 to f4 at 1/32 of the image, to logits (B, classes, H, W)."""
        f1, f2, f3, f4 = taps
        pooled = [resized(level(f4), f4.shape[-1]) for level in self.pyramid]
        x1 = self.fuse_pyramid(torch.cat([*pooled, f4], 1))
        x2 = self.smooth[2](self.project(twice(x1)) + twice(self.laterals[2](f3)))
        x3 = self.smooth[1](twice(x2) + twice(self.laterals[1](f2)))
        x4 = self.smooth[0](twice(x3) + twice(self.laterals[0](f1)))
        side = x4.shape[-1]
        x = self.fuse(torch.cat([*(resized(x, side) for x in (x1, x2, x3)), x4], 1))
        first, second, classify = self.head
        logits: Tensor = classify(second(first(x)))
        return logits


class Segmenter(nn.Module):
    """Encoder and decoder: image (B, 1, H, W), normalised, to logits (B, 9, H, W)."""

    def __init__(self, encoder: Encoder, width: int, classes: int = len(lulc.NAMES)) -> None:
        super().__init__()
        c = encoder.embed_dim
        self.encoder = encoder
        self.decoder = UPerNet((2 * c, 4 * c, 8 * c, 8 * c), width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 1, H, W), normalised, to logits (B, classes, H, W)."""
        logits: Tensor = self.decoder(self.encoder.taps(image))
        return logits


def from_file(file: str | Path) -> tuple[Segmenter, dict[str, Any]]:
    """The fine-tuned model in ``file`` (safetensors), in evaluation mode, and its description.

    Raises InputError if the file is missing, damaged or holds no segmentation model.
    """
    state, description = checkpoints.load(file)
    if "width" not in description:
        raise InputError(f"{file}: holds no segmentation model; give what 'finetune' wrote")
    encoder = Encoder(EncoderConfig(**description["encoder"]))
    model = Segmenter(encoder, description["width"])
    checkpoints.load_into(model, state, file)
    return model.eval(), description
