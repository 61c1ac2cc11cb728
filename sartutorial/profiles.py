"""Scale: one word (laptop, gpu, japan) chooses how large everything is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sartutorial import InputError


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Every number that depends on the machine; nothing else in the package asks how big it is.

    The defaults are the laptop's. Comments give the authors' value where theirs is public.
    """

    name: str = "laptop"
    patch_size: int = 128  # pixels; paper: 256
    world: int = 3  # simulated scenes along each axis
    scene_size: int = 4608  # pixels before downsampling; a real ultra-fine scene: about 25,000
    embed_dim: int = 32  # authors: 128
    depths: tuple[int, ...] = (2, 2, 2, 2)  # authors: 2-2-18-2
    num_heads: tuple[int, ...] = (1, 2, 4, 8)  # authors: 4-8-16-32
    window_size: int = 8  # tokens
    decoder_width: int = 64  # UPerNet channels; authors: 256
    mixmae_decoder: tuple[int, int, int] = (64, 2, 4)  # width, blocks, heads; authors: 512, 8, 16
    pretrain_epochs: int = 5  # paper: 800
    pretrain_warmup: float = 1  # epochs; paper: 40
    pretrain_batch: int = 16  # global: of all processes together; authors: 8 GPUs x 256
    # At a global batch of 512, as below; authors: 1e-4; a few hundred small steps need larger ones.
    pretrain_base_lr: float = 2e-2
    finetune_epochs: int = 3  # paper: 100
    finetune_warmup: float = 0.3  # epochs; paper: 20
    finetune_batch: int = 4  # authors: 8 GPUs x 64
    finetune_base_lr: float = 0.384  # authors: 1.25e-4
    # From here on recorded searches (book/results) depart from it; of losses the paper's is the first.
    dropout: float = 0.0  # in the decoder; authors: 0.5
    drop_path: float = 0.0  # in the encoder, in fine-tuning; authors: 0.1
    merged_taps: bool = False  # the decoder sees stages after patch merging (authors), or before
    head: Literal["grown", "skips", "quarter"] = "quarter"  # of the decoder; authors: grown
    layer_decay: float = 0.9  # of the rate, a block from an encoder's top down; authors: 0.8
    # Paper: the first.
    loss: Literal["dice-focal", "cross-entropy", "cross-entropy-dice"] = "cross-entropy"
    class_weight: float = 0.5  # exponent of a class's rarity in the cross-entropy; 0 = none


LAPTOP = Profile()
LARGER: dict[str, tuple[Any, Any]] = {  # where gpu and japan depart from the laptop
    "patch_size": (256, 256),
    "world": (4, 4),
    "scene_size": (8192, 8192),
    "embed_dim": (96, 128),
    "depths": ((2, 2, 6, 2), (2, 2, 18, 2)),
    "num_heads": ((3, 6, 12, 24), (4, 8, 16, 32)),
    "decoder_width": (128, 256),
    "mixmae_decoder": ((256, 4, 8), (512, 8, 16)),
    "pretrain_epochs": (100, 800),
    "pretrain_warmup": (5, 40),
    "pretrain_batch": (128, 2048),
    "pretrain_base_lr": (4e-4, 1e-4),
    "finetune_epochs": (50, 100),
    "finetune_warmup": (5, 20),
    "finetune_batch": (64, 512),
    "finetune_base_lr": (4e-4, 1.25e-4),
    "dropout": (0.5, 0.5),
    "drop_path": (0.1, 0.1),
    "merged_taps": (True, True),
    "head": ("grown", "grown"),
    "layer_decay": (0.8, 0.8),
    "loss": ("dice-focal", "dice-focal"),
    "class_weight": (0.0, 0.0),
}
GPU = replace(LAPTOP, name="gpu", **{key: gpu for key, (gpu, _) in LARGER.items()})
JAPAN = replace(LAPTOP, name="japan", **{key: japan for key, (_, japan) in LARGER.items()})
PROFILES = {p.name: p for p in (LAPTOP, GPU, JAPAN)}


def get(name: str | None = None) -> Profile:
    """The profile of this name; without one, what ``SARTUTORIAL_PROFILE`` names, else ``laptop``.

    Raises InputError for a name that is not a profile.
    """
    said = name or os.environ.get("SARTUTORIAL_PROFILE") or "laptop"
    if said not in PROFILES:
        variable = "" if name else "SARTUTORIAL_PROFILE="
        raise InputError(f"{variable}{said}: no such profile; use {', '.join(PROFILES)}")
    return PROFILES[said]


def data_dir() -> Path:
    """Where generated data lives: ``SARTUTORIAL_DATA``, else ``data/work/<profile>`` in the book."""
    if "SARTUTORIAL_DATA" in os.environ:
        return Path(os.environ["SARTUTORIAL_DATA"])
    here = Path.cwd().resolve()
    root = next((p for p in (here, *here.parents) if (p / "notebooks").is_dir()), here)
    return root / "data" / "work" / get().name


def book_file(place: str) -> Path:
    """What comes with the book, as ``results/search.json``: of a checkout around, or of the package.

    Raises InputError if it is in neither.
    """
    here, package = Path.cwd().resolve(), Path(__file__).parent
    for root in (*(p / "book" for p in (here, *here.parents, package.parent)), package):
        if (root / place).exists():
            return root / place
    raise InputError(f"book/{place} is not here; run in the book's folder, or install its wheel")
