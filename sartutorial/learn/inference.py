"""Map a region (paper section 4, its Fig. 4): slide over whole scenes and blend what overlaps."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.shutil
import torch
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import InputError, files, lulc, radiometry, rasters
from sartutorial.learn import checkpoints, published, training
from sartutorial.learn.datasets import SPACING_TOLERANCE, Normalization
from sartutorial.learn.segmentation import Segmenter

BATCH = 8  # windows


def taper(size: int) -> NDArray[np.float32]:
    """Blending weights (size, size): a tent, largest in the middle, above 0 at the rim."""
    ramp = np.minimum(np.arange(size), np.arange(size)[::-1]).astype(np.float32) + 1
    weight: NDArray[np.float32] = np.outer(ramp, ramp) / ramp.max() ** 2
    return weight


def offsets(length: int, size: int, step: int) -> list[int]:
    """Where windows of ``size`` start so that they cover ``length``, ``step`` or less apart."""
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def predict(
    scene: files.Paths, model: str | Path, out: str | Path, *, progress: bool = False
) -> Path | list[Path]:
    """Map scenes of the model's pixel spacing (what ``downsample`` wrote) with a fine-tuned model.

    A map is a Cloud-Optimized GeoTIFF on its scene's grid: uint8 class index + 1, 0 where the scene
    has no data, with the legend of the model and its colours. One that is up to date is left alone.

    Args:
        scene: Scenes of amplitude DN (uint16): files, URLs or folders.
        model: What ``finetune`` wrote, an authors' checkpoint with a decoder (.pth), or ``reference``,
            the book's own.
        out: A folder, whose maps are named as the scenes are, or for a single scene a .tif file.
        progress: Show a bar.

    Returns:
        The map of a scene, or a list of them if a folder or several were given.

    Raises:
        InputError: A scene's pixel spacing is more than 5 % off the model's, it holds another
            quantity or polarisation, or ``model`` holds no segmentation model.
    """
    model = checkpoints.named(model, "model")
    network, known = published.load_model(model)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    ours = Path(model).suffix == ".safetensors"
    weights = [model, Path(model).with_suffix(".json")] if ours else [model]
    work = partial(_map, network, known, weights)
    return files.products(work, scene, out, name="predict", progress=progress)


def _map(
    model: Segmenter,
    known: dict[str, Any],
    weights: Sequence[str | Path],
    scene: str,
    *,
    out: Path,
    progress: bool,
) -> Path:
    legend, norm = lulc.Legend.from_dict(known["legend"]), Normalization(**known["normalization"])
    inputs = [scene, *filter(None, [rasters.mask_of(scene)]), *weights]
    with rasters.opened(scene) as sar:
        check_fits(sar, scene, known)
        tags = {
            k: v for k, v in sar.tags().items() if k in ("SIMULATED", "QUANTITY", "POLARISATION")
        }
        tags |= {"SCENE": files.name_of(scene), "LEGEND": json.dumps(legend.for_maps.to_dict())}
        with files.made(out, inputs, {}) as whole:
            if whole is None:
                return out
            # Named as ``whole`` is, so that the next run sweeps it up if this one is killed.
            run = whole.name.removesuffix(f".{out.name}")[:-8]
            plain = whole.with_name(f"{run}{secrets.token_hex(4)}.{out.name}")
            try:
                with rasters.create(plain, rasters.grid_of(sar), tags, dtype="uint8") as raw:
                    raw.write_colormap(1, legend.colormap(training=True))
                    for top, classes in classify(sar, model, norm, progress=progress):
                        raw.write(classes, 1, window=Window(0, top, sar.width, len(classes)))
                rasterio.shutil.copy(
                    plain, whole, driver="COG", compress="deflate", overview_resampling="mode"
                )
                rasters.check_whole(whole)
            finally:
                plain.unlink(missing_ok=True)
    return out


def check_fits(sar: DatasetReader, scene: str, known: dict[str, Any]) -> None:
    """Raise InputError unless a scene has the model's spacing (5 %), quantity and polarisation.

    A polarisation that one of them does not say counts as the other's.
    """
    spacing, found = known["spacing"], rasters.pixel_size(sar)
    if abs(found / spacing - 1) > SPACING_TOLERANCE:
        factor, mend = round(spacing / found), "take a scene of the model's resolution"
        if factor > 1 and abs(found * factor / spacing - 1) <= SPACING_TOLERANCE:
            mend = f"run 'sartutorial downsample --factor {factor}' on it first"
        raise InputError(
            f"{scene}: pixels of {found:.2f} m, the model was trained on {spacing:.2f} m; {mend}"
        )
    product = radiometry.product(scene, sar.tags())
    for what in ("quantity", "polarisation"):
        held, wanted = getattr(product, what), known.get(what, "unknown")
        if "unknown" not in (held, wanted) and held != wanted:
            raise InputError(
                f"{scene}: holds {held}, the model was trained on {wanted}; take a scene or a model "
                f"of the same {what}"
            )


def classify(
    sar: DatasetReader,
    model: Segmenter,
    norm: Normalization,
    *,
    step: int | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Bands of the map of a scene, from north to south: (first row, uint8 of shape (rows, width)).

    Windows of the model's image size start every ``step`` pixels (default half a window); where they
    overlap, class probabilities are averaged with ``taper``. No data counts as the mean backscatter.
    Memory is one window's height of the scene, whatever its length.
    """
    size, height = model.encoder.config.image_size, sar.height
    step, width = step or size // 2, max(sar.width, size)
    tops, lefts, weight = offsets(height, size, step), offsets(width, size, step), taper(size)
    table = radiometry.lookup_table(radiometry.product(sar.name, sar.tags()).calibration_db)
    # The model sees north up and east to the right, however the scene is stored.
    down, right = -1 if sar.transform.e > 0 else 1, -1 if sar.transform.a < 0 else 1
    sums = np.zeros((model.config.classes, size, width), dtype=np.float32)
    bar = tqdm(tops, f"map {files.name_of(sar.name)}", unit="row", disable=not progress)
    for top, following in zip(bar, [*tops[1:], height], strict=True):
        rows, done = min(size, height - top), following - top
        row, first = (top, top) if down > 0 else (height - top - rows, height - following)
        image = np.full((size, width), np.nan, dtype=np.float32)
        dn = rasters.read_dn(sar, Window(0, row, sar.width, rows))
        image[:rows, : sar.width] = table[dn][::down, ::right]
        seen = [left for left in lefts if np.isfinite(image[:, left : left + size]).any()]
        z = np.nan_to_num((image - norm.mean) / norm.std).astype(np.float32)
        for i in range(0, len(seen), BATCH):
            chosen = seen[i : i + BATCH]
            batch = np.stack([z[None, :, left : left + size] for left in chosen])
            for left, p in zip(chosen, probabilities(model, batch), strict=True):
                sums[:, :, left : left + size] += p * weight
        classes = sums[:, :done, : sar.width].argmax(0).astype(np.uint8) + 1
        classes[~np.isfinite(image[:done, : sar.width])] = 0
        yield first, classes[::down, ::right]
        sums = np.concatenate([sums[:, done:], np.zeros_like(sums[:, :done])], axis=1)[:, :size]


@torch.inference_mode()
def probabilities(model: torch.nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class probabilities (B, K, H, W) float32 of normalised images (B, 1, H, W) float32."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=training.precision() == "bf16-mixed"):
        logits = model(torch.from_numpy(images).to(device))
    found: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return found


def agreement(mapped: str | Path, labels: str | Path) -> NDArray[np.int64]:
    """The confusion matrix of a map against the label raster of its scene.

    Args:
        mapped: What ``predict`` wrote.
        labels: What ``label`` wrote for the same scene, in the legend that the model was trained on.

    Returns:
        Pixels (K, K), rows truth, columns map, of the K training classes.

    Raises:
        InputError: They are not on one grid, or their classes differ.
    """
    with (
        rasters.opened(mapped, dtype="uint8") as found,
        rasters.opened(labels, dtype="uint8") as truth,
    ):
        known = rasters.legend_of(truth) or lulc.HR_LULC
        shown = rasters.legend_of(found) or known.for_maps
        if not rasters.same_grid(rasters.grid_of(found), rasters.grid_of(truth)):
            raise InputError(f"{mapped}: not on the grid of {labels}; label the scene of the map")
        if shown.names != known.names:
            raise InputError(
                f"{mapped}: its classes are {', '.join(shown.names)}, those of {labels} "
                f"{', '.join(known.names)}; label the scene with the model's legend"
            )
        k = len(known.names)
        confusion = np.zeros((k, k), dtype=np.int64)
        for window in rasters.row_windows(found):
            t = known.to_index(rasters.read_ids(truth, known, window))
            p = shown.to_index(rasters.read_ids(found, shown, window))
            both = (t >= 0) & (p >= 0)
            confusion += np.bincount(t[both] * k + p[both], minlength=k * k).reshape(k, k)
    return confusion
