"""Choose (paper section 2.2): points drawn so that rare classes count, and the patches they hit.

The paper gives p_c = N_c / sum_k N_k and weights inverse to p_c, normalised to sum 1, in words; its
formula for the number of samples per label image is lost. What stands here for it is our reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from tqdm import tqdm

from sartutorial import InputError, lulc, patches, rasters, splits

if TYPE_CHECKING:
    import geopandas as gpd

Inverse = Literal["reciprocal", "complement"]
POINTS = "points.parquet"


def count_classes(tiles: Sequence[str | Path], *, progress: bool = False) -> NDArray[np.int64]:
    """Pixels per HR-LULC id and tile: int64 of shape (tiles, 16); column 0 (void) is always 0.

    Streams each raster once. Raises InputError for a tile that is no uint8 raster of HR-LULC ids.
    """
    counts = np.zeros((len(tiles), 16), dtype=np.int64)
    for i, tile in enumerate(tqdm(tiles, desc="count", unit="tile", disable=not progress)):
        with rasters.opened(tile, dtype="uint8") as dataset:
            for window in rasters.strips(dataset):
                ids = rasters.read(dataset, window)
                lulc.check_ids(ids, str(tile))
                counts[i] += np.bincount(ids.ravel(), minlength=16)[:16]
    counts[:, lulc.VOID] = 0
    return counts


def category_weights(
    counts: NDArray[np.int64], inverse: Inverse = "reciprocal"
) -> NDArray[np.float64]:
    """Class weights from pixel counts (shape (K,)): float64 of shape (K,), summing to 1.

    ``reciprocal`` is 1 / p_c, the literal reading of "inversely proportional"; ``complement`` is
    1 - p_c, the only one that fits the authors' nine loss weights. A class without pixels gets 0.
    Raises InputError if no class has pixels.
    """
    counts = np.asarray(counts, dtype=np.float64)
    present = counts > 0
    if not present.any():
        raise InputError("no labelled pixel in any land-cover raster; check the tiles")
    p = counts / counts.sum()
    with np.errstate(divide="ignore"):
        weights = np.where(present, 1 / p if inverse == "reciprocal" else 1 - p, 0.0)
    if weights.sum() == 0:  # the complement of a single class
        weights = present.astype(np.float64)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def allocate(
    counts: NDArray[np.int64], weights: NDArray[np.float64], points: int
) -> NDArray[np.int64]:
    """How many of ``points`` each label image gets: int64 of shape (tiles,), summing to ``points``.

    N_i = N S_i / sum_j S_j with S_i = sum_c w_c n_ic, rounded by largest remainder (our reading).
    """
    share = counts @ weights
    if share.sum() == 0:
        raise InputError("every class with pixels has weight 0: nothing can be sampled")
    exact: NDArray[np.float64] = points * share / share.sum()
    whole: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    rest = np.argsort(whole - exact, kind="stable")[: points - whole.sum()]
    whole[rest] += 1
    return whole


def draw(
    tiles: Sequence[str | Path],
    *,
    points: int,
    seed: int,
    inverse: Inverse = "reciprocal",
    progress: bool = False,
) -> gpd.GeoDataFrame:
    """Draw ``points`` locations over the tiles: columns category (HR-LULC id), tile, geometry.

    Within tile i a class is drawn with P(c | i) proportional to w_c n_ic, then a pixel of that class
    uniformly, with replacement. Two passes over the rasters; the result depends on ``seed`` alone,
    not on how the rasters are blocked. Geometry is the pixel's centre in EPSG:4326.
    """
    import geopandas as gpd
    import pandas as pd

    counts = count_classes(tiles, progress=progress)
    weights = category_weights(counts.sum(axis=0), inverse)
    numbers = allocate(counts, weights, points)
    frames = []
    for i, tile in enumerate(tqdm(tiles, desc="draw", unit="tile", disable=not progress)):
        if numbers[i] == 0:
            continue
        rng = np.random.default_rng([seed, i])
        p = weights * counts[i]
        per_class = rng.multinomial(numbers[i], p / p.sum())
        ranks = {
            c: np.sort(rng.integers(counts[i, c], size=n)) for c, n in enumerate(per_class) if n
        }
        with rasters.opened(tile, dtype="uint8") as dataset:
            category, row, col = _locate(dataset, ranks)
            x, y = dataset.transform * (col + 0.5, row + 0.5)
            geometry = gpd.points_from_xy(x, y, crs=dataset.crs).to_crs(4326)
        frames.append(
            gpd.GeoDataFrame({"category": category, "tile": Path(tile).name}, geometry=geometry)
        )
    return gpd.GeoDataFrame(pd.concat(frames, ignore_index=True))


def _locate(
    dataset: DatasetReader, ranks: Mapping[int, NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Category, row and column of the k-th pixel (row-major) of each class, for sorted ranks k."""
    seen = dict.fromkeys(ranks, 0)
    found: list[tuple[NDArray[np.int64], ...]] = []
    for window in rasters.strips(dataset):
        ids = rasters.read(dataset, window)
        for c, rank in ranks.items():
            flat = np.flatnonzero(ids == c)
            here = rank[(rank >= seen[c]) & (rank < seen[c] + flat.size)] - seen[c]
            row, col = np.divmod(flat[here], dataset.width)
            found.append((np.full(row.size, c), row + int(window.row_off), col))
            seen[c] += flat.size
    category, row, col = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(category, kind="stable")  # by class, then row-major, however read
    return category[order], row[order], col[order]


def match(points: gpd.GeoDataFrame, index: gpd.GeoDataFrame) -> NDArray[np.int64]:
    """How many points fall into each patch footprint: int64 of shape (patches,)."""
    position, _ = index.sindex.query(points.geometry, predicate="intersects")[::-1]
    return np.bincount(position, minlength=len(index))


def sample(
    folder: str | Path,
    tiles: Sequence[str | Path],
    *,
    points: int | None = None,
    seed: int = 0,
    inverse: Inverse = "reciprocal",
    block: int = 4,
    progress: bool = False,
) -> gpd.GeoDataFrame:
    """Write the selection and the split into the patch index of ``folder``, and return it.

    New columns: ``points`` (sampled points on the patch), ``split`` (by spatial blocks of ``block``
    x ``block`` patches, see ``splits``), ``finetune`` (sampled, some label, not every pixel forest) and
    ``pretrain`` (the same, and in the training split: pretraining sees no patch that is validated or
    tested on). ``points`` defaults to 20 a patch. The points go to ``folder/points.parquet``.
    Raises InputError if no point falls on a patch.
    """
    before = patches.read_index(folder)
    index = before.copy()
    cloud = draw(
        tiles, points=points or 20 * len(index), seed=seed, inverse=inverse, progress=progress
    )
    index["points"] = match(cloud, index)
    counts = index[patches.COUNTS].to_numpy()
    labelled = counts[:, 1:].sum(axis=1)
    forest = counts[:, list(lulc.FOREST_IDS)].sum(axis=1)
    index["finetune"] = (index["points"] > 0) & (labelled > 0) & (forest < counts.sum(axis=1))
    if not index["finetune"].any():
        raise InputError(
            f"{folder}: none of the points fell on a patch; do tiles and patches overlap?"
        )
    index["split"] = splits.by_block(index, seed=seed, block=block)
    index["pretrain"] = index["finetune"] & (index["split"] == "train")
    if not index.equals(before):  # what was trained on the same selection stays current
        with rasters.replacing(Path(folder) / POINTS) as partial:
            cloud.to_parquet(partial)
        patches.write_index(index, folder)
    return index
