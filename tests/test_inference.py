"""Sliding windows over any scene, and maps that open elsewhere, in the colours of their legend."""

import json
import os
import shutil

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import GRID, scene_array, write
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

import sartutorial
from sartutorial import InputError, lulc, rasters
from sartutorial.learn import checkpoints, inference
from sartutorial.learn.datasets import Normalization
from sartutorial.learn.encoders import Encoder, EncoderConfig
from sartutorial.learn.segmentation import Decoder, Segmenter

NORM = Normalization(-10.0, 5.0)


class Threshold(torch.nn.Module):
    """Stands in for a model: water below the mean, forest above; knows no surroundings."""

    class encoder:
        class config:
            image_size = 32

    class config:
        classes = 9

    def __init__(self):
        super().__init__()
        self.any = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        logits = torch.zeros(len(image), 9, *image.shape[2:])
        logits[:, 0], logits[:, 4] = -image[:, 0], image[:, 0]
        return logits


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_windows_cover_everything(length, size, step):
    starts = inference.offsets(length, size, min(step, size))
    covered = np.zeros(max(length, size), bool)
    for start in starts:
        covered[start : start + size] = True
    assert covered.all()
    assert starts == sorted(set(starts))
    assert starts[-1] + size == len(covered)


@pytest.mark.parametrize("shape", [(32, 32), (100, 77), (20, 90), (129, 31), (64, 64)])
@pytest.mark.parametrize("step", [None, 32, 7])
def test_a_model_without_context_maps_a_scene_pixel_by_pixel(tmp_path, shape, step):
    dn = scene_array(np.random.default_rng(0), *shape, hole=0.1)
    path = write(tmp_path / "IMG.tif", dn)
    with rasters.opened(path) as scene:
        bands = list(inference.classify(scene, Threshold(), NORM, step=step))
    found = np.concatenate([band for _, band in bands])
    assert [top for top, _ in bands] == np.cumsum([0, *(len(b) for _, b in bands[:-1])]).tolist()
    db = 20 * np.log10(np.maximum(dn, 1)) - 83
    truth = np.where(dn == 0, 0, np.where(db > -10, 5, 1))
    np.testing.assert_array_equal(found, truth)


def save(file, legend=lulc.HR_LULC, **known):
    """An untrained model on disk."""
    torch.manual_seed(0)
    config = EncoderConfig(64, 16, (1, 1, 1, 1), (1, 2, 2, 4), 8)
    decoder = Decoder(32, len(legend.names))
    description = {
        "encoder": config._asdict(), "decoder": decoder._asdict(), "legend": legend.to_dict(),
        "normalization": NORM._asdict(), "spacing": 5.0, "quantity": "sigma0", "polarisation": "HH",
    }  # fmt: skip
    checkpoints.save(Segmenter(Encoder(config), decoder), file, description | known)
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model of the nine classes."""
    torch.set_num_threads(1)
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


def mapped(scene, model, out):
    with rasterio.open(sartutorial.predict(scene, model, out)) as found:
        return found.read(1)


def test_a_map_is_a_cloud_optimized_geotiff_with_colours(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 700, 300, hole=0.05)
    scene = write(tmp_path / "IMG.tif", dn, SIMULATED="yes")
    out = sartutorial.predict(scene, model, tmp_path / "maps" / "map.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.colorinterp == (ColorInterp.palette,)
        assert {k: v for k, v in found.colormap(1).items() if 1 <= k <= 9} == {
            i + 1: (*rgb, 255) for i, rgb in enumerate(lulc.HR_LULC.colours)
        }
        assert rasters.grid_of(found) == rasters.grid_of(sar)
        assert found.nodata == 0
        assert found.tags()["SIMULATED"] == "yes"
        assert np.array_equal(found.read(1) == 0, dn == 0)
        assert found.read(1).max() <= 9
    # Nothing is left over but the note of what it was made from.
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {"map.tif", ".made"}
    assert not [p for p in (tmp_path / "maps" / ".made").iterdir() if p.suffix == ".tif"]


def test_a_map_is_made_anew_when_its_scene_or_model_is_another(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 70, 70)
    scene, mine = write(tmp_path / "IMG.tif", dn), tmp_path / "model.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(model.with_suffix(suffix), mine.with_suffix(suffix))
    out = tmp_path / "map.tif"

    def made():
        sartutorial.predict(scene, mine, out)
        return out.stat().st_ino

    first = made()
    os.utime(scene)  # the same pixels
    assert made() == first
    write(scene, dn[::-1])
    os.utime(scene, (0, 0))  # other pixels, whatever their date
    second = made()
    assert second != first
    save(mine, normalization={"mean": -20.0, "std": 5.0})
    assert made() != second


def test_a_map_that_fails_says_why_and_leaves_nothing(tmp_path, model):
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 70, 70))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/map\.tif: could not be written"):
        sartutorial.predict(scene, model, tmp_path / "file" / "map.tif")


def test_one_scene_gives_a_map_and_several_a_folder(tmp_path, model):
    rng = np.random.default_rng(0)
    scenes = [write(tmp_path / "s" / f"{n}.tif", scene_array(rng, 70, 70)) for n in "ab"]
    out = tmp_path / "maps"
    assert sartutorial.predict(scenes, model, out) == [out / "a.tif", out / "b.tif"]
    assert sartutorial.predict(tmp_path / "s", model, out) == [out / "a.tif", out / "b.tif"]
    assert sartutorial.predict(str(scenes[0]), model, tmp_path / "one") == tmp_path / "one/a.tif"
    assert sartutorial.predict(scenes[:1], model, out) == [out / "a.tif"]
    with pytest.raises(InputError, match="name a folder"):
        sartutorial.predict(scenes, model, tmp_path / "map.tif")


def test_a_scene_of_another_kind_is_refused(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 70, 70)
    for scale, words in (
        (0.5, "run 'sartutorial downsample --factor 2' on it first"),
        (0.25, "run 'sartutorial downsample --factor 4' on it first"),
        (0.485, "--factor 2"),  # 3 % off
        (0.55, "resolution"),  # 10 % off
        (1.06, "resolution"),
    ):
        scene = write(tmp_path / "s.tif", dn, transform=GRID * Affine.scale(scale))
        with pytest.raises(InputError, match=rf"s\.tif: pixels of .* {words}"):
            sartutorial.predict(scene, model, tmp_path / "map.tif")
    for tag in ({"QUANTITY": "gamma0"}, {"POLARISATION": "HV"}):
        (held,) = tag.values()
        scene = write(tmp_path / "s.tif", dn, **tag)
        with pytest.raises(InputError, match=rf"s\.tif: holds {held}, the model was trained on"):
            sartutorial.predict(scene, model, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()
    near = write(tmp_path / "s.tif", dn, transform=GRID * Affine.scale(1.04))
    assert sartutorial.predict(near, model, tmp_path / "map.tif").exists()


def test_spacing_is_that_on_the_ground(tmp_path, model):
    """Web Mercator's metres are a sixth too long at 33 degrees north."""
    dn = scene_array(np.random.default_rng(0), 70, 70)
    at = Affine(5, 0, 15_028_000, 0, -5, 3_895_000)  # 33 N 135 E
    scene = write(tmp_path / "s.tif", dn, transform=at, crs="EPSG:3857")
    with pytest.raises(InputError, match=r"pixels of 4\.19 m"):
        sartutorial.predict(scene, model, tmp_path / "map.tif")
    stretch = 1 / np.cos(np.radians(33))
    scene = write(tmp_path / "s.tif", dn, transform=at * Affine.scale(stretch), crs="EPSG:3857")
    assert sartutorial.predict(scene, model, tmp_path / "map.tif").exists()


def test_a_scene_stored_from_south_to_north_has_the_same_map(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 150, 90, hole=0.05)
    upright = mapped(write(tmp_path / "a.tif", dn), model, tmp_path / "a-map.tif")
    assert len(np.unique(upright)) > 2
    for flip, at in (
        (np.s_[::-1, :], GRID * Affine.translation(0, 150) * Affine.scale(1, -1)),
        (np.s_[:, ::-1], GRID * Affine.translation(90, 0) * Affine.scale(-1, 1)),
    ):
        scene = write(tmp_path / "b.tif", dn[flip], transform=at)
        found = mapped(scene, model, tmp_path / "b-map.tif")
        np.testing.assert_array_equal(found[flip], upright)
        with rasterio.open(tmp_path / "b-map.tif") as result:
            assert rasters.same_grid(
                rasters.grid_of(result), rasters.Grid("EPSG:32653", at, 90, 150)
            )


@pytest.mark.parametrize("declares", ["nodata", "mask"])
def test_what_a_scene_declares_invalid_is_not_mapped(tmp_path, model, declares):
    dn = scene_array(np.random.default_rng(0), 70, 90)
    dn[:, :9] = 777
    scene = write(tmp_path / "s.tif", dn, nodata=777 if declares == "nodata" else None)
    if declares == "mask":
        with rasterio.open(scene, "r+") as raw:
            raw.write_mask(dn != 777)
    found = mapped(scene, model, tmp_path / "map.tif")
    np.testing.assert_array_equal(found == 0, dn == 777)


def test_a_model_maps_in_its_own_legend(tmp_path):
    model = save(tmp_path / "model.safetensors", lulc.WORLDCOVER)
    scene = write(tmp_path / "s.tif", scene_array(np.random.default_rng(0), 70, 90, hole=0.1))
    out = sartutorial.predict(scene, model, tmp_path / "map.tif")
    with rasterio.open(out) as found:
        assert found.colormap(1)[2] == (255, 187, 34, 255)  # ESA's shrubland
    shown = sartutorial.read_classes(out)
    assert shown.legend.names == lulc.WORLDCOVER.names
    assert shown.ids.max() <= 11
    # The labels of that scene, as a map's own classes: every pixel agrees.
    ids = np.array([0, *lulc.WORLDCOVER.ids], np.uint8)[shown.ids]
    legend = json.dumps(lulc.WORLDCOVER.to_dict())
    labels = write(tmp_path / "l.tif", ids, LEGEND=legend)
    confusion = inference.agreement(out, labels)
    assert np.trace(confusion) == confusion.sum() == (shown.ids > 0).sum()
    japan = write(tmp_path / "j.tif", np.ones_like(ids))
    with pytest.raises(
        InputError, match=r"map\.tif: its classes are tree cover, .* water, built-up"
    ):
        inference.agreement(out, japan)


def test_agreement_is_a_confusion_matrix(tmp_path):
    ids = np.array([[1, 3, 4, 0], [6, 9, 10, 15]], np.uint8)
    shown = np.array([[1, 3, 1, 1], [5, 5, 0, 6]], np.uint8)
    labels, found = write(tmp_path / "l.tif", ids), write(tmp_path / "m.tif", shown)
    confusion = inference.agreement(found, labels)
    assert confusion[0, 0] == 1
    assert confusion[2, 2] == 1
    assert confusion[2, 0] == 1
    assert confusion[4, 4] == 2
    assert confusion.sum() == 5
    # The same grid, to a billionth of a pixel and by another name of its CRS.
    nearly = write(tmp_path / "m.tif", shown, transform=GRID * Affine.translation(1e-9, 0))
    np.testing.assert_array_equal(inference.agreement(nearly, labels), confusion)
    moved = write(tmp_path / "m.tif", shown, transform=GRID * Affine.translation(1, 0))
    with pytest.raises(InputError, match=r"m\.tif: not on the grid of .*l\.tif"):
        inference.agreement(moved, labels)
