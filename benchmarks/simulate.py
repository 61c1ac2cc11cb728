"""A simulated world on two threads against one, and one nine times larger: time and memory.

    make bench NAME=simulate

About 16 minutes.
"""

import sys
import tempfile
from pathlib import Path

from _rasters import measure, save, two_processors

from sartutorial.profiles import PROFILES

LAPTOP = PROFILES["laptop"]


def world(side: int, threads: int) -> dict[str, float]:
    """What ``simulate`` costs at laptop size."""
    with tempfile.TemporaryDirectory() as folder:
        call = f"import sartutorial as st; st.simulate({folder!r}, side={side})"
        command = ("env", f"GDAL_NUM_THREADS={threads}", sys.executable, "-c", call)
        seconds, memory, cpu = measure(command)
        files = sum(p.stat().st_size for p in Path(folder).rglob("*.tif"))
    cost = {
        "scenes": side**2,
        "threads": threads,
        "seconds": round(seconds, 1),
        "processor_seconds": round(cpu, 1),
        "peak_mb": round(memory),
        "written_mb": round(files / 1e6),
    }
    print(cost, flush=True)
    return cost


def main() -> None:
    """Measure and write the result."""
    two_processors()
    one, two, large = (world(*how) for how in ((3, 1), (3, 2), (9, 2)))
    result = {
        "name": "simulate",
        "ours": two["seconds"],
        "peer": one["seconds"],
        "peer_name": "the same call with one thread",
        "unit": "s",
        "ratio": round(one["seconds"] / two["seconds"], 2),
        "runs": [one, two, large],
        "memory_nine_times_the_scenes": round(large["peak_mb"] / two["peak_mb"], 2),
        "profile": LAPTOP.name,
        "scene_pixels": LAPTOP.scene_size,
    }
    save(result)


if __name__ == "__main__":
    main()
