"""Cutting a scene of 12000 x 12000 pixels and its labels into patches of 256 pixels.

The peer is the loop that everyone writes first: open scene and label raster, read both in every
window, skip no-data, convert to dB, write two GeoTIFFs with rasterio (deflate, level 1). Both sides
read the same tiled deflate blocks and may use two threads; each runs in a process of its own, in
turns. The floor decodes scene and labels once, in two threads. Four sizes show the peak memory.
``formats`` is what decided how patches are kept: DN (uint16) or dB (float32), 128 px each.

    make bench NAME=patches
"""

import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from _rasters import save
from affine import Affine
from rasterio.windows import Window

from sartutorial import lulc, patches, radiometry, rasters

ROOT = Path(__file__).resolve().parents[1]
SIZES = (8_000, 16_000, 24_000, 12_000)  # the last is timed
PATCH, THREADS, RUNS = 256, 2, 3
NAME = "IMG-HH-ALOS2900013210-221008-UBSR2.1GUD.tif"


def make(folder: Path) -> None:
    """A speckled scene with a slanted swath, and labels in fields: made input, not the simulated world."""
    size, step = int(folder.name), 512
    rng = np.random.default_rng(size)
    grid = rasters.Grid(
        rasterio.crs.CRS.from_epsg(32653), Affine(5, 0, 400_000, 0, -5, 3_900_000), size, size
    )
    for kind in ("half", "labels"):
        (folder / kind).mkdir(parents=True)
    scene = rasters.create(
        folder / "half" / NAME, grid, {"QUANTITY": "sigma0"}, dtype="uint16", predictor=2
    )
    labels = rasters.create(folder / "labels" / NAME, grid, {}, dtype="uint8")
    with scene as sar, labels as lab:
        for top in range(0, size, step):
            shape = (min(step, size - top), size)
            fields = rng.integers(1, 15, (step // 16, -(-size // 64))).astype(np.uint8)
            ids = fields.repeat(16, axis=0).repeat(64, axis=1)[: shape[0], :size]
            # Four independent looks: what halving makes of single-look pixels.
            looks = np.sqrt(rng.standard_gamma(4, shape, dtype=np.float32) / 4)
            dn = np.clip(np.rint((600 + 400 * ids.astype(np.float32)) * looks), 1, 65535)
            row, col = np.ogrid[top : top + shape[0], :size]
            outside = (col < 0.1 * row) | (col > 0.9 * size + 0.1 * row)
            dn[outside], ids[outside] = 0, 0
            window = Window(0, top, size, shape[0])
            sar.write(dn.astype(np.uint16), 1, window=window)
            lab.write(ids, 1, window=window)


def ours(folder: Path, out: Path) -> None:
    """One call."""
    patches.cut(folder / "half" / NAME, folder / "labels", out, size=PATCH)


def peer(folder: Path, out: Path) -> None:
    """The plain loop, its windows dealt to two threads; a dataset belongs to one of them."""
    with rasterio.open(folder / "half" / NAME) as sar:
        width, height = sar.width, sar.height
    for kind in ("sar", "label"):
        (out / kind).mkdir(parents=True)
    edges = np.linspace(0, height // PATCH, THREADS + 1).astype(int) * PATCH

    def loop(first: int, last: int) -> None:
        with (
            rasterio.open(folder / "half" / NAME) as sar,
            rasterio.open(folder / "labels" / NAME) as lab,
        ):
            for top in range(first, last, PATCH):
                for left in range(0, width - PATCH + 1, PATCH):
                    window = Window(left, top, PATCH, PATCH)
                    dn, ids = sar.read(1, window=window), lab.read(1, window=window)
                    if (dn == 0).any() or (ids == 0).any():
                        continue
                    db = 20 * np.log10(dn.astype(np.float32)) - 83
                    name = f"{Path(NAME).stem}_{top}_{left}.tif"
                    profile = dict(driver="GTiff", count=1, width=PATCH, height=PATCH, crs=sar.crs,
                                   compress="deflate", zlevel=1, blockysize=PATCH,
                                   transform=sar.window_transform(window))  # fmt: skip
                    with rasterio.open(
                        out / "sar" / name, "w", dtype="float32", nodata=np.nan, **profile
                    ) as target:
                        target.write(db, 1)
                    with rasterio.open(
                        out / "label" / name, "w", dtype="uint8", nodata=0, **profile
                    ) as target:
                        target.write_colormap(1, lulc.HR_LULC.colormap())
                        target.write(ids, 1)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(loop, edges[:-1], edges[1:]))


def floor(folder: Path, out: Path) -> None:
    """What no program avoids: both rasters decoded once."""
    for kind, dtype in (("half", "uint16"), ("labels", "uint8")):
        with rasters.opened(folder / kind / NAME, dtype=dtype) as source:
            for window in rasters.row_windows(source):
                source.read(1, window=window)


def child(what: str, folder: Path) -> Any:
    """What a process of its own says: a large parent would count in its children's peak memory."""
    env = os.environ | {"GDAL_NUM_THREADS": str(THREADS)}
    command = [sys.executable, __file__, what, str(folder)]
    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)


def timed(side: Callable[[Path, Path], None], folder: Path, out: Path) -> tuple[float, float]:
    """Seconds without imports, and peak memory in MB (Linux counts in kB, macOS in bytes) with them."""
    for name in ("pandas", "pyarrow.parquet", "shapely"):
        importlib.import_module(name)
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    side(folder, out)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)


def same(folder: Path) -> int:
    """How many pairs both sides made; they must be the same, to the rounding of a float32."""
    ours, peer = folder / "ours", folder / "peer"
    index = patches.read_index(ours)
    assert {*(index["patch"] + ".tif")} == {p.name for p in (peer / "sar").iterdir()}
    store = patches.Store(ours, index)
    for i in range(0, len(index), max(len(index) // 50, 1)):
        name = f"{index['patch'][i]}.tif"
        with rasterio.open(peer / "sar" / name) as sar, rasterio.open(peer / "label" / name) as lab:
            np.testing.assert_allclose(store.sar(i), sar.read(1), rtol=0, atol=1e-4)
            np.testing.assert_array_equal(store.label(i), lab.read(1))
            assert index["transform"][i] == tuple(sar.transform)[:6]
    return len(index)


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def formats(folder: Path) -> dict[str, float]:
    """DN and dB compared: seconds to write 8,000 patches of 128 px, and patches read as dB in a second."""
    rng, found, number, px = np.random.default_rng(0), {}, 8_000, 128
    some = np.sqrt(rng.standard_gamma(4, (500, px, px), dtype=np.float32) / 4)
    dn = np.clip(np.rint(3000 * some), 1, 65535).astype(np.uint16)
    table, order = radiometry.lookup_table(), rng.permutation(number)
    for kind, pixels in (("dn", dn), ("db", None)):
        file = folder / f"{kind}.raw"
        start = time.perf_counter()
        with file.open("wb") as out:
            for _ in range(number // len(dn)):
                out.write((table[dn] if pixels is None else pixels).data)
            out.flush()
            os.fsync(out.fileno())
        found[f"{kind}_write_s"] = round(time.perf_counter() - start, 2)
        found[f"{kind}_kib_a_patch"] = file.stat().st_size / number / 1024
        dtype = np.float32 if pixels is None else np.uint16
        mapped = np.memmap(file, dtype, "r", shape=(number, px, px))
        start = time.perf_counter()
        for i in order:
            db = np.array(mapped[i]) if pixels is None else table[mapped[i]]
            assert np.isfinite(db).all()
        found[f"{kind}_patches_a_second"] = round(number / (time.perf_counter() - start))
    return found


def main() -> int:
    if len(sys.argv) == 3:
        what, folder = sys.argv[1], Path(sys.argv[2])
        sides = {"ours": ours, "peer": peer, "floor": floor}
        others = {"make": make, "same": same, "formats": formats}
        said = timed(sides[what], folder, folder / what) if what in sides else others[what](folder)
        print(json.dumps(said))
        return 0
    sizes = tuple(map(int, os.environ["SIZES"].split(","))) if "SIZES" in os.environ else SIZES
    memory = {}
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as tmp:
        kept_as = child("formats", Path(tmp))
        for size in sizes:
            folder = Path(tmp) / str(size)
            child("make", folder)
            if size != sizes[-1]:
                memory[size] = child("ours", folder)[1]
                shutil.rmtree(folder)
        runs = [[child(what, folder) for what in ("ours", "peer", "floor")] for _ in range(RUNS)]
        pairs = child("same", folder)
        kib = [round(size_of(folder / side) / pairs / 1024, 1) for side in ("ours", "peer")]
    ours_s, peer_s, floor_s = (min(run[k][0] for run in runs) for k in range(3))
    memory[sizes[-1]], peer_mb = (max(run[k][1] for run in runs) for k in (0, 1))
    result = {
        "name": "patches",
        "ours": round(ours_s, 2),
        "peer": round(peer_s, 2),
        "peer_name": "plain rasterio loop that writes GeoTIFF pairs, in two threads",
        "unit": "s",
        "ratio": round(peer_s / ours_s, 2),
        "floor": round(floor_s, 2),
        "times_the_floor": round(ours_s / floor_s, 2),
        "size": sizes[-1],
        "pairs": pairs,
        "ours_kib_a_patch": kib[0],
        "peer_kib_a_patch": kib[1],
        "ours_files": 4,
        "peer_files": 2 * pairs,
        "runs": [[round(s, 2) for s, _ in run] for run in runs],
        "peer_peak_mb": round(peer_mb),
        "peak_mb_by_size": {str(size): round(mb) for size, mb in sorted(memory.items())},
        "formats": kept_as,
    }
    save(result, keep=sizes == SIZES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
