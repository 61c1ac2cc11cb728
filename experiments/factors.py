"""What a model endures: test patches that differ in one thing from those it knows. For chapter 08b.

    python -m experiments.factors

Three models (the book's, and the two that chapter 7 trains in minutes: pretrained and from scratch) on
the same simulated land seen with another calibration, speckle, angle or relief, with wrong labels, and
handed over in wrong units. Training is as it was. (Another island: experiments/search.py.) Intervals come
from resampled blocks of land. Parts are kept as they are done; about five minutes of a core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

import sartutorial as st
from experiments.weight import Land, land, patches, unit
from sartutorial import profiles, radiometry, splits, tutorial
from sartutorial.learn import checkpoints, datasets, evaluation
from sartutorial.world import simulate

RESULT = Path(__file__).parents[1] / "book" / "results" / "factors.json"
Floats = NDArray[np.floating]
EVERY = 12  # of the test patches
AUTHORS = (-10.4327, 5.8041)  # mean and deviation of their patches in dB (authors' code)
CALIBRATION = (-2, -1, 1, 2)  # dB
LOOKS = (1, 4, 16)
ANGLES = (30, 42)  # degrees
RELIEF = (0, 2)  # times the heights
WRONG = (0.05, 0.1, 0.2)  # of the labels


@cache
def files_of() -> dict[str, Any]:
    """The models' files by name; the short runs are made if they are not there yet."""
    short = {"pretrained, minutes": "reference", "scratch, minutes": None}
    found: dict[str, Any] = {"reference model": "reference"}
    for name, start in short.items():
        there = profiles.data_dir() / "models" / (start or "scratch") / "model.safetensors"
        found[name] = there if there.exists() else tutorial.model(start)
    return found


@cache
def models() -> dict[str, tuple[Any, datasets.Normalization]]:
    """The models by name, with their normalisation."""
    found = {}
    for name, file in files_of().items():
        model, known = st.load_model(file)
        found[name] = model, datasets.Normalization(**known["normalization"])
    return found


class Ground:
    """Some test patches of a folder: decibels and classes (N, n, n), and the block of each."""

    def __init__(self, folder: Path, every: int = EVERY) -> None:
        self.rows = datasets.selected(folder, "finetune", "test").iloc[::every]
        store = st.Store(folder, self.rows)
        self.db = np.stack([store.sar(i) for i in range(len(self.rows))])
        ids = np.stack([store.label(i) for i in range(len(self.rows))])
        self.truth = torch.from_numpy(st.HR_LULC.to_index(ids).astype(np.int64))
        _, owner = np.unique(splits.blocks(self.rows, 4), return_inverse=True)
        self.owner = torch.from_numpy(owner)

    def lands(self, **changed: Any) -> list[Land]:
        """What lies under the patches, seen by a radar with parts of it changed."""
        return [land(row, **changed) for row in self.rows.itertuples(index=False)]

    def scored(
        self, db: Floats, to_input: Callable[[Floats, datasets.Normalization], Floats] | None = None
    ) -> dict[str, Any]:
        """Each model's confusion matrices by block on these pixels, and how many are out of range.

        ``to_input`` makes the model's input of them; by default it normalises, as training did.
        """
        result = {}
        for name, (model, norm) in models().items():
            z = (to_input or (lambda d, norm: (d - norm.mean) / norm.std))(db, norm)
            images = torch.from_numpy(np.asarray(z, np.float32))[:, None]
            keys = torch.zeros((len(images), 3), dtype=torch.int64)
            keys[:, 2] = torch.arange(len(images))
            parts = zip(images.split(16), self.truth.split(16), keys.split(16), strict=True)
            batches = [dict(zip(("image", "label", "key"), part, strict=True)) for part in parts]
            names = st.HR_LULC.names
            matrices, ece = evaluation.tally(model.eval(), batches, self.owner, len(names))  # type: ignore[arg-type]
            blocks = dict(enumerate(matrices.tolist()))
            result[name] = {"classes": list(names), "blocks": blocks, "ece": ece, "seed": 0}
            result[name]["out of range"] = float((np.abs(z) > 3).mean())
        return result


def at_angle(degrees: float) -> dict[str, Any]:
    """The radar at another incidence angle: slopes and shadows as it sees them.

    Flat ground changes by the same law as slopes do, with each class's own exponent: the level of 36
    degrees is kept as the reference. Real radars hold more surprises.
    """
    incidence, shadow = simulate.incidence, simulate.shadow

    def seen(look: Callable[[Floats], Any], dem: Floats) -> Any:
        with mock.patch.object(simulate, "THETA", math.radians(degrees)):
            return look(dem)

    return {"incidence": partial(seen, incidence), "shadow": partial(seen, shadow)}


def steeper(times: float) -> dict[str, Any]:
    """Heights multiplied: the same land cover on other slopes."""
    mean = simulate.mean_sigma0
    return {"mean_sigma0": lambda classes, tone, dem, bias: mean(classes, tone, dem * times, bias)}


def mislabelled(result: dict[str, Any], share: float, kind: str) -> dict[str, Any]:
    """The same scores where a share of the test's labels is wrong: what the matrices would be on average.

    A wrong label is any other class, or another class by its frequency.
    """
    changed = {}
    for name, r in result.items():
        blocks = np.array(list(r["blocks"].values()), float)
        pixels, k = blocks.sum((0, 2)), blocks.shape[-1]
        chance = np.tile(pixels if kind == "by frequency" else np.ones(k), (k, 1))
        np.fill_diagonal(chance, 0)
        turned = (1 - share) * np.eye(k) + share * chance / chance.sum(1, keepdims=True)
        wrong = np.rint(np.einsum("tu,btp->bup", turned, blocks)).astype(int)
        changed[name] = r | {"blocks": dict(enumerate(wrong.tolist()))}
    return changed


def units(ground: Ground, seen: list[Land]) -> dict[str, Callable[[], dict[str, Any]]]:
    """The museum: what may be handed to a model in place of normalised decibels of sigma nought."""

    def given(to_input: Callable[[Floats, datasets.Normalization], Floats]) -> Any:
        return partial(ground.scored, ground.db, to_input)

    def fine(average: Callable[[Floats], Floats]) -> Any:
        return lambda: ground.scored(np.stack([average(intensity(here)) for here in seen]))

    def cells(x: Floats) -> Floats:
        n = len(x) // 2
        return x.reshape(n, 2, n, 2).mean((1, 3))

    gamma = -10 * math.log10(math.cos(simulate.THETA))
    return {
        "DN": given(lambda d, _: radiometry.db_to_dn(d).astype(np.float32)),
        "linear power": given(lambda d, _: radiometry.to_power(d)),
        "dB, not normalised": given(lambda d, _: d),
        "10 log DN, not 20": given(lambda d, n: ((d + 83) / 2 - 83 - n.mean) / n.std),
        "the authors' mean and deviation": given(lambda d, _: (d - AUTHORS[0]) / AUTHORS[1]),
        "gamma nought for sigma nought": given(lambda d, n: (d + gamma - n.mean) / n.std),
        "halved in amplitude": fine(lambda p: 2 * radiometry.to_db(cells(np.sqrt(p)))),
        "halved in dB": fine(lambda p: cells(radiometry.to_db(p))),
    }


def intensity(here: Land) -> Floats:
    """What the scene shows at its own resolution: power (2n, 2n)."""
    how = (simulate.LOOKS, simulate.CORRELATION, here.key, here.window, here.target)
    return simulate.speckle(here.power, *how)


def summary(
    found: dict[str, Any], base: dict[str, Any], paired: bool = True
) -> dict[str, dict[str, Any]]:
    """Of each model: mIoU with its interval, the change from ``base``, and pixels out of range."""
    told = {}
    for name, r in found.items():
        pool = evaluation.pooled([r])
        told[name] = {k: pool[k] for k in ("miou", "miou_95", "per_class_iou", "ece")}
        told[name]["out of range"] = r["out of range"]
        if paired:
            lead = evaluation.difference([r], [base[name]])
            told[name] |= {"change": lead["miou"], "change_95": lead["miou_95"]}
    return told


def lead(found: dict[str, Any]) -> dict[str, Any]:
    """How far the pretrained of the two short runs is ahead of the one from scratch."""
    ahead = evaluation.difference([found["pretrained, minutes"]], [found["scratch, minutes"]])
    return {"miou": ahead["miou"], "miou_95": ahead["miou_95"]}


def main() -> None:
    """Score, write."""
    torch.set_num_threads(1)
    ground = Ground(patches())
    about = {"patches": datasets.fingerprint(ground.rows)}
    known = [checkpoints.named(f, "model") for f in files_of().values()]
    about["models"] = [checkpoints.fingerprint(f) for f in known]

    def kept(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found = unit(f"factor-{name}", lambda: {"scores": make()}, about)["scores"]
        return {
            k: v | {"blocks": {int(b): m for b, m in v["blocks"].items()}} for k, v in found.items()
        }

    base = kept("as it is", lambda: ground.scored(ground.db))
    curves: dict[str, Any] = {}

    def point(
        factor: str, value: Any, make: Callable[[], dict[str, Any]], paired: bool = True
    ) -> None:
        found = kept(f"{factor} {value}", make)
        told = {"value": value, "models": summary(found, base, paired), "lead": lead(found)}
        curves.setdefault(factor, []).append(told)

    same = {"value": None, "models": summary(base, base), "lead": lead(base)}
    for shift in CALIBRATION:
        point("calibration [dB]", shift, partial(ground.scored, ground.db + np.float32(shift)))
    seen = ground.lands()
    for looks in LOOKS:

        def drawn(looks: int = looks) -> dict[str, Any]:
            return ground.scored(np.stack([here.draw(looks=looks) for here in seen]))

        point("looks", looks, drawn)
    changes = [("incidence angle [degrees]", v, at_angle(v)) for v in ANGLES]
    changes += [("relief [times]", v, steeper(v)) for v in RELIEF]
    for factor, value, changed in changes:

        def elsewhere(changed: dict[str, Any] = changed) -> dict[str, Any]:
            return ground.scored(np.stack([here.draw() for here in ground.lands(**changed)]))

        point(factor, value, elsewhere)
    for kind in ("any other class", "by frequency"):
        for share in WRONG:
            told = {"value": share, "models": summary(mislabelled(base, share, kind), base, False)}
            curves.setdefault(f"wrong test labels, {kind}", []).append(told)
    museum = {
        name: summary(kept(f"unit {name}", make), base)
        for name, make in units(ground, seen).items()
    }
    result = {
        "what": "three models on simulated test patches that differ in one thing from the laptop world's",
        "models": list(base),
        "patches": len(ground.rows),
        "blocks": int(ground.owner.max()) + 1,
        "seeds": "one training of each model",
        "intervals": "95 % of 1000 draws of whole blocks of land; changes are paired, block by block",
        "as it is": same,
        "curves": curves,
        "museum": museum,
        "script": "python -m experiments.factors",
        "provenance": checkpoints.provenance(),
    }
    checkpoints.write_json(result, RESULT)
    print(
        json.dumps({k: {m: v["miou"] for m, v in r.items()} for k, r in museum.items()}, indent=1)
    )


if __name__ == "__main__":
    main()
