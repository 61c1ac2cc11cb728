"""Cut it (paper section 2.1): georeferenced patch pairs in dB, and one index that describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.transform import array_bounds
from rasterio.windows import Window
from rasterio.windows import transform as window_transform
from tqdm import tqdm

from sartutorial import InputError, lulc, radiometry, rasters

if TYPE_CHECKING:
    import geopandas as gpd

INDEX = "patches.parquet"
COUNTS = [f"n_{i}" for i in range(16)]  # label pixels per HR-LULC id; n_0 is void
COLUMNS = ["patch", "scene", "row", "col", "size", "spacing", "quantity", "max_void", *COUNTS]
SMALL = dict(tiled=False, blockysize=None, num_threads=1)  # a patch is one small strip


def cut(
    scenes: Sequence[str | Path],
    labels: str | Path,
    out: str | Path,
    *,
    size: int,
    max_void: float = 0.0,
    progress: bool = False,
) -> Path:
    """Cut scenes and their label rasters into pairs of ``size`` x ``size`` pixels.

    Writes ``out/sar/<scene>_<row>_<col>.tif`` (float32 dB), ``out/label/...`` (uint8 HR-LULC ids)
    and ``out/patches.parquet`` (GeoParquet, one row a patch), and returns the index's path. Patches
    do not overlap; one with any SAR no-data is left out, and so is one with a greater share of void
    labels than ``max_void`` (the paper excludes no-data; the tolerance is ours). ``labels`` is a
    folder whose rasters have their scenes' names. Scenes that are already cut are left alone.
    Raises InputError if a label raster is missing or on another grid, or no patch is left.
    """
    import geopandas as gpd
    import pandas as pd

    if not 0 <= max_void <= 1:
        raise InputError(f"--max-void {max_void:g}: must be a share from 0 to 1")
    out, parts = Path(out), []
    for scene in tqdm([str(s) for s in scenes], desc="patches", unit="scene", disable=not progress):
        # The file's name holds the parameters, so that a part made with others is not taken for it.
        part = out / "index" / Path(scene).stem / f"{size}px-{max_void:g}void.parquet"
        label = Path(labels) / Path(scene).name
        if not _is_current(part, [Path(scene), label]):
            _cut_scene(scene, label, out, part, size, max_void)
        parts.append(part)
    index = gpd.GeoDataFrame(pd.concat([gpd.read_parquet(p) for p in parts], ignore_index=True))
    if index.empty:
        raise InputError(
            f"no patch of {size} px has full SAR data and at most {max_void:.0%} void labels; "
            "take a smaller --size or a larger --max-void"
        )
    path = out / INDEX
    fresh = path.exists() and all(p.stat().st_mtime <= path.stat().st_mtime for p in parts)
    if not (fresh and read_index(out)["patch"].tolist() == index["patch"].tolist()):
        write_index(index, out)
    return path


def _is_current(part: Path, sources: Sequence[Path]) -> bool:
    local = [s for s in sources if s.exists()]
    return part.exists() and all(s.stat().st_mtime < part.stat().st_mtime for s in local)


def _remove(out: Path, part: Path) -> None:
    """Remove what an earlier cut of this scene has left, and nothing of another scene."""
    for old in part.parent.glob("*.parquet"):
        old.unlink()
    mine = re.compile(re.escape(part.parent.name) + r"_\d+_\d+\.tif")
    for file in out.glob("*/*.tif"):
        if mine.fullmatch(file.name):
            file.unlink()


def _cut_scene(scene: str, label: Path, out: Path, part: Path, size: int, max_void: float) -> None:
    with rasters.opened(scene) as sar:
        tags = {"QUANTITY": radiometry.quantity(scene, sar.tags()), "SCENE": Path(scene).stem}
        if "SIMULATED" in sar.tags():
            tags["SIMULATED"] = sar.tags()["SIMULATED"]
        if size > min(sar.width, sar.height):
            raise InputError(
                f"{scene}: {sar.width} x {sar.height} px is smaller than a patch of {size}"
            )
        if not label.exists():
            raise InputError(f"{label}: no label raster for {scene}; run 'sartutorial label' first")
        with rasters.opened(label, dtype="uint8") as lab:
            if rasters.grid_of(sar) != rasters.grid_of(lab):
                raise InputError(
                    f"{label}: not on the grid of {scene}; run 'sartutorial label' again"
                )
            _remove(out, part)
            frame = _write_pairs(sar, lab, out, tags, size, max_void)
    with rasters.replacing(part) as partial:
        frame.to_crs(4326).to_parquet(partial)


def _write_pairs(
    sar: DatasetReader, lab: DatasetReader, out: Path, tags: dict[str, str], size: int, void: float
) -> gpd.GeoDataFrame:
    """Write the pairs of a scene with at most a share ``void`` unlabelled; their rows of the index."""
    import geopandas as gpd
    from shapely.geometry import box

    rows: list[list[Any]] = []
    footprints = []
    db_profile = dict(dtype="float32", nodata=np.nan, predictor=3)
    for window, db, ids in _pairs(sar, lab, size):
        lulc.check_ids(ids, lab.name)
        counts = np.bincount(ids.ravel(), minlength=16)[:16]
        if counts[lulc.VOID] > void * ids.size:
            continue
        top, left = int(window.row_off), int(window.col_off)
        name = f"{tags['SCENE']}_{top}_{left}.tif"
        transform = window_transform(window, sar.transform)
        grid = rasters.Grid(sar.crs, transform, size, size)
        units = tags | {"UNIT": "dB"}
        with rasters.created(out / "sar" / name, grid, units, **db_profile, **SMALL) as t:
            t.write(db, 1)
        ids_profile = dict(dtype="uint8", nodata=lulc.VOID)
        with rasters.created(out / "label" / name, grid, tags, **ids_profile, **SMALL) as t:
            t.write(ids, 1)
            t.write_colormap(1, lulc.colormap())
        footprints.append(box(*array_bounds(size, size, transform)))
        rows.append(
            [name, tags["SCENE"], top, left, size, rasters.spacing(sar), tags["QUANTITY"],
             void, *counts.tolist()]
        )  # fmt: skip
    return gpd.GeoDataFrame(rows, columns=COLUMNS, geometry=footprints, crs=sar.crs)


def _pairs(
    sar: DatasetReader, lab: DatasetReader, size: int
) -> Iterator[tuple[Window, NDArray[np.float32], NDArray[np.uint8]]]:
    """Every whole patch without SAR no-data: its window, dB (size, size) and ids (size, size)."""
    table = radiometry.lookup_table(nodata=rasters.nodata_of(sar))
    for strip in rasters.strips(sar, size):
        if strip.height < size:
            continue
        db, ids = table[rasters.read(sar, strip)], rasters.read(lab, strip)
        for left in range(0, sar.width - size + 1, size):
            cell = (slice(None), slice(left, left + size))
            if np.isfinite(db[cell]).all():
                yield Window(left, strip.row_off, size, size), db[cell], ids[cell]


def read_index(folder: str | Path) -> gpd.GeoDataFrame:
    """The patch index of a folder that ``cut`` wrote.

    Raises InputError if there is none, or it cannot be read, is another table or is empty.
    """
    import geopandas as gpd

    path = Path(folder) / INDEX
    if not path.exists():
        raise InputError(f"{path}: no such index; run 'sartutorial patches' first")
    try:
        index = gpd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable patch index ({error})") from error
    if not {*COLUMNS, "geometry"} <= {*index.columns}:
        raise InputError(f"{path}: not a patch index of ours; run 'sartutorial patches'")
    if index.empty:
        raise InputError(f"{path}: holds no patch; cut again with another --size or --max-void")
    return index


def write_index(index: gpd.GeoDataFrame, folder: str | Path) -> None:
    """Write the patch index of ``folder``, whole or not at all."""
    with rasters.replacing(Path(folder) / INDEX) as partial:
        index.to_parquet(partial)
