"""The raster steps: halving, labels, patches. Exact against brute force, on odd sizes and holes."""

import os

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from sartutorial import InputError, downsample, labels, lulc, patches, radiometry, rasters

small = st.integers(1, 40)


def brute_force(dn, factor, nodata):
    """The power mean of every block's valid pixels, one block after the other, in float64."""
    rows, cols = -(-dn.shape[0] // factor), -(-dn.shape[1] // factor)
    out = np.full((rows, cols), np.nan)
    for r, c in np.ndindex(rows, cols):
        block = dn[r * factor : (r + 1) * factor, c * factor : (c + 1) * factor].astype(float)
        block = block[block != nodata]
        if block.size:
            out[r, c] = np.sqrt((block**2).mean())
    return out


@given(small, small, st.integers(1, 5), st.sampled_from([0, 1]), st.floats(0, 1), st.integers(0, 9))
def test_halving_is_the_power_mean_of_the_valid_pixels(height, width, factor, nodata, hole, seed):
    rng = np.random.default_rng(seed)
    dn = rng.integers(2, 65536, (height, width)).astype(np.uint16)
    dn[rng.random(dn.shape) < hole] = nodata
    found, truth = downsample.block_mean(dn, factor, nodata=nodata), brute_force(dn, factor, nodata)
    assert np.array_equal(found == nodata, np.isnan(truth))
    valid = np.isfinite(truth)
    assert np.abs(found[valid] - truth[valid]).max(initial=0) <= 1


def test_valid_never_turns_into_nodata():
    dn = np.array([[0, 0], [0, 1]], np.uint16)
    assert downsample.block_mean(dn, nodata=1)[0, 0] == 0
    assert downsample.block_mean(np.array([[1, 0], [0, 0]], np.uint16), nodata=0)[0, 0] == 1
    dn = np.full((2, 2), 1, np.uint16)
    dn[0, 0] = 0
    assert downsample.block_mean(dn * 1, nodata=0)[0, 0] == 1


def test_amplitude_reads_low():
    dn = (1000 * np.sqrt(np.random.default_rng(0).exponential(size=(800, 800)))).astype(np.uint16)
    power = (downsample.block_mean(dn).astype(float) ** 2).mean()
    amplitude = (downsample.block_mean(dn, average="amplitude").astype(float) ** 2).mean()
    assert radiometry.to_db(amplitude / power) == pytest.approx(-0.76, abs=0.05)  # theory


@pytest.mark.parametrize("shape", [(64, 64), (65, 63), (1100, 7)])
def test_the_georeference_is_kept(tmp_path, shape):
    dn = scene_array(np.random.default_rng(1), *shape, hole=0.3)
    scene = write(tmp_path / "IMG.tif", dn, nodata=None, OPERATOR="kept")
    out = downsample.downsample(scene, tmp_path / "half" / "IMG.tif")
    with rasterio.open(out) as half:
        assert half.crs == rasterio.crs.CRS.from_string(UTM)
        assert half.transform == GRID * Affine.scale(2)
        assert half.count == 1
        assert half.nodata == 0  # declared from now on
        assert half.tags()["OPERATOR"] == "kept"
        assert half.profile["compress"] == "deflate"
        np.testing.assert_array_equal(
            half.read(1), downsample.block_mean(dn)
        )  # strips are seamless


def test_running_again_does_nothing(tmp_path):
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(1), 64, 64))
    out = downsample.downsample(scene, tmp_path / "half.tif")
    before = out.stat().st_mtime_ns
    assert downsample.downsample(scene, out).stat().st_mtime_ns == before
    downsample.downsample(scene, out, factor=4)
    assert out.stat().st_mtime_ns != before


def nearest(tiles, grid, height, width):
    """The class of the tile pixel that holds each pixel's centre, looked up one by one."""
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = grid * (cols.ravel(), rows.ravel())
    lon, lat = (np.array(v) for v in transform(UTM, "EPSG:4326", x, y))
    out = np.zeros(height * width, np.uint8)
    for array, at in tiles:
        col, row = (np.floor(v).astype(int) for v in ~at * (lon, lat))
        inside = (row >= 0) & (row < array.shape[0]) & (col >= 0) & (col < array.shape[1])
        inside &= out == 0
        out[inside] = array[row[inside], col[inside]]
    return out.reshape(height, width)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(20, 90), st.integers(20, 90), st.floats(-0.3, 0.3), st.integers(0, 99))
def test_labels_are_the_exact_nearest(tmp_path, height, width, angle, seed):
    rng = np.random.default_rng(seed)
    grid = GRID * Affine.rotation(np.degrees(angle))
    scene = write(tmp_path / "s" / "IMG.tif", scene_array(rng, height, width, 0.1), transform=grid)
    step = 1 / 12000
    (lon,), (lat,) = transform(UTM, "EPSG:4326", *([v] for v in grid * (width / 2, height / 2)))
    tiles = []
    for i, (dx, dy) in enumerate([(1e-5, 0.00401), (1e-5 - 0.005, 0.00401)]):  # they meet in it
        at = Affine(step, 0, lon + dx, 0, -step, lat + dy)
        tiles.append((land_array(rng, 90, 60), at))
        write(tmp_path / "t" / f"{i}.tif", tiles[-1][0], transform=at, crs="EPSG:4326")
    paths = rasters.find([tmp_path / "t"])
    out = labels.label(scene, paths, tmp_path / "out" / f"{seed}-{height}-{width}-{angle}.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        truth = nearest(tiles, grid, height, width)
        truth[sar.read(1) == 0] = lulc.VOID
        np.testing.assert_array_equal(found.read(1), truth)
        assert rasters.grid_of(found) == rasters.grid_of(sar)


def test_labels_need_a_tile_that_meets_the_scene(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 20, 20))
    far = write(
        tmp_path / "far.tif", land_array(rng, 9, 9), crs="EPSG:4326",
        transform=Affine(0.1, 0, 10, 0, -0.1, 50),
    )  # fmt: skip
    with pytest.raises(InputError, match="LC_N3"):
        labels.label(scene, [far], tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_unknown_ids_are_refused_and_255_is_void(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 20, 20))
    tile = write(tmp_path / "tile.tif", np.full((30, 30), 255, np.uint8))
    out = labels.label(scene, [tile], tmp_path / "out.tif")
    with rasterio.open(out) as found:
        assert (found.read(1) == lulc.VOID).all()
    tile = write(tmp_path / "tile.tif", np.full((30, 30), 77, np.uint8))
    with pytest.raises(InputError, match=r"tile\.tif.*77"):
        labels.label(scene, [tile], tmp_path / "other.tif")


def test_void_is_tolerated_as_far_as_asked(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 64, 64))
    ids = np.full((64, 64), 4, np.uint8)
    ids[:32, :16] = lulc.VOID  # half of the upper left patch
    write(tmp_path / "labels" / "IMG.tif", ids)
    for max_void, kept in ((0.0, 3), (0.4, 3), (0.5, 4)):
        patches.cut([scene], tmp_path / "labels", tmp_path / "out", size=32, max_void=max_void)
        assert len(patches.read_index(tmp_path / "out")) == kept
        assert len(list((tmp_path / "out" / "sar").iterdir())) == kept  # nothing stale is left


def test_cutting_one_scene_anew_leaves_the_others_alone(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [tmp_path / f"{name}.tif" for name in ("a", "ab", "b")]
    for scene in scenes:
        write(scene, scene_array(rng, 64, 64))
        write(tmp_path / "labels" / scene.name, land_array(rng, 64, 64))

    def cut():
        patches.cut(scenes, tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
        return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "sar").iterdir()}

    before = cut()
    os.utime(scenes[0])  # changed: cut anew
    after = cut()
    assert before.keys() == after.keys()
    assert len(after) == 12
    anew = {name for name in after if after[name] != before[name]}
    assert anew == {name for name in after if name.startswith("a_")}
    patches.cut(scenes[:1], tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    assert set(patches.read_index(tmp_path / "out")["scene"]) == {"a"}  # those asked for, no more


def test_patches_say_what_is_missing(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 64, 64, hole=0.5))
    with pytest.raises(InputError, match="sartutorial label"):
        patches.cut([scene], tmp_path / "labels", tmp_path / "out", size=32)
    write(tmp_path / "labels" / "IMG.tif", land_array(rng, 32, 32))
    with pytest.raises(InputError, match="not on the grid"):
        patches.cut([scene], tmp_path / "labels", tmp_path / "out", size=32)
    write(tmp_path / "labels" / "IMG.tif", land_array(rng, 64, 64))
    with pytest.raises(InputError, match="smaller than a patch"):
        patches.cut([scene], tmp_path / "labels", tmp_path / "out", size=128)
    with pytest.raises(InputError, match="no patch of 32 px"):
        patches.cut([scene], tmp_path / "labels", tmp_path / "out", size=32)
    with pytest.raises(InputError, match="no such index"):
        patches.read_index(tmp_path / "out")
