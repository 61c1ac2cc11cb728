"""Weights as torch modules: files of ours, and the authors' checkpoints as they were published.

The authors' (Hugging Face gsvrg/ALOS-2_FM) have the naming of microsoft/SimMIM, of their Swin and
UPerNet, and of SAR-W-MixMAE.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sartutorial import InputError, files, lulc
from sartutorial.learn import checkpoints
from sartutorial.learn.encoders import PATCH, STRIDE, Encoder, EncoderConfig, sincos_positions
from sartutorial.learn.pretraining import MixMAE, SimMIM
from sartutorial.learn.segmentation import Decoder, Segmenter

MIXMAE_HEADS = 16  # of the decoder (authors' code); no shape tells
# What no checkpoint holds, and on what ground we say it.
STATED: dict[str, tuple[Any, str]] = {
    "normalization": (
        {"mean": -10.4327, "std": 5.8041},
        "the authors' code: dB statistics of their ALOS-2 pretraining set",
    ),
    "spacing": (5.0, "the paper and the authors' code: scenes of 2.5 m, halved on each axis"),
    "quantity": ("sigma0", "the authors' code: level 2.1 scenes, whose DN give sigma0 (JAXA)"),
    "polarisation": ("HH", "the paper"),
}
SHAPES = "keys and shapes of the checkpoint"
PLACELESS = f"{SHAPES}; without positions the image size is ours: a last stage of one window"
COLOUR = (
    "ours: three channels have seen photographs; the input convolution is summed over them (a grey "
    "image in each gives the same), the head averaged; normalisation, spacing and quantity are left "
    "to the patches that fine-tune it"
)
LEGEND = "ours: the paper's nine, in the order that fits the authors' nine class weights"
M = TypeVar("M", bound=nn.Module)


class Loaded(NamedTuple, Generic[M]):
    """A torch module in evaluation mode, and its description: what the JSON of our files holds."""

    model: M
    description: dict[str, Any]  # encoder, decoder, legend, normalization, spacing, quantity, ...


def load_encoder(file: str | Path) -> Loaded[Encoder]:
    """The encoder of a pretrained or fine-tuned model, ready to compute features.

    Args:
        file: Weights that ``pretrain``, ``finetune`` or ``import_weights`` wrote (.safetensors beside
            its .json), an authors' checkpoint as it was published (.pth), or ``reference``, the
            book's own.

    Returns:
        The encoder, of normalised images (B, 1, H, W): ``taps(image)`` gives a map a stage,
        ``encode(embed(image))`` the last features (B, H/32, W/32, 8C). And its description.

    Raises:
        InputError: The file is missing, damaged, or its weights do not fit.
    """
    model, description = _load(checkpoints.named(file, "encoder"))
    return Loaded(model.encoder, description)


def load_model(file: str | Path) -> Loaded[Segmenter]:
    """A fine-tuned model, ready to segment; else as ``load_encoder``.

    Returns:
        The model, from normalised images (B, 1, H, W) to logits (B, K, H, W). And its description.

    Raises:
        InputError: ``file`` cannot be read as weights, or holds no segmentation model.
    """
    model, description = _load(checkpoints.named(file, "model"))
    if not isinstance(model, Segmenter):
        raise InputError(f"{file}: holds no segmentation model; give what 'finetune' wrote")
    return Loaded(model, description)


def load_pretraining(file: str | Path) -> Loaded[SimMIM | MixMAE]:
    """A pretrained model with the head that reconstructs; else as ``load_encoder``."""
    model, description = _load(checkpoints.named(file, "encoder"))
    if not isinstance(model, SimMIM | MixMAE):
        raise InputError(f"{file}: holds no pretrained model; give what 'pretrain' wrote")
    return Loaded(model, description)


def import_weights(file: str | Path, out: str | Path) -> Path:
    """Bring an authors' checkpoint into the form of our own weights.

    A pretrained checkpoint (SimMIM, MixMAE or an encoder alone) gives what ``pretrain`` writes, one
    with a decoder for segmentation what ``finetune`` writes. The source data of the authors' weights
    are ALOS-2's, copyrighted by JAXA and used under the JAXA-AIST agreement; say so where you use them.

    Args:
        file: The checkpoint: a torch pickle (.pth), nothing of which is run, or safetensors.
        out: Folder for the weights; those that are there already, from this very file, are left.

    Returns:
        ``out/encoder.safetensors`` or ``out/model.safetensors``, its description (.json) beside it.

    Raises:
        InputError: The file is missing, damaged or not to be read safely, or a key is missing, left
            over or of an unfitting shape.
    """
    if Path(file).suffix == ".safetensors" and Path(file).with_suffix(".json").exists():
        raise InputError(f"{file}: is a file of ours, by its .json; use it as it is")
    model, description = _load(file, ours=False)
    target = Path(out) / f"{'model' if isinstance(model, Segmenter) else 'encoder'}.safetensors"
    with files.locked(target):
        there = target.exists() and target.with_suffix(".json").exists()
        if not there or checkpoints.load(target)[1].get("published") != description["published"]:
            checkpoints.save(model, target, description)
    return target


def _load(file: str | Path, ours: bool | None = None) -> Loaded[Any]:
    """The whole model in a file, which is of ours by its suffix unless that is said.

    Of a checkpoint of others the architecture follows from keys and shapes. One without absolute
    positions, as microsoft/SimMIM publishes, gives an encoder without them, one of three channels an
    encoder of one (see ``COLOUR``). What it does not hold is taken from the authors' code and paper;
    the description says so, entry by entry, under ``grounds``.
    """
    ours = Path(file).suffix == ".safetensors" if ours is None else ours
    content, known = checkpoints.load(file) if ours else (checkpoints.read_foreign(file), {})
    try:
        state = content if ours else from_published(content)
        if not ours:
            source = {"file": Path(file).name, "checksum": checkpoints.fingerprint(file)}
            known = _described(state) | {"published": source}
        model = _model(state, known)
    except KeyError as error:
        raise InputError(f"{file}: lacks {error.args[0]}; not weights of this naming") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (LookupError, ValueError, AssertionError, RuntimeError, TypeError) as error:
        raise InputError(f"{file}: its shapes make no encoder of ours ({error})") from error
    checkpoints.load_into(model, state, file)
    return Loaded(model.eval(), known)


def _model(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> nn.Module:
    """The model, with random weights, that keys and a description are of."""
    encoder = Encoder(EncoderConfig(**known["encoder"]))
    if "decoder.project.weight" in state:
        return Segmenter(encoder, Decoder(**known["decoder"]))
    if "decoder_embed.weight" in state:
        return MixMAE(encoder, **known["decoder"])
    if "decoder.0.weight" in state:
        return SimMIM(encoder)
    return nn.ModuleDict({"encoder": encoder})


def _described(state: dict[str, Tensor]) -> dict[str, Any]:
    """What weights under our names are, with the grounds; those of three channels are made one's."""
    said = dict(STATED)
    stem, head = "encoder.patch_embed.proj.weight", ("decoder.0.weight", "decoder.0.bias")
    segments, mixes = "decoder.project.weight" in state, "decoder_embed.weight" in state
    if "decoder.0.weight" not in state and not mixes:
        state.pop("mask_token", None)  # theirs is a part of the encoder, also of one saved alone
    channels = state[stem].shape[1]
    if channels == 3 and not segments and not mixes:
        state[stem] = state[stem].sum(1, keepdim=True)
        for key in state.keys() & head:  # PixelShuffle's channels come one after the other
            state[key] = state[key].reshape(3, STRIDE**2, *state[key].shape[1:]).mean(0)
        said = {"channels": ("three, made one", COLOUR)}
    elif channels != 1:
        raise InputError(f"reads images of {channels} channels, ours have one; train it on one")
    config = _config(state)
    said["encoder"] = config._asdict(), SHAPES if config.positions else PLACELESS
    if segments:
        said["decoder"] = Decoder(len(state["decoder.project.weight"]))._asdict(), SHAPES
        said["legend"] = lulc.HR_LULC.to_dict(), LEGEND
    else:
        said["method"] = config.kind, f"{SHAPES}; a weighted loss would leave no trace in them"
    if mixes:
        blocks = len({k.split(".")[1] for k in state if k.startswith("decoder_blocks.")})
        said["decoder"] = (
            {"width": len(state["decoder_embed.weight"]), "blocks": blocks, "heads": MIXMAE_HEADS},
            f"{SHAPES}; the heads are the authors' code's",
        )
    known = {name: value for name, (value, _) in said.items()}
    return known | {"grounds": {name: ground for name, (_, ground) in said.items()}}


def _config(state: Mapping[str, Tensor]) -> EncoderConfig:
    """The encoder's configuration, from the shapes of its weights.

    Positions that are exactly the fixed sines and cosines were not learnt: the encoder is MixMAE's.
    """
    blocks = re.findall(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.", "\n".join(state))
    depths = Counter(int(stage) for stage, _ in set(blocks))
    table = "encoder.layers.{}.blocks.0.attn.relative_position_bias_table".format
    tables = [state[table(i)] for i in range(1 + max(depths, default=0))]
    windows = [(math.isqrt(len(t)) + 1) // 2 for t in tables]  # a table holds (2 w - 1)²
    positions, fixed = state.get("encoder.absolute_pos_embed"), "decoder_embed.weight" in state
    size = STRIDE * windows[-1]
    if positions is not None:
        side = math.isqrt(positions.shape[1])
        size, sines = PATCH * side, sincos_positions(positions.shape[2], side)
        fixed |= torch.allclose(positions.float(), sines, atol=1e-5)
    return EncoderConfig(
        image_size=size,
        embed_dim=len(state["encoder.patch_embed.proj.weight"]),
        depths=tuple(depths[i] for i in range(len(tables))),
        num_heads=tuple(t.shape[1] for t in tables),
        window_size=windows[0],
        kind="mixmae" if fixed else "simmim",
        positions=positions is not None,
    )


# What data parallelism, torch.compile and checkpointing of activations put into keys.
_WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_USUAL = {"model", "state_dict", "model_state_dict", "net", "network", "encoder", ""}
_DERIVED = ("relative_position_index", "attn_mask", "n_averaged")  # no weights
# Theirs merge patches at the end of a stage, timm's (if a checkpoint does so) at the start of the next.
_NAMES = {
    "encoder.mask_token": "mask_token",
    **{f"encoder.layers.{i}.downsample": f"encoder.layers.{i + 1}.downsample" for i in range(3)},
    "decoder.decoder.PPMHead.psp_modules.ppm_modules": "decoder.pyramid",
    "decoder.decoder.PPMHead.final": "decoder.fuse_pyramid",
    **{f"decoder.decoder.Conv_fuse{i}.": f"decoder.laterals.{3 - i}." for i in (1, 2, 3)},
    **{f"decoder.decoder.Conv_fuse{i}_.": f"decoder.smooth.{3 - i}." for i in (1, 2, 3)},
    "decoder.decoder.fuse_all": "decoder.fuse",
    "decoder.decoder.conv_x1": "decoder.project",
    "decoder.prog_head.up1": "decoder.head.0",
    "decoder.prog_head.up2": "decoder.head.1",
    "decoder.prog_head.cls_seg": "decoder.head.2",
}


def from_published(content: Any) -> dict[str, Tensor]:
    """The weights in what a checkpoint holds, under our names.

    They lie bare or in dicts of any depth (``model``, ``state_dict``, ``encoder``, ...), and keys may
    begin with the names of modules around the model (``module.``, ``_orig_mod.``, ``model.``, ...), in
    any order: the model is what ``patch_embed`` belongs to, and what lies outside it is left.

    Raises InputError if there are no weights, several models, or two keys that mean one; KeyError if
    there is no encoder.
    """
    weights = [(_WRAPPERS.sub("", path), tensor) for path, tensor in _tensors(content)]
    if not weights:
        raise InputError("holds no weights, neither bare nor as 'model' or 'state_dict'")
    stem = r"(|.*\.)patch_embed\.proj\.weight"
    encoders = [m[1] for path, _ in weights if (m := re.fullmatch(stem, path))]
    if not encoders:
        raise KeyError("encoder.patch_embed.proj.weight")
    roots = {re.sub(r"(^|\.)(encoder|backbone)\.$", r"\1", encoder) for encoder in encoders}
    roots = {root for root in roots if set(root.split(".")) <= _USUAL} or roots
    if len(roots) > 1:
        names = ", ".join(sorted(root.rstrip(".") for root in roots))
        raise InputError(f"holds several models ({names}); save one alone")
    (root,) = roots
    at_end = any(".layers.0.downsample." in f".{path}" for path, _ in weights)
    table = [name for name in _NAMES if at_end or "downsample" not in name]
    renamed: dict[str, Tensor] = {}
    for path, tensor in weights:
        if path.startswith(root) and not path.endswith(_DERIVED):
            key = re.sub(r"^backbone\.", "encoder.", path.removeprefix(root))
            if re.match(r"(absolute_pos_embed|patch_embed|layers|norm)\b", key):  # of MixMAE
                key = f"encoder.{key}"
            theirs = next((name for name in table if key.startswith(name)), "")
            key = _NAMES.get(theirs, "") + key.removeprefix(theirs)
            if key in renamed:
                raise InputError(f"two of the keys mean {key}; keep one")
            renamed[key] = tensor
    return renamed


def _tensors(content: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """Path and tensor in every dict, at any depth, that holds nothing but tensors by name."""
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        return []
    if all(torch.is_tensor(v) for v in content.values()):
        return [(path + k, v) for k, v in content.items()]
    return [found for k, v in content.items() for found in _tensors(v, f"{path}{k}.")]
