"""What a trained network must beat: guesses without learning (chapter 06), and Table 1 (chapter 08)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError
from torch import Tensor, nn

from sartutorial import InputError, profiles
from sartutorial.learn import (
    checkpoints,
    datasets,
    evaluation,
    finetuning,
    pretraining,
    segmentation,
    training,
)
from sartutorial.learn.evaluation import Predict
from sartutorial.lulc import IGNORE_INDEX
from sartutorial.patches import read_legend

PIXELS, TREES = 300, 50  # of a patch, of the forest

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]


def visible_mean(z: Image, visible: Mask) -> Image:
    """``z`` (H, W) with its hidden pixels replaced by the mean of the visible ones.

    ``visible`` (H, W) is true where a pixel may be looked at. The unit is ``z``'s: an average of
    dB, like the L1 errors it is compared by. Raises ValueError, as all guesses here do, if nothing
    is visible or the shapes differ.
    """
    _check(z, visible)
    return np.where(visible, z, z.mean(where=visible))


def bilinear(z: Image, visible: Mask) -> Image:
    """``z`` (H, W) with its hidden pixels interpolated linearly between visible ones.

    Linear in both axes on the triangles of a Delaunay triangulation, since a mask leaves no
    rectangles; beyond the visible pixels' convex hull, the nearest visible pixel.
    """
    _check(z, visible)
    if visible.all():
        return z.copy()
    # A visible pixel among visible neighbours is a corner of no triangle that covers a hidden
    # pixel, so the border alone gives the triangulation of all.
    border = visible & ndimage.binary_dilation(~visible, np.ones((3, 3)))
    filled = _nearest(z, visible)
    try:
        linear = LinearNDInterpolator(np.argwhere(border), z[border])(np.argwhere(~visible))
    except QhullError:  # they lie on one line
        return filled
    filled[~visible] = np.where(np.isnan(linear), filled[~visible], linear)
    return filled


def gaussian(z: Image, visible: Mask, sigma: float) -> Image:
    """``z`` (H, W) with its hidden pixels the Gaussian-weighted mean of the visible ones.

    ``sigma`` in pixels. All visible pixels count, however far; where every weight is too small for
    float64 it is the nearest one, the limit of narrow Gaussians. For patches: memory grows with the
    square of the sides.
    """
    _check(z, visible)
    down, across = (
        np.exp(-(np.subtract.outer(i, i) ** 2) / (2 * sigma**2)) for i in map(np.arange, z.shape)
    )
    weight = down @ visible @ across
    total = down @ np.where(visible, z, 0) @ across
    filled = _nearest(z, visible)
    enough = ~visible & (weight > np.finfo(np.float64).tiny)
    filled[enough] = total[enough] / weight[enough]
    return filled


def masked_error(z: Image, guess: Image, visible: Mask) -> float:
    """Mean absolute error of the hidden pixels, in ``z``'s unit; all arrays (H, W).

    Raises ValueError if nothing is hidden or the shapes differ.
    """
    if z.shape != guess.shape or z.shape != visible.shape or visible.all():
        raise ValueError(f"shapes {z.shape}, {guess.shape}, {visible.shape}, or nothing is hidden")
    return float(np.abs(guess - z).mean(where=~visible, dtype=np.float64))


def _nearest(z: Image, visible: Mask) -> Image:
    """``z`` with every hidden pixel replaced by the nearest visible one."""
    row, column = ndimage.distance_transform_edt(
        ~visible, return_distances=False, return_indices=True
    )
    filled: Image = z[row, column]
    return filled


def _check(z: Image, visible: Mask) -> None:
    if z.shape != visible.shape or not visible.any():
        raise ValueError(f"shapes {z.shape} and {visible.shape}, or nothing is visible")


class UNet(nn.Module):
    """A plain U-Net of four scales on 2 x 2 pixels at a time: (B, 1, H, W) to logits (B, K, H, W)."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        self.down = nn.ModuleList(map(self.block, [4, *widths[:-1]], widths))
        self.up = nn.ModuleList(self.block(3 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, 4 * classes, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        """Twice a 3 x 3 convolution."""
        layers: list[nn.Module] = []
        for i in (inputs, outputs):
            convolution = nn.Conv2d(i, outputs, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Down, and up again beside what was there."""
        x, scales = F.pixel_unshuffle(x, 2), []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            scales.append(x)
        for i in (2, 1, 0):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.up[i](torch.cat([x, scales[i]], 1))
        return F.pixel_shuffle(self.head(x), 2)


def _unet(train: datasets.Patches, counts: Tensor, run: training.Run, out: Path) -> Predict:
    """The U-Net, trained by the package's own loop with rare classes weighted up."""
    weights = segmentation.rarity_weights(counts, 0.5)
    loss = partial(segmentation.segmentation_loss, loss="cross-entropy", weights=weights)
    file, model = out / "u-net.safetensors", UNet(len(counts))
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
    """A random forest on mean and variance in 7 x 7 pixels, from some pixels of every patch."""
    from sklearn.ensemble import RandomForestClassifier

    def features(image: Tensor) -> Image:
        x = image[:, 0].double().numpy()
        mean = ndimage.uniform_filter(x, (0, 7, 7))
        return np.stack([mean, ndimage.uniform_filter(x**2, (0, 7, 7)) - mean**2], -1)

    rng, xs, ys = np.random.default_rng(seed % datasets.SEEDS), [], []
    for i in range(len(train)):
        image, label = train[i]["image"], train[i]["label"].numpy()
        chosen = rng.permutation(np.flatnonzero(label != IGNORE_INDEX))[:PIXELS]
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
    split: Literal["train", "val", "test"] = "test",
    epochs: int = 12,
    learning_rate: float = 3e-3,
    batch: int = 16,
    labels: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, evaluation.Scores]:
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
    legend, rows = read_legend(patches), datasets.selected(patches, "finetune", split)
    fitted = datasets.selected(patches, "finetune", "train")
    fitted = datasets.share(fitted, legend, labels, seed)
    train = datasets.Patches(patches, fitted, seed=seed)
    counts = torch.from_numpy(datasets.class_counts(fitted, legend).sum(0))
    said = {"network": "U-Net", "classes": legend.names, "data": datasets.fingerprint(fitted)}
    schedule = training.Settings(
        epochs, epochs / 4, min(batch, len(train)), learning_rate, "cosine", seed=seed
    )
    run = training.Run(said, schedule, progress=progress)
    makers: dict[str, Callable[[], Predict]] = {
        "majority": lambda: partial(_majority, counts),
        "forest": lambda: _forest(train, counts, seed),
        "balanced forest": lambda: _forest(train, counts, seed, "balanced_subsample"),
        "u-net": lambda: _unet(train, counts, run, Path(out)),
    }
    if unknown := set(which or ()) - set(makers):
        raise InputError(f"{', '.join(unknown)}: no such baseline; use {', '.join(makers)}")
    found = {}
    for name in which or makers:
        result = evaluation.scored(
            makers[name](), patches, rows, train.norm, legend.names, progress=progress
        )
        result.update(split=split, model=name, seed=seed)
        checkpoints.write_json(result, Path(out) / f"{name}.json")
        found[name] = result
    return found


class Strategy(NamedTuple):
    """A row of Table 1: how the encoder starts, and the paper's figures (one run each)."""

    name: str
    kind: Literal["simmim", "mixmae"]
    method: pretraining.Method | None
    paper_macc: float
    paper_miou: float


STRATEGIES = (
    Strategy("MixMAE baseline (no pretraining)", "mixmae", None, 0.4223, 0.3340),
    Strategy("SAR-W-MixMAE (fine-tuned)", "mixmae", "sar-w-mixmae", 0.5806, 0.4734),
    Strategy("SimMIM baseline (no pretraining)", "simmim", None, 0.5292, 0.4258),
    Strategy("SimMIM (fine-tuned)", "simmim", "simmim", 0.6064, 0.4894),
    Strategy("SAR-W-SimMIM (fine-tuned)", "simmim", "sar-w-simmim", 0.6073, 0.4898),
)


class Table(dict[str, Any]):
    """The rows of Table 1 on our data, with every run; as text, a line a row."""

    def __str__(self) -> str:
        lines = [f"{'':<34} {'mIoU':>15} {'paper':>6} {'mAcc':>15} {'paper':>6}"]
        for row in self["rows"]:
            shown = [f"{row['name']:<34}"]
            for metric in ("miou", "macc"):
                spread = np.std(row[metric], ddof=1) if len(row[metric]) > 1 else np.nan
                shown.append(
                    f"{np.mean(row[metric]):.4f} ± {spread:.4f} {row[f'paper_{metric}']:.4f}"
                )
            lines.append(" ".join(shown))
        return "\n".join(lines)


def table1(
    out: str | Path,
    *,
    patches: str | Path | None = None,
    seeds: int = 5,
    plan: bool = False,
    profile: str | None = None,
    progress: bool = False,
) -> Table | list[str]:
    """Repeat the paper's Table 1: pretrain, fine-tune and test five strategies for several seeds.

    Args:
        out: Folder for all runs and ``table1.json``; runs that are done are not run again.
        patches: Folder that ``cut`` wrote and ``sample`` completed; default the simulated world's.
        seeds: How many runs a strategy has.
        plan: Whether to say only which runs are left, and to train nothing.
        profile: Scale of the networks and runs: laptop, gpu or japan.
        progress: Whether to draw progress bars.

    Returns:
        Test mIoU and mAcc of every seed, and the paper's figures beside them; or what is left.

    Raises:
        InputError: There are no sampled patches, or a run in ``out`` is of other ones.
    """
    patches = profiles.data_dir() / "patches" if patches is None else patches
    if seeds < 1:
        raise InputError(f"seeds={seeds}: must be at least 1")
    runs = [
        (s, seed, Path(out) / (s.method or f"{s.kind}-scratch") / f"seed{seed}")
        for s in STRATEGIES
        for seed in range(seeds)
    ]
    if plan:
        return [f"{s.name}, seed {n}" for s, n, at in runs if not (at / "test.json").exists()]
    rows = {s: s._asdict() | {"miou": [], "macc": []} for s in STRATEGIES}
    for s, seed, at in runs:
        encoder = s.method and pretraining.pretrain(
            patches, at / "pretrain", method=s.method, seed=seed, profile=profile, progress=progress
        )
        model = finetuning.finetune(
            patches,
            at / "finetune",
            encoder=encoder,
            kind=s.kind,
            seed=seed,
            profile=profile,
            progress=progress,
        )
        scores = evaluation.evaluate(patches, model, out=at / "test.json")
        for metric in ("miou", "macc"):
            rows[s][metric].append(scores[metric])
    result = Table(rows=list(rows.values()), seeds=seeds, profile=profiles.get(profile).name)
    result["provenance"] = checkpoints.provenance()
    checkpoints.write_json(result, Path(out) / "table1.json")
    return result
