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

    The label raster holds the legend's ids (uint8) with their colours, and no label (the declared
    nodata) where there is no SAR data or no land cover. Its tag ``LEGEND`` holds the legend,
    ``TILES`` the tiles used, and ``MISSING`` names HR-LULC tiles that would cover what they leave
    uncovered. Memory does not grow with the scene. What is up to date is left alone.

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
    if scheduler:  # other machines have another working folder
        found = [t if files.is_virtual(t) else os.path.abspath(t) for t in found]
    work = partial(_label, tiles=found, legend=lulc.legend(legend))
    return files.products(
        work, scene, out, name="label", workers=workers, scheduler=scheduler, progress=progress
    )


def _label(
    scene: str, *, out: Path, tiles: Sequence[str], legend: lulc.Legend, progress: bool
) -> Path:
    with rasters.opened(scene) as sar, ExitStack() as stack:
        grid = rasters.grid_of(sar)
        chosen = overlapping(grid, tiles)
        if not chosen:
            raise InputError(
                f"{scene}: no land-cover tile meets it; it needs {_needed(grid, legend)}"
            )
        sources = [stack.enter_context(rasters.opened(t, dtype="uint8")) for t in chosen]
        covered = map(rasters.grid_of, sources)
        absent = ", ".join(missing(grid, covered)) if legend == lulc.HR_LULC else ""
        if absent and progress:
            note = f"{scene}: partly beyond the land-cover tiles; {absent} would help"
            tqdm.write(note, file=sys.stderr)
        made = stack.enter_context(files.made(out, [scene, *chosen], {"legend": legend.to_dict()}))
        if made is None:
            return out
        for source in sources:
            if (said := rasters.legend_of(source)) and _meaning(said) != _meaning(legend):
                raise InputError(
                    f"{source.name}: its tag LEGEND has other classes than {legend.name}; is it a "
                    "map? name the legend whose ids it holds"
                )
        tags = {
            "LEGEND": json.dumps(legend.to_dict()),
            "SCENE": files.name_of(scene),
            "TILES": ",".join(files.name_of(t) for t in chosen),
        }
        if absent:
            tags["MISSING"] = absent
        lookups = [Lookup(source, grid, legend) for source in sources]
        windows = list(rasters.row_windows(sar, columns=COLUMNS))
        strips = files.prefetch(partial(merged, lookups), windows, threads=rasters.threads())
        with rasters.create(made, grid, tags, dtype="uint8", nodata=legend.void) as target:
            target.write_colormap(1, legend.colormap())
            bar = tqdm(strips, f"label {out.name}", len(windows), disable=not progress)
            for window, ids in zip(windows, bar, strict=True):
                ids[rasters.read_dn(sar, window) == 0] = legend.void
                target.write(ids, 1, window=window)
    return out


def _meaning(legend: lulc.Legend) -> list[tuple[int, str]]:
    return sorted((c.id, c.name) for c in legend.classes)


def _needed(scene: rasters.Grid, legend: lulc.Legend) -> str:
    """What land cover a scene needs: HR-LULC's tiles by name, of another legend the degrees."""
    if legend == lulc.HR_LULC:
        return ", ".join(missing(scene, []))
    return " and ".join(
        f"longitude {west:.3f} to {east:.3f}, latitude {south:.3f} to {north:.3f}"
        for west, south, east, north in rasters.bounds_of(scene, rasters.DEGREES)
    )


def merged(lookups: Sequence[Lookup], window: Window) -> NDArray[np.uint8]:
    """The first label of each pixel in a window of the grid: uint8 ids of the window's shape."""
    ids = lookups[0].ids(window)
    for lookup in lookups[1:]:
        np.copyto(ids, lookup.ids(window), where=ids == lookup.legend.void)
    return ids


def overlapping(scene: rasters.Grid, tiles: Sequence[str | Path]) -> list[str]:
    """Those of ``tiles`` whose bounding box in degrees meets the scene's, in the order given."""
    here, chosen = rasters.bounds_of(scene, rasters.DEGREES), []
    for tile in tiles:
        with rasters.opened(tile, dtype="uint8") as t:
            there = rasters.bounds_of(rasters.grid_of(t), rasters.DEGREES)
        if any(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a in here for b in there
        ):
            chosen.append(str(tile))
    return chosen


def missing(scene: rasters.Grid, tiles: Iterable[rasters.Grid]) -> list[str]:
    """The HR-LULC tiles, by name, in whose square degree ``tiles`` leave part of the scene uncovered.

    Seas without land have no tile, so this need not be a fault. Bounding boxes are compared.
    """
    from shapely import box, union_all

    covered = union_all([box(*b) for t in tiles for b in rasters.bounds_of(t, rasters.DEGREES)])
    covered = covered.buffer(1e-6)
    return [
        lulc.tile_name(lon, lat)
        for west, south, east, north in rasters.bounds_of(scene, rasters.DEGREES)
        for lat in range(math.floor(south), math.ceil(north))
        for lon in range(math.floor(west), math.ceil(east))
        if not covered.covers(box(west, south, east, north) & box(lon, lat, lon + 1, lat + 1))
    ]
