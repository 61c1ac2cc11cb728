"""What the SAR weight does, measured against land whose true backscatter is known. For chapter 08b.

    python -m experiments.weight

Three measures, of the book's reference encoder on the test patches of the simulated laptop world: what
an oracle that knows the land still pays for speckle, without and with the weight; how much of the
gradient's variance between patches is speckle; and the error against the clean image, also of the
encoder trained on for some steps with each loss. Intervals come from resampled blocks of land (and
seeds). Parts are kept as they are done, so a run goes on where it stopped; about ten minutes of a core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage, special
from shapely import affinity
from torch import Tensor

import sartutorial as st
from experiments import shared
from sartutorial import files, profiles, radiometry, splits, tutorial
from sartutorial.learn import checkpoints, datasets, pretraining
from sartutorial.learn.published import load_pretraining
from sartutorial.world import simulate

RESULT = Path(__file__).parents[1] / "book" / "results" / "weight.json"
Floats = NDArray[np.floating]
LOSSES: dict[str, pretraining.Domain | None] = {
    "plain": None,
    "weighted": "normalised",
    "weighted, linear": "linear",
}
MASK_SEED, DRAWS = 1, 1000
HIDE = 32  # px, a cell of the masks: as the reference encoder was trained
USUAL = pretraining.CELL  # px: the authors', under which the runs below go on
SIGMAS = (8, 12, 16, 24)  # px, of the blur that it is held against
EVERY = 8  # of the test patches, for gradients
SKETCH = 8192  # numbers that stand for a gradient
STEPS, BATCH, RATE, SEEDS = 25, 16, 2e-4, 3  # of the runs that go on from the reference encoder
TRAINED = ("plain", "weighted")  # with these losses
LEVELS, QUANTILES = 48, 1000


# The distribution of speckle ------------------------------------------------------------------


def correlations(sigma: float, side: int) -> NDArray[np.float64]:
    """Eigenvalues of the complex field's correlation among ``side`` x ``side`` pixels; they sum to side².

    ``simulate.smooth`` filters white noise with a Gaussian, so the correlation is the filter's own.
    """
    radius = math.ceil(4 * sigma) or 1
    filtered = np.eye(1, 2 * radius + 1, radius)[0]
    if sigma:
        filtered = ndimage.gaussian_filter(filtered, sigma, radius=radius)
    lags = np.correlate(filtered, filtered, "full")[2 * radius :][:side]
    lags = np.pad(lags / lags[0], (0, side - len(lags)))
    line = np.linalg.eigvalsh(lags[np.abs(np.subtract.outer(np.arange(side), np.arange(side)))])
    values: NDArray[np.float64] = np.outer(line, line).ravel()
    return values


def cumulative(power: Floats, eigenvalues: Floats, looks: float, terms: int = 600) -> Floats:
    """The share of speckled pixels below ``power``, of mean 1: a mean over pixels and looks.

    Each eigenvalue adds a gamma variable; their sum is a mixture of gammas (Moschopoulos 1985).
    """
    scales = np.asarray(eigenvalues) / (np.sum(eigenvalues) * looks)
    least, k = scales.min(), np.arange(1, terms)
    rates = looks * ((1 - least / scales[:, None]) ** k).sum(0)  # k times Moschopoulos' gamma_k
    parts = [float(np.prod((least / scales) ** looks))]
    for n in k:
        parts.append(float(rates[:n] @ parts[::-1]) / n)
    if abs(sum(parts) - 1) > 1e-6:
        raise ArithmeticError(f"{terms} terms are too few for so strong a correlation")
    shapes = looks * len(scales) + np.arange(terms)
    found: Floats = special.gammainc(shapes, np.asarray(power)[..., None] / least) @ np.array(parts)
    return found


def quantiles(looks: float, sigma: float, side: int = 2, number: int = QUANTILES) -> Floats:
    """Decibels of speckle of mean power 1 at ``number`` equally likely values, dark to bright."""
    db = np.linspace(-45, 14, 3000)
    below = cumulative(radiometry.to_power(db), correlations(sigma, side), looks)
    below, first = np.unique(below, return_index=True)
    found: Floats = np.interp((np.arange(number) + 0.5) / number, below, db[first])
    return found


def equivalent_looks(looks: float, sigma: float, side: int = 2) -> float:
    """Looks of the gamma distribution with the same variance."""
    values = correlations(sigma, side)
    return float(looks * values.sum() ** 2 / (values**2).sum())


def middle(values: Floats, weights: Floats) -> Floats:
    """The guess that pays least, sum(w |x - c|): the weighted median of sorted ``values`` (..., N)."""
    mass = weights.cumsum(-1)
    at = (mass >= mass[..., -1:] / 2).argmax(-1)
    found: Floats = np.take_along_axis(np.broadcast_to(values, mass.shape), at[..., None], -1)[
        ..., 0
    ]
    return found


# The land under a patch -----------------------------------------------------------------------


class Land(NamedTuple):
    """What lies under a patch of n px, at the scene's own 2n x 2n pixels, and where it is."""

    power: Floats  # mean power of what speckles
    target: Floats  # amplitude of what stands still
    key: tuple[int, ...]  # of the scene's speckle
    window: Window

    def clean(self) -> Floats:
        """Backscatter without speckle, halved: dB (n, n)."""
        return halved(self.power + self.target**2)

    def draw(self, number: int = 0, looks: int | None = None) -> Floats:
        """With speckle, halved: dB (n, n). Number 0 is what the scene shows."""
        key = (*self.key, number) if number else self.key
        looks = simulate.LOOKS if looks is None else looks
        how = (looks, simulate.CORRELATION, key, self.window, self.target)
        return halved(simulate.speckle(self.power, *how))


def halved(intensity: Floats) -> Floats:
    """Linear power (2n, 2n) as chapter 2 halves it: dB (n, n)."""
    dn = radiometry.db_to_dn(radiometry.to_db(intensity))
    return radiometry.dn_to_db(st.block_mean(dn))


def land(row: Any, **changed: Any) -> Land:
    """The land under a patch of the simulated world, a row of its index.

    ``changed`` are parts of the simulator to replace: the package has one radar, a study has others.
    """
    world, at, size = tutorial.data_dir(), Affine(*row.transform), int(row.size)
    with rasterio.open(world / simulate.CLASSES) as truth:
        left, top = ~truth.transform * (at.c, at.f)
        tags = truth.tags()
    seed, bias = int(tags["SEED"]), np.array([float(b) for b in tags["BIAS"].split()])
    place = round(top) - row.row, round(left) - row.col  # of the scene in the world
    ships = simulate._ships(world, seed, *place, int(tags["SIZE"]))
    ships = [(affinity.translate(hull, -2 * row.col), power) for hull, power in ships]
    window, kept = Window(2 * row.col, 2 * row.row, 2 * size, 2 * size), []

    def keep(power: Floats, *rest: Any) -> Floats:
        kept.append((power, np.broadcast_to(rest[-1], power.shape)))
        return power.copy()  # observe cuts the swath out of what it gets

    with mock.patch.multiple(simulate, speckle=keep, **changed):
        columns = place[1] + row.col, Window(0, 2 * row.row, 2 * size, 2 * size)
        simulate.observe(world, bias, ships, seed, place[0], *columns)
    return Land(*kept[0], (seed, 7, *place), window)


# What a land would be of which only the class, the tone and the slope are known.
UNTEXTURED = {
    "texture": lambda classes, key, window: np.ones(classes.shape, np.float32),
    "corners": lambda houses, key, window: (np.zeros_like(houses), houses),
}


class Held(NamedTuple):
    """The test patches (N, n, n), and what is known of them."""

    rows: pd.DataFrame
    db: Floats  # as the scene shows them
    other: Floats  # another draw of speckle over the same land
    clean: Floats
    plain: Floats  # clean, and without texture
    still: NDArray[np.bool_]  # where something stands that does not speckle
    classes: NDArray[np.int64]
    hidden: NDArray[np.bool_] = np.zeros(0, bool)  # behind the mask
    masks: Tensor = torch.zeros(0)


def test_patches() -> Held:
    """All test patches, their land and their masks; the land is kept in a file."""
    folder = patches()
    rows = datasets.selected(folder, "finetune", "test")
    file = profiles.data_dir() / "weight" / "land.npz"
    with files.made(file, [], {"patches": datasets.fingerprint(rows)}) as new:
        if new:
            found = [one(row) for row in rows.itertuples(index=False)]
            names = ("db", "other", "clean", "plain", "still")
            with new.open("wb") as out:
                np.savez(
                    out, **dict(zip(names, map(np.stack, zip(*found, strict=True)), strict=True))
                )
    with np.load(file) as kept:
        arrays = {name: kept[name] for name in kept.files}
    store = st.Store(folder, rows)
    for i in range(len(rows)):  # the land is the one under these very patches, but for rounding
        off = np.abs(store.sar(i) - arrays["db"][i])
        assert off.mean() < 1e-3, f"{rows['patch'].iloc[i]}: off by {off.mean():.4f} dB"
    classes = np.stack([st.HR_LULC.to_index(store.label(i)) for i in range(len(rows))])
    return masked(Held(rows, **arrays, classes=classes.astype(np.int64)), HIDE)


def masked(held: Held, cell: int) -> Held:
    """The same patches behind masks of cells of some pixels."""
    keys = torch.tensor([[MASK_SEED, 0, i] for i in range(len(held.rows))])
    masks = masks_of(keys, held.db.shape[-1], cell)
    hidden = np.kron(masks.numpy(), np.ones((pretraining.CELL,) * 2)) > 0
    return held._replace(masks=masks, hidden=hidden)


def masks_of(keys: Tensor, size: int, cell: int) -> Tensor:
    """Masks that hide cells of some pixels, as the model takes them: (B, size/16, size/16)."""
    mask = pretraining.mask_cells(size // cell, pretraining.MASK_RATIO["simmim"], keys)
    factor = cell // pretraining.CELL
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def one(row: Any) -> tuple[Floats, ...]:
    """What the file of ``test_patches`` keeps of a patch."""
    here = land(row)
    still = here.target.reshape(row.size, 2, row.size, 2).max((1, 3)) > 1e-3
    return here.draw(), here.draw(1), here.clean(), land(row, **UNTEXTURED).clean(), still


@cache
def patches() -> Path:
    """The patches of the chapters; those that are there are taken as they are."""
    there = profiles.data_dir() / "patches"
    return there if (there / "points.parquet").exists() else tutorial.sampled()


# Intervals -----------------------------------------------------------------------------------


class Blocks:
    """Draws of whole blocks of land, the same for everything that is compared."""

    def __init__(self, rows: pd.DataFrame) -> None:
        _, self.of = np.unique(splits.blocks(rows, 4), return_inverse=True)
        self.number = int(self.of.max()) + 1
        rng = np.random.default_rng(0)
        share = np.full(self.number, 1 / self.number)
        drawn = rng.multinomial(self.number, share, DRAWS)
        self.draws = np.vstack([np.ones(self.number), drawn])

    def means(self, total: Floats, count: Floats) -> Floats:
        """Means over blocks, (1 + DRAWS, ...): as measured, then by draw; sums are (blocks, ...)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = np.tensordot(self.draws, total, 1) / np.tensordot(self.draws, count, 1)
        return found


def interval(draws: Floats) -> dict[str, Any]:
    """A number with the middle 95 % of its draws."""
    low, high = np.nanpercentile(draws[1:], [2.5, 97.5])
    return {"value": float(draws[0]), "interval_95": [float(low), float(high)]}


# The floor -----------------------------------------------------------------------------------


def weight_of(db: Floats, loss: str, norm: datasets.Normalization) -> Floats:
    """The weight of every pixel of patches (N, n, n)."""
    if LOSSES[loss] is None:
        return np.ones_like(db)
    z = torch.from_numpy((db - norm.mean) / norm.std if loss == "weighted" else db)[:, None].float()
    found: Floats = st.intensity_weight(z)[:, 0].numpy()
    return found


def oracle(
    clean: Floats, db: Floats, loss: str, norm: datasets.Normalization, speckled: Floats
) -> tuple[Floats, Floats]:
    """The best guess (n, n) in dB of one that knows ``clean``, and the loss it must expect.

    The weight depends on a patch's darkest and brightest pixel: these are taken from ``db``.
    ``speckled`` are the quantiles of speckle in dB.
    """
    levels = np.linspace(clean.min(), clean.max() + 1e-3, LEVELS)
    seen = levels[:, None] + speckled
    if LOSSES[loss] is None:
        weights = np.ones_like(seen)
    else:
        mean, std = norm if loss == "weighted" else (0.0, 1.0)
        low, high, power = (
            radiometry.to_power((part - mean) / std) for part in (db.min(), db.max(), seen)
        )
        weights = np.exp(1 - np.clip((power - low) / (high - low + 1e-6), 0, 1))
    best = middle(speckled, weights)
    paid = (weights * np.abs(speckled - best[:, None])).mean(1)
    return clean + np.interp(clean, levels, best), np.interp(clean, levels, paid)


def floors(test: Held, filled: Floats, norm: datasets.Normalization) -> dict[str, Any]:
    """What the network and the oracle pay for hidden pixels, by class and decile; all in dB."""
    speckled, blocks, hidden = (
        quantiles(simulate.LOOKS, simulate.CORRELATION),
        Blocks(test.rows),
        test.hidden,
    )
    block = np.broadcast_to(blocks.of[:, None, None], hidden.shape)[hidden]
    cuts = np.linspace(0, 1, 11)[1:-1]
    groups = {
        "class": test.classes[hidden],
        "clean decile": np.digitize(c := test.clean[hidden], np.quantile(c, cuts)),
        "seen decile": np.digitize(x := test.db[hidden], np.quantile(x, cuts)),
    }
    usual, result, draws = ~test.still[hidden], {}, {}
    for loss in LOSSES:
        pair = [oracle(*p, loss, norm, speckled) for p in zip(test.clean, test.db, strict=True)]
        guess, expected = (np.stack(p)[hidden] for p in zip(*pair, strict=True))
        w = weight_of(test.db, loss, norm)[hidden]
        rough = x - test.plain[hidden]  # without texture: the best constant of each class
        for k in np.unique(groups["class"]):
            here, order = groups["class"] == k, np.argsort(rough[groups["class"] == k])
            rough[here] -= middle(rough[here][order], w[here][order])
        paid = {
            "network": w * np.abs(x - filled[hidden]),
            "oracle": w * np.abs(x - guess),
            "without texture": w * np.abs(rough),
        }
        sums = {k: np.bincount(block, v) for k, v in paid.items()}
        count = np.bincount(block)
        share = {k: blocks.means(sums[k], sums["network"]) for k in ("oracle", "without texture")}
        off = np.bincount(block[usual], (paid["oracle"] - expected)[usual])
        draws[loss] = share
        result[loss] = {
            "paid": {k: interval(blocks.means(v, count)) for k, v in sums.items()},
            "expected of the oracle": float(expected.mean()),
            "oracle minus expected": interval(blocks.means(off, np.bincount(block[usual]))),
            "share of the network's": {k: interval(v) for k, v in share.items()},
            "mean weight": float(w.mean()),
            "best guess off the true mean": float((guess - test.clean[hidden]).mean()),
            "by": {name: split(g, paid, block, blocks) for name, g in groups.items()},
        }
        if loss != "plain":
            result[loss]["share minus plain's"] = {
                k: interval(v - draws["plain"][k]) for k, v in share.items()
            }
    return result


def split(group: Floats, paid: dict[str, Floats], block: Floats, blocks: Blocks) -> dict[str, Any]:
    """The mean of what is paid by group, and the oracle's share of it with its interval."""
    number = int(group.max()) + 1
    cell = block * number + group

    def sums(v: Floats | None) -> Floats:
        return np.bincount(cell, v, blocks.number * number).reshape(blocks.number, number)

    told = {k: sums(v) for k, v in paid.items()}
    count, share = sums(None), blocks.means(told["oracle"], told["network"])
    found: dict[str, Any] = {k: (v.sum(0) / count.sum(0)).tolist() for k, v in told.items()}
    found |= {"pixels": count.sum(0).tolist()}
    return found | {"oracle's share": [interval(column) for column in share.T]}


# The gradient --------------------------------------------------------------------------------


def sketched(grads: list[Tensor], signs: Tensor) -> Floats:
    """A gradient as SKETCH numbers: sums of its parts under random signs, which keep products."""
    flat = torch.cat([g.ravel() for g in grads])
    padded = torch.nn.functional.pad(flat, (0, len(signs) - len(flat)))
    found: Floats = (padded * signs).view(-1, SKETCH).sum(0).numpy()
    return found


def gradients(model: Any, test: Held, norm: datasets.Normalization, which: list[int]) -> Floats:
    """Sketches (patches, losses, 2, 2, SKETCH): draws of what is seen, then of what is hidden."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    number = sum(p.numel() for p in parameters)
    padded = -(-number // SKETCH) * SKETCH
    signs = torch.randint(2, (padded,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    found = np.zeros((len(which), len(LOSSES), 2, 2, SKETCH), np.float32)
    for n, i in enumerate(which):
        draws = test.db[i], test.other[i]
        for a, b in np.ndindex(2, 2):
            db = np.where(test.hidden[i], draws[b], draws[a])[None]
            image = torch.from_numpy((db - norm.mean) / norm.std)[:, None].float()
            _, guess = model(image, test.masks[i : i + 1])
            hidden = torch.from_numpy(test.hidden[i])
            error = (image - guess)[0, 0].abs()[hidden]
            for k, loss in enumerate(LOSSES):
                w = torch.from_numpy(weight_of(db, loss, norm)[0])[hidden].float()
                last = k + 1 == len(LOSSES)
                grads = torch.autograd.grad((w * error).mean(), parameters, retain_graph=not last)
                found[n, k, a, b] = sketched(grads, signs)
    return found


PARTS = ("land", "speckle seen", "speckle hidden", "both together")


def variances(g: Floats, blocks: Floats) -> Floats:
    """Parts of the gradient's variance between patches, (1 + DRAWS, losses, 4), as PARTS has them.

    A crossed analysis of variance within each patch (2 x 2 draws) and one among patches; every part
    is the trace of a covariance. ``blocks`` (1 + DRAWS, patches) says how often a patch is drawn.
    """
    seen = ((g[:, :, 0].mean(2) - g[:, :, 1].mean(2)) ** 2).sum(-1)
    hid = ((g[:, :, :, 0].mean(2) - g[:, :, :, 1].mean(2)) ** 2).sum(-1)
    cross = ((g[:, :, 0, 0] - g[:, :, 0, 1] - g[:, :, 1, 0] + g[:, :, 1, 1]) ** 2).sum(-1) / 4
    mean = g.mean((2, 3))
    n = blocks.sum(1)[:, None]
    square = blocks @ (mean**2).sum(-1) / n
    middle = np.stack([((blocks @ mean[:, k]) ** 2).sum(-1) for k in range(g.shape[1])], 1) / n**2
    among = (square - middle) * n / (n - 1)
    a, b, c = (blocks @ v / n for v in (seen, hid, cross))
    a, b = (a - c) / 2, (b - c) / 2
    return np.stack([among - a / 2 - b / 2 - c / 4, a, b, c], -1)


def gradient_study(test: Held, norm: datasets.Normalization) -> dict[str, Any]:
    """Shares of the gradient's variance, of the reference network and of an untrained one."""
    which = list(range(0, len(test.rows), EVERY))
    blocks = Blocks(test.rows.iloc[which])
    times = blocks.draws[:, blocks.of].astype(np.float32)
    torch.manual_seed(0)
    trained = load_pretraining("reference").model
    networks = {
        "reference": trained,
        "untrained": pretraining.SimMIM(type(trained.encoder)(trained.encoder.config)).eval(),
    }
    result: dict[str, Any] = {"patches": len(which), "blocks": blocks.number, "parts": list(PARTS)}
    for name, model in networks.items():
        file = profiles.data_dir() / "weight" / f"gradients-{name}.npy"
        made = {
            "every": EVERY,
            "cells": HIDE,
            "patches": datasets.fingerprint(test.rows),
            "losses": list(LOSSES),
        }
        with files.made(file, [], made) as new:
            if new:
                with new.open("wb") as out:
                    np.save(out, gradients(model, test, norm, which))
        found = variances(np.load(file), times)
        share = found / found.sum(-1, keepdims=True)
        speckle = 1 - share[..., 0]
        result[name] = {
            loss: {part: interval(share[:, k, j]) for j, part in enumerate(PARTS)}
            | {"speckle": interval(speckle[:, k])}
            | ({"speckle minus plain's": interval(speckle[:, k] - speckle[:, 0])} if k else {})
            for k, loss in enumerate(LOSSES)
        }
        print(f"gradients of the {name} network: {json.dumps(result[name])}", flush=True)
    return result


# Against the clean image ------------------------------------------------------------------------


def reconstructed(model: Any, test: Held, norm: datasets.Normalization) -> Floats:
    """What the network makes of the test patches: dB (N, n, n)."""
    images = torch.from_numpy((test.db - norm.mean) / norm.std)[:, None].float()
    with torch.inference_mode():
        parts = zip(images.split(32), test.masks.split(32), strict=True)
        filled = torch.cat([model(*part)[1][:, 0] for part in parts]).numpy()
    found: Floats = filled * norm.std + norm.mean
    return found


def against(test: Held, filled: Floats) -> dict[str, list[list[float]]]:
    """Sums of errors in dB over hidden pixels by block and decile of the clean image."""
    blocks, hidden = Blocks(test.rows), test.hidden
    c, x, guess = test.clean[hidden], test.db[hidden], filled[hidden]
    decile = np.digitize(c, np.quantile(c, np.linspace(0, 1, 11)[1:-1]))
    cell = np.broadcast_to(blocks.of[:, None, None], hidden.shape)[hidden] * 10 + decile
    kinds = {
        "noisy": np.abs(x - guess),
        "clean": np.abs(c - guess),
        "bias": guess - c,
        "pixels": None,
    }
    return {
        k: np.bincount(cell, v, 10 * blocks.number).reshape(-1, 10).tolist()
        for k, v in kinds.items()
    }


def errors(test: Held, runs: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Means of ``against``, by decile and over all, with intervals over blocks and seeds; draws."""
    blocks, result, kept = Blocks(test.rows), {}, {}
    rng = np.random.default_rng(1)
    n = len(runs)
    chosen = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)]) / n
    count = np.array(runs[0]["pixels"])
    for kind in ("noisy", "clean", "bias"):
        sums = np.array([r[kind] for r in runs])  # (runs, blocks, 10)
        whole = np.stack([blocks.means(s.sum(1), count.sum(1)) for s in sums], 1)
        kept[kind] = (whole * chosen).sum(1)
        result[kind] = interval(kept[kind]) | {
            "by clean decile": (sums.sum((0, 1)) / n / count.sum(0)).tolist()
        }
    return result, kept


def continued(loss: str, seed: int, test: Held, norm: datasets.Normalization) -> dict[str, Any]:
    """The reference encoder, trained on with a loss for some steps: its errors on the test patches."""
    torch.manual_seed(seed)
    model = load_pretraining("reference").model.train()
    rows = datasets.selected(patches(), "pretrain")
    data = datasets.Patches(patches(), rows, norm, seed=seed, labels=False)
    adamw = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    order = iter(datasets.Shuffled(len(data), seed, BATCH))
    for step in range(STEPS):
        for group in adamw.param_groups:  # a short warm-up, then half a cosine
            fall = (1 + math.cos(math.pi * step / STEPS)) / 2
            group["lr"] = RATE * min(1, (step + 1) / 5) * fall
        items = [data[next(order)] for _ in range(BATCH)]
        image, keys = (torch.stack([item[k] for item in items]) for k in ("image", "key"))
        db = image[:, 0].numpy() * norm.std + norm.mean
        w = torch.from_numpy(weight_of(db, loss, norm))[:, None]
        value = model(image, masks_of(keys, image.shape[-1], USUAL), w)[0]
        adamw.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        adamw.step()
    return {"loss": loss, "seed": seed} | against(test, reconstructed(model.eval(), test, norm))


def unit(name: str, make: Callable[[], dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """A part of the work, kept as a file as soon as it is done, and made anew if it was another."""
    file = profiles.data_dir() / "weight" / f"{name}.json"
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["about"] == json.loads(json.dumps(about)):
            return found
    found = {"about": about} | make()
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(found, file)
    print(f"{name}: done", flush=True)
    return found


def runs_on(test: Held, norm: datasets.Normalization) -> Iterator[dict[str, Any]]:
    """All runs that go on from the reference encoder."""
    about = {
        "steps": STEPS,
        "batch": BATCH,
        "rate": RATE,
        "patches": datasets.fingerprint(test.rows),
    }
    for seed in range(SEEDS):
        for loss in TRAINED:
            make = partial(continued, loss, seed, test, norm)
            name = f"{loss.replace(', ', '-')}-{seed}"
            yield unit(name, make, about | {"loss": loss, "seed": seed})


def clean_study(test: Held, filled: Floats, norm: datasets.Normalization) -> dict[str, Any]:
    """Errors against the noisy and the clean image: reference, a blur, and each loss trained on."""
    z = (test.db - norm.mean) / norm.std

    chapter = shared.of_chapter("06_pretraining", "nearest", "gaussian")

    def blurred(sigma: float, every: int = 1) -> Floats:
        parts = zip(z[::every], test.hidden[::every], strict=True)
        found = np.stack([chapter.gaussian(a, ~h, sigma) for a, h in parts])
        return found * norm.std + norm.mean

    few = test.hidden[::16]
    best = min(SIGMAS, key=lambda s: np.abs(blurred(s, 16) - test.db[::16])[few].mean())
    guesses = {"reference": filled, "Gaussian": blurred(best)}
    result = {name: errors(test, [against(test, guess)])[0] for name, guess in guesses.items()}
    test = masked(test, USUAL)
    runs, draws = list(runs_on(test, norm)), {}
    after: dict[str, Any] = {
        "cells_px": USUAL,
        "steps": STEPS,
        "batch": BATCH,
        "rate": RATE,
        "seeds": SEEDS,
    }
    for loss in TRAINED:
        after[loss], draws[loss] = errors(test, [r for r in runs if r["loss"] == loss])
        if loss != "plain":
            less = {k: interval(v - draws["plain"][k]) for k, v in draws[loss].items()}
            after[loss]["minus plain's"] = less
    each = [
        {"loss": r["loss"], "seed": r["seed"]}
        | {k: np.sum(r[k]) / np.sum(r["pixels"]) for k in ("noisy", "clean", "bias")}
        for r in runs
    ]
    return result | {"sigma_px": best, "trained on": after, "runs": each}


def main() -> None:
    """Measure, write."""
    torch.set_num_threads(1)
    loaded, test = load_pretraining("reference"), test_patches()
    norm = datasets.Normalization(**loaded.description["normalization"])
    filled = reconstructed(loaded.model, test, norm)
    speckled = quantiles(simulate.LOOKS, simulate.CORRELATION)
    looks = equivalent_looks(simulate.LOOKS, simulate.CORRELATION)
    gamma = quantiles(looks, 0.0, 1)
    result = {
        "what": "what the SAR weight does to loss, gradient and reconstruction; L1 in dB on the hidden "
        "pixels of the simulated laptop world's test patches, whose noise-free backscatter is known",
        "model": "reference encoder (book/weights/encoder.json), trained with the weight, normalised",
        "cells_px": HIDE,
        "patches": len(test.rows),
        "blocks": Blocks(test.rows).number,
        "intervals": f"95 % of {DRAWS} draws of whole blocks of land; of the runs, of seeds as well",
        "speckle": {
            "looks": simulate.LOOKS,
            "correlation_px": simulate.CORRELATION,
            "equivalent looks": looks,
            "median": float(np.median(speckled)),
            "floor": float(np.abs(speckled - np.median(speckled)).mean()),
            "floor of a gamma of as many looks": float(np.abs(gamma - np.median(gamma)).mean()),
        },
        "floor": floors(test, filled, norm),
        "gradient": gradient_study(test, norm),
        "clean": clean_study(test, filled, norm),
        "script": "python -m experiments.weight",
        "provenance": checkpoints.provenance(),
    }
    checkpoints.write_json(result, RESULT)


if __name__ == "__main__":
    main()
