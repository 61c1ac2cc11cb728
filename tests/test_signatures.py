"""What a user of the field would try without reading a source: it works, or one line says what to do."""

import doctest
import inspect
import pydoc
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.shutil
from conftest import land_array, scene_array, write
from rasterio.vrt import WarpedVRT

import sartutorial as st

FUNCTIONS = [n for n in st.__all__ if inspect.isfunction(getattr(st, n)) or n == "Hardware"]


def words(name):
    """The parameters of a public function that take one of some words."""
    thing = getattr(st, name)
    function = thing.__init__ if is_dataclass(thing) else thing
    notes = {k: v for k, v in function.__annotations__.items() if k != "return"}
    home = {"pd": pd} | vars(import_module(thing.__module__))  # which some import where needed
    for parameter, hint in get_type_hints(SimpleNamespace(__annotations__=notes), home).items():
        kinds = [k for k in (hint, *get_args(hint)) if get_origin(k) is Literal]
        if kinds and parameter != "quantity":  # that of a scene is read with it
            yield name, parameter, get_args(kinds[0])


@pytest.mark.parametrize(
    ("name", "parameter", "known"), [w for name in FUNCTIONS for w in words(name)]
)
def test_a_word_that_is_none_is_refused_before_anything_is_done(name, parameter, known, tmp_path):
    function = getattr(st, name)
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.name != parameter
    ]
    given = dict.fromkeys(needed, tmp_path / "none") | {parameter: known[0].upper()}
    if name in ("block_mean", "category_weights"):
        given[needed[0]] = np.ones(4, int)
    with pytest.raises(st.InputError, match=f"{parameter} .*must be one of {known[0]}"):
        function(**given)
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Two scenes, a tile of land cover, and their labels."""
    at, rng = tmp_path_factory.mktemp("names"), np.random.default_rng(0)
    for i in (1, 2):
        write(at / f"IMG{i}.tif", scene_array(rng, 128, 128), QUANTITY="sigma0")
    write(at / "land" / "tile.tif", land_array(rng, 128, 128))
    return at


def test_products_of_one_step_are_what_the_next_takes(here, tmp_path):
    scenes = [here / "IMG1.tif", here / "IMG2.tif"]
    halves = st.downsample(scenes, tmp_path / "half")
    labels = st.label(halves, here / "land", tmp_path / "labels")
    st.cut(halves, labels, tmp_path / "patches", size=32, max_void=1)
    index = st.read_index(tmp_path / "patches")
    assert set(index["scene"]) == {"IMG1", "IMG2"}
    assert len(st.Store(tmp_path / "patches")) == len(index)
    with pytest.raises(st.InputError, match=r"IMG2.tif: no label raster for .*IMG2.tif"):
        st.cut(halves, [labels[0], here / "land" / "tile.tif"], tmp_path / "other", size=32)


def test_one_path_stands_where_several_may(here, tmp_path):
    assert st.map_scenes(Path, here / "IMG1.tif", name="x") == [here / "IMG1.tif"]
    assert [p.name for p in st.map_scenes(Path, str(here), name="x")][:2] == [
        "IMG1.tif",
        "IMG2.tif",
    ]
    with st.made(tmp_path / "out", here / "IMG1.tif", {}) as partial:
        partial.write_text("made")
    assert st.up_to_date(tmp_path / "out", here / "IMG1.tif", {})
    assert not st.up_to_date(tmp_path / "out", str(here / "IMG2.tif"), {})
    with pytest.raises(st.InputError, match=r"nothere.tif: no such file"):
        st.up_to_date(tmp_path / "out", "nothere.tif", {})


def test_pictures_are_drawn_of_files_too(here):
    scene, tile = here / "IMG1.tif", here / "land" / "tile.tif"
    assert st.show_backscatter(scene).get_array().shape == (128, 128)
    assert st.show_classes(tile).get_array().shape == (128, 128, 4)
    own = st.legend("hr-lulc").to_dict()
    for one in own["classes"]:
        one["rgb"] = [1, 2, 3]
    drawn = st.show_classes(tile, legend=type(st.HR_LULC).from_dict(own)).get_array()
    assert {*map(tuple, drawn[..., :3].reshape(-1, 3).tolist())} <= {(1, 2, 3), (0, 0, 0)}
    assert "IMG1" in st.web_map(scene).get_root().render()
    assert "tile" in st.web_map([scene, tile]).get_root().render()
    with pytest.raises(st.InputError, match=r"nothere.tif: no such raster"):
        st.web_map({"a": "nothere.tif"})


@pytest.mark.parametrize(
    ("call", "said"),
    {
        "st.read_db(scene, max_size=0)": "max_size must be at least 1",
        "st.read_db(scene, window=(0, 0, 9))": r"\(row, column, height, width\)",
        "st.downsample(scene, 'o', factor=2.5)": "factor 2.5: must be a whole number",
        "st.block_mean(np.ones((4, 4)))": "DN must be uint16 amplitude, got float64",
        "st.category_weights(np.ones((2, 256), int))": r"sum\(axis=0\)",
        "st.run('nothere.yaml')": "nothere.yaml: no such recipe",
        "st.load_model(here)": r"model.safetensors: no such file",
        "st.baselines(here, 'o', which='majority')": "run 'sartutorial patches' first",
    }.items(),
)
def test_a_slip_is_one_line(here, call, said):
    with pytest.raises(st.InputError, match=said):
        eval(call, {"st": st, "np": np, "here": here, "scene": here / "IMG1.tif"})


def test_a_legend_is_found_however_it_is_written():
    assert st.legend("HR-LULC") is st.HR_LULC
    assert st.legend("WorldCover") is st.WORLDCOVER


def test_help_of_a_public_name_is_short_and_its_own():
    for name in FUNCTIONS:
        assert len(str(inspect.signature(getattr(st, name)))) < 1000, name
    assert "img_size" not in pydoc.plain(pydoc.render_doc(st.Encoder)).partition("Methods")[0]


MODULES = sorted(Path(st.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    "path", [p for p in MODULES if ">>> " in p.read_text()], ids=lambda p: p.stem
)
def test_examples_in_docstrings_are_true(path):
    name = ".".join(path.relative_to(Path(st.__file__).parents[1]).with_suffix("").parts)
    failed, tried = doctest.testmod(import_module(name))
    assert tried and not failed


MOSAIC = "N53E005_21_{}_F02DAR.tif"


def test_a_mask_that_comes_or_changes_makes_labels_anew(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / MOSAIC.format("sl_HH"), scene_array(rng, 64, 64))
    tile = write(tmp_path / "land.tif", land_array(rng, 64, 64) * 0 + 1)
    mask = tmp_path / MOSAIC.format("mask")

    def labelled():
        with rasterio.open(st.label(scene, tile, tmp_path / "labels")) as file:
            return (file.read(1) > 0).sum()

    before = labelled()
    for rows in (32, 16):
        ground = np.full((64, 64), 255, np.uint8)
        ground[:rows] = 0
        write(mask, ground, nodata=None)
        assert labelled() < before * (1 - rows / 64) + 64
    mask.unlink()
    assert labelled() == before


def test_the_source_of_a_warped_vrt_is_its_input_and_no_scene_beside_it(tmp_path):
    rng, source = np.random.default_rng(0), tmp_path / "in" / "IMG.tif"
    write(source, scene_array(rng, 64, 64), QUANTITY="sigma0")
    vrt = tmp_path / "warped.vrt"
    with rasterio.open(source) as file, WarpedVRT(file, crs="EPSG:4326") as warped:
        rasterio.shutil.copy(warped, vrt, driver="VRT")
    first = st.downsample(vrt, tmp_path / "o.tif", quantity="sigma0").read_bytes()
    write(source, scene_array(rng, 64, 64), QUANTITY="sigma0")
    assert st.downsample(vrt, tmp_path / "o.tif", quantity="sigma0").read_bytes() != first
    with pytest.raises(st.InputError, match="the one shows the other"):
        st.find_scenes([vrt, source])
