"""Choose (paper section 2.2): points drawn so that rare classes count, and the patches they hit.

The paper gives p_c = N_c / sum_k N_k and weights inverse to p_c, normalised to sum 1, in words; its
formula for the number of samples per label image is lost. What stands here for it is our reading.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, check_words, files, lulc, rasters, splits
from sartutorial.patches import INDEX, read_index, read_legend, write_index

if TYPE_CHECKING:
    import geopandas as gpd

Inverse = Literal["reciprocal", "complement"]
Split = Literal["block", "scene", "random"]
POINTS = "points.parquet"
REPORT = "sampling.csv"
POINTS_PER_PATCH = 20  # ours
WINDOW = 8_000_000  # pixels decoded at a time: what is in memory does not grow with the raster
CHUNK = 2**18  # pixels counted at a time, which the cache of a processor holds
KEEP = 256_000_000  # so many pixels of all tiles stay decoded between counting and drawing
Pixels = dict[int, dict[int, NDArray[np.int64]]]  # some of each tile and id, by rank or place
T = TypeVar("T")


def count_classes(
    tiles: files.Paths, *, legend: str | Path | lulc.Legend = "hr-lulc", progress: bool = False
) -> NDArray[np.int64]:
    """Count the pixels of each land-cover class in each tile.

    Args:
        tiles: Land-cover rasters of uint8 ids: files, URLs or folders.
        legend: What the ids mean: hr-lulc, worldcover, or a table of your own.
        progress: Show a bar.

    Returns:
        Pixels per tile and id: int64 of shape (tiles, 256); no label counts 0.

    Raises:
        InputError: A tile is no uint8 raster of the legend's ids.
    """
    return _Land(tiles, legend, progress).counts


class _Land:
    """The pixels of all tiles: how many there are of each id, and where the k-th of them lies."""

    def __init__(
        self, tiles: files.Paths, legend: str | Path | lulc.Legend, progress: bool
    ) -> None:
        self.tiles = files.find_scenes(tiles, "land-cover tile")
        self.legend, self.progress = lulc.legend(legend), progress
        self.grids, self.windows = list[rasters.Grid](), list[tuple[int, Window]]()
        for i, tile in enumerate(self.tiles):
            with rasters.opened(tile, dtype="uint8") as dataset:
                self.grids.append(rasters.grid_of(dataset))
                stored = dataset.block_shapes[0][0]  # whole blocks, so that none is decoded twice
                rows = stored * max(1, WINDOW // (stored * dataset.width))
                self.windows += [(i, w) for w in rasters.row_windows(dataset, rows)]
        self.keep = sum(g.width * g.height for g in self.grids) <= KEEP
        self.kept: dict[int, NDArray[np.uint8]] = {}
        self.chunks = self._each("count", self._count, range(len(self.windows)))
        self.counts = np.zeros((len(self.tiles), 256), dtype=np.int64)
        self.before = []  # pixels of each id in the tile above each window
        for (i, _), found in zip(self.windows, self.chunks, strict=True):
            self.before.append(self.counts[i].copy())
            self.counts[i] += found.sum(axis=0)

    def _each(self, name: str, work: Callable[[int], T], windows: Sequence[int]) -> list[T]:
        """What ``work`` makes of each window, in threads, each with a dataset of its own."""
        with files.prefetch(work, windows, rasters.threads()) as done:
            return list(tqdm(done, name, len(windows), unit="window", disable=not self.progress))

    def _ids(self, k: int) -> NDArray[np.uint8]:
        """The ids of window ``k``, row by row."""
        if k in self.kept:
            return self.kept[k]
        i, window = self.windows[k]
        with rasters.opened(self.tiles[i], dtype="uint8", decoders=1) as dataset:
            ids = rasters.read_ids(dataset, self.legend, window).ravel()
        if self.keep:
            self.kept[k] = ids
        return ids

    def _count(self, k: int) -> NDArray[np.int32]:
        """Pixels of each id in each chunk of window ``k``: (chunks, 256), no label left out."""
        ids = self._ids(k)
        counts = np.zeros((math.ceil(ids.size / CHUNK), 256), dtype=np.int32)
        for n, found in enumerate(counts):
            chunk = ids[n * CHUNK : (n + 1) * CHUNK]
            # A few comparisons of bytes are quicker than one bincount, which widens them to int64.
            left = chunk.size - np.count_nonzero(chunk == self.legend.void)
            for c in self.legend.ids:
                if left == 0:
                    break
                found[c] = np.count_nonzero(chunk == c)
                left -= found[c]
        return counts

    def find(self, ranks: Pixels) -> Pixels:
        """Where pixels lie, counted row by row, of given ranks among those of their tile and id."""
        places = {i: {c: np.empty_like(r) for c, r in mine.items()} for i, mine in ranks.items()}

        def locate(k: int) -> None:
            (i, window), chunks, ids = self.windows[k], self.chunks[k], None
            top = int(window.row_off) * self.grids[i].width
            seen = np.cumsum([self.before[k], *chunks], axis=0)
            ends = {c: np.searchsorted(rank, seen[:, c]) for c, rank in ranks[i].items()}
            for n in range(len(chunks)):
                if not (wanted := [c for c, end in ends.items() if end[n] < end[n + 1]]):
                    continue
                ids = self._ids(k) if ids is None else ids
                chunk = ids[n * CHUNK : (n + 1) * CHUNK]
                labelled = np.flatnonzero(chunk != self.legend.void)  # few, where there is sea
                chunk = chunk[labelled]
                for c in wanted:
                    part = slice(*ends[c][n : n + 2])
                    there = np.flatnonzero(chunk == c)[ranks[i][c][part] - seen[n, c]]
                    places[i][c][part] = top + n * CHUNK + labelled[there]

        self._each("draw", locate, [k for k, (i, _) in enumerate(self.windows) if i in ranks])
        return places


def category_weights(
    counts: NDArray[np.int64], inverse: Inverse = "reciprocal"
) -> NDArray[np.float64]:
    """Weigh classes inversely to their pixels (paper section 2.2).

    Args:
        counts: Pixels of each class, shape (K,).
        inverse: ``reciprocal``: 1 / p, with p the share of the pixels ("inversely proportional");
            ``complement``: 1 - p, which alone fits the authors' nine loss weights.

    Returns:
        float64 of shape (K,), summing to 1; 0 for a class without pixels.

    Raises:
        InputError: No class has pixels.

    >>> category_weights(np.array([0, 75, 25]))
    array([0.  , 0.25, 0.75])
    """
    check_words(inverse=(inverse, Inverse))
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1:
        raise InputError(f"counts {counts.shape}: give one a class, such as their sum(axis=0)")
    present = counts > 0
    if not present.any():
        raise InputError("no labelled pixel in any land-cover raster; check the tiles")
    p = np.where(present, counts, 1) / counts.sum()
    weights = np.where(present, {"reciprocal": 1 / p, "complement": 1 - p}[inverse], 0.0)
    if weights.sum() == 0:  # the complement of a single class
        weights = present.astype(np.float64)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def probabilities(counts: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(tile i, class c) of a point: float64 of shape (tiles, K), summing to 1; K classes.

    A tile's share is the weight that lies on its pixels, S_i = sum_c w_c n_ic, and within it
    P(c | i) is proportional to w_c n_ic (our reading). Together this is one draw of a pixel by the
    weight of its class. Raises InputError if every class with pixels has weight 0.
    """
    mass = counts * weights
    if not mass.any():
        raise InputError("every class with pixels has weight 0: nothing can be sampled")
    joint: NDArray[np.float64] = mass / mass.sum()
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


def sample_points(
    tiles: files.Paths,
    points: int,
    *,
    seed: int = 0,
    legend: str | Path | lulc.Legend = "hr-lulc",
    weights: Mapping[int, float] | NDArray[np.float64] | None = None,
    inverse: Inverse = "reciprocal",
    forest: bool = True,
    geometry: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """Draw points on land cover so that rare classes count (paper section 2.2).

    Points of a tile and class follow ``probabilities``; then a pixel of the class, uniformly and with
    replacement. The result depends on the tiles and the seed, not on how tiles are stored or read.

    Args:
        tiles: Land-cover rasters of uint8 ids, in any CRS: files, URLs or folders.
        points: How many points.
        seed: A whole number from 0, of any size.
        legend: What the ids mean: hr-lulc, worldcover, or a table of your own.
        weights: By id, a mapping or an array; what it leaves out gets 0. Default see ``inverse``.
        inverse: Weights 1 / p (reciprocal) or 1 - p (complement), p the share of the pixels.
        forest: Whether points may fall on forest.
        geometry: Whether to return a GeoDataFrame; else the columns alone, which is quicker.
        progress: Show a bar.

    Returns:
        A row a point, its pixel's centre in EPSG:4326: category (id), tile, longitude, latitude. The
        attribute "pixels" counts those of all tiles by id.

    Raises:
        InputError: A tile holds no such ids, a parameter is out of range, or nothing can be drawn.
    """
    check_words(inverse=(inverse, Inverse))
    if points < 1:
        raise InputError(f"--points {points}: must be at least 1")
    land = _Land(tiles, legend, progress)
    pixels = land.counts.sum(axis=0)
    by_id = category_weights(pixels, inverse) if weights is None else _own(weights, land.legend)
    by_id[[] if forest else list(land.legend.forest)] = 0
    table = _drawn(land, by_id, points, seed)
    if geometry:
        import geopandas as gpd

        ground = gpd.points_from_xy(table["longitude"], table["latitude"], crs="EPSG:4326")
        table = gpd.GeoDataFrame(table, geometry=ground)
    table.attrs["pixels"] = pixels.tolist()
    return table


def _own(
    said: Mapping[int, float] | NDArray[np.float64], legend: lulc.Legend
) -> NDArray[np.float64]:
    """A user's own weights by id: float64 of shape (256,)."""
    weights = np.zeros(256)
    for c, weight in said.items() if isinstance(said, Mapping) else enumerate(said):
        if not 0 <= weight < math.inf or (weight and c not in legend.ids):
            mend = f"take numbers from 0, for classes of {legend.name}"
            raise InputError(f"weights: {weight} for class {c}; {mend}: {[*legend.ids]}")
        weights[c] = weight
    return weights


def _drawn(land: _Land, weights: NDArray[np.float64], points: int, seed: int) -> pd.DataFrame:
    """The table of points drawn by these weights of ids, tile by tile."""
    joint = probabilities(land.counts, weights)
    numbers, ranks = allocate(joint.sum(axis=1), points), Pixels()
    for i in map(int, np.flatnonzero(numbers)):
        rng = splits.generator(seed, i)
        drawn = rng.multinomial(numbers[i], joint[i] / joint[i].sum())
        ids = map(int, np.flatnonzero(drawn))
        ranks[i] = {c: np.sort(rng.integers(land.counts[i, c], size=drawn[c])) for c in ids}
    places, category, degrees = land.find(ranks), [], []
    for i, by_id in places.items():
        grid = land.grids[i]
        category.append(np.repeat(np.array([*by_id], np.uint8), [len(p) for p in by_id.values()]))
        row, col = np.divmod(np.concatenate([*by_id.values()]), grid.width)
        pixels: Any = np.stack([col, row]) + 0.5
        x, y = grid.transform * pixels
        to_degrees = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
        degrees.append(to_degrees.transform(x, y))
    lon, lat = np.concatenate(degrees, axis=1)
    lon = np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon)
    codes = np.repeat([*places], [len(c) for c in category])
    tile = pd.Categorical.from_codes(codes, pd.Index([files.name_of(t) for t in land.tiles]))
    columns = dict(category=np.concatenate(category), tile=tile, longitude=lon, latitude=lat)
    return pd.DataFrame(columns)


def match(points: gpd.GeoDataFrame, index: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row numbers of points and of the patches they fall on, pair by pair."""
    footprints = shapely.STRtree(shapely.from_wkb(index["geometry"]))
    point, patch = footprints.query(points.geometry.to_numpy(), predicate="intersects")
    return point, patch


def sample(
    patches: str | Path,
    tiles: files.Paths,
    *,
    points: int | None = None,
    seed: int = 0,
    inverse: Inverse = "reciprocal",
    forest: bool = True,
    split: Split = "block",
    block: int = 4,
    buffer: float = 1.0,
    progress: bool = False,
) -> pd.DataFrame:
    """Choose and split the patches of a folder, and write that into its index.

    New columns: ``points`` on the patch, ``split``, ``pretrain`` and ``finetune``. The paper uses the
    patches that points hit, several points on one collapsing, and drops those of nothing but forest:
    our ``finetune``, where a patch also needs labels and a split. Ours is ``pretrain``: it needs no
    labels, so it is all of the training split, hit or not, and nothing of another or the buffer.
    PATCHES/points.parquet holds the points, PATCHES/sampling.csv the report.

    Args:
        patches: The folder that ``cut`` wrote.
        tiles: Land-cover rasters with the ids of its labels: files, URLs or folders.
        points: How many points to draw; default 20 a patch.
        seed: A whole number from 0, of any size.
        inverse: Weights 1 / p (reciprocal) or 1 - p (complement), p the share of the pixels.
        forest: Whether points may fall on forest.
        split: By spatial blocks; for comparison by scene or at random, which leak.
        block: Side of a block, in patch sides.
        buffer: Least distance between patches of two splits, in patch sides (blocks only).
        progress: Show a bar.

    Returns:
        The report: what is left after each stage, its number and the shares of the training classes
        (of pixels, points, or the labels of patches), which sum to 1 if there are any.

    Raises:
        InputError: No point falls on a patch, or none is left to fine-tune.
    """
    check_words(split=(split, Split), inverse=(inverse, Inverse))
    folder, legend = Path(patches), read_legend(patches)  # without an index nothing is written
    tiles = files.find_scenes(tiles, "land-cover tile")
    spatial = functools.partial(splits.by_block, block=block, buffer=buffer)
    deal: Any = {"block": spatial, "scene": splits.by_scene, "random": splits.at_random}[split]
    with files.locked(folder / INDEX):  # so that nobody joins a scene to it meanwhile
        index = read_index(folder)
        points = POINTS_PER_PATCH * len(index) if points is None else points
        draw: dict[str, Any] = dict(points=points, seed=seed, inverse=inverse, forest=forest)
        state = hashlib.sha256(index[["patch", "checksum", "transform"]].to_csv().encode())
        made_from = dict(split=split, block=block, buffer=buffer, patches=state.hexdigest()) | draw
        if "pretrain" not in index or not (folder / POINTS).exists():  # it was cut anew
            (folder / REPORT).unlink(missing_ok=True)
        with files.made(folder / REPORT, tiles, made_from) as partial:
            if partial is not None:
                index["split"] = deal(index, seed=seed)
                cloud = sample_points(tiles, legend=legend, progress=progress, **draw)
                _choose(folder, index, cloud, legend).to_csv(partial)
    return pd.read_csv(folder / REPORT, index_col=0)


def _choose(
    folder: Path, index: pd.DataFrame, cloud: gpd.GeoDataFrame, legend: lulc.Legend
) -> pd.DataFrame:
    """Write into a split index what the points choose; the report of ``sample``."""
    on, hit = match(cloud, index)
    if not len(on):
        raise InputError(f"{folder}: none of the points fell on a patch; are these its tiles?")
    index["points"] = np.bincount(hit, minlength=len(index))
    labels, category = splits.label_counts(index), cloud["category"].to_numpy()
    of_points = {
        "pixels of the tiles": cloud.attrs["pixels"],
        "points drawn": np.bincount(category, minlength=256),
        "points on patches": np.bincount(category[np.unique(on)], minlength=256),
    }
    rows = {name: (sum(counts), counts) for name, counts in of_points.items()}
    split, labelled = index["split"].to_numpy(), legend.merged(labels).any(axis=1)
    passed = {  # in the order of the paper
        "patches": np.ones(len(index), dtype=bool),
        "patches hit by a point": index["points"] > 0,
        "patches not fully forest": labels[:, legend.forest].sum(axis=1) < index["size"] ** 2,
        "patches labelled": labelled,
    }
    stages = dict(zip(passed, np.logical_and.accumulate([*passed.values()]), strict=True))
    left = stages["patches labelled"]
    stages |= {f"of these in {s}": left & (split == s) for s in (*splits.SPLITS, splits.BUFFER)}
    rows |= {name: (here.sum(), labels[here].sum(axis=0)) for name, here in stages.items()}
    index["pretrain"], index["finetune"] = split == "train", left & (split != splits.BUFFER)
    if labelled.any() and not index["finetune"].any():
        fault = "no patch that was hit and holds labels other than forest is outside the buffer"
        raise InputError(f"{folder}: {fault}; draw more --points or take a smaller --buffer")
    number, counts = zip(*rows.values(), strict=True)
    merged = legend.merged(np.array(counts))
    shares = merged / np.maximum(merged.sum(axis=1, keepdims=True), 1)
    table = pd.DataFrame(shares, pd.Index(rows, name="stage"), list(legend.names))
    table.insert(0, "number", np.array(number, dtype=np.int64))
    # The report goes first and comes last: it says that the others are of its own run.
    (folder / REPORT).unlink(missing_ok=True)
    with files.atomic_write(folder / POINTS) as partial:
        cloud.to_parquet(partial)
    write_index(index, folder)
    return table
