"""Class-weighted points and spatial splits: exact where they can be, in distribution elsewhere."""

import functools
import json
import os
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import UTM, land_array, scene_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from scipy.stats import chi2_contingency, chisquare

from sartutorial import InputError, lulc, patches, sampling, splits
from sartutorial.lulc import HR_LULC, WORLDCOVER

STEP = 0.001
LEGEND = lulc.Legend(
    "own",
    (
        lulc.LandCover(0, "sea", (0, 0, 255), 0),
        lulc.LandCover(7, "town", (255, 0, 0), 1),
        lulc.LandCover(9, "road", (9, 9, 9), -1),
    ),
    ("sea", "town"),
    ((0, 0, 255), (255, 0, 0)),
)  # without forest, and 0 is a class


@pytest.fixture
def tiles(tmp_path):
    """Two small land-cover rasters whose classes are far from balanced."""
    rng, paths = np.random.default_rng(5), []
    for i, (height, width) in enumerate([(61, 40), (33, 57)]):
        ids = rng.choice([0, 1, 6, 9, 12], (height, width), p=[0.2, 0.3, 0.4, 0.08, 0.02])
        at = Affine(STEP, 0, 137 + i, 0, -STEP, 33)
        paths.append(
            write(tmp_path / f"{i}.tif", ids.astype(np.uint8), crs="EPSG:4326", transform=at)
        )
    return paths


# Counts and weights


def test_counts_are_those_of_the_rasters(tiles):
    counts = sampling.count_classes(tiles)
    assert counts.shape == (2, 256)
    assert counts.dtype == np.int64
    for path, found in zip(tiles, counts, strict=True):
        with rasterio.open(path) as tile:
            truth = np.bincount(tile.read(1).ravel(), minlength=256)
        assert found[1:].tolist() == truth[1:].tolist()
        assert found[0] == 0
    assert sampling.count_classes(tiles[0]).tolist() == counts[:1].tolist()
    assert sampling.count_classes(tiles[0].parent).tolist() == counts.tolist()


def test_counts_follow_the_legend(tmp_path):
    ids = np.array([[0, 0, 7], [9, 255, 7]], np.uint8)
    own = write(tmp_path / "own.tif", ids, nodata=None)
    counts = sampling.count_classes(own, legend=LEGEND)[0]
    assert {int(c): int(counts[c]) for c in np.flatnonzero(counts)} == {0: 2, 7: 2, 9: 1}
    cover = write(tmp_path / "cover.tif", np.array([[10, 95, 100], [0, 10, 255]], np.uint8))
    counts = sampling.count_classes(cover, legend="worldcover")[0]
    assert {int(c): int(counts[c]) for c in np.flatnonzero(counts)} == {10: 2, 95: 1, 100: 1}
    with pytest.raises(InputError, match=r"cover.tif: unknown class ids \[95, 100\]"):
        sampling.count_classes(cover)


def test_weights():
    counts = np.array([0, 60, 30, 10])
    reciprocal = sampling.category_weights(counts)
    assert reciprocal == pytest.approx(np.array([0, 1 / 0.6, 1 / 0.3, 1 / 0.1]) / 15)
    complement = sampling.category_weights(counts, "complement")
    assert complement == pytest.approx([0, 0.4 / 2, 0.7 / 2, 0.9 / 2])
    assert sampling.category_weights(np.array([0, 7]), "complement").tolist() == [0, 1]
    with pytest.raises(InputError, match="no labelled pixel"):
        sampling.category_weights(np.zeros(4, int))


def test_the_authors_loss_weights_are_a_complement():
    """Their nine numbers (public code) sum to 1 and read as (1 - p) / 8, with forest at 46 %."""
    theirs = np.array(
        [0.11347487, 0.10774269, 0.10684644, 0.11319541, 0.06752731, 0.12183155, 0.12457897,
         0.12064208, 0.12416070]
    )  # fmt: skip
    p = 1 - 8 * theirs
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert p[4] == pytest.approx(0.46, abs=0.005)
    found = sampling.category_weights((p * 1e9).astype(int), "complement")
    assert found == pytest.approx(theirs, abs=1e-6)


@settings(deadline=None)
@given(
    share=st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda s: sum(s) > 1e-6),
    points=st.integers(0, 1000),
)
def test_allocation_sums_to_the_points(share, points):
    found = sampling.allocate(np.array(share), points)
    assert found.sum() == points
    assert np.abs(found - points * np.array(share) / np.sum(share)).max() < 1


def test_fewer_points_than_tiles_go_to_the_largest_shares():
    assert sampling.allocate(np.array([0.1, 0.4, 0.2, 0.3]), 2).tolist() == [0, 1, 0, 1]


COUNTS = st.lists(
    st.lists(st.integers(0, 50), min_size=16, max_size=16), min_size=1, max_size=5
).map(lambda rows: np.array(rows) * (np.arange(16) > 0))


@settings(deadline=None)
@given(counts=COUNTS.filter(lambda n: n.any()))
def test_probabilities(counts):
    weights = sampling.category_weights(counts.sum(axis=0))
    joint = sampling.probabilities(counts, weights)
    assert joint.sum() == pytest.approx(1)
    assert (joint[counts == 0] == 0).all()
    assert joint.sum(axis=1) == pytest.approx(counts @ weights / (counts @ weights).sum())
    for i, c in np.argwhere(joint > 0):
        ratio, there = joint[i, joint[i] > 0] / joint[i, c], joint[i] > 0
        assert ratio == pytest.approx(weights[there] * counts[i, there] / weights[c] / counts[i, c])
    # One draw of a pixel by the weight of its class.
    a_pixel = np.divide(joint, counts, where=counts > 0, out=np.zeros(joint.shape))
    assert a_pixel == pytest.approx((counts > 0) * weights / (counts @ weights).sum())


# Points


def ids_at(points, tile):
    """The ids that the tile holds at those of the points that say they lie on it."""
    mine = points[points["tile"] == tile.name]
    with rasterio.open(tile) as dataset:
        there = gpd.points_from_xy(mine["longitude"], mine["latitude"], crs=4326)
        there = there.to_crs(dataset.crs)
        return mine["category"].tolist(), [
            v[0] for v in dataset.sample(zip(there.x, there.y, strict=True))
        ]


def test_fewer_points_than_tiles_are_drawn(tiles):
    assert len(sampling.sample_points(tiles, 1)) == 1


def test_the_classes_are_drawn_as_asked(tiles):
    counts = sampling.count_classes(tiles)
    weights = sampling.category_weights(counts.sum(axis=0))
    expected = sampling.probabilities(counts, weights)
    drawn = sampling.sample_points(tiles, 8000, seed=3)
    found = pd.crosstab(drawn["tile"], drawn["category"]).to_numpy()
    cells = expected[:, expected.any(axis=0)] * len(drawn)
    assert chisquare(found.ravel(), cells.ravel()).pvalue > 1e-3


def test_pixels_are_drawn_as_brute_force_draws_them(tiles):
    """Every pixel of all tiles in one list, drawn with its class's weight as probability."""
    ids = np.concatenate([rasterio.open(t).read(1).ravel() for t in tiles])
    weights = sampling.category_weights(np.bincount(ids, minlength=16) * (np.arange(16) > 0))
    p = weights[ids] / weights[ids].sum()
    brute = np.bincount(np.random.default_rng(0).choice(ids.size, 40_000, p=p), minlength=ids.size)
    found, start = [], 0
    points = sampling.sample_points(tiles, 40_000, seed=6)
    for tile in tiles:
        with rasterio.open(tile) as dataset:
            mine = points[points["tile"] == tile.name]
            col, row = ~dataset.transform * (
                mine["longitude"].to_numpy(),
                mine["latitude"].to_numpy(),
            )
            found.append(row.astype(int) * dataset.width + col.astype(int) + start)
            start += dataset.width * dataset.height
    ours = np.bincount(np.concatenate(found), minlength=ids.size)
    rare = p > 40 / 40_000  # cells that are hit often enough for the test
    cells = np.stack([np.append(n[rare], n[~rare].sum()) for n in (brute, ours)])
    assert rare.sum() > 30
    assert chi2_contingency(cells).pvalue > 1e-3
    common = ids == 6  # pixels of one class, each as likely as the other, in groups of neighbours
    groups = np.add.reduceat(ours[common], np.arange(0, common.sum(), 100))
    size = np.add.reduceat(np.ones(common.sum()), np.arange(0, common.sum(), 100))
    assert chisquare(groups, size / size.sum() * groups.sum()).pvalue > 1e-3


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    read=st.tuples(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([0, 10**6])),
    blocks=st.sampled_from([{}, dict(tiled=True, blockxsize=16, blockysize=16)]),
    crs=st.sampled_from(["EPSG:4326", UTM]),
    up=st.sampled_from([-1, 1]),
    seed=st.integers(0, 2**70),
)
def test_odd_tilings(tmp_path, monkeypatch, shapes, read, blocks, crs, up, seed):
    """Every point has its class, wherever it lies and however the raster is stored and read."""
    rng, step = np.random.default_rng(seed), STEP if crs == "EPSG:4326" else 100
    corner = (137, 33) if crs == "EPSG:4326" else (500_000, 3_652_000)
    paths = []
    for i, shape in enumerate(shapes):
        at = Affine(step, 0, corner[0] + i * 40 * step, 0, up * step, corner[1])
        ids = land_array(rng, *shape)
        ids.flat[0] = 1
        paths.append(write(tmp_path / f"{i}.tif", ids, crs=crs, transform=at))
    points = sampling.sample_points(paths, 200, seed=seed)
    assert len(points) == 200
    for path in paths:
        said, there = ids_at(points, path)
        assert said == there
    assert np.array_equal(points.geometry.x, points["longitude"])
    assert np.array_equal(points.geometry.y, points["latitude"])
    for path in paths:
        with rasterio.open(path) as tile:
            ids, profile = tile.read(1), tile.profile | blocks
        with rasterio.open(path, "w", **profile) as tile:
            tile.write(ids, 1)
    with monkeypatch.context() as m:
        for name, value in zip(("WINDOW", "CHUNK", "KEEP"), read, strict=True):
            m.setattr(sampling, name, value)
        m.setenv("GDAL_NUM_THREADS", "3")
        again = sampling.sample_points(paths, 200, seed=seed, geometry=False)
    assert again.equals(pd.DataFrame(points.drop(columns="geometry")))


def test_the_draw_depends_on_the_seed_alone(tiles, monkeypatch):
    once = sampling.sample_points(tiles, 500, seed=4)
    for threads in (1, 3):
        monkeypatch.setenv("GDAL_NUM_THREADS", str(threads))
        assert sampling.sample_points(tiles, 500, seed=4).equals(once)
    assert not sampling.sample_points(tiles, 500, seed=5).equals(once)


def test_any_whole_number_is_a_seed(tiles):
    """The clock's nanoseconds too, and what no 64 bits hold; one that is negative is refused."""
    seeds = [0, 2**32, 1764187200123456789, 2**63, 2**64, 2**64 + 1]
    index = layout([(0, 0, 6, 6, 0)], 0)
    places = {tuple(sampling.sample_points(tiles, 50, seed=s)["longitude"]) for s in seeds}
    assert len(places) == len(seeds)
    for rule in (splits.by_block, splits.by_scene, splits.at_random):
        for seed in seeds:
            assert np.array_equal(rule(index, seed=seed), rule(index, seed=seed))
        with pytest.raises(InputError, match="--seed -1"):
            rule(index, seed=-1)
    with pytest.raises(InputError, match="--seed -1"):
        sampling.sample_points(tiles, 50, seed=-1)


def test_forest_can_have_probability_0(tiles, tmp_path):
    points = sampling.sample_points(tiles, 500, forest=False)
    assert set(points["category"]) == {1, 12}
    wood = write(tmp_path / "wood.tif", np.full((9, 9), 6, np.uint8))
    with pytest.raises(InputError, match="weight 0: nothing can be sampled"):
        sampling.sample_points(wood, 5, forest=False)
    cover = write(tmp_path / "cover.tif", np.array([[10, 20, 30]], np.uint8))
    points = sampling.sample_points(cover, 50, forest=False, legend=WORLDCOVER)
    assert set(points["category"]) == {20, 30}
    own = write(tmp_path / "own.tif", np.array([[0, 7, 9]], np.uint8), nodata=None)
    points = sampling.sample_points(own, 50, forest=False, legend=LEGEND)
    assert set(points["category"]) == {0, 7, 9}


def test_weights_of_ones_own(tiles):
    counts = sampling.count_classes(tiles).sum(axis=0)
    own = {1: 1.0, 12: 3.0}
    points = sampling.sample_points(tiles, 8000, weights=own)
    mass = np.array([counts[1], 3 * counts[12]])
    found = [(points["category"] == c).sum() for c in own]
    assert sum(found) == 8000
    assert chisquare(found, mass / mass.sum() * 8000).pvalue > 1e-3
    array = np.zeros(16)
    array[[1, 12]] = 1, 3
    assert sampling.sample_points(tiles, 8000, weights=array).equals(points)
    for wrong, said in (({99: 1}, "1 for class 99"), ({1: -1}, "-1 for class 1"),
                        ({1: np.nan}, "nan for class 1")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            sampling.sample_points(tiles, 5, weights=wrong)
    with pytest.raises(InputError, match="weight 0: nothing can be sampled"):
        sampling.sample_points(tiles, 5, weights={2: 1.0})
    with pytest.raises(InputError, match="--points 0"):
        sampling.sample_points(tiles, 0)


def test_all_void(tmp_path):
    void = write(tmp_path / "void.tif", np.array([[0, 255], [255, 0]], np.uint8))
    assert not sampling.count_classes(void).any()
    with pytest.raises(InputError, match="no labelled pixel in any land-cover raster"):
        sampling.sample_points(void, 5)


def test_what_a_tile_declares_invalid_is_not_drawn(tmp_path):
    ids = np.tile(np.array([1, 2, 3, 5], np.uint8), (8, 2))
    tile = write(tmp_path / "t.tif", ids, nodata=5)
    with rasterio.open(tile, "r+") as dataset:
        dataset.write_mask(ids != 3)
    assert np.flatnonzero(sampling.count_classes(tile)).tolist() == [1, 2]
    assert set(sampling.sample_points(tile, 50)["category"]) == {1, 2}


def test_every_class_gets_the_same_share_and_every_point_its_class(tiles):
    points = sampling.sample_points(tiles, 8000, seed=1)
    assert len(points) == 8000
    share = points["category"].value_counts()
    assert sorted(share.index) == [1, 6, 9, 12]
    assert chisquare(share.to_numpy()).pvalue > 1e-3
    for path in tiles:
        said, there = ids_at(points, path)
        assert said == there


def test_points_are_uniform_within_a_class(tiles):
    points = sampling.sample_points(tiles, 20_000, seed=2)
    counts = sampling.count_classes(tiles)[:, 12]
    drawn = points[points["category"] == 12]["tile"].value_counts()
    expected = counts / counts.sum() * drawn.sum()
    assert chisquare([drawn[p.name] for p in tiles], expected).pvalue > 1e-3


def test_longitudes_beyond_the_date_line_are_turned_back(tmp_path):
    ids = land_array(np.random.default_rng(0), 20, 40)
    at = Affine(STEP, 0, 179.98, 0, -STEP, 52)
    tile = write(tmp_path / "t.tif", ids, crs="EPSG:4326", transform=at)
    points = sampling.sample_points(tile, 400)
    lon = points["longitude"].to_numpy()
    assert ((lon > 179.98) | (lon < -179.98)).all()
    assert (lon < 0).sum() > 100
    col, row = ~at * (lon % 360, points["latitude"].to_numpy())
    assert points["category"].tolist() == ids[row.astype(int), col.astype(int)].tolist()


# Splits

SIDE = 64 * 5.0


def layout(scenes, seed, crs=UTM, corner=(500_000, 3_652_000), pixel=5.0, spacing=5.002):
    """An index of scenes (offset in patch sides, rows, columns, turn in degrees), random classes.

    ``pixel`` is in units of the CRS, and the index's ``spacing`` in metres of the ground.
    """
    rng, rows = np.random.default_rng(seed), []
    for k, (x, y, height, width, turn) in enumerate(scenes):
        at = Affine.translation(*corner) * Affine.scale(pixel, -pixel)
        at *= Affine.translation(64 * x, 64 * y) * Affine.rotation(turn)
        for r in range(height):
            for c in range(width):
                n = rng.multinomial(64 * 64, rng.dirichlet(np.full(16, 0.2)))
                here = at * Affine.translation(64 * c, 64 * r)
                rows.append([f"s{k}", 64, spacing, tuple(here)[:6], crs, *n])
    counts = ["n_void", *(f"n_{i}" for i in range(1, 16))]
    index = pd.DataFrame(rows, columns=["scene", "size", "spacing", "transform", "crs", *counts])
    index.attrs["legend"] = HR_LULC.to_dict()
    return index


def apart(index):
    """Distances in metres on the ground between all patches, by brute force; NaN beyond 50 km.

    Measured in planes that touch the Earth amid the patches of one place.
    """
    corners = []
    for at, size, crs in zip(index["transform"], index["size"], index["crs"], strict=True):
        xy = [Affine(*at) * (x * size, y * size) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        corners.append(np.transpose(degrees(crs).transform(*np.transpose(xy))))
    corners = np.array(corners)
    lon, lat = corners[:, 0].T
    found, open_ = np.full((len(index), len(index)), np.nan), np.ones(len(index), dtype=bool)
    while open_.any():
        i = np.flatnonzero(open_)[0]
        *_, far = Geod(ellps="WGS84").inv(*np.broadcast_arrays(lon[i], lat[i], lon, lat))
        here = np.flatnonzero(far < 50_000)
        touch = f"+proj=aeqd +lat_0={lat[here].mean()} +lon_0={lon[i]} +ellps=WGS84"
        plane = Transformer.from_crs(4326, touch, always_xy=True)
        flat = plane.transform(*np.moveaxis(corners[here], -1, 0))
        flat = shapely.polygons(np.stack(flat, axis=-1))
        found[np.ix_(here, here)] = shapely.distance(flat[:, None].copy(), flat)
        open_[here] = False
    return found


@functools.cache
def degrees(crs):
    return Transformer.from_crs(crs, 4326, always_xy=True)


SCENES = st.lists(
    st.tuples(
        st.floats(-6, 6), st.floats(-6, 6), st.integers(1, 7), st.integers(1, 7), st.floats(-9, 9)
    ),
    min_size=1,
    max_size=3,
)


def check_buffer(index, seed, block, buffer):
    """By brute force over all pairs: the gap is kept, and nothing is lost for nothing."""
    side = (index["size"] * index["spacing"]).mean()
    split = splits.by_block(index, seed=seed, block=block, buffer=buffer)
    distance = apart(index)
    kept = split != splits.BUFFER
    across = (split[:, None] != split[None]) & kept[:, None] & kept[None]
    near = distance[across & ~np.isnan(distance)]
    assert (near >= (buffer - 2e-3) * side).all()
    # Nothing is lost for nothing, and a test patch never is.
    near = (distance < buffer * side) & np.isin(split, ["val", "test"])[None]
    assert near[~kept].any(axis=1).all()
    dealt = splits._deal(index, splits.blocks(index, block), seed, splits.neighbours(index, buffer))
    assert (split[dealt == 2] == "test").all()
    for k, name in enumerate(splits.SPLITS):
        assert (dealt[split == name] == k).all()


@settings(max_examples=30, deadline=None)
@given(
    scenes=SCENES, seed=st.integers(0, 99), block=st.integers(1, 4),
    buffer=st.sampled_from([0.25, 1.0, 1.7, 2.0]),
)  # fmt: skip
def test_no_patch_is_within_the_buffer_of_another_split(scenes, seed, block, buffer):
    """Scenes that overlap and lie askew included."""
    check_buffer(layout(scenes, seed), seed, block, buffer)


def place(crs, lon, lat):
    return Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)


PLACES = {  # CRS, corner, pixel and its size on the ground
    "Brazil": ("EPSG:32723", (500_000, 7_400_000), 5.0, 5.002),
    "Svalbard": ("EPSG:32633", place("EPSG:32633", 15, 79), 5.0, 5.002),
    "180 degrees": ("EPSG:32660", place("EPSG:32660", 179.98, 51.9), 5.0, 5.001),
    "180 degrees, in degrees": ("EPSG:4326", (179.98, 10.0), 5 / 111_320, 5.0),
    "Web Mercator at 65 N": ("EPSG:3857", place("EPSG:3857", 25, 65), 12.0, 5.075),
    "near the pole": ("EPSG:3413", (-1500, 1500), 5.0, 4.87),
}


@pytest.mark.parametrize("name", PLACES)
def test_distances_are_those_on_the_ground_anywhere(name):
    index = layout([(0, 0, 8, 8, 0), (5.3, 2.1, 6, 6, 4)], 0, *PLACES[name])
    distance = apart(index)
    for buffer in (0.5, 1.0, 3.0):
        check_buffer(index, 1, 2, buffer)
        a, b = splits.neighbours(index, buffer)
        found = np.zeros(distance.shape, dtype=bool)
        found[a, b] = True
        np.fill_diagonal(found, True)
        reach = buffer * (index["size"] * index["spacing"]).mean()
        assert found[distance < reach * (1 - 1.2e-3)].all()
        assert not found[~(distance < reach * (1 - 0.8e-3))].any()


def test_sets_far_apart_are_split_as_each_alone_would_be():
    """Japan, Brazil and the other side of 180 degrees in one index."""
    alone = [layout([(0, 0, 12, 12, 0)], 0)]
    alone += [layout([(0, 0, 12, 12, 0)], k, *PLACES[n]) for k, n in enumerate(list(PLACES)[:3])]
    index = pd.concat(alone, ignore_index=True)
    owner = splits.blocks(index, 4)
    place = np.repeat(np.arange(4), 144)
    for b in range(owner.max() + 1):
        assert len(set(place[owner == b])) == 1
        assert (owner == b).sum() <= 25
    assert all(9 <= np.unique(owner[place == k]).size <= 20 for k in range(4))
    a, b = splits.neighbours(index, 3)
    assert (place[a] == place[b]).all()
    assert len(a) == sum(len(splits.neighbours(i, 3)[0]) for i in alone)
    check_buffer(index, 0, 4, 3)


def test_scenes_of_two_zones_that_show_the_same_ground_share_blocks():
    """The edge of zones 53 and 54: each patch of one scene lies on some of the other."""
    corner = 138.0, 35.0
    index = pd.concat(
        [layout([(0, 0, 8, 8, 0)], 0, f"EPSG:{zone}", place(f"EPSG:{zone}", *corner))
         for zone in (32653, 32654)], ignore_index=True,
    )  # fmt: skip
    owner = splits.blocks(index, 4)
    assert set(owner[:64]) & set(owner[64:])
    assert len(set(owner)) < 16
    a, b = splits.neighbours(index, 0.01)
    assert ((a < 64) != (b < 64)).sum() >= 128
    check_buffer(index, 0, 2, 1.0)


def test_a_block_is_a_square_of_the_ground():
    for name in ("Brazil", "Svalbard", "Web Mercator at 65 N"):
        index = layout([(0, 0, 24, 24, 0)], 0, *PLACES[name])
        size = np.bincount(splits.blocks(index, 4))
        assert size.max() <= 25
        assert np.median(size) == pytest.approx(16, abs=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_block_is_split_and_shares_are_near(seed):
    index = layout([(0, 0, 14, 14, 0)], 9)
    split = splits.by_block(index, seed=seed, block=2, buffer=0)
    owner = splits.blocks(index, 2)
    for b in range(owner.max() + 1):
        assert len(set(split[owner == b])) == 1
    shares = [(split == s).mean() for s in splits.SPLITS]
    assert shares == pytest.approx(splits.SHARES, abs=0.05)
    assert np.array_equal(split, splits.by_block(index, seed=seed, block=2, buffer=0))


@pytest.mark.parametrize("seed", range(3))
def test_a_large_world_keeps_most_patches_and_its_balance(seed):
    index = layout([(0, 0, 24, 24, 0), (20, 3, 24, 24, 2)], seed)
    split = splits.by_block(index, seed=seed)
    kept = split != splits.BUFFER
    assert kept.sum() > 0.75 * len(index)
    classes = HR_LULC.merged(splits.label_counts(index))[kept]
    for name, share in zip(splits.SPLITS, splits.SHARES, strict=True):
        mine = classes[split[kept] == name].sum(axis=0)
        assert mine / classes.sum(axis=0) == pytest.approx(np.full(9, share), abs=0.1)


def test_by_scene_and_at_random():
    index = layout([(8 * k, 0, 4, 5, 0) for k in range(10)], 0)
    scene = splits.by_scene(index, seed=0)
    assert pd.Series(scene).groupby(index["scene"]).nunique().max() == 1
    assert [(scene == s).mean() for s in splits.SPLITS] == pytest.approx(splits.SHARES, abs=0.1)
    random = splits.at_random(index, seed=0)
    assert [(random == s).sum() for s in splits.SPLITS] == [130, 36, 34]  # of 200
    assert not np.array_equal(random, splits.at_random(index, seed=1))
    assert set(splits.by_scene(layout([(0, 0, 3, 3, 0)], 0), seed=0)) <= set(splits.SPLITS)


def test_blocks_and_buffers_out_of_range():
    index = layout([(0, 0, 3, 3, 0)], 0)
    for wrong in (dict(block=0), dict(buffer=-1.0), dict(buffer=np.nan), dict(buffer=np.inf)):
        with pytest.raises(InputError, match="--block"):
            splits.by_block(index, seed=0, **wrong)


# The selection, written into the index


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Patches of two scenes side by side, their land-cover tiles; nothing is sampled yet.

    Four patches are all forest and four hold no label.
    """
    at, rng = tmp_path_factory.mktemp("cut"), np.random.default_rng(0)
    for k in range(2):
        here = Affine(5, 0, 500_000 + 1600 * k, 0, -5, 3_652_000)
        write(at / "scenes" / f"s{k}.tif", scene_array(rng, 320, 320), transform=here)
        ids = np.kron(rng.choice([1, 2, 3, 6, 12], (80, 80)), np.ones((4, 4))).astype(np.uint8)
        ids[:32, :64] = 6
        ids[32:64, :64] = 0
        write(at / "labels" / f"s{k}.tif", ids, transform=here)
    ids = land_array(rng, 400, 500)
    write(at / "tiles" / "t.tif", ids, crs="EPSG:4326",
          transform=Affine(0.0001, 0, 134.995, 0, -0.0001, 33.01))  # fmt: skip
    patches.cut(at / "scenes", at / "labels", at / "patches", size=32, max_void=1)
    return at


@pytest.fixture
def folder(cut, tmp_path):
    """A copy of the patches, to be sampled."""
    return shutil.copytree(cut / "patches", tmp_path / "p")


# What chapter 05 says in words


def test_one_minus_p_is_no_power_of_p():
    """On real Japan no exponent gives the other reading: towns and sea would need their own."""
    book = Path(__file__).resolve().parents[1] / "book" / "results" / "japan_counts.json"
    held = json.loads(book.read_text())["ids"]
    counts = np.array([held[i]["pixels"] for i in ("1", "2", "6", "12")])
    p = counts / counts.sum()
    w = sampling.category_weights(counts, "complement")
    exponents = np.diff(np.log(w)) / np.diff(np.log(p))
    assert np.ptp(exponents) > 0.05
    reciprocal = sampling.category_weights(counts)
    assert np.diff(np.log(reciprocal)) / np.diff(np.log(p)) == pytest.approx(-1)


def test_patches_of_nothing_but_forest_are_split_like_all_others(cut, folder):
    """None is dropped: those that train no labels still serve pretraining, or wait in a test."""
    sampling.sample(folder, cut / "tiles", points=400, block=2, buffer=0.5)
    index = patches.read_index(folder)
    forest = index[[f"n_{i}" for i in (6, 7, 8, 9, 11)]].sum(axis=1) == 32 * 32
    assert forest.any()
    assert index["split"].isin([*splits.SPLITS, splits.BUFFER]).all()
    assert not index[forest]["finetune"].any()


def test_match_pairs_points_with_footprints(folder):
    index = patches.read_index(folder)
    centre = shapely.centroid(shapely.from_wkb(index["geometry"]))[[0, 0, 3]]
    centres = gpd.GeoDataFrame(geometry=centre, crs=4326)
    point, patch = sampling.match(centres, index)
    assert sorted(zip(point.tolist(), patch.tolist(), strict=True)) == [(0, 0), (1, 0), (2, 3)]


def test_the_index_says_what_is_trained_and_tested_on(cut, folder):
    sampling.sample(folder, cut / "tiles", points=400, block=2, buffer=0.5)
    index = patches.read_index(folder)
    assert set(index["split"]) == {*splits.SPLITS, splits.BUFFER}
    # All radar of the training split is pretrained on: hit or not, labelled or not, forest or not.
    assert index["pretrain"].equals(index["split"] == "train")
    forest = index[[f"n_{i}" for i in (6, 7, 8, 9, 11)]].sum(axis=1) == 32 * 32
    none = index["n_void"] == 32 * 32
    assert forest.sum() == none.sum() == 4
    right = (index["points"] > 0) & ~forest & ~none & (index["split"] != splits.BUFFER)
    assert index["finetune"].equals(right)
    assert (index["points"] == 0).any()
    trained = index[index["pretrain"]]
    assert not trained["finetune"].all()
    points = gpd.read_parquet(folder / sampling.POINTS)
    where = patches.read_index(folder, geometry=True)
    inside = [points.within(g).sum() for g in where.geometry]
    assert np.abs(np.array(inside) - index["points"]).max() <= 2  # those on an edge count for both


@pytest.mark.parametrize("split", ["block", "scene", "random"])
def test_the_report_adds_up(cut, folder, split):
    # So few points that some patches are not hit.
    how = dict(points=500, seed=1, split=split, block=4)
    table = sampling.sample(folder, cut / "tiles", **how)
    assert table.equals(pd.read_csv(folder / sampling.REPORT, index_col=0))
    index = patches.read_index(folder)
    points = gpd.read_parquet(folder / sampling.POINTS)
    number, shares = table["number"], table[list(HR_LULC.names)]
    assert number["pixels of the tiles"] == sampling.count_classes(cut / "tiles").sum()
    assert number["points drawn"] == len(points) == 500
    inside = points.within(patches.read_index(folder, geometry=True).union_all())
    assert number["points on patches"] == pytest.approx(inside.sum(), abs=5)  # those on an edge
    assert number["patches"] == len(index) > number["patches hit by a point"]
    assert number["patches hit by a point"] == (index["points"] > 0).sum()
    assert number["of these in train"] == (index["pretrain"] & index["finetune"]).sum()
    parts = [number[f"of these in {s}"] for s in (*splits.SPLITS, splits.BUFFER)]
    assert sum(parts) == number["patches labelled"]
    assert sum(parts[:3]) == index["finetune"].sum()
    assert shares[number > 0].sum(axis=1).to_numpy() == pytest.approx(1)
    category = points["category"].value_counts(normalize=True)
    assert shares.loc["points drawn", "water"] == pytest.approx(category[1])
    assert (split == "block") == (splits.BUFFER in set(index["split"]))


def content(folder):
    """What a run of ``sample`` leaves."""
    names = (patches.INDEX, sampling.POINTS, sampling.REPORT)
    return [(folder / name).read_bytes() for name in names]


def test_what_is_sampled_already_is_left_alone(cut, folder, tmp_path, monkeypatch):
    tiles, how = cut / "tiles", dict(points=2000, block=2, buffer=0)
    table, made = sampling.sample(folder, tiles, **how), content(folder)
    copied, elsewhere = tmp_path / "copied", tmp_path / "elsewhere"
    shutil.copytree(folder, copied, copy_function=shutil.copyfile)  # as if it were new
    shutil.copytree(tiles, elsewhere, copy_function=shutil.copyfile)
    with monkeypatch.context() as m:
        m.setattr(sampling, "sample_points", lambda *_, **__: pytest.fail("drawn again"))
        for at, land in ((folder, tiles), (copied, elsewhere)):
            assert sampling.sample(at, land, **how).equals(table)
            assert content(at) == made


def test_other_parameters_tiles_or_patches_are_sampled_anew(cut, folder, tmp_path):
    tiles, how = shutil.copytree(cut / "tiles", tmp_path / "tiles"), dict(points=2000, buffer=0)
    sampling.sample(folder, tiles, **how)
    seen = [content(folder)]
    for other in (how | dict(seed=1), how | dict(points=2001), how | dict(block=2)):
        sampling.sample(folder, tiles, **other)
        assert content(folder) not in seen
        seen.append(content(folder))
    sampling.sample(folder, tiles, **how)
    assert content(folder) == seen[0]
    # A tile replaced by one of the same size and date.
    before = os.stat(tiles / "t.tif")
    with rasterio.open(tiles / "t.tif", "r+") as tile:
        tile.write(np.flipud(tile.read(1)), 1)
    os.utime(tiles / "t.tif", ns=(before.st_atime_ns, before.st_mtime_ns))
    sampling.sample(folder, tiles, **how)
    assert content(folder) != seen[0]
    # Patches cut anew: the index has lost what was sampled, and gets it again.
    index = patches.read_index(folder)
    patches.write_index(index.drop(columns=["points", "split", "pretrain", "finetune"]), folder)
    sampling.sample(folder, tiles, **how)
    assert patches.read_index(folder).equals(index)


def test_a_run_that_is_stopped_vouches_for_nothing(cut, folder, monkeypatch):
    """Stopped between its files, and then asked for what the folder held before."""
    how = dict(points=2000, buffer=0)
    sampling.sample(folder, cut / "tiles", **how)
    made = content(folder)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "write_index", stop)
    with pytest.raises(KeyboardInterrupt):
        sampling.sample(folder, cut / "tiles", **how, seed=1)
    monkeypatch.undo()
    sampling.sample(folder, cut / "tiles", **how)
    assert content(folder) == made


def test_patches_without_any_label_can_be_pretrained_on(cut, tmp_path):
    for k in range(2):
        with rasterio.open(cut / "labels" / f"s{k}.tif") as label:
            write(tmp_path / "labels" / f"s{k}.tif", 0 * label.read(1), transform=label.transform)
    patches.cut(cut / "scenes", tmp_path / "labels", tmp_path / "p", size=32, max_void=1)
    table = sampling.sample(tmp_path / "p", cut / "tiles")
    index = patches.read_index(tmp_path / "p")
    assert table.loc["patches labelled", "number"] == index["finetune"].sum() == 0
    assert index["pretrain"].sum() == (index["split"] == "train").sum() > 0


def test_another_legend_is_sampled_by_its_own_classes(cut, tmp_path):
    """Labels, tiles and report follow a legend without forest, in which 0 is a class."""
    rng = np.random.default_rng(0)
    for k in range(2):
        with rasterio.open(cut / "labels" / f"s{k}.tif") as label:
            ids = rng.choice([0, 7, 9], label.shape, p=[0.6, 0.3, 0.1]).astype(np.uint8)
            write(tmp_path / "labels" / f"s{k}.tif", ids, transform=label.transform, nodata=None)
    with rasterio.open(cut / "tiles" / "t.tif") as tile:
        ids = rng.choice([0, 7, 9, 255], tile.shape).astype(np.uint8)
        write(tmp_path / "tiles" / "t.tif", ids, transform=tile.transform, crs=tile.crs, nodata=255)
    patches.cut(cut / "scenes", tmp_path / "labels", tmp_path / "p", size=32, legend=LEGEND)
    table = sampling.sample(tmp_path / "p", tmp_path / "tiles", buffer=0)
    assert list(table.columns) == ["number", "sea", "town"]
    assert table.loc["patches", "sea"] == pytest.approx(2 / 3, abs=0.02)
    assert table.loc["points drawn", "sea"] == pytest.approx(1 / 2, abs=0.05)
    points = gpd.read_parquet(tmp_path / "p" / sampling.POINTS)
    assert set(points["category"]) == {0, 7, 9}


def test_points_that_miss_every_patch(cut, folder, tmp_path):
    far = write(
        tmp_path / "far.tif", land_array(np.random.default_rng(0), 20, 20), crs="EPSG:4326",
        transform=Affine(STEP, 0, 10, 0, -STEP, 50),
    )  # fmt: skip
    before = (folder / patches.INDEX).read_bytes()
    with pytest.raises(InputError, match="none of the points"):
        sampling.sample(folder, far)
    assert (folder / patches.INDEX).read_bytes() == before
    with pytest.raises(InputError, match="nothing"):
        sampling.sample(tmp_path / "nothing", far)
    assert not (tmp_path / "nothing").exists()


def test_nothing_left_to_fine_tune_is_said(cut, tmp_path):
    for k in range(2):
        with rasterio.open(cut / "labels" / f"s{k}.tif") as label:
            wood = np.full(label.shape, 6, np.uint8)
            write(tmp_path / "labels" / f"s{k}.tif", wood, transform=label.transform)
    patches.cut(cut / "scenes", tmp_path / "labels", tmp_path / "p", size=32)
    with pytest.raises(InputError, match="take a smaller --buffer"):
        sampling.sample(tmp_path / "p", cut / "tiles")
    assert "points" not in patches.read_index(tmp_path / "p")
