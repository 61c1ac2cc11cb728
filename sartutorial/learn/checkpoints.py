"""Weights on disk: safetensors beside a small JSON, and the published checkpoints' key names."""

from __future__ import annotations

import datetime
import json
import platform
import re
import sys
import zlib
from collections import OrderedDict
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
    wrong = {
        "missing": wanted.keys() - given.keys(),
        "left over": given.keys() - wanted.keys(),
        "of another shape": {
            k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape
        },
    }
    if any(wrong.values()):
        found = ", ".join(
            f"{len(keys)} {fault} ({', '.join(sorted(keys)[:3])}{', ...' * (len(keys) > 3)})"
            for fault, keys in wrong.items()
            if keys
        )
        raise InputError(
            f"{source}: does not fit this model: of its keys, {found}; use weights of the very same "
            "architecture (profile, method)"
        )
    model.load_state_dict(given)


class _Inert:
    """Stands for what a checkpoint pickles beside its weights: takes any state and keeps none."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict:
    """The same for what may be a kind of dict: torch fills in only those that it knows."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def read_published(file: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint as its authors published it, under our names (see from_published).

    ``file`` is a torch pickle with the weights under ``model`` or ``state_dict``, or bare, or it is
    safetensors. What lies beside the weights (optimiser, schedule, configuration) is dropped. torch
    reads the pickle with ``weights_only=True``; classes and functions that it names and torch does not
    allow, such as a configuration's, are replaced by inert ones of ours: none is imported or called.

    Raises InputError, naming the file, if it is missing, damaged, no checkpoint, holds no weights,
    or cannot be read in this way.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: no such file; name a checkpoint on this machine")
    names = _foreign(file)
    stubs: list[Any] = [(_Inert if n.startswith("numpy.") else _InertDict, n) for n in names]
    try:
        if Path(file).suffix == ".safetensors":  # which newer versions of torch would load as well
            content = load_file(file)
        else:
            with torch.serialization.safe_globals(stubs):
                content = torch.load(file, map_location="cpu", weights_only=True)
        state = _weights(content)
    except Exception as error:  # bytes that are no pickle, or a torn one, can raise anything
        what = f"it pickles {', '.join(names)}" if names else type(error).__name__
        raise InputError(
            f"{file}: weights cannot be read from it without running what it holds, or it is damaged "
            f"or no torch checkpoint ({what}); fetch it again, or ask for the weights alone"
        ) from error
    if not state:
        raise InputError(f"{file}: holds no weights, neither bare nor as 'model' or 'state_dict'")
    try:
        return from_published(state)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _weights(content: Any) -> dict[str, Tensor]:
    """The tensors by name in what was unpickled; none if there is anything else among them."""
    held = content if isinstance(content, dict) else {}
    state = next((held[k] for k in ("model", "state_dict") if isinstance(held.get(k), dict)), held)
    whole = all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items())
    return dict(state) if whole else {}


def _foreign(file: str | Path) -> list[str]:
    """The classes and functions that a checkpoint names beside torch's own; none is imported."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    except Exception:  # torch's format before 1.6, or no checkpoint: loading it will tell
        return []


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
    Raises InputError if two keys mean one.
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
        if key in renamed:
            raise InputError(f"two of the keys mean {key}; keep one")
        renamed[key] = value
    return renamed
