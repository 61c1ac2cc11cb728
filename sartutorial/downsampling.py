"""Halve the scene (paper section 2.1): block means of power, georeference and tags kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, check_words, files, radiometry, rasters

Average = Literal["power", "amplitude"]

ROWS, COLUMNS = 512, 4096  # of the result, at most, that are read and written at a time
# Speckle is noise to deflate: higher levels take longer and save nothing.
DEFLATE = dict(predictor=2, zlevel=1)
PIECE = 8  # rows of the result, made at a time: what they need fits a processor's cache


def block_mean(
    dn: NDArray[np.uint16], factor: int = 2, *, average: Average = "power"
) -> NDArray[np.uint16]:
    """Average amplitude DN over blocks of pixels.

    A block is the mean of its valid pixels, and no data only where none is valid (GDAL's rule). That of
    power, sqrt(<DN^2>), is unbiased. The paper says "average resampling" without saying of what.

    >>> block_mean(np.array([[300, 0, 0], [400, 0, 0]], np.uint16)).tolist()
    [[354, 0]]

    Args:
        dn: uint16 of shape (H, W), 0 = no data.
        factor: Pixels per block and axis.
        average: Of power, or of amplitude (which reads low).

    Returns:
        uint16 of shape (ceil(H / factor), ceil(W / factor)), 0 = no data.
    """
    _check(factor, average)
    radiometry.check_dn(dn)
    height, width = dn.shape
    out = np.empty((math.ceil(height / factor), math.ceil(width / factor)), np.uint16)
    for top in range(0, len(out), PIECE):
        piece = dn[top * factor : (top + PIECE) * factor]
        if len(piece) % factor or width % factor:
            piece = np.pad(piece, ((0, -len(piece) % factor), (0, -width % factor)))
        # Rounding in single precision stays below 0.04 DN for small blocks.
        values: NDArray[Any] = piece.astype(np.float32 if factor <= 8 else np.float64)
        if average == "power":
            values *= values
        mean, valid = _sum_of_blocks(values, factor), piece != 0
        if valid.all():
            mean /= factor**2
        else:
            count = _sum_of_blocks(valid.astype(np.min_scalar_type(factor**2)), factor)
            mean /= np.maximum(count, 1)
        if average == "power":
            np.sqrt(mean, out=mean)  # at least 1 where a pixel is valid: it never becomes no data
        out[top : top + PIECE] = np.rint(mean, out=mean)
    return out


def _sum_of_blocks(values: NDArray[Any], factor: int) -> NDArray[Any]:
    rows: NDArray[Any] = reduce(np.add, (values[i::factor] for i in range(factor)))
    return reduce(np.add, (rows[:, j::factor] for j in range(factor)))


def downsample(
    scene: files.Paths,
    out: str | Path,
    *,
    factor: int = 2,
    average: Average = "power",
    quantity: radiometry.Quantity | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> Path | list[Path]:
    """Average scenes over blocks of pixels; georeference and tags are kept (paper section 2.1).

    The upper-left corner stays. What is invalid, by the file or by the mask that the product comes
    with, becomes DN 0, the declared nodata. The tags ``QUANTITY``, ``CALIBRATION_DB`` and
    ``POLARISATION`` tell the next step what the pixels are. What is up to date is left alone.

    Args:
        scene: Scenes of amplitude DN (uint16): files, URLs, folders, or archives of JAXA's mosaics.
        out: A folder, whose files are named as the scenes are, or for a single scene a .tif file.
        factor: Pixels per block and axis.
        average: Of power (unbiased) or of amplitude (for comparison).
        quantity: What the pixels hold; default what their tags or JAXA's file names say.
        workers: How many scenes at a time, each in a process of its own.
        scheduler: The address of a dask scheduler whose workers take the scenes.
        progress: Show a bar.

    Returns:
        The file written for a scene, or a list of them if a folder or several were given.

    Raises:
        InputError: A scene cannot be read or calibrated, or ``factor`` is below 1.
    """
    _check(factor, average)
    work = partial(_downsample, how=dict(factor=factor, average=average, quantity=quantity))
    return files.products(
        work, scene, out, name="downsample", workers=workers, scheduler=scheduler, progress=progress
    )


def _check(factor: int, average: str) -> None:
    if factor < 1 or factor % 1:
        raise InputError(f"factor {factor}: must be a whole number from 1")
    check_words(average=(average, Average))


def _downsample(scene: str, *, out: Path, how: Mapping[str, Any], progress: bool) -> Path:
    mask, factor = rasters.mask_of(scene), how["factor"]
    with rasters.opened(scene) as source:
        product = radiometry.product(scene, source.tags(), how["quantity"])
        with files.made(out, rasters.parts_of(scene), how) as made:
            if made is None:
                return out
            tags = source.tags() | {
                "QUANTITY": product.quantity,
                "CALIBRATION_DB": str(product.calibration_db),
                "POLARISATION": product.polarisation,
                "DOWNSAMPLED": "{factor} {average}".format(**how),
            }
            tags |= {"MASK": files.name_of(mask)} if mask else {}  # which read_dn honours
            tags.pop("AREA_OR_POINT", None)  # what we write are areas
            size = math.ceil(source.width / factor), math.ceil(source.height / factor)
            grid = rasters.Grid(source.crs, source.transform * Affine.scale(factor), *size)
            # Three windows are under way at a time: one is read, one averaged, one written.
            windows = list(rasters.row_windows(source, factor * ROWS, factor * COLUMNS))
            mean = partial(block_mean, factor=factor, average=how["average"])
            with (
                rasters.create(made, grid, tags, dtype="uint16", **DEFLATE) as target,
                files.prefetch(partial(rasters.read_dn, source), windows) as read,
                files.prefetch(mean, read) as blocks,
            ):
                bar = tqdm(blocks, f"downsample {out.name}", len(windows), disable=not progress)
                for w, dn in zip(windows, bar, strict=True):
                    top, left = w.row_off // factor, w.col_off // factor
                    target.write(dn, 1, window=Window(left, top, dn.shape[1], dn.shape[0]))
    return out
