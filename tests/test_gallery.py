"""The recipes of book/gallery.md run from top to bottom, in a folder with a scene and its land cover."""

import ast
import re
from pathlib import Path

import matplotlib.pyplot as plt
import rasterio

import sartutorial as st
from sartutorial import profiles

PAGE = (Path(__file__).parents[1] / "book" / "gallery.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^## (.+?)$.*?^```\{code-block\} python\n(.*?)^```", PAGE, re.M | re.S)


def test_ten_recipes_of_about_ten_lines():
    assert len(RECIPES) == len(re.findall("^## ", PAGE, re.M)) == 10
    for name, code in RECIPES:
        lines = [t for t in code.splitlines() if t.strip() and not t.startswith(("import", "from"))]
        assert len(lines) <= 11, name
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
    space = {}
    try:
        for name, code in RECIPES:
            exec(compile(code, name, "exec"), space)
    finally:
        plt.close("all")
    said = capsys.readouterr().out
    assert "mean of power" in said
    assert "majority" in said
    assert space["encoder"].config.image_size == 64
    assert len(space["maps"]) == 4
    assert Path("map.confidence.tif").exists()
    assert space["sample"].sum() > 0
