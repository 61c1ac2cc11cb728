"""Weights on disk: safetensors beside a small JSON, and other people's pickles, read unexecuted."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import textwrap
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from sartutorial import InputError, __version__, files, profiles


def provenance() -> dict[str, Any]:
    """What made a result: command, date, versions, machine."""
    libraries = ("torch", "timm", "lightning", "rasterio", "numpy")
    there = filter(find_spec, libraries)  # a machine that trains needs no raster library
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"sartutorial": __version__} | {name: version(name) for name in there},
        "machine": f"{platform.machine()} {platform.system()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write JSON, whole or not at all."""
    with files.atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def save(model: nn.Module, path: str | Path, description: Mapping[str, Any]) -> None:
    """Write a model's weights to ``path`` (safetensors) and its description to ``path``.json."""
    path = Path(path)
    state = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
    # Where a description is, it is that of the weights beside it: it goes first and comes last.
    path.with_suffix(".json").unlink(missing_ok=True)
    with files.atomic_write(path) as partial:
        partial.write_bytes(safetensors.save(state))
    write_json(dict(description) | {"provenance": provenance()}, path.with_suffix(".json"))


def named(file: str | Path, kind: str) -> Path:
    """The file of an encoder or model (``kind``), which may be named by its folder or ``reference``."""
    if str(file) == "reference":
        return profiles.book_file(f"weights/{kind}.safetensors")
    return Path(file, f"{kind}.safetensors") if os.path.isdir(file) else Path(file)


def fingerprint(path: str | Path) -> str:
    """A checksum of a file's bytes, to tell weights of the same name apart."""
    return f"{zlib.crc32(Path(path).read_bytes()):08x}"


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and description that ``save`` wrote; InputError if one is missing or damaged."""
    path = Path(path)
    try:
        # Read here: of its own, safetensors calls every fault "no such file".
        state = safetensors.load(path.read_bytes())
        description = json.loads(path.with_suffix(".json").read_bytes())
        if not isinstance(description, dict) or "encoder" not in description:
            raise ValueError("its .json describes no encoder")
    except OSError as error:
        raise files.unreadable(error.filename, error) from error
    except (SafetensorError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not weights of ours ({error}); train anew") from error
    return state, description


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights that must fit exactly; InputError names what is missing or left over."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        said = textwrap.shorten(str(error), 400)
        raise InputError(f"{source}: does not fit: {said}; use the same architecture") from error


class _Inert:
    """Stands for what a checkpoint pickles beside its weights: takes anything and keeps nothing."""

    def __init__(self, *_: Any) -> None: ...

    __setstate__ = __init__


class _InertDict:
    """The same for what may be a kind of dict: torch fills in only those that it knows."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def read_foreign(file: str | Path) -> Any:
    """What a torch pickle or safetensors file of other people holds, without running any of it.

    What torch does not allow a pickle to name, such as a configuration's class, is replaced by
    something inert: none is imported or called. Raises InputError if the file cannot be read so.
    """
    names: list[str] = []
    try:
        if Path(file).suffix == ".safetensors":  # which newer versions of torch would load as well
            return safetensors.load(Path(file).read_bytes())
        with suppress(RuntimeError, ValueError):  # torch's format before 1.6 has no such list
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
        stubs: list[Any] = [(_Inert if n.startswith("numpy.") else _InertDict, n) for n in names]
        with torch.serialization.safe_globals(stubs):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise files.unreadable(file, error) from error
    except Exception as error:  # bytes that are no pickle, or a torn one, can raise anything
        what = f"it pickles {', '.join(names)}" if names else type(error).__name__
        raise InputError(
            f"{file}: weights cannot be read from it without running what it holds, or it is damaged "
            f"or no torch checkpoint ({what}); fetch it again, or ask for the weights alone"
        ) from error
