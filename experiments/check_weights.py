"""Check downloaded weights of the authors in one run: keys, shapes, normalisation, order of the classes.

    python -m experiments.check_weights FILE.pth
    python -m experiments.check_weights FILE.pth --scene HALVED.tif --labels LABELS.tif

With a halved scene (sigma0, HH, 5 m; what ``downsample`` wrote) and its label raster, the published
normalisation is compared with others, and each order in which the nine classes could have been trained is
scored on up to 64 patches: the best is found by linear assignment on the confusion matrix. None of it
was run on the published files, which were not at hand; tests/test_check_weights.py runs it on a
file built from their keys.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import sartutorial as st
from sartutorial.learn import published
from sartutorial.learn.segmentation import Segmenter

PATCHES = 64
RATE = 8  # patches at a time


def patches(
    scene: str | Path, labels: str | Path, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Patches without void, dB (N, size, size) and training classes, -1 = none, evenly over a scene."""
    db = st.read_db(scene).db
    known = st.read_classes(labels)
    classes = known.legend.to_index(known.ids)
    if db.shape != classes.shape:
        raise SystemExit(f"{labels}: not on the grid of {scene}")
    places = [
        (row, col)
        for row in range(0, db.shape[0] - size + 1, size)
        for col in range(0, db.shape[1] - size + 1, size)
        if np.isfinite(db[row : row + size, col : col + size]).all()
        and (classes[row : row + size, col : col + size] >= 0).any()
    ]
    if not places:
        raise SystemExit(f"{scene}: holds no patch of {size} px without void that has labels")
    chosen = [
        places[i] for i in np.linspace(0, len(places) - 1, min(PATCHES, len(places))).astype(int)
    ]
    parts = [(slice(r, r + size), slice(c, c + size)) for r, c in chosen]
    return np.stack([db[p] for p in parts]), np.stack([classes[p] for p in parts]).astype(np.int64)


@torch.inference_mode()
def confusion(
    model: Segmenter, db: NDArray[np.float32], truth: NDArray[np.int64], mean: float, std: float
) -> NDArray[np.int64]:
    """Pixels (classes, channels): rows the label's class, columns the model's channel."""
    number = model.config.classes
    image = torch.from_numpy((db - mean) / std)[:, None]
    said = torch.cat([model(part).argmax(1) for part in image.split(RATE)]).numpy()
    valid = truth >= 0
    flat = truth[valid] * number + said[valid]
    return np.bincount(flat, minlength=number**2).reshape(number, number)


def order(matrix: NDArray[np.int64]) -> tuple[list[int], float, float]:
    """The channel of each class that fits best, and the shares of pixels that it and ours get right."""
    _, channels = linear_sum_assignment(matrix, maximize=True)
    pixels = max(int(matrix.sum()), 1)
    best = matrix[np.arange(len(matrix)), channels].sum() / pixels
    return channels.tolist(), float(best), float(np.trace(matrix) / pixels)


def report(
    file: str | Path, scene: str | Path | None = None, labels: str | Path | None = None
) -> dict[str, Any]:
    """Everything that can be told of a checkpoint; prints it, and returns it."""
    model, about = published._load(file, ours=False)  # raises InputError where a key finds no place
    said: dict[str, Any] = {
        "kind": type(model).__name__,
        "numbers": sum(p.numel() for p in model.parameters()),
        "encoder": about["encoder"],
    }
    print(f"keys and shapes: all fit a {said['kind']} of {said['numbers']:,} numbers")
    print(f"encoder: {about['encoder']}")
    for name, ground in about["grounds"].items():
        print(f"on trust, {name}: {ground}")
    if not (isinstance(model, Segmenter) and scene and labels):
        print("order and normalisation: need a fine-tuned model, --scene and --labels")
        return said
    names = about["legend"]["names"]
    db, truth = patches(scene, labels, model.encoder.config.image_size)
    own = float(db.mean()), float(db.std())
    given = about["normalization"]["mean"], about["normalization"]["std"]
    for label, (mean, std) in {
        "published": given,
        "of this scene": own,
        "none": (0.0, 1.0),
    }.items():
        matrix = confusion(model, db, truth, mean, std)
        channels, best, ours = order(matrix)
        said[label] = {"channels": channels, "best": best, "ours": ours}
        print(
            f"normalisation {label} ({mean:.2f}, {std:.2f} dB): right {ours:.1%}, best order {best:.1%}"
        )
    matrix = confusion(model, db, truth, *given)
    for i, channel in enumerate(said["published"]["channels"]):
        seen = "" if matrix[i].sum() else " (no such label here: tells nothing)"
        mark = "as we read it" if channel == i else f"fits {names[channel]}'s place better"
        print(f"  {names[i]:<14} channel {channel}: {mark}{seen}")
    return said


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--scene")
    parser.add_argument("--labels")
    given = parser.parse_args()
    report(given.file, given.scene, given.labels)


if __name__ == "__main__":
    main()
