"""Score (paper section 4): one global confusion matrix, IoU and accuracy per class and on average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix
from tqdm import tqdm

from sartutorial import InputError
from sartutorial.learn import checkpoints, datasets
from sartutorial.learn.published import load_model
from sartutorial.lulc import IGNORE_INDEX

BATCH = 16


class Scores(dict[str, Any]):
    """The scores of a model; as text, a table beside those of the majority class."""

    def __str__(self) -> str:
        m = self["majority"]
        width = max(12, *(len(name) for name in self["classes"]))
        lines = [f"{'class':<{width}} {'IoU':>6} {'acc':>6}"]
        for name in self["classes"]:
            iou, acc = self["per_class_iou"][name], self["per_class_accuracy"][name]
            shown = "not in this split" if iou is None else f"{iou:6.3f} {acc:6.3f}"
            lines.append(f"{name:<{width}} {shown}")
        lines.append(f"{'mean':<{width}} {self['miou']:6.3f} {self['macc']:6.3f}")
        lines.append(f"{'majority':<{width}} {m['miou']:6.3f} {m['macc']:6.3f}")
        share = f"overall accuracy {self['accuracy']:.3f}, majority class {m['accuracy']:.3f}"
        return "\n".join([*lines, share])


def scores(confusion: NDArray[np.int64], names: Sequence[str]) -> Scores:
    """Scores of a confusion matrix.

    IoU = TP / (TP + FP + FN) and accuracy = TP / (TP + FN) per class. A class without truth is None
    and left out of mIoU and mAcc (the authors' code counts an absent class as 0). ``accuracy`` is
    that of all pixels; ``majority`` scores the map that shows the most frequent class everywhere.

    Args:
        confusion: Pixels (K, K), rows truth, columns prediction.
        names: Of the K classes.
    """
    truth, hit = confusion.sum(1), np.diag(confusion)
    present = truth > 0
    iou = hit / np.maximum(truth + confusion.sum(0) - hit, 1)
    recall = hit / np.maximum(truth, 1)
    share = truth.max(initial=0) / max(truth.sum(), 1)
    n = max(int(present.sum()), 1)

    def named(values: NDArray[np.float64]) -> dict[str, float | None]:
        columns = zip(names, values, present, strict=True)
        return {name: float(v) if p else None for name, v, p in columns}

    return Scores(
        miou=float(iou[present].sum() / n),
        macc=float(recall[present].sum() / n),
        accuracy=float(hit.sum() / max(truth.sum(), 1)),
        per_class_iou=named(iou),
        per_class_accuracy=named(recall),
        majority={"miou": float(share / n), "macc": 1 / n, "accuracy": float(share)},
        confusion_matrix=confusion.tolist(),
        classes=list(names),
    )


@torch.inference_mode()
def confusion_matrix(
    model: torch.nn.Module, batches: DataLoader[Any], classes: int, *, progress: bool = False
) -> NDArray[np.int64]:
    """The confusion matrix (K, K) of a model over all labelled pixels that ``batches`` hold.

    Where torch.distributed runs, it is the sum over all processes.
    """
    device = next(model.parameters()).device
    matrix = MulticlassConfusionMatrix(classes, ignore_index=IGNORE_INDEX).to(device)
    model.eval()
    for batch in tqdm(batches, desc="evaluate", unit="batch", disable=not progress):
        predicted = model(batch["image"].to(device)).argmax(1)
        matrix.update(predicted, batch["label"].to(device))
    found: NDArray[np.int64] = matrix.compute().cpu().numpy().astype(np.int64)
    return found


def evaluate(
    patches: str | Path,
    model: str | Path,
    *,
    split: Literal["train", "val", "test"] = "test",
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
        The scores: miou, macc, per_class_iou, confusion_matrix, classes, seed and more.

    Raises:
        InputError: The split holds no patch, the file no model of ours, or the patches are of another
            size, unit, spacing or legend than the model.
    """
    network, description = load_model(model)
    rows = datasets.selected(patches, "finetune", split)
    norm = datasets.Normalization(**description["normalization"])
    data = datasets.Patches(patches, rows, norm)
    datasets.check_fits(rows, description, model)
    names = description["legend"]["names"]
    if data.legend and list(data.legend.names) != names:
        raise InputError(
            f"{model}: knows the classes {', '.join(names)}, the labels of {patches} have "
            f"{', '.join(data.legend.names)}; fine-tune on these labels"
        )
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    batches = datasets.loader(data, BATCH)
    result = scores(confusion_matrix(network, batches, len(names), progress=progress), names)
    seed = description.get("training", {}).get("seed")  # published weights say nothing of theirs
    result.update(split=split, patches=len(rows), model=Path(model).name, seed=seed)
    result["provenance"] = checkpoints.provenance()
    if out is not None:
        checkpoints.write_json(result, out)
    return result
