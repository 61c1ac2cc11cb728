"""The segmentation model (paper section 3.2): pretrained encoder, UPerNet decoder, and its losses."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartutorial.learn.encoders import Encoder
from sartutorial.lulc import IGNORE_INDEX


class Decoder(NamedTuple):
    """What a UPerNet is built from; saved with its weights."""

    width: int  # channels, the authors' 256
    classes: int = 9
    dropout: float = 0.5  # authors' code
    merged_taps: bool = True  # after patch merging, as the authors' code; else before it, from 1/4
    # grown: to full resolution in two steps, as the authors' code; quarter: classes at the resolution
    # of its features, resized, as Xiao et al.; skips: ``SkipHead``, whose batch normalisation is of a
    # process's own part of a batch.
    head: Literal["grown", "skips", "quarter"] = "grown"


def resized(x: Tensor, side: int) -> Tensor:
    """Bilinear, corners aligned, as everywhere in the authors' decoder."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=True)


def block(channels: int, width: int, side: int, dropout: float | None = None) -> nn.Sequential:
    """Convolution of ``side`` pixels, GroupNorm, GELU, and dropout where it is given."""
    # Authors' code: 16. Where maps may be of one pixel (1x1 convolutions), a group has two channels at
    # least (ours): a single value has no norm.
    groups = min(16, width // 2 if side == 1 else width)
    parts = nn.Sequential(
        nn.Conv2d(channels, width, side, padding=side // 2), nn.GroupNorm(groups, width), nn.GELU()
    )
    return parts if dropout is None else parts.append(nn.Dropout(dropout))


def convolved(inputs: int, outputs: int) -> nn.Sequential:
    """Twice a 3 x 3 convolution, as in a U-Net."""
    parts = (
        (nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        for i in (inputs, outputs)
    )
    return nn.Sequential(*(layer for part in parts for layer in part))


class SkipHead(nn.Module):
    """From 1/4 of the image to its classes beside the two finest scales of a U-Net (ours)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        half = width // 2
        self.at_half, self.at_quarter = convolved(4, half), convolved(half, width)
        self.coarse, self.fine = convolved(2 * width, width), convolved(width + half, half)
        self.classify = nn.Sequential(nn.Conv2d(half, 4 * classes, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """``x`` (B, width, H/4, W/4) and the image (B, 1, H, W) to logits (B, K, H, W)."""
        half: Tensor = self.at_half(F.pixel_unshuffle(image, 2))
        x = self.coarse(torch.cat([x, self.at_quarter(F.max_pool2d(half, 2))], 1))
        x = self.fine(torch.cat([resized(x, half.shape[-1]), half], 1))
        logits: Tensor = self.classify(x)
        return logits


SEEING: dict[str, type[nn.Module]] = {"skips": SkipHead}  # heads that take the image too


class UPerNet(nn.Module):
    """UPerNet (Xiao et al. 2018) as the authors wire it to Swin, from their code.

    ``channels`` are those of the encoder's four taps. It differs from the original: GELU and dropout,
    max pooling in the pyramid, laterals upsampled before the sum (which taps from before merging need
    not be), and a head that grows to full resolution in two steps, where Xiao et al. resize classes.
    """

    def __init__(self, channels: tuple[int, ...], config: Decoder) -> None:
        super().__init__()
        width, classes, dropout = config.width, config.classes, config.dropout
        self.pyramid = nn.ModuleList(
            nn.Sequential(nn.AdaptiveMaxPool2d(bins), *block(channels[3], width, 1))
            for bins in (1, 2, 3, 6)
        )
        self.fuse_pyramid = block(channels[3] + 4 * width, width, 1, dropout)
        self.project = nn.Conv2d(width, width, 1)
        self.laterals = nn.ModuleList(block(c, width, 1, dropout) for c in channels[:3])
        self.smooth = nn.ModuleList(block(width, width, 1, dropout) for _ in range(3))
        self.fuse = block(4 * width, width, 1, dropout)
        twice = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.head: nn.Module = nn.Conv2d(width, classes, 1)
        if config.head in SEEING:
            self.head = SEEING[config.head](width, classes)
        elif config.head == "grown":
            self.head = nn.Sequential(
                *(nn.Sequential(twice, *block(width, width, 3)) for _ in range(2)),
                nn.Conv2d(width, classes, 3, padding=1),
            )

    def forward(self, taps: list[Tensor], image: Tensor) -> Tensor:
        """Four maps, from f1 at 1/8 (or 1/4) to f4 at 1/32 of the image, to logits (B, K, H, W)."""
        f1, f2, f3, f4 = taps
        pooled = [resized(level(f4), f4.shape[-1]) for level in self.pyramid]
        x1 = self.fuse_pyramid(torch.cat([*pooled, f4], 1))
        side = 2 * x1.shape[-1]
        x2 = self.project(resized(x1, side)) + resized(self.laterals[2](f3), side)
        x2 = self.smooth[2](x2)
        x3 = self.smooth[1](resized(x2, 2 * side) + resized(self.laterals[1](f2), 2 * side))
        x4 = self.smooth[0](resized(x3, 4 * side) + resized(self.laterals[0](f1), 4 * side))
        x = self.fuse(torch.cat([*(resized(x, 4 * side) for x in (x1, x2, x3)), x4], 1))
        sees = isinstance(self.head, tuple(SEEING.values()))
        logits: Tensor = self.head(x, image) if sees else self.head(x)
        return resized(logits, image.shape[-1])


class Segmenter(nn.Module):
    """Encoder and decoder: image (B, 1, H, W), normalised, to logits (B, K, H, W)."""

    temperature = 1.0  # of the logits: 1 in training, then what validation asks for (``finetune``)

    def __init__(self, encoder: Encoder, config: Decoder) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        widths = (2, 4, 8, 8) if config.merged_taps else (1, 2, 4, 8)
        self.decoder = UPerNet(tuple(w * encoder.embed_dim for w in widths), config)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 1, H, W), normalised, to logits (B, K, H, W)."""
        taps = self.encoder.feature_pyramid(image, merged=self.config.merged_taps)
        logits: Tensor = self.decoder(taps, image)
        return logits / self.temperature

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers from the bottom for timm's layer-wise decay: what is not named here is the top."""
        return {
            "stem": r"^encoder\.(?:patch_embed|absolute_pos_embed)",
            "blocks": [
                (r"^encoder\.layers\.(\d+)\.downsample", (0,)),  # with the stage's first block
                (r"^encoder\.layers\.(\d+)\.blocks\.(\d+)", None),
            ],
        }


def labelled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and classes (N,) of the labelled pixels of (B, K, H, W) and (B, H, W)."""
    keep = target != IGNORE_INDEX
    return logits.permute(0, 2, 3, 1)[keep], target[keep]


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of logits (N, K) and classes (N,): mean over classes of 1 - (2I + 1e-6) / (I + U + 1e-6).

    I = sum min(p, g) and U = sum max(p, g) are the paper's; the formula that joins them is lost
    there, and this identity is our reading. Classes without truth in the batch are left out (ours).
    """
    p = logits.softmax(1)
    g = F.one_hot(target, logits.shape[1]).to(p.dtype)
    intersection, union = torch.minimum(p, g).sum(0), torch.maximum(p, g).sum(0)
    loss = 1 - (2 * intersection + 1e-6) / (intersection + union + 1e-6)
    return loss[g.sum(0) > 0].mean()


def focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.5) -> Tensor:
    """Focal loss (Lin et al. 2017), mean of -alpha (1 - p_t)^gamma log p_t; the authors' defaults."""
    log_p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    return (-alpha * (1 - log_p.exp()) ** gamma * log_p).mean()


def segmentation_loss(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    loss: Literal["dice-focal", "cross-entropy", "cross-entropy-dice"] = "dice-focal",
    weights: tuple[float, ...] | None = None,
) -> Tensor:
    """The loss of a batch over its labelled pixels; 0, with a gradient of 0, where there are none.

    ``batch`` holds ``image`` (B, 1, H, W), normalised, and ``label`` (B, H, W), int64, -1 = void. Dice
    and Focal are the paper's; cross-entropy, with ``weights`` of the classes, and Dice beside it ours.
    """
    logits: Tensor = model(batch["image"]).float()
    label = batch["label"]
    if (label == IGNORE_INDEX).all():
        return logits.sum() * 0
    if loss == "dice-focal":
        known = labelled(logits, label)
        return 0.32 * dice(*known) + 0.57 * focal(*known)  # paper; a third number is lost
    weight = logits.new_tensor(weights) if weights else None
    entropy = F.cross_entropy(logits, label, weight, ignore_index=IGNORE_INDEX)  # no pixel copied
    return entropy + dice(*labelled(logits, label)) if loss == "cross-entropy-dice" else entropy


def rarity_weights(counts: Tensor, exponent: float) -> tuple[float, ...]:
    """Weights (K,) of classes of ``counts`` pixels: rarity to the ``exponent``, 1 for a mean pixel."""
    counts = counts.double()
    raw = (counts.sum() / counts.clamp(min=1)) ** exponent
    return tuple((raw * counts.sum() / (raw * counts).sum()).tolist())
