"""Maps of a region, and what is said of a map: how good it is, how large its classes are, its papers."""

from __future__ import annotations

import datetime
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from scipy import stats

from sartutorial import InputError, check_words, files, lulc, radiometry, rasters
from sartutorial.learn import checkpoints, evaluation, inference, published

if TYPE_CHECKING:
    from pystac import Item

Overlap = Literal["confidence", "newest"]
SPARSE = 1000  # a region has at most so many times the pixels of its maps


def mosaic(
    mapped: files.Paths,
    out: str | Path,
    *,
    overlap: Overlap = "confidence",
    min_area: float = 0.0,
    progress: bool = False,
) -> Path:
    """Join the maps of several scenes to one of their region.

    It lies on the grid of the first map, made larger; others come to it by the nearest pixel. Joined
    by confidence, it has its doubts beside it as a map has: those of the pixels that it took.

    Args:
        mapped: What ``predict`` wrote, with ``confidence`` for that rule: files, or their folder.
        out: The .tif file to write, Cloud-Optimized as the maps are; it is returned.
        overlap: Which map counts where several show a class: the surest in that pixel, or that of the
            newest scene; of equals, the first by name.
        min_area: The smallest patch to show, in hectares (the minimum mapping unit); a smaller one joins
            its largest neighbour. Rare classes shrink by it.
        progress: Show a bar.

    Raises:
        InputError: A map or its confidence is not there, torn or of another place; legends differ; maps
            lie too far apart; a scene's name holds no date; or ``min_area`` is below 0.
    """
    check_words(overlap=(overlap, Overlap))
    if not 0 <= min_area < math.inf:
        raise InputError(f"min-area {min_area}: must be 0 or more hectares")
    out, by_age = Path(out), overlap == "newest"
    paths, beside = _parts(mapped, out, by_age)
    inputs = [*paths, *beside]
    with ExitStack() as stack:
        maps = [stack.enter_context(rasters.opened(p, dtype="uint8")) for p in paths]
        legend, grid = _region(maps)
        sure = [stack.enter_context(rasterio.open(p)) for p in beside]
        for one, other in zip(maps, sure, strict=not by_age):
            grids = map(rasters.grid_of, (one, other))
            if other.count != len(inference.BANDS) or not rasters.same_grid(*grids):
                raise InputError(f"{other.name}: not the confidence of {one.name}; predict anew")
        form = grid._asdict()
        views = [stack.enter_context(WarpedVRT(m, nodata=0, **form)) for m in maps]
        doubts = [stack.enter_context(WarpedVRT(m, **form)) for m in sure]
        scenes = [m.tags().get("SCENE", files.name_of(m.name)) for m in maps]
        days = [_span(scene, None)[0] for scene in scenes] if by_age else []
        ranks: Sequence[Any] = [sorted(days).index(day) for day in days] or doubts
        tags = {k: v for m in maps for k, v in m.tags().items() if k in inference.KEPT}
        tags |= {"SCENE": ", ".join(scenes), "MIN_AREA": f"{min_area:g} ha"}
        how = {"overlap": overlap, "min_area": min_area}
        least = math.ceil(min_area * 1e4 / rasters.pixel_size(grid) ** 2)
        own = out.with_suffix(inference.BESIDE)
        for file, sources, n in ((out, views, least), (own, doubts, 1)):
            if sources and (whole := stack.enter_context(files.made(file, inputs, how))):
                chosen = partial(_chosen, views, ranks, sources)
                read = partial(inference.sieved, chosen, grid, least=n)
                inference.cog(whole, file, grid, tags, legend, read, progress)
        if by_age:
            own.unlink(missing_ok=True)  # of a region that was joined by confidence
    return out


def _parts(mapped: files.Paths, out: Path, by_age: bool) -> tuple[list[str], list[str]]:
    """The maps to join and, unless the newest counts, what lies beside each; whole, all of them."""
    paths = [p for p in files.find_scenes(mapped, "map") if not p.endswith(inference.BESIDE)]
    paths = [p for p in paths if Path(p).resolve() != out.resolve()]
    beside = [] if by_age else [p.rpartition(".")[0] + inference.BESIDE for p in paths]
    for path in [*paths, *beside]:
        try:
            rasters.check_whole(path)
        except OSError as error:
            mend = "predict it again, and with --confidence to join by that"
            raise InputError(f"{path}: not there, or torn ({error}); {mend}") from error
    return paths, beside


def _region(maps: Sequence[DatasetReader]) -> tuple[lulc.Legend, rasters.Grid]:
    """The legend that maps share, and the grid of the first, made as large as all of them are."""
    legend, crs, transform = rasters.legend_of(maps[0]), maps[0].crs, maps[0].transform
    ends = []
    for one in maps:
        if legend is None or rasters.legend_of(one) != legend:
            raise InputError(f"{one.name}: no map with the legend of {maps[0].name}; leave it out")
        box = array_bounds(one.height, one.width, one.transform)
        west, south, east, north = transform_bounds(one.crs, crs, *box)
        ends += [~transform * at for at in itertools.product((west, east), (south, north))]
    assert legend
    if np.ptp(ends, axis=0).prod() > SPARSE * sum(one.width * one.height for one in maps):
        said = "hardly a pixel of their region shows a map; check their CRS, or join fewer"
        raise InputError(f"{maps[0].name} and {len(maps) - 1} more lie so far apart that {said}")
    # A thousandth of a pixel is no pixel.
    left, top = np.floor(np.min(ends, axis=0) + 1e-3).astype(int).tolist()
    right, bottom = np.ceil(np.max(ends, axis=0) - 1e-3).astype(int).tolist()
    at = transform * Affine.translation(left, top)
    return legend, rasters.Grid(crs, at, right - left, bottom - top)


def _chosen(
    views: Sequence[WarpedVRT], ranks: Sequence[Any], sources: Sequence[WarpedVRT], window: Window
) -> NDArray[np.uint8]:
    """What ``sources`` hold (bands, rows, width) of the map that ranks first among those with a class."""
    shape = window.height, window.width
    found = np.full((sources[0].count, *shape), int(sources[0].nodata), np.uint8)
    best = np.full(shape, -1, np.int16)
    for view, rank, source in zip(views, ranks, sources, strict=True):
        score = rank if isinstance(rank, int) else rank.read(1, window=window).astype(np.int16)
        better = (view.read(1, window=window) > 0) & (score > best)
        found[:, better] = source.read(window=window)[:, better]
        best = np.where(better, score, best)
    return found


def agreement(mapped: str | Path, labels: str | Path) -> NDArray[np.int64]:
    """Confusion of a map with its scene's ``labels``: pixels (K, K) by class, rows truth, columns map.

    Raises InputError if they are not on one grid, or their classes differ.
    """
    opened = partial(rasters.opened, dtype="uint8")
    with opened(mapped) as found, opened(labels) as truth:
        known = rasters.legend_of(truth) or lulc.HR_LULC
        shown = rasters.legend_of(found) or known.for_maps
        if not rasters.same_grid(rasters.grid_of(found), rasters.grid_of(truth)):
            raise InputError(f"{mapped}: not on the grid of {labels}; label the scene of the map")
        if shown.names != known.names:
            ours, others = ", ".join(shown.names), ", ".join(known.names)
            fault = f"its classes are {ours}, those of {labels} {others}"
            raise InputError(f"{mapped}: {fault}; label the scene with the model's legend")
        k = len(known.names)
        confusion = np.zeros((k, k), dtype=np.int64)
        for window in rasters.row_windows(found):
            t = known.to_index(rasters.read_ids(truth, known, window))
            p = shown.to_index(rasters.read_ids(found, shown, window))
            both = (t >= 0) & (p >= 0)
            confusion += np.bincount(t[both] * k + p[both], minlength=k * k).reshape(k, k)
    return confusion


def estimate_areas(
    sample: NDArray[np.integer],
    mapped: NDArray[np.integer],
    names: Sequence[str],
    *,
    pixel: float = 1.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy and area by class from a sample that was drawn class by class of a map.

    By Olofsson et al. 2014 (https://doi.org/10.1016/j.rse.2014.02.015), whose interval is too narrow
    where a sample holds few errors. The exact one (ours) adds up Clopper and Pearson's: it keeps its
    word, and is wide.

    Args:
        sample: Sampled pixels (K, K): rows the class in the map, columns the true one.
        mapped: Pixels (K,) of each class in the map.
        names: Of the K classes.
        pixel: Area of a pixel; the areas come in its unit.
        level: How often an interval shall hold the true area.

    Returns:
        A row a class: sampled (in it on the map), mapped, area, low, high, exact_low, exact_high, user
        (accuracy of what the map calls so), user_se (its standard error), producer (accuracy of what
        is so), producer_se. ``attrs["overall"]`` holds the overall accuracy and its standard error.

    Raises:
        InputError: Shapes do not fit, or fewer than two pixels were sampled of a class in the map.
    """
    n, mapped, k = np.asarray(sample), np.asarray(mapped), len(names)
    if n.shape != (k, k) or mapped.shape != (k,):
        raise InputError(f"sample {n.shape}, mapped {mapped.shape}: expected {k} classes, as named")
    if few := [name for name, one, m in zip(names, n.sum(1), mapped, strict=True) if m and one < 2]:
        raise InputError(f"fewer than two pixels are sampled of {', '.join(few)}; sample more")
    weight, drawn = mapped / mapped.sum(), np.maximum(n.sum(1), 2)[:, None]  # 0: has no weight
    share = n / drawn
    spread = share * (1 - share) / (drawn - 1) * weight[:, None] ** 2  # variance
    p = weight[:, None] * share
    true, total = p.sum(0), mapped.sum() * pixel
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt(spread.sum(0))
    tail = (1 - level) / 2 / (mapped > 0).sum()  # Clopper and Pearson's: all shall hold together
    low = np.nan_to_num(stats.beta.ppf(tail, n, drawn - n + 1))
    high = np.nan_to_num(stats.beta.ppf(1 - tail, n + 1, drawn - n), nan=1.0)
    with np.errstate(invalid="ignore"):  # NaN for what is not in the map, or not at all
        user, producer = np.where(weight > 0, np.diag(share), np.nan), np.diag(p) / true
        user_se = np.sqrt(np.diag(spread)) / weight
        producer_se = np.sqrt((spread * (np.eye(k) - producer) ** 2).sum(0)) / true
    table = {
        "sampled": n.sum(1),
        "mapped": mapped * pixel,
        "area": true * total,
        "low": np.maximum(true - half, 0) * total,
        "high": np.minimum(true + half, 1) * total,
        "exact_low": weight @ low * total,
        "exact_high": weight @ high * total,
    }
    table |= dict(user=user, user_se=user_se, producer=producer, producer_se=producer_se)
    frame = pd.DataFrame(table, index=pd.Index(names, name="class"))
    frame.attrs["overall"] = float(np.trace(p)), float(np.sqrt(np.trace(spread)))
    return frame


def describe_map(
    mapped: str | Path,
    model: str | Path,
    *,
    labels: str | Path | None = None,
    date: str | None = None,
) -> Path:
    """Write a map's papers beside it: a STAC item (.stac.json) and a card of one page (.md).

    Args:
        mapped: What ``predict`` or ``mosaic`` wrote; confidence that lies beside it is named as well.
        model: What it was made with.
        labels: What ``label`` wrote for the scene; the card then holds an accuracy table.
        date: When the scene was taken, YYYY-MM-DD; default what its name says.

    Returns:
        The STAC item, with the SAR and the machine-learning-model extension.

    Raises:
        InputError: ``mapped`` is no map of ``model``, does not fit the labels, or has no date.
    """
    mapped = Path(mapped)
    network, known = published.load_model(model)
    with rasters.opened(mapped, dtype="uint8") as file:
        grid, tags, legend = rasters.grid_of(file), file.tags(), rasters.legend_of(file)
    ours = lulc.Legend.from_dict(known["legend"]).names
    if legend is None or legend.names != ours or "SCENE" not in tags:
        raise InputError(f"{mapped}: not a map of {model}; name the model that it was made with")
    about = {
        "map": mapped.name,
        "scene": tags["SCENE"],
        "simulated": "SIMULATED" in tags,
        "model": Path(checkpoints.named(model, "model")).name,
        "checksum": checkpoints.fingerprint(checkpoints.named(model, "model")),
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained on simulated data": bool(known.get("simulated")),
        "seed": (known.get("training") or {}).get("seed", "unknown"),
        "licence of the weights": known.get("licence", "unknown"),
        "versions": known.get("provenance", checkpoints.provenance())["versions"],
        "mapped with": tags["SOFTWARE"],
    }
    if "published" in known:
        about["note"] = published.ALOS_2
    item = _item(mapped, grid, tags, known, about, legend, date)
    with files.atomic_write(mapped.with_suffix(".md")) as card:
        card.write_text(_card(about, legend, mapped, labels), encoding="utf-8")
    out = mapped.with_suffix(".stac.json")  # not .json: that may be a model's description
    checkpoints.write_json(item, out)
    return out


def _span(scene: str, date: str | None) -> tuple[datetime.datetime, datetime.datetime]:
    """When a scene was taken, first and last: a mosaic's name holds a year alone."""
    day = re.search(r"-(\d{6})-[A-Z]{3}", scene)
    year = re.match(r"[NS]\d\d[EW]\d{3}_(\d\d)_", scene)
    words, form = (date, "%Y-%m-%d") if date else (day and day[1], "%y%m%d")
    if words:
        try:
            when = datetime.datetime.strptime(words, form).replace(tzinfo=datetime.UTC)
        except ValueError as error:
            raise InputError(f"{scene}: {error}; give its date as YYYY-MM-DD") from error
        return when, when
    if not year:
        raise InputError(f"{scene}: its name holds no date; give one, as date='2022-11-19'")
    utc = partial(datetime.datetime, 2000 + int(year[1]), tzinfo=datetime.UTC)
    return utc(1, 1), utc(12, 31, 23, 59, 59)


def _card(
    about: Mapping[str, Any], legend: lulc.Legend, mapped: Path, labels: str | Path | None
) -> str:
    text = f"# {mapped.stem}\n\nLand cover, class index + 1, 0 = no data.\n\n"
    text += "\n".join(f"- {name}: {value}" for name, value in about.items())
    text += "\n\n| value | class |\n|---|---|\n"
    text += "\n".join(f"| {c.id} | {c.name} |" for c in legend.classes)
    if labels:
        found = evaluation.scores(agreement(mapped, labels), legend.names)
        rows = {k: v for k, v in found.items() if isinstance(v, float)}
        rows |= {f"IoU, {k}": v for k, v in found["per_class_iou"].items() if v is not None}
        text += f"\n\nAgainst {files.name_of(labels)}, all labelled pixels:\n\n| | |\n|---|---|\n"
        text += "\n".join(f"| {name} | {value:.3f} |" for name, value in rows.items())
    return text + "\n"


def _item(
    mapped: Path,
    grid: rasters.Grid,
    tags: Mapping[str, str],
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    legend: lulc.Legend,
    date: str | None,
) -> dict[str, Any]:
    """A map's STAC item, with what the extensions for SAR and for models that learn ask for."""
    import pystac
    from pystac.extensions import sar

    scenes, boxes = tags["SCENE"].split(", "), rasters.bounds_of(grid)  # of a region several
    rings: list[Any] = [[[[w, s], [e, s], [e, n], [w, n], [w, s]]] for w, s, e, n in boxes]
    kind, rings = ("Polygon", rings[0]) if len(rings) == 1 else ("MultiPolygon", rings)
    place, box = {"type": kind, "coordinates": rings}, [*boxes[0][:2], boxes[-1][2], boxes[0][3]]
    spans = [_span(scene, date) for scene in scenes]
    first, last = min(first for first, _ in spans), max(last for _, last in spans)
    day, *ends = (first, None, None) if first == last else (None, first, last)
    said = {"license": "other", "sartutorial:about": about}
    item = pystac.Item(mapped.stem, place, box, day, said, *ends)
    mode = re.search(r"-\d{6}-([A-Z]{3})", tags["SCENE"])
    band = tags.get("POLARISATION", known.get("polarisation", "unknown"))
    sar.SarExtension.ext(item, add_if_missing=True).apply(
        mode[1] if mode else "unknown",
        sar.FrequencyBand.L,
        [sar.Polarization(band)] if band in ("HH", "HV", "VH", "VV") else [],
        radiometry.product(scenes[0], tags).level,
        observation_direction=sar.ObservationDirection.RIGHT,
    )
    _say_model(item, known, about, legend, band)
    for name, end in (("map", mapped.suffix), ("confidence", inference.BESIDE), ("card", ".md")):
        path, page = mapped.with_suffix(end), end == ".md"
        if path.exists() or page:  # which is written next
            kind = "text/markdown" if page else pystac.MediaType.COG
            item.add_asset(name, pystac.Asset(path.name, media_type=kind, roles=["data"]))
    return item.to_dict(include_self_link=False)


def _say_model(
    item: Item, known: Mapping[str, Any], about: Mapping[str, Any], legend: lulc.Legend, band: str
) -> None:
    """Say in a map's item which model made it, by the extension for models that learn."""
    from pystac.extensions import classification, mlm, raster

    side, norm = known["encoder"]["image_size"], known["normalization"]
    form, axes, tasks = (
        raster.DataType.FLOAT32,
        ["height", "width"],
        [mlm.TaskType.SEMANTIC_SEGMENTATION],
    )
    scaling = mlm.ValueScaling.create(
        mlm.ValueScalingType.Z_SCORE, mean=norm["mean"], stddev=norm["std"]
    )
    image = mlm.InputStructure.create([-1, 1, side, side], ["batch", "channel", *axes], form)
    classes = [
        classification.Classification.create(c.id, name=re.sub(r"\W+", "-", c.name), title=c.name)
        for c in legend.classes
    ]
    shape = [-1, len(classes), side, side], ["batch", "class", *axes]
    shown = mlm.ResultStructure.create(*shape, form)
    what = f"{known.get('quantity', 'backscatter')} in dB"
    mlm.MLMExtension.ext(item, add_if_missing=True).apply(
        about["model"],
        "Swin Transformer, UPerNet",
        tasks,
        [mlm.ModelInput.create(what, [band], image, value_scaling=scaling)],
        [mlm.ModelOutput.create("classes", tasks, shown, classes=classes)],
        framework="pytorch",
        total_parameters=about["parameters"],
    )
