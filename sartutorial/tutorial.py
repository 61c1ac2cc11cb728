"""The chain on simulated data, step by step: any chapter builds what earlier ones have not."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from sartutorial import (
    checkpoints,
    downsample,
    finetuning,
    labels,
    patches,
    pretraining,
    rasters,
    sampling,
)
from sartutorial import simulate as simulation
from sartutorial.profiles import current, data_dir

if TYPE_CHECKING:
    from IPython.display import Markdown


def world() -> Path:
    """The folder of the simulated world: scenes, lulc, dem, truth (chapter 01)."""
    simulation.simulate(data_dir(), workers=os.cpu_count() or 1)
    return data_dir()


def scenes() -> list[Path]:
    """The simulated scenes at full resolution (chapter 01)."""
    return [Path(p) for p in rasters.find([world() / "scenes"])]


def tiles() -> list[Path]:
    """The simulated land-cover tiles (chapter 01)."""
    return [Path(p) for p in rasters.find([world() / "lulc"])]


def halved() -> list[Path]:
    """The scenes at half resolution (chapter 02)."""
    return [downsample.downsample(s, data_dir() / "half" / s.name) for s in scenes()]


def labelled() -> Path:
    """The folder of label rasters (chapter 03)."""
    out = data_dir() / "labels"
    for scene in halved():
        labels.label(scene, tiles(), out / scene.name)
    return out


def cut() -> Path:
    """The folder of patch pairs and their index (chapter 04)."""
    out = data_dir() / "patches"
    patches.cut(halved(), labelled(), out, size=current().patch_size)
    return out


def sampled() -> Path:
    """The same folder, with selection and split in the index (chapter 05)."""
    out = cut()
    # Without a report, an older version sampled it: its split kept no buffer.
    if "split" not in patches.read_index(out) or not (out / sampling.REPORT).exists():
        sampling.sample(out, tiles())
    return out


def encoder(method: pretraining.Method = "sar-w-simmim") -> Path:
    """A pretrained encoder (chapter 06); weights from its training are kept for ``epochs``."""
    out = data_dir() / "encoders" / method
    keep = ModelCheckpoint(
        out / "epochs",
        save_top_k=-1,
        save_weights_only=True,
        every_n_epochs=max(current().pretrain_epochs // 10, 1),  # twenty files at most
        enable_version_counter=False,
        mode="max",  # no score is watched; Lightning tells two of a kind apart by their settings
    )
    return pretraining.pretrain(sampled(), out, method=method, callbacks=[keep])


def epochs(method: pretraining.Method = "sar-w-simmim") -> dict[int, dict[str, Tensor]]:
    """The whole model's weights by the number of epochs it was trained, the last one always.

    What another run left in the folder is passed over, and an epoch that was killed before its
    weights were kept is missing.
    """
    file = encoder(method)
    state, description = checkpoints.load(file)
    kept = {len(description["history"]): state}
    for path in (file.parent / "epochs").glob("*.ckpt"):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if all(description.get(k) == v for k, v in json.loads(saved["run"]).items()):
            weights = {k.removeprefix("model."): v for k, v in saved["state_dict"].items()}
            kept.setdefault(len(saved["history"]), weights)
    return dict(sorted(kept.items()))


def model(method: pretraining.Method | None = "sar-w-simmim") -> Path:
    """A fine-tuned model (chapter 07); ``method=None`` starts from random weights."""
    out = data_dir() / "models" / (method or "scratch")
    return finetuning.finetune(sampled(), out, encoder=encoder(method) if method else None)


def show_source(thing: Callable[..., Any] | type) -> Markdown:
    """The package's own source of a function or class, as a notebook shows it."""
    from IPython.display import Markdown

    return Markdown(f"```python\n{inspect.getsource(thing)}```")  # type: ignore[no-untyped-call]
