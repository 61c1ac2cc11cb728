"""The recipes of book/gallery run from top to bottom, in a folder with a scene and its land cover."""

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import rasterio

import sartutorial as st
from book import appendices
from sartutorial import profiles

RECIPES = [(page.stem, appendices.recipe(page)) for page in appendices.RECIPES]


def test_ten_recipes_of_about_ten_lines():
    assert len(RECIPES) == 10
    for name, code in RECIPES:
        lines = [t for t in code.splitlines() if t.strip() and not t.startswith(("import", "from"))]
        assert len(lines) <= 12, name
        used = {n.attr for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute)
                and isinstance(n.value, ast.Name) and n.value.id == "st"}  # fmt: skip
        assert used <= set(st.__all__), name


def test_the_recipes_run_one_after_the_other(world, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(profiles.PROFILES, "laptop", tiny)
    (scene,) = (world / "scenes").glob("*.tif")
    (tmp_path / "lulc").symlink_to(world / "lulc")
    with rasterio.open(scene) as source:  # under a name of the reader's own
        pixels, form = source.read(), source.profile
    with rasterio.open("scene.tif", "w", **form) as target:
        target.write(pixels)
        target.update_tags(QUANTITY="sigma0", SIMULATED="yes")
    space = {}  # of a recipe what the last one that has this name gave; each runs on its own
    try:
        for name, code in RECIPES:
            exec(compile(code, name, "exec"), own := {})
            space |= own
    finally:
        plt.close("all")
    said = capsys.readouterr().out
    assert "mean of power" in said
    assert "majority" in said
    assert space["encoder"].config.image_size == 64
    assert len(space["maps"]) == 4
    assert Path("map.confidence.tif").exists()
    assert space["sample"].sum() > 0
