"""What a trained model must beat, and Table 1 (chapter 08)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from sartutorial import InputError, check_words, profiles
from sartutorial.learn import checkpoints, datasets, evaluation, segmentation, training
from sartutorial.learn.evaluation import Predict, Scores
from sartutorial.learn.finetuning import finetune
from sartutorial.learn.pretraining import pretrain
from sartutorial.lulc import IGNORE_INDEX
from sartutorial.patches import read_legend

TREES = 50


class UNet(nn.Module):
    """A plain U-Net of four scales on 2 x 2 pixels at a time: (B, 1, H, W) to logits (B, K, H, W)."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(map(segmentation.convolved, [4, *widths[:-1]], widths))
        self.up = nn.ModuleList(segmentation.convolved(3 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, 4 * classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down, and up again beside what was there."""
        x, scales = F.pixel_unshuffle(x, 2), []
        for i, block in enumerate(self.down):
            scales.append(x := block(F.max_pool2d(x, 2) if i else x))
        for i in (2, 1, 0):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.up[i](torch.cat([x, scales[i]], 1))
        return F.pixel_shuffle(self.head(x), 2)


def _unet(train: datasets.Patches, counts: Tensor, run: training.Run, out: Path) -> Predict:
    """The U-Net, trained by the package's own loop with rare classes weighted up."""
    weights = segmentation.rarity_weights(counts, 0.5)
    loss = partial(segmentation.segmentation_loss, loss="cross-entropy", weights=weights)
    file, model = out / "u-net" / "model.safetensors", UNet(len(counts))
    training.trained(file, run, lambda: (UNet(len(counts)), loss, train))
    model.load_state_dict(load_file(file))
    return model.eval()


def _majority(counts: Tensor, image: Tensor) -> Tensor:
    """The classes' shares of the training pixels, everywhere."""
    shares = (counts / counts.sum()).log().view(1, -1, 1, 1)
    return shares.expand(len(image), -1, *image.shape[2:])


def _forest(
    train: datasets.Patches, counts: Tensor, seed: int, weight: str | None = None
) -> Predict:
    """A random forest on mean and variance in 7 x 7 pixels, from 300 pixels of every patch."""
    from sklearn.ensemble import RandomForestClassifier

    def features(image: Tensor) -> NDArray[np.float64]:
        x = image[:, 0].double().numpy()
        mean = ndimage.uniform_filter(x, (0, 7, 7))
        return np.stack([mean, ndimage.uniform_filter(x**2, (0, 7, 7)) - mean**2], -1)

    rng, xs, ys = np.random.default_rng(seed % datasets.SEEDS), [], []
    for i in range(len(train)):
        image, label = train[i]["image"], train[i]["label"].numpy()
        chosen = rng.permutation(np.flatnonzero(label != IGNORE_INDEX))[:300]
        xs.append(features(image[None]).reshape(-1, 2)[chosen])
        ys.append(label.ravel()[chosen])
    options = dict(min_samples_leaf=20, class_weight=weight, n_jobs=-1, random_state=seed % 2**32)
    model = RandomForestClassifier(TREES, **options).fit(np.concatenate(xs), np.concatenate(ys))

    def predict(image: Tensor) -> Tensor:
        x = features(image)[:, ::2, ::2]  # an answer for 2 x 2 pixels, in a quarter of the time
        p = np.zeros((*x.shape[:-1], len(counts)))
        p[..., model.classes_] = model.predict_proba(x.reshape(-1, 2)).reshape(*x.shape[:-1], -1)
        p = p.repeat(2, 1).repeat(2, 2)
        return torch.from_numpy(p).clamp(min=1e-9).log().permute(0, 3, 1, 2)

    return predict


def baselines(
    patches: str | Path,
    out: str | Path,
    *,
    which: Sequence[str] | None = None,
    split: evaluation.Split = "test",
    epochs: int = 12,
    learning_rate: float = 3e-3,
    batch: int = 16,
    labels: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Scores]:
    """Score simple models, fitted to the labelled training patches, as ``evaluate`` scores others.

    Args:
        patches: Folder that ``cut`` wrote and ``sample`` completed.
        out: Folder for the scores (a JSON a model) and the U-Net's weights.
        which: Of majority, forest, balanced forest, u-net; default all.
        split: The patches to score on.
        epochs: Of the U-Net.
        learning_rate: Of the U-Net, at its peak.
        batch: Patches a step, of the U-Net.
        labels: Share of the labelled patches, as ``finetune`` takes it.
        seed: Any whole number: of the first weights, the order, the flips and the forest's draws.
        progress: Whether to draw progress bars.

    Returns:
        The scores of each, by name.

    Raises:
        InputError: The patches are not sampled, there is no such baseline, or a setting is off.
    """
    check_words(split=(split, evaluation.Split))
    which = [which] if isinstance(which, str) else which
    legend, rows = read_legend(patches), datasets.selected(patches, "finetune", split)
    fitted = datasets.share(datasets.selected(patches, "finetune", "train"), legend, labels, seed)
    train = datasets.Patches(patches, fitted, seed=seed)
    counts = torch.from_numpy(datasets.class_counts(fitted, legend).sum(0))
    said = {"network": "U-Net", "classes": legend.names, "data": datasets.fingerprint(fitted)}
    batch = min(batch, len(train))
    schedule = training.Settings(epochs, epochs / 4, batch, learning_rate, "cosine", seed=seed)
    run = training.Run(said, schedule, progress=progress)
    makers: dict[str, Callable[[], Predict]] = {
        "majority": lambda: partial(_majority, counts),
        "forest": lambda: _forest(train, counts, seed),
        "balanced forest": lambda: _forest(train, counts, seed, "balanced_subsample"),
        "u-net": lambda: _unet(train, counts, run, Path(out)),
    }
    if unknown := set(which or ()) - set(makers):
        raise InputError(f"{', '.join(unknown)}: no such baseline; use {', '.join(makers)}")
    found, scored = {}, partial(evaluation.scored, progress=progress)
    for name in which or makers:
        found[name] = scored(makers[name](), patches, rows, train.norm, legend.names)
        found[name].update(split=split, model=name, seed=seed)
        checkpoints.write_json(found[name], Path(out) / f"{name}.json")
    return found


# Rows of Table 1: what pretrains the encoder, or which baseline it is; the paper's mAcc and mIoU (1 run).
ROWS: dict[str, dict[str, Any]] = {
    "MixMAE scratch": dict(kind="mixmae", paper=(0.4223, 0.3340)),
    "MixMAE": dict(kind="mixmae", method="mixmae"),
    "SAR-W-MixMAE": dict(kind="mixmae", method="sar-w-mixmae", paper=(0.5806, 0.4734)),
    "SimMIM scratch": dict(paper=(0.5292, 0.4258)),
    "SimMIM": dict(method="simmim", paper=(0.6064, 0.4894)),
    "SAR-W-SimMIM": dict(method="sar-w-simmim", paper=(0.6073, 0.4898)),
    "SAR-W-SimMIM linear": dict(method="sar-w-simmim", domain="linear"),
    **{name: dict(baseline=name) for name in ("u-net", "forest", "majority")},
}


def unit(file: Path, about: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A run of a study: read where ``file`` holds it, else made and kept at once."""
    if not file.exists():
        begin, found = time.monotonic(), make()
        checkpoints.write_json(found | about | {"wall_s": time.monotonic() - begin}, file)
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if known | about != known:
        raise InputError(f"{file}: holds another run than {about}; take another --out")
    return known


def left(files: Sequence[Path]) -> list[str]:
    """Which of a study's runs are not there, and how long they take at the pace of those that are."""
    names = [file.stem for file in files if not file.exists()]
    took = [json.loads(file.read_text())["wall_s"] for file in files if file.exists()]
    pace = f"about {len(names) * np.mean(took) / 60:.0f} minutes" if took else "none is done yet"
    return [*names, f"{len(names)} of {len(files)} runs left: {pace}"] if names else []


def _run(patches: str | Path, at: Path, row: dict[str, Any], **more: Any) -> dict[str, Any]:
    if baseline := row.get("baseline"):
        return baselines(patches, at, which=[baseline], seed=more["seed"])[baseline]
    how = {k: row[k] for k in ("method", "domain") if k in row}
    encoder = pretrain(patches, at / "encoder", **how, **more) if how else None
    more |= {"encoder": encoder, "kind": row.get("kind", "simmim")}
    return evaluation.evaluate(patches, finetune(patches, at / "model", **more))


def table1(
    out: str | Path,
    *,
    patches: str | Path | None = None,
    seeds: int = 5,
    plan: bool = False,
    profile: str | None = None,
    progress: bool = False,
) -> pd.DataFrame | list[str]:
    """Repeat the paper's Table 1, with baselines, on your patches or simulated ones, by seeds.

    Args:
        out: Folder for all runs and ``table1.json``; runs that are done are not run again.
        patches: Folder that ``cut`` wrote and ``sample`` completed; default the simulated world's.
        seeds: How many runs a row has.
        plan: Whether to say only which runs are left and how long they take, and to train nothing.
        profile: Scale of the networks and runs: laptop, gpu or japan.
        progress: Whether to draw progress bars.

    Returns:
        Test scores over all seeds, with their 95 %, and the paper's beside them; or what is left.

    Raises:
        InputError: There are no sampled patches, or a run in ``out`` is of other ones.
    """
    patches = profiles.data_dir() / "patches" if patches is None else patches
    if seeds < 1:
        raise InputError(f"seeds={seeds}: must be at least 1")
    files = {row: [Path(out, f"{row} {n}.json") for n in range(seeds)] for row in ROWS}
    if plan:
        return left([file for runs in files.values() for file in runs])
    data = datasets.fingerprint(datasets.selected(patches, "finetune"))
    about = {"profile": profiles.get(profile).name, "data": data, "origin": "rerun"}
    run, table = partial(_run, patches, profile=profile, progress=progress), {}
    for row, how in ROWS.items():
        runs = []
        for n, file in enumerate(files[row]):
            make = partial(run, file.with_suffix(""), how, seed=n)
            runs.append(unit(file, about | {"row": row, "seed": n}, make))
        ours = evaluation.pooled(runs)
        table[row] = {k: ours[k] for k in ("miou", "miou_95", "macc", "seeds")} | how
    checkpoints.write_json(about | {"rows": table}, Path(out, "table1.json"))
    return pd.DataFrame(table).T
