"""The oracle, the gradient's parts and the refusals that chapter 08b rests on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import write
from rasterio.windows import Window
from scipy import special, stats

import sartutorial as st
from experiments import factors, weight
from sartutorial import InputError
from sartutorial.learn.datasets import Normalization
from sartutorial.world import simulate

ROOT = Path(__file__).resolve().parents[1]
NORM = Normalization(-12.0, 6.5)


def even(looks: int, sigma: float, side: int, key: int = 5) -> Any:
    """Decibels of an even field of mean power 1, averaged over ``side`` x ``side`` pixels."""
    n = 1024
    power = simulate.speckle(1.0, looks, sigma, (key,), Window(0, 0, n, n))
    return st.to_db(power.reshape(n // side, side, n // side, side).mean((1, 3)))


@pytest.mark.parametrize("looks", [1, 2, 5.5])
def test_without_correlation_the_distribution_is_a_gamma(looks):
    x = np.geomspace(1e-3, 6, 40)
    expected = stats.gamma.cdf(x, 4 * looks, scale=1 / (4 * looks))
    assert np.allclose(weight.cumulative(x, np.ones(4), looks), expected, atol=1e-9)


def test_a_sum_of_two_exponentials_is_the_one_in_the_books():
    x, a, b = np.linspace(0.01, 5, 30), 1.5 / 2, 0.5 / 2
    expected = 1 - (a * np.exp(-x / a) - b * np.exp(-x / b)) / (a - b)
    assert np.allclose(weight.cumulative(x, np.array([1.5, 0.5]), 1), expected, atol=1e-9)


def test_too_few_terms_are_noticed():
    with pytest.raises(ArithmeticError, match="terms"):
        weight.quantiles(4, 1.0, 4)


def test_single_look_speckle_has_its_known_floor():
    """Of ln of an exponential: median ln ln 2, and E|ln x - ln ln 2| by the integral of E1."""
    q = weight.quantiles(1, 0.0, side=1)
    tail = special.exp1(math.log(2))  # E[(ln x - ln ln 2)+]
    mean = -np.euler_gamma - math.log(math.log(2))
    floor = 10 / math.log(10) * (2 * tail - mean)
    assert np.median(q) == pytest.approx(10 * math.log10(math.log(2)), abs=0.01)
    assert np.abs(q - np.median(q)).mean() == pytest.approx(floor, rel=2e-3)


@pytest.mark.parametrize(
    ("looks", "sigma", "side"),
    [
        (1, 0.0, 1),
        (1, 0.6, 2),
        (2, 0.6, 2),
        (4, 0.4, 4),
    ],
)
def test_the_oracle_sits_on_the_floor_within_its_sampling_error(looks, sigma, side):
    field = even(looks, sigma, side)
    q = weight.quantiles(looks, sigma, side)
    paid = np.abs(field - np.median(q))
    tiles = paid.reshape(16, paid.shape[0] // 16, 16, -1).mean((1, 3))  # hardly correlated
    error = tiles.std(ddof=1) / math.sqrt(tiles.size)
    floor = np.abs(q - np.median(q)).mean()
    assert error < 0.02 * floor
    assert abs(paid.mean() - floor) < 4 * error
    looks_seen = 1 / np.var(st.to_power(field))
    assert looks_seen == pytest.approx(weight.equivalent_looks(looks, sigma, side), rel=0.03)


@pytest.mark.parametrize("loss", list(weight.LOSSES))
def test_no_other_guess_pays_less_than_the_oracle_and_it_pays_what_it_expects(loss):
    q = weight.quantiles(simulate.LOOKS, simulate.CORRELATION)
    field = (even(simulate.LOOKS, simulate.CORRELATION, 2) - 10).astype(np.float32)
    field[0, 0], field[0, 1] = -35, 5  # the darkest and the brightest pixel of the patch
    clean = np.full(field.shape, -10.0)
    guess, expected = weight.oracle(clean, field, loss, NORM, q)
    w = weight.weight_of(field[None], loss, NORM)[0]
    paid = w * np.abs(field - guess)
    assert paid.mean() == pytest.approx(expected.mean(), rel=0.01)
    for step in (-0.3, 0.3):
        assert (w * np.abs(field - guess - step)).mean() > paid.mean()
    if loss == "weighted":  # it counts the dark half more
        assert guess.mean() < -10 + np.median(q) - 0.05


@pytest.mark.parametrize("loss", list(weight.LOSSES))
def test_without_speckle_the_floor_is_0(loss):
    clean = np.random.default_rng(0).uniform(-25, 0, (32, 32)).astype(np.float32)
    guess, expected = weight.oracle(clean, clean, loss, NORM, np.zeros(9))
    assert np.abs(guess - clean).max() < 1e-6
    assert expected.max() < 1e-6


def test_the_weighted_median_is_where_half_of_the_mass_lies():
    values, weights = np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 1.0, 1.0, 1.0])
    assert weight.middle(values, weights) == 2
    assert weight.middle(values, np.array([1.0, 1.0, 1.0, 5.0])) == 10
    both = weight.middle(values, np.stack([weights, weights[::-1] * [9, 1, 1, 1]]))
    assert both.tolist() == [2, 1]


def test_the_parts_of_a_known_variance_are_found():
    rng, n, d = np.random.default_rng(0), 3000, 8
    land = rng.normal(0, 2, (n, 1, 1, 1, d))
    seen, hid = rng.normal(0, 1, (n, 1, 2, 1, d)), rng.normal(0, 3, (n, 1, 1, 2, d))
    both = rng.normal(0, 0.5, (n, 1, 2, 2, d))
    found = weight.variances(5 + land + seen + hid + both, np.ones((1, n)))[0, 0] / d
    assert np.allclose(found, [4, 1, 9, 0.25], rtol=0.06)


def test_sketches_keep_products():
    import torch

    torch.manual_seed(0)
    signs = torch.randint(2, (50 * weight.SKETCH,)) * 2.0 - 1
    one = torch.randn(49 * weight.SKETCH)
    other = 0.5 * one + torch.randn(len(one))
    a, b = (weight.sketched([x[:1000].view(10, 100), x[1000:]], signs) for x in (one, other))
    assert a @ a == pytest.approx(float(one @ one), rel=0.05)
    assert a @ b == pytest.approx(float(one @ other), rel=0.1)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((ROOT / "book" / "results" / "weight.json").read_text(encoding="utf-8"))


def intervals(tree: Any) -> list[dict[str, Any]]:
    """Every number of a result that has an interval."""
    if isinstance(tree, dict) and "interval_95" in tree:
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [one for part in parts for one in intervals(part)]


def test_on_the_book_s_land_the_oracle_sits_on_the_floor(found):
    for loss, told in found["floor"].items():
        low, high = told["oracle minus expected"]["interval_95"]
        error = (high - low) / 4
        assert abs(told["oracle minus expected"]["value"]) < 4 * error, loss
        assert told["paid"]["oracle"]["value"] < told["paid"]["network"]["value"]
    speckled = weight.quantiles(simulate.LOOKS, simulate.CORRELATION)
    floor = np.abs(speckled - np.median(speckled)).mean()
    assert found["speckle"]["floor"] == pytest.approx(floor, rel=1e-6)


def test_each_measure_has_its_interval(found):
    for measure in ("floor", "gradient", "clean"):
        parts = intervals(found[measure])
        assert parts, measure
        for part in parts:
            low, high = part["interval_95"]
            assert low <= high
    shares = [found["gradient"]["reference"][k] for k in weight.LOSSES]
    assert all(sum(s[p]["value"] for p in weight.PARTS) == pytest.approx(1) for s in shares)
    runs = found["clean"]["runs"]
    assert {(r["loss"], r["seed"]) for r in runs} == {
        (k, s) for k in weight.TRAINED for s in range(weight.SEEDS)
    }
    for loss in weight.TRAINED:
        mean = np.mean([r["clean"] for r in runs if r["loss"] == loss])
        assert found["clean"]["trained on"][loss]["clean"]["value"] == pytest.approx(mean)


# One factor at a time --------------------------------------------------------------------------


def test_wrong_labels_turn_the_truth_and_leave_the_map():
    right = {"model": {"blocks": {0: [[900, 0], [0, 100]]}}}
    found = factors.mislabelled(right, 0.2, "any other class")["model"]["blocks"][0]
    assert found == [[720, 20], [180, 80]]
    assert np.sum(found, 0).tolist() == [900, 100]
    rare = {"model": {"blocks": {0: np.diag([800, 150, 50]).tolist()}}}
    often = factors.mislabelled(rare, 0.2, "by frequency")["model"]["blocks"][0]
    assert often[1][0] == round(800 * 0.2 * 150 / 200)


def test_another_angle_or_relief_changes_slopes_as_it_should():
    x = np.arange(60, dtype=np.float32) * 5
    slope = np.tile(0.2 * x[::-1], (60, 1))  # falls towards the east, where the radar stands
    changed, usual = factors.at_angle(42), simulate.incidence(slope)
    assert (changed["incidence"](slope) < usual).all()  # further from the normal
    assert np.allclose(changed["incidence"](0 * slope), math.cos(math.radians(42)))
    assert np.allclose(simulate.incidence(0 * slope), math.cos(simulate.THETA))  # as before
    ids, flat = np.full((60, 60), 4, np.uint8), np.zeros((60, 60), np.float32)
    level = factors.steeper(0)["mean_sigma0"](ids, flat, slope, np.zeros(16))
    assert np.allclose(level, simulate.mean_sigma0(ids, flat, flat, np.zeros(16)))


def test_every_point_of_a_curve_and_every_exhibit_has_its_interval():
    file = ROOT / "book" / "results" / "factors.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    points = [p["models"] for curve in told["curves"].values() for p in curve]
    for models in [*points, *told["museum"].values(), told["as it is"]["models"]]:
        assert list(models) == told["models"]
        for m in models.values():
            assert m["miou_95"][0] < m["miou"] < m["miou_95"][1]
    assert {"calibration [dB]", "looks", "relief [times]"} <= set(told["curves"])
    assert told["museum"]["DN"]["reference model"]["change_95"][1] < -0.1


# What predict refuses, and what it cannot see ---------------------------------------------------

NAME = "IMG-HH-ALOS2900013210-221008-UBSR2.1GUD.tif"
FAULTS = {
    "decibels": (NAME, "float32", {}, 5.0, "holds float32, expected uint16 amplitude DN"),
    "gamma nought": (NAME, "uint16", {"QUANTITY": "gamma0"}, 5.0, "gamma0"),
    "not halved": (NAME, "uint16", {}, 2.5, "downsample --factor 2"),
    "another polarisation": (NAME.replace("HH", "HV"), "uint16", {}, 5.0, "HV"),
    "level 3.1": (NAME.replace("2.1", "3.1"), "uint16", {}, 5.0, "level 3.1"),
    "no known name": ("ALOS2.tif", "uint16", {}, 5.0, "unit is unknown"),
}


def scene(
    path: Path, dtype: str = "uint16", tags: dict[str, str] | None = None, spacing: float = 5.0
) -> Path:
    """A small scene of even land."""
    pixels = np.full((128, 128), 2000, dtype)
    place = rasterio.Affine(spacing, 0, 686850, 0, -spacing, 3653060)
    write(path, pixels, transform=place, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**(tags or {}))
    return path


@pytest.mark.parametrize("fault", list(FAULTS))
def test_predict_refuses_units_that_it_can_tell(fault, tmp_path):
    name, dtype, tags, spacing, said = FAULTS[fault]
    file = scene(tmp_path / name, dtype, tags, spacing)
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        st.predict(file, "reference", tmp_path / "map.tif")


def test_predict_takes_what_no_file_can_tell(tmp_path):
    """A wrong calibration factor, and gamma nought in a file that says nothing of it."""
    for i, tags in enumerate(({"CALIBRATION_DB": "-80.0"}, {})):
        file = scene(tmp_path / str(i) / NAME, tags=tags)
        assert st.predict(file, "reference", tmp_path / f"{i}.tif").exists()
