"""Halve the scene (paper section 2.1): block means of power, georeferencing and tags kept."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, radiometry, rasters

Average = Literal["power", "amplitude"]


COLUMNS = 4096  # of the result, at most, that are read and written at a time
# Speckle is noise to deflate: higher levels take longer and save nothing.
DEFLATE = dict(predictor=2, zlevel=1)
PIECE = 32, 512  # of the result, made at a time: what it needs fits a processor's cache


def block_mean(
    dn: NDArray[np.uint16], factor: int = 2, *, nodata: float = 0, average: Average = "power"
) -> NDArray[np.uint16]:
    """Amplitude DN averaged over blocks of ``factor`` x ``factor`` pixels.

    ``dn`` is uint16 of shape (H, W); the result is uint16 of shape (ceil(H/f), ceil(W/f)).
    A block is the mean of its valid pixels, and no data only where none is valid (GDAL's rule);
    DN 0 is never valid, whatever ``nodata`` is.
    ``average="power"`` gives the DN whose power is the mean power, sqrt(<DN^2>): backscatter is
    power, so this one is unbiased. The paper says "average resampling" without saying of what.
    """
    height, width = (-(-n // factor) for n in dn.shape)
    out = np.empty((height, width), np.uint16)
    for top in range(0, height, PIECE[0]):
        for left in range(0, width, PIECE[1]):
            bottom, right = top + PIECE[0], left + PIECE[1]
            piece = dn[top * factor : bottom * factor, left * factor : right * factor]
            out[top:bottom, left:right] = _mean_of_blocks(piece, factor, int(nodata), average)
    return out


def _mean_of_blocks(
    dn: NDArray[np.uint16], factor: int, nodata: int, average: Average
) -> NDArray[np.uint16]:
    height, width = dn.shape
    if height % factor or width % factor:
        dn = np.pad(dn, ((0, -height % factor), (0, -width % factor)), constant_values=nodata)
    # Rounding in single precision stays below 0.04 DN for small blocks.
    values: NDArray[Any] = dn.astype(np.float32 if factor <= 8 else np.float64)
    void = radiometry.no_data(dn, nodata)
    holes = void.any()
    if holes:
        values[void] = 0
    if average == "power":
        values *= values
    mean = _sum_of_blocks(values, factor)
    if holes:
        count = _sum_of_blocks((~void).astype(np.min_scalar_type(factor**2)), factor)
        mean /= np.maximum(count, 1)
    else:
        mean /= factor**2
    if average == "power":
        np.sqrt(mean, out=mean)
    out: NDArray[np.uint16] = np.rint(mean, out=mean).astype(np.uint16)
    # A valid pixel must not round to no data.
    out[out == nodata] = nodata + 1 if nodata < radiometry.MAX_DN else nodata - 1
    if holes:
        out[count == 0] = nodata
    return out


def _sum_of_blocks(values: NDArray[Any], factor: int) -> NDArray[Any]:
    rows: NDArray[Any] = reduce(np.add, (values[i::factor] for i in range(factor)))
    return reduce(np.add, (rows[:, j::factor] for j in range(factor)))


def downsample(
    scene: str | Path,
    out: str | Path,
    *,
    factor: int = 2,
    average: Average = "power",
    quantity: radiometry.Quantity | None = None,
    progress: bool = False,
) -> Path:
    """Write ``scene`` (uint16 DN) averaged over ``factor`` x ``factor`` pixels to ``out``.

    CRS, upper-left corner, tags and declared nodata are kept; the pixel grows by ``factor``. Pixels
    without data in the product's own mask become no data. ``quantity`` says what an unknown product
    holds. Memory does not grow with the scene. A file that is already current is left alone.
    Raises InputError for a scene that cannot be read or calibrated, or a factor below 1.
    """
    if factor < 1:
        raise InputError(f"--factor {factor}: must be 1 or more")
    with rasters.opened(scene) as source, ExitStack() as stack:
        product = radiometry.product(str(scene), source.tags(), quantity)
        mask = _mask(product, source, stack)
        nodata = rasters.nodata_of(source)
        tags = source.tags() | {
            "QUANTITY": product.quantity,
            "CALIBRATION_DB": str(product.calibration_db),
            "DOWNSAMPLED": f"{factor} {average}",
        }
        if mask:
            tags["MASK"] = rasters.name_of(mask.name)
        for ours in (
            "AREA_OR_POINT",
            "SOFTWARE",
        ):  # what we write ourselves, whatever the scene's says
            tags.pop(ours, None)
        if rasters.is_current(out, [scene, *([mask.name] if mask else [])], tags):
            return Path(out)
        grid = rasters.Grid(
            source.crs,
            source.transform * Affine.scale(factor),
            math.ceil(source.width / factor),
            math.ceil(source.height / factor),
        )

        def read(window: Window) -> NDArray[np.uint16]:
            dn: NDArray[np.uint16] = rasters.read(source, window)
            if mask:
                dn[np.isin(rasters.read(mask, window), product.void)] = int(nodata)
            return dn

        # Three windows are under way at a time: one is read, one averaged, one written.
        windows = list(rasters.strips(source, factor * rasters.STRIP_ROWS, factor * COLUMNS))
        mean = partial(block_mean, factor=factor, nodata=nodata, average=average)
        blocks = rasters.ahead(mean, rasters.ahead(read, windows))
        with rasters.created(out, grid, tags, dtype="uint16", nodata=nodata, **DEFLATE) as target:
            name = f"downsample {rasters.name_of(scene)}"
            bar = tqdm(blocks, name, len(windows), disable=not progress)
            for w, dn in zip(windows, bar, strict=True):
                top, left = w.row_off // factor, w.col_off // factor
                target.write(dn, 1, window=Window(left, top, dn.shape[1], dn.shape[0]))
    return Path(out)


def _mask(
    product: radiometry.Product, scene: DatasetReader, stack: ExitStack
) -> DatasetReader | None:
    """The product's own mask, open, where it comes with one and it lies beside the scene."""
    if product.mask is None or not rasters.exists(product.mask):
        return None
    mask = stack.enter_context(rasters.opened(product.mask, dtype="uint8"))
    if rasters.grid_of(mask) != rasters.grid_of(scene):
        raise InputError(f"{product.mask}: not on the grid of {scene.name}; fetch both anew")
    return mask
