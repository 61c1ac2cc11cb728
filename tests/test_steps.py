"""The raster steps: halving, labels, patches. Exact against brute force, on odd sizes and holes."""

import http.server
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import transform, transform_bounds

from sartutorial import InputError, downsample, labels, lulc, patches, radiometry, rasters

small = st.integers(1, 40)


def brute_force(dn, factor, nodata):
    """The power mean of every block's valid pixels, one block after the other, in float64."""
    rows, cols = -(-dn.shape[0] // factor), -(-dn.shape[1] // factor)
    out = np.full((rows, cols), np.nan)
    for r, c in np.ndindex(rows, cols):
        block = dn[r * factor : (r + 1) * factor, c * factor : (c + 1) * factor].astype(float)
        block = block[(block != nodata) & (block != 0)]
        if block.size:
            out[r, c] = np.sqrt((block**2).mean())
    return out


@given(small, small, st.integers(1, 12), st.sampled_from([0, 1, 65535]), st.floats(0, 1),
       st.integers(0, 9))  # fmt: skip
def test_halving_is_the_power_mean_of_the_valid_pixels(height, width, factor, nodata, hole, seed):
    rng = np.random.default_rng(seed)
    dn = rng.integers(2, 65535, (height, width)).astype(np.uint16)
    dn[rng.random(dn.shape) < hole] = nodata
    dn[rng.random(dn.shape) < hole / 2] = 0  # which is never data
    found, truth = downsample.block_mean(dn, factor, nodata=nodata), brute_force(dn, factor, nodata)
    assert np.array_equal(found == nodata, np.isnan(truth))
    valid = np.isfinite(truth)
    assert np.abs(found[valid] - truth[valid]).max(initial=0) <= 1


def test_valid_never_turns_into_nodata():
    dn = np.array([[0, 0], [2, 1]], np.uint16)
    assert downsample.block_mean(dn, nodata=1)[0, 0] == 2
    assert downsample.block_mean(np.array([[1, 0], [0, 0]], np.uint16), nodata=0)[0, 0] == 1
    dn = np.full((2, 2), 1, np.uint16)
    dn[0, 0] = 0
    assert downsample.block_mean(dn * 1, nodata=0)[0, 0] == 1


def test_dn_0_is_never_data(tmp_path):
    """Whatever a scene declares: not in a mean, and not under a label."""
    dn = np.full((4, 4), 500, np.uint16)
    dn[0, 0] = 0
    dn[2:, 2:] = 0, 1
    scene = write(tmp_path / "IMG.tif", dn, nodata=1)
    with rasterio.open(downsample.downsample(scene, tmp_path / "half.tif")) as half:
        assert half.read(1).tolist() == [[500, 500], [500, 1]]
    tile = write(tmp_path / "t.tif", np.full((9, 9), 3, np.uint8))
    with rasterio.open(labels.label(scene, [tile], tmp_path / "label.tif")) as label:
        np.testing.assert_array_equal(label.read(1) == lulc.VOID, dn < 2)


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
    dn = scene_array(np.random.default_rng(1), 64, 64)
    scene = write(tmp_path / "IMG.tif", dn, SOFTWARE="another processor")
    out = downsample.downsample(scene, tmp_path / "half.tif")
    before = out.stat().st_mtime_ns
    assert downsample.downsample(scene, out).stat().st_mtime_ns == before
    downsample.downsample(scene, out, factor=4)
    assert out.stat().st_mtime_ns != before


def declares_nan(path):
    """The same raster as a VRT that declares NaN as its nodata."""
    vrt = path.with_suffix(".vrt")
    rasterio.shutil.copy(path, vrt, driver="VRT")
    band = "<NoDataValue>nan</NoDataValue>\n    <ColorInterp>"
    vrt.write_text(vrt.read_text().replace("<ColorInterp>", band))
    assert "nan" in vrt.read_text()
    return vrt


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 7),
    st.sampled_from(["EPSG:32653", "EPSG:32733", "EPSG:4326", "EPSG:3857"]),
    st.sampled_from([None, 0, 1, float("nan")]), st.floats(-1, 1), st.integers(0, 9),
)  # fmt: skip
def test_any_scene_is_halved_in_its_place(height, width, factor, crs, declared, angle, seed):
    """Random sizes, factors, CRSs, rotated swaths, declared nodata: bounds, transform and pixels."""
    rng = np.random.default_rng(seed)
    dn = scene_array(rng, height, width, hole=0.3)
    nodata = 1 if declared == 1 else 0  # NaN is none that a DN can have
    dn[dn < 2] = nodata
    grid = Affine(0.01, 0, 20, 0, -0.01, 40) if crs == "EPSG:4326" else GRID
    grid = grid * Affine.rotation(np.degrees(angle))
    with TemporaryDirectory() as folder:
        integer = None if declared is None or np.isnan(declared) else declared
        scene = write(Path(folder) / "IMG.tif", dn, transform=grid, crs=crs, nodata=integer)
        if declared is not None and np.isnan(declared):  # rasterio would not write it
            scene = declares_nan(scene)
        out = downsample.downsample(scene, Path(folder) / "half.tif", factor=factor)
        with rasterio.open(out) as half:
            assert half.crs == rasterio.crs.CRS.from_string(crs)
            assert half.transform.almost_equals(grid * Affine.scale(factor), 1e-9)
            assert half.nodata == nodata
            assert half.shape == (-(-height // factor), -(-width // factor))
            # The corners of the whole blocks lie where the scene's pixels do.
            for row, col in ((0, 0), (height // factor, width // factor)):
                assert half.transform * (col, row) == pytest.approx(
                    grid * (col * factor, row * factor), rel=1e-12
                )
            found, truth = half.read(1), brute_force(dn, factor, nodata)
    assert np.array_equal(found == nodata, np.isnan(truth))
    assert np.abs(found - truth)[np.isfinite(truth)].max(initial=0) <= 1


def test_pieces_and_windows_have_no_seams(tmp_path, monkeypatch):
    dn = scene_array(np.random.default_rng(3), 300, 500, hole=0.2)
    monkeypatch.setattr(downsample, "PIECE", (7, 11))
    assert np.abs(downsample.block_mean(dn, 3) - np.nan_to_num(brute_force(dn, 3, 0))).max() <= 1
    monkeypatch.setattr(downsample, "COLUMNS", 64)
    monkeypatch.setattr(rasters, "STRIP_ROWS", 32)
    grid = rasters.Grid(rasterio.crs.CRS.from_string(UTM), GRID, 500, 300)
    scene, tiles = tmp_path / "s.tif", dict(blockxsize=64, blockysize=64, dtype="uint16", nodata=0)
    with rasters.created(scene, grid, {"QUANTITY": "sigma0"}, **tiles) as out:
        out.write(dn, 1)
    for factor in (1, 2, 3):
        out = downsample.downsample(scene, tmp_path / f"{factor}.tif", factor=factor)
        with rasterio.open(out) as found:
            np.testing.assert_array_equal(found.read(1), downsample.block_mean(dn, factor))


@pytest.mark.parametrize(
    ("scene", "mask", "kept"),
    [
        ("N23W161_20_sl_HH_F02DAR.tif", "N23W161_20_mask_F02DAR.tif", [50, 100, 150, 255]),
        ("ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif", "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif",
         [1, 2, 3, 4]),
    ],
)  # fmt: skip
def test_the_mask_of_a_product_is_honoured(tmp_path, scene, mask, kept):
    rng = np.random.default_rng(0)
    dn = rng.integers(2, 5000, (40, 50)).astype(np.uint16)
    values = rng.choice([0, 5, *kept], dn.shape).astype(np.uint8)
    write(tmp_path / scene, dn, nodata=1)
    write(tmp_path / mask, values)
    out = downsample.downsample(tmp_path / scene, tmp_path / "one" / scene, factor=1)
    void = (0, 5) if "2.2" in scene else (0,)
    with rasterio.open(out) as found:
        np.testing.assert_array_equal(found.read(1), np.where(np.isin(values, void), 1, dn))
        assert found.tags()["MASK"] == mask
        assert (found.tags()["QUANTITY"], found.tags()["CALIBRATION_DB"]) == ("gamma0", "-83.0")
    before = out.stat().st_mtime_ns
    os.utime(tmp_path / mask, (before / 1e9 + 9,) * 2)  # a mask that is changed counts
    assert downsample.downsample(tmp_path / scene, out, factor=1).stat().st_mtime_ns != before
    (tmp_path / mask).unlink()
    downsample.downsample(tmp_path / scene, tmp_path / "two" / scene, factor=1)
    with rasterio.open(tmp_path / "two" / scene) as found:
        np.testing.assert_array_equal(found.read(1), dn)
        assert "MASK" not in found.tags()


@pytest.mark.parametrize("kind", ["/vsizip/", "/vsitar/", "/vsitar/ without"])
def test_a_mask_within_an_archive_is_honoured(tmp_path, kind):
    rng = np.random.default_rng(0)
    scene, mask = (f"N23W161_20_{layer}_F02DAR.tif" for layer in ("sl_HH", "mask"))
    dn = rng.integers(2, 5000, (40, 50)).astype(np.uint16)
    values = rng.choice([0, 50, 255], dn.shape).astype(np.uint8)
    inside = [write(tmp_path / "in" / scene, dn, nodata=1)]
    if kind.endswith("without"):
        values[:] = 255
    else:
        inside.append(write(tmp_path / "in" / mask, values))
    for path in inside:
        os.utime(path)  # a ZIP knows no time before 1980
    kind = kind.split()[0]
    archive = shutil.make_archive(tmp_path / "a", kind[4:-1], tmp_path / "in")
    out = downsample.downsample(f"{kind}{archive}/{scene}", tmp_path / "out.tif", factor=1)
    with rasterio.open(out) as found:
        np.testing.assert_array_equal(found.read(1), np.where(values == 0, 1, dn))
        assert ("MASK" in found.tags()) == (len(inside) == 2)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server of files that answers ranges, as those of public archives do."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, size = path.read_bytes(), path.stat().st_size
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(v) for v in asked.groups()) if asked else (0, size - 1)
        part = data[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


def test_scenes_are_read_from_urls_with_their_masks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    dn = rng.integers(2, 5000, (300, 400)).astype(np.uint16)
    values = rng.choice([0, 50, 255], dn.shape).astype(np.uint8)
    site = tmp_path / "site"
    names = [f"N23W161_20_{layer}_F02DAR.tif" for layer in ("sl_HH", "mask")]
    for name, array in zip(names, (dn, values), strict=True):
        write(site / name, array, nodata=1)
    with tarfile.open(site / "N23W161_20_MOS_F02DAR.tar.gz", "w:gz") as archive:
        for name in names:
            archive.add(site / name, name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def halve(url, out):  # in another process: GDAL would keep the server's thread waiting
        command = [
            sys.executable,
            "-m",
            "sartutorial",
            "downsample",
            url,
            "--factor",
            "1",
            "--out",
            out,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    handler = partial(Ranges, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        for i, url in enumerate((f"{names[0]}?key=1", "N23W161_20_MOS_F02DAR.tar.gz")):
            out = tmp_path / str(i)
            done = halve(f"{host}/{url}", out)
            assert done.returncode == 0, done.stderr
            with rasterio.open(out / names[0]) as found:  # its name is free of the query
                np.testing.assert_array_equal(found.read(1), np.where(values == 0, 1, dn))
        done = halve(f"{host}/no.tif", tmp_path / "no")
        assert done.returncode == 1
        assert "no.tif: not a readable raster" in done.stderr
        server.shutdown()


def nearest(tiles, grid, height, width, crs="EPSG:4326"):
    """The class of the tile pixel that holds each pixel's centre, looked up one by one."""
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = grid * (cols.ravel(), rows.ravel())
    lon, lat = (np.array(v) for v in transform(UTM, crs, x, y))
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


@pytest.mark.parametrize("tile_crs", ["EPSG:4326", "EPSG:32652", "EPSG:3031", "EPSG:3857"])
def test_labels_from_any_crs_are_the_exact_nearest(tmp_path, monkeypatch, tile_crs):
    """Against looking up pixel by pixel, with points so far apart that their doubt matters."""
    rng = np.random.default_rng(1)
    grid = GRID * Affine.rotation(12) * Affine.scale(8)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 700, 300), transform=grid)
    with rasters.opened(scene) as sar:
        w, s, e, n = transform_bounds(sar.crs, tile_crs, *sar.bounds)
    # Fifteen columns and rows of the scene's box lie beyond the tile.
    at = Affine((e - w) / 400, 0, w + (e - w) / 27, 0, (s - n) / 400, n - (n - s) / 27)
    ids = land_array(rng, 400, 370)
    tile = write(tmp_path / "t.tif", ids, transform=at, crs=tile_crs)
    monkeypatch.setattr(labels, "COLUMNS", 128)
    exact = labels.Lookup.positions
    asked = []

    def counted(self, row, col):
        asked.append(np.size(row))
        return exact(self, row, col)

    monkeypatch.setattr(labels.Lookup, "positions", counted)
    out = labels.label(scene, [tile], tmp_path / "out.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        truth = nearest([(ids, at)], grid, 700, 300, tile_crs)
        truth[sar.read(1) == 0] = lulc.VOID
        np.testing.assert_array_equal(found.read(1), truth)
        assert 0.05 < (truth == 0).mean() < 0.5
    assert sum(asked) < 0.2 * truth.size  # most pixels were not reprojected


def test_where_interpolation_says_nothing_every_pixel_is_reprojected(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 70, 90))
    ids = land_array(rng, 90, 90)
    tile = write(tmp_path / "t.tif", ids)
    plain = labels.label(scene, [tile], tmp_path / "plain.tif")
    monkeypatch.setattr(labels, "_bend", lambda points: np.inf)
    careful = labels.label(scene, [tile], tmp_path / "careful.tif")
    with rasterio.open(plain) as a, rasterio.open(careful) as b, rasterio.open(scene) as sar:
        np.testing.assert_array_equal(a.read(1), b.read(1))
        np.testing.assert_array_equal(a.read(1), np.where(sar.read(1) == 0, 0, ids[:70]))


def test_a_missing_tile_is_named(tmp_path):
    """A scene over four square degrees, with tiles for three: seams and gap are where they must be."""
    rng = np.random.default_rng(0)
    degrees = Affine(0.001, 0, 134.95, 0, -0.001, 33.05)
    scene = write(
        tmp_path / "IMG.tif", scene_array(rng, 100, 100), transform=degrees, crs="EPSG:4326"
    )
    tiles = [
        write(tmp_path / "t" / lulc.tile_name(lon, lat), np.full((1000, 1000), i, np.uint8),
              transform=Affine(0.001, 0, lon, 0, -0.001, lat + 1), crs="EPSG:4326")
        for i, (lon, lat) in enumerate([(134, 33), (135, 33), (134, 32)], start=1)
    ]  # fmt: skip
    out = labels.label(scene, tiles, tmp_path / "out.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        truth = np.zeros((100, 100), np.uint8)
        truth[:50, :50], truth[:50, 50:], truth[50:, :50] = 1, 2, 3
        np.testing.assert_array_equal(found.read(1), np.where(sar.read(1) == 0, 0, truth))
        assert found.tags()["MISSING"] == "LC_N32E135.tif"
    whole = write(tmp_path / "whole.tif", np.ones((9, 9), np.uint8), crs="EPSG:4326",
                  transform=Affine(1, 0, 130, 0, -1, 36))  # fmt: skip
    with rasterio.open(labels.label(scene, [whole], tmp_path / "one.tif")) as found:
        assert "MISSING" not in found.tags()  # one raster of another name covers it


def test_a_label_on_another_grid_is_made_anew(tmp_path):
    """Scenes of one name and one corner, at two sizes of pixels: each gets a label of its own."""
    rng = np.random.default_rng(0)
    tile = write(tmp_path / "t.tif", land_array(rng, 90, 90))
    for factor, side in ((2, 40), (4, 20), (4, 30)):
        scene = write(tmp_path / str(side) / "IMG.tif", scene_array(rng, side, side),
                      transform=GRID * Affine.scale(factor))  # fmt: skip
        out = labels.label(scene, [tile], tmp_path / "labels" / "IMG.tif")
        with rasterio.open(out) as found, rasterio.open(scene) as sar:
            assert rasters.grid_of(found) == rasters.grid_of(sar)
        before = out.stat().st_mtime_ns
        assert labels.label(scene, [tile], out).stat().st_mtime_ns == before


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
