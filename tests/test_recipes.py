"""``sartutorial run``: one file from data to product, checked and planned before anything is touched."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from affine import Affine
from conftest import GRID, land_array, scene_array, write

from sartutorial import cli

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPE = """
data: {data}
label: {{scene: half, tiles: tiles, out: labels}}
downsample: {{scene: scenes, out: half}}  # in any order: data decide
patches: {{scene: half, labels: labels, out: patches, size: 32, max_void: 0.5}}
"""


@pytest.fixture
def recipe(tmp_path):
    """A folder of data, and a recipe elsewhere that takes it to patches."""
    rng, data = np.random.default_rng(0), tmp_path / "data"
    write(data / "scenes" / "IMG.tif", scene_array(rng, 128, 128))
    write(data / "tiles" / "t.tif", land_array(rng, 64, 64), transform=GRID * Affine.scale(2))
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(data=data))
    return file


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_dry_run_says_all_and_touches_nothing(run, recipe, tmp_path):
    before = contents(tmp_path)
    code, out, err = run("run", recipe, "--dry-run")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["downsample", "label", "patches"]
    assert all(
        re.search(r"GB, takes .* min .* GB of disk, .* GB of memory", t) for t in out.splitlines()
    )
    assert contents(tmp_path) == before


def test_a_run_makes_what_its_commands_would_and_goes_on_where_it_stopped(run, recipe, tmp_path):
    data = tmp_path / "data"
    code, out, err = run("run", recipe)
    assert code == 0, err
    assert re.findall(r"^\$ sartutorial (\w+)", out, re.M) == ["downsample", "label", "patches"]
    assert (data / "patches" / "patches.parquet").exists()
    times = {p: p.stat().st_mtime_ns for p in data.rglob("*.tif")}
    assert run("run", recipe)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*.tif")} == times
    assert run("downsample", data / "scenes", "--out", tmp_path / "by-hand")[0] == 0
    by_hand = (tmp_path / "by-hand" / "IMG.tif").read_bytes()
    assert by_hand == (data / "half" / "IMG.tif").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tiles: tiles", "tiles: nowhere", "label: tiles nowhere: neither there nor made"),
        ("scene: scenes", "scene: scens", "downsample: scene scens: neither there nor made"),
        ("size: 32", "sizes: 32", "sizes"),
        ("size: 32", "size: large", "large is not a whole number"),
        ("out: labels}", "out: labels, legend: corine}", "corine"),
        ("out: half", "", "out"),
        ("downsample:", "halve:", "there is no command halve"),
    ],
)
def test_a_recipe_that_cannot_run_is_named_before_anything_is_made(
    run, recipe, tmp_path, old, new, said
):
    recipe.write_text(recipe.read_text().replace(old, new, 1))
    before = contents(tmp_path)
    for more in ((), ("--dry-run",)):
        code, _, err = run("run", recipe, *more)
        assert code == 1
        assert len(err.splitlines()) == 1
        assert said in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_our_recipes_hold_options_that_their_commands_have(file):
    _, sections = cli._read(str(file))
    for name in sections:
        given = [name, "--config", str(file)]
        if "out" not in sections[name]:
            given += ["--out", "o"] if name != "sample" else []
        first = {"patches": "scene", "predict": "scene"}.get(name, "patches")
        given += [] if sections[name].keys() & {"scene", "patches"} else [f"--{first}", "x"]
        more = {"patches": ["--labels", "l"], "sample": ["--tiles", "t"]}.get(name, [])
        cli.app.parse_args(given + (more if more and more[0][2:] not in sections[name] else []))


def test_the_papers_recipe_holds_what_is_known():
    """Of /facts: the paper's and its code's settings, which the profile holds or the recipe says."""
    recipe = yaml.safe_load((CONFIGS / "paper-japan.yaml").read_text())
    assert recipe["downsample"]["factor"] == 2
    assert recipe["patches"]["size"] == 256
    assert (recipe["pretrain"]["epochs"], recipe["pretrain"]["batch"]) == (800, 2048)
    assert (recipe["finetune"]["epochs"], recipe["finetune"]["layer_decay"]) == (100, 0.8)
    assert {recipe[step]["profile"] for step in ("pretrain", "finetune")} == {"japan"}
