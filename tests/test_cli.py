"""The command line: the whole chain, configuration files, and one clear line on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import land_array, scene_array, write

from sartutorial import cli, profiles, rasters


@pytest.fixture
def run(capsys, monkeypatch, tiny):
    """Run a command in this process, with tiny networks: exit code, output, errors."""
    monkeypatch.setitem(profiles.PROFILES, "laptop", tiny)

    def call(*arguments):
        try:
            cli.app.meta([str(a) for a in arguments], result_action="return_value")
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("downsample", "no.tif", "--out", "o"), "no.tif: no such scene"),
        (("downsample", "--out", "o"), "no SCENE given"),
        (("downsample", "text.tif", "--out", "o"), "text.tif: not a readable raster"),
        (("downsample", "float.tif", "--out", "o"), "float.tif: holds float32"),
        (("downsample", "IMG.tif", "--out", "o", "--factor", "0"), "--factor"),
        (("downsample", "IMG.tif", "--out", "text.tif"), "text.tif"),
        (("label", "IMG.tif", "--tiles", "nowhere", "--out", "o"), "nowhere: no such land-cover"),
        (("label", "IMG.tif", "--tiles", "far", "--out", "o"), "no land-cover tile meets it"),
        (("patches", "IMG.tif", "--labels", "o", "--out", "p"), "run 'sartutorial label'"),
        (("patches", "IMG.tif", "--labels", "l", "--out", "p", "--size", "999"), "smaller than"),
        (("sample", "p", "--tiles", "far"), "run 'sartutorial patches'"),
        (("pretrain", "p", "--out", "o"), "run 'sartutorial patches'"),
        (("finetune", "p", "--out", "o"), "run 'sartutorial patches'"),
        (("evaluate", "p", "--model", "m.safetensors"), "m.safetensors: no such file"),
        (("predict", "IMG.tif", "--model", "m.safetensors", "--out", "o"), "no such file"),
        (("pretrain", "p", "--out", "o", "--method", "gan"), "gan"),
        (("simulate",), "--out"),
        (("patches", "--nonsense"), "--nonsense"),
        (("downsample", "IMG.tif", "--out", "o", "--config", "no.yaml"), "no.yaml"),
    ],
)
def test_bad_input_is_answered_with_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write(Path("IMG.tif"), scene_array(rng, 64, 64))
    write(Path("float.tif"), scene_array(rng, 64, 64).astype(np.float32))
    Path("text.tif").write_text("not a raster")
    write(Path("l/IMG.tif"), land_array(rng, 64, 64))
    write(Path("far/t.tif"), land_array(rng, 9, 9), crs="EPSG:32631")
    before = sorted(tmp_path.rglob("*.*"))
    code, _, err = run(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("sartutorial:")]
    assert code != 0
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*.*")) == before  # nothing half-written


def test_importing_the_raster_modules_brings_no_torch():
    code = (
        "import sys, sartutorial.cli, sartutorial.sampling, sartutorial.simulate\n"
        "print([m for m in ('torch', 'geopandas', 'lightning') if m in sys.modules])"
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
