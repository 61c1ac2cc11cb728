"""Feed a model: patches as tensors, shuffled and flipped as functions of (seed, epoch, index).

Patches come from the folder that ``patches.cut`` wrote, or from the one file that ``packing.pack``
made of it: that needs numpy and pandas alone, where the folder needs the raster libraries.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sartutorial import InputError, lulc

if TYPE_CHECKING:
    import pandas as pd

# What a row of a packed file says of its patch, as the index does; its pixels come before.
COLUMNS = ("patch", "split", "pretrain", "finetune", "size", "spacing", "quantity")


class Normalization(NamedTuple):
    """Mean and standard deviation in dB; the authors' are -10.4327 and 5.8041 (their set only)."""

    mean: float
    std: float


class Patches(Dataset[dict[str, Tensor]]):
    """Patch pairs as ``image`` (1, H, W) float32, normalised, and ``label`` (H, W) int64, -1 = void.

    Without ``labels``, as pretraining asks for them, label rasters are not read.
    ``folder`` is that of the patches or a packed file, ``rows`` what ``selected`` found there.
    Items are asked for by ``(epoch, index)``, as ``Shuffled`` gives them, and then flipped at random
    in both axes, or by plain ``index``, and then left as they are. ``key`` is (seed, epoch, index):
    all randomness that concerns the item, masks included, starts from it.
    An item raises InputError, naming the patch, if it cannot be read or holds NaN or infinite values.
    """

    def __init__(
        self,
        folder: str | Path,
        rows: pd.DataFrame,
        norm: Normalization,
        *,
        seed: int = 0,
        labels: bool = True,
    ) -> None:
        if rows.empty:
            raise InputError(f"{folder}: no patch for this step; draw more --points or cut more")
        self.pixels = Pixels(folder, rows)
        self.norm = norm
        self.seed = seed
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pixels.names)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, i = item if isinstance(item, tuple) else (-1, item)
        pair = [self.pixels.read(kind, i) for kind in ("sar", "label")[: 1 + self.labels]]
        if epoch >= 0:
            flips = np.random.default_rng([self.seed, epoch, i]).random(2) < 0.5
            axes = tuple(np.flatnonzero(flips).tolist())
            pair = [np.flip(array, axes) for array in pair]
        image = (pair[0][None] - self.norm.mean) / self.norm.std
        found = {
            "image": torch.from_numpy(image.astype(np.float32)),
            "key": torch.tensor([self.seed, epoch + 1, i]),
        }
        if self.labels:
            found["label"] = torch.from_numpy(lulc.to_index(pair[1]))
        return found


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


class Pixels:
    """The arrays of the patches in ``rows``, by kind (``sar``, ``label``) and number."""

    def __init__(self, folder: str | Path, rows: pd.DataFrame) -> None:
        self.folder = Path(folder)
        self.names: list[str] = rows["patch"].tolist()
        self.places: list[int] = rows.index.tolist()
        self.is_packed = self.folder.is_file()

    def read(self, kind: str, i: int) -> NDArray[Any]:
        """(H, W): float32 dB of ``sar``, HR-LULC ids (uint8) of ``label``.

        Raises InputError, naming the patch, if it cannot be read or holds NaN or infinite values.
        """
        if self.is_packed:
            array: NDArray[Any] = np.array(self.rows[kind][self.places[i]])
        else:
            array = read(self.folder / kind / self.names[i])
        if kind == "sar" and not np.isfinite(array).all():
            raise InputError(
                f"{self.folder}: the patch {self.names[i]} holds NaN or infinite values; training "
                "needs dB in every pixel: cut it again, or leave it out of the index"
            )
        return array

    @cached_property
    def rows(self) -> NDArray[Any]:
        """The packed file, mapped once a process."""
        return packed(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        """What a loader's worker is sent: without the mapping, which would go as a copy of all pixels."""
        return {k: v for k, v in self.__dict__.items() if k != "rows"}


def packed(file: str | Path) -> NDArray[Any]:
    """The rows of a packed file, memory-mapped: one patch each, with its pixels and ``COLUMNS``.

    Raises InputError if the file is no packed file, or a part of one.
    """
    try:
        rows = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file}: not a readable packed file ({error}); name the folder of patches, or what "
            "'sartutorial pack' wrote"
        ) from error
    if rows.dtype.names != ("sar", "label", *COLUMNS):
        raise InputError(f"{file}: not a packed file of ours; run 'sartutorial pack'")
    return rows


def read(path: str | Path) -> NDArray[Any]:
    """The single band of a patch; raises InputError, naming the file, if it cannot be read."""
    import rasterio  # only here: a packed file needs no raster library
    from rasterio.errors import RasterioIOError

    from sartutorial import rasters

    try:
        with rasterio.open(path) as dataset:
            return rasters.read(dataset)
    except (RasterioIOError, InputError) as error:
        raise InputError(
            f"{error}; delete the folder of patches and run 'sartutorial patches' again"
        ) from error


def statistics(folder: str | Path, rows: pd.DataFrame) -> Normalization:
    """Mean and standard deviation in dB over the given patches, in one streaming pass (float64).

    Raises InputError if there is none, or one cannot be read or holds NaN or infinite values.
    """
    n, total, squares = 0, 0.0, 0.0
    pixels = Pixels(folder, rows)
    for i in range(len(rows)):
        db = pixels.read("sar", i).astype(np.float64)
        n, total, squares = n + db.size, total + db.sum(), squares + (db**2).sum()
    if n == 0:
        raise InputError(f"{folder}: no patch to take statistics of; run 'sartutorial sample'")
    mean = total / n
    return Normalization(mean, max(float(np.sqrt(max(squares / n - mean**2, 0))), 1e-6))


def index_of(folder: str | Path) -> Path:
    """The file that lists the patches: the folder's index, or the packed file itself."""
    if Path(folder).is_file():
        return Path(folder)
    from sartutorial import patches

    return Path(folder) / patches.INDEX


def sampled(folder: str | Path) -> pd.DataFrame:
    """What is known of the patches: the folder's index (a GeoDataFrame), or ``COLUMNS`` of a packed file.

    Raises InputError if it cannot be read, or ``sample`` has not chosen and split the patches.
    """
    if Path(folder).is_file():
        import pandas as pd

        rows = packed(folder)
        return pd.DataFrame({name: np.array(rows[name]) for name in COLUMNS})
    from sartutorial import patches

    index: pd.DataFrame = patches.read_index(folder)
    if not set(COLUMNS) <= set(index):
        raise InputError(f"{folder}: patches are not sampled yet; run 'sartutorial sample' first")
    return index


def selected(folder: str | Path, column: str, split: str | None = None) -> pd.DataFrame:
    """The rows of the index whose ``column`` (pretrain, finetune) is true, of one split or all."""
    index = sampled(folder)
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


def fingerprint(rows: pd.DataFrame) -> int:
    """A checksum of which patches are used, part of what makes two runs the same."""
    return zlib.crc32("".join(rows["patch"]).encode())
