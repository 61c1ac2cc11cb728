"""Land cover: which ids a raster holds, what they are called and which class of training each becomes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartutorial import InputError

IGNORE_INDEX = -1
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
        ids = [c.id for c in self.classes]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise InputError(f"{self.name}: id {twice[0]} stands twice; each class has its own")
        if not ids or not all(0 <= i <= 255 for i in ids) or len(ids) > 255:
            raise InputError(f"{self.name}: ids must lie in 0..255 and leave one for no label")
        if {c.index for c in self.classes} - {IGNORE_INDEX} != set(range(len(self.names))):
            raise InputError(
                f"{self.name}: training indices must be 0, 1, 2, ... without a gap, or -1 for none"
            )

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
        classes = zip(self.names, self.colours, strict=True)
        return Legend(
            self.name,
            tuple(LandCover(i + 1, name, rgb, i) for i, (name, rgb) in enumerate(classes)),
            self.names,
            self.colours,
        )

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        table = np.full(256, IGNORE_INDEX, np.int64)
        table[list(self.ids)] = [c.index for c in self.classes]
        return table

    @cached_property
    def _unknown(self) -> NDArray[np.bool_]:
        unknown = np.ones(256, bool)
        unknown[[*self.ids, *self.void_ids]] = False
        return unknown

    def to_index(self, ids: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Turn ids (uint8, any shape) into training indices (int64, same shape), -1 for none.

        Raises InputError naming the values if there are ids that the legend does not have.
        """
        self.check(ids)
        return self._table[ids]

    def check(self, ids: NDArray[np.uint8], source: str = "labels") -> None:
        """Raise InputError, naming ``source``, if ``ids`` (uint8, any shape) holds unknown ones."""
        if ids.dtype != np.uint8:
            raise InputError(f"{source}: ids of land cover are uint8, got {ids.dtype}")
        if self._unknown[ids].any():
            unknown = [int(i) for i in np.unique(ids) if self._unknown[i]]
            raise InputError(
                f"{source}: unknown class ids {unknown}; {self.name} has "
                f"{', '.join(map(str, self.ids))}; name another legend, or a table of your own"
            )

    def merged(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts by id (..., 256) as counts of the training classes (..., K)."""
        table = self._table[:, None] == np.arange(len(self.names))
        found: NDArray[np.int64] = counts @ table.astype(np.int64)
        return found

    def colormap(self, training: bool = False) -> dict[int, tuple[int, int, int, int]]:
        """A GeoTIFF colour table: of the ids, or of index + 1 if ``training``."""
        legend = self.for_maps if training else self
        return {legend.void: (0, 0, 0, 0)} | {c.id: (*c.rgb, 255) for c in legend.classes}

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return dict(
            name=self.name,
            classes=[asdict(c) | dict(rgb=list(c.rgb)) for c in self.classes],
            names=list(self.names),
            colours=[list(c) for c in self.colours],
        )

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Legend:
        """The legend that ``to_dict`` wrote."""
        try:
            return cls(
                said["name"],
                tuple(LandCover(**(c | dict(rgb=tuple(c["rgb"])))) for c in said["classes"]),
                tuple(said["names"]),
                tuple((r, g, b) for r, g, b in said["colours"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a legend that was written by Legend.to_dict ({error})"
            ) from error


def _of_rows(name: str, rows: Iterable[tuple[int, str, RGB, int, str]]) -> Legend:
    """A legend of rows: id, name, colour, index, and what the training class is called.

    A training class has the colour of the class of its name, else of its first.
    """
    rows = list(rows)
    names: dict[int, str] = {}
    for id_, _, _, index, training in rows:
        if index != IGNORE_INDEX and names.setdefault(index, training) != training:
            raise InputError(
                f"{name}: training class {index} is called {names[index]} and, in the row of id "
                f"{id_}, {training}; give its classes one name in the column 'training'"
            )
    colours = {}
    for _, class_name, rgb, index, training in rows:
        if index not in colours or class_name == training:
            colours[index] = rgb
    order = sorted(names)
    classes = tuple(LandCover(id_, n, rgb, index) for id_, n, rgb, index, _ in rows)
    return Legend(name, classes, tuple(names[i] for i in order), tuple(colours[i] for i in order))


# Ids, names and the colours of 1..12 are JAXA's (v21 palette). The colours of 13..15 are ours:
# JAXA's are not known to us. The merging into nine is the paper's (five forests, paddy and
# cropland); the order of the nine follows from the authors' nine class weights (our reading).
# Leaving 15, which v23.12 lacks, unlabelled is our choice; so are the colours of merged classes.
HR_LULC = Legend(
    "hr-lulc",
    (
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
    ),
    ("water", "built-up", "cropland", "grassland", "forest", "bare", "solar panel", "wetland",
     "greenhouse"),
    ((0, 0, 100), (255, 0, 0), (255, 193, 191), (255, 255, 0), (86, 172, 0), (128, 100, 0),
     (161, 41, 119), (120, 200, 200), (190, 190, 190)),
)  # fmt: skip

# ESA's names and colours (WorldCover product user manual, v200); each class trains as its own.
_WORLDCOVER = (
    (10, "tree cover", (0, 100, 0)),
    (20, "shrubland", (255, 187, 34)),
    (30, "grassland", (255, 255, 76)),
    (40, "cropland", (240, 150, 255)),
    (50, "built-up", (250, 0, 0)),
    (60, "bare / sparse vegetation", (180, 180, 180)),
    (70, "snow and ice", (240, 240, 240)),
    (80, "permanent water bodies", (0, 100, 200)),
    (90, "herbaceous wetland", (0, 150, 160)),
    (95, "mangroves", (0, 207, 117)),
    (100, "moss and lichen", (250, 230, 160)),
)
WORLDCOVER = _of_rows("worldcover", ((*c, i, c[1]) for i, c in enumerate(_WORLDCOVER)))
LEGENDS = {legend.name: legend for legend in (HR_LULC, WORLDCOVER)}


def legend(of: str | Path | Legend) -> Legend:
    """Find a legend.

    Args:
        of: A name (hr-lulc, worldcover), a legend, or a table of your own: a CSV file with the
            columns id, name, colour (#rrggbb), index (of the training class from 0, -1 for none)
            and, where classes are merged, training (what they are called together); or JSON, a
            list of such rows or what ``Legend.to_dict`` gave.

    Raises:
        InputError: There is no such legend, or the table does not say what it must.
    """
    if isinstance(of, Legend):
        return of
    if str(of) in LEGENDS:
        return LEGENDS[str(of)]
    path = Path(of)
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(
            f"{of}: no such legend; use {', '.join(LEGENDS)} or a table (id, name, colour, index)"
        )
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if path.suffix.lower() == ".json":
            rows = json.loads(text)
        else:
            lines = text.splitlines()
            mark = max(",;\t", key=lines[0].count) if lines else ","
            rows = list(csv.DictReader(lines, delimiter=mark))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such legend; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table ({error}); save it as UTF-8") from error
    if isinstance(rows, Mapping):
        return Legend.from_dict(rows)
    return _of_rows(path.stem, [_row(path, r) for r in rows])


def _row(path: Path, said: Any) -> tuple[int, str, RGB, int, str]:
    try:
        row = {str(k).strip().lower(): str(v or "").strip() if isinstance(v, str) else v
               for k, v in said.items()}  # fmt: skip
        colour = str(row.get("colour", row.get("color")))
        red, green, blue = bytes.fromhex(colour.removeprefix("#"))
        name = row["name"]
        return (
            int(row["id"]),
            name,
            (red, green, blue),
            int(row["index"]),
            row.get("training") or name,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the row {said} does not hold id, name, colour (#rrggbb) and index ({error})"
        ) from error


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
