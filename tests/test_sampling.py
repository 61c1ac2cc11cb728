"""Class-weighted points and spatial splits: exact where they can be, in distribution elsewhere."""

import shutil

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from conftest import UTM, land_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from shapely import affinity, box, distance

from sartutorial import InputError, lulc, patches, sampling, splits

STEP = 0.001


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


def test_counts_are_those_of_the_rasters(tiles):
    counts = sampling.count_classes(tiles)
    for path, found in zip(tiles, counts, strict=True):
        with rasterio.open(path) as tile:
            truth = np.bincount(tile.read(1).ravel(), minlength=16)
        assert found[1:].tolist() == truth[1:].tolist()
        assert found[0] == 0


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


WAYS = [(a, c) for a in ("weight", "area") for c in ("pixels", "weight")]


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


def test_fewer_points_than_tiles_are_drawn(tiles):
    assert len(sampling.draw(tiles, points=1, seed=0)) == 1


COUNTS = st.lists(
    st.lists(st.integers(0, 50), min_size=16, max_size=16), min_size=1, max_size=5
).map(lambda rows: np.array(rows) * (np.arange(16) > 0))


@given(counts=COUNTS.filter(lambda n: n.any()), way=st.sampled_from(WAYS))
def test_probabilities(counts, way):
    weights = sampling.category_weights(counts.sum(axis=0))
    joint = sampling.probabilities(counts, weights, allocation=way[0], category=way[1])
    assert joint.sum() == pytest.approx(1)
    assert (joint[counts == 0] == 0).all()
    share = joint.sum(axis=1)
    if way[0] == "area":
        assert share == pytest.approx(counts.sum(axis=1) / counts.sum())
    else:
        assert share == pytest.approx(counts @ weights / (counts @ weights).sum())
    for i, c in np.argwhere(joint > 0):
        ratio = joint[i, joint[i] > 0] / joint[i, c]
        many = counts[i, joint[i] > 0] / counts[i, c] if way[1] == "pixels" else 1
        assert ratio == pytest.approx(weights[joint[i] > 0] / weights[c] * many)
    if way == ("weight", "pixels"):  # one draw of a pixel by the weight of its class
        a_pixel = np.divide(joint, counts, where=counts > 0, out=np.zeros(joint.shape))
        assert a_pixel == pytest.approx((counts > 0) * weights / (counts @ weights).sum())


def test_the_classes_are_drawn_as_asked(tiles):
    counts = sampling.count_classes(tiles)
    weights = sampling.category_weights(counts.sum(axis=0))
    for allocation, category in WAYS:
        how = dict(allocation=allocation, category=category)
        expected = sampling.probabilities(counts, weights, **how)
        drawn = sampling.draw(tiles, points=8000, seed=3, **how)
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
    points = sampling.draw(tiles, points=40_000, seed=6)
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
    strip=st.integers(1, 2000),
    crs=st.sampled_from(["EPSG:4326", UTM]),
    replace=st.booleans(),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 99),
)
def test_odd_tilings(tmp_path, monkeypatch, shapes, strip, crs, replace, way, seed):
    """Every point has its class, wherever it lies and however the raster is read."""
    rng, step = np.random.default_rng(seed), STEP if crs == "EPSG:4326" else 100
    corner = (137, 33) if crs == "EPSG:4326" else (500_000, 3_652_000)
    paths = []
    for i, shape in enumerate(shapes):
        at = Affine(step, 0, corner[0] + i * 40 * step, 0, -step, corner[1])
        ids = land_array(rng, *shape)
        ids.flat[0] = 1
        paths.append(write(tmp_path / f"{i}.tif", ids, crs=crs, transform=at))
    how = dict(points=200, seed=seed, replace=replace, allocation=way[0], category=way[1])
    points = sampling.draw(paths, **how)
    assert len(points) + sum(points.attrs["short"].values()) == 200
    assert replace is False or not points.attrs["short"]
    if not replace:
        assert not points.duplicated(["longitude", "latitude"]).any()
    for path in paths:
        mine = points[points["tile"] == path.name]
        with rasterio.open(path) as tile:
            there = mine.geometry.to_crs(tile.crs)
            values = [v[0] for v in tile.sample(zip(there.x, there.y, strict=True))]
        assert values == mine["category"].tolist()
    assert np.array_equal(points.geometry.x, points["longitude"])
    assert np.array_equal(points.geometry.y, points["latitude"])
    with monkeypatch.context() as m:
        m.setattr(sampling, "STRIP_PIXELS", strip)
        assert sampling.draw(paths, **how, workers=3).equals(points)


def test_without_replacement_a_class_is_capped_and_the_loss_said(tiles):
    counts = sampling.count_classes(tiles)
    points = sampling.draw(tiles, points=4000, seed=0, replace=False)
    assert not points.duplicated(["longitude", "latitude"]).any()
    rare = int(np.flatnonzero(counts.sum(axis=0))[-1])
    assert (points["category"] == rare).sum() == counts[:, rare].sum()
    assert points.attrs["short"][str(rare)] == pytest.approx(1000 - counts[:, rare].sum(), abs=100)
    assert len(points) + sum(points.attrs["short"].values()) == 4000
    assert not sampling.draw(tiles, points=100, seed=0).attrs["short"]


@pytest.mark.parametrize(("pixels", "number"), [(10, 3), (10, 5), (10, 6), (10, 10)])
def test_pixels_without_replacement_are_uniform(pixels, number):
    rng, hits = np.random.default_rng(0), np.zeros(pixels)
    for _ in range(2000):
        ranks = sampling._ranks(rng, pixels, number, replace=False)
        assert len(set(ranks)) == number
        assert (np.diff(ranks) > 0).all()
        hits[ranks] += 1
    # The counts of pixels drawn without replacement vary less: scaled to a chi-square by 1 - n/N.
    spread = ((hits - 200 * number) ** 2 / (200 * number)).sum() / max(1 - number / pixels, 1e-9)
    assert spread < 35  # the 0.9999 point of chi-square with 9 degrees of freedom is 33.7


def test_forest_can_have_probability_0(tiles, tmp_path):
    points = sampling.draw(tiles, points=500, seed=0, forest=False)
    assert set(points["category"]) == {1, 12}
    wood = write(tmp_path / "wood.tif", np.full((9, 9), 6, np.uint8))
    with pytest.raises(InputError, match="weight 0: nothing can be sampled"):
        sampling.draw([wood], points=5, seed=0, forest=False)


def test_all_void(tmp_path):
    void = write(tmp_path / "void.tif", np.array([[0, 255], [255, 0]], np.uint8))
    assert not sampling.count_classes([void]).any()
    with pytest.raises(InputError, match="no labelled pixel in any land-cover raster"):
        sampling.draw([void], points=5, seed=0)


def test_counts_are_kept_by_content(tiles, tmp_path, monkeypatch):
    known = {}
    first = sampling.count_classes(tiles, known=known, workers=2)
    moved = shutil.copy(tiles[0], tmp_path / "moved.tif")
    monkeypatch.setattr(sampling, "_count", lambda tile: pytest.fail(f"{tile}: decoded again"))
    assert sampling.count_classes([moved, tiles[1]], known=known).tolist() == first.tolist()
    monkeypatch.undo()
    ids = np.full((61, 40), 9, np.uint8)
    write(tiles[0], ids, crs="EPSG:4326", transform=Affine(STEP, 0, 137, 0, -STEP, 33))
    assert sampling.count_classes(tiles, known=known)[0, 9] == ids.size


def test_every_class_gets_the_same_share_and_every_point_its_class(tiles):
    points = sampling.draw(tiles, points=8000, seed=1)
    assert len(points) == 8000
    share = points["category"].value_counts()
    assert sorted(share.index) == [1, 6, 9, 12]
    assert chisquare(share.to_numpy()).pvalue > 1e-3
    for path in tiles:
        mine = points[points["tile"] == path.name]
        with rasterio.open(path) as tile:
            values = [v[0] for v in tile.sample(zip(mine.geometry.x, mine.geometry.y, strict=True))]
        assert values == mine["category"].tolist()


def test_points_are_uniform_within_a_class(tiles):
    points = sampling.draw(tiles, points=20_000, seed=2)
    counts = sampling.count_classes(tiles)[:, 12]
    drawn = points[points["category"] == 12]["tile"].value_counts()
    expected = counts / counts.sum() * drawn.sum()
    assert chisquare([drawn[p.name] for p in tiles], expected).pvalue > 1e-3


def test_the_draw_depends_on_the_seed_alone(tiles, monkeypatch):
    once = sampling.draw(tiles, points=500, seed=4)
    for rows, workers in ((7, 1), (7, 3), (512, 1), (512, 3)):
        monkeypatch.setattr(sampling, "STRIP_PIXELS", rows * 57)
        assert sampling.draw(tiles, points=500, seed=4, workers=workers).equals(once)
    assert not sampling.draw(tiles, points=500, seed=5).equals(once)


def test_match_counts_points_in_footprints(world):
    index = patches.read_index(world / "patches")
    centres = index.geometry.centroid.to_frame("geometry").set_crs(4326).iloc[[0, 0, 3]]
    hits = sampling.match(centres, index)
    assert hits[0] == 2
    assert hits[3] == 1
    assert hits.sum() == 3


def test_the_index_says_what_is_trained_and_tested_on(world):
    index = patches.read_index(world / "patches")
    forest = index[[f"n_{i}" for i in (6, 7, 8, 9, 11)]].sum(axis=1)
    assert not (index["finetune"] & (forest == 64 * 64)).any()
    assert (index[index["finetune"]]["points"] > 0).all()
    assert set(index[index["pretrain"]]["split"]) == {"train"}
    assert set(index["split"]) == set(splits.SPLITS)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_block_is_split_and_shares_are_near(world, seed):
    index = patches.read_index(world / "patches")
    split = splits.by_block(index, seed=seed, block=2, buffer=0)
    owner = splits.blocks(index, 2)
    for b in range(owner.max() + 1):
        assert len(set(split[owner == b])) == 1
    shares = [(split == s).mean() for s in splits.SPLITS]
    assert shares == pytest.approx(splits.SHARES, abs=0.08)
    assert np.array_equal(split, splits.by_block(index, seed=seed, block=2, buffer=0))


SIDE = 64 * 5.0


def layout(scenes, seed):
    """An index of scenes (offset in patch sides, rows, columns, turn in degrees), random classes."""
    rng, rows = np.random.default_rng(seed), []
    for k, (x, y, height, width, turn) in enumerate(scenes):
        grid = [box(c, r, c + 1, r + 1) for r in range(height) for c in range(width)]
        for cell in grid:
            cell = affinity.translate(affinity.rotate(cell, turn, origin=(0, 0)), x, y)
            cell = affinity.scale(cell, SIDE, SIDE, origin=(0, 0))
            n = rng.multinomial(64 * 64, rng.dirichlet(np.full(16, 0.2)))
            rows.append([f"s{k}", 64, 5.0, *n, affinity.translate(cell, 500_000, 3_652_000)])
    columns = ["scene", "size", "spacing", *patches.COUNTS, "geometry"]
    return gpd.GeoDataFrame(rows, columns=columns, crs=UTM).to_crs(4326)


SCENES = st.lists(
    st.tuples(
        st.floats(-6, 6), st.floats(-6, 6), st.integers(1, 7), st.integers(1, 7), st.floats(-9, 9)
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=30, deadline=None)
@given(
    scenes=SCENES, seed=st.integers(0, 99), block=st.integers(1, 4),
    buffer=st.sampled_from([0.25, 1.0, 1.7, 2.0]),
)  # fmt: skip
def test_no_patch_is_within_the_buffer_of_another_split(scenes, seed, block, buffer):
    """By brute force over all pairs, scenes that overlap and lie askew included."""
    index = layout(scenes, seed)
    split = splits.by_block(index, seed=seed, block=block, buffer=buffer)
    ground = index.geometry.to_crs(index.estimate_utm_crs()).to_numpy()
    apart = distance(ground[:, None], ground[None])
    kept = split != splits.BUFFER
    across = (split[:, None] != split[None]) & kept[:, None] & kept[None]
    assert (apart[across] >= (buffer - 2e-3) * SIDE).all()
    # Nothing is lost for nothing, and a test patch never is.
    near = (apart < buffer * SIDE) & np.isin(split, ["val", "test"])[None]
    assert near[~kept].any(axis=1).all()
    dealt = splits._deal(index, splits.blocks(index, block), seed, splits.neighbours(index, buffer))
    assert (split[dealt == 2] == "test").all()
    for k, name in enumerate(splits.SPLITS):
        assert (dealt[split == name] == k).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_large_world_keeps_most_patches_and_its_balance(seed):
    index = layout([(0, 0, 24, 24, 0), (20, 3, 24, 24, 2)], seed)
    split = splits.by_block(index, seed=seed)
    kept = index[split != splits.BUFFER]
    assert len(kept) > 0.75 * len(index)
    classes = lulc.merged(kept[patches.COUNTS].to_numpy())
    for name, share in zip(splits.SPLITS, splits.SHARES, strict=True):
        mine = classes[split[split != splits.BUFFER] == name].sum(axis=0)
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


@pytest.mark.parametrize("split", ["block", "scene", "random"])
def test_the_report_adds_up(world, tmp_path, split):
    shutil.copytree(world / "patches", tmp_path / "p")
    tiles = sorted((world / "lulc").iterdir())
    # So few points that some patches are not hit.
    how = dict(points=60, seed=1, split=split, block=4, replace=False)
    index = sampling.sample(tmp_path / "p", tiles, **how)
    table = pd.read_csv(tmp_path / "p" / sampling.REPORT, index_col=0)
    points = gpd.read_parquet(tmp_path / "p" / sampling.POINTS)
    number, shares = table["number"], table[list(lulc.NAMES)]
    assert number["points drawn"] + number["points short of pixels"] == 60
    assert number["points drawn"] == len(points)
    inside = points.within(index.union_all())
    assert number["points on patches"] == pytest.approx(inside.sum(), abs=5)  # those on an edge
    assert number["patches"] == len(index) > number["patches hit by a point"]
    assert number["patches hit by a point"] == (index["points"] > 0).sum()
    assert number["of these in train"] == index["pretrain"].sum()
    parts = [number[f"of these in {s}"] for s in (*splits.SPLITS, splits.BUFFER)]
    assert sum(parts) == number["patches labelled"]
    assert sum(parts[:3]) == index["finetune"].sum()
    assert shares[number > 0].sum(axis=1).to_numpy() == pytest.approx(1)
    category = points["category"].value_counts(normalize=True)
    assert shares.loc["points drawn", "water"] == pytest.approx(category[1])
    assert (split == "block") == (splits.BUFFER in set(index["split"]))
    again = sampling.sample(tmp_path / "p", tiles, **how)
    assert again.equals(index)


def test_sampling_keeps_its_counts_and_survives_a_spoilt_cache(world, tmp_path, monkeypatch):
    shutil.copytree(world / "patches", tmp_path / "p")
    tiles, cache = sorted((world / "lulc").iterdir()), tmp_path / "p" / sampling.CACHE
    index = patches.read_index(tmp_path / "p")
    for spoilt in ("[1", "[]", '{"a": 1}'):
        cache.write_text(spoilt)
        assert set(sampling._known(tmp_path / "p")) == set()
    cache.unlink()
    sampling.sample(tmp_path / "p", tiles, points=2000, seed=8)
    monkeypatch.setattr(sampling, "_count", lambda tile: pytest.fail(f"{tile}: decoded again"))
    again = sampling.sample(tmp_path / "p", tiles, points=20_000, block=2, buffer=0)
    assert again.equals(index)


def test_merged_counts_are_those_of_the_nine():
    ids = np.random.default_rng(0).integers(0, 16, 999).astype(np.uint8)
    nine = lulc.to_index(ids)
    found = lulc.merged(np.bincount(ids, minlength=16))
    assert found.tolist() == np.bincount(nine[nine >= 0], minlength=9).tolist()


def test_patches_without_footprint(world, tmp_path):
    shutil.copytree(world / "patches", tmp_path / "p")
    index = patches.read_index(tmp_path / "p")
    index.loc[index.index[:2], "geometry"] = None
    patches.write_index(index, tmp_path / "p")
    with pytest.raises(InputError, match=r"patches.parquet: 2 patches have no footprint"):
        sampling.sample(tmp_path / "p", sorted((world / "lulc").iterdir()))


def test_points_that_miss_every_patch(world, tmp_path):
    shutil.copytree(world / "patches", tmp_path / "p")
    far = write(
        tmp_path / "far.tif", land_array(np.random.default_rng(0), 20, 20), crs="EPSG:4326",
        transform=Affine(STEP, 0, 10, 0, -STEP, 50),
    )  # fmt: skip
    before = (tmp_path / "p" / patches.INDEX).read_bytes()
    with pytest.raises(InputError, match="none of the points"):
        sampling.sample(tmp_path / "p", [far])
    assert (tmp_path / "p" / patches.INDEX).read_bytes() == before
