"""Patches: stamped files are GDAL's own, cut and laid back is the identity on any grid."""

import subprocess
import sys
import tarfile

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform
from shapely.geometry import Polygon, box

from sartutorial import InputError, __version__, lulc, patches, radiometry, rasters, stamps

# A corner and a pixel in each CRS, all in Japan or in Hawaii.
PLACES = {
    "EPSG:32653": (500_000, 3_652_000, 5),
    "EPSG:32654": (300_000, 4_700_000, 2.5),
    "EPSG:6675": (-20_000, -60_000, 10),  # JGD2011, plane rectangular
    "EPSG:4326": (-160.2, 21.9, 1 / 4500),
    "EPSG:3857": (15_000_000, 4_100_000, 6),
}
FIXED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def grid(crs, angle, south_up=False):
    x, y, step = PLACES[crs]
    flip = step if south_up else -step
    return Affine(step, 0, x, 0, flip, y) * Affine.rotation(angle)


@FIXED
@given(
    st.sampled_from([7, 16, 33, 64]), st.sampled_from([*PLACES]), st.sampled_from([0.0, 11.5, -78]),
    st.booleans(), st.sampled_from(["sar", "label"]), st.integers(0, 99),
)  # fmt: skip
def test_a_stamped_file_is_byte_for_byte_gdals(tmp_path, size, crs, angle, south_up, kind, seed):
    rng, at = np.random.default_rng(seed), grid(crs, angle, south_up)
    tags = {"SCENE": "s" * int(rng.integers(1, 40)), "QUANTITY": "sigma0"}
    options = (
        dict(dtype="float32", nodata=np.nan, colormap=None) if kind == "sar"
        else dict(dtype="uint8", nodata=0, colormap=lulc.colormap())
    )  # fmt: skip
    pixels = rng.integers(0, 15, (3, size, size)).astype(options["dtype"])
    pixels[1] = 0  # nothing but the value that sparse files leave out
    stamp = stamps.Stamp(size, CRS.from_string(crs), at, tags, **options)
    places = [at * Affine.translation(size * i, 3 * size) for i in range(3)]
    paths = [tmp_path / f"{i}.tif" for i in range(3)]
    stamp.write(paths, [(p.c, p.f) for p in places], pixels)
    for path, place, own in zip(paths, places, pixels, strict=True):
        with rasterio.open(
            tmp_path / "gdal.tif", "w", **(stamp.profile | dict(height=size, transform=place))
        ) as dataset:
            dataset.update_tags(**tags, SOFTWARE=f"sartutorial {__version__}")
            if options["colormap"]:
                dataset.write_colormap(1, options["colormap"])
            dataset.write(own, 1)
        assert path.read_bytes() == (tmp_path / "gdal.tif").read_bytes()
        rasters.check_whole(path, path)


@FIXED
@given(
    st.integers(1, 150), st.integers(1, 150), st.sampled_from([8, 16, 31]), st.sampled_from([*PLACES]),
    st.sampled_from([0.0, 9.3, -41]), st.sampled_from([None, 0, 1]), st.floats(0, 1),
    st.sampled_from(["none", "edge", "dots", "all"]), st.integers(0, 99),
)  # fmt: skip
def test_cut_and_laid_back_is_the_identity(
    tmp_path, height, width, size, crs, angle, nodata, max_void, pattern, seed
):
    """Any size, CRS, rotation, declared nodata and pattern of holes, against numpy alone."""
    rng, at = np.random.default_rng(seed), grid(crs, angle)
    where = (
        tmp_path / f"{height}-{width}-{size}-{crs[5:]}-{angle}-{nodata}-{max_void}-{pattern}-{seed}"
    )
    dn, hole = scene_array(rng, height, width) + np.uint16(1), nodata or 0
    rows, cols = np.indices(dn.shape)
    dn[{"none": dn < 0, "edge": cols < 0.3 * rows + 5, "dots": rng.random(dn.shape) < 1e-3,
        "all": dn > 0}[pattern]] = hole  # fmt: skip
    ids = land_array(rng, height, width)
    ids[rows + cols < 60] = lulc.VOID
    scene = write(where / "IMG.tif", dn, crs=crs, transform=at, nodata=nodata)
    write(where / "labels" / "IMG.tif", ids, crs=crs, transform=at)
    kept = [
        (r, c)
        for r in range(0, height - size + 1, size)
        for c in range(0, width - size + 1, size)
        if (dn[r : r + size, c : c + size] != hole).all()
        and (ids[r : r + size, c : c + size] == 0).sum() <= max_void * size**2
    ]
    call = dict(size=size, max_void=max_void)
    if not kept:
        with pytest.raises(InputError, match=r"smaller than a patch|no patch of"):
            patches.cut([scene], where / "labels", where / "out", **call)
        return
    patches.cut([scene], where / "labels", where / "out", **call)
    index = patches.read_index(where / "out")
    assert list(zip(index.row, index.col, strict=True)) == kept  # in order, and none twice
    mosaic = np.full(dn.shape, np.nan, np.float32)
    land = np.zeros_like(ids)
    for row in index.itertuples():
        cell = np.s_[row.row : row.row + size, row.col : row.col + size]
        window = rasterio.windows.Window(row.col, row.row, size, size)
        with (
            rasterio.open(where / "out" / "sar" / row.patch) as sar,
            rasterio.open(where / "out" / "label" / row.patch) as lab,
        ):
            assert sar.crs == lab.crs == CRS.from_string(crs)
            assert sar.transform == lab.transform
            assert sar.transform.almost_equals(rasterio.windows.transform(window, at), 1e-9)
            mosaic[cell], land[cell] = sar.read(1), lab.read(1)
            corners = [sar.transform * p for p in ((0, 0), (0, size), (size, size), (size, 0))]
            ground = transform(sar.crs, "EPSG:4326", *zip(*corners, strict=True))
        expected = Polygon(zip(*ground, strict=True))
        assert row.geometry.symmetric_difference(expected).area < 1e-6 * expected.area
        counts = [getattr(row, n) for n in patches.COUNTS]
        assert counts == np.bincount(ids[cell].ravel(), minlength=16).tolist()
    covered = np.isfinite(mosaic)
    assert covered.sum() == len(kept) * size**2
    db = radiometry.lookup_table(nodata=hole)[dn]
    np.testing.assert_array_equal(mosaic[covered], db[covered])
    np.testing.assert_array_equal(land[covered], ids[covered])


def test_footprints_of_a_rotated_swath_fill_it_once(tmp_path):
    rng, at = np.random.default_rng(0), GRID * Affine.rotation(12)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 96, 96), transform=at)
    write(tmp_path / "labels" / "IMG.tif", land_array(rng, 96, 96), transform=at)
    patches.cut([scene], tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    ground = patches.read_index(tmp_path / "out").to_crs(UTM).geometry
    assert len(ground) == 9
    assert ground.area.sum() == pytest.approx((96 * 5) ** 2, rel=1e-6)
    assert ground.union_all().area == pytest.approx((96 * 5) ** 2, rel=1e-6)
    assert box(*ground.iloc[0].bounds).area > 1.3 * ground.iloc[0].area  # what a box would add


def test_a_patch_that_is_gone_is_cut_anew(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [write(tmp_path / f"{n}.tif", scene_array(rng, 64, 64)) for n in "ab"]
    for scene in scenes:
        write(tmp_path / "labels" / scene.name, land_array(rng, 64, 64))

    def cut():
        patches.cut(scenes, tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.tif")}

    before = cut()
    assert cut() == before
    (tmp_path / "out" / "label" / "a_0_32.tif").unlink()
    after = cut()
    assert after.keys() == before.keys()
    assert {p.name[0] for p in after if after[p] != before[p]} == {"a"}


def test_other_labels_or_another_scene_are_cut_anew_however_old(tmp_path):
    """Files of the same name, size and time in another folder, so that the path alone tells them."""
    rng = np.random.default_rng(0)
    for i, folder in enumerate(("one", "two"), start=1):
        write(tmp_path / folder / "IMG.tif", scene_array(rng, 64, 64))
        write(tmp_path / f"{folder}-labels" / "IMG.tif", np.full((64, 64), i, np.uint8))

    def cut(scene, labels):
        patches.cut([tmp_path / scene / "IMG.tif"], tmp_path / f"{labels}-labels", tmp_path / "out",
                    size=64)  # fmt: skip
        with rasterio.open(tmp_path / "out" / "sar" / "IMG_0_0.tif") as sar:
            db = sar.read(1)
        with rasterio.open(tmp_path / scene / "IMG.tif") as source:
            np.testing.assert_array_equal(db, radiometry.dn_to_db(source.read(1)))
        index = patches.read_index(tmp_path / "out")
        return index["n_1"].sum(), index["n_2"].sum()

    assert cut("one", "one") == (64 * 64, 0)
    assert cut("one", "two") == (0, 64 * 64)
    assert cut("two", "two") == (0, 64 * 64)


def test_an_archive_that_changed_is_cut_anew(tmp_path):
    """A scene within an archive is as new as the archive."""
    rng = np.random.default_rng(0)
    name, archive = "N23W161_20_sl_HH_F02DAR.tif", tmp_path / "N23W161_20_MOS_F02DAR.tar.gz"
    write(tmp_path / "labels" / name, np.ones((64, 64), np.uint8))

    def cut():
        scene = write(tmp_path / name, scene_array(rng, 64, 64) + np.uint16(1), nodata=1)
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(scene, name)
        patches.cut(rasters.find([archive]), tmp_path / "labels", tmp_path / "out", size=64)
        with rasterio.open(next((tmp_path / "out" / "sar").iterdir())) as sar:
            return sar.read(1).tobytes()

    assert cut() != cut()


def test_no_scene_is_said(tmp_path):
    with pytest.raises(InputError, match="no scene given"):
        patches.cut([], tmp_path, tmp_path / "out", size=32)


def test_the_index_does_not_depend_on_what_the_process_did_before(tmp_path):
    """Reading and joining an index makes pyproj describe EPSG:4326 in other words."""
    rng = np.random.default_rng(0)
    for name in "ab":
        write(tmp_path / "half" / f"{name}.tif", scene_array(rng, 64, 64))
        write(tmp_path / "labels" / f"{name}.tif", land_array(rng, 64, 64))
    code = """
import sys
from sartutorial import patches
for out in sys.argv[1:]:
    patches.cut(["half/a.tif", "half/b.tif"], "labels", out, size=32, max_void=1)
"""
    for folders in (["one"], ["one", "two"]):  # the second time, "one" is only read
        subprocess.run([sys.executable, "-c", code, *folders], check=True, cwd=tmp_path)
    files = {p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.parquet")}
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert patches.read_index(tmp_path / "one").crs == "EPSG:4326"
