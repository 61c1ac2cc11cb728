"""Table 1 done properly: every row searched alike, seeded, paired, with intervals. Chapter 08 reads it.

    python -m experiments.table1 [--plan] [--until 09:35] [--pace]
                                        -> book/results/table1/, one JSON a unit; several processes at once

The protocol, written before the results:

* A *unit* is one run: a trial of a search, a final run, or a pretraining. It is kept as a file when it
  ends, and a unit that is there is never run again. Cut off, the study loses the units at work.
* Budget of a trial and of a final run: what 40 s of one thread of a CPU can do. How many steps that is
  was measured for every setting (``--pace``, book/results/pace.json) before any trial ran; the steps
  themselves may run anywhere. All Swin encoders take the steps of the reference encoder's, so that they
  see the same number of images; a step of the U-Net is its own.
* Search: 16 trials a row, U-Net and scratch included, one seed (0), on validation blocks of the simulated
  laptop world, all labels. Every encoder gets the same settings: whole-patch draws of
  ``experiments.search``, of which the first was found by hand with the reference encoder in view.
* The best trial's settings are frozen and trained with seeds 1 to 5, on which nothing was chosen, and
  scored on test blocks: at 100 % of the labels, at 1, 10 and 50 % (nested, stratified by class), for
  "long" runs of 175 s, and on a fresh world (seed 778) that no choice has seen.
* Short pretraining: 100 s of one thread, seed 0, each method with the authors' mask, on all training
  patches that hold radar. One pretraining a method: its own chance is in no interval.
* Added when all that was known: four more pretrainings of each of those methods (seeds 1 to 4), with the
  frozen settings and the five seeds of their row, on the test blocks and on the fresh world.
* Flevoland (real, AIRSAR L-band HH): cells of 128 px dealt to five folds; training labels within 16 px of
  a test cell are void; the settings of the laptop world, 20 s a run; nothing is chosen on it.
* Intervals: bootstrap over seeds and spatial blocks; differences are paired by both.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sartutorial as st
from experiments import flevoland, search, shared
from experiments.reference_weights import patches
from sartutorial import profiles, tutorial
from sartutorial.learn import baselines, checkpoints, datasets, evaluation, pretraining, training
from sartutorial.learn.encoders import Encoder, config_of
from sartutorial.learn.segmentation import rarity_weights, segmentation_loss

RESULTS = Path(__file__).parents[1] / "book" / "results" / "table1"
PACE = RESULTS.with_name("pace.json")  # steps of a trial and of a pretraining
TRIALS, SEEDS = (0, *range(2, 17)), (1, 2, 3, 4, 5)  # trials: draws; the second is of crops
BUDGET, PRETRAINING = 40.0, 100.0  # seconds of one thread
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHARES, FRESH, FIELD = (0.1, 0.01, 0.5), 778, 20.0  # FIELD: seconds of a run on Flevoland
LONG = 175  # seconds of a long run
WRONG, CELL = (0.05, 0.2), 8  # shares of the training labels, in squares of so many pixels
NAMES = list(st.HR_LULC.names)


class Row(NamedTuple):
    """A row: a network, and where its encoder comes from."""

    name: str
    start: str = search.PRETRAINED  # whose settings and steps it takes
    method: pretraining.Method | None = None  # of a short pretraining
    domain: pretraining.Domain | None = None
    kind: Literal["simmim", "mixmae"] = "simmim"
    frozen: bool = False
    paper: tuple[float, float] | None = None  # mAcc and mIoU of Table 1, one run each
    born: int = 0  # seed of its pretraining

    @property
    def searched(self) -> Row:
        """The row whose search it takes: on the real scene, and of a pretraining, nothing is chosen."""
        return REFERENCE if self is OWN else ROWS[self.name.partition(", pretraining ")[0]]


REFERENCE, SCRATCH, UNET = (
    Row("reference encoder"),
    Row("SimMIM's encoder, scratch", search.SCRATCH, paper=(0.5292, 0.4258)),
    Row("U-Net, scratch", search.UNET),
)
MAIN = (REFERENCE, SCRATCH, UNET)
SIMMIM = (
    Row("SimMIM", method="simmim", paper=(0.6064, 0.4894)),
    Row("SAR-W-SimMIM", method="sar-w-simmim", domain="normalised", paper=(0.6073, 0.4898)),
)
MIXMAE = (
    Row("MixMAE's encoder, scratch", search.SCRATCH, kind="mixmae", paper=(0.4223, 0.3340)),
    Row("MixMAE", method="mixmae", kind="mixmae"),
    Row("SAR-W-MixMAE", method="sar-w-mixmae", domain="normalised", kind="mixmae",
        paper=(0.5806, 0.4734)),
)  # fmt: skip
MORE = (
    Row("SAR-W-SimMIM, linear power", method="sar-w-simmim", domain="linear"),
    Row("reference encoder, frozen", frozen=True),
    Row("random encoder, frozen", search.SCRATCH, frozen=True),
)
OWN = Row("own pixels", method="sar-w-simmim", domain="normalised")
AGAIN = tuple(
    row._replace(name=f"{row.name}, pretraining {born}", born=born)
    for row in (*SIMMIM, *MIXMAE)
    if row.method
    for born in (1, 2, 3, 4)
)
ROWS = {r.name: r for r in (*MAIN, *SIMMIM, *MIXMAE, *MORE, OWN, *AGAIN)}
SIMPLE = ("random forest", "pixel statistics", "majority class")


def settings(row: Row, trial: int) -> dict[str, Any]:
    """Of a trial, the same for every encoder."""
    return search.drawn(row.start, 0, max(TRIALS) + 1)[trial]


@cache
def pace() -> dict[str, dict[str, int]]:
    """Steps by trial of an encoder and of the U-Net, and by row of a pretraining."""
    return cast(dict[str, dict[str, int]], json.loads(PACE.read_text(encoding="utf-8"))["steps"])


def steps_of(row: Row, trial: int) -> int:
    """The steps that a trial's settings take in its budget."""
    kind = search.UNET if row.start == search.UNET else "encoders"
    return pace()[kind][str(trial)]


class World(NamedTuple):
    """Patches to train on and to score on."""

    name: str
    folder: Path
    wrong: float = 0.0  # share of the training labels

    def train(self, labels: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Decibels (N, 128, 128), classes, and pixels by class of a share of the labelled patches."""
        rows = datasets.selected(self.folder, "finetune", "train")
        part = datasets.share(rows, st.HR_LULC, labels, seed)
        at = rows.index.get_indexer(part.index)
        counts = torch.from_numpy(datasets.class_counts(part, st.HR_LULC).sum(0))
        db, classes = patches(self.folder, "train")
        if self.wrong:
            classes = mislabelled(classes, self.wrong, seed)
            counts = torch.bincount(classes[at][classes[at] >= 0].long(), minlength=len(NAMES))
        return db[at], classes[at], counts

    def score(
        self, model: evaluation.Predict, split: str = "test", device: str = DEVICE
    ) -> evaluation.Scores:
        """Scores on a split, with the confusion matrix of every block."""
        rows = datasets.selected(self.folder, "finetune", split)
        return evaluation.scored(
            model, self.folder, rows, search.norm(), st.HR_LULC.names, device=device
        )

    def radar(self) -> Tensor:
        """Decibels of all training patches, labelled or not."""
        return patches(self.folder, "train", "pretrain")[0]


def mislabelled(classes: Tensor, share: float, seed: int) -> Tensor:
    """Classes (N, n, n), -1 void, where in so many squares every label is another class, whichever.

    The squares of a smaller share are among those of a larger one.
    """
    rng, side = np.random.default_rng(seed), classes.shape[1] // CELL
    squares = (len(classes), side, side)
    hit, shift = rng.random(squares) < share, rng.integers(1, len(NAMES), squares)
    turn = np.kron(hit * shift, np.ones((1, CELL, CELL), np.int64))  # 0 where the label stays
    moved = (classes + torch.from_numpy(turn)) % len(NAMES)
    return torch.where(classes >= 0, moved, classes).to(classes.dtype)


@cache
def world(name: str) -> Any:
    """The simulated worlds, made if they are not there, and a fold of the real one."""
    if name.startswith("laptop"):
        return World(name, tutorial.sampled(), float(name.partition(" wrong ")[2] or 0))
    if name.startswith("flevoland"):
        return flevoland.Fold(int(name[-1]))
    out = profiles.data_dir() / "table1" / name
    st.simulate(out, seed=int(name.split()[-1]))
    halves = st.downsample(out / "scenes", out / "half")
    st.label(halves, out / "lulc", out / "labels")
    st.cut(halves, out / "labels", out / "patches")
    st.sample(out / "patches", out / "lulc")
    return World(name, out / "patches")


def pretrained(row: Row, place: str) -> Encoder:
    """The encoder of a row's short pretraining; its unit is kept, its weights beside the data."""
    about = of_pretraining(row, place)
    file = profiles.data_dir() / "table1" / f"{name_of(about)}.safetensors"
    config = config_of(profiles.LAPTOP, 128, row.kind)
    own = row.name if row is OWN else row.searched.name
    steps = round(pace()["pretraining"][own] * about["budget_s"] / PRETRAINING)
    unit(about, lambda: made(row, place, file, config, steps))
    if not file.exists():  # on another machine: the same steps again, which change no number
        made(row, place, file, config, steps)
    encoder = Encoder(config)
    encoder.load_state_dict(load_file(file))
    return encoder


def of_pretraining(row: Row, place: str = "laptop") -> dict[str, Any]:
    """What the unit of a row's short pretraining is."""
    budget = PRETRAINING if place == "laptop" else FIELD
    return about_of("pretrain", place, row.name, row.born, labels=None, budget_s=budget)


def made(row: Row, place: str, file: Path, config: Any, steps: int) -> dict[str, Any]:
    """Pretrain, and keep the encoder."""
    model, losses = build(row, config), []
    draw, loss, told = task(row, place, losses)
    model, steps, took = search.fitted(model, draw, loss, told, 0, steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".partial")
    state = cast(Any, model).encoder.cpu().state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, part)
    part.replace(file)
    tenths = [float(x.mean()) for x in np.array_split(torch.stack(losses).cpu().numpy(), 10)]
    how = {
        "batch": told.batch,
        "lr": told.learning_rate,
        "warm": told.warmup,
        "loss": tenths,
    }
    return {"settings": how, "steps": steps, "seconds": round(took, 1)}


def build(row: Row, config: Any) -> nn.Module:
    """A row's untrained pretraining network."""
    torch.manual_seed(row.born)
    return pretraining.build(cast(Any, row.method), config, profiles.LAPTOP).to(DEVICE).train()


def task(row: Row, place: str, losses: list[Tensor]) -> tuple[Any, Any, training.Settings]:
    """What a row's short pretraining draws, its loss, which is noted in ``losses``, and its schedule."""
    data, norm, rng = world(place).radar(), search.norm(), np.random.default_rng(row.born)
    batch = min(profiles.LAPTOP.pretrain_batch, len(data))
    rate = profiles.LAPTOP.pretrain_base_lr * batch / 512

    def draw() -> dict[str, Tensor]:
        chosen = rng.choice(len(data), batch, replace=False)
        image = ((data[chosen] - norm.mean) / norm.std)[:, None]
        key = torch.from_numpy(rng.integers(2**31, size=(batch, 3)))
        return on(DEVICE, {"image": search.flipped(image)[0], "key": key})

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        value = pretraining.reconstruction_loss(model, batch, domain=row.domain, norm=norm)
        losses.append(value.detach())
        return value

    return draw, loss, training.Settings(1, 0.2, batch, rate, "cosine")


def on(device: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch on a device."""
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


def model_of(row: Row, s: dict[str, Any], place: str) -> nn.Module:
    """A row's untrained model: random, or from a pretrained encoder."""
    given = None
    if row.method:
        given = pretrained(row, place if row is OWN else "laptop")
    elif row.kind == "mixmae":
        given = Encoder(config_of(profiles.LAPTOP, 128, "mixmae"))
    return search.network(row.start, s, given)


def network(about: dict[str, Any], trial: int) -> dict[str, Any]:
    """Train a row's network as its unit says, and score it."""
    row, place = ROWS[about["row"]], world(about["world"])
    s, seed = settings(row, trial), about["seed"]
    steps = round(steps_of(row, trial) * about["budget_s"] / BUDGET)  # at the same pace
    torch.manual_seed(seed)
    model = model_of(row, s, about["world"]).to(DEVICE).train()
    if row.frozen:
        model.encoder.requires_grad_(False)
    draw, loss, told, patches = lesson(row, s, place.train(about["labels"], seed), seed)
    model, steps, took = search.fitted(model, draw, loss, told, 0, steps)
    with torch.inference_mode():
        found = place.score(model, "val" if about["stage"] == "search" else "test", DEVICE)
    said = {"settings": s, "steps": steps, "seconds": round(took, 1), "patches": patches}
    return said | kept(found, about["stage"])


def lesson(
    row: Row, s: dict[str, Any], data: tuple[Tensor, Tensor, Tensor], seed: int
) -> tuple[Any, Any, training.Settings, int]:
    """What a row's fine-tuning draws, its loss, its schedule, and its number of patches."""
    db, classes, counts = data
    source = search.Source(search.norm(), seed, (db, classes))
    weights = rarity_weights(counts, s["cw"]) if s["cw"] else None
    loss = partial(segmentation_loss, loss=s["loss"], weights=weights)
    told = search.schedule(s, decays=row.start == search.PRETRAINED)
    batch = min(s["batch"], len(db))
    return lambda: on(DEVICE, source.draw(batch, 128)), loss, told, len(db)


def measured() -> None:
    """How many steps fit into the budgets, on one thread of this CPU."""
    steps: dict[str, dict[Any, int]] = {"encoders": {}, search.UNET: {}, "pretraining": {}}
    data = world("laptop").train(1.0, 0)
    for row, kind in ((REFERENCE, "encoders"), (UNET, search.UNET)):
        for trial in TRIALS:
            s = settings(row, trial)
            model = search.network(row.start, s).train()
            draw, loss, told, _ = lesson(row, s, data, 0)
            steps[kind][trial] = search.fitted(model, draw, loss, told, BUDGET, most=20)[1]
    for row in ROWS.values():
        if row.method and not row.born:
            model = build(row, config_of(profiles.LAPTOP, 128, row.kind))
            draw, loss, told = task(row, "laptop", [])
            found = search.fitted(model, draw, loss, told, PRETRAINING, most=20)[1]
            steps["pretraining"][row.name] = found
    what = {"what": "steps in the budgets of experiments.table1, by the fastest of twenty",
            "budget_s": {"trial": BUDGET, "pretraining": PRETRAINING}, "steps": steps}  # fmt: skip
    how = checkpoints.provenance() | {"threads": 1, "processor": processor()}
    checkpoints.write_json(what | {"provenance": how}, PACE)


def kept(found: evaluation.Scores, stage: str) -> dict[str, Any]:
    """Of scores: a trial's on validation, else what every number can be computed from again."""
    told = {"split": "val" if stage == "search" else "test", "miou": found["miou"]}
    told |= {"iou": list(found["per_class_iou"].values()), "ece": found["ece"]}
    if stage != "search":
        told["blocks"] = {k: sparse(m) for k, m in found["blocks"].items()}
    return told


def sparse(matrix: Any) -> str:
    """A confusion matrix as "place pixels place pixels ..." of what is not 0, row by row."""
    flat = np.asarray(matrix).ravel()
    return " ".join(f"{i} {flat[i]}" for i in np.flatnonzero(flat))


def dense(text: str) -> NDArray[np.int64]:
    """The matrix of what ``sparse`` wrote."""
    flat, pairs = np.zeros(len(NAMES) ** 2, np.int64), np.array(text.split(), np.int64)
    flat[pairs[::2]] = pairs[1::2]
    return flat.reshape(len(NAMES), len(NAMES))


def simple(about: dict[str, Any]) -> dict[str, Any]:
    """The forest, statistics of pixels, the majority class."""
    begin, place = time.process_time(), world(about["world"])
    db, classes, counts = place.train(about["labels"], about["seed"])
    norm = search.norm()
    items = [{"image": ((x - norm.mean) / norm.std)[None], "label": y.long()}
             for x, y in zip(db, classes, strict=True)]  # fmt: skip
    if about["row"] == "majority class":
        predict: Callable[[Tensor], Tensor] = partial(baselines._majority, counts)
    elif about["row"] == "random forest":
        predict = baselines._forest(cast(Any, items), counts, about["seed"])
    else:
        predict = pixel_statistics(items, len(counts))
    took = time.process_time() - begin
    told = {"settings": {}, "steps": None, "seconds": round(took, 1), "patches": len(db)}
    return told | kept(place.score(predict, "test", "cpu"), "final")


def pixel_statistics(items: list[dict[str, Tensor]], classes: int) -> evaluation.Predict:
    """A Gaussian for every class over the decibels of a pixel alone, with the classes' shares."""
    image = torch.cat([i["image"].ravel() for i in items]).double()
    label = torch.cat([i["label"].ravel() for i in items])
    parts = [image[label == k] for k in range(classes)]
    share = torch.tensor([max(len(p), 1e-3) for p in parts]).log()
    mean = torch.tensor([float(p.mean()) if len(p) else 0.0 for p in parts])
    std = torch.tensor([max(float(p.std()), 1e-2) if len(p) > 1 else 1.0 for p in parts])
    share, mean, std = (v.float().view(1, -1, 1, 1) for v in (share, mean, std))
    return lambda x: share - std.log() - ((x - mean) / std) ** 2 / 2


def name_of(about: dict[str, Any]) -> str:
    """A unit's file name."""
    share = "" if about["labels"] in (None, 1.0) else f"{about['labels']:g}"
    last = f"trial{about['trial']}" if about["stage"] == "search" else f"seed{about['seed']}"
    long = "long" if about["budget_s"] == LONG else ""
    words = [about["stage"], long, about["world"], share, about["row"], last]
    word = "-".join(w for w in words if w).lower().replace("'s", "").replace(",", "")
    return word.replace(" ", "-")


def file_of(about: dict[str, Any]) -> Path:
    """Where a unit is kept."""
    return RESULTS / f"{name_of(about)}.json"


def read(about: dict[str, Any]) -> dict[str, Any]:
    """A unit that is there, or {}."""
    there = file_of(about).exists()
    return baselines.unit(file_of(about), about, dict) if there else {}


def unit(about: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A unit from its file; else made, and kept at once with where it was made."""
    made = checkpoints.provenance() | {"threads": torch.get_num_threads(), "processor": processor()}
    return baselines.unit(
        file_of(about), about, lambda: {"origin": "rerun", "provenance": made} | make()
    )


def processor() -> str:
    """What computes."""
    cpu = platform.processor() or platform.machine()
    return cpu if DEVICE == "cpu" else torch.cuda.get_device_name()


def about_of(stage: str, place: str, row: str, seed: int, **more: Any) -> dict[str, Any]:
    """What a unit is, but for its settings."""
    about = {"stage": stage, "world": place, "labels": 1.0, "row": row, "seed": seed}
    return about | {"trial": None, "budget_s": BUDGET} | more


def trials(row: Row) -> list[dict[str, Any]]:
    """What the units of a row's search are."""
    return [about_of("search", "laptop", row.name, 0, trial=i) for i in TRIALS]


def finals(row: Row, place: str = "laptop", **more: Any) -> list[dict[str, Any]]:
    """What the units of a row's frozen recipe are."""
    return [about_of("final", place, row.name, seed, **more) for seed in SEEDS]


def everything() -> Iterator[dict[str, Any]]:
    """All units, searches first; some more than once."""
    fresh, rows = f"fresh {FRESH}", (*MAIN, *SIMMIM, *MIXMAE, *MORE)
    for row in rows:
        yield from [of_pretraining(row)] if row.method else []
    for row in rows:
        yield from trials(row)
    for row in rows:
        yield from finals(row)
    yield from simple_ones("laptop")
    for row in (*MAIN, *SIMMIM, *MIXMAE):
        yield from finals(row, fresh)
    yield from simple_ones(fresh)
    for row in MAIN:
        yield from finals(row, budget_s=LONG)
    for share in SHARES:
        for row in MAIN:
            yield from finals(row, labels=share)
    for share in WRONG:
        for row in MAIN:
            yield from finals(row, f"laptop wrong {share:g}")
    yield from real()
    for row in AGAIN:
        yield from (of_pretraining(row), *finals(row), *finals(row, fresh))


def simple_ones(place: str) -> Iterator[dict[str, Any]]:
    """The units of what trains no network."""
    for name in SIMPLE:
        yield about_of("final", place, name, 0, budget_s=None)


def real() -> Iterator[dict[str, Any]]:
    """The units on real radar."""
    for fold in range(flevoland.FOLDS):
        place = f"flevoland fold {fold}"
        yield of_pretraining(OWN, place)
        for row in (*MAIN, OWN):
            yield from finals(row, place, budget_s=FIELD)
        yield from simple_ones(place)


def best(row: Row) -> int:
    """The trial of a row that is best on validation blocks."""
    found = [read(about) for about in trials(row.searched)]
    return max(found, key=lambda u: u["miou"])["trial"]


def run(about: dict[str, Any]) -> dict[str, Any]:
    """A unit, made if it is not there."""
    if about["row"] in SIMPLE:
        return unit(about, lambda: simple(about))
    row = ROWS[about["row"]]
    if about["stage"] == "pretrain":
        pretrained(row, about["world"])
        return read(about)
    if about["stage"] == "search":
        return unit(about, lambda: network(about, about["trial"]))
    return unit(about, lambda: network(about, best(row)) | {"chosen": best(row)})


def ready(about: dict[str, Any]) -> bool:
    """Whether what a unit needs is there: its pretraining, and for a final run the whole search."""
    if about["row"] in SIMPLE or about["stage"] == "pretrain":
        return True
    row = ROWS[about["row"]]
    there = not row.method or read(of_pretraining(row, about["world"] if row is OWN else "laptop"))
    searched = trials(row.searched) if about["stage"] == "final" else []
    return bool(there) and all(file_of(t).exists() for t in searched)


def main() -> None:
    """Run what is left, or say what that is."""
    options = argparse.ArgumentParser(description="Table 1 done properly")
    options.add_argument("--plan", action="store_true", help="say what is left; run nothing")
    options.add_argument(
        "--pace", action="store_true", help="measure the steps of the budgets, anew"
    )
    options.add_argument("--until", help="begin no unit after this time of today, HH:MM")
    o = options.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if o.pace:
        measured()
        return
    units = list({name_of(a): a for a in everything()}.values())
    if not flevoland.SCENE.exists():
        print(f"NO REAL RADAR at {flevoland.SCENE}: set SARTUTORIAL_REAL_DATA", file=sys.stderr)
        units = [a for a in units if not a["world"].startswith("flevoland")]
    if o.plan:
        print(*baselines.left([file_of(a) for a in units]), sep="\n")
        return

    def noted(about: dict[str, Any]) -> None:
        found = run(about)
        told = found.get("miou", found["settings"].get("loss"))
        print(f"{datetime.now():%H:%M:%S} {name_of(about)}: {told}", flush=True)

    def late() -> bool:
        return bool(o.until) and f"{datetime.now():%H:%M}" >= o.until

    shared.work(units, file_of, ready, noted, profiles.data_dir() / "locks", late)


if __name__ == "__main__":
    main()
