"""The encoder: timm's Swin with one channel, as SimMIM and MixMAE use it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from timm.layers import trunc_normal_
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional

from sartutorial import InputError
from sartutorial.profiles import Profile

Kind = Literal["simmim", "mixmae"]
PATCH = 4  # pixels a token
STRIDE = 32  # pixels a token of the last stage


class EncoderConfig(NamedTuple):
    """What a Swin encoder is built from; saved with its weights."""

    image_size: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    kind: Kind = "simmim"
    positions: bool = True  # absolute ones, beside the relative bias within windows


def config_of(profile: Profile, image_size: int, kind: Kind) -> EncoderConfig:
    """The encoder of a profile, for images of ``image_size`` pixels, which windows must fit into."""
    window, grids = profile.window_size, [image_size // (PATCH * 2**i) for i in range(4)]
    if image_size % STRIDE or any(g > window and g % window for g in grids):
        fault = f"patches of {image_size} px do not divide into windows of {window} tokens"
        raise InputError(f"{fault}; cut them with --size 64, 128 or a multiple of 256")
    shape = profile.embed_dim, profile.depths, profile.num_heads, window
    return EncoderConfig(image_size, *shape, kind)


class Encoder(SwinTransformer):
    """Swin, one input channel, absolute positions, four stages (paper section 3.1).

    SimMIM's has shifted windows and learnt positions (what the authors' code configures); MixMAE's
    windows never shift, its positions are fixed sines and cosines. Images are (B, 1, H, W) with
    H = W = ``image_size``; tokens are (B, H/4, W/4, C), channels last.
    """

    layers: Any  # timm's stages
    norm: Any
    absolute_pos_embed: Tensor | None

    def __init__(self, config: EncoderConfig, *, drop_path_rate: float = 0.0) -> None:
        """Of random weights, for what ``config`` says; of its blocks a share is left out in training."""
        shape = {k: getattr(config, k) for k in ("embed_dim", "depths", "num_heads", "window_size")}
        shape |= {"num_classes": 0, "global_pool": "", "drop_path_rate": drop_path_rate}
        super().__init__(config.image_size, PATCH, in_chans=1, **shape)
        self.config, side = config, config.image_size // PATCH
        if not config.positions:
            self.register_buffer("absolute_pos_embed", None)
        elif config.kind == "simmim":
            position = torch.empty(1, side * side, config.embed_dim)
            self.absolute_pos_embed = nn.Parameter(trunc_normal_(position, std=0.02))
        else:
            self.register_buffer("absolute_pos_embed", sincos_positions(config.embed_dim, side))
        for block in (block for stage in self.layers for block in stage.blocks):
            if config.kind == "mixmae":
                block.shift_size, block.attn_mask = (0, 0), None
            elif block.attn_mask is not None:
                # timm's -100 leaves weights of 1e-44 where there should be none: denormal numbers,
                # with which a CPU multiplies far more slowly.
                block.attn_mask.mul_(100)

    def embed(self, image: Tensor) -> Tensor:
        """Image (B, 1, H, W) to tokens (B, H/4, W/4, C), before positions are added."""
        tokens: Tensor = self.patch_embed(image)
        return tokens

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, H/4, W/4, C) to features (B, H/32, W/32, 8C), positions added, normalised."""
        features: Tensor = self.norm(self.layers(self.positioned(tokens)))
        return features

    def encode_mixed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Like ``encode`` for tokens mixed from two images: attention stays within each image.

        ``mask`` (1, 1, H/32, W/32) is 0 where tokens come from the first image, 1 from the second.
        """
        x = self.positioned(tokens)
        for stage in self.layers:
            x = stage.downsample(x)
            origin = functional.interpolate(mask, x.shape[1:3]).permute(0, 2, 3, 1)
            size = stage.blocks[0].window_size
            source = window_partition(origin, size).flatten(1)  # (windows, tokens a window)
            other = source[:, :, None] != source[:, None, :]
            for block in stage.blocks:  # Swin's own, but for the mask
                windows = window_partition(block.norm1(x), size).flatten(1, 2)
                blocked = torch.zeros_like(other, dtype=windows.dtype).masked_fill(other, -1e4)
                attended = block.attn(windows, mask=blocked).unflatten(1, size)
                x = x + block.drop_path1(window_reverse(attended, size, *x.shape[1:3]))
                x = x + block.drop_path2(block.mlp(block.norm2(x)))
        features: Tensor = self.norm(x)
        return features

    def feature_pyramid(self, image: Tensor, *, merged: bool = True) -> list[Tensor]:
        """Four maps (B, C_i, H_i, W_i), one a stage, for a decoder, without the final norm.

        ``merged``: each stage's output *after* its patch merging (in timm the next stage's first step),
        which the authors feed to UPerNet; for 256 px and C = 128: 256 @ 32², 512 @ 16², 1024 @ 8² twice.
        Else before it, as timm gives them: 128 @ 64², 256 @ 32², 512 @ 16², 1024 @ 8².
        """
        x, before, after = self.positioned(self.embed(image)), [], []
        for stage in self.layers:
            after.append(x := stage.downsample(x))
            before.append(x := stage.blocks(x))
        maps = [*after[1:], x] if merged else before
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps]

    def positioned(self, tokens: Tensor) -> Tensor:
        """Tokens (B, H/4, W/4, C) with their absolute positions added, if there are any."""
        if self.absolute_pos_embed is None:
            return tokens
        return tokens + self.absolute_pos_embed.view(1, *tokens.shape[1:])


def sincos_positions(channels: int, side: int) -> Tensor:
    """Fixed sines and cosines of column, then row (1, side², channels), as in MAE (He et al. 2022)."""
    omega = 1 / 10000 ** (np.arange(channels // 4) / (channels / 4))
    rows, cols = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    parts = [f(axis.ravel()[:, None] * omega) for axis in (cols, rows) for f in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(parts, axis=1)[None].astype(np.float32))
