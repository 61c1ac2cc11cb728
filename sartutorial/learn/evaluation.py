"""Score (paper section 4): one confusion matrix over all pixels, and how sure its scores are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sartutorial import InputError, check_words
from sartutorial.learn import checkpoints, datasets
from sartutorial.learn.published import load_model
from sartutorial.learn.segmentation import labelled
from sartutorial.lulc import IGNORE_INDEX
from sartutorial.patches import read_legend

BATCH = 16
BLOCK = 4  # patch sides, as splits are dealt
DRAWS = 1000  # of the bootstrap
BINS = 15  # of confidence, for the calibration error

Split = Literal["train", "val", "test"]
Predict = Callable[[Tensor], Tensor]  # images (B, 1, H, W), normalised, to logits (B, K, H, W)
Floats = NDArray[np.float64]


class Scores(dict[str, Any]):
    """The scores of a model; as text, a table beside those of the majority class."""

    def __str__(self) -> str:
        width, m = max(12, *map(len, self["classes"])), self["majority"]
        ious, recalls = self["per_class_iou"], self["per_class_accuracy"]
        spread: dict[str, Any] = self.get("per_class_iou_95", {})
        rows = [(name, ious[name], recalls[name], spread.get(name)) for name in self["classes"]]
        rows.append(("mean", self["miou"], self["macc"], self.get("miou_95")))
        rows.append(("majority", m["miou"], m["macc"], None))
        lines = [f"{'class':<{width}} {'IoU':>6} {'acc':>6}" + "  IoU, 95 %" * bool(spread)]
        for name, iou, recall, ends in rows:
            shown = "not in this split" if iou is None else f"{iou:6.3f} {recall:6.3f}"
            more = "  {:.3f} to {:.3f}".format(*ends) if ends else ""
            lines.append(f"{name:<{width}} {shown}{more}")
        share = f"overall accuracy {self['accuracy']:.3f}, majority class {m['accuracy']:.3f}"
        return "\n".join([*lines, share])


def scores(confusion: NDArray[np.int64], names: Sequence[str]) -> Scores:
    """Scores of a confusion matrix.

    IoU = TP / (TP + FP + FN) and accuracy = TP / (TP + FN) per class. A class without truth is None
    and left out of mIoU and mAcc (the authors' code counts an absent class as 0); without any truth
    the means are 0. ``accuracy`` is that of all pixels; ``majority`` scores the map that shows the
    most frequent class everywhere. ``confusion`` is (K, K): rows truth, columns prediction.
    """
    truth, hit = confusion.sum(1), np.diag(confusion)
    n, pixels = max(int((truth > 0).sum()), 1), max(int(truth.sum()), 1)
    share = float(truth.max(initial=0) / pixels)
    iou, recall = _iou(confusion), np.where(truth > 0, hit / np.maximum(truth, 1), np.nan)
    return Scores(
        miou=float(np.nansum(iou) / n),
        macc=float(np.nansum(recall) / n),
        accuracy=float(hit.sum() / pixels),
        per_class_iou=_named(names, iou),
        per_class_accuracy=_named(names, recall),
        majority={"miou": share / n, "macc": 1 / n, "accuracy": share},
        confusion_matrix=confusion.tolist(),
        classes=list(names),
    )


def _iou(confusion: NDArray[Any]) -> Floats:
    """IoU (..., K) of matrices (..., K, K), NaN for a class without truth."""
    truth, hit = confusion.sum(-1), np.diagonal(confusion, axis1=-2, axis2=-1)
    iou = hit / np.maximum(truth + confusion.sum(-2) - hit, 1)
    return np.where(truth > 0, iou, np.nan)


def _named(names: Sequence[str], values: Floats) -> dict[str, float | None]:
    return {k: None if np.isnan(v) else float(v) for k, v in zip(names, values, strict=True)}


def pooled(results: Sequence[Mapping[str, Any]], *, seed: int = 0) -> Scores:
    """Scores of several seeds' results on the same patches: means over seeds, with intervals.

    ``miou_95`` and ``per_class_iou_95`` are 95 % percentile intervals of a bootstrap that draws
    blocks and, apart from them, seeds; None where there is one block. A draw leaves out classes
    that its blocks do not hold. With few seeds the intervals are too narrow: they know no other.
    Raises InputError if the results, one a seed, are of different patches or classes.
    """
    matrices, names = _matrices(results), results[0]["classes"]
    pool = scores(matrices.sum((0, 1)), names)  # its accuracies are the means already
    pool.update(_summary(_draws(matrices, seed), names))
    pool["ece"] = float(np.mean([r["ece"] for r in results]))
    pool["seeds"] = [r.get("seed") for r in results]
    return pool


def difference(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Paired difference ``one - other`` in mIoU and IoU by class, with intervals as ``pooled`` has.

    Each of ``one`` is paired with that in its place in ``other``, and both are drawn alike. Raises
    InputError if they are of different patches or classes, or not as many.
    """
    matrices = _matrices([*one, *other])
    if len(one) != len(other):
        raise InputError(f"{len(one)} results against {len(other)}: give as many seeds of both")
    a, b = (_draws(part, seed) for part in np.split(matrices, 2))
    return _summary(a - b, one[0]["classes"])


def _matrices(results: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    """Their confusion matrices by seed and block, (S, N, K, K)."""
    truth = [[(k, np.sum(m, 1).tolist()) for k, m in r["blocks"].items()] for r in results]
    said = [(r["classes"], blocks) for r, blocks in zip(results, truth, strict=True)]
    if any(one != said[0] for one in said):
        raise InputError("these results are of different patches; evaluate all on the same split")
    return np.array([list(r["blocks"].values()) for r in results], np.int64)


def _draws(matrices: NDArray[np.int64], seed: int) -> Floats:
    """Mean IoU and IoU by class of (S, N, K, K): as measured, then by draw (1 + DRAWS, 1 + K)."""
    rng, (s, n) = np.random.default_rng(seed % datasets.SEEDS), matrices.shape[:2]
    draws = DRAWS if n > 1 else 0
    blocks, seeds = (
        np.vstack([np.ones(m), rng.multinomial(m, np.full(m, 1 / m), draws)]) for m in (n, s)
    )
    iou = _iou(np.tensordot(blocks, matrices, (1, 1)))  # (1 + DRAWS, S, K)
    mean = np.nansum(iou, -1) / np.maximum((~np.isnan(iou)).sum(-1), 1)
    return np.asarray(np.einsum("ds,dsk->dk", seeds / s, np.dstack([mean, iou])))


def _summary(draws: Floats, names: Sequence[str]) -> dict[str, Any]:
    ends = [
        np.nanpercentile(c[1:], [2.5, 97.5]).tolist() if len(c) > 1 and not np.isnan(c[0]) else None
        for c in draws.T
    ]
    return {
        "miou": float(draws[0, 0]),
        "miou_95": ends[0],
        "per_class_iou": _named(names, draws[0, 1:]),
        "per_class_iou_95": dict(zip(names, ends[1:], strict=True)),
    }


@torch.inference_mode()
def tally(
    predict: Predict,
    batches: DataLoader[Any],
    owner: Tensor,
    classes: int,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> tuple[NDArray[np.int64], float]:
    """Confusion matrices (N, K, K) of N blocks, rows truth, and the expected calibration error.

    Over all labelled pixels; where torch.distributed runs, over those of all its processes. ``owner``
    (patches,), int64, is the block of each. The error is the mean distance of confidence and
    accuracy, in 15 equal bins of the softmax's confidence (Guo et al. 2017).
    """
    owner, k = owner.to(device), classes
    pairs = torch.zeros((int(owner.max()) + 1) * k * k, dtype=torch.int64, device=device)
    bins = torch.zeros(BINS, dtype=torch.float64, device=device)
    for batch in tqdm(batches, desc="evaluate", unit="batch", disable=not progress):
        truth, place = batch["label"].to(device), batch["key"][:, 2].to(device)
        logits = predict(batch["image"].to(device))
        known, guess = truth != IGNORE_INDEX, logits.argmax(1)
        cell = (owner[place][:, None, None] * k + truth) * k + guess
        pairs += torch.bincount(cell[known], minlength=len(pairs))
        sure = logits.float().softmax(1).amax(1)[known].double()
        over = sure - (guess == truth)[known].double()
        bins += torch.bincount((sure * BINS).long().clamp(max=BINS - 1), over, BINS)
    if torch.distributed.is_initialized():
        for part in (pairs, bins):
            torch.distributed.all_reduce(part)
    return pairs.view(-1, k, k).cpu().numpy(), float(bins.abs().sum() / pairs.sum().clamp(min=1))


@torch.inference_mode()
def fitted_temperature(predict: Predict, batches: DataLoader[Any], *, device: str = "cpu") -> float:
    """What to divide logits by so that confidence is as large as accuracy (Guo et al. 2017).

    The cross-entropy of the labelled pixels, a sixteenth of them, is least there; 1 if there are none.
    """
    kept = []
    for batch in batches:
        logits = predict(batch["image"].to(device))[:, :, ::4, ::4].float().cpu()
        kept.append(labelled(logits, batch["label"][:, ::4, ::4]))
    logits, truth = (torch.cat(parts) for parts in zip(*kept, strict=True))
    if not len(truth):
        return 1.0
    own = logits.gather(1, truth[:, None])[:, 0]
    low, high = 0.01, 100.0  # of 1 / temperature, in which the cross-entropy is convex
    for _ in range(40):
        middle = math.sqrt(low * high)
        slope = (((logits * middle).softmax(1) * logits).sum(1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 1 / middle


def scored(
    predict: Predict,
    patches: str | Path,
    rows: pd.DataFrame,
    norm: datasets.Normalization,
    names: Sequence[str],
    *,
    device: str = "cpu",
    progress: bool = False,
) -> Scores:
    """Scores on patches, the rows of an index, with the confusion matrix of each spatial block."""
    a, b, c, d, e, f = np.stack(rows["transform"].to_list()).T
    size = rows["size"].to_numpy()
    # Squares in the raster's own coordinates: a machine that trains needs no map projections.
    x = (c + (a + b) * size / 2) // (BLOCK * size * np.hypot(a, d))
    y = (f + (d + e) * size / 2) // (BLOCK * size * np.hypot(b, e))
    cells = [f"{crs} {i:.0f} {j:.0f}" for crs, i, j in zip(rows["crs"], x, y, strict=True)]
    blocks, owner = np.unique(cells, return_inverse=True)
    batches = datasets.loader(datasets.Patches(patches, rows, norm), BATCH)
    place = torch.from_numpy(owner)
    matrices, error = tally(predict, batches, place, len(names), device=device, progress=progress)
    result = scores(matrices.sum(0), names)
    result.update(_summary(_draws(matrices[None], 0), names))
    result.update(ece=error, patches=len(rows), provenance=checkpoints.provenance())
    result["blocks"] = dict(zip(blocks.tolist(), matrices.tolist(), strict=True))
    return result


def evaluate(
    patches: str | Path,
    model: str | Path,
    *,
    split: Split = "test",
    out: str | Path | None = None,
    progress: bool = False,
) -> Scores:
    """Score a model on the labelled patches of a split (paper section 4).

    Args:
        patches: Folder that ``cut`` wrote and ``sample`` completed; its ``finetune`` patches are used.
        model: What ``finetune`` or ``import_weights`` wrote, or ``reference``, the book's own.
        split: The patches to score on.
        out: A JSON file for the scores and the confusion matrix.
        progress: Whether to draw a progress bar.

    Returns:
        The scores: miou, macc, per_class_iou, with 95 % intervals as ``pooled`` has them, ece (the
        expected calibration error), confusion_matrix, that of each block, classes, seed and more.

    Raises:
        InputError: The split holds no patch, the file no model of ours, or the patches are of another
            size, unit, spacing or legend than the model.
    """
    check_words(split=(split, Split))
    network, description = load_model(model)
    rows = datasets.selected(patches, "finetune", split)
    datasets.check_fits(rows, description, model)
    names, legend = description["legend"]["names"], read_legend(patches)
    if list(legend.names) != names:
        said = f"knows the classes {', '.join(names)}, {patches} has {', '.join(legend.names)}"
        raise InputError(f"{model}: {said}; fine-tune on these labels")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norm = datasets.Normalization(**description["normalization"])
    network.to(device)
    result = scored(network, patches, rows, norm, names, device=device, progress=progress)
    seed = description.get("training", {}).get("seed")  # published weights say nothing of theirs
    result.update(split=split, model=Path(model).name, seed=seed)
    if out is not None:
        checkpoints.write_json(result, out)
    return result
