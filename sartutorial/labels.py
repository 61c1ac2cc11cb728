"""Label it (paper section 2.1): land-cover tiles merged, reprojected and masked to the scene."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, lulc, rasters


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


def aligned(tile: DatasetReader, scene: DatasetReader) -> WarpedVRT:
    """The tile on the scene's grid, by nearest neighbour: class ids must never be interpolated.

    The tolerance turns GDAL's approximate transform off, which misplaces pixels at class borders.
    """
    grid = rasters.grid_of(scene)._asdict()
    return WarpedVRT(
        tile, **grid, resampling=Resampling.nearest, src_nodata=lulc.VOID, nodata=lulc.VOID,
        tolerance=1e-9,
    )  # fmt: skip


def label(
    scene: str | Path, tiles: Sequence[str | Path], out: str | Path, *, progress: bool = False
) -> Path:
    """Write the HR-LULC ids (uint8, 0 = void) under ``scene`` to ``out``, on the scene's grid.

    ``tiles`` are land-cover rasters in any CRS; where they overlap, the first that is not void
    counts. Pixels without SAR data become void. A file that is already current is left alone.
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
        tags = {"TILES": names, "SCENE": Path(scene).name}
        if rasters.is_current(out, [scene, *chosen], tags):
            return Path(out)
        sources = [stack.enter_context(rasters.opened(t, dtype="uint8")) for t in chosen]
        layers = [stack.enter_context(aligned(s, sar)) for s in sources]
        nodata = rasters.nodata_of(sar)
        profile = dict(dtype="uint8", nodata=lulc.VOID)
        with rasters.created(out, rasters.grid_of(sar), tags, **profile) as target:
            target.write_colormap(1, lulc.colormap())
            windows = list(rasters.strips(sar))
            for window in tqdm(windows, desc=f"label {Path(scene).name}", disable=not progress):
                ids = _merged(layers, chosen, window)
                ids[rasters.read(sar, window) == nodata] = lulc.VOID
                target.write(ids, 1, window=window)
    return Path(out)


def _merged(
    layers: Sequence[WarpedVRT], names: Sequence[str], window: Window
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    merged = np.zeros((int(window.height), int(window.width)), dtype=np.uint8)
    for layer, name in zip(layers, names, strict=True):
        ids = rasters.read(layer, window, name)
        lulc.check_ids(ids, name)
        ids[np.isin(ids, lulc.VOID_IDS)] = lulc.VOID
        np.copyto(merged, ids, where=merged == lulc.VOID)
    return merged
