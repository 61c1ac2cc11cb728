"""How well can the laptop's network fill in what is hidden, given time? For chapter 06.

    python -m experiments.reference

The same network, data and method as in the chapter, for many more epochs; then the error of the
hidden pixels of the test patches beside guesses that learn nothing. The Gaussian is the best one on
these very patches: a lead that the network is not given. Intervals are of differences to the
network, from resampled blocks. It goes on where it was stopped; about forty minutes on one core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from experiments import shared
from sartutorial import splits, tutorial
from sartutorial.learn import datasets, pretraining
from sartutorial.learn.published import load_pretraining
from sartutorial.profiles import data_dir

RESULT = Path(__file__).parents[1] / "book" / "results" / "reference.json"
METHOD: pretraining.Method = "sar-w-simmim"
EPOCHS, MASK_SEED = 120, 1
SIGMAS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)  # px


def filled(file: Path, images: Tensor, masks: Tensor) -> Tensor:
    """The images (B, 1, H, W) as the network in ``file`` reconstructs them."""
    model = load_pretraining(file).model
    with torch.inference_mode():
        parts = zip(images.split(32), masks.split(32), strict=True)
        return torch.cat([model(image, mask)[1] for image, mask in parts])


GUESSES = ("nearest", "visible_mean", "bilinear", "gaussian", "masked_error")


def errors(images: Tensor, masks: Tensor, network: Tensor) -> dict[str, NDArray[np.float64]]:
    """The mean absolute error of each image's hidden pixels, by guess, in the images' unit."""
    chapter = shared.of_chapter("06_pretraining", *GUESSES)
    guesses: dict[str, Any] = {"visible mean": chapter.visible_mean, "bilinear": chapter.bilinear}
    for sigma in SIGMAS:
        guesses[f"Gaussian {sigma}"] = lambda z, v, s=sigma: chapter.gaussian(z, v, s)
    found: dict[str, list[float]] = {"SAR-W-SimMIM": [], **{name: [] for name in guesses}}
    for image, mask, guess in zip(images[:, 0].numpy(), masks, network[:, 0].numpy(), strict=True):
        visible = np.kron(mask.numpy(), np.ones((pretraining.CELL,) * 2)) == 0
        found["SAR-W-SimMIM"].append(chapter.masked_error(image, guess, visible))
        for name, fill in guesses.items():
            error = chapter.masked_error(image, fill(image, visible), visible)
            found[name].append(error)
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Train, measure, write."""
    folder, out = tutorial.sampled(), data_dir() / "encoders" / "reference"
    file = pretraining.pretrain(folder, out, method=METHOD, epochs=EPOCHS, progress=True)
    description = load_pretraining(file).description
    norm = datasets.Normalization(**description["normalization"])
    rows = datasets.selected(folder, "finetune", "test")
    test = datasets.Patches(folder, rows, norm)
    images = torch.stack([test[i]["image"] for i in tqdm(range(len(test)), "read")])
    keys = torch.tensor([[MASK_SEED, 0, i] for i in range(len(test))])
    cells = images.shape[-1] // pretraining.CELL
    masks = pretraining.mask_cells(cells, pretraining.MASK_RATIO["simmim"], keys)
    each = errors(images, masks, filled(file, images, masks))
    sigma = min(SIGMAS, key=lambda s: each[f"Gaussian {s}"].mean())
    each = {k: norm.std * v for k, v in each.items() if "Gaussian" not in k} | {
        "Gaussian": norm.std * each[f"Gaussian {sigma}"]
    }
    blocks, rng = splits.blocks(rows, 4), np.random.default_rng(0)
    places = [np.flatnonzero(blocks == b) for b in range(blocks.max() + 1)]
    picks = (rng.integers(len(places), size=len(places)) for _ in range(1000))
    draws = [np.concatenate([places[b] for b in pick]) for pick in picks]
    intervals = {}
    for name, values in each.items():
        if name != "SAR-W-SimMIM":
            lead = values - each["SAR-W-SimMIM"]
            intervals[name] = np.percentile([lead[d].mean() for d in draws], [2.5, 97.5]).tolist()
    result = {
        "what": "mean absolute error of hidden pixels, simulated test patches of the laptop world",
        "method": METHOD,
        "epochs": EPOCHS,
        "patches": len(datasets.selected(folder, "pretrain")),
        "test_patches": len(test),
        "blocks": len(places),
        "error_db": {name: float(values.mean()) for name, values in each.items()},
        "sigma_px": sigma,
        "worse_than_the_network_by_db_95": intervals,
        "loss": description["history"],
        "script": "python -m experiments.reference",
        "provenance": description["provenance"],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["error_db"], indent=1))


if __name__ == "__main__":
    main()
