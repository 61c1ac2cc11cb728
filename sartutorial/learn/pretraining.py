"""Pretrain (paper section 3.1): SimMIM and MixMAE, plain or weighted by SAR intensity."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sartutorial import profiles
from sartutorial.learn import datasets, training
from sartutorial.learn.encoders import (
    PATCH,
    STRIDE,
    Encoder,
    EncoderConfig,
    config_of,
    sincos_positions,
)
from sartutorial.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["sar-w-simmim", "simmim", "sar-w-mixmae", "mixmae"]
Domain = Literal["normalised", "linear"]
CELL = 16  # pixels, side of SimMIM's mask cells (authors' code)
MASK_RATIO = {"simmim": 0.6, "mixmae": 0.5}  # authors' code


def mask_cells(cells: int, ratio: float, keys: Tensor) -> Tensor:
    """Random masks (B, cells, cells): float32, 1 = masked, exactly ceil(ratio cells²) of each.

    A function of ``keys`` (B, 3), int64 (seed, epoch, index), alone, computed on their device: every
    process and device hides the same cells.
    """
    number = cells * cells
    hidden = _random(keys, number).argsort(1)[:, : math.ceil(number * ratio)]
    mask = torch.zeros(len(keys), number, device=keys.device).scatter_(1, hidden, 1.0)
    return mask.view(-1, cells, cells)


GOLDEN, FACTORS = -0x61C8864680B583EB, (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


def _random(keys: Tensor, number: int) -> Tensor:
    """SplitMix64 started from each key: (B, number) int64. torch's own generators differ by device."""
    state = torch.zeros_like(keys[:, 0])
    for part in keys.unbind(1):
        state = _mixed((state ^ part) + GOLDEN)
    return _mixed(state[:, None] + GOLDEN * torch.arange(1, number + 1, device=keys.device))


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's output function; products of int64 wrap, and shifts must not drag the sign along."""
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return z ^ (z >> 31 & (1 << 33) - 1)


def intensity_weight(image: Tensor, *, scale: float = 1.0) -> Tensor:
    """The SAR-W weight of every pixel: exp(s (1 - x)), x the min-max of power per image and channel.

    Dark pixels weigh most, and all of a constant image weigh e^s. The authors' code hands it the
    *normalised* image z = (dB - mean) / std, whose "power" 10^(z/10) is the true power to the 1/std;
    hand it dB for the linear domain. Source: SAR-W-MixMAE (Caglayan et al. 2025) and its code.

    Args:
        image: Read as decibels, (B, C, H, W).
        scale: The exponent s.

    Returns:
        Weights in [1, e^s], of the image's shape.
    """
    power = torch.pow(10.0, image.float() / 10)
    low, high = power.amin((2, 3), keepdim=True), power.amax((2, 3), keepdim=True)
    return torch.exp(scale * (1 - (power - low) / (high - low + 1e-6)))


class SimMIM(nn.Module):
    """Mask tokens, encode, predict the pixels with one linear layer (Xie et al. 2022)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        # The paper says masked regions are zeroed; the authors' code learns a token instead.
        self.mask_token = nn.Parameter(
            trunc_normal_(torch.empty(1, 1, encoder.embed_dim), std=0.02)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(encoder.num_features, STRIDE**2, 1), nn.PixelShuffle(STRIDE)
        )

    def forward(
        self, image: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and reconstruction (B, 1, H, W).

        ``image`` (B, 1, H, W) normalised; ``mask`` (B, H/16, W/16), 1 = masked; ``weight`` as image.
        The loss is the L1 error of the masked pixels, times the weight where there is one:
        sum(M w |x - x̂|) / (sum M + 1e-5). That the denominator stays without w is our reading.
        """
        tokens = self.encoder.embed(image)
        hidden = _enlarged(mask, CELL // PATCH)[..., None]
        tokens = tokens * (1 - hidden) + self.mask_token * hidden
        features = self.encoder.encode(tokens).permute(0, 3, 1, 2)
        reconstruction = self.decoder(features)
        masked = _enlarged(mask, CELL)[:, None]
        error = (image - reconstruction).abs() * masked
        error = error if weight is None else error * weight
        return error.sum() / (masked.sum() + 1e-5), reconstruction


class MixMAE(nn.Module):
    """Mix two images, encode them as one, reconstruct both (Liu et al. 2023)."""

    decoder_pos_embed: Tensor

    def __init__(
        self, encoder: Encoder, width: int, blocks: int, heads: int, *, norm_target: bool = False
    ) -> None:
        super().__init__()
        side = encoder.config.image_size // STRIDE
        self.encoder, self.norm_target = encoder, norm_target
        self.mask_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.decoder_embed = nn.Linear(encoder.num_features, width)
        self.register_buffer("decoder_pos_embed", sincos_positions(width, side))
        self.decoder_blocks = nn.Sequential(
            *(Block(width, heads, qkv_bias=True) for _ in range(blocks))
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, STRIDE**2)

    def forward(
        self, image: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and reconstruction (B, 1, H, W) of every image's hidden half.

        ``image`` (B, 1, H, W) normalised; ``mask`` (1, 1, H/32, W/32) is shared by the batch: 1
        takes the token from the batch's mirror image. The loss is the mean of w (x - x̂)². (The paper
        says absolute error; the authors' code squares.)
        """
        tokens = self.encoder.embed(image)
        mixed = _enlarged(mask[:, 0], STRIDE // PATCH)[..., None]
        tokens = tokens * (1 - mixed) + tokens.flip(0) * mixed
        latent = self.decoder_embed(self.encoder.encode_mixed(tokens, mask).flatten(1, 2))
        flat = mask.flatten()[None, :, None]
        first = latent * (1 - flat) + self.mask_token * flat
        second = latent * flat + self.mask_token * (1 - flat)
        pixels = self.decode(torch.cat([first, second]))
        first, second = pixels.chunk(2)
        pixels = first * flat + second.flip(0) * (1 - flat)
        target = patchify(image)
        if self.norm_target:
            deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
            target = (target - target.mean(-1, keepdim=True)) / deviation
        error = (pixels - target) ** 2
        error = error if weight is None else error * patchify(weight)
        return error.mean(), unpatchify(pixels)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, width) to pixels (B, L, 32²)."""
        tokens = self.decoder_blocks(tokens + self.decoder_pos_embed)
        pixels: Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return pixels


def patchify(image: Tensor) -> Tensor:
    """(B, 1, H, W) to (B, H/32 · W/32, 32²), row-major."""
    b, _, h, w = image.shape
    x = image.reshape(b, h // STRIDE, STRIDE, w // STRIDE, STRIDE)
    return x.transpose(2, 3).reshape(b, -1, STRIDE**2)


def unpatchify(pixels: Tensor) -> Tensor:
    """The inverse of ``patchify``, for square images."""
    side = math.isqrt(pixels.shape[1])
    x = pixels.reshape(-1, side, side, STRIDE, STRIDE).transpose(2, 3)
    return x.reshape(-1, 1, side * STRIDE, side * STRIDE)


def _enlarged(mask: Tensor, factor: int) -> Tensor:
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def build(method: Method, config: EncoderConfig, profile: Profile) -> SimMIM | MixMAE:
    """The model of a method, with random weights from torch's current seed."""
    encoder = Encoder(config)
    return MixMAE(encoder, *profile.mixmae_decoder) if "mixmae" in method else SimMIM(encoder)


def draw_mask(model: Any, keys: Tensor) -> Tensor:
    """Masks for a batch of item keys (B, 3): (B, H/16, W/16), or one (1, 1, H/32, W/32) for MixMAE."""
    config = model.encoder.config
    if config.kind == "mixmae":
        return mask_cells(config.image_size // STRIDE, MASK_RATIO["mixmae"], keys[:1])[:, None]
    return mask_cells(config.image_size // CELL, MASK_RATIO["simmim"], keys)


def reconstruction_loss(
    model: Any,
    batch: dict[str, Tensor],
    *,
    domain: Domain | None,
    norm: datasets.Normalization,
) -> Tensor:
    """The loss of a batch: draw the masks, weigh the pixels, reconstruct what is hidden.

    Args:
        model: SimMIM or MixMAE.
        batch: ``image`` (B, 1, H, W), normalised with ``norm``, and ``key`` (B, 3), int64.
        domain: Where the weight measures intensity; None is the plain loss.
        norm: Turns images back into decibels for the linear domain.
    """
    image, weight = batch["image"], None
    if domain:
        decibels = image * norm.std + norm.mean if domain == "linear" else image
        weight = intensity_weight(decibels)
    loss: Tensor = model(image, draw_mask(model, batch["key"]), weight)[0]
    return loss


def pretrain(
    patches: str | Path,
    out: str | Path,
    *,
    method: Method = "sar-w-simmim",
    domain: Domain = "normalised",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    hardware: training.Hardware = training.ALONE,
    profile: str | None = None,
    progress: bool = False,
    on_epoch: training.OnEpoch | None = None,
) -> Path:
    """Pretrain an encoder on radar patches without labels (paper section 3.1).

    A run that was stopped goes on from its last epoch; one that is done is left alone.

    Args:
        patches: Folder that ``cut`` wrote and ``sample`` completed.
        out: Folder for the weights.
        method: SimMIM or MixMAE, with the SAR intensity weight or without.
        domain: Where the weight measures intensity: in normalised decibels, as the authors' loader
            does, or in linear power, as their README says.
        epochs: Times that every patch is seen; default the profile's.
        learning_rate: At its peak, of AdamW; default the profile's times batch / 512.
        batch: Patches a step, of all processes together; default the profile's.
        seed: Any whole number: of the first weights, the order, flips and masks.
        hardware: Processes, parts of a batch, precision.
        profile: Scale of the network and the run: laptop, gpu or japan.
        progress: Whether to draw a bar of the steps.
        on_epoch: Called after every epoch with the model and the mean losses so far.

    Returns:
        ``out/encoder.safetensors``, with its description (.json) beside it.

    Raises:
        InputError: No patch is marked for it, ``out`` holds another run, or a setting is off.
    """
    scale, rows = profiles.get(profile), datasets.selected(patches, "pretrain")
    mixes, weighing = "mixmae" in method, domain if method.startswith("sar-w") else None
    settings = training.settings(
        scale, "pretrain", len(rows), epochs, batch, learning_rate, seed=seed,
        decay="cosine" if mixes else "step", betas=(0.9, 0.95) if mixes else (0.9, 0.999),
    )  # fmt: skip
    said, prepare = _job(patches, rows, method, weighing, scale, seed)
    file = Path(out) / "encoder.safetensors"
    training.trained(file, training.Run(said, settings, hardware, progress, on_epoch), prepare)
    return file


def _job(
    patches: str | Path,
    rows: pd.DataFrame,
    method: Method,
    domain: Domain | None,
    scale: Profile,
    seed: int,
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """What makes this run, and what it needs to be trained."""
    kind: Literal["simmim", "mixmae"] = "mixmae" if "mixmae" in method else "simmim"
    config = config_of(scale, int(rows["size"].iloc[0]), kind)
    decoder = dict(zip(("width", "blocks", "heads"), scale.mixmae_decoder, strict=True))
    said: dict[str, Any] = {
        "method": method,
        "domain": domain,
        "encoder": config._asdict(),
        "decoder": decoder if kind == "mixmae" else None,
        "data": datasets.fingerprint(rows),
    } | datasets.common(rows)

    def prepare() -> tuple[nn.Module, training.Loss, datasets.Patches]:
        norm = datasets.statistics(patches, rows)
        loss = partial(reconstruction_loss, domain=domain, norm=norm)
        data = datasets.Patches(patches, rows, norm, seed=seed, labels=False)
        # The whole model is kept, so that its reconstructions can be looked at.
        return build(method, config, scale), loss, data

    return said, prepare
