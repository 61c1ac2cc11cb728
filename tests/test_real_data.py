"""The chain on real rasters, by the command line alone. Skipped, loudly, where they are absent."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import scene_array, write
from rasterio.warp import transform

import sartutorial as st
from sartutorial import cli, lulc, radiometry, rasters
from sartutorial.learn import evaluation, reports

CONFIG = Path(__file__).parents[1] / "configs" / "flevoland.yaml"


@pytest.fixture
def sartutorial(capsys):
    """Run a command in this process; returns what it printed."""

    def run(*arguments):
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            pytest.fail(f"exit code {stop.code}: {capsys.readouterr().err}")
        return capsys.readouterr().out

    return run


@pytest.mark.nightly
def test_flevoland_from_scene_to_map(real, sartutorial, tmp_path):
    """Real airborne L-band HH with field labels: by class, the map beats the majority's."""
    folder = real / "flevoland-l-band"
    scene = folder / "AIRSAR-HH-FLEVOLAND.tif"
    (tmp_path / "tiles").mkdir()
    shutil.copy(folder / "LC_N52E005.tif", tmp_path / "tiles")
    labels, patches, tiles = tmp_path / "labels", tmp_path / "patches", tmp_path / "tiles"
    encoder, model = tmp_path / "encoder", tmp_path / "model" / "model.safetensors"
    recipe = ("--config", CONFIG)
    sartutorial("label", scene, "--tiles", tiles, "--out", labels, *recipe)
    sartutorial("patches", scene, "--labels", labels, "--out", patches, *recipe)
    sartutorial("sample", patches, "--tiles", tiles, *recipe)
    sartutorial("pretrain", patches, "--out", encoder, *recipe)
    weights = encoder / "encoder.safetensors"
    sartutorial("finetune", patches, "--encoder", weights, "--out", model.parent, *recipe)
    printed = sartutorial("evaluate", patches, "--model", model, "--out", tmp_path / "test.json")
    assert "majority" in printed
    test = json.loads((tmp_path / "test.json").read_text())
    assert test["miou"] > test["majority"]["miou"]  # on held-out blocks

    sartutorial("predict", scene, "--model", model, "--out", tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as found, rasterio.open(scene) as sar:
        assert rasters.grid_of(found) == rasters.grid_of(sar)
    confusion = reports.agreement(tmp_path / "map.tif", labels / scene.name)
    whole = evaluation.scores(confusion, lulc.HR_LULC.names)
    # By class, as the loss counts: mIoU 0.20 and 0.23 with seeds 0 and 1 where the majority class has
    # 0.13, mAcc 0.26 and 0.35 to its 0.17. Three quarters of the pixels are that class, and the share
    # of all that are right lies within 0.015 of it, on either side: it tells nothing.
    for score in ("miou", "macc"):
        assert whole[score] > 1.25 * whole["majority"][score]


def test_the_real_mosaic_tile_is_read_in_its_archive(real, sartutorial, tmp_path):
    """ALOS-2 25 m mosaic of 2020, Niihau: 899,984 of its 20,250,000 pixels hold data, and enter."""
    archive = shutil.copy(real / "N23W161_20_MOS_F02DAR.tar.gz", tmp_path)
    sartutorial("downsample", archive, "--factor", 1, "--out", tmp_path / "whole")
    sartutorial("downsample", archive, "--out", tmp_path / "half")
    assert {p.name for p in tmp_path.iterdir()} == {Path(archive).name, "whole", "half"}
    name = "N23W161_20_sl_HH_F02DAR.tif"
    with rasters.opened(tmp_path / "whole" / name) as whole:
        assert (whole.nodata, whole.crs.to_epsg(), whole.shape) == (0, 4326, (4500, 4500))
        assert whole.tags()["QUANTITY"] == "gamma0"
        assert whole.tags()["POLARISATION"] == "HH"
        assert st.pixel_size(whole) == pytest.approx(24.0, abs=0.8)
        dn = whole.read(1)
    with tarfile.open(archive) as inside:
        inside.extractall(tmp_path / "layers", filter="data")
    with rasterio.open(tmp_path / "layers" / "N23W161_20_mask_F02DAR.tif") as layer:
        mask = layer.read(1)
    with rasterio.open(tmp_path / "layers" / name) as layer:
        assert layer.nodata == 1
        raw = layer.read(1)
    np.testing.assert_array_equal(dn, np.where(raw == 1, 0, raw))
    db, _, quantity = st.read_db(archive)  # the mask and the declared value agree
    assert quantity == "gamma0"
    np.testing.assert_array_equal(db, radiometry.dn_to_db(dn))
    assert np.isfinite(db).sum() == 899_984
    assert db.size == 20_250_000
    assert np.array_equal(np.isfinite(db), mask != 0)
    land, ocean = db[mask == 255], db[mask == 50]
    assert (land.size, ocean.size, (mask == 150).sum()) == (2461, 897_321, 202)
    assert -20 < np.median(land) < -5
    assert np.median(ocean) < np.median(land) - 3

    with rasterio.open(tmp_path / "half" / name) as half:
        assert half.nodata == 0
        dn = half.read(1)
    power = radiometry.to_power(db.astype(float)).reshape(2250, 2, 2250, 2)
    some = np.isfinite(power).any(axis=(1, 3))
    assert np.array_equal(dn != 0, some)
    sums = np.nansum(power, axis=(1, 3))[some] / np.isfinite(power).sum(axis=(1, 3))[some]
    error = np.sqrt(radiometry.to_power(radiometry.to_db(sums) + 83)) - dn[some]
    assert np.abs(error).max() <= 1  # one DN quantum


def test_flevoland_needs_no_option(real):
    """It is written as PALSAR-2 would have written it, and its name is known."""
    scene = real / "flevoland-l-band" / "AIRSAR-HH-FLEVOLAND.tif"
    assert st.read_db(scene, max_size=100).quantity == "sigma0"


def test_the_national_land_cover_labels_a_grid_over_okinawa(real, tmp_path):
    """A made-up UTM grid of 50 m: each label is the class of the 250 m pixel that holds its centre."""
    national = real / "JAXA_HRLULC_Japan_v23.12_250m.tif"
    side, grid = 800, Affine(50, 0, 355_000, 0, -50, 2_960_000)  # around 26.5 N 127.8 E
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "s.tif", scene_array(rng, side, side, hole=0.05), transform=grid,
                  crs="EPSG:32652")  # fmt: skip
    out = st.label(scene, national, tmp_path / "labels.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar, rasterio.open(national) as land:
        ids, valid = found.read(1), sar.read(1) != 0
        assert "MISSING" not in found.tags()
        rows, cols = np.nonzero(valid)
        x, y = grid * (cols + 0.5, rows + 0.5)
        lon, lat = (np.array(v) for v in transform("EPSG:32652", "EPSG:4326", x, y))
        row, col = (np.floor(v).astype(int) for v in reversed(~land.transform * (lon, lat)))
        np.testing.assert_array_equal(ids[rows, cols], land.read(1)[row, col])
        # ... so that centres are at most half a tile pixel apart.
        at = land.transform * (col + 0.5, row + 0.5)
        half = land.res[0] / 2 * (1 + 1e-9)
        assert np.abs(at[0] - lon).max() <= half
        assert np.abs(at[1] - lat).max() <= half
        assert (ids[~valid] == 0).all()
    shares = np.bincount(ids[valid], minlength=16) / valid.sum()
    assert shares[1] > 0.2  # the sea around it
    assert shares[8] > 0.05  # and its evergreen broad-leaved forest
