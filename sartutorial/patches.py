"""Cut it (paper section 2.1): georeferenced patch pairs in dB, and one index that describes them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.windows import Window

from sartutorial import InputError, files, lulc, radiometry, rasters, scenes
from sartutorial.stamps import Stamp

if TYPE_CHECKING:
    import geopandas as gpd

INDEX = "patches.parquet"
COUNTS = [f"n_{i}" for i in range(16)]  # label pixels per HR-LULC id; n_0 is void
COLUMNS = ["patch", "scene", "row", "col", "size", "spacing", "quantity", "max_void", *COUNTS]
# Spelt out: what pyproj makes of EPSG:4326 depends on what the process has looked up before, and the
# index must not depend on who wrote it.
WGS84 = CRS.from_epsg(4326).to_wkt()
BLOCK = 512, 4096  # rows and columns read at a time: some of the tiles that we write


def cut(
    scene: Sequence[str | Path],
    labels: str | Path,
    out: str | Path,
    *,
    size: int,
    max_void: float = 0.0,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> Path:
    """Cut scenes and their label rasters into pairs of ``size`` x ``size`` pixels.

    Writes ``out/sar/<scene>_<row>_<col>.tif`` (float32 dB), ``out/label/...`` (uint8 HR-LULC ids)
    and ``out/patches.parquet`` (GeoParquet, one row a patch), and returns the index's path. Patches
    do not overlap; one with any SAR no-data is left out, and so is one with a greater share of void
    labels than ``max_void`` (the paper excludes no-data; the tolerance is ours). ``labels`` is a
    folder whose rasters have their scenes' names. Scenes that are already cut, from these very files,
    are left alone; ``workers`` and ``scheduler`` are those of ``scenes.each``. The index lists the
    patches in the order of the scenes, whoever cut them.

    Raises InputError if there is no scene, ``max_void`` is no share or no patch is left; and, when the
    other scenes are cut and indexed, for those whose label raster is missing or on another grid.
    """
    if not 0 <= max_void <= 1:
        raise InputError(f"--max-void {max_void:g}: must be a share from 0 to 1")
    if not scene:
        raise InputError(f"{out}: no scene given to cut into it; name at least one")
    labels, out = scenes.shared(labels, scheduler), scenes.shared(out, scheduler)
    work = partial(_cut_scene, labels=Path(labels), out=Path(out), size=size, max_void=max_void)
    parts, failed = scenes.each(
        work, scene, name="patches", workers=workers, scheduler=scheduler, progress=progress
    )
    if parts or not failed:
        _join(list(parts.values()), Path(out), size, max_void)
    scenes.check(failed)
    return Path(out) / INDEX


def _join(parts: Sequence[Path], out: Path, size: int, max_void: float) -> None:
    """Write the index from those of the scenes, unless it holds them already."""
    import geopandas as gpd
    import pandas as pd

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


def _cut_scene(scene: str, *, labels: Path, out: Path, size: int, max_void: float) -> Path:
    """Cut one scene, unless that is done; the path of its own part of the index."""
    # The file's name holds the parameters, so that a part made with others is not taken for it.
    name = rasters.name_of(scene)
    part = out / "index" / Path(name).stem / f"{size}px-{max_void:g}void.parquet"
    label = labels / name
    # Of this machine and this moment, so in a file of its own: an index made elsewhere has equal bytes.
    note, made_from = part.with_name(f".{part.stem}.json"), _state([scene, label])
    if _is_whole(part, out) and note.exists() and note.read_text("utf-8") == made_from:
        return part
    with rasters.opened(scene) as sar:
        tags = {"QUANTITY": radiometry.quantity(scene, sar.tags()), "SCENE": Path(name).stem}
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
        frame = _write_pairs(sar, str(label), out, tags, size, max_void)
    with files.replacing(part) as partial_file:
        frame.to_crs(WGS84).to_parquet(partial_file)
    with files.replacing(note) as partial_file:
        partial_file.write_text(made_from, "utf-8")
    return part


def _state(sources: Sequence[str | Path]) -> str:
    """Which files these are: path, size and time of those of this machine, the address of others.

    A folder of other labels may well be older than what was cut with the first one.
    """
    states: list[list[str | int]] = []
    for source in sources:
        file = rasters.on_disk(source)
        if file.exists():
            of = file.stat()
            states.append([str(file.resolve()), of.st_size, of.st_mtime_ns])
        else:
            states.append([str(source)])
    return json.dumps(states)


def _is_whole(part: Path, out: Path) -> bool:
    """Whether a scene's part of the index is there, and so are all its patches."""
    import pandas as pd

    if not part.exists():
        return False
    names = pd.read_parquet(part, columns=["patch"])["patch"]
    return all((out / kind / name).exists() for kind in ("sar", "label") for name in names)


def _remove(out: Path, part: Path) -> None:
    """Remove what an earlier cut of this scene has left, and nothing of another scene."""
    if not part.parent.exists():  # it is made before the first patch
        part.parent.mkdir(parents=True)
        return
    for old in part.parent.iterdir():
        old.unlink()
    mine = re.compile(re.escape(part.parent.name) + r"_\d+_\d+\.tif")
    for file in out.glob("*/*.tif"):
        if mine.fullmatch(file.name):
            file.unlink()


def _write_pairs(
    sar: DatasetReader, label: str, out: Path, tags: dict[str, str], size: int, void: float
) -> gpd.GeoDataFrame:
    """Write the pairs of a scene with at most a share ``void`` unlabelled; their rows of the index.

    Blocks of the scene are cut side by side in threads: GDAL and numpy leave Python's lock.
    """
    import geopandas as gpd
    from shapely.geometry import Polygon

    kind = (size, sar.crs, sar.transform)
    stamps = (
        Stamp(*kind, tags | {"UNIT": "dB"}, dtype="float32", nodata=np.nan),
        Stamp(*kind, tags, dtype="uint8", nodata=lulc.VOID, colormap=lulc.colormap()),
    )
    rows: list[list[Any]] = []
    footprints = []
    calibration_db = radiometry.product(sar.name, sar.tags()).calibration_db
    table = radiometry.lookup_table(calibration_db, rasters.nodata_of(sar))
    cut_block = partial(_cut_block, sar.name, label, out, tags["SCENE"], stamps, table, void)
    with ThreadPoolExecutor(rasters.threads()) as pool:
        try:
            for found in pool.map(cut_block, _blocks(sar, size)):
                for name, top, left, counts in found:
                    square = [
                        (left + i, top + j) for i, j in ((0, 0), (0, size), (size, size), (size, 0))
                    ]
                    footprints.append(Polygon([sar.transform * corner for corner in square]))
                    rows.append([name, tags["SCENE"], top, left, size, rasters.spacing(sar),
                                 tags["QUANTITY"], void, *counts])  # fmt: skip
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    frame = gpd.GeoDataFrame(rows, columns=COLUMNS, geometry=footprints, crs=sar.crs)
    return frame.sort_values(["row", "col"], ignore_index=True)


def _blocks(sar: DatasetReader, size: int) -> Iterator[Window]:
    """Windows of whole patches, about BLOCK large: what is in memory does not grow with the scene.

    A raster in strips is read in full width, since each strip is decoded whole.
    """
    rows, cols = (size * math.ceil(n / size) for n in BLOCK)
    if sar.block_shapes[0][1] == sar.width:
        cols = sar.width
    for top in range(0, sar.height - size + 1, rows):
        for left in range(0, sar.width - size + 1, cols):
            yield Window(left, top, min(cols, sar.width - left), min(rows, sar.height - top))


def _cut_block(
    scene: str,
    label: str,
    out: Path,
    stem: str,
    stamps: tuple[Stamp, Stamp],
    table: NDArray[np.float32],
    void: float,
    block: Window,
) -> list[tuple[str, int, int, list[int]]]:
    """Write the pairs of a block: name, row, column and class counts of each."""
    size = stamps[0].size
    # A GDAL dataset belongs to one thread: each block opens its own, and takes no further threads.
    with (
        rasters.opened(scene, decoders=1) as sar,
        rasters.opened(label, dtype="uint8", decoders=1) as lab,
    ):
        dn, ids = _patches(rasters.read(sar, block), size), _patches(rasters.read(lab, block), size)
        transform = sar.transform
    full = np.ones((len(dn), dn.shape[2]), dtype=bool)
    for nodata in np.flatnonzero(np.isnan(table)):  # one or two values: quicker than the table
        full &= (dn != nodata).all(axis=(1, 3))
    down, across = np.nonzero(full)
    ids = ids[down, :, across]
    counts = np.array([_counts(i, label) for i in ids]).reshape(-1, 16)
    keep = counts[:, lulc.VOID] <= void * size**2
    down, across, ids, counts = down[keep], across[keep], ids[keep], counts[keep]
    rows = (int(block.row_off) + down * size).tolist()
    cols = (int(block.col_off) + across * size).tolist()
    names = [f"{stem}_{row}_{col}.tif" for row, col in zip(rows, cols, strict=True)]
    corners = [transform * corner for corner in zip(cols, rows, strict=True)]
    stamps[0].write([out / "sar" / n for n in names], corners, table[dn[down, :, across]])
    stamps[1].write([out / "label" / n for n in names], corners, ids)
    return list(zip(names, rows, cols, counts.tolist(), strict=True))


def _counts(ids: NDArray[np.uint8], source: str) -> list[int]:
    """Pixels per HR-LULC id, 255 counted as void; sixteen comparisons are quicker than a bincount."""
    counts = [int(np.count_nonzero(ids == c)) for c in range(16)]
    if sum(counts) < ids.size:
        lulc.check_ids(ids, source)
        counts[lulc.VOID] += int(ids.size) - sum(counts)
    return counts


def _patches(block: NDArray[Any], size: int) -> NDArray[Any]:
    """A view of (rows, columns) as (patches down, size, patches across, size), the rest left out."""
    down, across = (n // size for n in block.shape)
    return block[: down * size, : across * size].reshape(down, size, across, size)


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
    with files.replacing(Path(folder) / INDEX) as partial:
        index.to_parquet(partial)
