"""Five spatial folds of a real L-band HH scene: AIRSAR over Flevoland, with its field labels.

The rasters are their owners' and not in this repository (data/README.md).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT
from scipy import ndimage
from torch import Tensor

import sartutorial as st
from experiments import search
from experiments.lband_levels import LABELS, SCENE
from sartutorial.learn import evaluation

FOLDS, SIDE, GUARD = 5, 128, 16  # GUARD: pixels of training labels around a test cell that are void


@cache
def scene() -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Decibels and class indices (-1 = void) of whole cells, both (640, 1024)."""
    db, grid, _ = st.read_db(SCENE, quantity="sigma0")
    with (
        rasterio.open(LABELS) as labels,
        WarpedVRT(labels, **grid._asdict(), tolerance=1e-9) as vrt,
    ):
        ids = np.where(np.isfinite(db), vrt.read(1), 0)
    h, w = (n // SIDE * SIDE for n in db.shape)
    filled = np.nan_to_num(db, nan=float(np.nanmin(db)))
    return filled[:h, :w], st.HR_LULC.to_index(ids).astype(np.int8)[:h, :w]


def cells(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W) to its cells (N, 128, 128), row by row."""
    h, w = (n // SIDE for n in image.shape)
    return image.reshape(h, SIDE, w, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def folds() -> NDArray[np.int64]:
    """The fold of every cell: (row + 2 column) mod 5, so that no cell meets its own fold at an edge."""
    h, w = (n // SIDE for n in scene()[0].shape)
    row, column = np.divmod(np.arange(h * w), w)
    return (row + 2 * column) % FOLDS


class Fold:
    """The scene with one fold's cells held out, as ``table1.World``."""

    def __init__(self, fold: int) -> None:
        self.name, self.test = f"flevoland fold {fold}", folds() == fold

    def train(self, labels: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Decibels (N, 128, 128), classes, and pixels by class of the other folds' labelled cells."""
        db, classes = scene()
        h, w = (n // SIDE for n in db.shape)
        held = self.test.reshape(h, w).repeat(SIDE, 0).repeat(SIDE, 1)
        near = ndimage.binary_dilation(held, np.ones((3, 3)), GUARD)
        truth = cells(np.where(near, -1, classes))
        used = ~self.test & (truth >= 0).any((1, 2))
        truth = torch.from_numpy(truth[used])
        counts = torch.bincount(truth[truth >= 0].long(), minlength=len(st.HR_LULC.names))
        return torch.from_numpy(cells(db)[used]), truth, counts

    def radar(self) -> Tensor:
        """Decibels of all cells of the other folds, labelled or not."""
        return torch.from_numpy(cells(scene()[0])[~self.test])

    def score(
        self, model: evaluation.Predict, split: str = "test", device: str = "cpu"
    ) -> evaluation.Scores:
        """Scores on the fold's cells, each a block."""
        norm, names = search.norm(), st.HR_LULC.names
        x = (torch.from_numpy(cells(scene()[0])[self.test]) - norm.mean) / norm.std
        truth = torch.from_numpy(cells(scene()[1])[self.test]).long()
        n = len(x)
        key = torch.arange(n)[:, None].expand(n, 3)
        batches: Any = [{"image": x[:, None], "label": truth, "key": key}]
        matrices, error = evaluation.tally(
            model, batches, torch.arange(n), len(names), device=device
        )
        found = evaluation.scores(matrices.sum(0), names)
        where = [f"cell {i:02}" for i in np.flatnonzero(self.test)]
        found.update(ece=error, blocks=dict(zip(where, matrices.tolist(), strict=True)))
        return found
