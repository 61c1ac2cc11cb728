"""Labels: the exact nearest class, of any legend, from tiles in any CRS. Against brute force."""

import json
import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.warp import transform, transform_bounds

from sartutorial import InputError, files, labels, lulc, nearest, rasters
from sartutorial.labels import label

DEGREES = "EPSG:4326"


def brute_force(tiles, grid, shape, crs=DEGREES, scene_crs=UTM, void=0):
    """The class of the tile pixel that holds each pixel's centre, looked up one by one."""
    cols, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x, y = grid * (cols.ravel(), rows.ravel())
    x, y = (np.array(v) for v in transform(scene_crs, crs, x, y))
    out = np.full(x.size, void, np.uint8)
    for array, at in tiles:
        for turn in (-360, 0, 360) if crs == DEGREES else (0,):
            col, row = (np.floor(v).astype(int) for v in ~at * (x + turn, y))
            inside = (row >= 0) & (row < array.shape[0]) & (col >= 0) & (col < array.shape[1])
            inside &= out == void
            out[inside] = array[row[inside], col[inside]]
    return out.reshape(shape)


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def south_up(array, at):
    return array[::-1].copy(), at * Affine.translation(0, len(array)) * Affine.scale(1, -1)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(20, 90), st.integers(20, 90), st.floats(-0.3, 0.3), st.booleans(),
       st.integers(0, 99))  # fmt: skip
def test_labels_are_the_exact_nearest(tmp_path, height, width, angle, up, seed):
    rng = np.random.default_rng(seed)
    grid = GRID * Affine.rotation(np.degrees(angle))
    dn = scene_array(rng, height, width, 0.1)
    scene = write(tmp_path / "s" / "IMG.tif", dn, transform=grid)
    step = 1 / 12000
    (lon,), (lat,) = transform(UTM, DEGREES, *([v] for v in grid * (width / 2, height / 2)))
    tiles = []
    for i, (dx, dy) in enumerate([(1e-5, 0.00401), (1e-5 - 0.005, 0.00401)]):  # they meet in it
        at = Affine(step, 0, lon + dx, 0, -step, lat + dy)
        tiles.append((land_array(rng, 90, 60), at))
        array, at = south_up(*tiles[-1]) if up else tiles[-1]
        write(tmp_path / "t" / f"{i}.tif", array, transform=at, crs=DEGREES)
    out = label(scene, tmp_path / "t", tmp_path / "out" / f"{seed}-{height}-{width}-{angle}.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        truth = brute_force(tiles, grid, dn.shape)
        truth[dn == 0] = 0
        np.testing.assert_array_equal(found.read(1), truth)
        assert rasters.grid_of(found) == rasters.grid_of(sar)
        assert found.nodata == 0


def box_of(grid, crs):
    corners = np.array([(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)])
    x, y = grid.transform * corners.T
    return transform_bounds(grid.crs, crs, x.min(), y.min(), x.max(), y.max())


def seen_from_afar(tmp_path, crs):
    """A rotated scene of 40 m pixels and a tile in ``crs`` that leaves a part of it uncovered."""
    rng = np.random.default_rng(1)
    grid = GRID * Affine.rotation(12) * Affine.scale(8)
    dn = scene_array(rng, 700, 300)
    scene, place = (
        tmp_path / "IMG.tif",
        rasters.Grid(rasterio.crs.CRS.from_string(UTM), grid, 300, 700),
    )
    tags, small = {"QUANTITY": "sigma0"}, dict(blockxsize=64, blockysize=64)
    with rasters.create(scene, place, tags, dtype="uint16", **small) as sar:
        sar.write(dn, 1)
    w, s, e, n = box_of(place, crs)
    # Fifteen columns and rows of the scene's box lie beyond the tile.
    at = Affine((e - w) / 400, 0, w + (e - w) / 27, 0, (s - n) / 400, n - (n - s) / 27)
    ids = land_array(rng, 400, 370)
    truth = brute_force([(ids, at)], grid, dn.shape, crs)
    truth[dn == 0] = 0
    assert 0.05 < (truth == 0).mean() < 0.5
    return scene, write(tmp_path / "t.tif", ids, transform=at, crs=crs), truth


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32652", "EPSG:3031", "EPSG:3857"])
def test_labels_from_any_crs_are_the_exact_nearest(tmp_path, monkeypatch, crs):
    """Against looking up pixel by pixel, with points so far apart that their doubt matters."""
    scene, tile, truth = seen_from_afar(tmp_path, crs)
    monkeypatch.setattr(labels, "COLUMNS", 128)
    np.testing.assert_array_equal(read(label(scene, tile, tmp_path / "out")), truth)


def test_where_interpolation_says_nothing_every_pixel_is_reprojected(tmp_path, monkeypatch):
    scene, tile, truth = seen_from_afar(tmp_path, "EPSG:4326")
    monkeypatch.setattr(nearest, "_bend", lambda points: np.inf)
    np.testing.assert_array_equal(read(label(scene, tile, tmp_path / "out")), truth)


@pytest.mark.parametrize("projected", [False, True])
def test_a_raster_stored_south_up_gets_and_gives_the_same_labels(tmp_path, projected):
    rng = np.random.default_rng(0)
    dn = scene_array(rng, 80, 60, hole=0.1)
    ids = land_array(rng, 90, 90)
    if projected:
        at, crs = GRID * Affine.translation(-3, -4.3), UTM
    else:
        (lon,), (lat,) = transform(UTM, DEGREES, [GRID.c], [GRID.f])
        at, crs = Affine(5e-5, 0, lon - 1e-4, 0, -5e-5, lat + 1e-4), DEGREES
    scene = write(tmp_path / "n.tif", dn)
    tile = write(tmp_path / "t.tif", ids, transform=at, crs=crs)
    expected = read(label(scene, tile, tmp_path / "expected"))
    assert len(np.unique(expected)) > 10
    array, up = south_up(ids, at)
    tile_up = write(tmp_path / "up.tif", array, transform=up, crs=crs)
    array, up = south_up(dn, GRID)
    scene_up = write(tmp_path / "s.tif", array, transform=up)
    np.testing.assert_array_equal(read(label(scene, tile_up, tmp_path / "a")), expected)
    np.testing.assert_array_equal(read(label(scene_up, tile, tmp_path / "b"))[::-1], expected)


def world(west, east, crs=DEGREES):
    """Ids on 0.001 degrees around 51.9 N, from west to east."""
    at = Affine(0.001, 0, west, 0, -0.001, 51.92)
    return land_array(np.random.default_rng(0), 60, round((east - west) / 0.001)), at


@pytest.mark.parametrize(
    "spans",
    [
        [(179.9, 180), (-180, -179.9)],  # two tiles that meet there
        [(179.9, 180.1)],  # one across it
        [(-180.1, -179.9)],
        [(-180, 180)],  # the world, whose two ends meet in the scene
        [(0, 360)],
    ],
)
@pytest.mark.parametrize("scene_crs", ["EPSG:32660", "EPSG:32601", "EPSG:3832", DEGREES])
def test_a_scene_across_180_degrees_is_labelled_from_both_sides(tmp_path, spans, scene_crs):
    rng = np.random.default_rng(0)
    (x,), (y,) = transform(DEGREES, scene_crs, [179.99], [51.91])
    size = 5 if scene_crs != DEGREES else 7e-5
    grid = Affine(size, 0, x, 0, -size, y)
    dn = scene_array(rng, 300, 290, hole=0.1)
    scene = write(tmp_path / "s" / "IMG.tif", dn, transform=grid, crs=scene_crs)
    tiles = [world(*span) for span in spans]
    for i, (array, at) in enumerate(tiles):
        write(tmp_path / "t" / f"{i}.tif", array, transform=at, crs=DEGREES)
    with rasterio.open(label(scene, tmp_path / "t", tmp_path / "out")) as found:
        truth = brute_force(tiles, grid, dn.shape, scene_crs=scene_crs)
        assert (truth[:, 0] > 0).mean() > 0.5 < (truth[:, -1] > 0).mean()
        np.testing.assert_array_equal(found.read(1), np.where(dn == 0, 0, truth))
        assert "MISSING" not in found.tags()


@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:3857", "EPSG:3571"])
def test_projected_tiles_across_180_degrees(tmp_path, crs):
    """UTM, the world in Web Mercator (a strip of it), and a polar projection."""
    rng = np.random.default_rng(0)
    (x,), (y,) = transform(DEGREES, "EPSG:32660", [179.99], [51.91])
    grid = Affine(5, 0, x, 0, -5, y)
    scene = write(
        tmp_path / "IMG.tif", scene_array(rng, 300, 290), transform=grid, crs="EPSG:32660"
    )
    if crs == "EPSG:3857":
        edge = 20037508.342789244
        w, s, e, n = -edge, 6_775_000, edge, 6_785_000
        shape = 100, 40_000
    else:
        with rasters.opened(scene) as sar:
            w, s, e, n = box_of(rasters.grid_of(sar), crs)
        shape = 200, 150
    at = Affine((e - w) / shape[1], 0, w, 0, (s - n) / shape[0], n)
    ids = rng.integers(1, 15, shape, dtype=np.uint8)
    tile = write(tmp_path / "t.tif", ids, transform=at, crs=crs)
    truth = brute_force([(ids, at)], grid, (300, 290), crs, "EPSG:32660")
    assert (truth > 0).mean() > 0.9
    np.testing.assert_array_equal(read(label(scene, tile, tmp_path / "out")), truth)


@pytest.mark.parametrize("crs", ["ESRI:54009", "ESRI:54052"])
def test_a_map_of_the_world_whose_corners_lie_beyond_it(tmp_path, crs):
    grid = GRID * Affine.scale(99)
    scene = write(tmp_path / "IMG.tif", np.full((90, 80), 9, np.uint16), transform=grid)
    at = Affine(9020, 0, -18_040_096, 0, -9020, 9_020_048)
    ids = np.random.default_rng(0).integers(1, 15, (2000, 4000), dtype=np.uint8)
    tile = write(tmp_path / "t.tif", ids, transform=at, crs=crs)
    truth = brute_force([(ids, at)], grid, (90, 80), crs)
    assert (truth > 0).all()
    np.testing.assert_array_equal(read(label(scene, tile, tmp_path / "out")), truth)


def test_a_missing_tile_is_named(tmp_path):
    """A scene over four square degrees, with tiles for three: seams and gap are where they must be."""
    rng = np.random.default_rng(0)
    degrees = Affine(0.001, 0, 134.95, 0, -0.001, 33.05)
    dn = scene_array(rng, 100, 100)
    scene = write(tmp_path / "IMG.tif", dn, transform=degrees, crs=DEGREES)
    tiles = [
        write(tmp_path / "t" / lulc.tile_name(lon, lat), np.full((1000, 1000), i, np.uint8),
              transform=Affine(0.001, 0, lon, 0, -0.001, lat + 1), crs=DEGREES)
        for i, (lon, lat) in enumerate([(134, 33), (135, 33), (134, 32)], start=1)
    ]  # fmt: skip
    with rasterio.open(label(scene, tiles, tmp_path / "out.tif")) as found:
        truth = np.zeros((100, 100), np.uint8)
        truth[:50, :50], truth[:50, 50:], truth[50:, :50] = 1, 2, 3
        np.testing.assert_array_equal(found.read(1), np.where(dn == 0, 0, truth))
        assert found.tags()["MISSING"] == "LC_N32E135.tif"
        assert found.tags()["TILES"] == ",".join(t.name for t in tiles)
    whole = write(tmp_path / "whole.tif", np.ones((9, 9), np.uint8), crs=DEGREES,
                  transform=Affine(1, 0, 130, 0, -1, 36))  # fmt: skip
    with rasterio.open(label(scene, whole, tmp_path / "one.tif")) as found:
        assert "MISSING" not in found.tags()  # one raster of another name covers it


def test_a_label_is_made_anew_when_what_it_is_made_of_changed(tmp_path):
    """Another grid of the same name and corner; a tile of other content, as old and as large."""
    rng = np.random.default_rng(0)
    tile = write(tmp_path / "t.tif", land_array(rng, 90, 90))
    for factor, side in ((2, 40), (4, 20), (4, 30)):
        scene = write(tmp_path / str(side) / "IMG.tif", scene_array(rng, side, side),
                      transform=GRID * Affine.scale(factor))  # fmt: skip
        out = label(scene, tile, tmp_path / "labels")
        with rasterio.open(out) as found, rasterio.open(scene) as sar:
            assert rasters.grid_of(found) == rasters.grid_of(sar)
        before = out.stat().st_mtime_ns
        assert label(scene, tile, out).stat().st_mtime_ns == before
    write(tile, np.full((90, 90), 7, np.uint8))
    os.utime(tile, (0, 0))
    assert set(np.unique(read(label(scene, tile, out)))) <= {0, 7}
    seven = lulc.Legend("seven", (lulc.LandCover(7, "all", (0, 0, 0), 0),), ("all",), ((0, 0, 0),))
    with rasterio.open(label(scene, tile, out, legend=seven)) as found:
        assert "seven" in found.tags()["LEGEND"]


def test_labels_need_a_tile_that_meets_the_scene(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 20, 20))
    far = write(tmp_path / "far.tif", land_array(rng, 9, 9), crs=DEGREES,
                transform=Affine(0.1, 0, 10, 0, -0.1, 50))  # fmt: skip
    with pytest.raises(InputError, match=r"it needs LC_N33E135\.tif$"):
        label(scene, far, tmp_path / "out.tif")
    far = write(tmp_path / "far.tif", np.full((9, 9), 10, np.uint8), crs=DEGREES,
                transform=Affine(0.1, 0, 10, 0, -0.1, 50))  # fmt: skip
    with pytest.raises(
        InputError, match=r"longitude 135\.000 to 135\.001, latitude 33\.00[67] to 33\.00[67]"
    ):
        label(scene, far, tmp_path / "out.tif", legend="worldcover")
    (x,), (y,) = transform(DEGREES, "EPSG:32660", [179.99], [51.91])
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 300, 300), crs="EPSG:32660",
                  transform=Affine(5, 0, x, 0, -5, y))  # fmt: skip
    with pytest.raises(InputError, match=r"it needs LC_N51E179\.tif, LC_N51W180\.tif$"):
        label(scene, far, tmp_path / "out.tif")
    with pytest.raises(
        InputError, match=r"longitude 179\.989 to 180\.000, .* and longitude -180\.000 to"
    ):
        label(scene, far, tmp_path / "out.tif", legend="worldcover")
    assert not (tmp_path / "out.tif").exists()


def test_unknown_ids_are_refused_and_255_is_void(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 20, 20))
    tile = write(tmp_path / "tile.tif", np.full((30, 30), 255, np.uint8))
    assert (read(label(scene, tile, tmp_path / "out.tif")) == 0).all()
    tile = write(tmp_path / "tile.tif", np.full((30, 30), 77, np.uint8))
    with pytest.raises(InputError, match=r"tile\.tif.*77"):
        label(scene, tile, tmp_path / "other.tif")
    assert not (tmp_path / "other.tif").exists()


@pytest.mark.parametrize("how", ["nodata", "mask within", "mask beside", "alpha"])
def test_what_a_tile_declares_invalid_is_no_label(tmp_path, how):
    """So the next tile counts there."""
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", np.full((40, 50), 9, np.uint16))
    ids = rng.integers(1, 15, (40, 50), dtype=np.uint8)
    valid = ids != 5 if how == "nodata" else rng.random(ids.shape) < 0.6
    tile = write(tmp_path / "a.tif", ids, nodata=5 if how == "nodata" else None)
    if how.startswith("mask"):
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == "mask within"),
            rasterio.open(tile, "r+") as dataset,
        ):
            dataset.write_mask(valid)
        assert (tmp_path / "a.tif.msk").exists() == (how == "mask beside")
    if how == "alpha":
        profile = dict(driver="GTiff", width=50, height=40, count=2, dtype="uint8", crs=UTM)
        with rasterio.open(tile, "w", transform=GRID, alpha="yes", **profile) as dataset:
            dataset.write(np.stack([ids, valid * np.uint8(255)]))
            assert dataset.colorinterp[1] == ColorInterp.alpha
    below = write(tmp_path / "b.tif", np.full((40, 50), 14, np.uint8))
    found = read(label(scene, [tile, below], tmp_path / "out"))
    np.testing.assert_array_equal(found, np.where(valid, ids, 14))


OWN = """id,name,colour,index,training
0,water,#0000ff,0,
1,oak,#00ff00,1,forest
2,pine,#00aa00,1,forest
255,town,#ff0000,2,
9,cloud,#ffffff,-1,
"""


@pytest.mark.parametrize("which", ["worldcover", "own"])
def test_any_legend_labels_a_scene(tmp_path, which):
    """ESA WorldCover's ids, and a table whose classes 0 and 255 are real."""
    rng = np.random.default_rng(0)
    if which == "own":
        which = tmp_path / "own.csv"
        which.write_text(OWN)
    legend = lulc.legend(which)
    void = legend.void
    assert void == (0 if legend is lulc.WORLDCOVER else 254)
    grid = GRID * Affine.rotation(5)
    dn = scene_array(rng, 70, 90, hole=0.2)
    scene = write(tmp_path / "IMG.tif", dn, transform=grid)
    (lon,), (lat,) = transform(UTM, DEGREES, *([v] for v in grid * (45, 35)))
    at = Affine(1e-4, 0, lon - 0.001, 0, -1e-4, lat + 0.001)  # not all of the scene
    ids = rng.choice(legend.ids, (90, 90)).astype(np.uint8)
    tile = write(tmp_path / "t.tif", ids, transform=at, crs=DEGREES, nodata=None)
    with rasterio.open(label(scene, tile, tmp_path / "out", legend=which)) as found:
        truth = brute_force([(ids, at)], grid, dn.shape, void=void)
        truth[dn == 0] = void
        np.testing.assert_array_equal(found.read(1), truth)
        assert set(np.unique(truth)) == {void, *legend.ids}
        assert found.nodata == void
        colours = found.colormap(1)
        assert all(colours[c.id] == (*c.rgb, 255) for c in legend.classes)
        assert colours[void][3] == 0
        assert lulc.Legend.from_dict(json.loads(found.tags()["LEGEND"])) == legend
        assert "MISSING" not in found.tags()  # that is a matter of HR-LULC's tiles
    if legend is lulc.WORLDCOVER:
        with pytest.raises(InputError, match=r"t\.tif.*unknown class ids"):
            label(scene, tile, tmp_path / "other")
    classes = rasters.read_classes(tmp_path / "out" / "IMG.tif")
    assert classes.legend == legend
    np.testing.assert_array_equal(classes.ids, truth)


def test_tiles_that_say_they_hold_other_classes_are_refused(tmp_path):
    """A map of ours holds indices + 1, which look like ids: id 3 is no paddy field there."""
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 20, 20))
    said = {name: json.dumps(legend.to_dict()) for name, legend in
            (("map", lulc.HR_LULC.for_maps), ("label", lulc.HR_LULC))}  # fmt: skip
    ids = np.full((30, 30), 3, np.uint8)
    tile = write(tmp_path / "map.tif", ids, LEGEND=said["map"])
    with pytest.raises(InputError, match=r"map\.tif: .*LEGEND"):
        label(scene, tile, tmp_path / "out")
    assert (read(label(scene, tile, tmp_path / "out", legend=lulc.HR_LULC.for_maps)) < 4).all()
    label(scene, write(tmp_path / "label.tif", ids, LEGEND=said["label"]), tmp_path / "out")


def test_one_scene_or_several(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [write(tmp_path / "s" / f"{n}.tif", scene_array(rng, 20, 20)) for n in "ab"]
    tile = write(tmp_path / "t" / "t.tif", land_array(rng, 30, 30))
    out = tmp_path / "labels"
    assert label(str(scenes[0]), str(tile), out) == out / "a.tif"
    assert label(tmp_path / "s", tmp_path / "t", str(out)) == [out / "a.tif", out / "b.tif"]
    assert label(scenes, [tile], out) == [out / "a.tif", out / "b.tif"]
    assert files.find_scenes(out) == [str(out / "a.tif"), str(out / "b.tif")]
    with pytest.raises(InputError, match="no such land-cover tile"):
        label(scenes, tmp_path / "nowhere", out)
