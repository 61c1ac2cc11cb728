"""The chain on real rasters, by the command line alone. Skipped, loudly, where they are absent."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from sartutorial import evaluation, inference, radiometry, rasters

CONFIG = Path(__file__).parents[1] / "configs" / "flevoland.yaml"


def sartutorial(*arguments):
    """Run the command line; returns what it printed."""
    command = [sys.executable, "-m", "sartutorial", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_flevoland_from_scene_to_map(real, tmp_path):
    """Real airborne L-band HH with field labels: the map beats the majority class."""
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
    whole = evaluation.scores(inference.agreement(tmp_path / "map.tif", labels / scene.name))
    assert whole["miou"] > whole["majority"]["miou"]
    assert whole["accuracy"] > whole["majority"]["accuracy"]


def test_the_real_mosaic_tile_honours_its_nodata(real, tmp_path):
    """ALOS-2 25 m mosaic of 2020, Niihau: nodata 1 is declared, and 4.4 % of the tile hold data."""
    with tarfile.open(real / "N23W161_20_MOS_F02DAR.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    scene = tmp_path / "N23W161_20_sl_HH_F02DAR.tif"
    with rasters.opened(scene) as tile, rasterio.open(tmp_path / "N23W161_20_mask_F02DAR.tif") as m:
        assert rasters.nodata_of(tile) == 1
        db = radiometry.dn_to_db(tile.read(1), nodata=1)
        mask = m.read(1)
        assert radiometry.quantity(str(scene), tile.tags()) == "gamma0"
    assert np.isfinite(db).sum() == 899_984
    land, ocean = db[(mask == 255) & np.isfinite(db)], db[(mask == 50) & np.isfinite(db)]
    assert -20 < np.median(land) < -5
    assert np.median(ocean) < np.median(land) - 3

    sartutorial("downsample", scene, "--out", tmp_path / "half")
    with rasterio.open(tmp_path / "half" / scene.name) as half:
        assert half.nodata == 1
        assert half.tags()["QUANTITY"] == "gamma0"
        dn = half.read(1)
    power = radiometry.to_power(db.astype(float)).reshape(2250, 2, 2250, 2)
    some = np.isfinite(power).any(axis=(1, 3))
    assert np.array_equal(dn != 1, some)
    sums = np.nansum(power, axis=(1, 3))[some] / np.isfinite(power).sum(axis=(1, 3))[some]
    error = np.sqrt(radiometry.to_power(radiometry.to_db(sums) + 83)) - dn[some]
    assert np.abs(error).max() <= 1  # one DN quantum


def test_the_mosaic_is_read_inside_its_archive(real):
    path = f"/vsitar/{real / 'N23W161_20_MOS_F02DAR.tar.gz'}/N23W161_20_sl_HH_F02DAR.tif"
    with rasters.opened(path) as tile:
        assert (tile.width, tile.height) == (4500, 4500)
        assert rasters.spacing(tile) == pytest.approx(24.0, abs=0.8)
