"""Cut it (paper section 2.1): patches in arrays that numpy maps into memory, and one index of them.

``OUT/arrays/<scene>.sar.npy`` holds a scene's patches as DN (uint16: half the disk of dB, quickly
turned into them) or as what was imported (float32 dB), ``<scene>.label.npy`` their class ids (uint8),
both of shape (patches, size, size), and ``<scene>.parquet`` one row a patch. ``OUT/patches.parquet``
joins those of all scenes: GeoParquet, and for pandas alone WKB. Reading needs no raster library.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from sartutorial import InputError, files, lulc, profiles, radiometry

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

INDEX = "patches.parquet"
WINDOW = 512, 4096  # rows and columns of a scene that are read at a time
ROW = ("patch", "row", "col", "transform", "crs", "spacing")  # of a patch; COMMON: of its scene
COMMON = ("scene", "size", "quantity", "polarisation", "calibration_db", "simulated")
SPACING = 0.05  # share by which pixel spacings of a set, or of a model and its data, may differ
_table = functools.cache(radiometry.lookup_table)
_told = functools.cache(lulc.Legend.to_dict)


class Store:
    """The pixels of patches, mapped into memory: with numpy and pandas alone, and picklable.

    Args:
        folder: What ``cut`` or ``import_patches`` wrote.
        rows: Rows of its index, default all; patch ``i`` is that of row number ``i``.

    Raises:
        InputError: (``sar``, ``label``) An array is missing or damaged, or a patch holds NaN.
    """

    def __init__(self, folder: str | Path, rows: pd.DataFrame | None = None) -> None:
        rows = read_index(folder) if rows is None else rows
        self.folder, self.maps = Path(folder), dict[Path, NDArray[Any]]()
        mine = rows[["patch", "scene", "array", "size", "calibration_db"]]
        self.rows: list[tuple[Any, ...]] = list(mine.itertuples(index=False, name=None))

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"maps": {}}  # a mapping would be sent as a copy of all pixels

    def sar(self, i: int) -> NDArray[np.float32]:
        """Backscatter of patch ``i`` in dB: float32 of shape (size, size)."""
        pixels = self._pixels("sar", i)
        db = np.array(pixels) if pixels.dtype == np.float32 else _table(self.rows[i][-1])[pixels]
        if not np.isfinite(db).all():
            fault = f"the patch {self.rows[i][0]} holds NaN or infinite values; cut it again"
            raise InputError(f"{self.folder}: {fault}, or leave it out of the index")
        return db

    def label(self, i: int) -> NDArray[np.uint8]:
        """Class ids of patch ``i``, by the set's legend: uint8 of shape (size, size)."""
        return np.array(self._pixels("label", i))

    def _pixels(self, kind: str, i: int) -> NDArray[Any]:
        patch, scene, place, size, _ = self.rows[i]
        file = self.folder / "arrays" / f"{scene}.{kind}.npy"
        try:
            if file not in self.maps:
                self.maps[file] = np.lib.format.open_memmap(file, mode="r")
            if self.maps[file].shape[1:] != (size, size):
                raise ValueError(f"not of {size} px")
            pixels: NDArray[Any] = self.maps[file][place]
        except (OSError, ValueError, EOFError, IndexError) as error:
            fault = f"the patch {patch} cannot be read ({error}); delete the file if it is there"
            raise InputError(f"{file}: {fault}, and run 'sartutorial patches' again") from error
        return pixels


def read_index(folder: str | Path, *, geometry: bool = False) -> pd.DataFrame:
    """Read the patch index of a folder that ``cut`` or ``import_patches`` wrote.

    Args:
        folder: The folder of patches.
        geometry: Return a GeoDataFrame with footprints in degrees; default their WKB, for pandas.

    Returns:
        One row a patch.

    Raises:
        InputError: There is none, or it cannot be read, is another table or is empty.
    """
    index = _read(path := Path(folder) / INDEX)
    if index.empty:
        raise InputError(f"{path}: holds no patch; cut again with another --size or --max-void")
    if geometry:
        import geopandas as gpd

        ground = gpd.GeoSeries.from_wkb(index["geometry"], crs="EPSG:4326")
        index = gpd.GeoDataFrame(index, geometry=ground).__finalize__(index)  # with its attrs
    return index


def read_legend(folder: str | Path) -> lulc.Legend:
    """The legend of the labels in a folder of patches."""
    return lulc.Legend.from_dict(_read(Path(folder) / INDEX, columns=[]).attrs["legend"])


def write_index(index: pd.DataFrame, folder: str | Path) -> None:
    """Write the patch index of ``folder``, whole or not at all; ``index.attrs`` holds the legend."""
    with files.atomic_write(Path(folder) / INDEX) as partial:
        _write(index, partial)


def _read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path, columns=columns)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such index; run 'sartutorial patches' first") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable patch index ({error})") from error
    if "legend" not in frame.attrs:
        raise InputError(f"{path}: not a patch index of ours; run 'sartutorial patches'")
    if "transform" in frame:
        frame["transform"] = [tuple(t) for t in frame["transform"]]  # which can be compared
    return frame


def _write(frame: pd.DataFrame, path: Path) -> None:
    """Write GeoParquet. It names no CRS: by its rules, that means longitude and latitude of WGS 84."""
    column = {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"]}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    plain: Any = getattr(frame, "to_wkb", frame.copy)()  # a GeoDataFrame has polygons
    table = pa.Table.from_pandas(plain, preserve_index=False)
    known = {"geo": json.dumps(geo), "PANDAS_ATTRS": json.dumps(frame.attrs)}
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | known), path)


def cut(
    scene: files.Paths,
    labels: files.Paths,
    out: str | Path,
    *,
    size: int | None = None,
    max_void: float = 0.0,
    legend: str | Path | lulc.Legend | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> Path:
    """Cut scenes and their label rasters into patches, and index all patches of the folder.

    Patches do not overlap; one with any SAR no-data is left out (the paper excludes no-data). A scene
    that is already cut, from these very files, is left alone.

    Args:
        scene: Scenes, or folders of them.
        labels: The label rasters or their folder; of several, each has its scene's name.
        out: The folder to write to. It collects scenes: in any order, at any time, side by side.
        size: Side of a patch in pixels; default the profile's.
        max_void: The share of a patch, 0 to 1, that may have no label (ours).
        legend: The legend of the labels; default what they say themselves, else hr-lulc.
        workers: How many scenes at a time, in processes of this machine.
        scheduler: The address of a dask scheduler, whose workers cut instead.
        progress: Draw a progress bar.

    Returns:
        The path of the index.

    Raises:
        InputError: No patch is left; scenes differ in quantity, polarisation, spacing, size or
            legend; or, when the others are done, a scene has no label raster on its grid.
    """
    size = profiles.get().patch_size if size is None else size
    if size < 1 or not 0 <= max_void <= 1:
        raise InputError(f"--size {size}, --max-void {max_void:g}: must be 1 or more, and 0 to 1")
    place = os.path.abspath if scheduler else str  # its workers may have other working folders
    labelled: list[str] = [place(path) for path in files.several(labels)]
    scenes, out = files.find_scenes(scene), Path(place(out))
    legend = None if legend is None else lulc.legend(legend)
    kinds: list[Mapping[Any, Any]] = _kinds(out)
    for one in scenes:
        with suppress(InputError):  # said below, when the other scenes are done
            kinds.append(_describe(one, labelled, size, legend)[0])
    for kind in kinds:
        _check_alike(kind, kinds[:1])
    work = functools.partial(_cut_scene, labelled, out, size, max_void, legend)
    how: dict[str, Any] = dict(workers=workers, scheduler=scheduler, progress=progress)
    try:
        files.map_scenes(work, scenes, name="patches", **how)
    finally:  # where a scene fails, the others are done
        _join(out)
    if not (out / INDEX).exists():
        raise InputError(_why_empty(_kinds(out), size, max_void))
    return out / INDEX


def _why_empty(kinds: Sequence[Mapping[str, Any]], size: int, max_void: float) -> str:
    who = kinds[0]["source"] if len(kinds) == 1 else f"{len(kinds)} scenes"
    faults = (
        "no data in any pixel; nothing can be cut",
        f"no patch of {size} px is free of no-data; take a smaller --size",
        f"no patch of {size} px has at most {max_void:.0%} void labels; take a larger --max-void",
    )
    return f"{who}: {faults[max(kind['data'] for kind in kinds)]}"


def _describe(
    scene: str, labels: Sequence[str], size: int, legend: lulc.Legend | None
) -> tuple[dict[str, Any], list[str]]:
    """What a scene's patches have in common, and the files they are cut from, which are checked."""
    from sartutorial import rasters

    name, label = files.product_name(scene), Path(labels[0])
    if len(labels) > 1:
        label = next((path for path in map(Path, labels) if path.name == name), Path(name))
    label = label / name if label.is_dir() else label
    with rasters.opened(scene) as sar:
        if size > min(sar.width, sar.height):
            raise InputError(f"{scene}: {sar.width} x {sar.height} px, less than --size {size}")
        if not label.exists():
            raise InputError(f"{label}: no label raster for {scene}; run 'sartutorial label' first")
        with rasters.opened(label, dtype="uint8") as lab:
            if not rasters.same_grid(rasters.grid_of(sar), rasters.grid_of(lab)):
                raise InputError(f"{label}: not on the grid of {scene}; run 'sartutorial label'")
            legend = legend or rasters.legend_of(lab) or lulc.HR_LULC
        about = _about(sar) | {"size": size, "legend": _told(legend), "data": 0}
    about |= {"scene": files.stem_of(scene), "source": files.name_of(scene)}
    return about, [scene, str(label), *rasters.parts_of(scene)[1:]]


def _about(sar: DatasetReader, quantity: radiometry.Quantity | None = None) -> dict[str, Any]:
    """What an open scene says of its patches."""
    from sartutorial import rasters

    product = radiometry.product(sar.name, sar.tags(), quantity)
    about = {k: getattr(product, k) for k in ("quantity", "polarisation", "calibration_db")}
    about |= {"simulated": "SIMULATED" in sar.tags(), "dtype": sar.dtypes[0]}
    return about | {"spacing": rasters.pixel_size(sar)}


def _kinds(out: Path) -> list[Mapping[Any, Any]]:
    """What the patches of each scene of a folder have in common."""
    return [_read(part, columns=[]).attrs for part in (out / "arrays").glob("[!.]*.parquet")]


def _check_alike(about: Mapping[Any, Any], others: Iterable[Mapping[Any, Any]]) -> None:
    """Raise InputError, naming both, if a scene and one of the others cannot be in one set."""
    for other in others:
        both = f"{about['source']} and {other['source']}"
        if other["scene"] == about["scene"]:  # which this one replaces
            if other["source"] != about["source"]:
                raise InputError(f"{both}: their patches have the same names; rename one")
            continue
        for key in ("quantity", "polarisation", "size", "legend", "spacing"):
            one, two = about[key], other[key]
            if key == "spacing" and max(one, two) <= (1 + SPACING) * min(one, two):
                continue
            if one != two:
                one, two = (d["name"] if key == "legend" else d for d in (one, two))
                raise InputError(
                    f"{both}: differ in {key} ({one}, {two}); a set is of one kind, take another --out"
                )


def _cut_scene(
    labels: Sequence[str],
    out: Path,
    size: int,
    max_void: float,
    legend: lulc.Legend | None,
    scene: str,
) -> None:
    about, inputs = _describe(scene, labels, size, legend)
    parameters = {"size": size, "max_void": max_void, "legend": about["legend"]}
    _write_scene(out, about, _cut_out(inputs, about, max_void), inputs, parameters)


# Some patches of a scene: what ROW names of each, and the pixels of both kinds (n, size, size).
Batch = tuple[list[tuple[Any, ...]], NDArray[Any], NDArray[np.uint8]]


def _cut_out(inputs: Sequence[str], about: dict[str, Any], max_void: float) -> Iterator[Batch]:
    """The patches of a scene, a window at a time: what is in memory does not grow with it."""
    from sartutorial import rasters

    size, legend = about["size"], lulc.Legend.from_dict(about["legend"])

    def squares(pixels: NDArray[Any]) -> NDArray[Any]:  # the rest of a window is no whole patch
        down, across = (n // size for n in pixels.shape)
        return pixels[: down * size, : across * size].reshape(down, size, across, size)

    with rasters.opened(inputs[0]) as sar, rasters.opened(inputs[1], dtype="uint8") as lab:
        at, same = sar.transform, (sar.crs.to_string(), about["spacing"])

        def read(window: Window) -> Batch:
            dn = rasters.read_dn(sar, window)
            ids, data = squares(rasters.read_ids(lab, legend, window)), int(dn.any())
            dn = squares(dn)
            down, across = np.nonzero(dn.all(axis=(1, 3)))
            about["data"] = max(about["data"], data + bool(len(down)))  # 1: a pixel, 2: a patch
            ids = ids[down, :, across]
            keep = np.count_nonzero(ids == legend.void, axis=(1, 2)) <= max_void * size**2
            down, across = down[keep], across[keep]
            rows = []
            for y, x in zip(down.tolist(), across.tolist(), strict=True):
                row, col = int(window.row_off) + y * size, int(window.col_off) + x * size
                here = (at * at.translation(col, row))[:6]
                rows.append((f"{about['scene']}_{row}_{col}", row, col, here, *same))
            return rows, dn[down, :, across], ids[keep]

        rows, columns = (size * math.ceil(n / size) for n in WINDOW)
        with files.prefetch(read, rasters.row_windows(sar, rows, columns)) as batches:
            yield from batches


def _write_scene(
    out: Path, about: dict[Any, Any], batches: Iterable[Batch], inputs: list[Any], parameters: Any
) -> None:
    """Write a scene's arrays and then its rows, unless they are up to date."""
    part = out / "arrays" / f"{about['scene']}.parquet"
    sar, label = (part.with_name(f"{about['scene']}.{kind}.npy") for kind in ("sar", "label"))
    if not (sar.exists() and label.exists()):
        part.unlink(missing_ok=True)
    with ExitStack() as last, files.made(part, inputs, parameters) as rows:
        if rows is None:
            return
        with files.atomic_write(sar) as pixels, files.atomic_write(label) as ids:
            _write(_write_arrays(about, batches, pixels, ids), rows)
            last.enter_context(files.locked(out / INDEX))  # until the rows are in their place
            _check_alike(about, _kinds(out))  # another process may have been quicker
            if part.exists():  # an index that lists patches of arrays that are replaced goes first
                (out / INDEX).unlink(missing_ok=True)
                part.unlink()


def _write_arrays(
    about: dict[Any, Any], batches: Iterable[Batch], sar: Path, label: Path
) -> pd.DataFrame:
    """Write patches as they come; their rows of the index, in the order of rows and columns."""
    import shapely

    size, legend = about["size"], lulc.Legend.from_dict(about["legend"])
    ids_of = {"n_void": legend.void} | {f"n_{i}": i for i in legend.ids}
    rows, checksums, counts = list[tuple[Any, ...]](), list[int](), list[NDArray[np.int64]]()
    with open(sar, "wb") as pixels, open(label, "wb") as ids:

        def header(patches: int) -> None:  # numpy leaves room in it for this number
            for file, dtype in ((pixels, about["dtype"]), (ids, "uint8")):
                kind = {"descr": np.dtype(dtype).str, "fortran_order": False}
                file.seek(0)
                np.lib.format.write_array_header_1_0(file, kind | {"shape": (patches, size, size)})

        header(0)
        for some, dn, land in batches:
            rows += some
            checksums += [zlib.crc32(b, zlib.crc32(a)) for a, b in zip(dn, land, strict=True)]
            counts += [np.bincount(b.ravel(), minlength=256)[[*ids_of.values()]] for b in land]
            pixels.write(dn.data)
            ids.write(land.data)
        header(len(rows))
    columns: dict[str, Any] = {column: about[column] for column in COMMON}
    columns |= {"array": np.arange(len(rows)), "checksum": np.array(checksums, np.uint32)}
    columns |= zip(ids_of, np.reshape(counts, (-1, len(ids_of))).astype(np.int64).T, strict=True)
    frame = pd.DataFrame(rows, columns=ROW).assign(**columns)
    degrees = corners(frame)
    ground, far = shapely.polygons(degrees), degrees[..., 0].max(axis=1) > 180
    turns = (shapely.box(west, -90, west + 360, 90) for west in (-180, 180))  # of longitude
    here, beyond = (shapely.intersection(ground[far], turn) for turn in turns)
    ground[far] = shapely.union(shapely.transform(beyond, lambda at: at - [360, 0]), here)
    frame["geometry"] = shapely.to_wkb(ground)
    frame.attrs = about
    return frame.sort_values(["row", "col"], ignore_index=True)


def corners(index: pd.DataFrame) -> NDArray[np.float64]:
    """The corners of patches in degrees, (n, 4, 2): longitudes beyond 180 where a patch crosses it."""
    from pyproj import Transformer

    a, b, c, d, e, f = np.reshape(index["transform"].to_list(), (-1, 6)).T[..., None]
    col, row = np.array([(0, 0), (0, 1), (1, 1), (1, 0)]).T[:, None] * index[["size"]].to_numpy()
    degrees = np.stack([a * col + b * row + c, d * col + e * row + f], axis=-1)
    for crs, here in index.groupby("crs").indices.items():
        to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        x, y = degrees[here].transpose(2, 0, 1)
        degrees[here] = np.stack(to_degrees.transform(x, y), axis=-1)
    lon = degrees[..., 0]
    lon -= 360 * np.round((lon - lon[:, :1]) / 360)
    lon -= 360 * np.floor((lon.min(axis=1, keepdims=True) + 180) / 360)
    return degrees


def _join(out: Path) -> None:
    """Write the index of all scenes of a folder; one of these very rows, sampled or not, stays."""
    if not (out / "arrays").exists():
        return
    with files.locked(out / INDEX):
        parts = map(_read, (out / "arrays").glob("[!.]*.parquet"))
        if not (full := [part for part in parts if len(part)]):
            return
        index = pd.concat(full).sort_values(["scene", "row", "col"], ignore_index=True)
        index.attrs = {"legend": full[0].attrs["legend"]}
        with suppress(InputError):
            old = read_index(out)
            if {*index} <= {*old} and old[[*index]].equals(index):
                return
        write_index(index, out)


# Exchange ----------------------------------------------------------------------------------------
# From the authors' code: the table's columns, and that a patch lies at root/year/month/day/FileName,
# with one root for SAR patches and one for labels. Ours: days without leading zeros, FolderPath is the
# folder below the root, Latitude and Longitude the patch's centre, Category its most frequent class.

NAME = re.compile(r"(.+)_(\d+)_(\d+)\.tiff?")  # of a patch: its scene, row and column
Pair = tuple[str, int, int, Path, Path | None]  # to import: scene, row, column, SAR and label patch


def export(patches: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Write patches as the authors' code reads them: GeoTIFF pairs and a table.

    ``OUT/sar`` (float32 dB) and ``OUT/label`` (uint8 ids with the legend's colours) each hold
    ``year/month/day/<scene>_<row>_<col>.tif``, by the date in the scene's name.
    Files that hold these pixels already are left alone.

    Args:
        patches: The folder of patches.
        out: The folder to write to.
        progress: Draw a progress bar.

    Returns:
        The path of the table, ``OUT/locations.csv``: one row a patch, in the order of the index.

    Raises:
        InputError: There is no index, a scene's name holds no date or a patch cannot be read.
    """
    from sartutorial import rasters

    out, index, legend = Path(out), read_index(patches), read_legend(patches)
    store, stamp = Store(patches, index), index["scene"].str.extract(r"-(\d{6})[-_]")[0]
    day = pd.to_datetime(stamp, format="%y%m%d", errors="coerce")
    if day.isna().any():
        fault = "its name holds no date after a dash (-YYMMDD); the authors' folders need one"
        raise InputError(f"{index['scene'][day.isna()].iloc[0]}: {fault}")
    table = pd.DataFrame({"Year": day.dt.year, "Month": day.dt.month, "Day": day.dt.day})
    table["FolderPath"] = table.astype(str).agg("/".join, axis=1)

    def write(row: Any) -> None:
        for kind, pixels in (("sar", store.sar(row.Index)), ("label", store.label(row.Index))):
            path = out / kind / table["FolderPath"][row.Index] / f"{row.patch}.tif"
            _write_patch(path, pixels, row, legend)

    with files.prefetch(write, index.itertuples(), threads=rasters.threads()) as jobs:
        for _ in tqdm(jobs, "export", len(index), unit="patch", disable=not progress):
            pass
    table["FileName"], ground = index["patch"] + ".tif", corners(index)
    table[["MinLon", "MinLat", "MaxLon", "MaxLat"]] = np.hstack([ground.min(1), ground.max(1)])
    table["Latitude"] = (table["MinLat"] + table["MaxLat"]) / 2
    table["Longitude"] = (table["MinLon"] + table["MaxLon"]) / 2
    counts = index[[f"n_{i}" for i in legend.ids]]
    most = counts.idxmax(axis=1).str[2:].astype(int)
    table["Category"] = most.where(counts.any(axis=1), legend.void)
    with files.atomic_write(out / "locations.csv") as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
    return out / "locations.csv"


def _write_patch(path: Path, pixels: NDArray[Any], row: Any, legend: lulc.Legend) -> None:
    import rasterio
    from affine import Affine

    from sartutorial import rasters

    crs, size = rasterio.CRS.from_user_input(row.crs), len(pixels)
    is_label = pixels.dtype == np.uint8
    grid = rasters.Grid(crs, Affine(*row.transform), size, size)
    with suppress(rasterio.errors.RasterioIOError), rasterio.open(path) as old:
        if rasters.same_grid(rasters.grid_of(old), grid) and np.array_equal(old.read(1), pixels):
            return
    tags = {"SCENE": row.scene, "QUANTITY": row.quantity, "POLARISATION": row.polarisation}
    tags |= {"SIMULATED": "yes"} if row.simulated else {}
    tags |= {"LEGEND": json.dumps(_told(legend))} if is_label else {}
    kind = {"dtype": pixels.dtype.name, "nodata": legend.void if is_label else np.nan}
    kind |= {"tiled": False, "blockxsize": size, "blockysize": size, "zlevel": 1, "num_threads": 1}
    with files.atomic_write(path) as partial, rasters.create(partial, grid, tags, **kind) as file:
        file.write(pixels, 1)
        if is_label:
            file.write_colormap(1, legend.colormap())
        else:
            file.set_band_unit(1, "dB")


def import_patches(
    table: str | Path,
    out: str | Path,
    *,
    sar: str | Path | None = None,
    labels: str | Path | None = None,
    legend: str | Path | lulc.Legend | None = None,
    quantity: radiometry.Quantity | None = None,
    progress: bool = False,
) -> Path:
    """Bring GeoTIFF pairs (float32 dB and uint8 ids) into a folder of patches.

    A label patch has its SAR patch's name and place in its folder (ours). With labels, each patch must
    have its own; without, every pixel is void, and ``sample`` will choose none of the patches.

    Args:
        table: The authors' table (CSV, as they or a spreadsheet wrote it), or a folder of pairs.
        out: The folder to write to.
        sar: The folder of the patches that the table lists; of a folder of pairs by default its
            folder ``sar``, or itself.
        labels: The same for labels; of a folder of pairs by default its folder ``label``.
        legend: The legend of the labels; by default what they say themselves, else hr-lulc.
        quantity: sigma0 or gamma0, where neither names nor tags say it.
        progress: Draw a progress bar.

    Returns:
        The path of the index.

    Raises:
        InputError: The table cannot be read; or a file is missing, not square, without georeference,
            unlike the rest, or holds no-data or unknown ids.
    """
    from sartutorial import rasters

    table, out, pairs = Path(table), Path(out), sorted(_pairs(Path(table), sar, labels))
    known = None if legend is None else lulc.legend(legend)
    read = functools.partial(_read_pair, legend=known, quantity=quantity)
    first = read(pairs[0])[0]
    with tqdm(desc="import", total=len(pairs), unit="patch", disable=not progress) as bar:

        def batches(some: list[Pair]) -> Iterator[Batch]:
            with files.prefetch(read, some, threads=rasters.threads()) as found:
                for about, batch in found:
                    _check_alike(about, [first])
                    yield batch
                    bar.update()

        for scene, group in groupby(pairs, lambda pair: pair[0]):
            some = list(group)
            about = first | {"scene": scene, "source": table.name}
            names = [file.stem for *_, file, _ in some]
            parameters = {"legend": first["legend"], "quantity": quantity, "patches": names}
            inputs = [file for pair in some for file in pair[3:] if file]
            _write_scene(out, about, batches(some), inputs, parameters)
    _join(out)
    return out / INDEX


def _pairs(table: Path, sar: str | Path | None, labels: str | Path | None) -> Iterator[Pair]:
    """Pairs to import. Those that are not named as ours are patches of one scene, numbered."""
    listed = None
    if table.is_dir():
        inside = {name: table / name for name in ("sar", "label") if (table / name).is_dir()}
        sar, labels = sar or inside.get("sar", table), labels or inside.get("label")
    elif sar is None:
        raise InputError(f"{table}: lists patches; name the folder in which they lie with --sar")
    else:
        listed = _listed(table)
    found = {Path(path).name: Path(path) for path in files.find_scenes(sar, "SAR patch")}
    for number, name in enumerate(listed or found):
        if name not in found:
            raise InputError(f"{table}: lists '{name}', which is not in {sar}; check the folder")
        label = Path(labels, found[name].relative_to(sar)) if labels else None
        if label and not label.is_file():
            raise InputError(f"{label}: no such file; a label patch has its SAR patch's name")
        named = NAME.fullmatch(name)
        place = (named[1], int(named[2]), int(named[3])) if named else (table.stem, number, 0)
        yield *place, found[name], label


def _listed(table: Path) -> list[str]:
    """The file names in the authors' table, whatever program wrote it."""
    try:
        data = table.read_bytes()
        # Those names are ASCII, which all encodings but UTF-16 leave as it is.
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
        text = re.sub(r"\Asep=.\s*\n", "", text)
        mark = max(",;\t", key=text.partition("\n")[0].count)
        head, *rows = csv.reader(io.StringIO(text), delimiter=mark)
        column = [name.strip() for name in head].index("FileName")
    except OSError as error:
        raise files.unreadable(table, error, "table") from error
    except (ValueError, csv.Error) as error:
        mend = "save it as 'CSV UTF-8 (comma delimited)', with the columns as the authors call them"
        raise InputError(f"{table}: no table with the column FileName ({error}); {mend}") from error
    names = ["".join(row[column : column + 1]).strip() for row in rows if any(row)]
    if not names:
        raise InputError(f"{table}: lists no patch")
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise InputError(f"{table}: lists {twice[0]} more than once; a patch is known by its name")
    return names


def _read_pair(
    pair: Pair, legend: lulc.Legend | None, quantity: radiometry.Quantity | None
) -> tuple[dict[str, Any], Batch]:
    """A pair, and what it has in common with the rest."""
    from rasterio.errors import RasterioIOError

    from sartutorial import rasters

    _, row, col, sar, label = pair
    with rasters.opened(sar, dtype="float32", decoders=1) as file:
        grid = rasters.grid_of(file)
        if grid.width != grid.height:
            raise InputError(f"{sar}: {grid.width} x {grid.height} px; patches are square")
        about = _about(file, quantity) | {"size": grid.width, "calibration_db": math.nan}
        try:
            db, valid = file.read(1), file.read_masks(1)
        except RasterioIOError as error:
            raise InputError(f"{sar}: cannot be read ({error.__cause__ or error})") from error
        if not (valid.all() and np.isfinite(db).all()):
            raise InputError(f"{sar}: holds no-data; only whole patches can be used")
    if label is None:
        legend = legend or lulc.HR_LULC
        ids = np.full(db.shape, legend.void, np.uint8)
    else:
        with rasters.opened(label, dtype="uint8", decoders=1) as file:
            if not rasters.same_grid(rasters.grid_of(file), grid):
                raise InputError(f"{label}: not on the grid of its SAR patch")
            legend = legend or rasters.legend_of(file) or lulc.HR_LULC
            ids = rasters.read_ids(file, legend)
    about |= {"scene": sar.stem, "source": str(sar), "legend": _told(legend)}
    where = row, col, grid.transform[:6], grid.crs.to_string(), about["spacing"]
    return about, ([(sar.stem, *where)], db[None], ids[None])
