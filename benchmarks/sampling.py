"""Class counts and a million class-weighted points on the national land-cover raster.

Ours streams; the peer holds the raster and asks ``np.where`` for the pixels of each class and
``np.random.choice`` for some of them. Each runs in a process of its own, in turns, and says its
time and its peak memory; then ours once more on a raster of four times the pixels.

    make bench NAME=sampling

Both end with class, longitude and latitude of each point. What a table with geometries takes, as
``sample_points`` returns it by default, stands beside it. GDAL may keep 64 MB of decoded blocks, for
both: the package says so, and by default it would take a share of the machine's memory.
"""

# ruff: noqa: NPY002 - the peer is the legacy np.random.choice
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import rasterio
from _rasters import save

import sartutorial as st

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SARTUTORIAL_REAL_DATA", ROOT.parent / "shared" / "data"))
RASTER = DATA / "JAXA_HRLULC_Japan_v23.12_250m.tif"
FOUR = ROOT / "build" / "japan_2x2.tif"
POINTS, RUNS = 1_000_000, 3


def ours(raster: str) -> None:
    assert len(st.sample_points(raster, POINTS, geometry=False)) == POINTS


def geometry(raster: str) -> None:
    assert len(st.sample_points(raster, POINTS)) == POINTS


def peer(raster: str) -> None:
    """The same points by whole arrays: counts, reciprocal weights, class, pixel, longitude, latitude."""
    np.random.seed(0)
    with rasterio.open(raster) as dataset:
        ids, transform = dataset.read(1), dataset.transform
    places = {c: np.where(ids == c) for c in range(1, 16)}
    places = {c: place for c, place in places.items() if len(place[0])}
    category = np.random.choice(list(places), POINTS)  # reciprocal weights: equal shares
    row, col = np.empty(POINTS, dtype=np.int64), np.empty(POINTS, dtype=np.int64)
    for c, place in places.items():
        mine = category == c
        chosen = np.random.choice(len(place[0]), mine.sum())
        row[mine], col[mine] = place[0][chosen], place[1][chosen]
    lon, lat = transform * (col + 0.5, row + 0.5)
    assert len(lon) == len(lat) == POINTS


def floor(raster: str) -> None:
    """What no program avoids: decoding the raster once."""
    with rasterio.open(raster, num_threads=os.cpu_count()) as dataset:
        for top in range(0, dataset.height, 512):
            height = min(512, dataset.height - top)
            dataset.read(1, window=rasterio.windows.Window(0, top, dataset.width, height))


def child(what: str, raster: Path) -> tuple[float, float]:
    """Seconds, and peak memory in MB (Linux counts in kB, macOS in bytes), of a process of its own.

    Imports are not timed, and the memory is the whole process's, imports included.
    """
    command = [sys.executable, __file__, what, str(raster)]
    env = os.environ | {"GDAL_CACHEMAX": "64"}
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    seconds, memory = json.loads(out)
    return seconds, memory


def four_times() -> None:
    """The raster two by two, in strips."""
    FOUR.parent.mkdir(exist_ok=True)
    with rasterio.open(RASTER) as source:
        profile = source.profile | dict(
            width=2 * source.width, height=2 * source.height, blockxsize=2 * source.width
        )
        with rasterio.open(FOUR, "w", **profile) as out:
            for top in range(0, 2 * source.height, 480):
                window = rasterio.windows.Window(0, top % source.height, source.width, 480)
                strip = source.read(1, window=window)
                place = rasterio.windows.Window(0, top, 2 * source.width, 480)
                out.write(np.hstack([strip, strip]), 1, window=place)


def main() -> int:
    if len(sys.argv) == 3:
        run = {"ours": ours, "geometry": geometry, "peer": peer, "floor": floor}[sys.argv[1]]
        import_module("geopandas"), import_module("sartutorial.sampling")
        start = time.perf_counter()
        run(sys.argv[2])
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)]))
        return 0
    if not RASTER.exists():
        print(
            f"NOT MEASURED: no {RASTER.name} in {DATA}; set SARTUTORIAL_REAL_DATA", file=sys.stderr
        )
        return 1
    if not FOUR.exists():
        four_times()
    runs = [(child("ours", RASTER), child("peer", RASTER)) for _ in range(RUNS)]
    ours_s, peer_s = (statistics.median(r[k][0] for r in runs) for k in (0, 1))
    ours_mb, peer_mb = (max(r[k][1] for r in runs) for k in (0, 1))
    four_s, four_mb = child("ours", FOUR)
    with rasterio.open(RASTER) as dataset:
        pixels = dataset.width * dataset.height
    result = {
        "name": "sampling",
        "ours": round(ours_s, 2),
        "peer": round(peer_s, 2),
        "peer_name": "whole array: np.where per class + np.random.choice",
        "unit": "s",
        "ratio": round(peer_s / ours_s, 2),
        "floor": round(child("floor", RASTER)[0], 2),
        "ours_with_geometries": round(child("geometry", RASTER)[0], 2),
        "points": POINTS,
        "pixels": pixels,
        "runs": [[round(s, 2) for s, _ in run] for run in runs],
        "ours_peak_mb": round(ours_mb),
        "peer_peak_mb": round(peer_mb),
        "memory_ratio": round(peer_mb / ours_mb, 2),
        "four_times_the_pixels": {"ours": round(four_s, 2), "ours_peak_mb": round(four_mb)},
    }
    save(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
