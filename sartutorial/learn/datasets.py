"""Feed a model: patches as tensors, shuffled and flipped as functions of (seed, epoch, index)."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sartutorial import InputError
from sartutorial.lulc import Legend
from sartutorial.patches import SPACING, Store, read_index, read_legend
from sartutorial.splits import label_counts

SEEDS = 2**61 - 1  # seeds are taken modulo a prime, so that large ones stay apart


class Normalization(NamedTuple):
    """Mean and standard deviation in dB; the authors' are -10.4327 and 5.8041 (their set only)."""

    mean: float
    std: float


class Patches(Dataset[dict[str, Tensor]]):
    """Patches as ``image`` (1, H, W) float32, normalised, and ``label`` (H, W) int64, -1 = void.

    Asked for by ``(epoch, index)``, as ``Shuffled`` does, an item is flipped at random in both axes.
    From its ``key`` (seed, epoch, index) starts all that is random about it, masks included.

    Args:
        folder: What ``cut`` or ``import_patches`` wrote.
        rows: The rows of its index to use, such as ``selected`` finds; default all.
        norm: Mean and deviation in dB that images are normalised with; default those of ``rows``.
        seed: Any whole number.
        labels: Whether items have a label; pretraining reads none.

    Raises:
        InputError: There is no patch, or (for an item) one cannot be read or holds NaN; it is named.
    """

    def __init__(
        self,
        folder: str | Path,
        rows: pd.DataFrame | None = None,
        norm: Normalization | None = None,
        *,
        seed: int = 0,
        labels: bool = True,
    ) -> None:
        rows = read_index(folder) if rows is None else rows
        if rows.empty:
            raise InputError(f"{folder}: no patch for this step; draw more --points or cut more")
        self.norm = norm or statistics(folder, rows)
        self.store, self.length = Store(folder, rows), len(rows)
        self.legend = read_legend(folder) if labels else None
        self.seed = seed % SEEDS

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, i = item if isinstance(item, tuple) else (-1, item)
        flips = np.random.default_rng([self.seed, epoch, i]).random(2) < 0.5 if epoch >= 0 else ()
        axes = tuple(np.flatnonzero(flips).tolist())
        image = (np.flip(self.store.sar(i), axes)[None] - self.norm.mean) / self.norm.std
        key = torch.tensor([self.seed, epoch + 1, i])
        found = {"image": torch.from_numpy(image.astype(np.float32)), "key": key}
        if self.legend:
            label = self.legend.to_index(np.flip(self.store.label(i), axes))
            found["label"] = torch.from_numpy(label)
        return found


class Shuffled(Sampler[tuple[int, int]]):
    """Whole batches of all indices once an epoch, in an order that depends on (seed, epoch).

    Of ``world`` processes each, by its ``rank``, takes its part of the batches that one alone would.
    """

    def __init__(
        self, length: int, seed: int, batch: int = 1, *, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.seed, self.world, self.epoch = length, seed % SEEDS, world, 0
        self.whole = slice(rank, length // batch * batch, world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.length)[self.whole])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return ((self.epoch, int(i)) for i in order[self.whole])


def loader(data: Patches, batch: int, order: Shuffled | None = None) -> DataLoader[Any]:
    """Batches of patches in the order of the index, or shuffled; cores beyond two read ahead."""
    cores, cuda = (os.cpu_count() or 1) // (order.world if order else 1), torch.cuda.is_available()
    n = min(8, max(cores - 2, 0))
    more: dict[str, Any] = dict(num_workers=n, persistent_workers=n > 0, pin_memory=cuda)
    return DataLoader(data, batch, sampler=order, **more)


def statistics(folder: str | Path, rows: pd.DataFrame) -> Normalization:
    """Mean and standard deviation in dB over the given patches, in one streaming pass (float64)."""
    store, n, total, squares = Store(folder, rows), 0, 0.0, 0.0
    for i in range(len(rows)):
        db = store.sar(i).astype(np.float64)
        n, total, squares = n + db.size, total + db.sum(), squares + (db**2).sum()
    mean = total / n
    return Normalization(float(mean), max(float(np.sqrt(max(squares / n - mean**2, 0))), 1e-6))


def selected(folder: str | Path, column: str, split: str | None = None) -> pd.DataFrame:
    """The rows of the index whose ``column`` (pretrain, finetune) is true, of one split or all."""
    index = read_index(folder)
    if not {"split", "pretrain", "finetune"} <= set(index):
        raise InputError(f"{folder}: patches are not sampled yet; run 'sartutorial sample' first")
    rows: pd.DataFrame = index[index[column] & (index["split"].eq(split) if split else True)]
    if rows.empty:
        where = f" in the split {split}" if split else ""
        raise InputError(f"{folder}: no patch to {column}{where}; sample with more --points")
    return rows


def class_counts(rows: pd.DataFrame, legend: Legend) -> NDArray[np.int64]:
    """Labelled pixels of every patch by training class: (patches, classes)."""
    return legend.merged(label_counts(rows))


def share(rows: pd.DataFrame, legend: Legend, labels: float, seed: int) -> pd.DataFrame:
    """A share of labelled patches in which every class keeps its part, in the order of ``rows``.

    A patch stands for the rarest class that it holds; of each class, in an order drawn from ``seed``,
    the same share is taken, and one patch at least as long as there are enough. Shares of a seed nest.
    """
    if not 0 < labels <= 1:
        raise InputError(f"labels={labels}: the share of labels must be above 0 and at most 1")
    counts = class_counts(rows, legend)
    rarity = counts.sum(0).argsort(kind="stable").argsort(kind="stable")  # 0: the rarest class
    order = np.random.default_rng([seed % SEEDS, 1]).permutation(len(rows))
    rank = pd.Series(np.where(counts > 0, rarity, len(rarity)).min(1)[order])
    queues = rank.groupby(rank)
    place = queues.cumcount() / queues.transform("size")  # in the queue of its class, from 0 to 1
    first = np.lexsort((rank, place))[: max(round(labels * len(rows)), 1)]
    return rows.iloc[np.sort(order[first])]


def common(rows: pd.DataFrame) -> dict[str, Any]:
    """What the patches of a set have in common, as a model's description has it; spacing in metres."""
    kind = {name: str(rows[name].iloc[0]) for name in ("quantity", "polarisation")}
    return {"spacing": float(rows["spacing"].mean())} | kind


def check_fits(rows: pd.DataFrame, given: Mapping[str, Any], file: str | Path) -> None:
    """Raise InputError unless patches are of the size, quantity, polarisation and spacing (to 5 %) given.

    ``given`` describes the weights in ``file``; of those of photographs the size alone is known.
    """
    found = common(rows) | {"size": int(rows["size"].iloc[0])}
    known = found | dict(given) | {"size": given["encoder"]["image_size"]}
    found, known = (d | {"spacing": round(d["spacing"], 2)} for d in (found, known))
    unlike = {k: found[k] != known[k] for k in ("size", "quantity", "polarisation")}
    unlike["polarisation"] &= "unknown" not in (found["polarisation"], known["polarisation"])
    unlike["spacing"] = abs(found["spacing"] / known["spacing"] - 1) > SPACING
    one, other = (", ".join(f"{k} {d[k]}" for k in unlike if unlike[k]) for d in (known, found))
    if one:
        raise InputError(f"{file}: was trained on patches of {one}, these have {other}; train anew")


def fingerprint(rows: pd.DataFrame) -> int:
    """A checksum of which patches are used and what they hold, part of what makes two runs the same."""
    names = rows["patch"] + rows["checksum"].astype(str)
    return zlib.crc32("\n".join(names).encode())
