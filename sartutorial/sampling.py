"""Choose (paper section 2.2): points drawn so that rare classes count, and the patches they hit.

The paper gives p_c = N_c / sum_k N_k and weights inverse to p_c, normalised to sum 1, in words; its
formula for the number of samples per label image is lost. What stands here for it is our reading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.warp import transform
from tqdm import tqdm

from sartutorial import InputError, files, lulc, patches, rasters, splits

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

Inverse = Literal["reciprocal", "complement"]
Allocation = Literal["weight", "area"]
Category = Literal["pixels", "weight"]
Split = Literal["block", "scene", "random"]
POINTS = "points.parquet"
REPORT = "sampling.csv"
CACHE = ".counts.json"
WGS84 = CRS.from_epsg(4326)
POINTS_PER_PATCH = 20  # ours
STRIP_PIXELS = 1_000_000  # read at a time: what is in memory does not grow with the raster
J = TypeVar("J")
T = TypeVar("T")


def count_classes(
    tiles: Sequence[str | Path],
    *,
    known: dict[str, list[int]] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> NDArray[np.int64]:
    """Pixels per HR-LULC id and tile: int64 of shape (tiles, 16); column 0 (void) is always 0.

    Streams each raster once, ``workers`` tiles at a time. ``known`` holds counts by the SHA-256 of a
    file's content: a local file in it is not decoded again, and one that is not is added.
    Raises InputError for a tile that is no uint8 raster of HR-LULC ids.
    """
    known = {} if known is None else known

    def count(tile: str | Path) -> list[int]:
        key = _checksum(tile)
        if key not in known:
            found = _count(tile)
            if not key:
                return found
            known[key] = found
        return known[key]

    return np.array(_each(count, tiles, "count", workers, progress), dtype=np.int64).reshape(-1, 16)


def _each(
    work: Callable[[J], T], jobs: Sequence[J], name: str, workers: int | None, progress: bool
) -> list[T]:
    """``work`` done on every job, in threads (GDAL and numpy leave Python's lock), in order."""
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(work, jobs)
        return list(tqdm(done, name, len(jobs), unit="tile", disable=not progress))


def _checksum(tile: str | Path) -> str:
    """SHA-256 of a local file; empty for what is none (a URL, a missing file)."""
    if not Path(tile).is_file():
        return ""
    with Path(tile).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _strips(dataset: DatasetReader) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """First row and flattened ids of each strip of about STRIP_PIXELS, top to bottom."""
    for window in rasters.strips(dataset, max(1, STRIP_PIXELS // dataset.width)):
        yield int(window.row_off), rasters.read(dataset, window).ravel()


def _count(tile: str | Path) -> list[int]:
    counts = np.zeros(16, dtype=np.int64)
    with rasters.opened(tile, dtype="uint8") as dataset:
        for _, ids in _strips(dataset):
            # Sixteen comparisons of bytes are quicker than one bincount, which widens them to int64.
            here = [np.count_nonzero(ids == c) for c in range(16)]
            if sum(here) < ids.size:
                lulc.check_ids(ids, str(tile))
            counts += here
    counts[lulc.VOID] = 0
    return [int(n) for n in counts]


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


def probabilities(
    counts: NDArray[np.int64],
    weights: NDArray[np.float64],
    *,
    allocation: Allocation = "weight",
    category: Category = "pixels",
) -> NDArray[np.float64]:
    """P(tile i, class c) of a point: float64 of shape (tiles, K), summing to 1; K classes.

    A tile's share is its ``weight``, S_i = sum_c w_c n_ic (our reading), or its ``area``, the number
    of its pixels whose class has a weight. Within it P(c | i) is proportional to w_c n_ic
    (``pixels``; our reading: with ``weight`` above, one draw of a pixel by the weight of its class)
    or, for comparison, to w_c alone over the classes that the tile has (``weight``), which applies
    the weight twice. Raises InputError if every class with pixels has weight 0.
    """
    mass = counts * weights
    share = mass.sum(axis=1) if allocation == "weight" else counts @ (weights > 0)
    if share.sum() == 0:
        raise InputError("every class with pixels has weight 0: nothing can be sampled")
    within = mass if category == "pixels" else weights * (counts > 0)
    total = within.sum(axis=1, keepdims=True)
    within = within / np.where(total > 0, total, 1)
    joint: NDArray[np.float64] = (share / share.sum())[:, None] * within
    return joint


def allocate(share: NDArray[np.float64], points: int) -> NDArray[np.int64]:
    """How many of ``points`` each label image gets: int64 of shape (tiles,), summing to ``points``.

    In proportion to ``share`` (any scale), rounded by largest remainder (our reading: the paper's
    formula is lost). With fewer points than tiles, the tiles of largest share get one each.
    """
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
    allocation: Allocation = "weight",
    category: Category = "pixels",
    forest: bool = True,
    replace: bool = True,
    counts: NDArray[np.int64] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> gpd.GeoDataFrame:
    """Draw ``points`` pixels over the tiles: category (HR-LULC id), tile, longitude, latitude.

    The number of points of a tile and their classes follow ``probabilities``; then a pixel of the
    class, uniformly. ``forest=False`` gives the five forest classes probability 0. With
    ``replace=False`` no pixel is drawn twice in a tile: a class is capped at its pixels there, and
    ``attrs["short"]`` says how many points that lost, by HR-LULC id.

    One row a point, its geometry the pixel's centre in EPSG:4326. Two passes over the rasters, or
    one where their ``counts`` (see ``count_classes``) are given. The result depends on ``seed``
    alone, not on how rasters are blocked or how many ``workers`` read them.
    """
    import geopandas as gpd
    import pandas as pd

    if counts is None:
        counts = count_classes(tiles, workers=workers, progress=progress)
    weights = category_weights(counts.sum(axis=0), inverse)
    if not forest:
        weights[list(lulc.FOREST_IDS)] = 0
    joint = probabilities(counts, weights, allocation=allocation, category=category)
    numbers = allocate(joint.sum(axis=1), points)
    short = np.zeros(16, dtype=np.int64)
    jobs = []
    for i in map(int, np.flatnonzero(numbers)):
        rng = np.random.default_rng([seed, i])
        asked = rng.multinomial(numbers[i], joint[i] / joint[i].sum())
        given = asked if replace else np.minimum(asked, counts[i])
        short += asked - given
        jobs.append((i, {int(c): _ranks(rng, counts[i, c], given[c], replace)
                         for c in np.flatnonzero(given)}))  # fmt: skip
    parts = _each(lambda job: _locate(tiles[job[0]], job[1]), jobs, "draw", workers, progress)
    lon, lat = (np.concatenate([p[k] for p in parts]) for k in (1, 2))
    owner = np.repeat(np.array([i for i, _ in jobs]), [len(p[0]) for p in parts])
    columns = {
        "category": np.concatenate([p[0] for p in parts]),
        "tile": pd.Categorical.from_codes(owner, pd.Index([Path(t).name for t in tiles])),
        "longitude": lon,
        "latitude": lat,
    }
    drawn = gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(lon, lat, crs=4326))
    drawn.attrs["short"] = {str(c): int(short[c]) for c in np.flatnonzero(short)}
    return drawn


def _ranks(rng: np.random.Generator, pixels: int, number: int, replace: bool) -> NDArray[np.int64]:
    """``number`` of the ranks 0 ... ``pixels`` - 1, ascending; memory goes with ``number``."""
    if replace:
        return np.sort(rng.integers(pixels, size=number))
    if 2 * number > pixels:
        return np.sort(rng.permutation(pixels)[:number])
    chosen = np.empty(0, dtype=np.int64)
    while len(chosen) < number:  # what came twice is drawn again
        more = rng.integers(pixels, size=number - len(chosen))
        chosen = np.unique(np.concatenate([chosen, more]))
    return chosen


def _locate(
    tile: str | Path, ranks: Mapping[int, NDArray[np.int64]]
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Class, longitude and latitude of the k-th pixel (row-major) of each class, k ascending."""
    seen = dict.fromkeys(ranks, 0)
    found: list[tuple[int, NDArray[np.int64]]] = []
    with rasters.opened(tile, dtype="uint8") as dataset:
        for row, ids in _strips(dataset):
            for c, rank in ranks.items():
                mine = ids == c
                here = int(np.count_nonzero(mine))
                low, high = np.searchsorted(rank, [seen[c], seen[c] + here])
                if low < high:
                    place = np.flatnonzero(mine)[rank[low:high] - seen[c]]
                    found.append((c, place + row * dataset.width))
                seen[c] += here
        found.sort(key=lambda part: part[0])  # by class, then row-major, however read
        category = np.repeat([c for c, _ in found], [len(place) for _, place in found])
        down, right = np.divmod(np.concatenate([place for _, place in found]), dataset.width)
        lon, lat = dataset.transform * (right + 0.5, down + 0.5)
        if dataset.crs != WGS84:
            lon, lat = map(np.array, transform(dataset.crs, WGS84, lon, lat))
    return category.astype(np.uint8), lon, lat


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
    allocation: Allocation = "weight",
    category: Category = "pixels",
    forest: bool = True,
    replace: bool = True,
    split: Split = "block",
    block: int = 4,
    buffer: float = 1.0,
    workers: int | None = None,
    progress: bool = False,
) -> gpd.GeoDataFrame:
    """Write the selection and the split into the patch index of ``folder``, and return it.

    New columns: ``points`` (sampled points on the patch: several collapse into one patch), ``split``
    (by spatial ``block`` with a ``buffer``, both in patch sides; for comparison by ``scene`` or at
    ``random``; see ``splits``), ``finetune`` (sampled, some label, not every pixel forest, not in the
    buffer) and ``pretrain`` (the same, and in the training split: pretraining sees no patch that is
    validated or tested on). ``points`` defaults to 20 a patch; ``draw`` explains the other options.

    The points go to ``folder/points.parquet``, what is left after each stage (see ``report``) to
    ``folder/sampling.csv``; the tiles' counts are kept in ``folder/.counts.json``.
    Raises InputError if the index has patches without footprints or no point falls on a patch.
    """
    folder = Path(folder)
    before = patches.read_index(folder)
    bare = before.geometry.isna() | before.geometry.is_empty
    if bare.any() or before.crs is None:
        raise InputError(
            f"{folder / patches.INDEX}: {int(bare.sum()) or 'all'} patches have no footprint on the "
            "ground; run 'sartutorial patches' again"
        )
    index = before.copy()
    known = _known(folder)
    counts = count_classes(tiles, known=known, workers=workers, progress=progress)
    cloud = draw(
        tiles, points=points or POINTS_PER_PATCH * len(index), seed=seed, inverse=inverse,
        allocation=allocation, category=category, forest=forest, replace=replace, counts=counts,
        workers=workers, progress=progress,
    )  # fmt: skip
    index["points"] = match(cloud, index)
    if not index["points"].any():
        raise InputError(
            f"{folder}: none of the points fell on a patch; do tiles and patches overlap?"
        )
    if split == "block":
        index["split"] = splits.by_block(index, seed=seed, block=block, buffer=buffer)
    else:
        rule = splits.by_scene if split == "scene" else splits.at_random
        index["split"] = rule(index, seed=seed)
    chosen = np.logical_and.reduce(list(_stages(index).values()))
    index["finetune"] = chosen & (index["split"] != splits.BUFFER)
    index["pretrain"] = index["finetune"] & (index["split"] == "train")
    if not index["finetune"].any():
        raise InputError(
            f"{folder}: no patch is left that was hit, holds labels other than forest and lies "
            "outside the buffer; draw more --points or take a smaller --buffer"
        )
    if not index.equals(before) or not (folder / REPORT).exists():
        # What was trained on the same selection stays current. The index comes last: it says that
        # the others are there.
        with files.replacing(folder / POINTS) as partial:
            cloud.to_parquet(partial)
        with files.replacing(folder / REPORT) as partial:
            report(index, cloud, counts).to_csv(partial)
        patches.write_index(index, folder)
        with files.replacing(folder / CACHE) as partial:
            partial.write_text(json.dumps(known))
    return index


def _known(folder: Path) -> dict[str, list[int]]:
    """The counts that an earlier run kept; none if there are none, or they cannot be read."""
    try:
        kept = json.loads((folder / CACHE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {key: n for key, n in kept.items() if isinstance(n, list) and len(n) == 16}


def _stages(index: gpd.GeoDataFrame) -> dict[str, NDArray[np.bool_]]:
    """What a patch must be to be used, in the order of the paper, each over all patches."""
    counts = index[patches.COUNTS].to_numpy()
    forest = counts[:, list(lulc.FOREST_IDS)].sum(axis=1)
    return {
        "hit by a point": index["points"].to_numpy() > 0,
        "not fully forest": forest < counts.sum(axis=1),
        "labelled": counts[:, 1:].sum(axis=1) > 0,
    }


def report(
    index: gpd.GeoDataFrame, cloud: gpd.GeoDataFrame, counts: NDArray[np.int64]
) -> pd.DataFrame:
    """What is left after each stage of ``sample``: its number, and the shares of the nine classes.

    Of the tiles' pixels, of the points (drawn, lost by ``replace=False``, on patches), and of the
    labels of the patches: all, hit by a point (several points on one collapse), not fully forest,
    labelled, and then per split, the buffer last. Shares sum to 1 in each row that has any.
    """
    import pandas as pd

    def of_points(some: gpd.GeoDataFrame) -> NDArray[np.int64]:
        return lulc.merged(np.bincount(some["category"], minlength=16))

    def of_patches(some: gpd.GeoDataFrame) -> NDArray[np.int64]:
        return lulc.merged(some[patches.COUNTS].to_numpy().sum(axis=0))

    lost = np.zeros(16, dtype=np.int64)
    for c, n in cloud.attrs.get("short", {}).items():
        lost[int(c)] = n
    on = cloud.iloc[np.unique(index.sindex.query(cloud.geometry, predicate="intersects")[0])]
    rows = [
        ("pixels of the tiles", int(counts.sum()), lulc.merged(counts.sum(axis=0))),
        ("points drawn", len(cloud), of_points(cloud)),
        ("points short of pixels", int(lost.sum()), lulc.merged(lost)),
        ("points on patches", len(on), of_points(on)),
        ("patches", len(index), of_patches(index)),
    ]
    left = np.ones(len(index), dtype=bool)
    for stage, passed in _stages(index).items():
        left &= passed
        rows.append((f"patches {stage}", int(left.sum()), of_patches(index[left])))
    for name in (*splits.SPLITS, splits.BUFFER):
        part = index[left & (index["split"] == name).to_numpy()]
        rows.append((f"of these in {name}", len(part), of_patches(part)))
    table = pd.DataFrame(
        [part / max(part.sum(), 1) for *_, part in rows], columns=list(lulc.NAMES),
        index=pd.Index([stage for stage, *_ in rows], name="stage"),
    )  # fmt: skip
    table.insert(0, "number", [number for _, number, _ in rows])
    return table
