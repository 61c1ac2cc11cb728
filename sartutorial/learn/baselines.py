"""Fill hidden pixels without learning: what a pretrained network must beat (chapter 06)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

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
