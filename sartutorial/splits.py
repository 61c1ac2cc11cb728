"""Split (ours: the paper does not say how): blocks of land, so that neighbours do not leak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sartutorial import InputError, lulc
from sartutorial.patches import corners

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
SHARES = (0.65, 0.18, 0.17)  # the paper's 72,238 / 20,005 / 18,894
BUFFER = "buffer"  # in no split, because it lies between two
# What a pair of neighbouring patches in two splits costs, beside the imbalance of the classes. At 4
# the simulated world keeps a tenth more patches than at 0, and its classes are balanced no worse.
CONTACT = 4.0
PLANE = 100_000.0  # metres that one plane serves: it presses them by 1 in 10,000 at most


def generator(seed: int, *more: int) -> np.random.Generator:
    """Numpy's generator of a whole number from 0, of any size, and of what else tells draws apart."""
    if seed < 0:
        raise InputError(f"--seed {seed}: must be a whole number from 0; take another")
    return np.random.default_rng([seed, *more])


def label_counts(index: pd.DataFrame) -> NDArray[np.int64]:
    """Label pixels of each patch by id: int64 of shape (patches, 256), no label left out."""
    held, counts = index.filter(regex=r"^n_\d+$"), np.zeros((len(index), 256), dtype=np.int64)
    counts[:, held.columns.str[2:].astype(int)] = held
    return counts


def blocks(index: pd.DataFrame, block: int) -> NDArray[np.int64]:
    """The block of each patch, a square of ``block`` patch sides: int64 of shape (patches,), from 0.

    Squares of its UTM zone, whose metres are those of the ground to 1 in 1,000, anywhere: patches of
    different scenes that show the same ground share a block or adjoin.
    """
    from pyproj import Transformer

    lon, lat = corners(index).mean(axis=1).T
    cell = np.empty((len(index), 3), np.int64)
    cell[:, 0] = 32601 + (lon + 180) // 6 % 60 + 100 * (lat < 0)  # EPSG's numbers of the zones
    for zone in np.unique(cell[:, 0]):
        here = cell[:, 0] == zone
        to_metres = Transformer.from_crs("EPSG:4326", f"EPSG:{zone}", always_xy=True)
        metres = np.stack(to_metres.transform(lon[here], lat[here]), axis=1)
        cell[here, 1:] = metres // (block * (index["size"] * index["spacing"]).mean())
    return np.unique(cell, axis=0, return_inverse=True)[1].ravel()


def neighbours(index: pd.DataFrame, buffer: float) -> NDArray[np.intp]:
    """Pairs of patches closer than ``buffer`` patch sides, both ways round: (2, pairs) row numbers.

    Distances are those on the ground, anywhere on Earth. A patch exactly ``buffer`` sides away is no
    neighbour: a thousandth is allowed.
    """
    import shapely
    from pyproj import Transformer
    from scipy.spatial import KDTree

    reach = buffer * float((index["size"] * index["spacing"]).mean()) * (1 - 1e-3)
    # In metres from the middle of the Earth, where no date line divides.
    lon, lat = np.moveaxis(corners(index), -1, 0)
    earth = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    each = np.stack(earth.transform(lon, lat, np.zeros_like(lon)), axis=-1)
    centre = each.mean(axis=1)
    margin = reach + 2 * np.linalg.norm(each - centre[:, None], axis=2).max()
    tree = KDTree(centre)
    plane = np.unique(centre // PLANE, axis=0, return_inverse=True)[1].ravel()
    pairs = [np.empty((2, 0), dtype=np.intp)]
    for k in range(plane.max() + 1 if reach > 0 else 0):
        own = np.flatnonzero(plane == k)
        middle = centre[own].mean(axis=0)
        radius = np.linalg.norm(centre[own] - middle, axis=1).max() + margin
        near = np.sort(tree.query_ball_point(middle, radius))
        flat = np.linalg.svd(middle[None])[2][1:].T  # two axes of the plane that touches the Earth
        ground = shapely.polygons((each[near] - middle) @ flat)
        here = ground[np.searchsorted(near, own)]
        a, b = shapely.STRtree(ground).query(here, predicate="dwithin", distance=reach)
        pairs.append(np.stack([own[a], near[b]]))
    found = np.concatenate(pairs, axis=1)
    return found[:, found[0] != found[1]]


def by_block(
    index: pd.DataFrame, *, seed: int = 0, block: int = 4, buffer: float = 1.0
) -> NDArray[np.str_]:
    """Deal whole spatial blocks to the splits, then cut a gap between them (ours).

    No patch of one split is closer than ``buffer`` to a patch of another. Those in the way get
    ``buffer``; the larger split gives: training to validation and test, validation to test.

    Args:
        index: Patches, as ``read_index`` lists them.
        seed: A whole number from 0, of any size.
        block: Side of a block, in patch sides.
        buffer: Least distance between patches of two splits, in patch sides on the ground; 0: no gap.

    Returns:
        ``train``, ``val``, ``test`` or ``buffer`` for every patch: str of shape (patches,).

    Raises:
        InputError: A parameter is out of its range.
    """
    if block < 1 or not 0 <= buffer < np.inf:
        raise InputError(f"--block {block} --buffer {buffer:g}: the least are 1 and 0 sides")
    a, b = pairs = neighbours(index, buffer)
    code = _deal(index, blocks(index, block), seed, pairs)
    for k in (2, 1):  # whoever is near a test patch, then whoever is near a validation patch
        code[a[(code[a] < k) & (code[b] == k)]] = -1
    return np.array([*SPLITS, BUFFER])[code]


def by_scene(index: pd.DataFrame, *, seed: int) -> NDArray[np.str_]:
    """A split for every patch, one per scene, for comparison: overlapping scenes leak.

    With fewer than three scenes a split stays empty.
    """
    owner = np.unique(index["scene"], return_inverse=True)[1]
    return np.array(SPLITS)[_deal(index, owner, seed, np.empty((2, 0), np.intp))]


def at_random(index: pd.DataFrame, *, seed: int) -> NDArray[np.str_]:
    """A split for every patch, drawn patch by patch, for comparison: neighbours leak."""
    ends = np.round(np.cumsum(SHARES[:2]) * len(index))
    place = generator(seed).permutation(len(index))
    return np.array(SPLITS)[np.searchsorted(ends, place, side="right")]


def _deal(
    index: pd.DataFrame, owner: NDArray[np.intp], seed: int, pairs: NDArray[np.intp]
) -> NDArray[np.int64]:
    """0, 1 or 2 (see SPLITS) for every patch, the same for all patches of an ``owner``.

    Owners move between splits, in an order drawn from ``seed``, as long as a move brings the pixels
    of each training class, and the number of patches, closer to SHARES (relative error, squared and
    summed), or puts fewer neighbours (``pairs``) into different splits.
    """
    from scipy.sparse import coo_array

    classes = label_counts(index)
    if said := index.attrs.get("legend"):
        classes = lulc.Legend.from_dict(said).merged(classes)
    mass = np.zeros((owner.max() + 1, classes.shape[1] + 1))
    np.add.at(mass[:, -1], owner, 1)
    np.add.at(mass[:, :-1], owner, classes)
    mass /= np.maximum(mass.sum(axis=0), 1)
    target = np.outer(SHARES, mass.sum(axis=0) > 0)
    scale = np.maximum(target, np.min(SHARES)) ** -2  # an empty split costs 1 in any of them
    a, b = owner[pairs]
    contact = CONTACT / len(index) * (a != b)
    touch = coo_array((contact, (a, b)), shape=(len(mass), len(mass))).tocsr()
    choice, have = np.zeros(len(mass), dtype=np.int64), np.zeros_like(target)
    have[0] = mass.sum(axis=0)
    rng, moved = generator(seed), True
    while moved:
        moved = False
        for b in rng.permutation(len(mass)):
            have[choice[b]] -= mass[b]
            cost = (scale * mass[b] * (mass[b] + 2 * (have - target))).sum(axis=1)
            row = slice(touch.indptr[b], touch.indptr[b + 1])
            near = choice[touch.indices[row]]
            cost -= np.bincount(near, weights=touch.data[row], minlength=len(SPLITS))
            if cost.min() < cost[choice[b]] - 1e-12:
                choice[b], moved = int(cost.argmin()), True
            have[choice[b]] += mass[b]
    return choice[owner]
