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
    row, column = ndimage.distance_transform_edt(
        ~visible, return_distances=False, return_indices=True
    )
    filled: Image = z[row, column]
    try:
        linear = LinearNDInterpolator(np.argwhere(border), z[border])(np.argwhere(~visible))
    except QhullError:  # they lie on one line
        return filled
    filled[~visible] = np.where(np.isnan(linear), filled[~visible], linear)
    return filled


def gaussian(z: Image, visible: Mask, sigma: float) -> Image:
    """``z`` (H, W) with its hidden pixels the Gaussian-weighted mean of the visible ones.

    ``sigma`` in pixels; the weights end at four of it (scipy's default) and pixels outside the
    image count for nothing. A pixel that no weight reaches gets the mean of a ``sigma`` twice as wide.
    """
    _check(z, visible)
    seen = np.where(visible, z, 0).astype(np.float64)
    weight = ndimage.gaussian_filter(visible.astype(np.float64), sigma, mode="constant")
    total = ndimage.gaussian_filter(seen, sigma, mode="constant")
    reached = weight > 0
    wider = z if reached[~visible].all() else gaussian(z, visible, 2 * sigma)
    mean = np.divide(total, weight, out=wider.astype(z.dtype), where=reached)
    return np.where(visible, z, mean)


def masked_error(z: Image, guess: Image, visible: Mask) -> float:
    """Mean absolute error of the hidden pixels, in ``z``'s unit; all arrays (H, W).

    Raises ValueError if nothing is hidden or the shapes differ.
    """
    if z.shape != guess.shape or z.shape != visible.shape or visible.all():
        raise ValueError(f"shapes {z.shape}, {guess.shape}, {visible.shape}, or nothing is hidden")
    return float(np.abs(guess - z).mean(where=~visible, dtype=np.float64))


def _check(z: Image, visible: Mask) -> None:
    if z.shape != visible.shape or not visible.any():
        raise ValueError(f"shapes {z.shape} and {visible.shape}, or nothing is visible")
