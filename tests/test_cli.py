"""The command line: the whole chain, configuration files, imports."""

import json
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from conftest import land_array, scene_array, write

from sartutorial import InputError, cli, downsample, pretraining, rasters


def test_the_whole_chain(run, tmp_path):
    world, half, labels = tmp_path / "world", tmp_path / "half", tmp_path / "labels"
    patches, encoder, model = tmp_path / "patches", tmp_path / "encoder", tmp_path / "model"
    tuned = model / "model.safetensors"
    for command in (
        ("simulate", "--out", world, "--seed", 3),
        ("downsample", world / "scenes", "--out", half),
        ("label", half, "--tiles", world / "lulc", "--out", labels),
        ("patches", half, "--labels", labels, "--out", patches, "--size", 64),
        ("sample", patches, "--tiles", world / "lulc", "--points", 20000, "--block", 2),
        ("pretrain", patches, "--out", encoder, "--method", "sar-w-mixmae", "--epochs", 1),
        ("finetune", patches, "--out", model, "--encoder", encoder / "encoder.safetensors"),
        ("evaluate", patches, "--model", tuned, "--out", tmp_path / "test.json"),
        ("predict", half, "--model", tuned, "--out", tmp_path / "map.tif"),
    ):
        code, _, err = run(*command)
        assert code == 0, (command, err)
    assert json.loads((model / "metrics.json").read_text())["classes"][0] == "water"
    assert json.loads((tmp_path / "test.json").read_text())["split"] == "test"
    with rasters.opened(tmp_path / "map.tif", dtype="uint8") as found:
        assert found.read(1).max() <= 9


def test_options_come_from_a_file_and_the_hand_wins(run, tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 128, 128))
    write(tmp_path / "labels" / "IMG.tif", land_array(rng, 128, 128))
    config = tmp_path / "recipe.yaml"
    config.write_text("patches:\n  size: 64\n  max_void: 1.0\n")
    asked = ("patches", scene, "--labels", tmp_path / "labels", "--out", tmp_path / "p")
    assert "4 patches" in run(*asked, "--config", config)[1]
    assert "16 patches" in run(*asked, "--config", config, "--size", 32)[1]
    config.write_text("patches:\n  sizes: 64\n")
    code, _, err = run(*asked, "--config", config)
    assert code != 0
    assert "sizes" in err


def test_missing_tiles_are_named_for_every_scene_and_every_time(run, tmp_path):
    """Also where a scene fails, and for labels that are there already."""
    rng = np.random.default_rng(0)
    for lon, name in ((134.95, "a"), (136.95, "b"), (135.2, "whole")):
        write(tmp_path / "half" / f"{name}.tif", scene_array(rng, 50, 100), crs="EPSG:4326",
              transform=Affine(0.001, 0, lon, 0, -0.001, 33.4))  # fmt: skip
    for lon in (135, 136):
        write(tmp_path / "tiles" / f"LC_N33E{lon}.tif", land_array(rng, 100, 100), crs="EPSG:4326",
              transform=Affine(0.01, 0, lon, 0, -0.01, 34))  # fmt: skip
    (tmp_path / "half" / "torn.tif").write_text("torn")
    call = ("label", tmp_path / "half", "--tiles", tmp_path / "tiles", "--out", tmp_path / "labels")
    for _ in range(2):
        code, out, err = run(*call)
        said = [line for line in err.splitlines() if "would help" in line]
        assert [line.split(";")[1] for line in said] == [
            " LC_N33E134.tif would help",
            " LC_N33E137.tif would help",
        ]
        assert "a.tif: partly beyond" in said[0]
        assert "b.tif: partly beyond" in said[1]
        assert len(out.splitlines()) == 3
        assert code == 1
        assert "torn.tif: not a readable raster" in err


def test_debug_shows_where_it_failed(run, tmp_path):
    with pytest.raises(InputError, match="no such scene"):
        run("downsample", tmp_path / "no.tif", "--out", tmp_path / "o", "--debug")


def test_choices_are_those_of_the_modules():
    """The command line repeats them, since it imports a module only for its command."""
    assert cli.Method == pretraining.Method
    assert cli.Average == downsample.Average


def test_importing_the_raster_modules_brings_no_torch():
    code = (
        "import sys, sartutorial.cli, sartutorial.sampling, sartutorial.simulate, sartutorial.labels\n"
        "slow = ('torch', 'timm', 'lightning', 'geopandas', 'matplotlib', 'folium')\n"
        "print([m for m in slow if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "sartutorial", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0.1.0"
