"""Sliding windows, maps that open elsewhere, and web maps."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import GRID, scene_array, write
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from sartutorial import InputError, checkpoints, datasets, inference, lulc, maps, rasters
from sartutorial.encoders import Encoder, config_of
from sartutorial.segmentation import Segmenter

NORM = datasets.Normalization(-10.0, 5.0)


class Threshold(torch.nn.Module):
    """Stands in for a model: water below the mean, forest above; knows no surroundings."""

    class encoder:
        class config:
            image_size = 32

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


@pytest.fixture
def model(tmp_path, tiny):
    """An untrained model on disk."""
    torch.manual_seed(0)
    config = config_of(tiny, 64, "simmim")
    file = tmp_path / "model.safetensors"
    description = {
        "encoder": config._asdict(), "width": 16, "normalization": NORM._asdict(),
        "spacing": 5.0, "quantity": "sigma0", "training": {"seed": 0},
    }  # fmt: skip
    checkpoints.save(Segmenter(Encoder(config), 16), file, description)
    return file


def test_a_map_is_a_cloud_optimized_geotiff_with_colours(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 700, 600, hole=0.05)
    scene = write(tmp_path / "IMG.tif", dn, SIMULATED="yes")
    (out,) = inference.predict([scene], model, tmp_path / "maps" / "map.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.colorinterp == (ColorInterp.palette,)
        assert {k: v for k, v in found.colormap(1).items() if 1 <= k <= 9} == {
            i + 1: (*rgb, 255) for i, rgb in enumerate(lulc.RGB)
        }
        assert rasters.grid_of(found) == rasters.grid_of(sar)
        assert found.nodata == 0
        assert found.tags()["SIMULATED"] == "yes"
        assert np.array_equal(found.read(1) == 0, dn == 0)
        assert found.read(1).max() <= 9
    assert [p.name for p in (tmp_path / "maps").iterdir()] == ["map.tif"]  # nothing left over
    before = out.stat().st_mtime_ns
    assert inference.predict([scene], model, out)[0].stat().st_mtime_ns == before


def test_a_map_that_fails_says_why_and_leaves_nothing(tmp_path, model):
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 70, 70))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        inference.predict([scene], model, tmp_path / "file" / "map.tif")


def test_several_scenes_give_a_folder(tmp_path, model):
    rng = np.random.default_rng(0)
    scenes = [write(tmp_path / f"{n}.tif", scene_array(rng, 70, 70)) for n in "ab"]
    written = inference.predict(scenes, model, tmp_path / "maps")
    assert [p.name for p in written] == ["a.tif", "b.tif"]


def test_a_scene_of_another_spacing_or_unit_is_refused(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 70, 70)
    fine = write(tmp_path / "fine.tif", dn, transform=GRID * Affine.scale(0.5))
    with pytest.raises(InputError, match="downsample --factor 2"):
        inference.predict([fine], model, tmp_path / "map.tif")
    for scale, words in ((0.485, "downsample --factor 2"), (0.55, "resolution")):  # 3 and 10 % off
        near = write(tmp_path / "near.tif", dn, transform=GRID * Affine.scale(scale))
        with pytest.raises(InputError, match=words):
            inference.predict([near], model, tmp_path / "map.tif")
    coarse = write(tmp_path / "coarse.tif", dn, transform=GRID * Affine.scale(1.06))
    with pytest.raises(InputError, match="resolution"):
        inference.predict([coarse], model, tmp_path / "map.tif")
    near = write(tmp_path / "near.tif", dn, transform=GRID * Affine.scale(1.04))
    assert inference.predict([near], model, tmp_path / "near-map.tif")[0].exists()
    gamma = write(tmp_path / "gamma.tif", dn, QUANTITY="gamma0")
    with pytest.raises(InputError, match="gamma0"):
        inference.predict([gamma], model, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


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


def test_a_quicklook_is_calibrated_as_the_scene_says(tmp_path):
    dn = np.full((40, 40), 1000, np.uint16)
    one = write(tmp_path / "a.tif", dn)  # -23 dB
    other = write(tmp_path / "b.tif", dn, CALIBRATION_DB="-73")
    grey = [maps.quicklook(path)[0][15, 15, 0] / 255 for path in (one, other)]
    assert np.diff(grey) == pytest.approx(10 / np.ptp(maps.DB_RANGE), abs=1 / 255)


def test_a_web_map_holds_its_layers(world):
    scene = next((world / "half").iterdir())
    html = (
        maps.web_map({"radar": scene, "labels": world / "labels" / scene.name}).get_root().render()
    )
    assert html.count("L.imageOverlay(") == 2
    assert '"radar"' in html
    assert "openstreetmap" not in html.lower()
    picture, (west, south, east, north) = maps.quicklook(scene, side=100)
    assert max(picture.shape[:2]) == 100
    assert picture.dtype == np.uint8
    assert west < 137 < east
    assert south < 33 < north


def test_slider_shows_the_middle_or_the_frame_asked_for():
    pytest.importorskip("IPython", reason="IPython comes with the book, not with the package")

    def frames():
        return [(f"frame {i}", plt.figure(figsize=(0.1, 0.1 * (i + 1)))) for i in range(4)]

    for start, shown in ((None, 2), (-1, 3), (0, 0)):
        page = maps.slider(frames(), "k", "what it shows", start=start).data
        assert f"<output>frame {shown}</output>" in page
        assert f'max="3" value="{shown}"' in page
        assert 'alt="what it shows"' in page
        (first,) = re.findall(r'<img src="([^"]+)"', page)
        known = json.loads(re.search(r"frames = (\[.*\]);", page)[1])
        assert [label for label, _ in known] == [f"frame {i}" for i in range(4)]
        assert first == known[shown][1]
    assert not plt.get_fignums()
