"""``sartutorial run``: one file from data to product, checked and planned before anything is touched."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from conftest import GRID, TINY, land_array, scene_array, write
from test_cloud import cloud  # noqa: F401 (a fixture)

import sartutorial as st
from sartutorial import cli, lulc, profiles

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


def planned(out):
    """Of a dry run: GB read and minutes, by command."""
    found = re.findall(r"^(\w+) +reads (\S+) GB, takes (\S+) min", out, re.M)
    return {name: (float(read), float(minutes)) for name, read, minutes in found}


def test_void_pixels_count_where_they_take_time(run, recipe, tmp_path):
    """Halving and labels go by pixels, the rest by bytes, of which void has few."""
    scene, rng = tmp_path / "data" / "scenes" / "IMG.tif", np.random.default_rng(0)
    form = dict(driver="GTiff", dtype="uint16", count=1, nodata=0, compress="deflate")
    form |= dict(crs="EPSG:32653", transform=GRID)
    found = []
    for dn in (scene_array(rng, 3000, 3000), np.zeros((3000, 3000), np.uint16)):
        with rasterio.open(scene, "w", **(form | dict(height=3000, width=3000))) as target:
            target.write(dn, 1)
            target.update_tags(QUANTITY="sigma0")
        found.append(planned(run("run", recipe, "--dry-run")[1]))
    full, void = found
    for name, (read, minutes) in void.items():
        assert read < 0.1 * full[name][0]
        assert minutes == full[name][1] if name != "patches" else minutes < full[name][1]


def test_a_dry_run_asks_the_cloud_for_its_scenes(run, recipe, cloud, tmp_path):  # noqa: F811
    text = recipe.read_text()
    write(cloud.folder / "IMG.tif", scene_array(np.random.default_rng(0), 4000, 4000))
    recipe.write_text(text.replace("scene: scenes", f"scene: {cloud.url('IMG.tif')}"))
    assert planned(run("run", recipe, "--dry-run")[1])["downsample"][0] == pytest.approx(0.024)
    recipe.write_text(text.replace("scene: scenes", f"scene: {cloud.url('none.tif')}"))
    code, _, err = run("run", recipe, "--dry-run")
    assert code == 1
    assert err.startswith(f"sartutorial: {cloud.url('none.tif')}: not a readable raster")


def test_a_run_makes_what_its_commands_would_and_goes_on_where_it_stopped(
    run, recipe, tmp_path, monkeypatch
):
    """Its paths are found without a change of the working folder, in a run and of one command."""
    monkeypatch.delattr("os.chdir")
    data = tmp_path / "data"
    code, out, err = run("run", recipe)
    assert code == 0, err
    assert re.findall(r"^\$ sartutorial (\w+)", out, re.M) == ["downsample", "label", "patches"]
    assert (data / "patches" / "patches.parquet").exists()
    times = {p: p.stat().st_mtime_ns for p in data.rglob("*.tif")}
    assert run("run", recipe)[0] == 0
    assert run("label", "--config", recipe)[:2] == (0, f"{data / 'labels' / 'IMG.tif'}\n")
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*.tif")} == times
    assert run("downsample", data / "scenes", "--out", tmp_path / "by-hand")[0] == 0
    by_hand = (tmp_path / "by-hand" / "IMG.tif").read_bytes()
    assert by_hand == (data / "half" / "IMG.tif").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tiles: tiles", "tiles: nowhere", "/data/nowhere: neither there nor made"),
        ("scene: scenes", "scene: scens", "/data/scens: neither there nor made"),
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
        more = [] if more and more[0][2:] in sections[name] else more
        _, bound, unused = cli.app.parse_args(given + more)
        known = bound.arguments | vars(bound.arguments.get("hardware", SimpleNamespace()))
        assert {option.replace("-", "_") for option in sections[name]} <= known.keys()
        assert not unused


def test_the_papers_recipe_holds_what_is_known():
    """Of /facts: the paper's and its code's settings, which the profile holds or the recipe says."""
    recipe = yaml.safe_load((CONFIGS / "paper-japan.yaml").read_text())
    assert recipe["downsample"]["factor"] == 2
    assert recipe["patches"]["size"] == 256
    assert (recipe["pretrain"]["epochs"], recipe["pretrain"]["batch"]) == (800, 2048)
    assert (recipe["finetune"]["epochs"], recipe["finetune"]["layer_decay"]) == (100, 0.8)
    assert {recipe[step]["profile"] for step in ("pretrain", "finetune")} == {"japan"}


# HR-LULC's ids in WorldCover's words, for a simulated tile of that.
WORDS = {1: 80, 2: 50, 3: 40, 4: 40, 5: 30, 6: 10, 7: 10, 8: 10, 9: 10, 10: 60, 11: 10, 12: 50}
SMALL = {  # of a recipe: a network and a run that a test can afford
    "patches": {"size": 64},
    "sample": {"points": 20_000, "block": 2, "buffer": 0},
    "pretrain": {"epochs": 1, "batch": 4, "devices": 1},
    "finetune": {"epochs": 1, "batch": 4, "devices": 1},
}


def small(name, tmp_path, **more):
    """A copy of one of our recipes with small sizes, and with its data elsewhere."""
    recipe = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for section, options in (*SMALL.items(), *more.items()):
        if section in recipe:
            given = recipe[section]
            given |= {k: v for k, v in options.items() if k in given or section not in SMALL}
    recipe["data"] = str(tmp_path)
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def ran_whole(run, recipe, at):
    """Plan and run a recipe; the sections that it ran, and its table and maps."""
    code, out, err = run("run", recipe, "--dry-run")
    assert code == 0, err
    planned = [line.split()[0] for line in out.splitlines()]
    code, out, err = run("run", recipe)
    assert code == 0, err
    assert re.findall(r"^\$ sartutorial (\S+)", out, re.M) == planned
    table, maps = json.loads((at / "test.json").read_text()), sorted((at / "maps").glob("*.tif"))
    assert 0 <= table["miou"] <= 1
    return planned, table, [st.read_classes(m) for m in maps]


@pytest.mark.slow
def test_the_open_recipe_goes_from_the_cloud_to_table_and_map(run, world, cloud, tmp_path):  # noqa: F811
    """Simulated tiles in the forms of the 25 m mosaic and WorldCover, behind a local server."""
    (scene,) = (world / "half").glob("*.tif")
    dn, land = (rasterio.open(world / of / scene.name).read(1) for of in ("half", "labels"))
    tiles, half = [], dn.shape[1] // 2
    place = dict(crs="EPSG:4326", transform=Affine(1 / 4500, 0, 135, 0, -1 / 4500, 35))
    for i, name in enumerate(("N35E135_20_sl_HH_F02DAR.tif", "N35E136_20_sl_HH_F02DAR.tif")):
        moved = place | {"transform": place["transform"] * Affine.translation(i * half, 0)}
        part = np.maximum(dn[:, i * half : (i + 1) * half], 2)
        part[:5] = 1
        write(cloud.folder / name, part, nodata=1, **moved)
        mask = np.full_like(part, 255, np.uint8)
        mask[:7] = 0
        write(cloud.folder / name.replace("_sl_HH_", "_mask_"), mask, nodata=None, **moved)
        tiles.append(cloud.url(name))
    ids = np.vectorize(WORDS.get)(land, 0).astype(np.uint8)
    write(cloud.folder / "WorldCover.tif", ids, **place)
    given = dict(downsample={"scene": tiles}, label={"tiles": cloud.url("WorldCover.tif")})
    recipe = small("open-palsar2", tmp_path, **given)
    recipe.write_text(recipe.read_text().replace("landcover", cloud.url("WorldCover.tif")))
    planned, table, maps = ran_whole(run, recipe, tmp_path)
    assert planned == [n for n in cli.COMMANDS if n in yaml.safe_load(recipe.read_text())]
    assert [m.legend.name for m in maps] == ["worldcover"] * 2
    for m in maps:
        assert (m.ids[:7] == 0).all()
        assert (m.ids[7:] > 0).all()
    assert set(table["classes"]) <= {c.name for c in lulc.WORLDCOVER.classes}


def test_the_papers_recipe_goes_from_scenes_to_table_and_map(run, world, tmp_path, monkeypatch):
    """On a simulated scene, with a tiny network for the paper's."""
    monkeypatch.setitem(profiles.PROFILES, "japan", TINY)
    (tmp_path / "scenes").symlink_to(world / "scenes")
    (tmp_path / "hrlulc").symlink_to(world / "lulc")
    _, table, (one,) = ran_whole(run, small("paper-japan", tmp_path), tmp_path)
    assert len(table["classes"]) == 9
    with rasterio.open(tmp_path / "half" / next((world / "scenes").iterdir()).name) as half:
        assert ((one.ids > 0) == (half.read(1) > 0)).all()


def test_a_recipe_needs_no_network_of_the_papers_size_to_be_checked(run, world, tmp_path):
    (tmp_path / "scenes").symlink_to(world / "scenes")
    (tmp_path / "hrlulc").symlink_to(world / "lulc")
    recipe = tmp_path / "r.yaml"
    text = (CONFIGS / "paper-japan.yaml").read_text()
    recipe.write_text(text.replace("data: data/japan", f"data: {tmp_path}"))
    before = contents(tmp_path)
    code, out, err = run("run", recipe, "--dry-run")
    assert (code, len(out.splitlines()), contents(tmp_path)) == (0, 8, before), err
