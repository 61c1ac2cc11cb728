"""The authors' trained weights (Hugging Face gsvrg/ALOS-2_FM), as a file of ours.

The naming is that of microsoft/SimMIM, of their Swin and UPerNet, and of SAR-W-MixMAE.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sartutorial import InputError, checkpoints, lulc
from sartutorial.encoders import PATCH, Encoder, EncoderConfig, sincos_positions
from sartutorial.pretraining import MixMAE, SimMIM
from sartutorial.segmentation import Segmenter

MIXMAE_HEADS = 16  # of the decoder (authors' code)
# What no checkpoint holds, and on what ground we say it.
STATED: dict[str, tuple[Any, str]] = {
    "normalization": (
        {"mean": -10.4327, "std": 5.8041},
        "the authors' code: dB statistics of their ALOS-2 pretraining set",
    ),
    "spacing": (
        5.0,
        "the paper and the authors' code: ultra-fine scenes of 2.5 m, halved on each axis",
    ),
    "quantity": ("sigma0", "the authors' code: level 2.1 scenes, whose DN give sigma0 (JAXA)"),
}
CLASSES = "ours: the paper's nine, in the order that fits the authors' nine class weights"


def load(file: str | Path, out: str | Path) -> Path:
    """Bring published weights into ``out``; returns ``encoder.safetensors`` or ``model.safetensors``.

    A pretrained checkpoint (SimMIM, MixMAE or an encoder alone) gives what ``pretrain`` writes, one
    with a decoder for segmentation what ``finetune`` writes. The architecture follows from the keys
    and shapes. What a checkpoint does not hold is taken from the authors' code and paper; the JSON
    beside the weights says so, entry by entry, under ``grounds``. Weights that are there already,
    from this very file, are left alone.

    Raises InputError if the file is missing, damaged or not to be read safely (see
    ``checkpoints.read_published``), or a key is missing, left over or of an unfitting shape.
    """
    state = checkpoints.read_published(file)
    try:
        model = _model(state)
    except KeyError as error:
        raise InputError(f"{file}: lacks {error.args[0]}; not weights of this naming") from error
    except (LookupError, ValueError, AssertionError, RuntimeError, TypeError) as error:
        raise InputError(f"{file}: its shapes make no encoder of ours ({error})") from error
    checkpoints.load_into(model, state, file)
    target = Path(out) / ("model" if isinstance(model, Segmenter) else "encoder")
    target = target.with_suffix(".safetensors")
    source = {"file": Path(file).name, "checksum": checkpoints.fingerprint(file)}
    description = target.with_suffix(".json")
    if not (target.exists() and description.exists()) or (
        checkpoints.load(target)[1].get("published") != source
    ):
        checkpoints.save(model, target, _described(model) | {"published": source})
    return target


def _described(model: Any) -> dict[str, Any]:
    """The description of an imported model: what its shapes say, and what we state and why."""
    shapes = "keys and shapes of the checkpoint"
    grounds = {name: ground for name, (_, ground) in STATED.items()} | {"encoder": shapes}
    known: dict[str, Any] = {name: value for name, (value, _) in STATED.items()}
    known["encoder"] = model.encoder.config._asdict()
    if isinstance(model, Segmenter):
        known |= {"width": model.decoder.project.out_channels, "classes": list(lulc.NAMES)}
        grounds |= {"width": shapes, "classes": CLASSES}
    else:
        known["method"] = model.encoder.config.kind
        grounds["method"] = f"{shapes}; a weighted loss would leave no trace in them"
    return known | {"grounds": grounds}


def _model(state: Mapping[str, Tensor]) -> nn.Module:
    """The model, with random weights, that these keys and shapes are of."""
    encoder = Encoder(_config(state))
    if "decoder_embed.weight" in state:
        width = state["decoder_embed.weight"].shape[0]
        blocks = {k.split(".")[1] for k in state if k.startswith("decoder_blocks.")}
        return MixMAE(encoder, width, len(blocks), MIXMAE_HEADS)
    if "decoder.project.weight" in state:
        return Segmenter(encoder, state["decoder.project.weight"].shape[0])
    if "decoder.0.weight" in state or "mask_token" in state:
        return SimMIM(encoder)
    return nn.ModuleDict({"encoder": encoder})


def _config(state: Mapping[str, Tensor]) -> EncoderConfig:
    """The encoder's configuration, from the shapes of its weights.

    Positions that are exactly the fixed sines and cosines were not learnt: the encoder is MixMAE's.
    """
    found = {
        tuple(map(int, m.groups()))
        for key in state
        if (m := re.match(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.", key))
    }
    stages = range(1 + max((stage for stage, _ in found), default=0))
    tables = [
        state[f"encoder.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in stages
    ]
    positions = state["encoder.absolute_pos_embed"]
    embed_dim, side = positions.shape[2], math.isqrt(positions.shape[1])
    fixed = torch.allclose(positions.float(), sincos_positions(embed_dim, side), atol=1e-5)
    kind: Literal["simmim", "mixmae"] = "mixmae" if fixed else "simmim"
    return EncoderConfig(
        image_size=PATCH * side,
        embed_dim=state["encoder.patch_embed.proj.weight"].shape[0],
        depths=tuple(sum(stage == i for stage, _ in found) for i in stages),
        num_heads=tuple(table.shape[1] for table in tables),
        window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2,  # the table holds (2 w - 1)²
        kind="mixmae" if "decoder_embed.weight" in state else kind,
    )
