"""Label it (paper section 2.1): land-cover tiles merged, reprojected and masked to the scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.warp import transform, transform_bounds
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, lulc, radiometry, rasters

Floats = NDArray[np.float64]
STEP = 32  # pixels between points that are reprojected exactly
COLUMNS = 2048  # of the scene that are looked up at a time: a small part of a tile at once


def overlapping(scene: DatasetReader, tiles: Sequence[str | Path]) -> list[str]:
    """Those of ``tiles`` whose bounding box meets the scene's, in the order given."""
    chosen = []
    for tile in tiles:
        with rasters.opened(tile, dtype="uint8") as t:
            left, bottom, right, top = transform_bounds(scene.crs, t.crs, *scene.bounds)
            box = t.bounds
            if left < box.right and right > box.left and bottom < box.top and top > box.bottom:
                chosen.append(str(tile))
    return chosen


def missing(scene: DatasetReader, tiles: Sequence[DatasetReader]) -> list[str]:
    """The HR-LULC tiles, by name, in whose square degree ``tiles`` leave part of the scene uncovered.

    Seas without land have no tile, so this need not be a fault. Bounding boxes are compared.
    """
    from shapely import box, union_all

    boxes = [box(*transform_bounds(t.crs, "EPSG:4326", *t.bounds)) for t in tiles]
    covered = union_all(boxes).buffer(1e-6)
    bounds = transform_bounds(scene.crs, "EPSG:4326", *scene.bounds)
    west, south, east, north = bounds
    cells = [
        (lon, lat)
        for lat in range(math.floor(south), math.ceil(north))
        for lon in range(math.floor(west), math.ceil(east))
    ]
    return [
        lulc.tile_name(lon, lat)
        for lon, lat in cells
        if not covered.covers(box(*bounds) & box(lon, lat, lon + 1, lat + 1))
    ]


class Lookup:
    """The ids of a tile under the pixels of a grid, by exact nearest neighbour.

    Class ids must never be interpolated, and the tile pixel that holds a pixel's centre is the
    nearest. To reproject every centre takes long, and GDAL's usual approximation misplaces pixels at
    class borders. So points ``STEP`` pixels apart are reprojected, positions between them are
    interpolated, and those that could lie in two tile pixels are reprojected after all.
    """

    def __init__(self, tile: DatasetReader, grid: rasters.Grid, name: str) -> None:
        self.tile, self.grid, self.name = tile, grid, name
        self.lock = Lock()  # two threads must not read a dataset at the same time

    def positions(self, row: NDArray[Any], col: NDArray[Any]) -> Floats:
        """Where the centres of the grid's pixels (arrays of one shape) lie in the tile, exactly.

        Returns the tile's rows and columns, stacked; infinite where there is no such place.
        """
        here: Any = (col.ravel() + 0.5, row.ravel() + 0.5)
        there: Any = transform(self.grid.crs, self.tile.crs, *(self.grid.transform * here))
        found: Any = ~self.tile.transform * tuple(np.array(v) for v in there)
        return np.stack([v.reshape(row.shape) for v in reversed(found)])

    def ids(self, window: Window) -> NDArray[np.uint8]:
        """Ids (uint8, of the window's shape), ``lulc.VOID`` outside the tile.

        Raises InputError if the tile cannot be read or holds ids that HR-LULC does not have.
        """
        top, left = float(window.row_off), float(window.col_off)
        height, width = int(window.height), int(window.width)
        # One point more than the window needs, so that a bend can be measured.
        points = self.positions(*np.meshgrid(top + np.arange(0, height + 2 * STEP, STEP),
                                             left + np.arange(0, width + 2 * STEP, STEP),
                                             indexing="ij"))  # fmt: skip
        doubt = _bend(points)
        out = np.empty((height, width), np.uint8)
        unsure = np.ones((height, width), bool)
        if doubt < 0.5:
            part, origin = self.part(points)
            if not part.any():
                return np.full_like(out, lulc.VOID)
            for i in range(0, height, STEP):
                rows = slice(i, min(i + STEP, height))
                place = _between(points[:, i // STEP : i // STEP + 2], rows.stop - i, width)
                out[rows], unsure[rows] = _taken(part, place - origin, doubt)
        rest = np.flatnonzero(unsure)
        if rest.size:
            place = self.positions(top + rest // width, left + rest % width)
            place = np.where(np.isfinite(place), place, -1)  # beyond the tile
            part, origin = self.part(place)
            out.ravel()[rest], _ = _taken(part, place - origin[:, 0], 0)
        return out

    def part(self, place: Floats) -> tuple[NDArray[np.uint8], Floats]:
        """The part of the tile that holds positions, with a void rim where the tile ends.

        Returns its ids and the row and column of its corner, of shape (2, 1, 1).
        """
        size = np.array([self.tile.height, self.tile.width])
        where = place.reshape(2, -1)
        low = np.clip(np.floor(where.min(axis=1)).astype(int) - 2, -1, size)
        high = np.clip(np.floor(where.max(axis=1)).astype(int) + 3, low + 1, size + 1)
        part = np.full(high - low, lulc.VOID, np.uint8)
        first, last = np.maximum(low, 0), np.minimum(high, size)
        if (first < last).all():
            window = Window.from_slices((first[0], last[0]), (first[1], last[1]))
            with self.lock:
                ids = rasters.read(self.tile, window, self.name)
            lulc.check_ids(ids, self.name)
            for void in lulc.VOID_IDS:
                ids[ids == void] = lulc.VOID
            at = first - low
            part[at[0] : at[0] + len(ids), at[1] : at[1] + ids.shape[1]] = ids
        return part, low[:, None, None].astype(float)


def _bend(points: Floats) -> float:
    """How far positions interpolated between ``points`` may be off, in pixels of the tile.

    A curve leaves its chord by an eighth of its second difference; four times that is allowed for.
    """
    bend = sum(np.abs(np.diff(points, 2, axis=k)).max() for k in (1, 2)) / 8
    return float(4 * bend + 1e-6) if np.isfinite(bend) else math.inf


def _between(points: Floats, height: int, width: int) -> Floats:
    """Positions (2, height, width) between two rows of points (2, 2, n), bilinearly."""
    along = np.arange(width) / STEP
    left = along.astype(int)
    line = points[..., left] + (along - left) * (points[..., left + 1] - points[..., left])
    down = (np.arange(height) / STEP)[:, None]
    between: Floats = line[:, :1] + down * (line[:, 1:] - line[:, :1])
    return between


def _taken(
    part: NDArray[np.uint8], place: Floats, doubt: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The ids at positions in a part, and where ``doubt`` leaves two possible."""
    low, high = [], []
    for at, n in zip(place, part.shape, strict=True):
        at = np.clip(at, 0.5, n - 0.5)  # beyond the tile is its rim
        low.append((at - doubt).astype(np.int32))
        high.append((at + doubt).astype(np.int32))
    ids = part.ravel().take(low[0] * part.shape[1] + low[1])
    return ids, (low[0] != high[0]) | (low[1] != high[1])


def label(
    scene: str | Path, tiles: Sequence[str | Path], out: str | Path, *, progress: bool = False
) -> Path:
    """Write the HR-LULC ids (uint8, 0 = void) under ``scene`` to ``out``, on the scene's grid.

    ``tiles`` are land-cover rasters in any CRS; where they overlap, the first that is not void
    counts. Pixels without SAR data become void. The tag ``MISSING`` names the HR-LULC tiles that
    would cover what the tiles leave uncovered. A file that is already current is left alone.
    Raises InputError if no tile meets the scene (naming the HR-LULC tiles that would) or a tile
    holds ids that HR-LULC does not have.
    """
    with rasters.opened(scene) as sar, ExitStack() as stack:
        chosen = overlapping(sar, tiles)
        if not chosen:
            needed = lulc.tile_names(*transform_bounds(sar.crs, "EPSG:4326", *sar.bounds))
            raise InputError(f"{scene}: no land-cover tile meets it; it needs {', '.join(needed)}")
        # With their sizes: another version's tiles have the same names.
        names = ",".join(f"{Path(t).name}:{Path(t).stat().st_size if Path(t).exists() else 0}"
                         for t in chosen)  # fmt: skip
        tags = {"TILES": names, "SCENE": rasters.name_of(scene)}
        # A scene halved once more keeps its name.
        grid = rasters.grid_of(sar)
        if rasters.is_current(out, [scene, *chosen], tags, grid):
            return Path(out)
        sources = [stack.enter_context(rasters.opened(t, dtype="uint8")) for t in chosen]
        if absent := missing(sar, sources):
            tags["MISSING"] = ",".join(absent)
        lookups = [Lookup(s, grid, t) for s, t in zip(sources, chosen, strict=True)]
        nodata = rasters.nodata_of(sar)
        windows = list(rasters.strips(sar))
        strips = rasters.ahead(partial(_merged, lookups), windows, threads=rasters.threads())
        profile = dict(dtype="uint8", nodata=lulc.VOID)
        with rasters.created(out, grid, tags, **profile) as target:
            target.write_colormap(1, lulc.colormap())
            name = f"label {rasters.name_of(scene)}"
            bar = tqdm(strips, name, len(windows), disable=not progress)
            for window, ids in zip(windows, bar, strict=True):
                ids[radiometry.no_data(rasters.read(sar, window), nodata)] = lulc.VOID
                target.write(ids, 1, window=window)
    return Path(out)


def _merged(lookups: Sequence[Lookup], strip: Window) -> NDArray[np.uint8]:
    """The first id of a strip's pixels that is not void."""
    merged = np.zeros((int(strip.height), int(strip.width)), np.uint8)
    for left in range(0, int(strip.width), COLUMNS):
        width = min(COLUMNS, int(strip.width) - left)
        part = merged[:, left : left + width]
        for lookup in lookups:
            ids = lookup.ids(Window(left, strip.row_off, width, strip.height))
            np.copyto(part, ids, where=part == lulc.VOID)
    return merged
