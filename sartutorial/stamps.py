"""Many small GeoTIFFs of one kind, at the price of their compression.

To open, describe and close a GeoTIFF costs GDAL about as much as to compress a patch. The patches of
a scene differ in place and pixels alone: GDAL compresses a stack of them in one go, a block each,
and writes the directory of one of them, into which each patch's place and block size are entered.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from sartutorial import __version__, files

# Decibels that come from whole DN repeat: as they are, they compress to five sixths of what a
# predictor makes of them, and level 1 to within 2 % of level 6, in half the time.
PROFILE = dict(driver="GTiff", count=1, compress="deflate", zlevel=1, num_threads=1,
               endianness="little", bigtiff="no")  # fmt: skip

# Tags of TIFF 6.0 and GeoTIFF 1.1.
STRIP_OFFSETS, STRIP_BYTE_COUNTS, TIE_POINT, MATRIX = 273, 279, 33922, 34264
FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 12: "d"}  # of a value, by its TIFF type


class Stamp:
    """A kind of patch: everything about its file but pixels and upper-left corner.

    ``transform`` is that of any patch of the kind; ``profile`` goes to rasterio.
    """

    def __init__(
        self,
        size: int,
        crs: CRS,
        transform: Affine,
        tags: Mapping[str, str],
        *,
        dtype: str,
        nodata: float,
        colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
    ) -> None:
        self.size, self.dtype = size, dtype
        self.profile = PROFILE | dict(width=size, blockysize=size, dtype=dtype, nodata=nodata,
                                      crs=crs, transform=transform)  # fmt: skip
        whole = self._encoded(np.zeros((1, size, size), dtype), tags, colormap)
        entries = _entries(whole)
        (start,), (length,) = (
            _integers(whole, entries[t]) for t in (STRIP_OFFSETS, STRIP_BYTE_COUNTS)
        )
        kind, _, self.length_at = entries[STRIP_BYTE_COUNTS]
        if start + length != len(whole) or FORMATS[kind] != "I":
            raise RuntimeError("this GDAL lays its GeoTIFFs out in a way that stamps does not know")
        self.head = whole[:start]
        self.corner_at = (
            [entries[TIE_POINT][2] + 8 * i for i in (3, 4)] if TIE_POINT in entries
            else [entries[MATRIX][2] + 8 * i for i in (3, 7)]
        )  # fmt: skip

    def write(
        self, paths: Sequence[Path], corners: Sequence[tuple[float, float]], pixels: NDArray[Any]
    ) -> None:
        """Write ``pixels`` (n, size, size) to n ``paths``, their upper-left ``corners`` (x, y) given.

        Raises OSError, naming the file, where one cannot be written whole (see files.replacing).
        """
        if not len(pixels):
            return
        stack = memoryview(self._encoded(pixels))
        entries = _entries(stack)
        places = (_integers(stack, entries[t]) for t in (STRIP_OFFSETS, STRIP_BYTE_COUNTS))
        for path, corner, start, length in zip(paths, corners, *places, strict=True):
            head = bytearray(self.head)
            struct.pack_into("<I", head, self.length_at, length)
            for at, value in zip(self.corner_at, corner, strict=True):
                struct.pack_into("<d", head, at, value)
            with files.replacing(path) as partial, open(partial, "wb") as file:
                file.writelines((head, stack[start : start + length]))

    def _encoded(
        self,
        pixels: NDArray[Any],
        tags: Mapping[str, str] | None = None,
        colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
    ) -> bytes:
        """The patches on top of each other as one GeoTIFF, a block each."""
        with MemoryFile() as memory:
            height = len(pixels) * self.size
            with memory.open(height=height, **self.profile) as dataset:
                if tags is not None:
                    dataset.update_tags(**(dict(tags) | {"SOFTWARE": f"sartutorial {__version__}"}))
                if colormap is not None:
                    dataset.write_colormap(1, colormap)
                dataset.write(pixels.reshape(1, height, self.size))
            return bytes(memory.getbuffer())


def _entries(tiff: bytes | memoryview) -> dict[int, tuple[int, int, int]]:
    """Of each tag in the first directory of a little-endian TIFF: type, count, where its values lie."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (number,) = struct.unpack_from("<H", tiff, start)
    found = {}
    for at in range(start + 2, start + 2 + 12 * number, 12):
        tag, kind, count, value = struct.unpack_from("<HHII", tiff, at)
        short = count * struct.calcsize("<" + FORMATS[kind]) <= 4
        found[tag] = (kind, count, at + 8 if short else value)
    return found


def _integers(tiff: bytes | memoryview, entry: tuple[int, int, int]) -> tuple[int, ...]:
    kind, count, at = entry
    return struct.unpack_from(f"<{count}{FORMATS[kind]}", tiff, at)
