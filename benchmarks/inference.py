"""Mapping a scene with the book's model, against its forward passes alone and against a plain loop.

All sides have the same model, windows, batches and precision, and take turns. The floor is what no
program avoids: the forward passes of all windows that see data, from memory. The peer reads window by
window, normalises, predicts, adds up into arrays of the whole scene, and writes a COG.

Memory is measured beside it, with a stand-in of one convolution in place of the model, so that
scenes of up to 24,000 pixels a side are mapped in minutes; a process of its own for each.

    make bench NAME=inference
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
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import torch
from _rasters import save
from affine import Affine
from rasterio.windows import Window
from torch import nn

import sartutorial as st
from sartutorial import radiometry, rasters
from sartutorial.learn import datasets, inference

ROOT = Path(__file__).resolve().parents[1]
SIDE, RUNS = 1_536, 3  # of the timed scene
SIZES = (3_000, 6_000, 12_000, 24_000)  # of those whose memory is measured
NAME = "IMG-HH-ALOS2900013210-221008-UBSR2.1GUD.tif"


def make(path: Path, side: int) -> None:
    """A speckled scene with a slanted swath: made input, not the simulated world."""
    grid = rasters.Grid(
        rasterio.crs.CRS.from_epsg(32653), Affine(5, 0, 400_000, 0, -5, 3_900_000), side, side
    )
    rng = np.random.default_rng(side)
    with rasters.create(path, grid, {"QUANTITY": "sigma0"}, dtype="uint16", predictor=2) as sar:
        for top in range(0, side, 512):
            row, col = np.ogrid[top : min(top + 512, side), :side]
            level = 1000 + 500 * ((row // 97 + col // 61) % 5)
            looks = np.sqrt(rng.standard_gamma(4, level.shape, dtype=np.float32) / 4)
            dn = np.rint(level * looks).astype(np.uint16)
            dn[(col < 0.1 * row) | (col > 0.9 * side + 0.1 * row)] = 0
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


def passes(scene: Path) -> float:
    """Seconds of the forward passes of every window that sees data."""
    model, about = st.load_model("reference")
    norm = datasets.Normalization(**about["normalization"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    laid = inference.windows(model.encoder.config.image_size)
    with rasters.opened(scene) as sar:
        rows = [inference._read(sar, norm, laid, i)[:2] for i in range(len(laid.strips(sar)))]
    start = time.perf_counter()
    for image, seen in rows:
        for i in range(0, len(seen), inference.BATCH[device]):
            lefts = seen[i : i + inference.BATCH[device]]
            batch = np.stack([image[None, :, left : left + laid.size] for left in lefts])
            inference.probabilities(model, batch)
    return time.perf_counter() - start


def ours(scene: Path, out: Path) -> float:
    """Seconds of one call, without the loading of the weights, which both sides share."""
    start = time.perf_counter()
    st.load_model("reference")
    loading = time.perf_counter() - start
    start = time.perf_counter()
    st.predict(scene, "reference", out)
    return time.perf_counter() - start - loading


def peer(scene: Path, out: Path) -> float:
    """Seconds of the plain loop."""
    model, about = st.load_model("reference")
    norm = datasets.Normalization(**about["normalization"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    size, step, rim = laid = inference.windows(model.encoder.config.image_size)
    inside, weight = slice(rim, size - rim), laid.weights()
    start = time.perf_counter()
    with rasterio.open(scene) as sar:
        height, width, profile = sar.height, sar.width, sar.profile
        room = (-(-height // step) * step + size, -(-width // step) * step + size)
        sums, weights = np.zeros((9, *room), np.float32), np.zeros(room, np.float32)
        at, images = [], []

        def flush() -> None:
            for (top, left), p in zip(
                at, inference.probabilities(model, np.stack(images)), strict=True
            ):
                part = np.s_[top : top + size - 2 * rim, left : left + size - 2 * rim]
                sums[:, *part] += p[:, inside, inside] * weight
                weights[part] += weight
            at.clear()
            images.clear()

        valid = np.zeros((height, width), bool)
        for top in range(0, height, step):
            for left in range(0, width, step):
                window = Window(left - rim, top - rim, size, size)
                dn = sar.read(1, window=window, boundless=True, fill_value=0)
                rows, cols = min(step, height - top), min(step, width - left)
                valid[top : top + rows, left : left + cols] = (
                    dn[rim : rim + rows, rim : rim + cols] > 0
                )
                if not dn[inside, inside].any():
                    continue
                db = radiometry.dn_to_db(dn)
                images.append(np.nan_to_num((db - norm.mean) / norm.std)[None].astype(np.float32))
                at.append((top, left))
                if len(at) == inference.BATCH[device]:
                    flush()
        if at:
            flush()
    p = sums[:, :height, :width] / np.maximum(weights[:height, :width], 1e-9)
    classes = np.where(valid, p.argmax(0) + 1, 0).astype(np.uint8)
    plain = out.with_suffix(".plain.tif")
    profile |= dict(dtype="uint8", compress="deflate", predictor=1, tiled=True)
    with rasterio.open(plain, "w", **profile) as file:
        file.write(classes, 1)
    rasterio.shutil.copy(plain, out, driver="COG", compress="deflate", overview_resampling="mode")
    return time.perf_counter() - start


def memory(scene: Path, out: Path) -> dict[str, float]:
    """Seconds and peak memory in MB of mapping a scene with the stand-in, confidence and all."""
    model, about = st.load_model("reference")
    importlib.import_module("sartutorial.learn.published").load_model = lambda _: (
        StandIn(model),
        about,
    )
    start = time.perf_counter()
    st.predict(scene, "reference", out, confidence=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / (1e6 if sys.platform == "darwin" else 1e3)),
    }


def child(what: str, scene: Path, out: Path) -> Any:
    """What a process of its own says."""
    command = [sys.executable, __file__, what, str(scene), str(out)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> int:
    """Measure, print and, at the sizes above, write the result."""
    if len(sys.argv) == 4:
        what, scene, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
        said = passes(scene) if what == "passes" else globals()[what](scene, out)
        print(json.dumps(said))
        return 0
    asked = os.environ.get("SIZES", ",".join(map(str, SIZES)))
    sizes = tuple(int(size) for size in asked.split(",") if size)
    (ROOT / "build").mkdir(exist_ok=True)
    found, runs = {}, []
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as tmp:
        scene = Path(tmp) / NAME
        make(scene, SIDE)
        for i in range(RUNS):
            runs.append(
                [
                    child(what, scene, Path(tmp) / f"{what}{i}.tif")
                    for what in ("passes", "ours", "peer")
                ]
            )
        for size in sizes:
            folder = Path(tmp) / str(size)
            folder.mkdir()
            make(folder / NAME, size)
            found[str(size)] = child("memory", folder / NAME, folder / "map.tif")
            shutil.rmtree(folder)
    floor_s, ours_s, peer_s = (min(run[k] for run in runs) for k in range(3))
    result = {
        "name": "inference",
        "ours": round(ours_s, 2),
        "peer": round(peer_s, 2),
        "peer_name": "plain read, predict, write loop over the same windows",
        "unit": "s",
        "ratio": round(peer_s / ours_s, 2),
        "forward_passes": round(floor_s, 2),
        "times_the_passes": round(ours_s / floor_s, 2),
        "size": SIDE,
        "runs": [[round(s, 2) for s in run] for run in runs],
        "with_a_stand_in_by_size": found,
    }
    save(result, keep=sizes == SIZES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
