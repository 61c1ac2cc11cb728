"""Weights as torch modules: files of ours, and the authors' checkpoints as they were published."""

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

# What no checkpoint holds, and on what ground a description of one says what it says.
STATED = dict(
    normalization=dict(mean=-10.4327, std=5.8041), spacing=5.0, quantity="sigma0", polarisation="HH"
)
GROUNDS = {
    "normalization": "the authors' code: dB statistics of their ALOS-2 pretraining set",
    "spacing": "the paper and the authors' code: scenes of 2.5 m, halved on each axis",
    "quantity": "the authors' code: level 2.1 scenes, whose DN give sigma0 (JAXA)",
    "polarisation": "the paper",
    "encoder": "keys and shapes; without positions the image size is ours: a last stage of one window",
    "decoder": "keys and shapes; MixMAE's heads, which no shape tells, are the authors' code's",
    "method": "keys and shapes; a weighted loss would leave no trace in them",
    "legend": "ours: the paper's nine, in the order that fits the authors' nine class weights",
    "channels": "ours: three have seen photographs; the input convolution is summed over them (a grey "
    "image in each gives the same), the head averaged; normalisation, spacing and quantity are left "
    "to the patches that fine-tune it",
}
ALOS_2 = (
    "The source data of the model's weights are ALOS-2's, copyrighted by JAXA and used under the "
    "JAXA-AIST agreement."
)  # their authors ask for this sentence
M = TypeVar("M", bound=nn.Module)


class Loaded(NamedTuple, Generic[M]):
    """A torch module in evaluation mode, and its description: what the JSON of our files holds."""

    model: M
    description: dict[str, Any]  # encoder, decoder, legend, normalization, spacing, quantity, ...


def load_encoder(file: str | Path, image_size: int | None = None) -> Loaded[Encoder]:
    """The encoder of a pretrained or fine-tuned model, and its description.

    Of normalised images (B, 1, H, W), ``feature_pyramid(image)`` gives a map a stage, and
    ``encode(embed(image))`` the last features (B, H/32, W/32, 8C).

    Args:
        file: Weights that ``pretrain``, ``finetune`` or ``import_weights`` wrote (.safetensors beside
            its .json), an authors' checkpoint (.pth), or ``reference``, the book's own.
        image_size: In pixels, what an encoder without absolute positions is fitted to.

    Raises:
        InputError: The file is missing, damaged, or its weights do not fit.
    """
    model, description = _load(checkpoints.named(file, "encoder"))
    encoder: Encoder = model.encoder
    if image_size and image_size % STRIDE == 0 and not encoder.config.positions:
        fitted = Encoder(encoder.config._replace(image_size=image_size))
        state = encoder.state_dict()
        for key, wanted in fitted.state_dict().items():
            if len(wanted) < len(state[key]):  # a window cut to its stage knows fewer offsets
                old, new = math.isqrt(len(state[key])), math.isqrt(len(wanted))
                inner = slice((old - new) // 2, (old + new) // 2)
                state[key] = state[key].view(old, old, -1)[inner, inner].flatten(0, 1)
        checkpoints.load_into(fitted, state, file)
        encoder = fitted.eval()
    return Loaded(encoder, description | {"encoder": encoder.config._asdict()})


def load_model(file: str | Path) -> Loaded[Segmenter]:
    """A fine-tuned model, of normalised images (B, 1, H, W) to logits (B, K, H, W).

    Raises:
        InputError: ``file``, as for ``load_encoder``, holds no segmentation model.
    """
    loaded = _load(checkpoints.named(file, "model"))
    if not isinstance(loaded.model, Segmenter):
        raise InputError(f"{file}: holds no segmentation model; give what 'finetune' wrote")
    return loaded


def load_pretraining(file: str | Path) -> Loaded[SimMIM | MixMAE]:
    """A pretrained model with the head that reconstructs; else as ``load_encoder``."""
    loaded = _load(checkpoints.named(file, "encoder"))
    if not isinstance(loaded.model, SimMIM | MixMAE):
        raise InputError(f"{file}: holds no pretrained model; give what 'pretrain' wrote")
    return loaded


def import_weights(file: str | Path, out: str | Path) -> Path:
    """Bring an authors' checkpoint into the form of our own weights.

    A pretrained checkpoint (SimMIM, MixMAE or an encoder alone) gives what ``pretrain`` writes, one
    with a decoder for segmentation what ``finetune`` writes. The source data of the authors' weights
    are ALOS-2's, copyrighted by JAXA and used under the JAXA-AIST agreement: say so, as a printed line
    reminds you, where you use them.

    Args:
        file: The checkpoint: a torch pickle (.pth), nothing of which is run, or safetensors.
        out: Folder for the weights; those that are there already, from this very file, are left.

    Raises:
        InputError: The file is damaged or not to be read safely, or its keys or shapes do not fit.
    """
    if Path(file).suffix == ".safetensors" and Path(file).with_suffix(".json").exists():
        raise InputError(f"{file}: is a file of ours, by its .json; use it as it is")
    model, description = _load(file, ours=False)
    target = Path(out) / f"{'model' if isinstance(model, Segmenter) else 'encoder'}.safetensors"
    with files.locked(target):
        there = target.exists() and target.with_suffix(".json").exists()
        if not there or checkpoints.load(target)[1].get("published") != description["published"]:
            checkpoints.save(model, target, description)
    print(f"If these are gsvrg/ALOS-2_FM's (licence MIT), state where you use them: {ALOS_2}")
    return target


def _load(file: str | Path, ours: bool | None = None) -> Loaded[Any]:
    """The whole model in a file, which is of ours by its suffix unless that is said.

    Of a checkpoint of others the architecture follows from keys and shapes; what it does not hold is
    taken from the authors' code and paper, and the description says so entry by entry (``grounds``).
    """
    ours = Path(file).suffix == ".safetensors" if ours is None else ours
    state, known = checkpoints.load(file) if ours else (checkpoints.read_foreign(file), {})
    try:
        if not ours:
            state = from_published(state)
            source = {"file": Path(file).name, "checksum": checkpoints.fingerprint(file)}
            known = _described(state) | {"published": source}
        encoder, model = Encoder(EncoderConfig(**known["encoder"])), nn.Module()
        if "decoder.project.weight" in state:
            model = Segmenter(encoder, Decoder(**known["decoder"]))
            model.temperature = known.get("temperature", 1.0)
        elif "decoder_embed.weight" in state:
            model = MixMAE(encoder, **known["decoder"])
        elif "decoder.0.weight" in state:
            model = SimMIM(encoder)
        else:
            model.encoder = encoder
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (LookupError, ValueError, AssertionError, RuntimeError, TypeError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else f"has unknown shapes ({error})"
        raise InputError(f"{file}: {said}; not weights of this naming") from error
    checkpoints.load_into(model, state, file)
    return Loaded(model.eval(), known)


def _described(state: dict[str, Tensor]) -> dict[str, Any]:
    """What weights under our names are, with the grounds; those of three channels are made one's."""
    known: dict[str, Any] = dict(STATED)
    stem, head = "encoder.patch_embed.proj.weight", ("decoder.0.weight", "decoder.0.bias")
    segments, mixes = "decoder.project.weight" in state, "decoder_embed.weight" in state
    if not mixes and head[0] not in state:
        state.pop("mask_token", None)  # theirs is a part of the encoder, also of one saved alone
    channels = state[stem].shape[1]
    if channels == 3 and not segments and not mixes:
        state[stem] = state[stem].sum(1, keepdim=True)
        for key in state.keys() & head:  # PixelShuffle's channels come one after the other
            state[key] = state[key].reshape(3, STRIDE**2, *state[key].shape[1:]).mean(0)
        known = {"channels": "three, made one"}
    elif channels != 1:
        raise InputError(f"reads images of {channels} channels, ours have one; train it on one")
    config = _config(state)
    known["encoder"] = config._asdict()
    if segments:
        known["decoder"] = Decoder(len(state["decoder.project.weight"]))._asdict()
        known["legend"] = lulc.HR_LULC.to_dict()
    else:
        known["method"] = config.kind
    if mixes:
        blocks = len({k.split(".")[1] for k in state if k.startswith("decoder_blocks.")})
        width = len(state["decoder_embed.weight"])
        known["decoder"] = {"width": width, "blocks": blocks, "heads": 16}
    return known | {"grounds": {name: GROUNDS[name] for name in known}}


def _config(state: Mapping[str, Tensor]) -> EncoderConfig:
    """The encoder's configuration, from shapes; positions of exact sines and cosines are MixMAE's."""
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
    width, heads = len(state["encoder.patch_embed.proj.weight"]), [t.shape[1] for t in tables]
    shape = width, tuple(depths[i] for i in range(len(tables))), tuple(heads), windows[0]
    return EncoderConfig(size, *shape, "mixmae" if fixed else "simmim", positions is not None)


# What data parallelism, torch.compile and checkpointing of activations put into keys.
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_(fsdp|checkpoint)_wrapped_module)\.")
_USUAL = {"model", "state_dict", "model_state_dict", "net", "network", "encoder", ""}
_DERIVED = ("relative_position_index", "attn_mask", "n_averaged")  # no weights
# What theirs are called here, one substitution after the other.
_NAMES = (
    (r"^backbone\.", "encoder."),
    (r"^(?=(absolute_pos_embed|patch_embed|layers|norm)\b)", "encoder."),
    (r"^encoder\.mask_token", "mask_token"),
    (r"^decoder\.decoder\.PPMHead\.psp_modules\.ppm_modules", "decoder.pyramid"),
    (r"^decoder\.decoder\.PPMHead\.final", "decoder.fuse_pyramid"),
    (r"^decoder\.decoder\.Conv_fuse(\d)\.", lambda m: f"decoder.laterals.{3 - int(m[1])}."),
    (r"^decoder\.decoder\.Conv_fuse(\d)_\.", lambda m: f"decoder.smooth.{3 - int(m[1])}."),
    (r"^decoder\.decoder\.fuse_all", "decoder.fuse"),
    (r"^decoder\.decoder\.conv_x1", "decoder.project"),
    (r"^decoder\.prog_head\.up(\d)", lambda m: f"decoder.head.{int(m[1]) - 1}"),
    (r"^decoder\.prog_head\.cls_seg", "decoder.head.2"),
)
# They merge patches at the end of a stage, timm (if a checkpoint does so) at the start of the next.
_MERGING = r"(?<=^encoder\.layers\.)\d(?=\.downsample)", lambda m: f"{int(m[0]) + 1}"


def from_published(content: Any) -> dict[str, Tensor]:
    """The weights in what a checkpoint holds, under our names.

    They lie bare or in dicts of any depth, and keys may begin with the names of modules around the
    model, in any order: it is what ``patch_embed`` belongs to, and what lies outside it is left.
    Raises InputError if there are no weights or several models, KeyError if there is no encoder.
    """
    weights = [(_WRAPPERS.sub("", path), tensor) for path, tensor in _tensors(content)]
    if not weights:
        raise InputError("holds no weights, neither bare nor as 'model' or 'state_dict'")
    stem = re.compile(r"(\b(encoder|backbone)\.)?patch_embed\.proj\.weight$")
    roots = {stem.sub("", path) for path, _ in weights if stem.search(path)}
    if not roots:
        raise KeyError("encoder.patch_embed.proj.weight")
    root, *others = sorted({r for r in roots if set(r.split(".")) <= _USUAL} or roots)
    if others:
        models = ", ".join(r.rstrip(".") for r in (root, *others))
        raise InputError(f"holds several models ({models}); save one alone")
    at_end = any(".layers.0.downsample." in f".{path}" for path, _ in weights)
    renamed: dict[str, Tensor] = {}
    for path, tensor in weights:
        if path.startswith(root) and not path.endswith(_DERIVED):
            key = path.removeprefix(root)
            for theirs, ours in (*_NAMES, _MERGING) if at_end else _NAMES:
                key = re.sub(theirs, ours, key)
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
