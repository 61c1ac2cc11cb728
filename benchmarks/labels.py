"""Labels for a simulated scene of 24000 x 24000 px from four tiles against GDAL's exact nearest.

The peer merges the tiles with ``gdalbuildvrt`` and reprojects them with ``gdalwarp -r near -et 0``.
Each side runs in processes of its own, in turns, on two processors, with the same blocks and
compression; GDAL's commands have a cache of 512 MB, ours the 64 MB that the package sets. Ours also
masks the labels with the scene, which the peer is spared. The ids must be the same wherever the
scene holds data. Then ours once for each of four sizes, for its memory. The floor is decoding scene
and tiles and encoding the labels, in two threads.

    make bench NAME=labels
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _rasters as bench
import numpy as np
import rasterio
from affine import Affine

PEER = "gdalbuildvrt + gdalwarp -r near -et 0"
TILE = 12_000
CREATION = [*bench.CREATION, "-co", "ZLEVEL=6"]  # GDAL's default, which the package keeps


def tiles(folder: str) -> None:
    """Four simulated tiles that meet in the scene: fields of 8 x 8 px of fourteen classes."""
    Path(folder).mkdir()
    rng = np.random.default_rng(0)
    for lat, lon in ((32, 134), (32, 135), (33, 134), (33, 135)):
        fields = rng.integers(1, 15, (TILE // 8, TILE // 8), dtype=np.uint8)
        with rasterio.open(
            Path(folder) / f"LC_N{lat}E{lon}.tif", "w", driver="GTiff", width=TILE, height=TILE, count=1,
            dtype="uint8", nodata=0, crs="EPSG:4326", tiled=True, blockxsize=512, blockysize=512,
            transform=Affine(1 / TILE, 0, lon, 0, -1 / TILE, lat + 1), compress="deflate",
        ) as out:  # fmt: skip
            out.update_tags(SIMULATED="fields for a benchmark")
            out.write(np.kron(fields, np.ones((8, 8), np.uint8)), 1)


def label(scene: str, folder: str, out: str) -> None:
    from sartutorial import label

    Path(out).unlink(missing_ok=True)
    bench.timed(lambda: label(scene, folder, out))


def floor(scene: str, folder: str, out: str) -> None:
    """Decode scene and tiles; encode what ``out`` holds, which is decoded before and not counted."""
    from sartutorial import rasters

    with rasters.opened(out, dtype="uint8") as source:
        ids, grid = source.read(1), rasters.grid_of(source)
        windows = list(rasters.row_windows(source))
    start = time.perf_counter()
    for path in [Path(scene), *Path(folder).iterdir()]:
        with rasters.opened(path, dtype="uint16" if path == Path(scene) else "uint8") as source:
            for window in rasters.row_windows(source):
                source.read(1, window=window)
    again = Path(out).with_name("floor.tif")
    with rasters.create(again, grid, {}, dtype="uint8") as target:
        for w in windows:
            target.write(ids[w.row_off : w.row_off + w.height], 1, window=w)
    print(json.dumps(time.perf_counter() - start))


def differences(scene: str, out: str, peer: str) -> None:
    """Print how many pixels with SAR data have other ids."""
    from sartutorial import rasters

    count = 0
    with rasterio.open(scene) as sar, rasterio.open(out) as a, rasterio.open(peer) as b:
        for w in rasters.row_windows(sar):
            unequal = a.read(1, window=w) != b.read(1, window=w)
            count += int(np.count_nonzero(unequal & (sar.read(1, window=w) != 0)))
    print(count)


def main() -> int:
    if len(sys.argv) > 1:
        parts = [bench.scene, tiles, label, floor, differences]
        {part.__name__: part for part in parts}[sys.argv[1]](*sys.argv[2:])
        return 0
    if not shutil.which("gdalwarp"):
        print("NOT MEASURED: no gdalwarp; install gdal-bin", file=sys.stderr)
        return 1
    bench.two_processors()
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        found = sorted(bench.made(__file__, "tiles", at / "tiles").iterdir())
        scene = bench.made(__file__, "scene", at / "scene.tif", bench.SIZE)
        out, peer, merged = at / "labels.tif", at / "peer.tif", at / "tiles.vrt"
        with rasterio.open(scene) as sar:
            box, crs = sar.bounds, str(sar.crs)
        build = ["gdalbuildvrt", "-q", "-overwrite", merged, *found]
        warp = ["gdalwarp", "-q", "-overwrite", "-r", "near", "-et", "0", "-multi", "-wo",
                "NUM_THREADS=2", "-wm", "256", "-t_srs", crs, "-te", *box, "-ts", bench.SIZE,
                bench.SIZE, *CREATION, merged, peer]  # fmt: skip
        runs = bench.in_turns({
            "ours": lambda: bench.ours(__file__, "label", scene, at / "tiles", out),
            PEER: lambda: bench.measure(build, warp),
            "floor": lambda: bench.ours(__file__, "floor", scene, at / "tiles", out),
        })  # fmt: skip
        compare = [sys.executable, __file__, "differences", scene, out, peer]
        wrong = int(subprocess.check_output(compare))  # in a child, as all that takes memory
        memory = bench.memory(scene, __file__, "label", scene, at / "tiles", out)
    bench.write("labels", PEER, runs, pixels_that_differ=wrong, ours_peak_mb_by_size=memory)
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
