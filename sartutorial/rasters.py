"""Rasters: open and check, read without what is invalid, grids on the ground, write whole files."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError, RasterioIOError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.warp import transform, transform_bounds
from rasterio.windows import Window

from sartutorial import InputError, __version__, files, lulc, radiometry

# A server that is busy or cut off is asked again, after 0.5, 1, 2, 4 s; one that is silent is given up.
WEB = dict(MAX_RETRY=4, RETRY_DELAY=0.5, CONNECTTIMEOUT=10, LOW_SPEED_TIME=30, LOW_SPEED_LIMIT=1)
# GDAL would keep 5 % of a machine's memory of a raster that is read once, in each process, and note
# an archive's size in a file beside it, in a folder that is not ours.
_KEPT = {"GDAL_CACHEMAX": 64, "CPL_VSIL_GZIP_WRITE_PROPERTIES": "NO"}  # 64 MB
for _name, _value in (_KEPT | {f"GDAL_HTTP_{key}": value for key, value in WEB.items()}).items():
    os.environ.setdefault(_name, str(_value))

DEGREES = "EPSG:4326"
ROWS = 512  # of a strip: a multiple of the tile height that we write
GTIFF = dict(driver="GTiff", tiled=True, blockxsize=512, blockysize=512, compress="deflate")
KINDS = {  # what a raster of a type holds, and which units say so
    "uint16": ("amplitude DN", ("dn", "digital number", "amplitude")),
    "uint8": ("ids", ("class", "id", "category")),
    "float32": ("dB", ("db", "decibel")),
}
Box = tuple[float, float, float, float]  # west, south, east, north


def threads() -> int:
    """How many threads a scene may use: GDAL_NUM_THREADS, else every core that this process may use."""
    asked = os.environ.get("GDAL_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Grid(NamedTuple):
    """Where a raster's pixels lie: its CRS, affine transform and size in pixels."""

    crs: CRS
    transform: Affine
    width: int
    height: int


def grid_of(dataset: DatasetReader) -> Grid:
    """The grid of an open raster."""
    return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)


def _corners(grid: Grid) -> Any:
    """Columns and rows of a grid's four corners, of shape (2, 4)."""
    return np.array([(0, grid.width, 0, grid.width), (0, 0, grid.height, grid.height)], float)


def check_proj() -> None:
    """Raise InputError, naming the variable, where another program's data of PROJ are in the way."""
    try:
        with rasterio.Env():  # or GDAL would print an error of its own
            CRS.from_epsg(4326)
    except CRSError as error:
        said = [f"{v}={os.environ[v]}" for v in ("PROJ_DATA", "PROJ_LIB") if v in os.environ]
        fault = f"{', '.join(said) or 'PROJ'}: another program's PROJ data; unset PROJ_DATA and PROJ_LIB"
        raise InputError(fault) from error


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids are one, to a thousandth of a pixel, however their CRS are written."""
    with suppress(RasterioError, CPLE_BaseError):
        x, y = transform(b.crs, a.crs, *(b.transform * _corners(b)))
        off = np.array(~a.transform * (np.array(x), np.array(y))) - _corners(a)
        return (a.width, a.height) == (b.width, b.height) and bool(np.abs(off).max() < 1e-3)
    return False


def bounds_of(grid: Grid) -> list[Box]:
    """The boxes in degrees that hold a grid, whatever its orientation: two if it crosses 180 degrees."""
    x, y = grid.transform * _corners(grid)
    west, south, east, north = (float(v) for v in (x.min(), y.min(), x.max(), y.max()))
    if grid.crs != CRS.from_string(DEGREES):
        west, south, east, north = transform_bounds(grid.crs, DEGREES, west, south, east, north)
    if not np.isfinite((west, south, east, north)).all():  # a map of the world: its corners lie
        return [(-180.0, -90.0, 180.0, 90.0)]  # beyond the Earth
    if east - west >= 360:
        return [(-180.0, south, 180.0, north)]
    west, east = round(west, 9), round(east, 9)  # to a tenth of a millimetre: no slivers
    turn = 360 * math.floor((west + 180) / 360)  # a raster may count from 0 to 360
    west, east = west - turn, east - turn
    east += 360 * (east < west)
    if east <= 180:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east - 360, north)]


def pixel_size(grid: Grid | DatasetReader) -> float:
    """The pixel spacing at the centre in metres on the ground, in any CRS: both axes' geometric mean."""
    col, row = grid.width / 2, grid.height / 2
    x, y = grid.transform * np.array([(col, row), (col + 1, row), (col, row + 1)]).T
    lon, lat = (np.radians(v) for v in transform(grid.crs, DEGREES, x, y)[:2])
    # Metres per radian along the meridian and the parallel of WGS 84.
    a, e2 = 6378137.0, 0.00669437999014
    w = math.sqrt(1 - e2 * math.sin(lat[0]) ** 2)
    east = (lon[1:] - lon[0] + math.pi) % (2 * math.pi) - math.pi
    east, north = east * a / w * math.cos(lat[0]), (lat[1:] - lat[0]) * a * (1 - e2) / w**3
    return math.sqrt(abs(east[0] * north[1] - east[1] * north[0]))


@contextmanager
def opened(
    path: str | Path, *, dtype: str = "uint16", decoders: int | None = None
) -> Iterator[DatasetReader]:
    """Open a raster of one band, and of alpha beside it, for reading with as many ``decoders``.

    Raises InputError, naming the file, unless it is a raster with a place on Earth that by all it
    says holds ``dtype``: uint16 amplitude DN (scenes), uint8 ids (land cover) or float32 dB.
    """
    check_proj()
    with ExitStack() as stack:
        try:
            if not files.is_virtual(path):
                open(path, "rb").close()  # whose error says whether it may be read
            dataset = stack.enter_context(rasterio.open(path, num_threads=decoders or threads()))
        except RasterioIOError as error:
            raise InputError(f"{path}: not a readable raster ({error}){_mend(path)}") from error
        except OSError as error:
            raise files.unreadable(path, error) from error
        if fault := _fault_of(dataset, dtype):
            raise InputError(f"{path}: {fault}")
        dataset.product_mask = None
        if dtype == "uint16" and (mask := mask_of(path)):
            dataset.product_mask = stack.enter_context(opened(mask, dtype="uint8"))
            if not same_grid(grid_of(dataset), grid_of(dataset.product_mask)):
                raise InputError(f"{mask}: not on the grid of {path}, whose mask it is by its name")
        yield dataset


def parts_of(scene: str | Path) -> list[str]:
    """The files that a scene is read from: itself, and the mask that its product comes with."""
    return [str(scene), *filter(None, [mask_of(scene)])]


def mask_of(scene: str | Path) -> str | None:
    """The mask that a product of JAXA's comes with, if it is there; ``read_dn`` honours it."""
    mask = radiometry.product(scene, {}, "sigma0").mask or ""
    exists = rasterio.shutil.exists if files.is_virtual(mask) else os.path.exists
    return mask if mask and exists(mask) else None


def _fault_of(dataset: DatasetReader, dtype: str) -> str | None:
    """Why a raster is none of ``dtype``, or means something else by its numbers, and the mend."""
    crs, at, placed = dataset.crs, dataset.transform, False
    if crs is None or at.is_identity or at.is_degenerate:
        return "no georeference (CRS and transform); use the L2.1 GeoTIFF"
    with suppress(RasterioError, CPLE_BaseError, ValueError):  # the sine of infinity
        placed = (crs.is_geographic or crs.is_projected) and 0 < pixel_size(dataset) < math.inf
    if not placed:
        name = crs.to_wkt().split('"')[1]
        return f"its CRS ('{name}') gives it no place on Earth; reproject it"
    colours = zip(dataset.indexes, dataset.colorinterp, strict=True)
    bands = [i for i, colour in colours if colour != ColorInterp.alpha]
    if bands != [1]:
        return f"holds {len(bands)} bands, expected one; extract it first"
    holds, (kind, units) = dataset.dtypes[0], KINDS[dtype]
    tags = {k.lower(): v for k, v in dataset.tags(1).items()}  # as NetCDF has it, and xarray
    scale = float(tags.get("scale_factor", dataset.scales[0]))
    offset = float(tags.get("add_offset", dataset.offsets[0]))
    unit = dataset.units[0] or tags.get("units", "")
    height = f'UNIT["{unit}"' in crs.to_wkt().partition("VERT_CS")[2]  # GDAL adds the CRS's
    mend = "convert it (db_to_dn turns dB into DN, 'gdal_translate -ot Byte' converts ids)"
    mend += " or declare it right (gdal_edit.py)"
    if holds != dtype:
        return f"holds {holds}, expected {dtype} {kind}; {mend}"
    if (scale, offset) != (1, 0):
        return f"declares scale {scale:g} and offset {offset:g}, which {kind} have not; {mend}"
    if not height and unit.strip().lower() not in ("", "1", "none", *units):
        return f"declares the unit '{unit}', expected {kind}; {mend}"
    return None


def _read(dataset: DatasetReader, void: int | None = None, **how: Any) -> NDArray[Any]:
    """The band, with ``void`` (if given) where the file says invalid: nodata, a mask of any form, alpha."""
    try:
        band: NDArray[Any] = dataset.read(1, **how)
        if void is None:
            return band
        if dataset.nodata not in (None, void):
            band[band == dataset.nodata] = void
        if not set(dataset.mask_flag_enums[0]) <= {MaskFlags.nodata, MaskFlags.all_valid}:
            band[dataset.read_masks(1, **how) == 0] = void  # a .msk, one within, or alpha
        for i, colour in zip(dataset.indexes, dataset.colorinterp, strict=True):
            if colour == ColorInterp.alpha:  # which GDAL ignores where there is nodata as well
                band[dataset.read(i, **how) == 0] = void
    except RasterioIOError as error:
        # rasterio says "see previous exception"; GDAL's own words say what is wrong.
        said = f"cannot be read ({error.__cause__ or error}){_mend(dataset.name)}"
        raise InputError(f"{dataset.name}: {said}") from error
    return band


def _mend(path: str | Path) -> str:
    far = files.is_virtual(path) and not files.on_disk(path).is_file()
    return "; check address and network, and run it again" if far else ""


def read_dn(dataset: DatasetReader, window: Window | None = None) -> NDArray[np.uint16]:
    """Read a scene's amplitude DN (uint16), 0 where the file or the mask of its product has no data."""
    dn = _read(dataset, 0, window=window)
    if mask := getattr(dataset, "product_mask", None):
        void = radiometry.product(dataset.name, {}, "sigma0").void
        dn[np.isin(_read(mask, window=window), void)] = 0
    return dn


def read_reduced(
    dataset: DatasetReader, window: Window, shape: tuple[int, int]
) -> NDArray[np.uint16]:
    """DN (rows, columns) of the mean power of the valid pixels that each of them stands for."""
    if shape == (window.height, window.width):
        return read_dn(dataset, window)
    tops = np.arange(shape[0] + 1) * int(window.height) // shape[0]
    lefts = np.arange(shape[1]) * int(window.width) // shape[1]
    out = np.empty(shape, np.uint16)
    for row, (top, bottom) in enumerate(pairwise(tops)):
        part = Window(window.col_off, window.row_off + top, window.width, bottom - top)
        dn = read_dn(dataset, part)
        power = np.add.reduceat(np.square(dn, dtype=np.float64).sum(axis=0), lefts)
        valid = np.add.reduceat((dn > 0).sum(axis=0), lefts)
        out[row] = np.rint(np.sqrt(power / np.maximum(valid, 1)))
    return out


def read_ids(
    dataset: DatasetReader, legend: lulc.Legend, window: Window | None = None, **how: Any
) -> NDArray[np.uint8]:
    """Read land cover as a legend's ids (uint8), ``legend.void`` for no label; InputError for others."""
    ids = _read(dataset, legend.void, window=window, **how)
    for value in set(legend.void_ids) - {legend.void}:
        ids[ids == value] = legend.void
    legend.check(ids, dataset.name)
    return ids


def legend_of(dataset: DatasetReader) -> lulc.Legend | None:
    """The legend that a label raster or a map of ours says it has, in its tag LEGEND."""
    said = dataset.tags().get("LEGEND")
    try:
        return lulc.Legend.from_dict(json.loads(said)) if said else None
    except ValueError as error:
        raise InputError(f"{dataset.name}: its tag LEGEND is no legend ({error})") from error


def row_windows(
    dataset: DatasetReader, rows: int = ROWS, columns: int | None = None
) -> Iterator[Window]:
    """Windows of ``rows`` height, and of full width or as many ``columns``: row by row.

    A raster that is stored in full rows has no narrow windows: each would decode all of them.
    """
    height, width = dataset.shape
    columns = columns if columns and dataset.block_shapes[0][1] < width else width
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield Window(left, top, min(columns, width - left), min(rows, height - top))


@contextmanager
def create(
    path: str | Path, grid: Grid, tags: Mapping[str, str], **profile: Any
) -> Iterator[DatasetWriter]:
    """Write a tiled, compressed GeoTIFF, of one band unless ``profile`` differs; whole, or OSError."""
    check_proj()
    options = GTIFF | dict(count=1, bigtiff="if_safer", nodata=0, num_threads=threads())
    with rasterio.open(path, "w", **(options | grid._asdict() | profile)) as dataset:
        dataset.update_tags(**(dict(tags) | {"SOFTWARE": f"sartutorial {__version__}"}))
        yield dataset
    check_whole(path)


def check_whole(path: str | Path) -> None:
    """Raise OSError unless every block of a GeoTIFF is in the file.

    GDAL compresses in threads and writes the last blocks on closing; a full disk raises in neither.
    """
    if files.is_virtual(path):  # written by others, who gave it its size
        return
    size = os.path.getsize(path)
    with suppress(RasterioIOError), rasterio.open(path) as dataset:  # or not even its directory
        ask = partial(dataset.get_tag_item, dm="TIFF", bidx=1)
        blocks = [f"{col}_{row}" for (row, col), _ in dataset.block_windows(1)]
        places = [(ask(f"BLOCK_OFFSET_{b}"), ask(f"BLOCK_SIZE_{b}")) for b in blocks]
        if all(start and length and int(start) + int(length) <= size for start, length in places):
            return
    raise OSError("not written whole; is the disk full?")


class View(NamedTuple):
    """Backscatter of a scene, or of a part or a reduced view of it."""

    db: NDArray[np.float32]  # (rows, columns), NaN = no data
    grid: Grid
    quantity: str


class Classes(NamedTuple):
    """Land cover of a raster, or of a part or a reduced view of it."""

    ids: NDArray[np.uint8]  # (rows, columns), legend.void = no label
    grid: Grid
    legend: lulc.Legend


def read_db(
    scene: str | Path,
    *,
    window: Sequence[int] | None = None,
    max_size: int | None = None,
    quantity: radiometry.Quantity | None = None,
) -> View:
    """Read a scene's backscatter in dB.

    Args:
        scene: A file of amplitude DN, a URL, or an archive of JAXA's mosaic.
        window: Row, column, height and width in pixels; default all.
        max_size: The longest side of a reduced view, in pixels of mean power.
        quantity: What the pixels hold; default what the tags or JAXA's file name say.

    Raises:
        InputError: The scene cannot be read or calibrated.
    """
    with _viewed(scene, "uint16", window, max_size) as (dataset, part, shape, grid):
        product = radiometry.product(dataset.name, dataset.tags(), quantity)
        dn = read_reduced(dataset, part, shape)
        db = radiometry.dn_to_db(dn, calibration_db=product.calibration_db)
        return View(db, grid, product.quantity)


def read_classes(
    raster: str | Path,
    *,
    legend: str | Path | lulc.Legend | None = None,
    window: Sequence[int] | None = None,
    max_size: int | None = None,
) -> Classes:
    """Read land cover: a label raster, a map of ours, or anybody's raster of ids.

    Args:
        raster: A file or a URL of ids (uint8).
        legend: What they mean; default what the raster's own tag says, else HR-LULC's.
        window: Row, column, height and width in pixels; default all.
        max_size: The longest side of a reduced view, in pixels of the nearest id.

    Raises:
        InputError: The raster cannot be read, or holds ids that the legend does not have.
    """
    with _viewed(raster, "uint8", window, max_size) as (dataset, part, shape, grid):
        known = lulc.legend(legend or legend_of(dataset) or lulc.HR_LULC)
        ids = read_ids(dataset, known, part, out_shape=shape, resampling=Resampling.nearest)
        return Classes(ids, grid, known)


@contextmanager
def _viewed(
    path: str | Path, dtype: str, window: Sequence[int] | None, max_size: int | None
) -> Iterator[tuple[DatasetReader, Window, tuple[int, int], Grid]]:
    """A raster, the window to read, and the shape and the grid of the view."""
    found = files.find_scenes(path, "raster")
    if len(found) > 1:
        raise InputError(f"{path}: holds {len(found)} rasters, such as {found[0]}; name one")
    with opened(found[0], dtype=dtype) as dataset:
        rows, columns = dataset.shape
        if (max_size is not None and max_size < 1) or (window and len(window) != 4):
            fault = "max_size must be at least 1, a window (row, column, height, width)"
            raise InputError(f"max_size={max_size}, window={window}: {fault}")
        row, col, height, width = window or (0, 0, rows, columns)
        if not (0 <= row < row + height <= rows and 0 <= col < col + width <= columns):
            view = f"window {row}, {col}, {height}, {width} (row, column, height, width)"
            raise InputError(f"{path}: {view} is not in its {rows} rows and {columns} columns")
        step = max(1, max(height, width) / (max_size or math.inf))
        shape = max(1, round(height / step)), max(1, round(width / step))
        at = dataset.transform * Affine.translation(col, row)
        at *= Affine.scale(width / shape[1], height / shape[0])
        grid = Grid(dataset.crs, at, shape[1], shape[0])
        yield dataset, Window(col, row, width, height), shape, grid
