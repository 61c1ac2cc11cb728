"""Pretrain (paper section 3.1): SimMIM and MixMAE, plain or weighted by SAR intensity."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from sartutorial import check_words, profiles
from sartutorial.learn import datasets, encoders, training
from sartutorial.learn.encoders import PATCH, STRIDE, Encoder
from sartutorial.profiles import Profile

Method = Literal["sar-w-simmim", "simmim", "sar-w-mixmae", "mixmae"]
Domain = Literal["normalised", "linear"]
LossAndPixels = tuple[Tensor, Tensor]  # a scalar, and a reconstruction (B, 1, H, W)
CELL = 16  # pixels, side of SimMIM's mask cells (authors' code)
MASK_RATIO = {"simmim": 0.6, "mixmae": 0.5}  # authors' code
GOLDEN = -0x61C8864680B583EB  # of SplitMix64


def mask_cells(cells: int, ratio: float, keys: Tensor) -> Tensor:
    """Random masks (B, cells, cells): float32, 1 = masked, exactly ceil(ratio cells²) of each.

    A function of ``keys`` (B, 3), int64 (seed, epoch, index), alone: every process and device hides the
    same cells. SplitMix64 draws them, since torch's own generators differ by device.
    """
    state, number = torch.zeros_like(keys[:, 0]), cells * cells
    for part in keys.unbind(1):
        state = _mixed((state ^ part) + GOLDEN)
    draws = _mixed(state[:, None] + GOLDEN * torch.arange(1, number + 1, device=keys.device))
    hidden = draws.argsort(1)[:, : math.ceil(number * ratio)]
    mask = torch.zeros(len(keys), number, device=keys.device).scatter_(1, hidden, 1.0)
    return mask.view(-1, cells, cells)


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's output function; products of int64 wrap, and shifts must not drag the sign along."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return z ^ (z >> 31 & (1 << 33) - 1)


def intensity_weight(image: Tensor, *, scale: float = 1.0) -> Tensor:
    """The SAR-W weight of every pixel: exp(s (1 - x)), x the min-max of power per image and channel.

    Dark pixels weigh most. The authors' code hands it the *normalised* image z = (dB - mean) / std, whose
    "power" 10^(z/10) is the true power to the 1/std; hand it dB for the linear domain.
    Source: SAR-W-MixMAE (Caglayan et al. 2025) and its code.

    Args:
        image: Read as decibels, (B, C, H, W).
        scale: The exponent s. Weights are in [1, e^s], of the image's shape.
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
        token = torch.empty(1, 1, encoder.embed_dim)
        self.mask_token = nn.Parameter(trunc_normal_(token, std=0.02))
        convolution = nn.Conv2d(encoder.num_features, STRIDE**2, 1)
        self.decoder = nn.Sequential(convolution, nn.PixelShuffle(STRIDE))

    def forward(self, image: Tensor, mask: Tensor, weight: Tensor | None = None) -> LossAndPixels:
        """The L1 error of masked pixels, sum(M w |x - x̂|) / (sum M + 1e-5), and the reconstruction.

        ``image`` (B, 1, H, W) normalised; ``mask`` (B, H/16, W/16), 1 = masked; ``weight`` as image.
        That the denominator stays without w is our reading.
        """
        mask = mask[:, None]
        hidden = functional.interpolate(mask, scale_factor=CELL // PATCH).permute(0, 2, 3, 1)
        tokens = self.encoder.embed(image) * (1 - hidden) + self.mask_token * hidden
        reconstruction = self.decoder(self.encoder.encode(tokens).permute(0, 3, 1, 2))
        masked = functional.interpolate(mask, scale_factor=CELL)
        error = (image - reconstruction).abs() * masked
        error = error if weight is None else error * weight
        return error.sum() / (masked.sum() + 1e-5), reconstruction


class MixMAE(nn.Module):
    """Mix two images, encode them as one, reconstruct both (Liu et al. 2023)."""

    decoder_pos_embed: Tensor

    def __init__(self, encoder: Encoder, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.decoder_embed = nn.Linear(encoder.num_features, width)
        positions = encoders.sincos_positions(width, encoder.config.image_size // STRIDE)
        self.register_buffer("decoder_pos_embed", positions)
        layers = [Block(width, heads, qkv_bias=True) for _ in range(blocks)]
        self.decoder_blocks = nn.Sequential(*layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, STRIDE**2)

    def forward(self, image: Tensor, mask: Tensor, weight: Tensor | None = None) -> LossAndPixels:
        """The mean of w (x - x̂)², and the reconstruction of every image's hidden half.

        ``image`` (B, 1, H, W) normalised; ``mask`` (1, 1, H/32, W/32) is shared by the batch: 1
        takes the token from the batch's mirror image. (The paper says absolute error; the code squares.)
        """
        tokens = self.encoder.embed(image)
        mixed = functional.interpolate(mask, scale_factor=STRIDE // PATCH).permute(0, 2, 3, 1)
        tokens = tokens * (1 - mixed) + tokens.flip(0) * mixed
        latent = self.decoder_embed(self.encoder.encode_mixed(tokens, mask).flatten(1, 2))
        flat = mask.flatten()[None, :, None]
        first = latent * (1 - flat) + self.mask_token * flat
        second = latent * flat + self.mask_token * (1 - flat)
        both = self.decoder_blocks(torch.cat([first, second]) + self.decoder_pos_embed)
        first, second = self.decoder_pred(self.decoder_norm(both)).chunk(2)
        pixels = first * flat + second.flip(0) * (1 - flat)
        error = (pixels - patchify(image)) ** 2
        error = error if weight is None else error * patchify(weight)
        squares = pixels.transpose(1, 2).unflatten(2, mask.shape[2:])
        return error.mean(), functional.pixel_shuffle(squares, STRIDE)


def patchify(image: Tensor) -> Tensor:
    """(B, 1, H, W) to (B, H/32 · W/32, 32²), row-major."""
    return functional.pixel_unshuffle(image, STRIDE).flatten(2).transpose(1, 2)


def build(method: Method, config: encoders.EncoderConfig, profile: Profile) -> SimMIM | MixMAE:
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
    model: Any, batch: dict[str, Tensor], *, domain: Domain | None, norm: datasets.Normalization
) -> Tensor:
    """The loss of a batch: draw masks by its ``key`` (B, 3), weigh pixels, reconstruct what is hidden.

    Its ``image`` (B, 1, H, W) is normalised with ``norm``; without a ``domain`` no pixel is weighed.
    """
    image, weight = batch["image"], None
    if domain:
        weight = intensity_weight(image * norm.std + norm.mean if domain == "linear" else image)
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

    Args:
        patches: Folder that ``cut`` wrote and ``sample`` completed.
        out: Folder for the weights. A run that was stopped goes on; one that is done is left alone.
        method: SimMIM or MixMAE, with the SAR intensity weight or without.
        domain: Where the weight measures: normalised dB (the authors' loader) or linear (their README).
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
    check_words(method=(method, Method), domain=(domain, Domain))
    scale, rows = profiles.get(profile), datasets.selected(patches, "pretrain")
    mixes, weighing = "mixmae" in method, domain if method.startswith("sar-w") else None
    how: dict[str, Any] = dict(decay="cosine", betas=(0.9, 0.95)) if mixes else dict(decay="step")
    chosen = epochs, batch, learning_rate
    settings = training.settings(scale, "pretrain", len(rows), *chosen, seed=seed, **how)
    config = encoders.config_of(scale, int(rows["size"].iloc[0]), "mixmae" if mixes else "simmim")
    decoder = dict(zip(("width", "blocks", "heads"), scale.mixmae_decoder, strict=True))
    said: dict[str, Any] = {"method": method, "domain": weighing, "encoder": config._asdict()}
    said |= {"decoder": decoder if mixes else None, "data": datasets.fingerprint(rows)}
    run = training.Run(said | datasets.common(rows), settings, hardware, progress, on_epoch)

    def prepare() -> tuple[nn.Module, training.Loss, datasets.Patches]:
        data = datasets.Patches(patches, rows, seed=seed, labels=False)
        loss = partial(reconstruction_loss, domain=weighing, norm=data.norm)
        return build(method, config, scale), loss, data  # saved with the head, to be looked at

    file = Path(out) / "encoder.safetensors"
    training.trained(file, run, prepare)
    return file
