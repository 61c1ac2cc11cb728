"""Split: training, validation and test patches by spatial blocks, so that neighbours do not leak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sartutorial import lulc
from sartutorial.patches import COUNTS

if TYPE_CHECKING:
    import geopandas as gpd

SPLITS = ("train", "val", "test")
SHARES = (0.65, 0.18, 0.17)  # the paper's 72,238 / 20,005 / 18,894


def blocks(index: gpd.GeoDataFrame, block: int) -> NDArray[np.int64]:
    """The spatial block of each patch: int64 of shape (patches,), numbered from 0.

    Blocks are squares of ``block`` patch sides on one metric grid (the UTM zone of the whole index),
    so that patches of different scenes that show the same ground share a block or adjoin; where
    scenes overlap, ground at a block's rim may be in two splits.
    """
    side = block * float((index["size"] * index["spacing"]).mean())
    centre = index.geometry.to_crs(index.estimate_utm_crs()).centroid
    cell = np.stack([centre.x // side, centre.y // side], axis=1).astype(np.int64)
    return np.unique(cell, axis=0, return_inverse=True)[1].ravel()


def by_block(index: gpd.GeoDataFrame, *, seed: int, block: int = 4) -> NDArray[np.str_]:
    """A split for every patch: ``train``, ``val`` or ``test``, one per spatial block.

    Blocks move between splits, in an order drawn from ``seed``, as long as a move brings the pixels
    of each class, and the number of patches, sampled or not, closer to 65/18/17 % (relative error,
    squared and summed). A class that lies in fewer than three blocks cannot be in all splits. The
    paper does not say how its split was made; this is ours.
    """
    owner = blocks(index, block)
    mass = np.zeros((owner.max() + 1, len(lulc.NAMES) + 1))
    np.add.at(mass[:, -1], owner, 1)
    for c in lulc.CLASSES:
        if c.nine != lulc.IGNORE_INDEX:
            np.add.at(mass[:, c.nine], owner, index[COUNTS[c.id]].to_numpy())
    mass /= np.maximum(mass.sum(axis=0), 1)
    target = np.outer(SHARES, mass.sum(axis=0) > 0)
    scale = (
        np.maximum(target, np.min(SHARES)) ** -2
    )  # so that an empty split costs 1 in any of them
    choice = np.zeros(len(mass), dtype=np.int64)
    have = np.zeros_like(target)
    have[0] = mass.sum(axis=0)
    rng = np.random.default_rng(seed)
    moved = True
    while moved:
        moved = False
        for b in rng.permutation(len(mass)):
            have[choice[b]] -= mass[b]
            without = have - target
            cost = (scale * mass[b] * (mass[b] + 2 * without)).sum(axis=1)
            best = int(cost.argmin())
            if cost[best] < cost[choice[b]] - 1e-12:
                choice[b], moved = best, True
            have[choice[b]] += mass[b]
    return np.array(SPLITS)[choice[owner]]
