"""Rasters: open and check, read in strips, write whole files or none."""

from __future__ import annotations

import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioIOError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from sartutorial import InputError, __version__
from sartutorial.files import replacing

SUFFIXES = (".tif", ".tiff", ".vrt")
ARCHIVE = "_MOS_F02DAR.tar.gz"  # a tile of the 25 m mosaic, with all its layers
_LAYER = re.compile(r"_(mask|linci|date)_F02DAR\.tif$|_(LIN|MSK)\.tif$")  # not scenes
STRIP_ROWS = 512  # a multiple of the tile height we write
GTIFF = dict(driver="GTiff", tiled=True, blockxsize=512, blockysize=512, compress="deflate",
             bigtiff="if_safer")  # fmt: skip


def threads() -> int:
    """How many threads a scene may use: GDAL_NUM_THREADS, else every core that this process may use."""
    asked = os.environ.get("GDAL_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


# GDAL would note an archive's size in a file beside it, in a folder that is not ours.
os.environ.setdefault("CPL_VSIL_GZIP_WRITE_PROPERTIES", "NO")


def find(paths: Iterable[str | Path], what: str = "scene") -> list[str]:
    """Expand files, URLs and folders of rasters into a list; folders are read in name order.

    A mosaic tile's archive stands for the HH layer in it, which GDAL reads in place; of a product's
    other layers (mask, incidence angle, date) none counts as a raster of the folder.

    Raises InputError if a path does not exist, a folder holds no raster, or two rasters share a
    name (products are named after their scene).
    """
    found: list[str] = []
    for path in map(str, paths):
        if is_virtual(path):
            found.append(path)
        elif Path(path).is_dir():
            inside = [str(p) for p in sorted(Path(path).iterdir())
                      if (p.suffix.lower() in SUFFIXES and not _LAYER.search(p.name))
                      or p.name.endswith(ARCHIVE)]  # fmt: skip
            if not inside:
                raise InputError(f"{path}: the folder holds no raster (*.tif); name a {what}")
            found += inside
        elif Path(path).is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: no such {what}; check the path")
    found = [_inside(p) if p.endswith(ARCHIVE) else p for p in found]
    names = [name_of(p) for p in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{twice[0]}: given more than once; products are named after the {what}")
    return found


def _inside(archive: str) -> str:
    tile = name_of(archive).removesuffix(ARCHIVE)
    place = f"/vsicurl/{archive}" if archive.startswith("http") else archive
    return f"/vsitar/{place}/{tile}_sl_HH_F02DAR.tif"


def is_virtual(path: str | Path) -> bool:
    """Whether a path is a URL or one of GDAL's virtual files, rather than a file's."""
    return "://" in str(path) or str(path).startswith("/vsi")


def name_of(path: str | Path) -> str:
    """The file name of a path or URL, without a URL's query."""
    text = str(path)
    if not is_virtual(text):
        return Path(text).name  # whose separators are those of this machine
    return PurePosixPath(urlsplit(text).path if "://" in text else text).name


def on_disk(path: str | Path) -> Path:
    """The file of this machine that a path reads: its archive, for a path into an archive."""
    text = str(path)
    return Path(text[8:]).parent if text.startswith("/vsitar/") else Path(text)


def exists(path: str | Path) -> bool:
    """Whether a file is there; one elsewhere or in an archive, where GDAL can open it."""
    if not is_virtual(path):
        return Path(path).exists()
    try:
        rasterio.open(path).close()
    except RasterioIOError:
        return False
    return True


class Grid(NamedTuple):
    """Where a raster's pixels lie: its CRS, affine transform and size in pixels."""

    crs: CRS
    transform: Affine
    width: int
    height: int


def grid_of(dataset: DatasetReader) -> Grid:
    """The grid of an open raster."""
    return Grid(dataset.crs, dataset.transform, dataset.width, dataset.height)


@contextmanager
def opened(
    path: str | Path, *, dtype: str = "uint16", decoders: int | None = None
) -> Iterator[DatasetReader]:
    """Open a single-band georeferenced raster for reading, with as many ``decoders`` as ``threads``.

    Raises InputError, naming the file, if it is missing, no raster, has no CRS or transform, or
    does not hold ``dtype`` (uint16 amplitude DN for scenes, uint8 ids for land cover, float32 dB).
    """
    try:
        dataset = rasterio.open(path, num_threads=decoders or threads())  # for a strip's blocks
    except RasterioIOError as error:
        missing = not is_virtual(path) and not Path(path).exists()
        fault = "no such file" if missing else f"not a readable raster ({error})"
        raise InputError(f"{path}: {fault}") from error
    with dataset:
        if dataset.crs is None or dataset.transform.is_identity:
            raise InputError(f"{path}: no georeference (CRS and transform); use the L2.1 GeoTIFF")
        if dataset.count != 1:
            raise InputError(f"{path}: holds {dataset.count} bands, expected one; extract it first")
        if dataset.dtypes[0] != dtype:
            kind = {"uint16": "amplitude DN", "uint8": "ids", "float32": "dB"}[dtype]
            raise InputError(
                f"{path}: holds {dataset.dtypes[0]}, expected {dtype} {kind}"
                + dtype.startswith("uint16")
                * "; power or dB in other types can be written as DN with radiometry.db_to_dn"
            )
        yield dataset


def read(
    dataset: DatasetReader, window: Window | None = None, name: str | None = None
) -> NDArray[Any]:
    """The single band of an open raster, or a window of it: (rows, columns).

    Raises InputError, naming the file (or what ``name`` says, for a virtual one), where it is damaged.
    """
    try:
        band: NDArray[Any] = dataset.read(1, window=window)
    except RasterioIOError as error:
        # rasterio says "see previous exception"; GDAL's own words say what is wrong.
        raise InputError(
            f"{name or dataset.name}: cannot be read ({error.__cause__ or error})"
        ) from error
    return band


def nodata_of(dataset: DatasetReader) -> float:
    """The declared nodata value, else 0 (what PALSAR-2 L2.1 holds outside the swath).

    A declared value that an unsigned pixel cannot have, such as NaN or -9999, counts as undeclared.
    """
    declared = dataset.nodata
    return float(declared) if declared is not None and 0 <= declared <= 65535 else 0.0


def strips(
    dataset: DatasetReader, rows: int = STRIP_ROWS, columns: int | None = None
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


def spacing(dataset: DatasetReader) -> float:
    """Pixel spacing in metres: the geometric mean of both axes, at the centre of the raster."""
    a = dataset.transform
    area = abs(a.a * a.e - a.b * a.d)
    if dataset.crs.is_geographic:
        _, lat = a * (dataset.width / 2, dataset.height / 2)
        metres_per_degree = math.pi / 180 * 6371008.8  # mean Earth radius; good to 0.4 %
        return math.sqrt(area * math.cos(math.radians(lat))) * metres_per_degree
    return math.sqrt(area) * float(dataset.crs.linear_units_factor[1])


T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], threads: int = 1) -> Iterator[R]:
    """``work(item)`` in order; while the caller uses one result, ``threads`` make the next ones."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[R]] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


@contextmanager
def created(
    path: str | Path, grid: Grid, tags: Mapping[str, str], **profile: Any
) -> Iterator[DatasetWriter]:
    """A tiled, compressed, single-band GeoTIFF on ``grid``, whole or not there (see ``files.replacing``).

    ``profile`` overrides rasterio's creation options (``dtype`` and ``nodata`` at least).
    """
    with replacing(path) as partial:
        options = GTIFF | dict(num_threads=threads()) | grid._asdict() | profile
        with rasterio.open(partial, "w", count=1, **options) as dataset:
            dataset.update_tags(**(dict(tags) | {"SOFTWARE": f"sartutorial {__version__}"}))
            yield dataset
        check_whole(partial, path)


def check_whole(written: Path, path: str | Path) -> None:
    """Raise OSError, naming ``path``, unless every block of the GeoTIFF ``written`` is in the file.

    GDAL compresses in threads and writes the last blocks on closing; a full disk raises in neither.
    """
    size = written.stat().st_size
    try:
        with rasterio.open(written) as dataset:
            items = [f"BLOCK_{what}_{col}_{row}" for (row, col), _ in dataset.block_windows(1)
                     for what in ("OFFSET", "SIZE")]  # fmt: skip
            places = [int(dataset.get_tag_item(i, "TIFF", bidx=1) or size + 1) for i in items]
    except RasterioIOError:  # not even its directory
        places = [size, 1]
    if any(
        offset + length > size for offset, length in zip(places[::2], places[1::2], strict=True)
    ):
        raise OSError(f"{path}: could not be written whole; is the disk full?")


def is_current(
    out: str | Path,
    sources: Sequence[str | Path],
    tags: Mapping[str, str],
    grid: Grid | None = None,
) -> bool:
    """Whether ``out`` is there, newer than its ``sources`` and made with the same ``tags``.

    With ``grid``, it must also lie on that grid.

    Raises InputError if ``out`` is one of its own sources.
    """
    out = Path(out)
    local = [file for s in sources if (file := on_disk(s)).exists()]
    if any(s.resolve() == out.resolve() for s in local):
        raise InputError(f"{out}: would overwrite its own source; take another --out")
    if not out.exists() or any(s.stat().st_mtime >= out.stat().st_mtime for s in local):
        return False
    with rasterio.open(out) as dataset:
        made: dict[str, str] = dataset.tags()
        return tags.items() <= made.items() and grid in (None, grid_of(dataset))
