"""The simulated world against theory, against itself and against the real products' form."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import write
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from rasterio.windows import Window
from scipy import ndimage, stats

import sartutorial as st
from sartutorial import InputError, radiometry, rasters
from sartutorial.lulc import HR_LULC, tile_name
from sartutorial.profiles import PROFILES
from sartutorial.world import landscape, simulate
from sartutorial.world.landscape import Land
from sartutorial.world.simulate import SIGMA0


@pytest.fixture(scope="module", autouse=True)
def islet() -> Iterator[None]:
    """A profile of four scenes of 512 px."""
    with pytest.MonkeyPatch.context() as patch:
        islet = dataclasses.replace(PROFILES["laptop"], scene_size=512, world=2)
        patch.setitem(PROFILES, "islet", islet)
        yield


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that are quick to write."""
    monkeypatch.setattr(simulate, "TILE_PIXELS", 1500)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of four scenes of 512 px, written once."""
    return st.simulate(tmp_path_factory.mktemp("made"), profile="islet")


@pytest.fixture(scope="module")
def plan() -> landscape.Plan:
    """A small island, a model of a large one."""
    return landscape.plan(1400, 0)


@pytest.fixture(scope="module")
def island(plan: landscape.Plan) -> Land:
    """All of it."""
    return landscape.survey(plan, Window(0, 0, 1400, 1400))


def draft(plan: landscape.Plan) -> Land:
    """Every fourth block of an island, as one."""
    n = plan.grid.width * round(plan.grid.transform.a / 5)
    rows = []
    for top in range(0, n, 500):
        row = [landscape.survey(plan, Window(left, top, 125, 125)) for left in range(0, n, 500)]
        rows.append([np.concatenate(bands, 1) for bands in zip(*[r[1:] for r in row], strict=True)])
    return Land(plan.grid, *(np.concatenate(bands) for bands in zip(*rows, strict=True)))


def mean_sigma0(land: Land, slopes: bool = True) -> NDArray[np.floating]:
    """Mean power with the tones' bias taken off, as the scenes have it."""
    tone = radiometry.to_power(land.tone).ravel()
    count = np.bincount(land.classes.ravel(), minlength=16)
    bias = np.bincount(land.classes.ravel(), tone, 16) / np.maximum(count, 1)
    dem = land.dem if slopes else np.zeros_like(land.dem)
    return simulate.mean_sigma0(land.classes, land.tone, dem, radiometry.to_db(bias).clip(-99))


def speckle(looks: int, correlation: float, side: int, key: int) -> NDArray[np.floating]:
    """Speckle alone, mean 1."""
    return simulate.speckle(1.0, looks, correlation, (looks, key), Window(0, 0, side, side))


def slope(degrees: float) -> NDArray[np.float32]:
    """A plane (40, 40) that rises away from the radar, or with a negative angle towards it."""
    x, y = np.meshgrid(np.arange(40) * 5.0, np.arange(40) * -5.0)
    towards_radar = x * math.cos(math.radians(10)) - y * math.sin(math.radians(10))
    return (-math.tan(math.radians(degrees)) * towards_radar).astype(np.float32)


def truth(out: Path, classes: NDArray[np.uint8]) -> None:
    """The truth of a level land without tones, as ``simulate`` keeps it."""
    grid = Affine(5, 0, 686850, 0, -5, 3653060)
    for path, dtype in (
        (simulate.CLASSES, "uint8"),
        (simulate.TONE, "int16"),
        (simulate.DEM, "float32"),
    ):
        band = classes if path == simulate.CLASSES else np.zeros(classes.shape, dtype)
        write(out / path, band, transform=grid, nodata=None)


def files(out: Path) -> list[Path]:
    return sorted(p.relative_to(out) for p in out.rglob("*.tif"))


def scenes(out: Path) -> list[Path]:
    return [Path(p) for p in st.find_scenes(out / "scenes")]


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def block_mean(image: NDArray[Any], n: int) -> NDArray[Any]:
    """The mean of n x n blocks."""
    height, width = image.shape[0] // n, image.shape[1] // n
    return np.asarray(image.reshape(height, n, width, n).mean((1, 3)))


def on_scene(out: Path, scene: Path, spacing: float) -> NDArray[np.uint8]:
    """The label tiles on the scene's place at ``spacing`` metres, by nearest neighbour."""
    with rasterio.open(scene) as s:
        place = Affine(spacing, 0, s.transform.c, 0, -spacing, s.transform.f)
        size = round(s.width * s.transform.a / spacing)
        grid = dict(crs=s.crs, transform=place, width=size, height=size)
    labels = np.zeros((size, size), np.uint8)
    for tile in st.find_scenes(out / "lulc"):
        with rasterio.open(tile) as t, WarpedVRT(t, **grid, tolerance=1e-9) as vrt:
            labels = np.maximum(labels, vrt.read(1))
    return labels


# Speckle


@pytest.mark.parametrize("correlation", [0, 0.6, 1.2])
@pytest.mark.parametrize("looks", [1, 2, 4, 9])
def test_equivalent_number_of_looks(looks: int, correlation: float) -> None:
    power = speckle(looks, correlation, 700, 7)
    assert power.dtype == np.float32
    assert power.mean() == pytest.approx(1, rel=0.02)
    assert power.mean() ** 2 / power.var() == pytest.approx(looks, rel=0.05)


@pytest.mark.parametrize("looks", [1, 3])
def test_intensity_is_gamma_distributed_and_nothing_else_would_pass(looks: int) -> None:
    law = stats.gamma(looks, scale=1 / looks).cdf
    apart = speckle(looks, 0.6, 800, 0)[::8, ::8].ravel()  # beyond the point response: independent
    assert stats.kstest(apart, law).pvalue > 0.01
    amplitude = np.sqrt(apart)  # Rayleigh, for one look
    assert stats.kstest(amplitude / amplitude.mean(), law).pvalue < 1e-6
    normal = np.random.default_rng(0).normal(1, looks**-0.5, apart.size)
    assert stats.kstest(normal, law).pvalue < 1e-6
    blurred = ndimage.gaussian_filter(speckle(looks, 0, 800, 0), 0.6)  # after detection
    assert stats.kstest(blurred[::8, ::8].ravel(), law).pvalue < 1e-6


@pytest.mark.parametrize("sigma", [0.6, 1.2])
def test_neighbouring_pixels_correlate_as_the_point_response_says(sigma: float) -> None:
    power = speckle(1, sigma, 900, 1)
    kernel = ndimage.gaussian_filter1d(np.eye(1, 33, 16)[0], sigma)
    for lag in (1, 2, 3):
        field = (kernel[lag:] * kernel[:-lag]).sum() / (kernel**2).sum()
        for a, b in ((power[lag:], power[:-lag]), (power[:, lag:], power[:, :-lag])):
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] == pytest.approx(field**2, abs=0.02)
    flat = speckle(1, 0, 900, 1)
    assert abs(np.corrcoef(flat[1:].ravel(), flat[:-1].ravel())[0, 1]) < 0.01


def test_a_target_stands_out_of_the_speckle_by_its_own_power() -> None:
    target = np.zeros((300, 300), np.float32)
    target[::10, ::10] = 5
    power = simulate.speckle(1.0, 2, 0.6, (3,), Window(0, 0, 300, 300), target)
    assert power[::10, ::10].mean() == pytest.approx(26, rel=0.05)
    assert power[5::10, 5::10].mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("sigma", [0, 0.6, 6])
def test_noise_belongs_to_its_place(sigma: float) -> None:
    whole = landscape.smooth((1, 2), Window(-20, 480, 90, 70), sigma)
    part = landscape.smooth((1, 2), Window(5, 500, 30, 40), sigma)
    np.testing.assert_array_equal(part, whole[20:60, 25:55])
    other = landscape.smooth((1, 3), Window(5, 500, 30, 40), sigma)
    assert abs(np.corrcoef(part.ravel(), other.ravel())[0, 1]) < 0.5
    assert landscape.smooth((1, 2), Window(0, 0, 1500, 1500), sigma).std() == pytest.approx(
        1, rel=0.03
    )


# Radar


@pytest.mark.parametrize("exponent", [1, 2.5])
@pytest.mark.parametrize("angle", [15, -15, 0])
def test_slopes_against_the_formula(angle: float, exponent: float) -> None:
    dem = slope(angle)  # positive angles face the radar
    cos = simulate.incidence(dem)
    np.testing.assert_allclose(cos, math.cos(math.radians(36 - angle)), rtol=1e-3)
    shape = (math.cos(math.radians(36 - angle)) / math.cos(math.radians(36))) ** exponent
    area = math.sin(math.radians(36)) / math.sin(math.radians(36 - angle))
    np.testing.assert_allclose(simulate.terrain_gain(cos, exponent), shape * area, rtol=3e-3)


def test_a_wall_casts_the_shadow_that_its_height_says() -> None:
    dem = np.zeros((40, 80), np.float32)
    dem[:, 60:] = 50.0  # the radar stands in the east, 36 degrees from above
    dark = simulate.shadow(dem)[:20]
    reach = 50 * math.tan(math.radians(36)) / math.cos(simulate.LEAN)
    assert np.abs(dark[:, :60].sum(1) * 5 - reach).max() <= 5
    assert not dark[:, 60:].any()
    assert not simulate.shadow(slope(40)).any()
    assert not simulate.shadow(slope(-50)).any()
    assert simulate.shadow(slope(-58))[5:-5, 5:-5].any()


def test_foreslopes_are_brighter_than_backslopes(island: Land) -> None:
    power = mean_sigma0(island)
    falls_east = -np.gradient(island.dem, 5, axis=1)  # the radar stands in the east
    forest = np.isin(island.classes, HR_LULC.forest)
    fore, back = power[forest & (falls_east > 0.2)], power[forest & (falls_east < -0.2)]
    assert min(len(fore), len(back)) > 1000
    assert 10 * math.log10(fore.mean() / back.mean()) > 4
    falls_north = np.gradient(island.dem, 5, axis=0)
    north, south = power[forest & (falls_north > 0.2)], power[forest & (falls_north < -0.2)]
    assert abs(10 * math.log10(north.mean() / south.mean())) < 2


@pytest.mark.parametrize("id_", SIGMA0)
def test_a_level_land_of_one_class_has_its_level_and_its_looks(id_: int, tmp_path: Path) -> None:
    truth(tmp_path, np.full((300, 300), id_, np.uint8))
    window = Window(0, 0, 600, 600)
    dn = simulate.observe(tmp_path, np.zeros(16), [], 0, 0, 0, window)
    power = radiometry.to_power(radiometry.dn_to_db(dn)).astype(np.float64)
    power = power[np.isfinite(power)]
    floor = 10 ** (simulate.NOISE_DB / 10)
    assert 10 * math.log10(power.mean() - floor) == pytest.approx(SIGMA0[id_].level, abs=0.5)
    enl = power.mean() ** 2 / power.var()
    if math.isinf(SIGMA0[id_].order):
        assert enl == pytest.approx(simulate.LOOKS, rel=0.05)
    else:  # a product of independent gammas
        order = SIGMA0[id_].order
        expected = 1 / ((1 + 1 / simulate.LOOKS) * (1 + 1 / order) - 1)
        assert enl < expected * 1.1
        assert id_ == 2 or enl > expected * 0.9  # towns have corners besides


def test_classes_have_their_levels_in_the_stated_order(island: Land) -> None:
    power = mean_sigma0(island, slopes=False)
    means = {i: 10 * math.log10(power[island.classes == i].mean()) for i in SIGMA0}
    for i, echo in SIGMA0.items():
        assert means[i] == pytest.approx(echo.level, abs=0.5), HR_LULC.classes[i - 1].name
    assert sorted(means, key=lambda i: means[i]) == sorted(SIGMA0, key=lambda i: SIGMA0[i].level)


def test_only_calm_water_separates_by_intensity_alone(island: Land) -> None:
    window = Window(0, 0, *island.classes.shape[::-1])
    power = mean_sigma0(island) * simulate.texture(island.classes, (0, 5), window)
    power = power + np.float32(10 ** (simulate.NOISE_DB / 10))
    db = radiometry.to_db(simulate.speckle(power, 2, 0.6, (0, 9), window))
    # Halved scenes have the four-pixel mean: about four times the looks.
    db = radiometry.to_db(ndimage.uniform_filter(radiometry.to_power(db), 2))
    samples = {i: db[island.classes == i] for i in SIGMA0}

    def overlap(own: NDArray[Any], others: list[NDArray[Any]]) -> float:
        rest = np.concatenate([s[:3000] for s in others])
        bins = np.arange(-45, 25, 0.25)
        shares = [np.histogram(x, bins)[0] / len(x) for x in (own, rest)]
        return float(np.minimum(*shares).sum())

    land = {i: overlap(s, [t for j, t in samples.items() if j != i]) for i, s in samples.items()}
    calm = db[(island.classes == 1) & (island.tone < -3)]
    still = overlap(calm, [s for i, s in samples.items() if i != 1])
    assert min(v for i, v in land.items() if i != 1) > 1.5 * still
    assert min(v for i, v in land.items() if i != 1) > 0.25


def test_walls_along_the_track_are_brightest(plan: landscape.Plan) -> None:
    mean = {}
    for degrees in (-10, 35, 10, 80):  # counter-clockwise from east; the track leans 10 degrees
        angle = math.radians(degrees)
        one = plan._replace(district=np.array([[*landscape.MIDDLE, 0.0, angle]]))
        xy = np.array(landscape.MIDDLE) + np.random.default_rng(0).uniform(-400, 400, (20_000, 2))
        classes, tone = landscape._parcels(one, xy, np.zeros(len(xy)))
        mean[degrees] = float(np.median(tone[classes == 2]))
        dem = slope(0) + np.fromfunction(
            lambda i, j, a=angle: -0.2 * 5 * (j * math.cos(a) - i * math.sin(a)), (40, 40)
        )
        faces = math.degrees(math.acos(simulate.incidence(dem)[20, 20]))
        if degrees == -10:
            assert faces == pytest.approx(36 - math.degrees(math.atan(0.2)), abs=0.1)
    assert mean[-10] == pytest.approx(mean[80], abs=0.5)  # the two directions of one grid
    assert mean[-10] > mean[10] + 3
    assert mean[-10] > mean[35] + 3


# Land


def test_water_runs_downhill_and_none_is_lost() -> None:
    rng = np.random.default_rng(0)
    sea = landscape.fractal(120, 40, 0.8, rng) < -0.3
    up, to = landscape.drainage(np.exp(landscape.fractal(120, 20, 0.3, rng)), sea)
    assert set(up.tolist()) == set(np.flatnonzero(~sea).tolist())
    height, area = landscape.relief(np.ones((120, 120)), up, to, 40.0)
    inland = to >= 0
    assert inland.any()
    assert (to[inland] < np.flatnonzero(inland)).all()  # the order runs up from the shore
    h = height.ravel()[up]
    assert (h[inland] > h[to[inland]]).all()
    assert (h[~inland] > 0).all()
    mouths = area.ravel()[up][~inland]
    assert mouths.sum() == pytest.approx(len(up) * 0.04**2, rel=1e-5)
    for river in landscape._paths(to, area.ravel()[up] > 0.05):
        assert (np.diff(h[river]) < 0).all()
        assert to[river[-1]] == -1 or any(
            river[-1] in p[:-1] for p in landscape._paths(to, area.ravel()[up] > 0.05)
        )


def test_rivers_reach_the_sea(island: Land, plan: landscape.Plan) -> None:
    rivers = plan.lines[plan.lines[:, 5] == landscape.RIVER]
    starts = {tuple(xy) for xy in rivers[:, :2].round(2)}
    ends = [tuple(xy) for xy in rivers[:, 2:4].round(2) if tuple(xy) not in starts]
    assert len(ends) >= 3
    touched = 0
    for x, y in ends:  # in water: the sea, or the river that it joins
        col, row = ~island.grid.transform * (x, y)
        near = island.classes[int(row) - 6 : int(row) + 7, int(col) - 6 : int(col) + 7]
        touched += bool((near == 1).any())
    assert touched > 0.9 * len(ends)


def test_roads_join_the_towns_without_crossing_the_sea() -> None:
    cost = np.ones((40, 60))
    cost[:, 30] = 1e4  # a strait
    cost[20, 30] = 1
    towns = np.array([5 * 60 + 5, 35 * 60 + 8, 6 * 60 + 50])
    roads = landscape._roads(cost, towns)
    assert len(roads) == 2
    assert {int(t) for r in roads for t in (r[0], r[-1])} == set(towns.tolist())
    for road in roads:
        rows, cols = np.divmod(road, 60)
        assert (np.maximum(abs(np.diff(rows)), abs(np.diff(cols))) == 1).all()
        assert cost.ravel()[road].max() == 1


@pytest.mark.parametrize("seed", range(2))
def test_the_island_has_every_class_and_japans_imbalance(seed: int) -> None:
    plan = landscape.plan(4000, seed)
    land = draft(plan)
    counts = np.bincount(land.classes[(land.dem > 0) | (land.classes > 1)], minlength=15)
    assert counts[0] == 0
    assert (counts[1:] > 0).all()
    share = 100 * counts / counts[2:].sum()
    counted = Path(__file__).parents[1] / "book" / "results" / "japan_counts.json"
    ids = {int(i): c["pixels"] for i, c in json.loads(counted.read_text())["ids"].items()}
    del ids[1]  # the sea
    for i, pixels in ids.items():
        japan = 100 * pixels / sum(ids.values())
        # One island is not Japan; solar panels and greenhouses are raised, and said so.
        most = 2 if japan > 10 else 5
        assert japan / most < share[i] < most * japan, HR_LULC.classes[i - 1].name
    assert 60 < share[list(HR_LULC.forest)].sum() < 76
    assert 0.2 < (land.dem == 0).mean() < 0.4
    for rim in (plan.height[0], plan.height[-1], plan.height[:, 0], plan.height[:, -1]):
        assert (rim < 0).all()
    assert 200 < land.dem.max() < 2000


def test_the_land_does_not_depend_on_how_it_is_surveyed(plan: landscape.Plan) -> None:
    whole = landscape.survey(plan, Window(100, 60, 300, 260))
    part = landscape.survey(plan, Window(180, 150, 120, 90))
    at = (slice(90, 180), slice(80, 200))
    assert (part.classes == whole.classes[at]).mean() > 0.999
    assert part.grid.transform.c == whole.grid.transform.c + 80 * 5
    np.testing.assert_allclose(part.dem, whole.dem[at], atol=0.05)


def test_texture_is_gamma_of_unit_mean() -> None:
    classes = np.repeat(np.array([[6, 2, 4]], np.uint8), 600, 0).repeat(600, 1)
    field = simulate.texture(classes, (3,), Window(0, 0, 1800, 600))
    forest, town, crops = np.split(field, 3, axis=1)
    assert (crops == 1).all()
    assert forest.mean() == pytest.approx(1, rel=0.01)
    for part, id_ in ((forest, 6), (town, 2)):
        assert 1 / part.var() == pytest.approx(SIGMA0[id_].order, rel=0.05)
        law = stats.gamma(SIGMA0[id_].order, scale=1 / SIGMA0[id_].order).cdf
        assert stats.kstest(part[::6, ::6].ravel(), law).pvalue > 0.01


def test_corners_are_bright_points_that_leave_the_mean_as_it_was() -> None:
    houses = np.full((1000, 1000), 0.5, np.float32)
    houses[:, 600:] = 0
    amplitude, rest = simulate.corners(houses, (4,), Window(0, 0, 1000, 1000))
    town = (slice(20, -20), slice(20, 580))
    assert (amplitude**2 + rest)[town].mean() == pytest.approx(0.5, rel=0.05)
    assert not amplitude[:, 610:].any()
    peak = simulate.CORNER_POWER * rest[0, 0]
    points = ndimage.maximum_filter(amplitude, 3) == amplitude
    lonely = points & (amplitude**2 > 0.9 * peak)
    assert lonely[town].mean() == pytest.approx(simulate.CORNERS, rel=0.2)


def test_ships_lie_on_the_sea(tmp_path: Path) -> None:
    classes = np.full((800, 800), 6, np.uint8)
    classes[:, :400] = 1
    truth(tmp_path, classes)
    fleet = [s for k in range(8) for s in simulate._ships(tmp_path, k, 0, 0, 800)]
    assert fleet
    for hull, power in fleet:
        west, south, east, north = hull.bounds
        assert east < 800
        assert 10 <= max(east - west, north - south) <= 80
        assert 0.5 <= power < 4
    dn = simulate.observe(tmp_path, np.zeros(16), fleet[:1], 0, 0, 0, Window(0, 0, 1600, 1600))
    x, y = (round(v) for v in fleet[0][0].centroid.coords[0])
    assert dn[y, x] > 5 * np.median(dn[:, 300:700])


# Files


def test_the_files_have_the_form_of_the_products(made: Path) -> None:
    names = [str(p) for p in files(made)]
    pattern = r"scenes/IMG-HH-ALOS2\d{9}-22\d{4}-UBSR2\.1GUD\.tif"
    assert sum(bool(re.fullmatch(pattern, n)) for n in names) == 4
    tiles = [f"lulc/LC_N{lat}E{lon}.tif" for lat in (32, 33) for lon in (136, 137)]
    assert set(tiles) <= set(names)
    assert {"dem/DEM.tif", "truth/classes.tif", "truth/tone.tif"} <= set(names)
    assert len(names) == 11
    for name in names:
        with rasterio.open(made / name) as f:
            tags = f.tags()
            assert tags["SIMULATED"] == "yes"
            assert tags["SEED"] == "0"
            assert f.count == 1
            assert f.block_shapes[0][1] == 512
            if name.startswith("scenes"):
                assert (f.dtypes[0], f.nodata, f.shape) == ("uint16", 0, (512, 512))
                assert f.crs.to_epsg() == 32653
                assert rasters.pixel_size(f) == pytest.approx(2.5, rel=1e-3)
                assert (tags["QUANTITY"], tags["POLARISATION"]) == ("sigma0", "HH")
            elif name.startswith("lulc"):
                assert (f.dtypes[0], f.nodata, f.shape) == ("uint8", 0, (12000, 12000))
                assert f.crs.to_epsg() == 4326
                assert f.res == (1 / 12000, 1 / 12000)
                assert f.colormap(1)[9] == (0, 172, 86, 255)
                west, south = round(f.bounds.left), round(f.bounds.bottom)
                assert Path(name).name == tile_name(west, south)
                assert f.bounds == pytest.approx((west, south, west + 1, south + 1), abs=1e-9)
            else:
                dtype, unit = {"classes": ("uint8", None), "tone": ("int16", "0.01 dB"),
                               "DEM": ("float32", "m")}[Path(name).stem]  # fmt: skip
                assert (f.dtypes[0], f.res, tags.get("UNIT")) == (dtype, (5, 5), unit)
                if unit == "m":
                    assert f.read(1).min() == 0 < f.read(1).max()


def test_dn_is_zero_outside_a_leaning_swath_and_only_there(made: Path) -> None:
    for scene in scenes(made):
        valid = read(scene) > 0
        assert 0.80 < valid.mean() < 0.95
        assert ndimage.label(valid)[1] == 1
        rest, parts = ndimage.label(~valid)
        corners = {int(rest[i, j]) for i in (0, -1) for j in (0, -1)}
        assert parts == 4
        assert corners == {1, 2, 3, 4}
        left = valid.argmax(1)[150:450]  # a descending orbit flies to the south and a little west
        slope, _ = np.polyfit(np.arange(150, 450)[left > 0], left[left > 0], 1)
        assert math.degrees(math.atan(-slope)) == pytest.approx(10, abs=0.5)
        y, x = np.mgrid[:512, :512] - 255.5
        turned = (x + 1j * y) * np.exp(-1j * np.radians(10))
        inside = np.maximum(abs(turned.real), abs(turned.imag)) < 0.92 * 256
        assert (valid == inside).all()


def test_labels_are_the_world_by_exact_nearest_neighbour(made: Path) -> None:
    with rasterio.open(made / simulate.CLASSES) as file:
        classes, grid, crs = file.read(1), file.transform, file.crs
    seen = set()
    for tile in st.find_scenes(made / "lulc"):
        with rasterio.open(tile) as t:
            labels = t.read(1)
            assert labels.min() == 1  # the sea goes on: no void
            # The island lies in the 250 rows and columns at the corner where four tiles meet.
            row, col = (a.ravel() for a in np.mgrid[:250, :250])
            row += 11750 * (round(t.bounds.bottom) == 33)
            col += 11750 * (round(t.bounds.right) == 137)
            at = t.transform
        lon, lat = at.c + at.a * (col + 0.5), at.f + at.e * (row + 0.5)
        xs, ys = map(np.array, transform("EPSG:4326", crs, lon, lat))
        j = np.floor((xs - grid.c) / 5).astype(int)
        i = np.floor((grid.f - ys) / 5).astype(int)
        size = len(classes)
        inside = (i >= 0) & (i < size) & (j >= 0) & (j < size)
        expected = np.where(inside, classes[i.clip(0, size - 1), j.clip(0, size - 1)], 1)
        assert (labels[row, col] == expected).all()
        seen |= set(np.unique(labels[row, col]).tolist())
    assert len(seen) > 8


def test_scene_and_label_agree_in_place(made: Path) -> None:
    for scene in scenes(made):
        power = block_mean(radiometry.to_power(radiometry.dn_to_db(read(scene))), 2)
        labels = on_scene(made, scene, 5)  # a shift by half a pixel would round to one
        dark = -radiometry.to_db(power)
        use = np.isfinite(dark)
        use[:5] = use[-5:] = use[:, :5] = use[:, -5:] = False
        found = {}
        for shift in itertools.product(range(-4, 5), repeat=2):
            water = np.roll(labels == 1, shift, (0, 1))
            found[shift] = np.corrcoef(dark[use], water[use])[0, 1]
        assert max(found, key=lambda s: found[s]) == (0, 0), scene.name
        assert found[0, 0] > 0.4


def test_neighbours_share_the_land_but_not_the_speckle(made: Path) -> None:
    pairs = 0
    for a, b in itertools.combinations(scenes(made), 2):
        with rasterio.open(a) as one, rasterio.open(b) as other:
            right = round((other.transform.c - one.transform.c) / 2.5)
            down = round((one.transform.f - other.transform.f) / 2.5)
            first, second = one.read(1).astype(float), other.read(1).astype(float)
        assert right % 2 == 0
        assert down % 2 == 0
        if max(abs(right), abs(down)) >= 512:
            continue
        first = first[max(down, 0) :, max(right, 0) :]
        second = second[max(-down, 0) :, max(-right, 0) :]
        height, width = np.minimum(first.shape, second.shape)
        shared = first[:height, :width], second[:height, :width]
        both = (shared[0] > 0) & (shared[1] > 0)
        if both.sum() < 2000:
            continue
        pairs += 1
        logs = [np.log(np.where(both, s, 1)) for s in shared]
        fine = np.corrcoef(logs[0][both], logs[1][both])[0, 1]
        smooth = [ndimage.uniform_filter(g, 7)[both] for g in logs]
        assert 0.1 < fine < 0.95
        assert np.corrcoef(*smooth)[0, 1] > max(0.8, fine)
    assert pairs >= 4  # they tile the world


def test_each_scene_has_its_own_speckle(made: Path) -> None:
    grain = []
    for scene in scenes(made):
        image = np.log(read(scene)[150:350, 150:350].astype(float))
        grain.append((image - ndimage.uniform_filter(image, 3)).ravel())
    others = np.corrcoef(grain)[~np.eye(4, dtype=bool)]
    assert np.abs(others).max() < 0.05


# Running again


def same_bytes(one: Path, other: Path) -> list[bool]:
    """Whether each file of a world is that of another, which has the same ones."""
    assert files(one) == files(other)
    return [(one / name).read_bytes() == (other / name).read_bytes() for name in files(one)]


@pytest.mark.usefixtures("coarse")
def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    one, two = (st.simulate(tmp_path / name, profile="islet") for name in ("one", "two"))
    assert all(same_bytes(one, two))
    st.simulate(two, profile="islet", seed=1)  # replaces what another seed made
    assert not any(same_bytes(one, two))


def test_the_bytes_do_not_depend_on_the_number_of_threads(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("1", "3"):
        monkeypatch.setenv("GDAL_NUM_THREADS", threads)
        other = st.simulate(tmp_path / threads, profile="islet")
        assert all(same_bytes(made, other))


@pytest.mark.usefixtures("coarse")
def test_memory_does_not_grow_with_the_number_of_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "BLOCK", 256)
    monkeypatch.setenv("GDAL_NUM_THREADS", "2")
    peaks = []
    for side in (1, 3):
        tracemalloc.start()
        st.simulate(tmp_path / str(side), profile="islet", side=side)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def times(out: Path) -> dict[Path, int]:
    """When each file was written."""
    return {p: (out / p).stat().st_mtime_ns for p in files(out)}


def test_a_rerun_writes_only_what_is_missing(made: Path) -> None:
    before = times(made)
    st.simulate(made, profile="islet")
    assert times(made) == before
    lost = {made / simulate.DEM, scenes(made)[1]}
    content = {path: path.read_bytes() for path in lost}
    for path in lost:
        path.unlink()
    st.simulate(made, profile="islet")
    after = times(made)
    assert {made / p for p in after if after[p] != before[p]} == lost
    assert {path: path.read_bytes() for path in lost} == content


@pytest.mark.usefixtures("coarse")
def test_a_copied_or_moved_world_is_not_simulated_anew(tmp_path: Path) -> None:
    shutil.copytree(st.simulate(tmp_path / "a", profile="islet", side=1), tmp_path / "b")
    for k, path in enumerate(sorted((tmp_path / "b").rglob("*.tif"), reverse=True)):
        os.utime(path, (k, k))  # a copy may have any times, in any order
    (tmp_path / "b").rename(tmp_path / "c")
    before = times(tmp_path / "c")
    st.simulate(tmp_path / "c", profile="islet", side=1)
    assert times(tmp_path / "c") == before


@pytest.mark.usefixtures("coarse")
def test_two_runs_at_once_make_one_world(tmp_path: Path) -> None:
    code = f"""
import dataclasses
import sartutorial as st
from sartutorial.profiles import PROFILES
from sartutorial.world import simulate
PROFILES["islet"] = dataclasses.replace(PROFILES["laptop"], scene_size=512, world=2)
simulate.TILE_PIXELS = 1500
st.simulate({str(tmp_path / "both")!r}, profile="islet")
"""
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert all(same_bytes(st.simulate(tmp_path / "one", profile="islet"), tmp_path / "both"))


@pytest.mark.usefixtures("coarse")
def test_a_smaller_world_leaves_no_scene_of_the_larger(tmp_path: Path) -> None:
    st.simulate(tmp_path, profile="islet")
    st.simulate(tmp_path, profile="islet", side=1)
    assert len(scenes(tmp_path)) == 1


@pytest.mark.usefixtures("coarse")
def test_a_stranger_among_the_scenes_is_named_and_real_ones_are_left(tmp_path: Path) -> None:
    real = write(tmp_path / "scenes" / "mine.tif", np.ones((9, 9), np.uint16))
    st.simulate(tmp_path, profile="islet", side=1)
    assert real.exists()
    (tmp_path / "scenes" / "torn.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match=r"torn\.tif"):
        st.simulate(tmp_path, profile="islet", side=1, seed=1)


def in_session(leader: int) -> bool:
    """Whether a process of the session is left."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    main = "from sartutorial.cli import main; main()"
    command = [sys.executable, "-c", main, "simulate", "--out", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        while not (tmp_path / "truth").exists():
            assert parent.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        parent.kill()
    for _ in range(6000):  # ten minutes: only what never ends is left by then
        if not in_session(parent.pid):
            return
        time.sleep(0.1)
    raise AssertionError("a process outlives the one that started it")


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("seed", [2**31, 2**63, 2**64 + 1])
def test_any_whole_number_is_a_seed(tmp_path: Path, seed: int) -> None:
    st.simulate(tmp_path, profile="islet", side=1, seed=seed)
    with rasterio.open(scenes(tmp_path)[0]) as scene:
        assert scene.tags()["SEED"] == str(seed)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"side": 0}])
def test_numbers_that_mean_nothing_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="{} {}".format(*next(iter(wrong.items())))):
        st.simulate(tmp_path, profile="islet", **wrong)
    assert files(tmp_path) == []
