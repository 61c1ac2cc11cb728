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
BUFFER = "buffer"  # in no split, because it lies between two
# What a pair of neighbouring patches in two splits costs, beside the imbalance of the classes. At 4
# the simulated world keeps a tenth more patches than at 0, and its classes are balanced no worse.
CONTACT = 4.0

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]


def blocks(index: gpd.GeoDataFrame, block: int) -> NDArray[np.int64]:
    """The spatial block of each patch: int64 of shape (patches,), numbered from 0.

    Blocks are squares of ``block`` patch sides on one metric grid (the UTM zone of the whole index),
    so that patches of different scenes that show the same ground share a block or adjoin.
    """
    side = block * _side(index)
    centre = index.geometry.to_crs(index.estimate_utm_crs()).centroid
    cell = np.stack([centre.x // side, centre.y // side], axis=1).astype(np.int64)
    return np.unique(cell, axis=0, return_inverse=True)[1].ravel()


def _side(index: gpd.GeoDataFrame) -> float:
    """The side of a patch in metres."""
    return float((index["size"] * index["spacing"]).mean())


def neighbours(index: gpd.GeoDataFrame, buffer: float) -> Pairs:
    """Pairs of patches whose footprints are closer than ``buffer`` patch sides, both ways round.

    Two arrays of row numbers. Distances are between footprints, not between block numbers, since
    scenes overlap; in the UTM zone of the whole index, which stretches them by 3 % at the far ends of
    Japan. A patch exactly ``buffer`` sides away is no neighbour: a thousandth of a side is allowed.
    """
    reach = (buffer - 1e-3) * _side(index)
    if reach < 0:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    ground = index.geometry.to_crs(index.estimate_utm_crs())
    a, b = ground.sindex.query(ground, predicate="dwithin", distance=reach)
    return a[a != b], b[a != b]


def by_block(
    index: gpd.GeoDataFrame, *, seed: int, block: int = 4, buffer: float = 1.0
) -> NDArray[np.str_]:
    """``train``, ``val``, ``test`` or ``buffer`` for every patch: blocks dealt whole, then a gap cut.

    No patch of one split is closer than ``buffer`` patch sides to a patch of another (0: no gap).
    Those in the way get ``buffer``; the larger split gives: training to validation and test,
    validation to test. The paper does not say how its split was made; this is ours.
    """
    pairs = neighbours(index, buffer)
    code = _deal(index, blocks(index, block), seed, pairs)
    a, b = pairs
    for k in (2, 1):  # whoever is near a test patch, then whoever is near a validation patch
        code[a[(code[a] < k) & (code[b] == k)]] = -1
    names: NDArray[np.str_] = np.array([*SPLITS, BUFFER])[code]
    return names


def by_scene(index: gpd.GeoDataFrame, *, seed: int) -> NDArray[np.str_]:
    """A split for every patch, one per scene, for comparison: overlapping scenes leak.

    With fewer than three scenes a split stays empty.
    """
    owner = np.unique(index["scene"], return_inverse=True)[1]
    none = np.empty(0, np.intp)
    return np.array(SPLITS)[_deal(index, owner, seed, (none, none))]


def at_random(index: gpd.GeoDataFrame, *, seed: int) -> NDArray[np.str_]:
    """A split for every patch, drawn patch by patch, for comparison: neighbours leak."""
    ends = np.round(np.cumsum(SHARES) * len(index))
    place = np.random.default_rng(seed).permutation(len(index))
    code = np.searchsorted(ends, place, side="right").clip(max=2)
    names: NDArray[np.str_] = np.array(SPLITS)[code]
    return names


def _deal(
    index: gpd.GeoDataFrame, owner: NDArray[np.intp], seed: int, pairs: Pairs
) -> NDArray[np.int64]:
    """0, 1 or 2 (see SPLITS) for every patch, the same for all patches of an ``owner``.

    Owners move between splits, in an order drawn from ``seed``, as long as a move brings the pixels
    of each class, and the number of patches, sampled or not, closer to 65/18/17 % (relative error,
    squared and summed), or puts fewer neighbours (``pairs``) into different splits. A class that
    fewer than three owners hold cannot be in all splits.
    """
    from scipy.sparse import coo_array

    mass = np.zeros((owner.max() + 1, len(lulc.NAMES) + 1))
    np.add.at(mass[:, -1], owner, 1)
    np.add.at(mass[:, :-1], owner, lulc.merged(index[COUNTS].to_numpy()))
    mass /= np.maximum(mass.sum(axis=0), 1)
    target = np.outer(SHARES, mass.sum(axis=0) > 0)
    # So that an empty split costs 1 in any of them.
    scale = np.maximum(target, np.min(SHARES)) ** -2
    ends = owner[pairs[0]], owner[pairs[1]]
    contact = np.full(len(ends[0]), CONTACT / len(index)) * (ends[0] != ends[1])
    touch = coo_array((contact, ends), shape=(len(mass), len(mass))).tocsr()
    choice = np.zeros(len(mass), dtype=np.int64)
    have = np.zeros_like(target)
    have[0] = mass.sum(axis=0)
    rng = np.random.default_rng(seed)
    moved = True
    while moved:
        moved = False
        for b in rng.permutation(len(mass)):
            have[choice[b]] -= mass[b]
            cost = (scale * mass[b] * (mass[b] + 2 * (have - target))).sum(axis=1)
            row = slice(touch.indptr[b], touch.indptr[b + 1])
            near = choice[touch.indices[row]]
            cost -= np.bincount(near, weights=touch.data[row], minlength=len(SPLITS))
            best = int(cost.argmin())
            if cost[best] < cost[choice[b]] - 1e-12:
                choice[b], moved = best, True
            have[choice[b]] += mass[b]
    return choice[owner]
