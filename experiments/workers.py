"""How much quicker do two workers halve scenes than one, once they run?

    python -m experiments.workers --work FOLDER   -> book/results/workers.json; quiet, ten minutes

Four scenes of 24,576 x 24,576 pixels, as large as real ones: simulated scenes, each laid nine times beside
itself. They are halved by this process, which has all cores, and by a dask scheduler's one and two workers,
each with one thread. Their start is measured apart: on a cluster they run already. The ways take turns,
each in a process of its own, and the best of their runs counts. What they write is compared, file by file.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import numpy as np
import rasterio
from distributed import Client, LocalCluster
from rasterio.windows import Window

import sartutorial as st
from sartutorial import files, profiles
from sartutorial.learn import checkpoints

RESULT = Path(__file__).parents[1] / "book" / "results" / "workers.json"
SIDE, TIMES, RUNS = 2, 3, 2
WAYS = {"one process, all cores": 0, "one worker": 1, "two workers": 2}


def enlarged(scene: Path, out: Path) -> None:
    """The scene, laid beside itself."""
    if out.exists():
        return
    with rasterio.open(scene) as source, files.atomic_write(out) as partial:
        n, form = source.width, source.profile | {"num_threads": 2, "bigtiff": "if_safer"}
        with rasterio.open(
            partial, "w", **form | {"width": TIMES * n, "height": TIMES * n}
        ) as target:
            target.update_tags(**source.tags())
            for top in range(0, TIMES * n, 512):
                part = source.read(1, window=Window(0, top % n, n, 512))
                target.write(np.tile(part, TIMES), 1, window=Window(0, top, TIMES * n, 512))


def prepare(scenes: Path, out: Path, workers: int) -> dict[str, float]:
    """Seconds of the workers' start and of halving."""
    at, took = {}, [time.perf_counter()]
    with ExitStack() as stack:
        if workers:
            how = dict(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            client = stack.enter_context(Client(stack.enter_context(LocalCluster(**how))))
            client.run(import_module, "sartutorial.downsampling")  # before the first scene
            at = {"scheduler": client.scheduler.address}
        took.append(time.perf_counter())
        st.downsample(scenes, out, **at)
        took.append(time.perf_counter())
    return {"start": took[1] - took[0], "downsample": took[2] - took[1]}


def child(world: Path, out: Path, workers: int) -> dict[str, float]:
    """One way's run, in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    line = [sys.executable, "-m", "experiments.workers", "--work", str(world), "--child", str(out),
            str(workers)]  # fmt: skip
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(workers, {k: round(v, 2) for k, v in found.items()}, flush=True)
    return found


def differing(one: Path, other: Path) -> list[str]:
    """Products of one folder that the other lacks or holds with other bytes."""
    made = [p for p in one.rglob("*") if p.is_file() and ".made" not in p.parts]
    return [str(p.relative_to(one)) for p in made
            if not filecmp.cmp(p, other / p.relative_to(one), shallow=False)]  # fmt: skip


def main() -> None:
    """Make the world, take turns, compare, write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--child", nargs=2)
    given = options.parse_args()
    world = given.work
    if given.child:
        out, workers = given.child
        print(json.dumps(prepare(world / "large", Path(out), int(workers))))
        return
    st.simulate(world, profile="gpu", side=SIDE, progress=True)
    for scene in files.find_scenes(world / "scenes"):
        enlarged(Path(scene), world / "large" / Path(scene).name)
    outs = {way: world / f"way-{i}" for i, way in enumerate(WAYS)}
    runs = [{w: child(world, outs[w], n) for w, n in WAYS.items()} for _ in range(RUNS)]
    first, *others = outs.values()
    apart = {p for other in others for p in differing(first, other)}
    if apart:
        raise SystemExit(f"the ways differ in {sorted(apart)}")
    best = {w: {s: min(r[w][s] for r in runs) for s in ("start", "downsample")} for w in WAYS}
    alone, one, two = (best[w]["downsample"] for w in WAYS)
    result = {
        "what": f"seconds to halve simulated scenes; the best of {RUNS} runs in turns",
        "scenes": SIDE**2,
        "pixels_a_scene": (TIMES * profiles.GPU.scene_size) ** 2,
        "seconds": best,
        "two_workers_over_one": one / two,
        "two_workers_over_one_process": alone / two,
        "identical": not apart,
        "runs": runs,
        "script": "python -m experiments.workers",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "provenance": checkpoints.provenance(),
    }
    checkpoints.write_json(result, RESULT)
    print({k: v for k, v in result.items() if k.startswith(("seconds", "two"))})


if __name__ == "__main__":
    main()
