"""Land cover: which ids a raster holds, what they are called and which class of training each becomes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartutorial import InputError

IGNORE_INDEX = -1
UNKNOWN = -2  # the index of an id that a legend does not have
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class LandCover:
    """One class of a land-cover raster: its id, name, colour and index in training."""

    id: int
    name: str
    rgb: RGB
    index: int  # -1: no class of training


@dataclass(frozen=True)
class Legend:
    """The classes of land-cover rasters, and those of training that they become.

    >>> HR_LULC.to_index(np.array([0, 1, 3, 4], np.uint8))
    array([-1,  0,  2,  2])
    """

    name: str
    classes: tuple[LandCover, ...]
    names: tuple[str, ...]  # of the training classes, by index
    colours: tuple[RGB, ...]

    def __post_init__(self) -> None:
        indices = {c.index for c in self.classes} - {IGNORE_INDEX}
        if twice := [i for i in self.ids if self.ids.count(i) > 1]:
            raise InputError(f"{self.name}: id {twice[0]} stands twice; each class has its own")
        if not set(self.ids) < set(range(256)):
            raise InputError(f"{self.name}: ids must lie in 0..255 and leave one for no label")
        if not self.names:
            raise InputError(f"{self.name}: holds no class of training (index 0 and up)")
        if indices != set(range(len(self.names))):
            raise InputError(f"{self.name}: indices must be 0, 1, 2, ... without a gap, or -1")

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The ids of the classes."""
        return tuple(c.id for c in self.classes)

    @cached_property
    def void(self) -> int:
        """What label rasters hold where there is no label: 0, or the highest free id if 0 is a class."""
        return 0 if 0 not in self.ids else max(set(range(256)) - set(self.ids))

    @cached_property
    def void_ids(self) -> tuple[int, ...]:
        """The values that are read as no label: 0 and 255 where they are no class, and ``void``."""
        return tuple(sorted({0, 255, self.void} - set(self.ids)))

    @cached_property
    def forest(self) -> tuple[int, ...]:
        """The ids that train as "forest" or "tree cover": a patch of these alone teaches little."""
        forest = [i for i, n in enumerate(self.names) if n.lower() in ("forest", "tree cover")]
        return tuple(c.id for c in self.classes if c.index in forest)

    @cached_property
    def for_maps(self) -> Legend:
        """The legend of a map: its ids are index + 1 of the training classes."""
        named = enumerate(zip(self.names, self.colours, strict=True))
        classes = tuple(LandCover(i + 1, name, rgb, i) for i, (name, rgb) in named)
        return replace(self, classes=classes)

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        table = np.full(256, UNKNOWN, np.int64)
        table[list(self.void_ids)] = IGNORE_INDEX
        table[list(self.ids)] = [c.index for c in self.classes]
        return table

    def to_index(self, ids: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Turn ids (uint8) into training indices (int64), -1 for none; unknown ids: InputError."""
        self.check(ids)
        return self._table[ids]

    def check(self, ids: NDArray[np.uint8], source: str = "labels") -> None:
        """Raise InputError, naming ``source``, if ``ids`` (uint8, any shape) holds unknown ones."""
        if ids.dtype != np.uint8:
            raise InputError(f"{source}: ids of land cover are uint8, got {ids.dtype}")
        unknown = self._table == UNKNOWN
        # Whether any could be unknown is quicker to tell than to look up every pixel.
        if unknown[: int(ids.max(initial=0)) + 1].any() and unknown[ids].any():
            found, known = np.unique(ids[unknown[ids]]).tolist(), ", ".join(map(str, self.ids))
            fault = f"unknown class ids {found}; {self.name} has {known}; name another legend"
            raise InputError(f"{source}: {fault}, or a table of your own")

    def merged(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts by id (..., 256) as counts of the training classes (..., K)."""
        found: NDArray[np.int64] = counts @ (self._table[:, None] == np.arange(len(self.names)))
        return found

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """A GeoTIFF colour table of the ids."""
        return {self.void: (0, 0, 0, 0)} | {c.id: (*c.rgb, 255) for c in self.classes}

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], source: str = "legend") -> Legend:
        """The legend that ``to_dict`` wrote; what is none is refused, naming ``source``."""
        try:
            classes = (LandCover(**(c | dict(rgb=tuple(c["rgb"])))) for c in said["classes"])
            colours = ((red, green, blue) for red, green, blue in said["colours"])
            return cls(said["name"], tuple(classes), tuple(said["names"]), tuple(colours))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source}: not what Legend.to_dict writes ({error!r})") from error


# The columns are those of a table of one's own: of the classes that train as one, the first gives it
# its colour. Ids, names and the colours of 1..12 are JAXA's (v21 palette). The colours of 13..15 are
# ours: JAXA's are not known to us. The merging into nine is the paper's (five forests, paddy and
# cropland); the order of the nine follows from the authors' nine class weights (our reading). Leaving
# 15, which v23.12 lacks, unlabelled is our choice; so are the colours of merged classes.
_HR_LULC = """id,name,colour,index,training
1,water bodies,#000064,0,water
2,built-up,#ff0000,1,
4,cropland,#ffc1bf,2,
3,paddy field,#0080ff,2,cropland
5,grassland,#ffff00,3,
8,evergreen broad-leaved forest,#56ac00,4,forest
6,deciduous broad-leaved forest,#80ff00,4,forest
7,deciduous needle-leaved forest,#00ff80,4,forest
9,evergreen needle-leaved forest,#00ac56,4,forest
11,bamboo forest,#d9f005,4,forest
10,bare,#806400,5,
12,solar panel,#a12977,6,
13,wetland,#78c8c8,7,
14,greenhouse,#bebebe,8,
15,rock reef / tidal flat,#5a5a82,-1,
"""
# Names and colours are ESA's (WorldCover product user manual, v200); each class trains as its own.
_WORLDCOVER = """id,name,colour,index
10,tree cover,#006400,0
20,shrubland,#ffbb22,1
30,grassland,#ffff4c,2
40,cropland,#f096ff,3
50,built-up,#fa0000,4
60,bare / sparse vegetation,#b4b4b4,5
70,snow and ice,#f0f0f0,6
80,permanent water bodies,#0064c8,7
90,herbaceous wetland,#0096a0,8
95,mangroves,#00cf75,9
100,moss and lichen,#fae6a0,10
"""


def _rows(text: str) -> list[Any]:
    lines = text.splitlines() or [""]
    mark = max(",;\t", key=lines[0].count)  # Excel's semicolons, its "Unicode text"
    return list(csv.DictReader(lines, delimiter=mark))


def _of_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> Legend:
    classes, names, colours = [], dict[int, str](), dict[int, RGB]()
    for said in rows:
        try:
            row = {str(k).strip().lower(): str(v).strip() for k, v in said.items() if v is not None}
            red, green, blue = bytes.fromhex(row.get("colour", row.get("color", "")).lstrip("#"))
            one = LandCover(int(row["id"]), row["name"], (red, green, blue), int(row["index"]))
        except (AttributeError, KeyError, ValueError) as error:
            fault = f"the row {said} must hold id, name, colour (#rrggbb) and index ({error})"
            raise InputError(f"{name}: {fault}") from error
        classes.append(one)
        colours.setdefault(one.index, one.rgb)
        called = row.get("training")
        first = names.setdefault(one.index, called or one.name)
        if called and called != first and one.index != IGNORE_INDEX:
            fault = f"{first} and, in the row of id {one.id}, {called}; give it one in 'training'"
            raise InputError(f"{name}: training class {one.index} is called {fault}")
    classes.sort(key=lambda c: c.id)
    order = sorted(names.keys() - {IGNORE_INDEX})
    merged = tuple(names[i] for i in order), tuple(colours[i] for i in order)
    return Legend(name, tuple(classes), *merged)


HR_LULC = _of_rows("hr-lulc", _rows(_HR_LULC))
WORLDCOVER = _of_rows("worldcover", _rows(_WORLDCOVER))


def legend(of: str | Path | Legend) -> Legend:
    """Find a legend by its name (hr-lulc, worldcover) or in a table of your own.

    That is CSV with the columns id, name, colour (#rrggbb), index (of the training class from 0, -1
    for none) and, for merged classes, training (their common name); or JSON, such rows or a legend.

    Raises:
        InputError: There is no such legend, or the table does not say what it must.
    """
    if isinstance(of, Legend):
        return of
    if known := {"hr-lulc": HR_LULC, "worldcover": WORLDCOVER}.get(str(of).lower()):
        return known
    path = Path(of)
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        said = json.loads(text) if path.suffix.lower() == ".json" else _rows(text)
    except FileNotFoundError as error:
        raise InputError(
            f"{of}: no such legend; use hr-lulc, worldcover or a table's path"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({error}); save it as UTF-8") from error
    if isinstance(said, Mapping):
        return Legend.from_dict(said, path.name)
    return _of_rows(path.stem, said)


def tile_name(lon: float, lat: float) -> str:
    """The HR-LULC tile that holds a point in degrees, named by its south-west corner."""
    south, west = math.floor(lat), math.floor(lon)
    return f"LC_{'N' if south >= 0 else 'S'}{abs(south):02d}{'E' if west >= 0 else 'W'}{abs(west):03d}.tif"
