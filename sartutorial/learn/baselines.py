"""What a trained network must beat: guesses without learning (chapter 06), and Table 1 (chapter 08)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from sartutorial import InputError, profiles
from sartutorial.learn import checkpoints, evaluation, finetuning, pretraining

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
