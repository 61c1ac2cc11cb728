"""What is said of a map: how good it is, how large its classes are, and its papers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sartutorial import InputError, files, lulc, radiometry, rasters
from sartutorial.learn import checkpoints, evaluation, published

if TYPE_CHECKING:
    from pystac import Item

ALOS_2 = (
    "The source data of the model's weights are ALOS-2's, copyrighted by JAXA and used under the "
    "JAXA-AIST agreement."
)  # their authors ask for this sentence


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
    mapped: str | Path, model: str | Path, *, labels: str | Path | None = None
) -> Path:
    """Write a map's papers beside it: a STAC item (.json) and a card of one page (.md).

    Args:
        mapped: What ``predict`` wrote; confidence that lies beside it is named as well.
        model: What it was made with.
        labels: What ``label`` wrote for the scene; the card then holds an accuracy table.

    Returns:
        The STAC item, with the SAR and the machine-learning-model extension.

    Raises:
        InputError: ``mapped`` is no map of ``model``, or does not fit the labels.
    """
    mapped = Path(mapped)
    network, known = published.load_model(model)
    with rasters.opened(mapped, dtype="uint8") as file:
        grid, tags, legend = rasters.grid_of(file), file.tags(), rasters.legend_of(file)
    if legend is None or legend.names != lulc.Legend.from_dict(known["legend"]).names:
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
        about["note"] = ALOS_2
    card = mapped.with_suffix(".md")
    with files.atomic_write(card) as partial:
        partial.write_text(_card(about, legend, mapped, labels), encoding="utf-8")
    item = _item(mapped, grid, tags, known, about, legend)
    checkpoints.write_json(item.to_dict(include_self_link=False), mapped.with_suffix(".json"))
    return mapped.with_suffix(".json")


def _card(
    about: Mapping[str, Any], legend: lulc.Legend, mapped: Path, labels: str | Path | None
) -> str:
    lines = [f"# {mapped.stem}", "", "Land cover, class index + 1, 0 = no data.", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [
        "",
        "| value | class |",
        "|---|---|",
        *(f"| {c.id} | {c.name} |" for c in legend.classes),
    ]
    if labels:
        scores = evaluation.scores(agreement(mapped, labels), legend.names)
        lines += [
            "",
            f"Against {files.name_of(labels)}, all labelled pixels:",
            "",
            "| | |",
            "|---|---|",
        ]
        flat = {k: v for k, v in scores.items() if isinstance(v, float)}
        flat |= {f"IoU, {k}": v for k, v in scores["per_class_iou"].items() if v is not None}
        lines += [f"| {name} | {value:.3f} |" for name, value in flat.items()]
    return "\n".join([*lines, ""])


def _item(
    mapped: Path,
    grid: rasters.Grid,
    tags: Mapping[str, str],
    known: Mapping[str, Any],
    about: Mapping[str, Any],
    legend: lulc.Legend,
) -> Item:
    import pystac
    from pystac.extensions import sar

    boxes = rasters.bounds_of(grid)
    rings = [[[[w, s], [e, s], [e, n], [w, n], [w, s]]] for w, s, e, n in boxes]
    place: dict[str, Any] = {"type": "MultiPolygon", "coordinates": rings}
    if len(rings) == 1:
        place = {"type": "Polygon", "coordinates": rings[0]}
    day = re.search(r"-(\d{6})-([A-Z]{3})", tags["SCENE"])
    taken = datetime.datetime.strptime(day[1], "%y%m%d") if day else datetime.datetime.now()
    box = [boxes[0][0], boxes[0][1], boxes[-1][2], boxes[0][3]]
    properties = {"license": "other", "sartutorial:about": dict(about)}
    item = pystac.Item(mapped.stem, place, box, taken.replace(tzinfo=datetime.UTC), properties)
    said = tags.get("POLARISATION", known.get("polarisation", "unknown"))
    product = radiometry.product(tags["SCENE"], tags)
    sar.SarExtension.ext(item, add_if_missing=True).apply(
        day[2] if day else "unknown",
        sar.FrequencyBand.L,
        [sar.Polarization(said)] if said in ("HH", "HV", "VH", "VV") else [],
        product.level,
        observation_direction=sar.ObservationDirection.RIGHT,
    )
    _say_model(item, known, about, legend, said)
    beside = mapped.with_suffix(".confidence.tif")
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

    side = known["encoder"]["image_size"]
    scaling = mlm.ValueScaling.create(
        mlm.ValueScalingType.Z_SCORE,
        mean=known["normalization"]["mean"],
        stddev=known["normalization"]["std"],
    )
    shape = mlm.InputStructure.create(
        [-1, 1, side, side], ["batch", "channel", "height", "width"], raster.DataType.FLOAT32
    )
    classes = [
        classification.Classification.create(c.id, name=re.sub(r"\W+", "-", c.name), title=c.name)
        for c in legend.classes
    ]
    result = mlm.ResultStructure.create(
        [-1, len(classes), side, side],
        ["batch", "class", "height", "width"],
        raster.DataType.FLOAT32,
    )
    tasks = [mlm.TaskType.SEMANTIC_SEGMENTATION]
    quantity = known.get("quantity", "backscatter")
    mlm.MLMExtension.ext(item, add_if_missing=True).apply(
        about["model"],
        "Swin Transformer, UPerNet",
        tasks,
        [mlm.ModelInput.create(f"{quantity} in dB", [band], shape, value_scaling=scaling)],
        [mlm.ModelOutput.create("classes", tasks, result, classes=classes)],
        framework="pytorch",
        total_parameters=about["parameters"],
    )
