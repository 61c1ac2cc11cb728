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
from tqdm import tqdm

from sartutorial import InputError, files, lulc, radiometry, rasters
from sartutorial.learn import checkpoints, evaluation, inference, published

if TYPE_CHECKING:
    from pystac import Item


SPARSE = 1000  # a region has at most so many times the pixels of its maps


def mosaic(
    mapped: files.Paths,
    out: str | Path,
    *,
    overlap: Literal["confidence", "newest"] = "confidence",
    min_area: float = 0.0,
    progress: bool = False,
) -> Path:
    """Join the maps of several scenes to one of their region.

    It lies on the grid of the first map, made larger; others come to it by the nearest pixel. Where
    maps overlap, one of them counts: the surest in that pixel, or that of the newest scene. Joined by
    confidence, the region has its doubts beside it as a map has: those of the pixels that it took.

    Args:
        mapped: What ``predict`` wrote, with ``confidence`` for that rule: files, or their folder.
        out: The .tif file to write, Cloud-Optimized as the maps are; it is returned.
        overlap: Which map counts where several show a class; of equals, the first by name.
        min_area: The smallest patch to show, in hectares (the minimum mapping unit): one that is smaller
            joins its largest neighbour, see ``inference.sieved``. Rare classes shrink by it.
        progress: Show a bar.

    Raises:
        InputError: A map or its confidence is not there, torn or of another place; legends differ; maps
            lie too far apart; a scene's name holds no date; or ``min_area`` is below 0.
    """
    if not 0 <= min_area < math.inf:
        raise InputError(f"min-area {min_area}: must be 0 or more hectares")
    out, by_age = Path(out), overlap == "newest"
    paths, beside = _parts(mapped, out, by_age)
    inputs = [*paths, *beside]
    with ExitStack() as stack:
        maps = [stack.enter_context(rasters.opened(p, dtype="uint8")) for p in paths]
        legend, grid = _one_legend(maps), _around(maps)
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
                read = partial(_chosen, views, ranks, sources)
                raw = stack.enter_context(inference.cog(whole, file, grid, tags, legend))
                for window in tqdm([*rasters.row_windows(raw)], "mosaic", disable=not progress):
                    raw.write(inference.sieved(read, grid, window, n), window=window)
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


def _one_legend(maps: Sequence[DatasetReader]) -> lulc.Legend:
    legend = rasters.legend_of(maps[0])
    for one in maps:
        if legend is None or rasters.legend_of(one) != legend:
            raise InputError(f"{one.name}: no map with the legend of {maps[0].name}; leave it out")
    assert legend
    return legend


def _around(maps: Sequence[DatasetReader]) -> rasters.Grid:
    """The grid of the first map, made as large as all of them are."""
    crs, transform = maps[0].crs, maps[0].transform
    ends = []
    for one in maps:
        box = array_bounds(one.height, one.width, one.transform)
        west, south, east, north = transform_bounds(one.crs, crs, *box)
        ends += [~transform * at for at in itertools.product((west, east), (south, north))]
    if np.ptp(ends, axis=0).prod() > SPARSE * sum(one.width * one.height for one in maps):
        said = "hardly a pixel of their region shows a map; check their CRS, or join fewer"
        raise InputError(f"{maps[0].name} and {len(maps) - 1} more lie so far apart that {said}")
    # A thousandth of a pixel is no pixel.
    left, top = np.floor(np.min(ends, axis=0) + 1e-3).astype(int).tolist()
    right, bottom = np.ceil(np.max(ends, axis=0) - 1e-3).astype(int).tolist()
    return rasters.Grid(crs, transform * Affine.translation(left, top), right - left, bottom - top)


def _chosen(
    views: Sequence[WarpedVRT],
    ranks: Sequence[Any],
    sources: Sequence[WarpedVRT],
    window: Window,
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


def estimate_areas(
    sample: NDArray[np.integer],
    mapped: NDArray[np.integer],
    names: Sequence[str],
    *,
    pixel: float = 1.0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy and area by class from a sample that was drawn class by class of a map.

    The estimator and its interval are the recommended ones (Olofsson et al. 2014,
    https://doi.org/10.1016/j.rse.2014.02.015). That interval is an approximation, too narrow where a
    sample holds few errors. The exact one beside it (ours) adds up Clopper and Pearson's of every
    mapped class, each at a level such that all hold together: it is wide, and keeps its word.

    Args:
        sample: Sampled pixels (K, K): rows the class in the map, columns the true one.
        mapped: Pixels (K,) of each class in the map.
        names: Of the K classes.
        pixel: Area of a pixel; the areas come in its unit.
        level: How often an interval shall hold the true area.

    Returns:
        A row a class, and columns: sampled (in that class of the map), mapped, area, low, high,
        exact_low, exact_high, user (users' accuracy, of what the map calls so), user_se, producer
        (producers', of what is so), producer_se. ``attrs["overall"]`` is the overall accuracy and its
        standard error.

    Raises:
        InputError: Shapes do not fit, or fewer than two pixels were sampled of a class in the map.
    """
    n, mapped, k = np.asarray(sample), np.asarray(mapped), len(names)
    if n.shape != (k, k) or mapped.shape != (k,):
        raise InputError(f"sample {n.shape}, mapped {mapped.shape}: expected {k} classes, as named")
    drawn, there = n.sum(1), mapped > 0
    if few := [name for name, one, m in zip(names, drawn, there, strict=True) if m and one < 2]:
        raise InputError(f"fewer than two pixels are sampled of {', '.join(few)}; sample more")
    weight = mapped / mapped.sum()
    drawn = np.maximum(drawn, 2)  # classes without a pixel have no weight
    share = n / drawn[:, None]
    variance = share * (1 - share) / (drawn - 1)[:, None]  # of each share
    p = weight[:, None] * share
    true, total = p.sum(0), mapped.sum() * pixel
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt((weight[:, None] ** 2 * variance).sum(0))
    low, high = _clopper_pearson(n, drawn[:, None], (1 - level) / 2 / there.sum())
    table = pd.DataFrame(
        {
            "sampled": n.sum(1),
            "mapped": mapped * pixel,
            "area": true * total,
            "low": np.maximum(true - half, 0) * total,
            "high": np.minimum(true + half, 1) * total,
            "exact_low": weight @ low * total,
            "exact_high": weight @ high * total,
            **_accuracies(share, variance, weight),
        },
        index=pd.Index(names, name="class"),
    )
    table.attrs["overall"] = float(np.trace(p)), float(np.sqrt(weight**2 @ np.diag(variance)))
    return table


def _accuracies(
    share: NDArray[np.float64], variance: NDArray[np.float64], weight: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Users' and producers' accuracies, NaN where a class is not, and their standard errors."""
    true = weight @ share
    with np.errstate(invalid="ignore", divide="ignore"):
        there, producer = weight / weight, weight * np.diag(share) / true
        own = (weight * (1 - producer)) ** 2 * np.diag(variance)
        other = weight[:, None] ** 2 * variance * (1 - np.eye(len(weight)))
        return {
            "user": np.diag(share) * there,
            "user_se": np.sqrt(np.diag(variance)) * there,
            "producer": producer,
            "producer_se": np.sqrt(own + producer**2 * other.sum(0)) / true,
        }


def _clopper_pearson(
    n: NDArray[np.integer], of: NDArray[np.integer], tail: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact bounds of shares of which ``n`` out of ``of`` were seen, missed by ``tail`` on each side."""
    low = np.nan_to_num(stats.beta.ppf(tail, n, of - n + 1))
    high = np.nan_to_num(stats.beta.ppf(1 - tail, n + 1, of - n), nan=1.0)
    return low, high


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
    ours = legend and legend.names == lulc.Legend.from_dict(known["legend"]).names
    if legend is None or not ours or "SCENE" not in tags:
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
    spans = [_span(scene, date) for scene in tags["SCENE"].split(", ")]  # of a region several
    when = min(first for first, _ in spans), max(last for _, last in spans)
    card = mapped.with_suffix(".md")
    with files.atomic_write(card) as partial:
        partial.write_text(_card(about, legend, mapped, labels), encoding="utf-8")
    item = _item(mapped, grid, tags, known, about, legend, when)
    out = mapped.with_suffix(".stac.json")  # not .json: that may be a model's description
    checkpoints.write_json(item.to_dict(include_self_link=False), out)
    return out


def _span(scene: str, date: str | None) -> tuple[datetime.datetime, datetime.datetime]:
    """When a scene was taken, first and last: a mosaic's name holds a year alone."""
    day = re.search(r"-(\d{6})-[A-Z]{3}", scene)
    year = re.match(r"[NS]\d\d[EW]\d{3}_(\d\d)_", scene)
    words, form = (date, "%Y-%m-%d") if date else (day and day[1], "%y%m%d")
    utc = partial(datetime.datetime, tzinfo=datetime.UTC)
    if words:
        try:
            when = datetime.datetime.strptime(words, form).replace(tzinfo=datetime.UTC)
        except ValueError as error:
            raise InputError(f"{scene}: {error}; give its date as YYYY-MM-DD") from error
        return when, when
    if not year:
        raise InputError(f"{scene}: its name holds no date; give one, as date='2022-11-19'")
    return utc(2000 + int(year[1]), 1, 1), utc(2000 + int(year[1]), 12, 31, 23, 59, 59)


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
    when: tuple[datetime.datetime, datetime.datetime],
) -> Item:
    import pystac
    from pystac.extensions import sar

    boxes = rasters.bounds_of(grid)
    rings = [[[[w, s], [e, s], [e, n], [w, n], [w, s]]] for w, s, e, n in boxes]
    place: dict[str, Any] = {"type": "MultiPolygon", "coordinates": rings}
    if len(rings) == 1:
        place = {"type": "Polygon", "coordinates": rings[0]}
    mode = re.search(r"-\d{6}-([A-Z]{3})", tags["SCENE"])
    box = [boxes[0][0], boxes[0][1], boxes[-1][2], boxes[0][3]]
    properties = {"license": "other", "sartutorial:about": dict(about)}
    first, last = when
    day, *ends = (first, None, None) if first == last else (None, first, last)
    item = pystac.Item(mapped.stem, place, box, day, properties, *ends)
    said = tags.get("POLARISATION", known.get("polarisation", "unknown"))
    product = radiometry.product(tags["SCENE"].split(", ")[0], tags)
    sar.SarExtension.ext(item, add_if_missing=True).apply(
        mode[1] if mode else "unknown",
        sar.FrequencyBand.L,
        [sar.Polarization(said)] if said in ("HH", "HV", "VH", "VV") else [],
        product.level,
        observation_direction=sar.ObservationDirection.RIGHT,
    )
    _say_model(item, known, about, legend, said)
    beside = mapped.with_suffix(inference.BESIDE)
    for name, path, kind in (
        ("map", mapped, pystac.MediaType.COG),
        ("confidence", beside, pystac.MediaType.COG),
        ("card", mapped.with_suffix(".md"), "text/markdown"),
    ):
        if path.exists():
            item.add_asset(name, pystac.Asset(path.name, media_type=kind, roles=["data"]))
    return item


def _say_model(
    item: Item,
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    legend: lulc.Legend,
    band: str,
) -> None:
    from pystac.extensions import classification, mlm, raster

    side, norm = known["encoder"]["image_size"], known["normalization"]
    form, last = raster.DataType.FLOAT32, ["height", "width"]
    scaling = mlm.ValueScaling.create(
        mlm.ValueScalingType.Z_SCORE, mean=norm["mean"], stddev=norm["std"]
    )
    shape = mlm.InputStructure.create([-1, 1, side, side], ["batch", "channel", *last], form)
    classes = [
        classification.Classification.create(c.id, name=re.sub(r"\W+", "-", c.name), title=c.name)
        for c in legend.classes
    ]
    shown = [-1, len(classes), side, side], ["batch", "class", *last]
    result = mlm.ResultStructure.create(*shown, form)
    tasks = [mlm.TaskType.SEMANTIC_SEGMENTATION]
    what = f"{known.get('quantity', 'backscatter')} in dB"
    mlm.MLMExtension.ext(item, add_if_missing=True).apply(
        about["model"],
        "Swin Transformer, UPerNet",
        tasks,
        [mlm.ModelInput.create(what, [band], shape, value_scaling=scaling)],
        [mlm.ModelOutput.create("classes", tasks, result, classes=classes)],
        framework="pytorch",
        total_parameters=about["parameters"],
    )
