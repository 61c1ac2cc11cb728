"""Cutting a scene of 24000 x 24000 pixels and its labels into pairs of 256 pixels.

The peer is the loop that everyone writes first: open scene and label raster, read both in every
window, skip no-data, convert to dB, write two GeoTIFFs with rasterio. Both sides write the same
creation options, tags and colour table; both read the same tiled deflate blocks and may use two
threads; each runs in a process of its own, in turns. The floor decodes scene and labels once and
encodes as many pairs, in two threads, and writes no file. Four sizes show the
peak memory.

    make bench NAME=patches
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from sartutorial import lulc, patches, radiometry, rasters, stamps

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "patches.json"
SIZES = (18_000, 30_000, 36_000, 24_000)  # all beyond GDAL's cache; the last is timed
PATCH, THREADS, RUNS = 256, 2, 3
NAME = "IMG-HH-ALOS2900013210-221008-UBSR2.1GUD.tif"


def make(folder: Path, size: int) -> None:
    """A speckled scene with a slanted swath, and labels in fields: made input, not the simulated world."""
    rng, step = np.random.default_rng(size), 512
    grid = rasters.Grid(
        rasterio.crs.CRS.from_epsg(32653), Affine(5, 0, 400_000, 0, -5, 3_900_000), size, size
    )
    scene = rasters.created(folder / "half" / NAME, grid, {"QUANTITY": "sigma0"},
                            dtype="uint16", nodata=0, predictor=2)  # fmt: skip
    labels = rasters.created(folder / "labels" / NAME, grid, {}, dtype="uint8", nodata=0)
    with scene as sar, labels as lab:
        for top in range(0, size, step):
            shape = (min(step, size - top), size)
            fields = rng.integers(1, 15, (step // 16, -(-size // 64))).astype(np.uint8)
            ids = fields.repeat(16, axis=0).repeat(64, axis=1)[: shape[0], :size]
            level = 600 + 400 * ids.astype(np.float32)
            # Four independent looks: what halving makes of single-look pixels.
            dn = level * np.sqrt(rng.standard_gamma(4, shape, dtype=np.float32) / 4)
            dn = np.clip(np.rint(dn), 1, 65535).astype(np.uint16)
            row, col = np.ogrid[top : top + shape[0], :size]
            outside = (col < 0.1 * row) | (col > 0.9 * size + 0.1 * row)
            dn[outside], ids[outside] = 0, 0
            window = Window(0, top, size, shape[0])
            sar.write(dn, 1, window=window)
            lab.write(ids, 1, window=window)


def ours(folder: Path, out: Path) -> None:
    patches.cut([folder / "half" / NAME], folder / "labels", out, size=PATCH)


def peer(folder: Path, out: Path) -> None:
    """The plain loop, its windows dealt to two threads; a dataset belongs to one of them."""
    with rasterio.open(folder / "half" / NAME) as sar:
        width, height = sar.width, sar.height
    for kind in ("sar", "label"):
        (out / kind).mkdir(parents=True)
    tags = {"QUANTITY": "sigma0", "SCENE": Path(NAME).stem, "SOFTWARE": "rasterio"}
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
                    profile = stamps.PROFILE | dict(
                        width=PATCH, height=PATCH, blockysize=PATCH, crs=sar.crs,
                        transform=sar.window_transform(window),
                    )  # fmt: skip
                    with rasterio.open(
                        out / "sar" / name, "w", dtype="float32", nodata=np.nan, **profile
                    ) as target:
                        target.update_tags(**tags, UNIT="dB")
                        target.write(db, 1)
                    with rasterio.open(
                        out / "label" / name, "w", dtype="uint8", nodata=0, **profile
                    ) as target:
                        target.update_tags(**tags)
                        target.write_colormap(1, lulc.colormap())
                        target.write(ids, 1)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(loop, edges[:-1], edges[1:]))


def floor(folder: Path) -> int:
    """What no program avoids: both rasters decoded once, and as many pairs encoded as ours has made.

    What is encoded, again and again, is the middle of the scene: its patches are all kept.
    """
    pairs = len(list((folder / "ours" / "sar").iterdir()))
    paths = [folder / kind / NAME for kind in ("half", "labels")]
    with rasterio.open(paths[0]) as sar:
        width, height = sar.width, sar.height
    across = width // 2 // PATCH

    def decode(top: int) -> None:
        for path in paths:
            with rasterio.open(path) as source:
                source.read(1, window=Window(0, top, width, min(512, height - top)))

    def encode(cells: np.ndarray) -> None:
        profile = stamps.PROFILE | dict(width=PATCH, height=len(cells), dtype=cells.dtype,
                                        blockysize=PATCH, transform=Affine.scale(2))  # fmt: skip
        with rasterio.MemoryFile() as memory, memory.open(**profile) as target:
            target.write(cells, 1)

    middle = []
    for path in paths:
        with rasterio.open(path) as source:
            window = Window(width // 4, height // 2, across * PATCH, PATCH)
            cells = source.read(1, window=window).reshape(PATCH, across, PATCH)
            middle.append(np.ascontiguousarray(cells.swapaxes(0, 1)).reshape(-1, PATCH))
    middle[0] = radiometry.lookup_table()[middle[0]]
    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(decode, range(0, height, 512)))
        list(pool.map(encode, middle * (pairs // across)))
    print(json.dumps([time.perf_counter() - start, 0]))
    return 0


def child(what: str, folder: Path) -> tuple[float, float]:
    """Seconds, and peak memory in MB (Linux counts in kB, macOS in bytes), of a process of its own.

    Imports are not timed, and the memory is the whole process's, imports included.
    """
    env = os.environ | {"GDAL_CACHEMAX": "512", "GDAL_NUM_THREADS": str(THREADS)}
    command = [sys.executable, __file__, what, str(folder)]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    seconds, memory = json.loads(out)
    return seconds, memory


def same(folder: Path, ours: Path, peer: Path) -> int:
    """How many pairs both sides made; they must be the same, to the rounding of a float32."""
    names = sorted(p.name for p in (ours / "sar").iterdir())
    assert names == sorted(p.name for p in (peer / "sar").iterdir())
    for name in names[:: len(names) // 50]:
        for kind, tolerance in (("sar", 1e-4), ("label", 0)):
            with rasterio.open(ours / kind / name) as a, rasterio.open(peer / kind / name) as b:
                assert a.profile == b.profile or kind == "sar"  # NaN is not NaN
                assert (a.transform, a.crs) == (b.transform, b.crs)
                np.testing.assert_allclose(a.read(1), b.read(1), rtol=0, atol=tolerance)
    return len(names)


def main() -> int:
    if len(sys.argv) == 3:
        import geopandas  # noqa: F401

        what, folder = sys.argv[1], Path(sys.argv[2])
        out = folder / what
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        if what == "floor":
            return floor(folder)
        {"ours": ours, "peer": peer}[what](folder, out)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)]))
        return 0
    sizes = tuple(map(int, os.environ["SIZES"].split(","))) if "SIZES" in os.environ else SIZES
    memory = {}
    with tempfile.TemporaryDirectory(
        dir=ROOT / "build" if (ROOT / "build").is_dir() else None
    ) as tmp:
        for size in sizes:
            folder = Path(tmp) / str(size)
            make(folder, size)
            if size != sizes[-1]:
                memory[size] = child("ours", folder)[1]
                shutil.rmtree(folder)
        runs = [[child(what, folder) for what in ("ours", "peer", "floor")] for _ in range(RUNS)]
        pairs = same(folder, folder / "ours", folder / "peer")
        files = (folder / "ours" / "sar").iterdir()
        bytes_a_patch = sum(p.stat().st_size for p in files) / pairs
    ours_s, peer_s, floor_s = (min(run[k][0] for run in runs) for k in range(3))
    ours_mb, peer_mb = (max(run[k][1] for run in runs) for k in (0, 1))
    memory[sizes[-1]] = ours_mb
    result = {
        "name": "patches",
        "ours": round(ours_s, 2),
        "peer": round(peer_s, 2),
        "peer_name": "plain rasterio loop in two threads, same creation options",
        "unit": "s",
        "ratio": round(peer_s / ours_s, 2),
        "floor": round(floor_s, 2),
        "times_the_floor": round(ours_s / floor_s, 2),
        "size": sizes[-1],
        "pairs": pairs,
        "bytes_a_sar_patch": round(bytes_a_patch),
        "runs": [[round(s, 2) for s, _ in run] for run in runs],
        "ours_peak_mb": round(ours_mb),
        "peer_peak_mb": round(peer_mb),
        "peak_mb_by_size": {str(size): round(mb) for size, mb in sorted(memory.items())},
        "command": "make bench NAME=patches",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))
    if sizes == SIZES:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
