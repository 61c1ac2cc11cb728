"""Class-weighted points and spatial splits: exact where they can be, in distribution elsewhere."""

import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import land_array, write
from scipy.stats import chisquare

from sartutorial import InputError, patches, rasters, sampling, splits

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


@pytest.mark.parametrize("points", [0, 1, 7, 1000])
def test_allocation_sums_to_the_points(tiles, points):
    counts = sampling.count_classes(tiles)
    weights = sampling.category_weights(counts.sum(axis=0))
    assert sampling.allocate(counts, weights, points).sum() == points


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
    monkeypatch.setattr(rasters, "STRIP_ROWS", 7)
    monkeypatch.setattr(rasters.strips, "__defaults__", (7,))
    assert sampling.draw(tiles, points=500, seed=4).equals(once)  # whatever the block size
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
    split = splits.by_block(index, seed=seed, block=2)
    owner = splits.blocks(index, 2)
    for b in range(owner.max() + 1):
        assert len(set(split[owner == b])) == 1
    shares = [(split == s).mean() for s in splits.SPLITS]
    assert shares == pytest.approx(splits.SHARES, abs=0.08)
    assert np.array_equal(split, splits.by_block(index, seed=seed, block=2))


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
