"""Mapping a scene with the book's model, against its forward passes alone and against three loops.

All sides have the same model, window size, step, batches and precision, and take turns; only windows
that see data are passed through the model. The floor is what no program avoids: the forward passes of
our windows, from memory. The peers normalise, predict, add up into arrays of the whole scene with
weights that fall towards the rim, and write a COG:

- a plain loop reads window by window with rasterio;
- TorchGeo's RasterDataset and GridGeoSampler read, in a torch DataLoader without processes, which
  would take the model's cores;
- tiler cuts up the scene, read whole, and its Merger adds up.

The latter two know no rim to leave out, and so need a row and a column of windows less (225 for our 256
in a scene of 1,024 pixels, 961 for our 1,024 in one of 2,048). They need ``PYTHONPATH=FOLDER`` with
torchgeo and tiler, which are no dependencies of the book's; one that is missing is left out, and the
result says so.

Memory is measured beside it, with a stand-in of one convolution in place of the model, so that
scenes of up to 24,000 pixels a side are mapped in minutes; a process of its own for each. It follows
a scene's width, so scenes of one width and four lengths are mapped as well.

    make bench NAME=inference

In the environment ``SIDE=1024 RUNS=2`` times less, which the result holds apart, as ``quick``.
``SHAPES=3000x3000`` measures the memory of these alone, or of none, and keeps what the last result says
of the others, each of which has its date.
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
from collections.abc import Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import torch
from _rasters import save
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import nn

import sartutorial as st
from sartutorial import radiometry, rasters
from sartutorial.learn import datasets, inference

ROOT = Path(__file__).resolve().parents[1]
WHOLE = 2_048, 4
SIDE, RUNS = (int(os.environ.get(k, n)) for k, n in zip(("SIDE", "RUNS"), WHOLE, strict=True))
SIZES, WIDTH = (3_000, 6_000, 12_000, 24_000), 3_000  # of those whose memory is measured
SHAPES = [f"{n}x{n}" for n in SIZES] + [f"{WIDTH}x{n}" for n in SIZES[1:]]  # width, height
PEERS = {"plain": "rasterio", "torchgeo": "torchgeo", "tiler": "tiler"}  # of which package
NAME = "IMG-HH-ALOS2900013210-221008-UBSR2.1GUD.tif"


def make(path: Path, side: int, height: int) -> None:
    """A speckled scene with a slanted swath: made input, not the simulated world."""
    grid = rasters.Grid(
        rasterio.crs.CRS.from_epsg(32653), Affine(5, 0, 400_000, 0, -5, 3_900_000), side, height
    )
    rng = np.random.default_rng(side)
    with rasters.create(path, grid, {"QUANTITY": "sigma0"}, dtype="uint16", predictor=2) as sar:
        for top in range(0, height, 512):
            row, col = np.ogrid[top : min(top + 512, height), :side]
            level = 1000 + 500 * ((row // 97 + col // 61) % 5)
            looks = np.sqrt(rng.standard_gamma(4, level.shape, dtype=np.float32) / 4)
            dn = np.rint(level * looks).astype(np.uint16)
            dn[(col < 0.1 * side * row / height) | (col > side * (0.9 + 0.1 * row / height))] = 0
            sar.write(dn, 1, window=Window(0, top, side, len(row)))


class StandIn(nn.Module):
    """Nine classes by one convolution, with the book's model's image size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.config, self.config = model.encoder.config, model.config
        self.classify = nn.Conv2d(1, model.config.classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 9, H, W)."""
        return self.classify(image)


def clock() -> NDArray[np.float64]:
    """Seconds that passed, and those that processors spent on this process: a busy machine's count."""
    return np.array([time.perf_counter(), time.process_time()])


def loaded() -> tuple[nn.Module, datasets.Normalization, int]:
    """The model where it computes, what it was trained with, and the size of a batch."""
    model, about = st.load_model("reference")
    device = inference.device()
    batch = inference.BATCH[device.partition(":")[0]]
    return model.to(device), datasets.Normalization(**about["normalization"]), batch


def passes(scene: Path) -> NDArray[np.float64]:
    """Seconds of the forward passes of every window that sees data."""
    model, norm, number = loaded()
    laid = inference.windows(model.encoder.config.image_size)
    with rasters.opened(scene) as sar:
        strips = range(-(-sar.height // laid.step))
        rows = [inference._read(sar, norm, laid, i)[:2] for i in strips]
    start = clock()
    for image, seen in rows:
        for i in range(0, len(seen), number):
            lefts = seen[i : i + number]
            batch = np.stack([image[None, :, left : left + laid.size] for left in lefts])
            inference.probabilities(model, batch)
    return clock() - start


def ours(scene: Path, out: Path) -> NDArray[np.float64]:
    """Seconds of one call, without the loading of the weights: once to refuse, once to map."""
    start = clock()
    st.load_model("reference")
    loading = clock() - start
    start = clock()
    st.predict(scene, "reference", out)
    return clock() - start - 2 * loading


Tile = tuple[int, int, NDArray[np.uint16]]  # row and column where it begins, and its DN


def by_rasterio(scene: Path, laid: inference.Windows) -> Iterator[Tile]:
    """Windows as ours lie, a read each."""
    size, step, rim = laid
    with rasterio.open(scene) as sar:
        for top in range(-rim, sar.height - rim, step):
            for left in range(-rim, sar.width - rim, step):
                window = Window(left, top, size, size)
                yield top, left, sar.read(1, window=window, boundless=True, fill_value=0)


def by_torchgeo(scene: Path, laid: inference.Windows) -> Iterator[Tile]:
    """Windows as TorchGeo's sampler lays them, from the south-west."""
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    data = RasterDataset([scene])
    sampler = GridGeoSampler(data, laid.size, laid.step)
    with rasterio.open(scene) as sar:
        at = ~sar.transform
    for found in torch.utils.data.DataLoader(
        data, inference.BATCH["cpu"], sampler=sampler, collate_fn=stack_samples
    ):
        for image, (x, y, _) in zip(found["image"], found["bounds"], strict=True):
            left, top = at @ (x.start, y.stop)
            yield round(top), round(left), image[0].numpy()


def looped(scene: Path, out: Path, laid: inference.Windows, tiles: Any) -> NDArray[np.float64]:
    """Seconds of predicting tiles one after the other, of adding up, and of writing."""
    model, norm, number = loaded()
    size, _, rim = laid
    inside, ramp = slice(rim, size - rim), np.arange(1, size - 2 * rim + 1, dtype=np.float32)
    ramp = np.minimum(ramp, ramp[::-1])
    weight = np.outer(ramp, ramp) / ramp.max() ** 2  # the tent that `predict` blends with
    start = clock()
    with rasterio.open(scene) as sar:
        height, width = sar.shape
    # A window may begin before the scene and end beyond it.
    room = height + 2 * size, width + 2 * size
    sums, weights = np.zeros((9, *room), np.float32), np.zeros(room, np.float32)
    at, images, valid = [], [], np.zeros(room, bool)

    def flush() -> None:
        for part, p in zip(at, inference.probabilities(model, np.stack(images)), strict=True):
            sums[:, *part] += p[:, inside, inside] * weight
            weights[part] += weight
        at.clear()
        images.clear()

    for top, left, dn in tiles(scene, laid):
        if dn[inside, inside].any():
            rows, cols = (slice(i + size + rim, i + 2 * size - rim) for i in (top, left))
            valid[rows, cols] |= dn[inside, inside] > 0
            images.append(normalised(dn, norm)[None])
            at.append((rows, cols))
        if len(at) == number:
            flush()
    if at:
        flush()
    here = slice(size, size + height), slice(size, size + width)
    p = sums[:, *here] / np.maximum(weights[here], 1e-9)
    written(scene, out, p, valid[here])
    return clock() - start


def normalised(dn: NDArray[Any], norm: datasets.Normalization) -> NDArray[np.float32]:
    """Normalised dB, no data as the mean."""
    db = radiometry.dn_to_db(dn.astype(np.uint16))
    return np.nan_to_num((db - norm.mean) / norm.std).astype(np.float32)


def written(scene: Path, out: Path, p: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Write the likeliest class as a COG."""
    with rasterio.open(scene) as sar:
        profile = sar.profile | dict(dtype="uint8", compress="deflate", predictor=1, tiled=True)
    plain = out.with_suffix(".plain.tif")
    with rasterio.open(plain, "w", **profile) as file:
        file.write(np.where(valid, p.argmax(0) + 1, 0).astype(np.uint8), 1)
    rasterio.shutil.copy(plain, out, driver="COG", compress="deflate", overview_resampling="mode")


def side() -> int:
    """The book's model's image size."""
    return st.load_model("reference").description["encoder"]["image_size"]


def plain(scene: Path, out: Path) -> NDArray[np.float64]:
    """Seconds of the plain loop."""
    return looped(scene, out, inference.windows(side()), by_rasterio)


def torchgeo(scene: Path, out: Path) -> NDArray[np.float64]:
    """Seconds of the loop over TorchGeo's sampler."""
    importlib.import_module("torchgeo.datasets")  # which takes seconds
    return looped(scene, out, inference.windows(side(), rim=0), by_torchgeo)


def tiler(scene: Path, out: Path) -> NDArray[np.float64]:
    """Seconds of tiler, whose own triangular weights are as ours."""
    from tiler import Merger, Tiler

    model, norm, number = loaded()
    laid = inference.windows(side(), rim=0)
    start = clock()
    with rasterio.open(scene) as sar:
        dn = sar.read(1)
    image = normalised(dn, norm)
    tiles = Tiler(dn.shape, (laid.size, laid.size), overlap=laid.size - laid.step)
    merger = Merger(tiles, "triang", logits=9, save_visits=False)
    seen = [i for i in range(len(tiles)) if tiles.get_tile(dn, i).any()]
    for first in range(0, len(seen), number):
        chosen = seen[first : first + number]
        images = np.stack([tiles.get_tile(image, i)[None] for i in chosen])
        for i, p in zip(chosen, inference.probabilities(model, images), strict=True):
            merger.add(i, p)
    written(scene, out, merger.merge(unpad=True), dn > 0)
    return clock() - start


def memory(scene: Path, out: Path) -> dict[str, float]:
    """Seconds and peak memory in MB of mapping a scene with the stand-in, confidence and all."""
    model, about = st.load_model("reference")
    published = importlib.import_module("sartutorial.learn.published")
    published.load_model = lambda _: published.Loaded(StandIn(model), about)
    start = time.perf_counter()
    st.predict(scene, "reference", out, confidence=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / (1e6 if sys.platform == "darwin" else 1e3)),
    }


def installed(package: str) -> str | None:
    """The version of a package, if it is there."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def child(what: str, scene: Path, out: Path) -> Any:
    """What a process of its own says."""
    command = [sys.executable, __file__, what, str(scene), str(out)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> int:
    """Measure, print and, at the sizes above, write the result."""
    if len(sys.argv) == 4:
        what, scene, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
        said = passes(scene) if what == "passes" else globals()[what](scene, out)
        print(json.dumps(said if what == "memory" else said.round(2).tolist()))
        return 0
    shapes = [s for s in os.environ.get("SHAPES", ",".join(SHAPES)).split(",") if s]
    (ROOT / "build").mkdir(exist_ok=True)
    here = {peer: there for peer, package in PEERS.items() if (there := installed(package))}
    found, runs = {}, {side: [] for side in ("passes", "ours", *here)}
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as tmp:
        scene = Path(tmp) / NAME
        make(scene, SIDE, SIDE)
        for i in range(RUNS):
            for what, seconds in runs.items():
                seconds.append(child(what, scene, Path(tmp) / f"{what}{i}.tif"))
                print(what, seconds[-1], "s passed and spent", flush=True)
        for shape in shapes:
            folder = Path(tmp) / shape
            folder.mkdir()
            make(folder / NAME, *map(int, shape.split("x")))
            cost = child("memory", folder / NAME, folder / "map.tif")
            found[shape] = cost | {"date": date.today().isoformat()}
            print(shape, cost, flush=True)
            shutil.rmtree(folder)
    kept = ROOT / "benchmarks" / "results" / "inference.json"
    last = json.loads(kept.read_text()) if kept.exists() else {}
    best, spent = ({what: min(run[k] for run in r) for what, r in runs.items()} for k in (0, 1))
    timed = {
        "ours": best["ours"],
        "peer": best["plain"],
        "peer_name": "plain read, predict, write loop over the same windows",
        "unit": "s",
        "ratio": round(best["plain"] / best["ours"], 2),
        "ratios": {peer: round(best[peer] / best["ours"], 2) for peer in here},
        "ratios_of_processor_time": {peer: round(spent[peer] / spent["ours"], 2) for peer in here},
        "versions": here,
        "not installed": [peer for peer in PEERS if peer not in here],
        "forward_passes": best["passes"],
        "times_the_passes": round(best["ours"] / best["passes"], 2),
        "times_their_processor_time": round(spent["ours"] / spent["passes"], 2),
        "size": SIDE,
        "load": [round(load, 1) for load in os.getloadavg()],
        "runs": runs,
    }
    # On a machine that others use, only the time of processors can be compared.
    result = {"name": "inference"} | last | (timed if (SIDE, RUNS) == WHOLE else {"quick": timed})
    result["with_a_stand_in"] = last.get("with_a_stand_in", {}) | found
    save(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
