"""Class ids brought onto another grid by the exact nearest neighbour, without reprojecting each pixel."""

from __future__ import annotations

import math
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.warp import transform
from rasterio.windows import Window

from sartutorial import rasters
from sartutorial.lulc import Legend

Floats = NDArray[np.float64]
STEP = 32  # pixels between points that are reprojected exactly


class Lookup:
    """The ids of a tile under the pixels of a grid, by exact nearest neighbour.

    Class ids must never be interpolated, and the tile pixel that holds a pixel's centre is the
    nearest. To reproject every centre takes long, and GDAL's usual approximation misplaces pixels at
    class borders. So points ``STEP`` pixels apart are reprojected, positions between them are
    interpolated, and those that could lie in two tile pixels are reprojected after all.
    """

    def __init__(self, tile: DatasetReader, grid: rasters.Grid, legend: Legend) -> None:
        self.tile, self.grid, self.legend = tile, grid, legend
        self.lock = Lock()  # two threads must not read a dataset at the same time

    def positions(self, row: NDArray[Any], col: NDArray[Any]) -> Floats:
        """The tile's rows and columns, stacked, at pixels' centres: exact, and not finite where none."""
        here: Any = (col.ravel() + 0.5, row.ravel() + 0.5)
        x, y = map(np.array, transform(self.grid.crs, self.tile.crs, *(self.grid.transform * here)))
        if self.tile.crs.is_geographic:  # of a place's longitudes, the one closest to the tile
            turn = 2 * math.pi / self.tile.crs.units_factor[1]
            middle, _ = self.tile.transform * (self.tile.width / 2, self.tile.height / 2)
            with np.errstate(invalid="ignore"):
                x = x + turn * np.rint((middle - x) / turn)
        found: Any = ~self.tile.transform * (x, y)
        return np.stack([v.reshape(row.shape) for v in reversed(found)])

    def ids(self, window: Window) -> NDArray[np.uint8]:
        """The ids (uint8) under a window of the grid, ``legend.void`` outside the tile."""
        left, top, width, height = map(int, window.flatten())
        # One point more than the window needs, so that a bend can be measured.
        rows = top + np.arange(0, height + 2 * STEP, STEP)
        columns = left + np.arange(0, width + 2 * STEP, STEP)
        points = self.positions(*np.meshgrid(rows, columns, indexing="ij"))
        doubt = _bend(points)
        out = np.full((height, width), self.legend.void, np.uint8)
        unsure = np.ones((height, width), bool)
        if doubt < 0.5:
            part, origin = self.part(points)
            if (part == self.legend.void).all():
                return out
            for i in range(0, height, STEP):
                strip = slice(i, min(i + STEP, height))
                place = _between(points[:, i // STEP : i // STEP + 2], strip.stop - i, width)
                out[strip], unsure[strip] = _taken(part, place - origin, doubt)
        rest = np.flatnonzero(unsure)
        out.ravel()[rest] = self.legend.void
        place = self.positions(top + rest // width, left + rest % width)
        exists, western = np.isfinite(place).all(axis=0), place[1] < self.tile.width / 2
        # A world's two ends may meet in a window: they are read one by one, not all that is between.
        for chosen in (exists & western, exists & ~western):
            if chosen.any():
                part, origin = self.part(place[:, chosen])
                out.ravel()[rest[chosen]], _ = _taken(part, place[:, chosen] - origin[:, 0], 0)
        return out

    def part(self, place: Floats) -> tuple[NDArray[np.uint8], Floats]:
        """The ids around positions, with a void rim where the tile ends, and their corner (2, 1, 1)."""
        size, where = np.array([self.tile.height, self.tile.width]), place.reshape(2, -1)
        low = np.clip(np.floor(where.min(axis=1)) - 2, -1, size).astype(int)
        high = np.clip(np.floor(where.max(axis=1)) + 3, low + 1, size + 1).astype(int)
        part = np.full(high - low, self.legend.void, np.uint8)
        first, last = np.maximum(low, 0), np.minimum(high, size)
        if (first < last).all():
            window = Window.from_slices(*zip(first, last, strict=True))
            inside = tuple(map(slice, first - low, last - low))
            with self.lock:
                part[inside] = rasters.read_ids(self.tile, self.legend, window)
        return part, low[:, None, None].astype(float)


def _bend(points: Floats) -> float:
    """How far positions interpolated between ``points`` may be off, in pixels of the tile.

    A curve leaves its chord by an eighth of its second difference; four times that is allowed for.
    """
    with np.errstate(invalid="ignore"):
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
        within = np.clip(at, 0.5, n - 0.5)  # beyond the tile is its rim
        low.append((within - doubt).astype(np.int32))
        high.append((within + doubt).astype(np.int32))
    ids = part.ravel().take(low[0] * part.shape[1] + low[1])
    return ids, (low[0] != high[0]) | (low[1] != high[1])
