"""Three notebooks of ten lines, as a reader would write them: public names, his own paths."""

import ast
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
import rasterio
from conftest import write
from nbclient import NotebookClient
from rasterio.vrt import WarpedVRT

import sartutorial as st

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.py"))
WORLDCOVER = np.uint8([10, 30, 40, 50, 80])


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """What the three begin with: a scene, labels, another land cover, patches, an encoder."""
    at = tmp_path_factory.mktemp("reader")
    (half,) = (world / "half").glob("*.tif")
    (at / "scene.tif").symlink_to(half)
    (at / "labels.tif").symlink_to(world / "labels" / half.name)
    with (
        rasterio.open(world / "labels" / half.name) as labels,
        WarpedVRT(labels, crs="EPSG:4326") as other,  # as ESA's, in degrees
    ):
        land = WORLDCOVER[other.read(1) % 5]
        write(at / "worldcover.tif", land, crs=other.crs, transform=other.transform)
    (at / "patches").symlink_to(world / "patches")
    encoder = st.pretrain(world / "patches", at / "encoder", epochs=1, profile="tiny")
    for path in (encoder, encoder.with_suffix(".json")):
        path.rename(at / path.name)
    return at


def code_of(notebook):
    return [c.source for c in notebook.cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_ten_lines_of_public_names_do_it(folder, path):
    notebook = jupytext.read(path, fmt="py:percent")
    lines = [t for source in code_of(notebook) for t in source.splitlines() if t.strip()]
    assert len([t for t in lines if not t.startswith("import ")]) <= 10
    used = {
        node.attr
        for source in code_of(notebook)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "st"
    }
    assert used <= set(st.__all__)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert [o for o in outputs if "image/png" in o.get("data", {})]  # each shows what it made
    assert not [o for o in outputs if o.get("name") == "stderr"], outputs
    nbformat.validate(notebook)
