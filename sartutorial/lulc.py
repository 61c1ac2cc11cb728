"""Land cover: the HR-LULC classes, the nine that the paper trains on, colours and tile names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sartutorial import InputError

VOID = 0  # HR-LULC id of "no label", and the nodata value of label rasters and maps
VOID_IDS = (0, 255)
IGNORE_INDEX = -1
TILE_PIXELS = 12000  # per degree, JAXA HR-LULC v23.12


class LandCover(NamedTuple):
    """One HR-LULC class: its id, name, RGB colour and place among the nine training classes."""

    id: int
    name: str
    rgb: tuple[int, int, int]
    nine: int  # index among the nine training classes, -1 if none


# Ids, names and the colours of 1..12 are JAXA's (v21 palette). The colours of 13..15 are ours:
# JAXA's are not known to us. The merging into nine is the paper's (five forests, paddy and
# cropland); the order of the nine follows from the authors' nine class weights (our reading).
# Leaving 15, which v23.12 lacks, unlabelled is our choice.
CLASSES = (
    LandCover(1, "water bodies", (0, 0, 100), 0),
    LandCover(2, "built-up", (255, 0, 0), 1),
    LandCover(3, "paddy field", (0, 128, 255), 2),
    LandCover(4, "cropland", (255, 193, 191), 2),
    LandCover(5, "grassland", (255, 255, 0), 3),
    LandCover(6, "deciduous broad-leaved forest", (128, 255, 0), 4),
    LandCover(7, "deciduous needle-leaved forest", (0, 255, 128), 4),
    LandCover(8, "evergreen broad-leaved forest", (86, 172, 0), 4),
    LandCover(9, "evergreen needle-leaved forest", (0, 172, 86), 4),
    LandCover(10, "bare", (128, 100, 0), 5),
    LandCover(11, "bamboo forest", (217, 240, 5), 4),
    LandCover(12, "solar panel", (161, 41, 119), 6),
    LandCover(13, "wetland", (120, 200, 200), 7),
    LandCover(14, "greenhouse", (190, 190, 190), 8),
    LandCover(15, "rock reef / tidal flat", (90, 90, 130), IGNORE_INDEX),
)
NAMES = ("water", "built-up", "cropland", "grassland", "forest", "bare", "solar panel", "wetland",
         "greenhouse")  # fmt: skip
NINE = {c.id: c.nine for c in CLASSES}  # the merging; ``to_index`` takes another one as well
FOREST_IDS = tuple(c.id for c in CLASSES if c.nine == NAMES.index("forest"))
# The nine colours: those of the class itself, or of the named member of a merged class (ours).
RGB = tuple(next(c.rgb for c in CLASSES if c.id == i) for i in (1, 2, 4, 5, 8, 10, 12, 13, 14))


def to_index(ids: NDArray[np.uint8], mapping: Mapping[int, int] = NINE) -> NDArray[np.int64]:
    """HR-LULC ids (uint8, any shape) to class indices (int64, same shape), 0..8 by default.

    ``mapping`` says which id becomes which index; ids that it leaves out, void among them, become -1.
    Raises InputError naming the values if there are ids that HR-LULC does not have.
    """
    check_ids(ids)
    table = np.full(256, IGNORE_INDEX, dtype=np.int64)
    for id_, index in mapping.items():
        table[id_] = index
    return table[ids]


def merged(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of the HR-LULC ids, void first (..., 16), as counts of the nine classes (..., 9)."""
    table = np.zeros((16, len(NAMES)), dtype=np.int64)
    for c in CLASSES:
        if c.nine != IGNORE_INDEX:
            table[c.id, c.nine] = 1
    nine: NDArray[np.int64] = counts @ table
    return nine


def check_ids(ids: NDArray[np.uint8], source: str = "labels") -> None:
    """Raise InputError, naming ``source``, if ``ids`` holds a value that is no HR-LULC id."""
    if ids.dtype != np.uint8:
        raise InputError(f"{source}: HR-LULC ids are uint8, got {ids.dtype}")
    counts = np.bincount(ids.ravel(), minlength=256)
    unknown = [int(i) for i in np.flatnonzero(counts) if 15 < i < 255]
    if unknown:
        raise InputError(f"{source}: unknown class ids {unknown}; HR-LULC has 0 to 15 and 255")


def colormap(training: bool = False) -> dict[int, tuple[int, int, int, int]]:
    """A GeoTIFF colour table: HR-LULC ids, or ``index + 1`` of the nine if ``training``."""
    colours = {i + 1: rgb for i, rgb in enumerate(RGB)} if training else {
        c.id: c.rgb for c in CLASSES
    }  # fmt: skip
    return {VOID: (0, 0, 0, 0)} | {i: (*rgb, 255) for i, rgb in colours.items()}


def tile_name(lon: float, lat: float) -> str:
    """The HR-LULC tile that holds a point in degrees, named by its south-west corner."""
    south, west = math.floor(lat), math.floor(lon)
    return f"LC_{'N' if south >= 0 else 'S'}{abs(south):02d}{'E' if west >= 0 else 'W'}{abs(west):03d}.tif"


def tile_names(west: float, south: float, east: float, north: float) -> list[str]:
    """The HR-LULC tiles that a box in degrees touches, from the south-west on."""
    return [
        tile_name(lon, lat)
        for lat in range(math.floor(south), math.ceil(north))
        for lon in range(math.floor(west), math.ceil(east))
    ]
