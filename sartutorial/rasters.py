"""Rasters: open and check, read without what is invalid, grids on the ground, write whole files."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
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

# GDAL would keep 5 % of a machine's memory of a raster that is read once, in each process, and note
# an archive's size in a file beside it, in a folder that is not ours.
os.environ.setdefault("GDAL_CACHEMAX", "64")  # MB
os.environ.setdefault("CPL_VSIL_GZIP_WRITE_PROPERTIES", "NO")

DEGREES = "EPSG:4326"
ROWS = 512  # of a strip: a multiple of the tile height that we write
GTIFF = dict(driver="GTiff", tiled=True, blockxsize=512, blockysize=512, compress="deflate")
KINDS = {"uint16": "amplitude DN", "uint8": "ids", "float32": "dB"}
UNITS = {"uint16": ("dn", "digital number", "amplitude"), "uint8": ("class", "id", "category"),
         "float32": ("db", "decibel")}  # fmt: skip
Box = tuple[float, float, float, float]  # west, south, east, north


def threads() -> int:
    """How many threads a scene may use: GDAL_NUM_THREADS, else every core that this process may use."""
    asked = os.environ.get("GDAL_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


# Grids -------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """Where a raster's pixels lie: its CRS, affine transform and size in pixels."""

    crs: CRS
    transform: Affine
    width: int
    height: int


def grid_of(dataset: DatasetReader) -> Grid:
    """The grid of an open raster."""
    return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)


def check_proj() -> None:
    """Raise InputError, naming the variable, where another program's data of PROJ are in the way."""
    try:
        with rasterio.Env():  # or GDAL would print an error of its own
            CRS.from_epsg(4326)
    except CRSError as error:
        said = [v for v in ("PROJ_DATA", "PROJ_LIB") if v in os.environ]
        raise InputError(
            f"{', '.join(f'{v}={os.environ[v]}' for v in said) or 'PROJ'}: not the data of this PROJ "
            f"but perhaps of another program; run without it ('unset {' '.join(said)}')"
        ) from error


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids are one, to a thousandth of a pixel, however their CRS are written."""
    if (a.width, a.height) != (b.width, b.height):
        return False
    corners = np.array([(0, 0), (a.width, 0), (0, a.height), (a.width, a.height)]).T
    x, y = b.transform * corners
    try:
        x, y = transform(b.crs, a.crs, x, y)
    except (RasterioError, CPLE_BaseError):
        return False
    return bool(np.abs(np.array(~a.transform * (np.array(x), np.array(y))) - corners).max() < 1e-3)


def bounds_of(grid: Grid, crs: CRS | str | None = None) -> list[Box]:
    """The boxes (west, south, east, north) that hold a grid, whatever its orientation.

    They are in the grid's own ``crs`` if none is named; in degrees they are two where the grid
    crosses 180 degrees.
    """
    width, height = grid.width, grid.height
    x, y = grid.transform * np.array([(0, 0), (width, 0), (0, height), (width, height)]).T
    west, south, east, north = (float(v) for v in (x.min(), y.min(), x.max(), y.max()))
    into = grid.crs if crs is None else CRS.from_user_input(crs)
    if into != grid.crs:
        west, south, east, north = transform_bounds(grid.crs, into, west, south, east, north)
    if not into.is_geographic:
        return [(west, south, east, north)]
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
    """The pixel spacing on the ground, in any CRS.

    Args:
        grid: A grid, or an open raster.

    Returns:
        Metres on the ellipsoid at the raster's centre; the geometric mean of both axes.
    """
    col, row = grid.width / 2, grid.height / 2
    x, y = grid.transform * np.array([(col, row), (col + 1, row), (col, row + 1)]).T
    lon, lat = (np.radians(v) for v in transform(grid.crs, DEGREES, x, y)[:2])
    # Metres per radian along the meridian and the parallel of WGS 84.
    a, e2 = 6378137.0, 0.00669437999014
    w = math.sqrt(1 - e2 * math.sin(lat[0]) ** 2)
    east = (lon[1:] - lon[0] + math.pi) % (2 * math.pi) - math.pi
    east, north = east * a / w * math.cos(lat[0]), (lat[1:] - lat[0]) * a * (1 - e2) / w**3
    return math.sqrt(abs(east[0] * north[1] - east[1] * north[0]))


# Reading -----------------------------------------------------------------------------------------


@contextmanager
def opened(
    path: str | Path, *, dtype: str = "uint16", decoders: int | None = None
) -> Iterator[DatasetReader]:
    """Open a raster of one band, and of alpha beside it, for reading with as many ``decoders``.

    It must hold ``dtype``: uint16 amplitude DN (scenes), uint8 ids (land cover) or float32 dB.

    Raises InputError, naming the file, if it is missing, no raster, without a place on Earth, or
    if it says of itself that its numbers mean something else (type, scale, offset, unit).
    """
    check_proj()
    with ExitStack() as stack:
        try:
            dataset = stack.enter_context(rasterio.open(path, num_threads=decoders or threads()))
        except RasterioIOError as error:
            raise _fault(path, error) from error
        _check_place(path, dataset)
        bands = [i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True)
                 if c != ColorInterp.alpha]  # fmt: skip
        if bands != [1]:
            raise InputError(f"{path}: holds {len(bands)} bands, expected one; extract it first")
        _check_values(path, dataset, dtype)
        dataset.product_mask = None
        if dtype == "uint16" and (mask := mask_of(path)):
            layer = stack.enter_context(opened(mask, dtype="uint8"))
            if not same_grid(grid_of(dataset), grid_of(layer)):
                raise InputError(
                    f"{mask}: not on the grid of {path}, whose mask its name says it is"
                )
            dataset.product_mask = layer, radiometry.product(path, {}, "sigma0").void
        yield dataset


def mask_of(scene: str | Path) -> str | None:
    """The mask that a product of JAXA's comes with, if it is there; ``read_dn`` honours it."""
    mask = radiometry.product(scene, {}, "sigma0").mask
    if mask is None or not files.is_virtual(mask):
        return mask if mask and Path(mask).exists() else None
    try:
        rasterio.open(mask).close()
    except RasterioIOError:
        return None
    return mask


def _fault(path: str | Path, error: Exception) -> InputError:
    if not files.is_virtual(path):
        try:
            open(path, "rb").close()
        except OSError as denied:
            return files.unreadable(path, denied)
    return InputError(f"{path}: not a readable raster ({error})")


def _check_place(path: str | Path, dataset: DatasetReader) -> None:
    crs, at = dataset.crs, dataset.transform
    if crs is None or at.is_identity or at.is_degenerate:
        raise InputError(f"{path}: no georeference (CRS and transform); use the L2.1 GeoTIFF")
    try:
        if not (crs.is_geographic or crs.is_projected):
            raise InputError("its CRS is local")
        place = pixel_size(dataset)
    except (InputError, RasterioError, CPLE_BaseError):
        place = math.nan
    if not place > 0 or not math.isfinite(place):
        name = crs.to_wkt().split('"')[1]
        raise InputError(
            f"{path}: its CRS ('{name}') gives it no place on Earth; reproject it, or assign the "
            "right one (gdal_edit.py -a_srs)"
        )


def _check_values(path: str | Path, dataset: DatasetReader, dtype: str) -> None:
    if dataset.dtypes[0] != dtype:
        raise InputError(
            f"{path}: holds {dataset.dtypes[0]}, expected {dtype} {KINDS[dtype]}"
            + "; power or dB in other types can be written as DN with radiometry.db_to_dn"
            * (dtype == "uint16")
            + "; ids up to 255 can be written so with 'gdal_translate -ot Byte'"
            * (dtype == "uint8")
        )
    tags = {k.lower(): v for k, v in dataset.tags(1).items()}  # as NetCDF has it, and xarray
    scale = float(tags.get("scale_factor", dataset.scales[0]))
    offset = float(tags.get("add_offset", dataset.offsets[0]))
    if (scale, offset) != (1, 0):
        raise InputError(
            f"{path}: declares scale {scale:g} and offset {offset:g}, so its numbers are not "
            f"{KINDS[dtype]}; write the values themselves (db_to_dn turns dB into DN)"
        )
    unit = dataset.units[0] or tags.get("units", "")
    height = f'UNIT["{unit}"' in dataset.crs.to_wkt().partition("VERT_CS")[2]  # GDAL adds the CRS's
    if not height and unit.strip().lower() not in ("", "1", "none", *UNITS[dtype]):
        raise InputError(
            f"{path}: declares the unit '{unit}', expected {KINDS[dtype]}; convert it (db_to_dn "
            "turns dB into DN), or remove the unit if it is wrong (gdal_edit.py -units '')"
        )


def _read(dataset: DatasetReader, what: str = "read", band: int = 1, **how: Any) -> NDArray[Any]:
    try:
        pixels: NDArray[Any] = getattr(dataset, what)(band, **how)
    except RasterioIOError as error:
        # rasterio says "see previous exception"; GDAL's own words say what is wrong.
        raise InputError(f"{dataset.name}: cannot be read ({error.__cause__ or error})") from error
    return pixels


def _set_invalid(dataset: DatasetReader, band: NDArray[Any], value: int, **how: Any) -> None:
    """Set to ``value`` what the file declares invalid: by nodata, a mask of any form, or alpha."""
    nodata = dataset.nodata
    if nodata is not None and nodata != value and np.iinfo(band.dtype).max >= nodata >= 0:
        band[band == nodata] = value
    if not set(dataset.mask_flag_enums[0]) <= {MaskFlags.nodata, MaskFlags.all_valid}:
        band[_read(dataset, "read_masks", **how) == 0] = value  # a .msk, one within, or alpha
    for i, colour in zip(dataset.indexes, dataset.colorinterp, strict=True):
        if colour == ColorInterp.alpha:  # which GDAL ignores where there is nodata as well
            band[_read(dataset, band=i, **how) == 0] = value


def read_dn(
    dataset: DatasetReader,
    window: Window | None = None,
    *,
    out_shape: tuple[int, int] | None = None,
) -> NDArray[np.uint16]:
    """Read amplitude DN (uint16) of a scene that was ``opened``, 0 wherever they are invalid.

    Invalid is what the file declares so (nodata of any value, a mask within or beside it, alpha) and
    what its product's mask says holds no measurement. With ``out_shape`` (rows, columns), each pixel
    of the smaller view is the mean power of the valid pixels that it stands for.

    Raises InputError, naming the file, if it is damaged.
    """
    if out_shape:
        return _reduced(dataset, window or Window(0, 0, dataset.width, dataset.height), out_shape)
    dn = _read(dataset, window=window)
    _set_invalid(dataset, dn, 0, window=window)
    if mask := getattr(dataset, "product_mask", None):
        layer, void = mask
        dn[np.isin(_read(layer, window=window), void)] = 0
    return dn


def _reduced(dataset: DatasetReader, window: Window, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Mean power over blocks whose sides differ by a pixel at most, a few rows at a time."""
    tops, lefts = (np.arange(n) * int(full) // n
                   for n, full in zip(shape, (window.height, window.width), strict=True))  # fmt: skip
    tops = np.append(tops, int(window.height))
    out = np.empty(shape, np.uint16)
    for row in range(shape[0]):
        top, bottom = tops[row : row + 2]
        part = Window(window.col_off, window.row_off + top, window.width, bottom - top)
        dn = read_dn(dataset, part)
        power = np.add.reduceat(np.square(dn, dtype=np.float64).sum(axis=0), lefts)
        valid = np.add.reduceat((dn > 0).sum(axis=0), lefts)
        out[row] = np.rint(np.sqrt(power / np.maximum(valid, 1)))
    return out


def read_ids(
    dataset: DatasetReader, legend: lulc.Legend, window: Window | None = None, **how: Any
) -> NDArray[np.uint8]:
    """Read land cover as a legend's ids (uint8), ``legend.void`` wherever there is no label.

    Raises InputError, naming the file, for ids that the legend does not have.
    """
    ids = _read(dataset, window=window, **how)
    _set_invalid(dataset, ids, legend.void, window=window, **how)
    for value in legend.void_ids:
        if value != legend.void and (void := ids == value).any():
            ids[void] = legend.void
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
    """Windows of full width and ``rows`` height, top to bottom: row-major order is kept.

    With ``columns``, windows are at most as wide, from left to right in a strip, unless the raster is
    stored in full rows: a narrow window would have to decode all of them.
    """
    width = dataset.width
    if columns and dataset.block_shapes[0][1] < width:
        width = columns
    for top in range(0, dataset.height, rows):
        for left in range(0, dataset.width, width):
            height = min(rows, dataset.height - top)
            yield Window(left, top, min(width, dataset.width - left), height)


# Writing -----------------------------------------------------------------------------------------


@contextmanager
def create(
    path: str | Path, grid: Grid, tags: Mapping[str, str], **profile: Any
) -> Iterator[DatasetWriter]:
    """Write a tiled, compressed GeoTIFF, of one band unless told otherwise, on ``grid`` with ``tags``.

    Mostly to the partial file of ``files.made``, which is whole or not there. ``profile`` holds
    rasterio's creation options: ``dtype`` at least; nodata is 0 if not named.

    Raises OSError unless every block is in the file: GDAL compresses in threads and writes the last
    ones on closing; a full disk raises in neither.
    """
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
    size = os.path.getsize(path)
    try:
        with rasterio.open(path) as dataset:
            items = [
                f"BLOCK_{what}_{col}_{row}"
                for (row, col), _ in dataset.block_windows(1)
                for what in ("OFFSET", "SIZE")
            ]
            places = [int(dataset.get_tag_item(i, "TIFF", bidx=1) or size + 1) for i in items]
    except RasterioIOError:  # not even its directory
        places = [size, 1]
    ends = map(sum, zip(places[::2], places[1::2], strict=True))
    if max(ends, default=0) > size:
        raise OSError("not written whole; is the disk full?")


# Views -------------------------------------------------------------------------------------------


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

    Returns:
        The dB, their grid and whether they are sigma0 or gamma0.

    Raises:
        InputError: The scene cannot be read or calibrated.
    """
    path = _single(scene)
    with opened(path) as dataset:
        product = radiometry.product(path, dataset.tags(), quantity)
        part, shape, grid = _view(path, dataset, window, max_size)
        dn = read_dn(dataset, part, out_shape=shape)
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

    Returns:
        The ids, their grid and their legend.

    Raises:
        InputError: The raster cannot be read, or holds ids that the legend does not have.
    """
    path = _single(raster)
    with opened(path, dtype="uint8") as dataset:
        known = lulc.legend(legend or legend_of(dataset) or lulc.HR_LULC)
        part, shape, grid = _view(path, dataset, window, max_size)
        how = dict(out_shape=shape, resampling=Resampling.nearest) if shape else {}
        return Classes(read_ids(dataset, known, part, **how), grid, known)


def _single(path: str | Path) -> str:
    found = files.find_scenes(path, "raster")
    if len(found) > 1:
        raise InputError(f"{path}: holds {len(found)} rasters, such as {found[0]}; name one")
    return found[0]


def _view(
    path: str, dataset: DatasetReader, window: Sequence[int] | None, max_size: int | None
) -> tuple[Window, tuple[int, int] | None, Grid]:
    """The window to read, the shape to reduce it to, if any, and the grid of what comes out."""
    row, col, height, width = window or (0, 0, dataset.height, dataset.width)
    inside = 0 <= row < row + height <= dataset.height and 0 <= col < col + width <= dataset.width
    if not inside:
        raise InputError(
            f"{path}: window {row}, {col}, {height}, {width} (row, column, height, width) is not in "
            f"its {dataset.height} rows and {dataset.width} columns"
        )
    at = dataset.transform * Affine.translation(col, row)
    part, shape = Window(col, row, width, height), None
    if max_size and max(height, width) > max_size:
        step = max(height, width) / max_size
        shape = (max(1, round(height / step)), max(1, round(width / step)))
        at *= Affine.scale(width / shape[1], height / shape[0])
        height, width = shape
    return part, shape, Grid(dataset.crs, at, width, height)
