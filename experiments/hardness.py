"""Is the simulated world worth a network? A random forest against a small U-Net, for chapter 08.

    python -m experiments.hardness

The forest sees a pixel's own neighbourhood, mean and variance of the decibels in 7 x 7 pixels; the
network sees the patch. Same world, same blocked split with its buffer, scores on the test patches
with intervals from resampled blocks. About ten minutes on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from sartutorial import splits, tutorial
from sartutorial.learn import checkpoints, datasets, evaluation
from sartutorial.lulc import HR_LULC, IGNORE_INDEX

RESULT = Path(__file__).parents[1] / "book" / "results" / "hardness.json"
CLASSES = len(HR_LULC.names)
SEED, EPOCHS, BATCH, PIXELS, TREES = 0, 12, 16, 300, 50
STRIDE = 2  # every second row and column is scored
Predict = Callable[[dict[str, Tensor]], NDArray[np.int64]]


class UNet(nn.Module):
    """A plain U-Net of four scales on 2 x 2 pixels at a time: (B, 1, H, W) to logits (B, 9, H, W)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(
            map(self.block, [4, *widths[:-1]], widths),
        )
        self.up = nn.ModuleList(self.block(3 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, 4 * CLASSES, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        """Twice a 3 x 3 convolution."""
        layers: list[nn.Module] = []
        for i in (inputs, outputs):
            layers += [
                nn.Conv2d(i, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Down, and up again beside what was there."""
        x, scales = functional.pixel_unshuffle(x, 2), []
        for i, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if i else x)
            scales.append(x)
        for i in (2, 1, 0):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.up[i](torch.cat([x, scales[i]], 1))
        out: Tensor = functional.pixel_shuffle(self.head(x), 2)
        return out


def features(image: Tensor) -> NDArray[np.float64]:
    """Mean and variance in 7 x 7 pixels, (B x H x W, 2)."""
    x = image[:, 0].numpy().astype(np.float64)
    mean = ndimage.uniform_filter(x, (0, 7, 7))
    variance = ndimage.uniform_filter(x**2, (0, 7, 7)) - mean**2
    return np.stack([mean.ravel(), variance.ravel()], 1)


def forest(train: datasets.Patches, balanced: bool) -> Predict:
    """A random forest on some pixels of every training patch."""
    rng, xs, ys = np.random.default_rng(SEED), [], []
    for i in range(len(train)):
        item = train[i]
        label = item["label"].numpy().ravel()
        chosen = rng.choice(np.flatnonzero(label >= 0), PIXELS, replace=False)
        xs.append(features(item["image"][None])[chosen])
        ys.append(label[chosen])
    model = RandomForestClassifier(
        TREES,
        min_samples_leaf=20,
        class_weight="balanced_subsample" if balanced else None,
        n_jobs=-1,
        random_state=SEED,
    )
    model.fit(np.concatenate(xs), np.concatenate(ys))

    def predict(batch: dict[str, Tensor]) -> NDArray[np.int64]:
        shape = batch["label"].shape
        every = features(batch["image"]).reshape(*shape, 2)[:, ::STRIDE, ::STRIDE]
        return model.predict(every.reshape(-1, 2)).reshape(every.shape[:-1])

    return predict


def network(train: datasets.Patches) -> Predict:
    """The U-Net after a one-cycle schedule, with rare classes weighted up by the root of their rarity."""
    torch.manual_seed(SEED)
    counts = torch.zeros(CLASSES)
    for i in range(len(train)):
        label = train[i]["label"]
        counts += torch.bincount(label[label >= 0], minlength=len(counts))
    weight = (counts.sum() / counts.clamp(min=1)).sqrt()
    order = datasets.Shuffled(len(train), SEED, min(BATCH, len(train)))
    model, batches = UNet(), datasets.loader(train, min(BATCH, len(train)), order)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, EPOCHS * len(batches))
    for epoch in tqdm(range(EPOCHS), "U-Net", unit="epoch"):
        order.set_epoch(epoch)
        for batch in batches:
            loss = functional.cross_entropy(
                model(batch["image"]), batch["label"], weight, ignore_index=IGNORE_INDEX
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    return lambda batch: model(batch["image"]).argmax(1).numpy()[:, ::STRIDE, ::STRIDE]


@torch.no_grad()
def confusions(predict: Predict, test: datasets.Patches) -> NDArray[np.int64]:
    """A confusion matrix a patch, (P, 9, 9)."""
    k, found = CLASSES, []
    for batch in tqdm(datasets.loader(test, 8), "score"):
        labels = batch["label"].numpy()[:, ::STRIDE, ::STRIDE]
        for truth, guess in zip(labels, predict(batch), strict=True):
            known = truth >= 0
            found.append(np.bincount(k * truth[known] + guess[known], minlength=k * k))
    return np.array(found).reshape(-1, k, k)


def scored(matrices: NDArray[np.int64], blocks: NDArray[np.int64]) -> dict[str, Any]:
    """Mean IoU with the 95 % interval of 1,000 draws of whole blocks, and IoU a class."""
    rng, n = np.random.default_rng(SEED), int(blocks.max()) + 1
    each = np.stack([matrices[blocks == b].sum(0) for b in range(n)])
    drawn = (each[rng.integers(n, size=n)].sum(0) for _ in range(1000))
    draws = [evaluation.scores(matrix, HR_LULC.names)["miou"] for matrix in drawn]
    whole = evaluation.scores(matrices.sum(0), HR_LULC.names)
    low, high = np.percentile(draws, [2.5, 97.5])
    kept = {k: whole[k] for k in ("miou", "accuracy", "per_class_iou")}
    return kept | {"miou_95": [low, high], "majority": whole["majority"]["miou"]}


def main() -> None:
    """Train, score, write."""
    folder = tutorial.sampled()
    rows = {s: datasets.selected(folder, "finetune", s) for s in ("train", "test")}
    norm = datasets.statistics(folder, rows["train"])
    train, test = (datasets.Patches(folder, r, norm, seed=SEED) for r in rows.values())
    blocks = splits.blocks(rows["test"], 4)
    result: dict[str, Any] = {
        "what": "test scores on the simulated laptop world, blocked split with buffer",
        "patches": {k: len(v) for k, v in rows.items()},
        "blocks": int(blocks.max()) + 1,
        "network": {"name": "U-Net", "epochs": EPOCHS, "seed": SEED}
        | {"parameters": sum(p.numel() for p in UNet().parameters())},
        "forest": {
            "trees": TREES,
            "features": "mean and variance of dB in 7 x 7 pixels",
            "seed": SEED,
        },
        "script": "python -m experiments.hardness",
        "provenance": checkpoints.provenance(),
    }
    models = {
        "network": lambda: network(train),
        "forest": lambda: forest(train, False),
        "forest, balanced": lambda: forest(train, True),
    }
    for name, make in models.items():
        result[name] = result.get(name, {}) | scored(confusions(make(), test), blocks)
        print(name, result[name]["miou"], result[name]["miou_95"])
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
