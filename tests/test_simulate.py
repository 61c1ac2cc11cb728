"""The simulated world against theory, against itself and against the real products' form."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from scipy import ndimage, stats

from sartutorial import InputError, lulc, radiometry, rasters, simulate
from sartutorial.profiles import PROFILES
from sartutorial.simulate import SIGMA0_DB, World

TINY = dataclasses.replace(PROFILES["laptop"], scene_size=512, world=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of four scenes of 512 px, written once."""
    out = tmp_path_factory.mktemp("made")
    simulate.simulate(out, profile=TINY, seed=0)
    return out


@pytest.fixture(scope="module")
def draft() -> World:
    """An island as large as the laptop's, on 20 m cells."""
    return simulate.make_world(21_000, 0, cell_m=20)


def files(out: Path) -> list[Path]:
    return sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())


def scenes(out: Path) -> list[Path]:
    return sorted((out / "scenes").iterdir())


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
    for tile in sorted((out / "lulc").iterdir()):
        with rasterio.open(tile) as t, WarpedVRT(t, **grid, tolerance=1e-9) as vrt:
            labels = np.maximum(labels, vrt.read(1))
    return labels


# Speckle


@pytest.mark.parametrize("correlation", [0, 0.6, 1.2])
@pytest.mark.parametrize("looks", [1, 2, 4, 9])
def test_equivalent_number_of_looks(looks: int, correlation: float) -> None:
    power = simulate.speckle((700, 700), looks, correlation, np.random.default_rng([looks, 7]))
    assert power.dtype == np.float32
    assert power.mean() == pytest.approx(1, rel=0.02)
    assert power.mean() ** 2 / power.var() == pytest.approx(looks, rel=0.05)


def test_one_look_is_exponential() -> None:
    power = simulate.speckle((800, 800), 1, 0.6, np.random.default_rng(0))
    apart = power[::8, ::8].ravel()  # far beyond the point response: independent
    assert stats.kstest(apart, stats.expon.cdf).pvalue > 0.01
    amplitude = np.sqrt(apart)
    assert stats.kstest(amplitude / amplitude.mean(), stats.expon.cdf).pvalue < 1e-6
    blurred = ndimage.gaussian_filter(
        simulate.speckle((800, 800), 1, 0, np.random.default_rng(0)), 0.6
    )
    assert stats.kstest(blurred[::8, ::8].ravel(), stats.expon.cdf).pvalue < 1e-6


def test_neighbouring_pixels_correlate_as_the_point_response_says() -> None:
    power = simulate.speckle((900, 900), 1, 0.6, np.random.default_rng(1))
    kernel = ndimage.gaussian_filter1d(np.eye(1, 33, 16)[0], 0.6)
    field = (kernel[1:] * kernel[:-1]).sum() / (kernel**2).sum()
    for a, b in ((power[1:], power[:-1]), (power[:, 1:], power[:, :-1])):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] == pytest.approx(field**2, abs=0.02)
    flat = simulate.speckle((900, 900), 1, 0, np.random.default_rng(1))
    assert abs(np.corrcoef(flat[1:].ravel(), flat[:-1].ravel())[0, 1]) < 0.01


def test_the_scene_has_the_requested_looks_on_a_calm_sea() -> None:
    dn = simulate.observe(np.full((400, 400), 0.01, np.float32), np.random.default_rng(0))
    power = radiometry.to_power(radiometry.dn_to_db(dn)).astype(np.float64)
    power = power[np.isfinite(power)]
    assert power.mean() ** 2 / power.var() == pytest.approx(simulate.LOOKS, rel=0.05)
    floor = 10 ** (simulate.NOISE_DB / 10)
    assert power.mean() == pytest.approx(0.01 + floor, rel=0.01)


# Land


@pytest.mark.parametrize(("slope", "facing"), [(15, True), (15, False), (0, True)])
def test_slopes_against_the_formula(slope: float, facing: bool) -> None:
    x, y = np.meshgrid(np.arange(40) * 5.0, np.arange(40) * -5.0)
    towards_radar = x * math.cos(math.radians(10)) - y * math.sin(math.radians(10))
    angle = slope if facing else -slope
    dem = (-math.tan(math.radians(angle)) * towards_radar).astype(np.float32)
    expected = math.tan(math.radians(36)) / math.tan(math.radians(36 - angle))
    np.testing.assert_allclose(simulate.terrain_gain(dem), expected, rtol=1e-3)


def test_foreslopes_are_brighter_than_backslopes(draft: World) -> None:
    power = simulate.mean_sigma0(draft)
    falls_east = -np.gradient(draft.dem, 20, axis=1)  # the radar stands in the east
    forest = np.isin(draft.classes, lulc.FOREST_IDS)
    fore, back = power[forest & (falls_east > 0.2)], power[forest & (falls_east < -0.2)]
    assert min(len(fore), len(back)) > 1000
    assert 10 * math.log10(fore.mean() / back.mean()) > 4
    falls_north = np.gradient(draft.dem, 20, axis=0)
    north, south = power[forest & (falls_north > 0.2)], power[forest & (falls_north < -0.2)]
    assert abs(10 * math.log10(north.mean() / south.mean())) < 2


@pytest.mark.parametrize("seed", range(3))
def test_the_island_has_every_class_forest_most_and_sea_around(seed: int) -> None:
    world = simulate.make_world(21_000, seed, cell_m=20)
    counts = np.bincount(world.classes.ravel(), minlength=15)
    assert counts[0] == 0
    assert len(counts) == 15
    assert (counts[1:] > 0).all()
    land = world.dem > 0
    forest = np.isin(world.classes, lulc.FOREST_IDS)
    assert 0.58 < forest.sum() / land.sum() < 0.72
    assert 0.2 < 1 - land.mean() < 0.34
    assert counts[12] < 0.02 * land.sum()
    assert counts[14] < 0.02 * land.sum()
    assert (world.classes[~land] == 1).all()
    for rim in (world.dem[0], world.dem[-1], world.dem[:, 0], world.dem[:, -1]):
        assert (rim == 0).all()
    assert world.dem.dtype == np.float32
    assert 200 < world.dem.max() < 2000


def test_classes_have_their_levels_in_the_stated_order_and_overlap(draft: World) -> None:
    power = simulate.mean_sigma0(draft) * simulate.texture(draft.classes, 0)
    power /= simulate.terrain_gain(draft.dem, 20)
    means = {i: 10 * math.log10(power[draft.classes == i].mean()) for i in SIGMA0_DB}
    for i, (level, _) in SIGMA0_DB.items():
        assert means[i] == pytest.approx(level, abs=1.0), lulc.CLASSES[i - 1].name
    for a, b in itertools.combinations(SIGMA0_DB, 2):
        if abs(SIGMA0_DB[a][0] - SIGMA0_DB[b][0]) > 1.5:
            assert (means[a] < means[b]) == (SIGMA0_DB[a][0] < SIGMA0_DB[b][0])
    seen = power * simulate.speckle(power.shape, 2, 0.6, np.random.default_rng(0))
    for darker, brighter in ((4, 5), (5, 13), (13, 6), (6, 2), (3, 4)):
        a, b = seen[draft.classes == darker][:2000], seen[draft.classes == brighter][:2000]
        area = stats.mannwhitneyu(b, a).statistic / len(a) / len(b)
        assert 0.5 < area < 0.95, (darker, brighter)


def test_texture_is_gamma_of_unit_mean() -> None:
    classes = np.repeat(np.array([[6, 2, 4]], np.uint8), 600, 0).repeat(600, 1)
    forest, town, field = np.split(simulate.texture(classes, 3), 3, axis=1)
    assert (field == 1).all()
    assert forest.mean() == pytest.approx(1, rel=0.01)
    assert 1 / forest.var() == pytest.approx(SIGMA0_DB[6][1], rel=0.05)
    apart = forest[::6, ::6].ravel()
    assert stats.kstest(apart, stats.gamma(8, scale=1 / 8).cdf).pvalue > 0.01
    assert town.mean() == pytest.approx(1, rel=0.05)
    assert (town > 15).mean() == pytest.approx(simulate.CORNERS, rel=0.5)  # double bounce


# Files


def test_the_files_have_the_form_of_the_products(made: Path) -> None:
    names = [str(p) for p in files(made)]
    pattern = r"scenes/IMG-HH-ALOS2\d{9}-22\d{4}-UBSR2\.1GUD\.tif"
    assert sum(bool(re.fullmatch(pattern, n)) for n in names) == 4
    tiles = [f"lulc/LC_N{lat}E{lon}.tif" for lat in (32, 33) for lon in (136, 137)]
    assert set(tiles) <= set(names)
    assert "dem/DEM.tif" in names
    assert len(names) == 9
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
                assert rasters.spacing(f) == 2.5
                assert tags["QUANTITY"] == "sigma0"
            elif name.startswith("lulc"):
                assert (f.dtypes[0], f.nodata, f.shape) == ("uint8", 0, (12000, 12000))
                assert f.crs.to_epsg() == 4326
                assert f.res == (1 / 12000, 1 / 12000)
                assert f.colormap(1)[9] == (0, 172, 86, 255)
                west, south = round(f.bounds.left), round(f.bounds.bottom)
                assert Path(name).name == lulc.tile_name(west, south)
                assert f.bounds == pytest.approx((west, south, west + 1, south + 1), abs=1e-9)
            else:
                assert (f.dtypes[0], f.nodata, f.res) == ("float32", None, (10, 10))
                assert tags["UNIT"] == "m"
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
    with rasterio.open(made / "dem" / "DEM.tif") as dem:
        side = dem.width * 10
    world = simulate.make_world(side, 0)
    seen = set()
    for tile in sorted((made / "lulc").iterdir()):
        with rasterio.open(tile) as t:
            labels = t.read(1)
            assert labels.min() == 1  # the sea goes on: no void
            # The island lies in the 250 rows and columns at the corner where four tiles meet.
            row, col = (a.ravel() for a in np.mgrid[:250, :250])
            row += 11750 * (round(t.bounds.bottom) == 33)
            col += 11750 * (round(t.bounds.right) == 137)
            at = t.transform
        lon, lat = at.c + at.a * (col + 0.5), at.f + at.e * (row + 0.5)
        xs, ys = map(np.array, transform("EPSG:4326", world.grid.crs, lon, lat))
        j = np.floor((xs - world.grid.transform.c) / 5).astype(int)
        i = np.floor((world.grid.transform.f - ys) / 5).astype(int)
        size = len(world.classes)
        inside = (i >= 0) & (i < size) & (j >= 0) & (j < size)
        truth = np.where(inside, world.classes[i.clip(0, size - 1), j.clip(0, size - 1)], 1)
        assert (labels[row, col] == truth).all()
        seen |= set(np.unique(labels[row, col]).tolist())
    assert len(seen) > 8


def test_scene_and_label_agree_in_place(made: Path) -> None:
    for scene in scenes(made):
        power = block_mean(radiometry.to_power(radiometry.dn_to_db(read(scene))), 4)
        labels = on_scene(made, scene, 10)
        dark = -radiometry.to_db(power)
        use = np.isfinite(dark)
        use[:5] = use[-5:] = use[:, :5] = use[:, -5:] = False
        found = {}
        for shift in itertools.product(range(-4, 5), repeat=2):
            water = np.roll(labels == 1, shift, (0, 1))
            found[shift] = np.corrcoef(dark[use], water[use])[0, 1]
        assert max(found, key=lambda s: found[s]) == (0, 0), scene.name
        assert found[0, 0] > 0.6


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


def test_same_seed_same_bytes_other_seed_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lulc, "TILE_PIXELS", 1500)  # coarse tiles are quick to write
    one, two = tmp_path / "one", tmp_path / "two"
    simulate.simulate(one, profile=TINY, seed=0)
    simulate.simulate(two, profile=TINY, seed=0)
    assert files(one) == files(two)
    for name in files(one):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    simulate.simulate(two, profile=TINY, seed=1)  # replaces what another seed made
    assert files(one) == files(two)
    for name in files(one):
        assert (one / name).read_bytes() != (two / name).read_bytes(), name


def test_a_rerun_writes_only_what_is_missing(made: Path) -> None:
    before = {p: (made / p).stat().st_mtime_ns for p in files(made)}
    simulate.simulate(made, profile=TINY, seed=0)
    assert {p: (made / p).stat().st_mtime_ns for p in files(made)} == before
    lost = scenes(made)[1]
    content = lost.read_bytes()
    lost.unlink()
    simulate.simulate(made, profile=TINY, seed=0)
    after = {p: (made / p).stat().st_mtime_ns for p in files(made)}
    assert {p for p in after if after[p] != before[p]} == {lost.relative_to(made)}
    assert lost.read_bytes() == content


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed -1"):
        simulate.simulate(tmp_path, profile=TINY, seed=-1)
    assert files(tmp_path) == []
