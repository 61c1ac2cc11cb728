"""Figures and web maps: any scene, any legend, whatever is invalid left out."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, land_array, scene_array, write

import sartutorial as st
from sartutorial import lulc, maps, rasters


@pytest.fixture(autouse=True)
def closed():
    """No test leaves a figure."""
    yield
    plt.close("all")


def drawn(image):
    """The colours of a picture as matplotlib draws them: (H, W, 4), 0 to 255."""
    return np.asarray(image.to_rgba(image.get_array(), bytes=True))


def test_two_lines_show_a_scene(tmp_path):
    dn = scene_array(np.random.default_rng(0), 60, 40)
    dn[:3] = 0
    scene = write(tmp_path / "IMG.tif", dn)
    image = st.show_backscatter(st.read_db(scene))
    assert image.get_clim() == maps.DB_RANGE
    assert image.get_array().shape == (60, 40)
    assert image.get_array().mask[:3].all()
    assert not image.get_array().mask[3:].any()
    _, ax = plt.subplots()
    assert st.show_backscatter(st.read_db(scene).db, ax, "σ⁰").axes is ax
    assert ax.get_title() == "σ⁰"


def test_classes_are_drawn_in_the_colours_of_their_legend(tmp_path):
    ids = np.array([[0, 10, 50]], np.uint8)
    tag = json.dumps(lulc.WORLDCOVER.to_dict())
    labels = write(tmp_path / "l.tif", ids, LEGEND=tag)
    expected = [[0, 0, 0, 0], [0, 100, 0, 255], [250, 0, 0, 255]]
    assert drawn(st.show_classes(st.read_classes(labels)))[0].tolist() == expected
    assert drawn(st.show_classes(ids, legend="worldcover"))[0].tolist() == expected
    indices = np.array([[0, 1, 5]], np.uint8)  # as in a map: index + 1
    found = drawn(st.show_classes(indices, legend="worldcover", training=True))
    assert found[0].tolist() == expected
    japan = drawn(st.show_classes(np.array([[8, 5]], np.uint8)))
    assert japan[0].tolist() == [[86, 172, 0, 255], [255, 255, 0, 255]]
    nine = drawn(st.show_classes(np.array([[5, 4]], np.uint8), training=True))
    assert nine.tolist() == japan.tolist()


def test_a_legend_names_its_classes():
    for legend, training in (("hr-lulc", False), ("hr-lulc", True), ("worldcover", False)):
        _, ax = plt.subplots()
        st.show_legend(legend, ax, training=training)
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        of = lulc.legend(legend)
        assert names == (list(of.names) if training else [c.name for c in of.classes])


def test_a_quicklook_is_calibrated_as_the_scene_says(tmp_path):
    dn = np.full((40, 40), 1000, np.uint16)
    one = write(tmp_path / "a.tif", dn)  # -23 dB
    other = write(tmp_path / "b.tif", dn, CALIBRATION_DB="-73")
    grey = [maps.quicklook(path)[0][15, 15, 0] / 255 for path in (one, other)]
    assert np.diff(grey) == pytest.approx(10 / np.ptp(maps.DB_RANGE), abs=1 / 255)


@pytest.mark.parametrize("declares", ["nodata", "mask"])
def test_a_quicklook_is_transparent_where_a_raster_is_invalid(tmp_path, declares):
    """A fifth of the columns, on the left, in a scene and in land cover."""
    for name, value, array in (
        ("s.tif", 777, np.full((100, 100), 3000, np.uint16)),
        ("l.tif", 13, np.full((100, 100), 4, np.uint8)),
    ):
        array[:, :20] = value
        path = write(tmp_path / name, array, nodata=value if declares == "nodata" else None)
        if declares == "mask":
            with rasterio.open(path, "r+") as raw:
                raw.write_mask(array != value)
        alpha = maps.quicklook(path)[0][50, :, 3] > 0
        assert (alpha[2:].argmax() + 2) / len(alpha) == pytest.approx(0.2, abs=0.03)
        assert alpha[30:-5].all()


def test_a_quicklook_has_the_colours_of_its_file(tmp_path):
    """A tag of ours, else the file's own colour table, else HR-LULC's colours."""
    ids = np.full((30, 30), 10, np.uint8)
    plain = write(tmp_path / "a.tif", ids)
    tagged = write(tmp_path / "b.tif", ids, LEGEND=json.dumps(lulc.WORLDCOVER.to_dict()))
    own = write(tmp_path / "c.tif", ids)
    with rasterio.open(own, "r+") as raw:
        raw.write_colormap(1, {10: (1, 2, 3, 255), 200: (9, 9, 9, 255)})
    for path, colour in ((plain, (128, 100, 0)), (tagged, (0, 100, 0)), (own, (1, 2, 3))):
        assert tuple(maps.quicklook(path)[0][15, 15]) == (*colour, 255)


@pytest.mark.parametrize("flip", [False, True])
def test_a_quicklook_lies_where_its_raster_does(tmp_path, flip):
    ids = np.ones((100, 100), np.uint8)
    ids[:20, :20] = 5  # the north-west
    path = write(tmp_path / "l.tif", ids)
    if flip:
        at = GRID * Affine.translation(0, 100) * Affine.scale(1, -1)
        path = write(tmp_path / "l.tif", ids[::-1], transform=at)
    picture, box, _ = maps.quicklook(path)
    with rasters.opened(path, dtype="uint8") as source:
        (expected,) = rasters.bounds_of(rasters.grid_of(source))
    assert box == pytest.approx(expected, abs=1e-4)
    height, width = picture.shape[:2]
    assert tuple(picture[height // 10, width // 10, :3]) == (255, 255, 0)
    assert tuple(picture[-height // 10, width // 10, :3]) == (0, 0, 100)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32601"])
def test_a_quicklook_across_180_degrees_lies_in_one_piece(tmp_path, crs):
    at = {
        "EPSG:4326": Affine(0.001, 0, 179.95, 0, -0.001, 0.05),
        "EPSG:32601": Affine(111, 0, 160_500, 0, -111, 5_500),
    }[crs]
    path = write(tmp_path / "l.tif", np.ones((100, 100), np.uint8), transform=at, crs=crs)
    picture, (west, south, east, north), _ = maps.quicklook(path)
    assert 0.09 < east - west < 0.11
    assert west < 180 < east or west < -180 < east
    assert (picture[5:-5, 5:-5, 3] == 255).all()
    assert (south, north) == pytest.approx((-0.05, 0.05), abs=2e-3)


def test_a_quicklook_of_doubts_grows_light_with_confidence(tmp_path):
    percent = np.repeat(np.array([[255] * 10 + [10] * 10 + [90] * 10], np.uint8), 30, axis=0)
    grid = dict(height=30, width=30, crs="EPSG:32653", transform=GRID, nodata=255)
    path = tmp_path / "m.confidence.tif"
    with rasterio.open(path, "w", driver="GTiff", count=3, dtype="uint8", **grid) as file:
        file.write(np.stack([percent, percent, percent]))
    picture, _, _ = maps.quicklook(path)
    row = picture[len(picture) // 2].astype(int)
    void, low, high = (row[len(row) * (2 * i + 1) // 6] for i in range(3))
    assert (void[3], low[3], high[3]) == (0, 255, 255)
    assert low[:3].sum() + 200 < high[:3].sum()


def test_a_quicklook_of_a_map_and_labels_shows_where_they_differ(tmp_path):
    """Labels hold ids, a map index + 1; where either has no class nothing is wrong."""
    ids = np.repeat(np.array([[0] * 10 + [1] * 10 + [8] * 10], np.uint8), 30, axis=0)
    classes = np.ones((30, 30), np.uint8)  # water
    labels = write(tmp_path / "l.tif", ids, LEGEND=json.dumps(lulc.HR_LULC.to_dict()))
    found = write(tmp_path / "m.tif", classes, LEGEND=json.dumps(lulc.HR_LULC.for_maps.to_dict()))
    picture, box, _ = maps.quicklook((found, labels))
    assert box == pytest.approx(maps.quicklook(labels)[1])
    row = picture[len(picture) // 2]
    assert row[:, 3].nonzero()[0].min() / len(row) == pytest.approx(2 / 3, abs=0.05)
    assert tuple(row[-4]) == (*maps.WRONG, 255)


def test_a_web_map_holds_its_layers(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "s.tif", scene_array(rng, 300, 200))
    labels = write(tmp_path / "l.tif", land_array(rng, 300, 200))
    html = st.web_map({"radar": scene, "labels": labels}).get_root().render()
    assert html.count("L.imageOverlay(") == 2
    assert '["radar", image_overlay_' in html
    assert '["forest", "#56ac00"]' in html
    assert "openstreetmap" not in html.lower()
    loaded = {link.rpartition("/")[2] for link in re.findall(r'(?:src|href)="(https:[^"]+)"', html)}
    assert loaded == {"leaflet.js", "leaflet.css"}
    assert "OpenStreetMap" in st.web_map({"radar": scene}, base=True).get_root().render()
    picture, (west, south, east, north), _ = maps.quicklook(scene, side=100)
    assert 100 <= max(picture.shape[:2]) <= 120
    assert picture.dtype == np.uint8
    assert west < 135.005 < east
    assert south < 33.0 < north
