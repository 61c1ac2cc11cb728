"""Label it (paper section 2.1): land-cover tiles merged, reprojected and masked to the scene."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from shapely import Geometry, box, union_all
from tqdm import tqdm

from sartutorial import InputError, files, lulc, rasters
from sartutorial.nearest import Lookup

COLUMNS = 2048  # of the scene that are looked up at a time: a small part of a tile at once


def label(
    scene: files.Paths,
    tiles: files.Paths,
    out: str | Path,
    *,
    legend: str | Path | lulc.Legend = "hr-lulc",
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> Path | list[Path]:
    """Bring land cover onto each scene's grid, by exact nearest neighbour (paper section 2.1).

    A label raster holds the legend's ids (uint8) with their colours, and its nodata where there is no
    SAR data or no land cover. Its tag ``LEGEND`` holds the legend, ``TILES`` the tiles used, and
    ``MISSING`` the HR-LULC tiles that would cover the rest. What is up to date is left alone.

    Args:
        scene: Scenes of amplitude DN (uint16), in any CRS: files, URLs or folders.
        tiles: Land-cover rasters (uint8 ids), in any CRS: files, URLs or folders. Where they
            overlap, the first that holds a label counts.
        out: A folder, whose files are named as the scenes are, or for a single scene a .tif file.
        legend: What the ids mean: hr-lulc, worldcover, or a table (CSV or JSON) of your own.
        workers: How many scenes at a time, each in a process of its own.
        scheduler: The address of a dask scheduler whose workers take the scenes.
        progress: Show a bar, and say which tiles are missing.

    Returns:
        The label raster of a scene, or a list of them if several were given.

    Raises:
        InputError: No tile meets a scene, or a tile holds ids that the legend does not have.
    """
    found = files.find_scenes(tiles, "land-cover tile")
    # A scheduler's workers have another working folder.
    found = [t if files.is_virtual(t) else os.path.abspath(t) for t in found]
    work = partial(_label, tiles=found, legend=lulc.legend(legend))
    return files.products(
        work, scene, out, name="label", workers=workers, scheduler=scheduler, progress=progress
    )


def _label(
    scene: str, *, out: Path, tiles: Sequence[str], legend: lulc.Legend, progress: bool
) -> Path:
    with ExitStack() as stack:
        sar = stack.enter_context(rasters.opened(scene))
        grid, ours = rasters.grid_of(sar), legend == lulc.HR_LULC
        chosen = overlapping(grid, tiles)
        sources = [stack.enter_context(rasters.opened(t, dtype="uint8")) for t in chosen]
        absent = ", ".join(missing(grid, map(rasters.grid_of, sources))) if ours else ""
        if not sources:
            place = "longitude {0:.3f} to {2:.3f}, latitude {1:.3f} to {3:.3f}"
            needed = absent or " and ".join(place.format(*b) for b in rasters.bounds_of(grid))
            raise InputError(f"{scene}: no land-cover tile meets it; it needs {needed}")
        classes = {(c.id, c.name) for c in legend.classes}
        for source in sources:
            said = rasters.legend_of(source)
            if said and {(c.id, c.name) for c in said.classes} != classes:
                fault = f"its tag LEGEND has other classes than {legend.name}; name its legend"
                raise InputError(f"{source.name}: {fault}")
        if absent and progress:  # no fault: seas without land have no tile
            note = f"{scene}: partly beyond the land-cover tiles; {absent} would help"
            tqdm.write(note, file=sys.stderr)
        inputs = [*rasters.parts_of(scene), *chosen]
        made = stack.enter_context(files.made(out, inputs, {"legend": legend.to_dict()}))
        if made is None:
            return out
        tags = {
            "LEGEND": json.dumps(legend.to_dict()),
            "SCENE": files.name_of(scene),
            "TILES": ",".join(files.name_of(t) for t in chosen),
        } | ({"MISSING": absent} if absent else {})
        lookups = [Lookup(source, grid, legend) for source in sources]
        windows = list(rasters.row_windows(sar, columns=COLUMNS))
        with (
            rasters.create(made, grid, tags, dtype="uint8", nodata=legend.void) as target,
            files.prefetch(partial(merged, lookups), windows, rasters.threads()) as strips,
        ):
            target.write_colormap(1, legend.colormap())
            bar = tqdm(strips, f"label {out.name}", len(windows), disable=not progress)
            for window, ids in zip(windows, bar, strict=True):
                ids[rasters.read_dn(sar, window) == 0] = legend.void
                target.write(ids, 1, window=window)
    return out


def merged(lookups: Sequence[Lookup], window: Window) -> NDArray[np.uint8]:
    """The first label of each pixel in a window of the grid: uint8 ids of the window's shape."""
    ids = lookups[0].ids(window)
    for lookup in lookups[1:]:
        np.copyto(ids, lookup.ids(window), where=ids == lookup.legend.void)
    return ids


def _area(*grids: rasters.Grid) -> Geometry:
    """The bounding boxes of grids in degrees, as one shape."""
    return union_all([box(*b) for g in grids for b in rasters.bounds_of(g)])


def overlapping(scene: rasters.Grid, tiles: Sequence[str | Path]) -> list[str]:
    """Those of ``tiles`` whose bounding box in degrees meets the scene's, in the order given."""
    here, chosen = _area(scene), []
    for tile in tiles:
        with rasters.opened(tile, dtype="uint8") as dataset:
            if (here & _area(rasters.grid_of(dataset))).area > 0:
                chosen.append(str(tile))
    return chosen


def missing(scene: rasters.Grid, tiles: Iterable[rasters.Grid]) -> list[str]:
    """The HR-LULC tiles, by name, of the square degrees where part of the scene has none of ``tiles``."""
    covered = _area(*tiles).buffer(1e-6)
    return [
        lulc.tile_name(lon, lat)
        for west, south, east, north in rasters.bounds_of(scene)
        for lat in range(math.floor(south), math.ceil(north))
        for lon in range(math.floor(west), math.ceil(east))
        if not covered.covers(box(west, south, east, north) & box(lon, lat, lon + 1, lat + 1))
    ]
