"""Weights on disk: safetensors beside a small JSON, and the published checkpoints' key names."""

from __future__ import annotations

import datetime
import json
import platform
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sartutorial import InputError, files

MADE_WITH = ("sartutorial", "torch", "timm", "lightning", "rasterio", "numpy")


def provenance() -> dict[str, Any]:
    """What made a result: command, date, versions, machine."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in MADE_WITH if _installed(name)},
        "machine": f"{platform.machine()} {platform.system()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _installed(name: str) -> bool:
    """Whether a distribution is there: from a packed file one trains without the raster libraries."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def write_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write JSON, whole or not at all."""
    with files.replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def save(model: nn.Module, path: str | Path, description: Mapping[str, Any]) -> None:
    """Write a model's weights to ``path`` (safetensors) and its description to ``path``.json."""
    path = Path(path)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with files.replacing(path) as partial:
        try:
            save_file(state, partial)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    # Written last: where the description is, the weights are whole.
    write_json(dict(description) | {"provenance": provenance()}, path.with_suffix(".json"))


def fingerprint(path: str | Path) -> str:
    """A checksum of a file's bytes, to tell weights of the same name apart."""
    return f"{zlib.crc32(Path(path).read_bytes()):08x}"


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and description that ``save`` wrote.

    Raises InputError, naming the file, if either is missing or damaged.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.exists():
            raise InputError(f"{file}: no such file; 'pretrain' and 'finetune' write it")
    try:
        state, description = load_file(path), json.loads(path.with_suffix(".json").read_text())
    except (SafetensorError, ValueError) as error:  # ValueError: no JSON, or no text
        raise InputError(f"{path}: not weights of ours ({error}); train anew") from error
    if not isinstance(description, dict) or "encoder" not in description:
        raise InputError(f"{path}: not weights of ours (its .json describes no encoder)")
    return state, description


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights that must fit exactly; raises InputError naming what is missing or left over."""
    wanted, given = model.state_dict(), dict(state)
    wrong = sorted(wanted.keys() ^ given.keys())
    wrong += [k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape]
    if wrong:
        raise InputError(
            f"{source}: does not fit this model: {len(wrong)} keys are missing, left over or of "
            f"another shape, such as {wrong[0]}; use the profile and method it was trained with"
        )
    model.load_state_dict(given)


_UPERNET: dict[str, Callable[[re.Match[str]], str]] = {
    r"PPMHead\.psp_modules\.ppm_modules\.(\d)\.": lambda m: f"pyramid.{m[1]}.",
    r"PPMHead\.final\.": lambda m: "fuse_pyramid.",
    r"Conv_fuse(\d)\.": lambda m: f"laterals.{3 - int(m[1])}.",
    r"Conv_fuse(\d)_\.": lambda m: f"smooth.{3 - int(m[1])}.",
    r"fuse_all\.": lambda m: "fuse.",
    r"conv_x1\.": lambda m: "project.",
}


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' checkpoints to ours.

    Theirs merge patches at the end of a stage, timm's at the start of the next. Buffers that follow
    from the architecture (attention masks, relative indices) are left out.
    """
    renamed = {}
    for key, value in state.items():
        if key.endswith(("relative_position_index", "attn_mask")):
            continue
        key = re.sub(
            r"(^|encoder\.)layers\.(\d)\.downsample",
            lambda m: f"{m[1]}layers.{int(m[2]) + 1}.downsample",
            key,
        )
        if re.match(r"(absolute_pos_embed|patch_embed|layers|norm)\b", key):  # MixMAE's are bare
            key = f"encoder.{key}"
        key = key.replace("encoder.mask_token", "mask_token")
        if key.startswith("decoder.decoder."):
            key = key.removeprefix("decoder.decoder.")
            for theirs, ours in _UPERNET.items():
                key = re.sub(f"^{theirs}", ours, key)
            key = f"decoder.{key}"
        key = key.replace("decoder.prog_head.up1.", "decoder.head.0.")
        key = key.replace("decoder.prog_head.up2.", "decoder.head.1.")
        key = key.replace("decoder.prog_head.cls_seg.", "decoder.head.2.")
        renamed[key] = value
    return renamed
