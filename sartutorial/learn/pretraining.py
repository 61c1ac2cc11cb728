"""Pretrain (paper section 3.1): SimMIM and MixMAE, plain or weighted by SAR intensity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sartutorial import InputError, datasets, training
from sartutorial.encoders import PATCH, STRIDE, Encoder, EncoderConfig, config_of, sincos_positions
from sartutorial.profiles import Profile, current

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

    ``image`` (B, C, H, W) is read as decibels; the weight has its shape and lies in [1, e^s]: dark
    pixels weigh most, and all of a constant image weigh e^s. The authors' code hands it the
    *normalised* image z = (dB - mean) / std, whose "power" 10^(z/10) is the true power to the 1/std;
    hand it dB for the linear domain.
    Source: SAR-W-MixMAE (Caglayan et al. 2025) and its code.
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


def draw_mask(model: SimMIM | MixMAE, keys: Tensor) -> Tensor:
    """Masks for a batch of item keys (B, 3): (B, H/16, W/16), or one (1, 1, H/32, W/32) for MixMAE."""
    size = model.encoder.config.image_size
    if isinstance(model, MixMAE):
        return mask_cells(size // STRIDE, MASK_RATIO["mixmae"], keys[:1])[:, None]
    return mask_cells(size // CELL, MASK_RATIO["simmim"], keys)


class PretrainingTask(training.Task):
    """One training step: draw the masks, weigh the pixels if there is a ``weigh``, reconstruct.

    ``weigh`` makes the weights of a batch of normalised images (B, 1, H, W); None is the plain loss.
    """

    def __init__(
        self,
        model: SimMIM | MixMAE,
        settings: training.Settings,
        run: dict[str, Any],
        *,
        weigh: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__(model, settings, run)
        self.weigh = weigh

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The reconstruction's loss (scalar) for ``image`` (B, 1, H, W), masked by ``key`` (B, 3)."""
        image = batch["image"]
        weight = self.weigh(image) if self.weigh else None
        loss: Tensor = self.model(image, draw_mask(self.model, batch["key"]), weight)[0]
        return loss


def pretrain(
    folder: str | Path,
    out: str | Path,
    *,
    method: Method = "sar-w-simmim",
    domain: Domain = "normalised",
    seed: int = 0,
    epochs: int | None = None,
    profile: Profile | None = None,
    machine: training.Machine = training.ALONE,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> Path:
    """Pretrain an encoder on the patches marked ``pretrain``; returns ``out/encoder.safetensors``.

    ``domain`` is where the SAR-W methods measure intensity: in normalised decibels, as the authors'
    loader does, or in linear power, as their README says. ``machine`` says how many processes share a
    batch, and ``callbacks`` are Lightning's, which see the training. A run that was stopped goes on
    from its last epoch; one that is done is left alone.
    Raises InputError for a folder without sampled patches, an ``out`` that holds another run, or a
    batch that does not divide among the machine's processes.
    """
    profile = profile or current()
    rows = datasets.selected(folder, "pretrain")
    if rows.empty:
        raise InputError(f"{folder}: no patch is marked for pretraining; sample with more --points")
    kind: Literal["simmim", "mixmae"] = "mixmae" if "mixmae" in method else "simmim"
    weighted = method.startswith("sar-w")
    config = config_of(profile, int(rows["size"].iloc[0]), kind)
    settings = training.Settings(
        epochs=epochs or profile.pretrain_epochs,
        warmup=profile.pretrain_warmup,
        batch=profile.pretrain_batch,
        base_lr=profile.pretrain_base_lr,
        decay="step" if kind == "simmim" else "cosine",
        betas=(0.9, 0.999) if kind == "simmim" else (0.9, 0.95),
        seed=seed,
    )
    run: dict[str, Any] = {
        "method": method,
        "domain": domain if weighted else None,
        "encoder": config._asdict(),
        "training": settings._asdict(),
        "data": datasets.fingerprint(rows),
    }
    file = Path(out) / "encoder.safetensors"
    if training.is_done(file, run, folder):
        return file
    norm = datasets.statistics(folder, rows)
    torch.manual_seed(seed)
    model = build(method, config, profile)
    mean, std = norm if domain == "linear" else (0.0, 1.0)
    weigh = (lambda z: intensity_weight(z * std + mean)) if weighted else None
    task = PretrainingTask(model, settings, run, weigh=weigh)
    data = datasets.Patches(folder, rows, norm, seed=seed, labels=False)
    training.fit(task, data, out, machine=machine, callbacks=callbacks, progress=progress)
    description = run | {
        "machine": machine._asdict(),
        "normalization": norm._asdict(),
        "spacing": float(rows["spacing"].mean()),
        "quantity": str(rows["quantity"].iloc[0]),
    }
    # The whole model is kept, so that its reconstructions can be looked at; fine-tuning takes
    # the keys that start with "encoder.".
    training.finish(task, file, description)
    return file
