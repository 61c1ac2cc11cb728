"""Exchange patches with the authors' code: their table of locations and their folders, both ways.

From their public code: the columns, and that a patch lies at ``root/year/month/day/FileName``, with
one root for the SAR patches and one for the labels. Ours: months and days without leading zeros, so
that a reader of text and one of numbers build the same path; FolderPath is the folder below the
root; Latitude and Longitude are the patch's centre; Category is its most frequent HR-LULC id.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sartutorial import InputError, files, lulc, patches, radiometry, rasters
from sartutorial.stamps import Stamp

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from rasterio.io import DatasetReader

TABLE = "locations.csv"
COLUMNS = ["Year", "Month", "Day", "FolderPath", "FileName", "MinLon", "MinLat", "MaxLon", "MaxLat",
           "Latitude", "Longitude", "Category"]  # fmt: skip
DATE = re.compile(r"-(\d{6})-")
NAME = re.compile(r"([^/\\]+)_(\d+)_(\d+)\.tif")  # of a file: it must not lead elsewhere
AGREE = 0.1  # of a patch side: how far a footprint may lie from the table's box


def export(folder: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Lay the patches of ``folder`` out as the authors do, and return the table's path.

    Writes ``out/sar`` and ``out/label``, each with ``year/month/day/FileName``, and
    ``out/locations.csv``, one row a patch in the order of the index. The date is that of the scene's
    name. Files that are there already, as old as ours and as large, are left alone.
    Raises InputError if there is no index, a scene's name holds no date or a patch is missing.
    """
    import pandas as pd

    folder, out = Path(folder), Path(out)
    index = patches.read_index(folder)
    dates = [_date(scene) for scene in index["scene"]]
    places = [f"{d.year}/{d.month}/{d.day}" for d in dates]
    names = list(zip(places, index["patch"], strict=True))
    for place, name in tqdm(names, "export", unit="patch", disable=not progress):
        for kind in ("sar", "label"):
            _copy(folder / kind / name, out / kind / place / name)
    box = index.geometry.bounds.to_numpy().T
    columns = [
        [d.year for d in dates], [d.month for d in dates], [d.day for d in dates], places,
        index["patch"], *box, (box[1] + box[3]) / 2, (box[0] + box[2]) / 2, _category(index),
    ]  # fmt: skip
    table = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    text = table.to_csv(index=False, lineterminator="\n")
    if not (out / TABLE).exists() or (out / TABLE).read_text(encoding="utf-8") != text:
        with files.replacing(out / TABLE) as partial:
            partial.write_text(text, encoding="utf-8")
    return out / TABLE


def _date(scene: str) -> datetime:
    """The day in a scene's name (YYMMDD, JAXA's grammar)."""
    match = DATE.search(scene)
    try:
        return datetime.strptime(match[1] if match else "", "%y%m%d")
    except ValueError as error:
        raise InputError(
            f"{scene}: its name holds no date between dashes (YYMMDD); the authors' folders need one"
        ) from error


def _category(index: gpd.GeoDataFrame) -> list[int]:
    """The most frequent HR-LULC id of each patch, the smallest of several; void where none is labelled."""
    labelled = index[patches.COUNTS[1:]].to_numpy()  # n_0 is void
    category: list[int] = np.where(labelled.any(axis=1), labelled.argmax(axis=1) + 1, 0).tolist()
    return category


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its time, unless that is done."""
    if not source.exists():
        raise InputError(f"{source}: no such patch; run 'sartutorial patches' again")
    if target.exists():
        old, new = target.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    with files.replacing(target) as partial:
        shutil.copy2(source, partial)


def load(
    table: str | Path,
    sar: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    progress: bool = False,
) -> Path:
    """Bring patches that are laid out as the authors do into ``out``, and return the new index.

    ``sar`` and ``labels`` are the roots below which ``table`` finds ``year/month/day/FileName``. SAR
    patches hold float32 dB, label patches HR-LULC ids (uint8) under the same name: that a label has
    its patch's name is ours. The index gets everything that ``patches.cut`` writes, from the files
    themselves, and ``category``, the table's Category, which nothing of ours reads. Without
    ``labels`` every pixel is void, and ``sample`` will choose none of the patches; with them, each
    patch must have its label file, since a missing one is more often a wrong path than a decision.

    Raises InputError, naming file or row, if the table cannot be read or lacks columns, a file is
    missing, badly named, not square, without georeference, of another type or size than the rest,
    holds no-data (NaN, infinite or as it declares) or unknown ids, or lies elsewhere than the table
    says.
    """
    import geopandas as gpd
    import pandas as pd

    out, roots = Path(out), {"sar": Path(sar)}
    if labels is not None:
        roots["label"] = Path(labels)
    rows: list[dict[str, Any]] = []
    listed = _table(Path(table)).to_dict("records")
    for row in tqdm(listed, "import", unit="patch", disable=not progress):
        files = {kind: _find(root, row) for kind, root in roots.items()}
        rows.append(_described(row, files))
        if rows[-1]["size"] != rows[0]["size"]:
            raise InputError(
                f"{files['sar']}: {rows[-1]['size']} px, but {rows[0]['patch']} has "
                f"{rows[0]['size']}; import one size at a time"
            )
        for kind, file in files.items():
            _copy(file, out / kind / row["FileName"])
        if labels is None:
            _blank(files["sar"], out / "label" / row["FileName"])
    index = gpd.GeoDataFrame(pd.DataFrame(rows), geometry="geometry", crs=patches.WGS84)
    path = out / patches.INDEX
    if not path.exists() or not _same(patches.read_index(out), index):
        patches.write_index(index, out)
    return path


def _same(old: gpd.GeoDataFrame, new: gpd.GeoDataFrame) -> bool:
    """Whether an index says the same, whatever `sample` has added to it."""
    return set(new) <= set(old) and bool(old[list(new)].equals(new))


def _table(path: Path) -> pd.DataFrame:
    """The table, its texts as texts and its numbers as numbers."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:5], str))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such table") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable CSV table ({error})") from error
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}")
    if table.empty:
        raise InputError(f"{path}: lists no patch")
    numbers = table[COLUMNS[5:]].apply(pd.to_numeric, errors="coerce")
    table[COLUMNS[5:]] = numbers
    bad = table[COLUMNS].isna().any(axis=1) | ~np.isfinite(numbers).all(axis=1)
    if bad.any():
        line = int(bad.to_numpy().argmax()) + 2
        raise InputError(f"{path}: line {line} has an empty field or text where a number belongs")
    for name in table["FileName"]:
        if not NAME.fullmatch(name):
            raise InputError(f"{path}: {name}: not named <scene>_<offset>_<offset>.tif")
    twice = table["FileName"][table["FileName"].duplicated()]
    if not twice.empty:
        raise InputError(
            f"{path}: lists {twice.iloc[0]} more than once; a patch is known by its name"
        )
    return table


def _find(root: Path, row: Mapping[Any, Any]) -> Path:
    """Where a patch lies: its day written as in the table, without zeros or with two digits."""
    texts = [row["Year"], row["Month"], row["Day"]]
    ways = [texts]
    if all(t.isdigit() for t in texts):
        day = [int(t) for t in texts]
        ways += [[str(n) for n in day], [f"{n:02d}" for n in day]]
    found = [root.joinpath(*way, row["FileName"]) for way in ways]
    for file in found:
        if file.is_file():
            return file
    raise InputError(f"{found[0]}: no such file, but the table lists it; check the root folder")


def _described(row: Mapping[Any, Any], files: dict[str, Path]) -> dict[str, Any]:
    """A row of our index, from a row of the table and the patch's own files."""
    import geopandas as gpd
    from shapely.geometry import Polygon

    name = row["FileName"]
    scene, *offsets = NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    with rasters.opened(files["sar"], dtype="float32") as patch:
        size = _square(patch)
        if not (np.isfinite(rasters.read(patch)).all() and patch.read_masks(1).all()):
            raise InputError(f"{files['sar']}: holds no-data; only whole patches can be used")
        grid, spacing = rasters.grid_of(patch), rasters.spacing(patch)
        tags = patch.tags()
    corners = [grid.transform * at for at in ((0, 0), (0, size), (size, size), (size, 0))]
    ground = gpd.GeoSeries([Polygon(corners)], crs=grid.crs).to_crs(patches.WGS84)
    box = [row[c] for c in ("MinLon", "MinLat", "MaxLon", "MaxLat")]
    west, south, east, north = ground.total_bounds
    if np.abs(np.subtract(ground.total_bounds, box)).max() > AGREE * min(
        east - west, north - south
    ):
        raise InputError(
            f"{files['sar']}: lies elsewhere than the table says; is it another patch?"
        )
    counts = np.zeros(256, dtype=np.int64)
    counts[lulc.VOID] = size**2
    if "label" in files:
        with rasters.opened(files["label"], dtype="uint8") as label:
            ids = rasters.read(label)
            if rasters.grid_of(label) != grid:
                raise InputError(f"{files['label']}: not on the grid of its SAR patch")
        lulc.check_ids(ids, str(files["label"]))
        counts = np.bincount(ids.ravel(), minlength=256)
        counts[lulc.VOID] += counts[255]
    about = [name, scene, *map(int, offsets), size, spacing,
             radiometry.quantity(scene, tags), 1.0, *counts[:16].tolist()]  # fmt: skip
    return dict(zip(patches.COLUMNS, about, strict=True)) | {
        "category": int(row["Category"]), "geometry": ground.iloc[0]
    }  # fmt: skip


def _square(patch: DatasetReader) -> int:
    if patch.width != patch.height:
        raise InputError(f"{patch.name}: {patch.width} x {patch.height} px; patches are square")
    return int(patch.width)


def _blank(sar: Path, target: Path) -> None:
    """A label patch for ``sar`` on which every pixel is void, unless that is done."""
    with rasters.opened(sar, dtype="float32") as patch:
        grid = rasters.grid_of(patch)
    tags = {"SCENE": NAME.fullmatch(sar.name)[1]}  # type: ignore[index]
    if rasters.is_current(target, [sar], tags, grid):
        with rasters.opened(target, dtype="uint8") as label:
            if not rasters.read(label).any():  # else of an import with labels
                return
    stamp = Stamp(grid.width, grid.crs, grid.transform, tags, dtype="uint8", nodata=lulc.VOID,
                  colormap=lulc.colormap())  # fmt: skip
    corner = (grid.transform.c, grid.transform.f)
    stamp.write([target], [corner], np.zeros((1, grid.height, grid.width), np.uint8))
