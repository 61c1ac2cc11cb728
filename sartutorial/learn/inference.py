"""Map a region (paper section 4, its Fig. 4): slide over whole scenes and blend what overlaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio.shutil
import torch
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window
from tqdm import tqdm

from sartutorial import (
    InputError,
    checkpoints,
    datasets,
    files,
    lulc,
    radiometry,
    rasters,
    segmentation,
    training,
)

SPACING_TOLERANCE = 0.05
BATCH = 8


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
    scenes: Sequence[str | Path], file: str | Path, out: str | Path, *, progress: bool = False
) -> list[Path]:
    """Map scenes (what ``downsample`` wrote, or any of the model's pixel spacing) with a model.

    One scene gives the file ``out``, several the folder ``out`` with a file a scene: Cloud-Optimized
    GeoTIFFs on the scenes' grids, uint8 class index + 1, 0 where the scene has no data, with the
    class colours. A map that is already current is left alone.
    Raises InputError for a scene whose spacing is more than 5 % off the model's, or in another unit.
    """
    model, description = segmentation.from_file(file)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    single = len(scenes) == 1 and not Path(out).is_dir()
    written = []
    for scene in map(str, scenes):
        target = Path(out) if single else Path(out) / rasters.name_of(scene)
        with rasters.opened(scene) as sar:
            check_fits(sar, scene, description["spacing"], description["quantity"])
            tags = {
                "SCENE": rasters.name_of(scene),
                "MODEL": f"{Path(file).name} {checkpoints.fingerprint(file)}",
                "CLASSES": ",".join(lulc.NAMES),
            }
            tags |= {k: v for k, v in sar.tags().items() if k in ("SIMULATED", "QUANTITY")}
            if not rasters.is_current(target, [scene, file], tags, grid=rasters.grid_of(sar)):
                norm = datasets.Normalization(**description["normalization"])
                _write_map(sar, model, norm, target, tags, progress)
        written.append(target)
    return written


def check_fits(sar: DatasetReader, scene: str, spacing: float, quantity: str) -> None:
    """Raise InputError unless a scene has the model's pixel spacing (5 %) and unit."""
    found, unit = rasters.spacing(sar), radiometry.quantity(scene, sar.tags())
    if abs(found / spacing - 1) > SPACING_TOLERANCE:
        factor = round(spacing / found)
        mends = factor > 1 and abs(found * factor / spacing - 1) <= SPACING_TOLERANCE
        mend = f"run 'sartutorial downsample --factor {factor}' on it first"
        raise InputError(
            f"{scene}: pixels of {found:.2f} m, the model was trained on {spacing:.2f} m; "
            + (mend if mends else "take a scene of the model's resolution")
        )
    if unit != quantity:
        raise InputError(f"{scene}: holds {unit}, the model was trained on {quantity}")


def _write_map(
    sar: DatasetReader,
    model: segmentation.Segmenter,
    norm: datasets.Normalization,
    target: Path,
    tags: dict[str, str],
    progress: bool,
) -> None:
    grid = rasters.grid_of(sar)
    plain = target.with_name(f".{target.stem}.plain.tif")
    try:
        with rasters.created(plain, grid, tags, dtype="uint8", nodata=lulc.VOID) as raw:
            raw.write_colormap(1, lulc.colormap(training=True))
            for top, classes in classify(sar, model, norm, progress=progress):
                raw.write(classes, 1, window=Window(0, top, grid.width, len(classes)))
        with files.replacing(target) as partial:
            rasterio.shutil.copy(
                plain, partial, driver="COG", compress="deflate", overview_resampling="mode"
            )
            rasters.check_whole(partial, target)
    finally:
        plain.unlink(missing_ok=True)


def classify(
    sar: DatasetReader,
    model: segmentation.Segmenter,
    norm: datasets.Normalization,
    *,
    step: int | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Bands of the map of a scene, top to bottom: (first row, uint8 of shape (rows, width)).

    Windows of the model's image size start every ``step`` pixels (default half a window); where they
    overlap, class probabilities are averaged with ``taper``. No data counts as the mean backscatter.
    Memory is one window's height of the scene, whatever its length.
    """
    size = model.encoder.config.image_size
    step = step or size // 2
    width = max(sar.width, size)
    tops, lefts, weight = offsets(sar.height, size, step), offsets(width, size, step), taper(size)
    product = radiometry.product(sar.name, sar.tags())
    table = radiometry.lookup_table(product.calibration_db, rasters.nodata_of(sar))
    sums = np.zeros((len(lulc.NAMES), size, width), dtype=np.float32)
    rows = tqdm(tops, desc=f"predict {Path(sar.name).name}", unit="row", disable=not progress)
    for top, following in zip(rows, [*tops[1:], sar.height], strict=True):
        image = np.full((size, width), np.nan, dtype=np.float32)
        window = Window(0, top, sar.width, min(size, sar.height - top))
        image[: window.height, : sar.width] = table[rasters.read(sar, window)]
        seen = [left for left in lefts if np.isfinite(image[:, left : left + size]).any()]
        z = np.nan_to_num((image - norm.mean) / norm.std).astype(np.float32)
        for i in range(0, len(seen), BATCH):
            chosen = seen[i : i + BATCH]
            batch = np.stack([z[None, :, left : left + size] for left in chosen])
            for left, p in zip(chosen, probabilities(model, batch), strict=True):
                sums[:, :, left : left + size] += p * weight
        done = following - top
        classes = sums[:, :done, : sar.width].argmax(0).astype(np.uint8) + 1
        classes[~np.isfinite(image[:done, : sar.width])] = lulc.VOID
        yield top, classes
        sums = np.concatenate([sums[:, done:], np.zeros_like(sums[:, :done])], axis=1)[:, :size]


@torch.inference_mode()
def probabilities(model: torch.nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class probabilities (B, 9, H, W) float32 of normalised images (B, 1, H, W) float32."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=training.precision() == "bf16-mixed"):
        logits = model(torch.from_numpy(images).to(device))
    found: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return found


def agreement(map_file: str | Path, label_file: str | Path) -> NDArray[np.int64]:
    """The confusion matrix (9, 9) of a map against the label raster of its scene.

    Raises InputError if they are not on one grid.
    """
    k = len(lulc.NAMES)
    confusion = np.zeros((k, k), dtype=np.int64)
    with (
        rasters.opened(map_file, dtype="uint8") as found,
        rasters.opened(label_file, dtype="uint8") as labels,
    ):
        if rasters.grid_of(found) != rasters.grid_of(labels):
            raise InputError(f"{map_file}: is not on the grid of {label_file}")
        for window in rasters.strips(found):
            truth = lulc.to_index(rasters.read(labels, window))
            shown = rasters.read(found, window).astype(np.int64) - 1
            both = (truth >= 0) & (shown >= 0)
            pairs = truth[both] * k + shown[both]
            confusion += np.bincount(pairs, minlength=k * k).reshape(k, k)
    return confusion
