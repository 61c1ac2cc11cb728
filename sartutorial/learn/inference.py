"""Map a region (paper section 4, its Fig. 4): slide over whole scenes and blend what overlaps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio.shutil
import torch
from numpy.typing import NDArray
from rasterio import features
from rasterio.io import DatasetReader
from rasterio.windows import Window
from scipy import ndimage
from tqdm import tqdm

from sartutorial import InputError, files, lulc, radiometry, rasters
from sartutorial.learn import checkpoints, published, training
from sartutorial.learn.datasets import Normalization
from sartutorial.learn.segmentation import Segmenter
from sartutorial.patches import SPACING

BATCH = {"cpu": 8, "cuda": 64}  # windows
BANDS = (  # of the file beside a map
    "confidence: probability of the class, percent",
    "margin: how far ahead of the second class, percent",
    "validity: 0 valid, 1 backscatter outside the training range, 2 layover, 3 shadow",
)
NO_DATA = 255  # in these bands
BESIDE = ".confidence.tif"
KEPT = ("SIMULATED", "QUANTITY", "POLARISATION", "NOTE")  # tags of a scene or map, in a map of it
RANGE = 3  # standard deviations about the mean: the backscatter that training saw (ours)
DISTORTED = {"mosaic": {100: 2, 150: 3}, "2.2": {2: 2, 3: 3}}  # layover, shadow in JAXA's masks
# Of rows of a scene: probabilities (K, rows, width); validity (rows, width) as in BANDS, 255 = no data.
Strip = tuple[NDArray[np.float32], NDArray[np.uint8]]


class Windows(NamedTuple):
    """Square windows over a scene, in pixels: from ``rim`` before it to beyond its end, all alike."""

    size: int
    step: int  # from one to the next
    rim: int  # left out of each: there a model knows little of the surroundings


def windows(size: int, step: int | None = None, rim: int | None = None) -> Windows:
    """Half a ``size`` apart, with a rim of a 32nd (a token): a wider one leaves a pixel too few views."""
    step, rim = size // 2 if step is None else step, size // 32 if rim is None else rim
    if not 0 < step <= size - 2 * rim:
        raise InputError(f"windows of {size} pixels, {step} apart, leave gaps with a rim of {rim}")
    return Windows(size, step, rim)


def mirrored(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill no data (NaN) with what lies as far on the other side of the nearest valid pixel.

    An image so goes on beyond its edge with its own texture. What is void on the other side as well
    is filled from what was filled before; an image without a valid pixel stays as it is.
    """
    image, last = image.copy(), np.array(image.shape)[:, None] - 1
    while (void := np.isnan(image)).any() and not void.all():
        near = ndimage.distance_transform_edt(void, return_distances=False, return_indices=True)
        at, nearest = np.array(np.nonzero(void)), near[:, void]
        found = image[tuple(np.clip(2 * nearest - at, 0, last))]
        image[void] = image[tuple(nearest)] if np.isnan(found).all() else found
    return image


def predict(
    scene: files.Paths,
    model: str | Path,
    out: str | Path,
    *,
    confidence: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> Path | list[Path]:
    """Map scenes of the model's pixel spacing (what ``downsample`` wrote) with a fine-tuned model.

    A map is a Cloud-Optimized GeoTIFF on its scene's grid: uint8 class index + 1, 0 where the scene
    has no data, with the legend of the model and its colours. One that is up to date is left alone;
    one whose run was killed goes on from its last strip.

    Args:
        scene: Scenes of amplitude DN (uint16): files, URLs or folders.
        model: What ``finetune`` wrote, an authors' checkpoint with a decoder (.pth), or ``reference``.
        out: A folder, whose maps are named as the scenes are, or for a single scene a .tif file.
        confidence: Also write ``<map>.confidence.tif``, three bands of uint8, 255 for no data: the
            class's probability and its lead over the second, in percent, and validity: 0, 1 where
            backscatter is over 3 standard deviations off training's mean, 2 in layover, 3 in shadow.
        workers: How many scenes at a time, each in a process of its own, on a GPU of its own if it can.
        scheduler: The address of a dask scheduler whose workers take the scenes.
        progress: Show a bar.

    Returns:
        The map of a scene, or a list of them if a folder or several were given.

    Raises:
        InputError: A scene's pixel spacing is over 5 % off the model's, its quantity or polarisation is
            another, or ``model`` holds no segmentation model.
    """
    file, known = checkpoints.named(model, "model"), published.load_model(model).description
    # Other processes have another folder, and load weights themselves: no scheduler passes them on.
    work = partial(_map, file.absolute(), known, confidence)
    return files.products(
        work, scene, out, name="predict", workers=workers, scheduler=scheduler, progress=progress
    )


def device() -> str:
    """Where to compute: of several GPUs, a dask worker has the one that its name's last number says."""
    count, name = torch.cuda.device_count(), ""
    if count > 1:
        from distributed import get_worker

        with suppress(ValueError):  # this is no worker
            name = str(get_worker().name)
    return f"cuda:{int(re.findall('[0-9]+', f'0 {name}')[-1]) % count}" if count else "cpu"


def _map(
    model: Path, known: dict[str, Any], confidence: bool, scene: str, *, out: Path, progress: bool
) -> Path:
    """Store the map's rows, whole strips of full rows from the north, then write them as a COG."""
    inputs: list[str | Path] = [*rasters.parts_of(scene), model]
    inputs += [model.with_suffix(".json")] if model.suffix == ".safetensors" else []
    outs = [out, out.with_suffix(BESIDE)][: 1 + confidence]
    with rasters.opened(scene) as sar, ExitStack() as stack:
        check_fits(sar, scene, known)
        laid = windows(known["encoder"]["image_size"])
        how, bands = {"windows": tuple(laid)}, 1 + len(BANDS) * confidence
        missing = {f: w for f in outs if (w := stack.enter_context(files.made(f, inputs, how)))}
        if not missing:
            return out
        locked = next(iter(missing))
        store = locked.parent / files.NOTES / f"{locked.name}.strips"
        stored = how | {"bands": bands}
        if not files.up_to_date(store, inputs, stored):
            store.write_bytes(b"")
            files.record(store, inputs, stored)
        network, norm = published.load_model(model).model, Normalization(**known["normalization"])
        (height, width), row = sar.shape, bands * sar.width
        done = min(store.stat().st_size // row, height)
        done -= done % laid.step if done < height else 0
        shown: dict[str, Any] = dict(unit="px", unit_scale=True, disable=not progress)
        shown |= dict(total=height * width, initial=done * width)
        with store.open("ab") as file, tqdm(desc=f"map {files.name_of(scene)}", **shown) as bar:
            file.truncate(done * row)
            begin = -(-done // laid.step)
            for strip in blended(sar, network.to(device()), norm, laid, begin=begin):
                file.write(drawn(strip, bands).swapaxes(0, 1).tobytes())
                file.flush()
                bar.update(strip[1].size)
        tags = {k: v for k, v in sar.tags().items() if k in KEPT} | {"SCENE": files.name_of(scene)}
        tags |= {"NOTE": published.ALOS_2} if "published" in known else {}
        legend, grid = lulc.Legend.from_dict(known["legend"]).for_maps, rasters.grid_of(sar)
        for product, whole in missing.items():
            own = slice(1) if product == out else slice(1, None)
            cog(whole, product, grid, tags, legend, partial(_stored, store, sar, bands, own))
    for left in (store, store.with_name(f"{store.name}.json")):
        left.unlink(missing_ok=True)
    if not confidence:
        out.with_suffix(BESIDE).unlink(missing_ok=True)  # of the map that was here
    return out


def _stored(
    store: Path, sar: DatasetReader, bands: int, own: slice, window: Window
) -> NDArray[np.uint8]:
    """``own`` bands of a window of full rows, as the scene has them; no more is kept in memory."""
    (down, right), shape = _turned(sar), (sar.height, bands, sar.width)
    rows = np.memmap(store, np.uint8, "r", shape=shape)[::down, own, ::right]
    found: NDArray[np.uint8] = rows[window.toslices()[0]].swapaxes(0, 1)
    return found


def cog(
    whole: Path,
    file: Path,
    grid: rasters.Grid,
    tags: Mapping[str, str],
    legend: lulc.Legend,
    read: Callable[[Window], NDArray[np.uint8]],
    progress: bool = False,
) -> None:
    """Write ``whole``, a COG that becomes ``file``: a map in its own legend, or the bands beside it."""
    doubts = file.name.endswith(BESIDE)
    tags = tags if doubts else {**tags, "LEGEND": json.dumps(legend.to_dict())}
    # Named as ``whole`` is, with eight letters of its own: if this run is killed, the next sweeps it up.
    plain = whole.with_name(f"{whole.name[: -len(file.name) - 9]}original.{file.name}")
    form = dict(count=len(BANDS), nodata=NO_DATA, photometric="minisblack") if doubts else {}
    try:
        with rasters.create(plain, grid, tags, dtype="uint8", **form) as raw:
            if doubts:
                raw.descriptions = BANDS
            else:
                raw.write_colormap(1, legend.colormap())
            for window in tqdm([*rasters.row_windows(raw)], file.name, disable=not progress):
                raw.write(read(window), window=window)
        reduced = dict(compress="deflate", overview_resampling="nearest" if doubts else "mode")
        rasterio.shutil.copy(plain, whole, driver="COG", **reduced)
        rasters.check_whole(whole)
    finally:
        plain.unlink(missing_ok=True)


def check_fits(sar: DatasetReader, scene: str, known: dict[str, Any]) -> None:
    """Raise InputError unless a scene is of the model's spacing (5 %), quantity, polarisation."""
    spacing, found = known["spacing"], rasters.pixel_size(sar)
    if abs(found / spacing - 1) > SPACING:
        factor, mend = round(spacing / found), "take a scene of the model's resolution"
        if factor > 1 and abs(found * factor / spacing - 1) <= SPACING:
            mend = f"run 'sartutorial downsample --factor {factor}' on it first"
        fault = f"pixels of {found:.2f} m, the model was trained on {spacing:.2f} m"
        raise InputError(f"{scene}: {fault}; {mend}")
    product = radiometry.product(scene, sar.tags())
    for what in ("quantity", "polarisation"):
        held, wanted = getattr(product, what), known.get(what, "unknown")
        if "unknown" not in (held, wanted) and held != wanted:  # not said: the other's
            fault = f"holds {held}, the model was trained on {wanted}"
            raise InputError(f"{scene}: {fault}; take a scene or a model of the same {what}")


def sieved(
    read: Callable[[Window], NDArray[np.uint8]], grid: rasters.Grid, window: Window, least: int
) -> NDArray[np.uint8]:
    """The window (1, rows, width) of a map whose patches under ``least`` pixels have joined another.

    By GDAL's sieve: the largest neighbour along a side; within no data, or among other small ones
    alone, a patch stays. It spans fewer than ``least`` rows: as many are read above and below.
    """
    top = max(window.row_off - least, 0)
    bottom = min(window.row_off + window.height + least, grid.height)
    classes = read(Window(0, top, grid.width, bottom - top))
    if least > 1:
        classes = features.sieve(classes[0], least, mask=classes[0] > 0)[None]
    return classes[:, window.row_off - top :][:, : window.height]


def drawn(strip: Strip, bands: int) -> NDArray[np.uint8]:
    """The bands of a map (1, rows, width), or with those beside it (4, rows, width), uint8."""
    (p, validity), void = strip, strip[1] == NO_DATA
    classes = np.where(void, 0, p.argmax(0) + 1).astype(np.uint8)
    if bands == 1:
        return classes[None]
    second, first = np.partition(p, -2, axis=0)[-2:]
    percent = np.rint(100 * np.stack([first, first - second]))
    doubts = np.where(void, NO_DATA, percent).astype(np.uint8)
    return np.stack([classes, *doubts, validity])


def blended(
    sar: DatasetReader, model: Segmenter, norm: Normalization, laid: Windows, *, begin: int = 0
) -> Iterator[Strip]:
    """Class probabilities of a scene, strip by strip from the north: the weighted mean of all windows.

    What holds no data is ``mirrored``. Memory is that of a window's height, whatever the length.
    Strip number ``begin`` comes first; the next one is read meanwhile.
    """
    size, step, rim = laid
    inner, batch = size - 2 * rim, BATCH[next(model.parameters()).device.type]
    ramp = 1 + np.minimum(np.arange(inner), np.arange(inner)[::-1]).astype(np.float32)
    weight = np.outer(ramp, ramp) / ramp.max() ** 2  # of a window: a tent, 1 in the middle
    above = -(-inner // step) - 1  # rows of windows before its own that reach into a strip
    rows = range(max(begin - above, 0), -(-sar.height // step))
    columns = -(-sar.width // step) * step - step + inner
    # Of the probabilities, by their weights, and of the weights; columns are those of the scene.
    sums = np.zeros((model.config.classes + 1, inner, columns), np.float32)
    read = partial(_read, sar, norm, laid)
    with files.prefetch(read, rows) as images:
        for i, (image, seen, validity) in zip(rows, images, strict=True):
            for lefts in (seen[j : j + batch] for j in range(0, len(seen), batch)):
                views = np.stack([image[None, :, left : left + size] for left in lefts])
                found = probabilities(model, views)[:, :, rim : size - rim, rim : size - rim]
                for left, p in zip(lefts, found, strict=True):
                    sums[:-1, :, left : left + inner] += p * weight
                    sums[-1, :, left : left + inner] += weight
            if i >= begin:
                done = sums[:, : len(validity), : sar.width]
                yield done[:-1] / np.maximum(done[-1], np.finfo(np.float32).tiny), validity
            sums[:, :-step] = sums[:, step:]
            sums[:, -step:] = 0


def _turned(sar: DatasetReader) -> tuple[int, int]:
    """Steps through rows and columns: the model sees north up and east to the right."""
    return -1 if sar.transform.e > 0 else 1, -1 if sar.transform.a < 0 else 1


def _read(
    sar: DatasetReader, norm: Normalization, laid: Windows, i: int
) -> tuple[NDArray[np.float32], list[int], NDArray[np.uint8]]:
    """What the i-th row of windows sees, normalised; where windows see data; its strip's validity."""
    size, step, rim = laid
    (height, width), (down, right) = sar.shape, _turned(sar)
    product = radiometry.product(sar.name, sar.tags())
    top, done = i * step - rim, min(step, height - i * step)
    first, last = max(top, 0), min(top + size, height)
    window = Window(0, first if down > 0 else height - last, width, last - first)
    dn = rasters.read_dn(sar, window)[::down, ::right]
    db = radiometry.dn_to_db(dn, calibration_db=product.calibration_db)
    columns = -(-width // step) * step - step + size
    image = np.full((size, columns), np.nan, np.float32)
    image[first - top : last - top, rim : rim + width] = (db - norm.mean) / norm.std
    z = image[rim : rim + done, rim : rim + width]
    validity = np.where(np.isnan(z), NO_DATA, np.abs(z) > RANGE).astype(np.uint8)
    if sar.product_mask and product.level in DISTORTED:
        mask = sar.product_mask.read(1, window=window)[::down, ::right][i * step - first :][:done]
        for value, code in DISTORTED[product.level].items():
            validity[(mask == value) & (validity != NO_DATA)] = code
    valid = np.any(np.isfinite(image[rim : size - rim]), axis=0)
    lefts = range(0, columns - size + 1, step)
    seen = [left for left in lefts if valid[left + rim : left + size - rim].any()]
    if seen:  # mirrored alike, but only about columns that lack data
        part = image[:, seen[0] : seen[-1] + size]
        about = ndimage.binary_dilation(np.isnan(part).any(0), iterations=size)
        for (some,) in ndimage.find_objects(ndimage.label(about)[0]):
            part[:, some] = mirrored(part[:, some])
    return image, seen, validity


@torch.inference_mode()
def probabilities(model: torch.nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class probabilities (B, K, H, W) float32 of normalised images (B, 1, H, W) float32."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=training.precision() == "bf16-mixed"):
        logits = model(torch.from_numpy(images).to(device))
    found: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return found
