"""The recipes of book/gallery run from top to bottom, in a folder with a scene and its land cover."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import rasterio

import sartutorial as st
from sartutorial import profiles

HERE = Path(__file__).parent
PAGES = sorted((HERE.parent / "book" / "gallery").glob("*.md"))
CODE = re.compile(r"^```\{code-block\} python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPES = [(page.stem, CODE.search(page.read_text("utf-8"))[1]) for page in PAGES]


@pytest.fixture
def kitchen(world, tmp_path, monkeypatch):
    """What the recipes find in the working folder: a scene under a name of the reader's own, and tiles."""
    monkeypatch.chdir(tmp_path)
    (scene,) = (world / "scenes").glob("*.tif")
    (tmp_path / "lulc").symlink_to(world / "lulc")
    with rasterio.open(scene) as source:
        pixels, form = source.read(), source.profile
    with rasterio.open("scene.tif", "w", **form) as target:
        target.write(pixels)
        target.update_tags(QUANTITY="sigma0", SIMULATED="yes")
    return tmp_path


def test_ten_recipes_of_about_ten_lines():
    assert len(RECIPES) == 10
    for name, code in RECIPES:
        lines = [t for t in code.splitlines() if t.strip() and not t.startswith(("import", "from"))]
        assert len(lines) <= 12, name
        used = {n.attr for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute)
                and isinstance(n.value, ast.Name) and n.value.id == "st"}  # fmt: skip
        assert used <= set(st.__all__), name


@pytest.mark.usefixtures("kitchen")
def test_the_recipes_run_one_after_the_other(tiny, monkeypatch, capsys):
    monkeypatch.setitem(profiles.PROFILES, "laptop", tiny)
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


FROM_WHEEL = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import matplotlib
import sartutorial
from conftest import TINY
from sartutorial import profiles

matplotlib.use("agg")
profiles.PROFILES["laptop"] = TINY
for name, code in json.loads(sys.argv[3]):
    exec(compile(code, name, "exec"), {})
print(sartutorial.__file__)
"""


@pytest.mark.slow
def test_the_recipes_run_from_an_installed_wheel(wheel, kitchen):
    words = [sys.executable, "-I", "-c", FROM_WHEEL, wheel, HERE, json.dumps(RECIPES)]
    done = subprocess.run(words, cwd=kitchen, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, place = done.stdout.splitlines()
    assert Path(place).is_relative_to(wheel)
    assert any("mean of power" in line for line in said)
    assert (kitchen / "map.confidence.tif").exists()
