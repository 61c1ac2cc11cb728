"""Weights on disk: safetensors beside a small JSON, and other people's pickles, read unexecuted."""

from __future__ import annotations

import datetime
import json
import platform
import sys
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
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
    versions = {}
    for name in MADE_WITH:
        with suppress(PackageNotFoundError):  # a machine that trains needs no raster libraries
            versions[name] = version(name)
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
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
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    # Where a description is, it is that of the weights beside it: it goes first and comes last.
    path.with_suffix(".json").unlink(missing_ok=True)
    with files.atomic_write(path) as partial:
        try:
            save_file(state, partial)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    write_json(dict(description) | {"provenance": provenance()}, path.with_suffix(".json"))


def named(file: str | Path, kind: str) -> Path:
    """The file of weights that is meant: ``reference`` is the book's own encoder or model (``kind``).

    Raises InputError if the book's weights are asked for and not there.
    """
    if str(file) != "reference":
        return Path(file)
    place = Path("book", "weights", f"{kind}.safetensors")
    here = Path.cwd().resolve()
    for root in (here, *here.parents, Path(__file__).parents[2]):
        if (root / place).exists():
            return root / place
    raise InputError(f"reference: {place} is not here; run in the book's folder, or name a file")


def fingerprint(path: str | Path) -> str:
    """A checksum of a file's bytes, to tell weights of the same name apart."""
    return f"{zlib.crc32(Path(path).read_bytes()):08x}"


def check_readable(path: str | Path, mend: str) -> None:
    """Raise InputError unless a file is there (``mend`` says where it comes from) and may be read."""
    try:
        Path(path).open("rb").close()  # safetensors calls both faults "no such file"
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {mend}") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a file that you may read"
        ) from error


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and description that ``save`` wrote.

    Raises InputError, naming the file, if either is missing, unreadable or damaged.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        check_readable(file, "'pretrain', 'finetune' and 'import-weights' write it")
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
    both = wanted.keys() & given.keys()
    wrong = {
        "missing": wanted.keys() - both,
        "left over": given.keys() - both,
        "of another shape": {k for k in both if wanted[k].shape != given[k].shape},
    }
    found = ", ".join(
        f"{len(keys)} {fault} ({', '.join(sorted(keys)[:3])}{', ...' * (len(keys) > 3)})"
        for fault, keys in wrong.items()
        if keys
    )
    if found:
        raise InputError(f"{source}: does not fit: of its keys, {found}; use the same architecture")
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


def read_foreign(file: str | Path) -> Any:
    """What a torch pickle or safetensors file of other people holds, without running any of it.

    torch reads the pickle with ``weights_only=True``; classes and functions that it names and torch
    does not allow, such as a configuration's, are replaced by inert ones of ours: none is imported
    or called.

    Raises InputError, naming the file, if it is missing, unreadable, damaged, no checkpoint, or
    cannot be read in this way.
    """
    check_readable(file, "name a checkpoint on this machine")
    names = _foreign_names(file)
    stubs: list[Any] = [(_Inert if n.startswith("numpy.") else _InertDict, n) for n in names]
    try:
        if Path(file).suffix == ".safetensors":  # which newer versions of torch would load as well
            return load_file(file)
        with torch.serialization.safe_globals(stubs):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle, or a torn one, can raise anything
        what = f"it pickles {', '.join(names)}" if names else type(error).__name__
        raise InputError(
            f"{file}: weights cannot be read from it without running what it holds, or it is damaged "
            f"or no torch checkpoint ({what}); fetch it again, or ask for the weights alone"
        ) from error


def _foreign_names(file: str | Path) -> list[str]:
    """The classes and functions that a checkpoint names beside torch's own; none is imported."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    except Exception:  # torch's format before 1.6, or no checkpoint: loading it will tell
        return []
