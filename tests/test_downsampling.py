"""Halving: the power mean of the valid pixels, in its place. Exact against brute force."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from sartutorial import InputError, downsampling, radiometry, rasters
from sartutorial.downsampling import block_mean, downsample
from sartutorial.labels import label

small = st.integers(1, 40)


def brute_force(dn, factor):
    """The power mean of every block's valid pixels, one block after the other, in float64."""
    rows, cols = -(-dn.shape[0] // factor), -(-dn.shape[1] // factor)
    out = np.full((rows, cols), np.nan)
    for r, c in np.ndindex(rows, cols):
        block = dn[r * factor : (r + 1) * factor, c * factor : (c + 1) * factor].astype(float)
        block = block[block != 0]
        if block.size:
            out[r, c] = np.sqrt((block**2).mean())
    return out


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@given(small, small, st.integers(1, 12), st.floats(0, 1), st.integers(0, 9))
def test_halving_is_the_power_mean_of_the_valid_pixels(height, width, factor, hole, seed):
    rng = np.random.default_rng(seed)
    dn = rng.integers(1, 65536, (height, width)).astype(np.uint16)
    dn[rng.random(dn.shape) < hole] = 0
    found, truth = block_mean(dn, factor), brute_force(dn, factor)
    assert found.dtype == np.uint16
    assert np.array_equal(found == 0, np.isnan(truth))
    valid = np.isfinite(truth)
    assert np.abs(found[valid] - truth[valid]).max(initial=0) <= 1


@pytest.mark.parametrize("average", ["power", "amplitude"])
def test_valid_never_turns_into_nodata(average):
    for factor in (2, 8, 9, 300):
        dn = np.zeros((factor, factor), np.uint16)
        dn[0, 0] = 1
        assert block_mean(dn, factor, average=average).tolist() == [[1]]
        dn[:] = 1
        assert block_mean(dn, factor, average=average).tolist() == [[1]]


@pytest.mark.parametrize("declared", [1, 700, 65535])
def test_dn_0_and_what_a_scene_declares_are_no_data(tmp_path, declared):
    """Not in a mean, and not under a label; the result declares 0."""
    dn = np.full((4, 4), 500, np.uint16)
    dn[0, 0] = 0
    dn[2:, 2:] = 0, declared
    scene = write(tmp_path / "IMG.tif", dn, nodata=declared)
    with rasterio.open(downsample(scene, tmp_path / "half")) as half:
        assert half.read(1).tolist() == [[500, 500], [500, 0]]
        assert half.nodata == 0
    tile = write(tmp_path / "t.tif", np.full((9, 9), 3, np.uint8))
    found = read(label(scene, tile, tmp_path / "labels"))
    np.testing.assert_array_equal(found == 3, dn == 500)


@pytest.mark.parametrize("inside", [True, False])
def test_a_mask_band_is_honoured(tmp_path, inside):
    rng = np.random.default_rng(0)
    dn, valid = scene_array(rng, 30, 40), rng.random((30, 40)) < 0.7
    scene = write(tmp_path / "IMG.tif", dn, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(scene, "r+") as dataset:
        dataset.write_mask(valid)
    assert (tmp_path / "IMG.tif.msk").exists() != inside
    found = read(downsample(scene, tmp_path / "one", factor=1))
    np.testing.assert_array_equal(found, np.where(valid, dn, 0))


def test_what_is_no_amplitude_is_refused(tmp_path):
    """A band to be scaled, here dB = 0.01 n - 40, must not be averaged as amplitude."""
    db = np.random.default_rng(0).normal(-10, 3, (64, 64))
    scene = write(tmp_path / "IMG.tif", np.rint((db + 40) * 100).astype(np.uint16))
    with rasterio.open(scene, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.01,), (-40.0,)
    with pytest.raises(InputError, match=r"IMG\.tif.*scale"):
        downsample(scene, tmp_path / "half")
    with pytest.raises(InputError, match=r"IMG\.tif.*scale"):
        label(scene, scene, tmp_path / "labels")
    with rasterio.open(scene, "r+") as dataset:
        dataset.scales, dataset.offsets, dataset.units = (1.0,), (0.0,), ("dB",)
    with pytest.raises(InputError, match=r"IMG\.tif.*dB"):
        downsample(scene, tmp_path / "half")
    assert not (tmp_path / "half").exists() or not list((tmp_path / "half").glob("*.tif"))


def test_a_scene_without_a_place_on_earth_is_refused(tmp_path):
    local = 'LOCAL_CS["slant range",UNIT["metre",1]]'
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 20, 20), crs=local)
    tile = write(tmp_path / "t.tif", land_array(np.random.default_rng(0), 20, 20))
    for step in (downsample, lambda s, out: label(s, tile, out)):
        with pytest.raises(InputError, match=r"IMG\.tif"):
            step(scene, tmp_path / "out")


def test_amplitude_reads_low():
    dn = (1000 * np.sqrt(np.random.default_rng(0).exponential(size=(800, 800)))).astype(np.uint16)
    power = (block_mean(dn).astype(float) ** 2).mean()
    amplitude = (block_mean(dn, average="amplitude").astype(float) ** 2).mean()
    assert radiometry.to_db(amplitude / power) == pytest.approx(-0.76, abs=0.05)  # theory


@pytest.mark.parametrize("shape", [(64, 64), (65, 63), (1100, 7)])
def test_georeference_and_tags_are_kept(tmp_path, shape):
    dn = scene_array(np.random.default_rng(1), *shape, hole=0.3)
    name = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif"
    scene = write(tmp_path / name, dn, nodata=None, OPERATOR="kept")
    with rasterio.open(downsample(scene, tmp_path / "half")) as half:
        assert Path(half.name) == tmp_path / "half" / name
        assert half.crs == rasterio.crs.CRS.from_string(UTM)
        assert half.transform == GRID * Affine.scale(2)
        assert half.count == 1
        assert half.nodata == 0  # declared from now on
        tags = {"OPERATOR": "kept", "QUANTITY": "sigma0", "CALIBRATION_DB": "-83.0",
                "POLARISATION": "HH", "DOWNSAMPLED": "2 power"}  # fmt: skip
        assert tags.items() <= half.tags().items()
        assert half.profile["compress"] == "deflate"
        np.testing.assert_array_equal(half.read(1), block_mean(dn))  # strips are seamless


def test_a_south_up_scene_is_halved_in_its_place(tmp_path):
    dn = scene_array(np.random.default_rng(1), 40, 30, hole=0.3)
    up = GRID * Affine.translation(0, 40) * Affine.scale(1, -1)
    north = downsample(write(tmp_path / "n.tif", dn), tmp_path / "half")
    south = downsample(write(tmp_path / "s.tif", dn[::-1].copy(), transform=up), tmp_path / "half")
    np.testing.assert_array_equal(read(north), read(south)[::-1])
    with rasterio.open(south) as half:
        assert half.transform == up * Affine.scale(2)


def test_one_scene_or_several(tmp_path):
    """One gives a path, several or a folder a list; a file is for one scene."""
    rng = np.random.default_rng(1)
    scenes = [write(tmp_path / "s" / f"{n}.tiff", scene_array(rng, 9, 9)) for n in "ab"]
    out = tmp_path / "half"
    assert downsample(str(scenes[0]), out) == out / "a.tif"
    assert (
        downsample(scenes, out) == downsample(tmp_path / "s", out) == [out / "a.tif", out / "b.tif"]
    )
    assert downsample(scenes[0], tmp_path / "x.tif") == tmp_path / "x.tif"
    with pytest.raises(InputError, match=r"x\.tif"):
        downsample(scenes, tmp_path / "x.tif")
    with pytest.raises(InputError, match="factor 0"):
        downsample(scenes, out, factor=0)
    with pytest.raises(InputError, match="average db: must be one of power, amplitude"):
        downsample(scenes, out, average="db")


def test_running_again_does_nothing(tmp_path):
    dn = scene_array(np.random.default_rng(1), 64, 64)
    scene = write(tmp_path / "IMG.tif", dn, SOFTWARE="another processor")
    out = downsample(scene, tmp_path / "half.tif")
    before = out.stat().st_mtime_ns
    assert downsample(scene, out).stat().st_mtime_ns == before
    downsample(scene, out, factor=4)
    assert out.stat().st_mtime_ns != before
    write(scene, dn + 1)  # as large as before
    os.utime(scene, (0, 0))  # and older
    np.testing.assert_array_equal(read(downsample(scene, out)), block_mean(dn + 1))


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
    """Random sizes, factors, CRSs, rotated swaths, declared nodata: corners and pixels."""
    rng = np.random.default_rng(seed)
    dn = scene_array(rng, height, width, hole=0.3)
    if declared == 1:
        dn[dn == 0] = 1
    grid = Affine(0.01, 0, 20, 0, -0.01, 40) if crs == "EPSG:4326" else GRID
    grid = grid * Affine.rotation(np.degrees(angle))
    with TemporaryDirectory() as folder:
        integer = None if declared is None or np.isnan(declared) else declared
        scene = write(Path(folder) / "IMG.tif", dn, transform=grid, crs=crs, nodata=integer)
        if declared is not None and np.isnan(declared):  # rasterio would not write it
            scene = declares_nan(scene)
        out = downsample(scene, Path(folder) / "half.tif", factor=factor)
        with rasterio.open(out) as half:
            assert half.crs == rasterio.crs.CRS.from_string(crs)
            assert half.transform.almost_equals(grid * Affine.scale(factor), 1e-9)
            assert half.nodata == 0
            assert half.shape == (-(-height // factor), -(-width // factor))
            # The corners of the whole blocks lie where the scene's pixels do.
            for row, col in ((0, 0), (height // factor, width // factor)):
                assert half.transform * (col, row) == pytest.approx(
                    grid * (col * factor, row * factor), rel=1e-12
                )
            dn[dn == (declared == 1)] = 0
            found, truth = half.read(1), brute_force(dn, factor)
    assert np.array_equal(found == 0, np.isnan(truth))
    assert np.abs(found - truth)[np.isfinite(truth)].max(initial=0) <= 1


def test_pieces_and_windows_have_no_seams(tmp_path, monkeypatch):
    dn = scene_array(np.random.default_rng(3), 300, 500, hole=0.2)
    monkeypatch.setattr(downsampling, "PIECE", 7)
    assert np.abs(block_mean(dn, 3) - np.nan_to_num(brute_force(dn, 3))).max() <= 1
    monkeypatch.setattr(downsampling, "ROWS", 32)
    monkeypatch.setattr(downsampling, "COLUMNS", 64)
    grid = rasters.Grid(rasterio.crs.CRS.from_string(UTM), GRID, 500, 300)
    scene, tiles = tmp_path / "s.tif", dict(blockxsize=64, blockysize=64, dtype="uint16", nodata=0)
    with rasters.create(scene, grid, {"QUANTITY": "sigma0"}, **tiles) as out:
        out.write(dn, 1)
    for factor in (1, 2, 3):
        found = read(downsample(scene, tmp_path / f"{factor}.tif", factor=factor))
        np.testing.assert_array_equal(found, block_mean(dn, factor))


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
    out = downsample(tmp_path / scene, tmp_path / "one", factor=1)
    void = (0, 5) if "2.2" in scene else (0,)
    with rasterio.open(out) as found:
        np.testing.assert_array_equal(found.read(1), np.where(np.isin(values, void), 0, dn))
        assert found.tags()["MASK"] == mask
        assert (found.tags()["QUANTITY"], found.tags()["CALIBRATION_DB"]) == ("gamma0", "-83.0")
    values[:] = kept[0]
    write(tmp_path / mask, values)  # a mask that is replaced counts
    np.testing.assert_array_equal(read(downsample(tmp_path / scene, out, factor=1)), dn)
    (tmp_path / mask).unlink()
    with rasterio.open(downsample(tmp_path / scene, tmp_path / "two", factor=1)) as found:
        np.testing.assert_array_equal(found.read(1), dn)
        assert "MASK" not in found.tags()


@pytest.mark.parametrize("kind", ["zip", "gztar", "gztar without"])
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
        path.touch()  # a ZIP knows no time before 1980
    name = tmp_path / "N23W161_20_MOS_F02DAR"
    archive = shutil.make_archive(name, kind.split()[0], tmp_path / "in")
    with rasterio.open(downsample(archive, tmp_path / "out", factor=1)) as found:
        assert Path(found.name).name == scene
        np.testing.assert_array_equal(found.read(1), np.where(values == 0, 0, dn))
        assert ("MASK" in found.tags()) == (len(inside) == 2)


def test_older_mosaics_are_read_with_their_masks(tmp_path):
    """ENVI without suffix, of PALSAR-2 before 2019 and of PALSAR-1, in archives or unpacked."""
    rng = np.random.default_rng(0)
    grid = Affine(1 / 4500, 0, 135.02, 0, -1 / 4500, 33.005)
    for stem, tail in (("N33E135_15", "_F02DAR"), ("N33E135_07", "")):
        dn = rng.integers(2, 5000, (40, 50)).astype(np.uint16)
        values = rng.choice([0, 50, 255], dn.shape).astype(np.uint8)
        folder = tmp_path / stem
        folder.mkdir()
        for layer, array in (("sl_HH", dn), ("mask", values)):
            with rasterio.open(
                folder / f"{stem}_{layer}{tail}", "w", driver="ENVI", height=40, width=50, count=1,
                dtype=array.dtype, crs="EPSG:4326", transform=grid,
            ) as out:  # fmt: skip
                out.write(array, 1)
        archive = shutil.make_archive(tmp_path / f"{stem}_MOS{tail}", "gztar", folder)
        for i, given_as in enumerate((archive, folder / f"{stem}_sl_HH{tail}")):
            with rasterio.open(downsample(given_as, tmp_path / str(i), factor=1)) as found:
                assert Path(found.name).name == f"{stem}_sl_HH{tail}.tif"
                np.testing.assert_array_equal(found.read(1), np.where(values == 0, 0, dn))
                assert found.tags()["QUANTITY"] == "gamma0"
                assert found.tags()["POLARISATION"] == "HH"
        assert downsample(folder, tmp_path / "folder", factor=1) == [
            tmp_path / "folder" / f"{stem}_sl_HH{tail}.tif"
        ]


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
        code = "import sys, sartutorial as st; st.downsample(sys.argv[1], sys.argv[2], factor=1)"
        command = [sys.executable, "-c", code, url, out]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    handler = partial(Ranges, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        archive = f"/vsitar//vsicurl/{host}/N23W161_20_MOS_F02DAR.tar.gz/{names[0]}"
        for i, url in enumerate((f"{host}/{names[0]}?key=1", archive)):
            out = tmp_path / str(i)
            done = halve(url, out)
            assert done.returncode == 0, done.stderr
            # Its name is free of the query.
            np.testing.assert_array_equal(read(out / names[0]), np.where(values == 0, 0, dn))
        done = halve(f"{host}/no.tif", tmp_path / "no")
        assert done.returncode == 1
        assert "no.tif: not a readable raster" in done.stderr
        server.shutdown()
