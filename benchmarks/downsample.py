"""Halving a simulated scene of 24000 x 24000 px against GDAL's three ways to do it.

Each runs in a process of its own, in turns, on two processors; GDAL's own commands have a cache of
512 MB, ours the 64 MB that the package sets. Blocks, compression, level and predictor are the same.
Then ours once for each of four sizes, for its memory. The floor is decoding the scene and encoding
the result, each in two threads and one after the other. Of a command of GDAL's, starting it counts
(some hundredths of a second); of ours, importing the package does not.

    make bench NAME=downsample
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import _rasters as bench

CREATION = [*bench.CREATION, "-co", "PREDICTOR=2", "-co", "ZLEVEL=1"]  # as the package
WARP = ["-tr", "5", "5", "-multi", "-wo", "NUM_THREADS=2", "-wm", "256", "-oo", "NUM_THREADS=2"]
PEERS = {
    "gdal_translate -r average": ["gdal_translate", "-q", "-r", "average", "-outsize", "50%", "50%",
                                  "-oo", "NUM_THREADS=2"],
    "gdalwarp -r average": ["gdalwarp", "-q", "-overwrite", "-r", "average", *WARP],
    "gdalwarp -r rms": ["gdalwarp", "-q", "-overwrite", "-r", "rms", *WARP],
}  # fmt: skip


def halve(scene: str, out: str) -> None:
    from sartutorial import downsample

    Path(out).unlink(missing_ok=True)
    bench.timed(lambda: downsample(scene, out))


def floor(scene: str, half: str) -> None:
    """Decode the scene; encode what ``half`` holds. That is decoded before, and not counted."""
    from sartutorial import rasters
    from sartutorial.downsampling import DEFLATE, ROWS

    with rasters.opened(half) as source:
        dn, grid = source.read(1), rasters.grid_of(source)
        windows = list(rasters.row_windows(source))
    start = time.perf_counter()
    with rasters.opened(scene) as source:
        for window in rasters.row_windows(source, 2 * ROWS):
            source.read(1, window=window)
    out = Path(half).with_name("floor.tif")
    with rasters.create(out, grid, {}, dtype="uint16", **DEFLATE) as target:
        for w in windows:
            target.write(dn[w.row_off : w.row_off + w.height], 1, window=w)
    print(json.dumps(time.perf_counter() - start))


def main() -> int:
    if len(sys.argv) > 1:
        {"scene": bench.scene, "halve": halve, "floor": floor}[sys.argv[1]](*sys.argv[2:])
        return 0
    if not shutil.which("gdalwarp"):
        print("NOT MEASURED: no gdalwarp; install gdal-bin", file=sys.stderr)
        return 1
    bench.two_processors()
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        out = at / "half.tif"
        scene = bench.made(__file__, "scene", at / "scene.tif", bench.SIZE)
        sides = {"ours": lambda: bench.ours(__file__, "halve", scene, out)}
        for name, command in PEERS.items():
            whole = [*command, *CREATION, scene, at / "peer.tif"]
            sides[name] = lambda whole=whole: bench.measure(whole)
        sides["floor"] = lambda: bench.ours(__file__, "floor", scene, out)
        runs = bench.in_turns(sides)
        memory = bench.memory(scene, __file__, "halve", scene, out)
    fastest = min(PEERS, key=lambda name: bench.best(runs[name]))
    bench.write("downsample", fastest, runs, ours_peak_mb_by_size=memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
