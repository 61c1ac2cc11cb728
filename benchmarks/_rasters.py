"""What the raster benchmarks share: a simulated scene, two processors, a process a measurement."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

ROOT = Path(__file__).resolve().parents[1]
RUNS, SIZE = 3, 24_000
SIZES = (18_000, 24_000, 30_000, 36_000)
CACHE_MB = 512  # of GDAL's own commands; the package sets its own
# Every result of both sides: blocks of 512 px, deflate; level and predictor are the script's.
Cost = tuple[float, float, float]  # seconds, peak memory in MB, seconds of processors
CREATION = ["-co", "TILED=YES", "-co", "BLOCKXSIZE=512", "-co", "BLOCKYSIZE=512", "-co",
            "COMPRESS=DEFLATE", "-co", "NUM_THREADS=2", "-co", "BIGTIFF=IF_SAFER"]  # fmt: skip


def two_processors() -> None:
    """Keep this process and its children to two processors: both sides have two threads' worth."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    os.environ |= {"GDAL_CACHEMAX": str(CACHE_MB), "GDAL_NUM_THREADS": "2"}


def scene(path: str, pixels: str) -> None:
    """A simulated scene: four-look speckle on slowly varying ground, a slanting edge of no data."""
    size, rng = int(pixels), np.random.default_rng(0)
    speckle = np.sqrt(rng.standard_gamma(4, (512, 4096), dtype=np.float32) / 4)
    grid = Affine(2.5, 0, 485_000, 0, -2.5, 3_680_000)
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, dtype="uint16", nodata=0,
        crs="EPSG:32653", transform=grid, tiled=True, blockxsize=512, blockysize=512,
        compress="deflate", predictor=2, num_threads=2, bigtiff="if_safer",
    ) as out:  # fmt: skip
        out.update_tags(QUANTITY="sigma0", SIMULATED="speckle for a benchmark")
        col = np.arange(size, dtype=np.float32)
        for top in range(0, size, 512):
            row = np.arange(top, min(top + 512, size), dtype=np.float32)[:, None]
            ground = 4000 + 2000 * np.sin(row / 301) * np.cos(col / 211)
            # Moved along from strip to strip, so that no two are alike.
            grain = np.roll(np.resize(speckle, (512, size)), top // 7, axis=1)[: len(row)]
            dn = np.where(col < row / 20, 0, np.maximum(ground * grain, 1)).astype(np.uint16)
            out.write(dn, 1, window=Window(0, top, size, len(row)))


def made(script: str, what: str, *arguments: str | Path | int) -> Path:
    """Have a child make a file or folder: a large parent would count in its children's peak memory."""
    subprocess.run([sys.executable, script, what, *map(str, arguments)], check=True)
    return Path(arguments[0])


def spent(process: subprocess.Popen) -> tuple[float, float]:
    """Processor seconds and peak memory in MB (Linux counts in kB, macOS in bytes) of a process."""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {process.args}")
    memory = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return usage.ru_utime + usage.ru_stime, memory


def measure(*commands: Sequence[str | Path]) -> Cost:
    """What commands cost, one after the other."""
    start = time.perf_counter()
    each = [spent(subprocess.Popen([str(c) for c in command])) for command in commands]
    seconds = time.perf_counter() - start
    return seconds, max(memory for _, memory in each), sum(cpu for cpu, _ in each)


def timed(work: Callable[[], object]) -> None:
    """Run ``work`` in this child process and print its seconds; imports are not among them."""
    start = time.perf_counter()
    work()
    print(json.dumps(time.perf_counter() - start))


def ours(*command: str | Path) -> Cost:
    """What a child of ours costs: the seconds are those that it says."""
    line = [str(c) for c in (sys.executable, *command)]
    own = {k: v for k, v in os.environ.items() if k != "GDAL_CACHEMAX"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, env=own)
    assert process.stdout
    said = process.stdout.read()
    cpu, memory = spent(process)
    return json.loads(said), memory, cpu


def in_turns(sides: dict[str, Callable[[], Cost]]) -> dict[str, list[list[float]]]:
    """Every side's runs (see ``Cost``), one after the other, so that a busy machine is shared."""
    runs: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(RUNS):
        for name, side in sides.items():
            seconds, memory, cpu = side()
            runs[name].append([round(seconds, 2), round(memory), round(cpu, 2)])
            print(
                f"{name:<28} {seconds:7.2f} s {memory:6.0f} MB {cpu:7.2f} s of processors",
                flush=True,
            )
    return runs


def memory(scene: Path, script: str, *command: str | Path) -> dict[int, int]:
    """Our peak memory in MB for scenes of four sizes."""
    peaks = {}
    for size in SIZES:
        scene.unlink()
        made(script, "scene", scene, size)
        peaks[size] = round(ours(script, *command)[1])
        print(f"{size} px: {peaks[size]} MB", flush=True)
    return peaks


def best(runs: list[list[float]]) -> float:
    """The least disturbed of the runs."""
    return min(seconds for seconds, *_ in runs)


def save(result: dict[str, object], *, machine: str = "", keep: bool = True) -> None:
    """Print a benchmark's result with how it was made; keep it unless it is only a part of it."""
    name = result["name"]
    result |= {
        "command": f"make bench NAME={name}",
        "machine": f"{machine or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "date": date.today().isoformat(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if keep:
        (ROOT / "benchmarks" / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write(name: str, peer_name: str, runs: dict[str, list[list[float]]], **more: object) -> None:
    """``benchmarks/results/<name>.json``: our best run against the peer's, and all runs."""
    us, them, least = best(runs["ours"]), best(runs[peer_name]), best(runs["floor"])
    version = subprocess.run(["gdalinfo", "--version"], capture_output=True, text=True).stdout
    result = {
        "name": name,
        "ours": us,
        "peer": them,
        "peer_name": peer_name,
        "unit": "s",
        "ratio": round(them / us, 2),
        "floor": least,
        "times_the_floor": round(us / least, 2),
        "size": SIZE,
        "runs_seconds_mb_cpu": runs,
        "ours_peak_mb": max(memory for _, memory, _ in runs["ours"]),
        "peer_peak_mb": max(memory for _, memory, _ in runs[peer_name]),
        **more,
        "threads": 2,
        "gdal": f"ours {rasterio.__gdal_version__} in rasterio, peer {version.split(',')[0]}",
    }
    save(result)
