"""Halve the scene (paper section 2.1): block means of power, georeferencing and tags kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, radiometry, rasters

Average = Literal["power", "amplitude"]


def block_mean(
    dn: NDArray[np.uint16], factor: int = 2, *, nodata: float = 0, average: Average = "power"
) -> NDArray[np.uint16]:
    """Amplitude DN averaged over blocks of ``factor`` x ``factor`` pixels.

    ``dn`` is uint16 of shape (H, W); the result is uint16 of shape (ceil(H/f), ceil(W/f)).
    A block is the mean of its valid pixels, and no data only where none is valid (GDAL's rule).
    ``average="power"`` gives the DN whose power is the mean power, sqrt(<DN^2>): backscatter is
    power, so this one is unbiased. The paper says "average resampling" without saying of what.
    """
    height, width = dn.shape
    dn = np.pad(dn, ((0, -height % factor), (0, -width % factor)), constant_values=int(nodata))
    valid = dn != nodata
    values = np.where(valid, dn, 0).astype(np.float32)
    if average == "power":
        values *= values
    cells = [(slice(i, None, factor), slice(j, None, factor))
             for i in range(factor) for j in range(factor)]  # fmt: skip
    count = sum(valid[cell].astype(np.uint16) for cell in cells)
    mean = sum(values[cell] for cell in cells) / np.maximum(count, 1)
    if average == "power":
        mean = np.sqrt(mean)
    out = np.clip(np.rint(mean), 0, radiometry.MAX_DN).astype(np.uint16)
    out[out == nodata] += 1  # a valid pixel must not round to no data
    return np.where(count == 0, np.uint16(nodata), out)


def downsample(
    scene: str | Path,
    out: str | Path,
    *,
    factor: int = 2,
    average: Average = "power",
    progress: bool = False,
) -> Path:
    """Write ``scene`` (uint16 DN) averaged over ``factor`` x ``factor`` pixels to ``out``.

    CRS, upper-left corner, tags and declared nodata are kept; the pixel grows by ``factor``. Memory
    does not grow with the scene. A file that is already current is left alone.
    Raises InputError for a scene that cannot be read or calibrated, or a factor below 1.
    """
    if factor < 1:
        raise InputError(f"--factor {factor}: must be 1 or more")
    with rasters.opened(scene) as source:
        nodata = rasters.nodata_of(source)
        tags = source.tags() | {
            "QUANTITY": radiometry.quantity(str(scene), source.tags()),
            "DOWNSAMPLED": f"{factor} {average}",
        }
        tags.pop("AREA_OR_POINT", None)
        if rasters.is_current(out, [scene], tags):
            return Path(out)
        grid = rasters.Grid(
            source.crs,
            source.transform * Affine.scale(factor),
            math.ceil(source.width / factor),
            math.ceil(source.height / factor),
        )
        profile = dict(dtype="uint16", nodata=nodata, predictor=2)
        with rasters.created(out, grid, tags, **profile) as target:
            windows = list(rasters.strips(source, factor * rasters.STRIP_ROWS))
            for w in tqdm(windows, desc=f"downsample {Path(scene).name}", disable=not progress):
                dn = rasters.read(source, w)
                block = block_mean(dn, factor, nodata=nodata, average=average)
                top = int(w.row_off) // factor
                target.write(block, 1, window=Window(0, top, block.shape[1], block.shape[0]))
    return Path(out)
