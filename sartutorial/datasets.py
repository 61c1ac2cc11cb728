"""Feed a model: patches as tensors, shuffled and flipped as functions of (seed, epoch, index)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sartutorial import InputError, lulc, patches, rasters

if TYPE_CHECKING:
    import geopandas as gpd


class Normalization(NamedTuple):
    """Mean and standard deviation in dB; the authors' are -10.4327 and 5.8041 (their set only)."""

    mean: float
    std: float


class Patches(Dataset[dict[str, Tensor]]):
    """Patch pairs as ``image`` (1, H, W) float32, normalised, and ``label`` (H, W) int64, -1 = void.

    Items are asked for by ``(epoch, index)``, as ``Shuffled`` gives them, and then flipped at random
    in both axes, or by plain ``index``, and then left as they are. ``key`` is (seed, epoch, index):
    all randomness that concerns the item, masks included, starts from it.
    """

    def __init__(
        self, folder: str | Path, rows: gpd.GeoDataFrame, norm: Normalization, *, seed: int = 0
    ) -> None:
        if rows.empty:
            raise InputError(f"{folder}: no patch for this step; draw more --points or cut more")
        self.folder = Path(folder)
        self.names = rows["patch"].tolist()
        self.norm = norm
        self.seed = seed

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, i = item if isinstance(item, tuple) else (-1, item)
        pair = [read(self.folder / kind / self.names[i]) for kind in ("sar", "label")]
        if epoch >= 0:
            flips = np.random.default_rng([self.seed, epoch, i]).random(2) < 0.5
            axes = tuple(np.flatnonzero(flips).tolist())
            pair = [np.flip(array, axes) for array in pair]
        image = (pair[0][None] - self.norm.mean) / self.norm.std
        return {
            "image": torch.from_numpy(image.astype(np.float32)),
            "label": torch.from_numpy(lulc.to_index(pair[1])),
            "key": torch.tensor([self.seed, epoch + 1, i]),
        }


class Shuffled(Sampler[tuple[int, int]]):
    """Whole batches of all indices once an epoch, in an order that depends on (seed, epoch).

    Lightning sets the epoch. Of ``world`` processes, each takes every ``world``-th index from its own
    ``rank`` on: together they hold the batches that one process alone would.
    """

    def __init__(
        self, length: int, seed: int, *, batch: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.seed, self.epoch = length, seed, 0
        self.whole = slice(rank, length // batch * batch, world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.length)[self.whole])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        return ((self.epoch, int(i)) for i in order[self.whole])


def read(path: str | Path) -> NDArray[Any]:
    """The single band of a patch; raises InputError, naming the file, if it cannot be read."""
    try:
        with rasterio.open(path) as dataset:
            return rasters.read(dataset)
    except (RasterioIOError, InputError) as error:
        raise InputError(
            f"{error}; delete the folder of patches and run 'sartutorial patches' again"
        ) from error


def statistics(folder: str | Path, rows: gpd.GeoDataFrame) -> Normalization:
    """Mean and standard deviation in dB over the given patches, in one streaming pass (float64)."""
    n, total, squares = 0, 0.0, 0.0
    for name in rows["patch"]:
        db = read(Path(folder) / "sar" / name).astype(np.float64)
        n, total, squares = n + db.size, total + db.sum(), squares + (db**2).sum()
    if n == 0:
        raise InputError(f"{folder}: no patch to take statistics of; run 'sartutorial sample'")
    mean = total / n
    return Normalization(mean, max(float(np.sqrt(max(squares / n - mean**2, 0))), 1e-6))


def selected(folder: str | Path, column: str, split: str | None = None) -> gpd.GeoDataFrame:
    """The rows of the index whose ``column`` (pretrain, finetune) is true, of one split or all."""
    index = patches.read_index(folder)
    if column not in index:
        raise InputError(f"{folder}: patches are not sampled yet; run 'sartutorial sample' first")
    rows = index[index[column]]
    return rows if split is None else rows[rows["split"] == split]


def loader(
    dataset: Patches,
    batch: int,
    *,
    shuffle: bool,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    parts: int = 1,
) -> DataLoader[Any]:
    """A loader that drops the last short batch in training (where the batch is a setting), not else.

    In training, it is that of process ``rank`` of ``world``, and gives its share of a batch in
    ``parts``; the batch must divide by both.
    """
    batch = min(batch, len(dataset))
    share = Shuffled(len(dataset), dataset.seed, batch=batch, rank=rank, world=world)
    return DataLoader(
        dataset,
        batch_size=batch // (world * parts),
        sampler=share if shuffle else None,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def fingerprint(rows: gpd.GeoDataFrame) -> int:
    """A checksum of which patches are used, part of what makes two runs the same."""
    return zlib.crc32("".join(rows["patch"]).encode())
