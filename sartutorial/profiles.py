"""Scale: one word (laptop, gpu, japan) chooses how large everything is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sartutorial import InputError


@dataclass(frozen=True)
class Profile:
    """Every number that depends on the machine; nothing else in the package asks how big it is.

    The comments on ``laptop`` give the authors' value where theirs is public (``japan``).
    """

    name: str
    patch_size: int  # pixels
    world: int  # simulated scenes along each axis
    scene_size: int  # pixels of a simulated scene before downsampling, per axis
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int  # tokens
    decoder_width: int  # UPerNet channels
    mixmae_decoder: tuple[int, int, int]  # width, blocks, heads
    pretrain_epochs: int
    pretrain_warmup: int
    pretrain_batch: int  # global: of all processes together
    pretrain_base_lr: float  # at a global batch of 512
    finetune_epochs: int
    finetune_warmup: int
    finetune_batch: int  # global
    finetune_base_lr: float  # at a global batch of 512


PROFILES = {
    "laptop": Profile(
        name="laptop",
        patch_size=128,  # paper: 256
        world=3,
        scene_size=4608,  # a real ultra-fine scene: about 25,000
        embed_dim=32,  # authors: 128
        depths=(2, 2, 2, 2),  # authors: 2-2-18-2
        num_heads=(1, 2, 4, 8),  # authors: 4-8-16-32
        window_size=8,
        decoder_width=32,  # authors: 256
        mixmae_decoder=(64, 2, 4),  # authors: 512, 8, 16
        pretrain_epochs=5,  # paper: 800
        pretrain_warmup=1,  # paper: 40
        pretrain_batch=16,  # authors: 8 GPUs x 256
        pretrain_base_lr=2e-2,  # authors: 1e-4; a few hundred small steps need larger ones
        finetune_epochs=2,  # paper: 100
        finetune_warmup=1,  # paper: 20
        finetune_batch=8,  # authors: 8 GPUs x 64
        finetune_base_lr=6.4e-2,  # authors: 1.25e-4
    ),
    "gpu": Profile(
        "gpu", 256, 4, 8192, 96, (2, 2, 6, 2), (3, 6, 12, 24), 8, 128, (256, 4, 8),
        100, 5, 128, 4e-4, 50, 5, 64, 4e-4,
    ),
    "japan": Profile(
        "japan", 256, 4, 8192, 128, (2, 2, 18, 2), (4, 8, 16, 32), 8, 256, (512, 8, 16),
        800, 40, 2048, 1e-4, 100, 20, 512, 1.25e-4,
    ),
}  # fmt: skip


def current() -> Profile:
    """The profile that ``SARTUTORIAL_PROFILE`` names (default ``laptop``).

    Raises InputError for a name that is not a profile.
    """
    name = os.environ.get("SARTUTORIAL_PROFILE", "laptop")
    if name not in PROFILES:
        raise InputError(f"SARTUTORIAL_PROFILE={name}: no such profile; use {', '.join(PROFILES)}")
    return PROFILES[name]


def data_dir() -> Path:
    """Where generated data lives: ``SARTUTORIAL_DATA``, else ``data/work/<profile>`` in the book."""
    if "SARTUTORIAL_DATA" in os.environ:
        return Path(os.environ["SARTUTORIAL_DATA"])
    here = Path.cwd().resolve()
    root = next((p for p in (here, *here.parents) if (p / "notebooks").is_dir()), here)
    return root / "data" / "work" / current().name
