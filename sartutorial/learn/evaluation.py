"""Score (paper section 4): one global confusion matrix, IoU and accuracy per class and on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix
from tqdm import tqdm

from sartutorial import checkpoints, datasets, lulc, segmentation


def scores(confusion: NDArray[np.int64]) -> dict[str, Any]:
    """Scores of a confusion matrix (K, K), rows truth, columns prediction.

    IoU = TP / (TP + FP + FN) and accuracy = TP / (TP + FN) per class. A class without truth is None
    and left out of mIoU and mAcc (the authors' code counts an absent class as 0). ``accuracy`` is
    that of all pixels; ``majority`` scores the map that shows the most frequent class everywhere.
    """
    truth, hit = confusion.sum(1), np.diag(confusion)
    present = truth > 0
    iou = hit / np.maximum(truth + confusion.sum(0) - hit, 1)
    recall = hit / np.maximum(truth, 1)
    share = truth.max(initial=0) / max(truth.sum(), 1)
    n = max(int(present.sum()), 1)

    def named(values: NDArray[np.float64]) -> dict[str, float | None]:
        columns = zip(lulc.NAMES, values, present, strict=True)
        return {name: float(v) if p else None for name, v, p in columns}

    return {
        "miou": float(iou[present].sum() / n),
        "macc": float(recall[present].sum() / n),
        "accuracy": float(hit.sum() / max(truth.sum(), 1)),
        "per_class_iou": named(iou),
        "per_class_accuracy": named(recall),
        "majority": {"miou": float(share / n), "macc": 1 / n, "accuracy": float(share)},
        "confusion_matrix": confusion.tolist(),
        "classes": list(lulc.NAMES),
    }


@torch.inference_mode()
def confusion_matrix(
    model: torch.nn.Module, batches: DataLoader[Any], *, progress: bool = False
) -> NDArray[np.int64]:
    """The confusion matrix (9, 9) of a model over all labelled pixels that ``batches`` hold."""
    device = next(model.parameters()).device
    k = len(lulc.NAMES)
    matrix = MulticlassConfusionMatrix(k, ignore_index=lulc.IGNORE_INDEX).to(device)
    model.eval()
    for batch in tqdm(batches, desc="evaluate", unit="batch", disable=not progress):
        predicted = model(batch["image"].to(device)).argmax(1)
        matrix.update(predicted, batch["label"].to(device))
    found: NDArray[np.int64] = matrix.compute().cpu().numpy().astype(np.int64)
    return found


def evaluate(
    folder: str | Path,
    file: str | Path,
    *,
    split: str = "test",
    out: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score the model in ``file`` on the labelled patches of a split; written to ``out`` as JSON.

    Raises InputError if the split holds no patch or the file is no model of ours.
    """
    model, description = segmentation.from_file(file)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = datasets.selected(folder, "finetune", split)
    norm = datasets.Normalization(**description["normalization"])
    batches = datasets.loader(datasets.Patches(folder, rows, norm), 16, shuffle=False)
    result = scores(confusion_matrix(model, batches, progress=progress))
    result |= {"split": split, "patches": len(rows), "model": Path(file).name}
    seed = description.get("training", {}).get("seed")  # published weights say nothing of theirs
    result |= {"seed": seed, "provenance": checkpoints.provenance()}
    if out is not None:
        checkpoints.write_json(result, out)
    return result


def table(result: dict[str, Any]) -> str:
    """The scores as lines of text, beside those of the majority class."""
    m = result["majority"]
    lines = [f"{'class':<12} {'IoU':>6} {'acc':>6}"]
    for name in result["classes"]:
        iou, acc = result["per_class_iou"][name], result["per_class_accuracy"][name]
        shown = "not in this split" if iou is None else f"{iou:6.3f} {acc:6.3f}"
        lines.append(f"{name:<12} {shown}")
    lines.append(f"{'mean':<12} {result['miou']:6.3f} {result['macc']:6.3f}")
    lines.append(f"{'majority':<12} {m['miou']:6.3f} {m['macc']:6.3f}")
    lines.append(f"overall accuracy {result['accuracy']:.3f}, majority class {m['accuracy']:.3f}")
    return "\n".join(lines)
