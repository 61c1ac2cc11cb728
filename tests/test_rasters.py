"""Radiometry, classes, and rasters: opening, checking, writing whole files or none."""

import os
from pathlib import PureWindowsPath

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import scene_array, write
from hypothesis import given
from hypothesis import strategies as st

from sartutorial import InputError, files, lulc, radiometry, rasters


def test_dn_to_db_and_back_is_exact_for_every_dn():
    dn = np.arange(1, 65536, dtype=np.uint16)
    assert np.array_equal(radiometry.db_to_dn(radiometry.dn_to_db(dn)), dn)


def test_calibration_is_jaxas():
    db = radiometry.dn_to_db(np.array([1, 1000, 65535], np.uint16))
    assert db == pytest.approx([-83.0, -23.0, 20 * np.log10(65535) - 83], abs=1e-5)


@pytest.mark.parametrize("nodata", [0, 1])
def test_declared_nodata_has_no_backscatter(nodata):
    db = radiometry.dn_to_db(np.array([0, 1, 2], np.uint16), nodata=nodata)
    assert np.isnan(db[[0, nodata]]).all()
    assert np.isfinite(db[2])


def test_nan_becomes_nodata_and_nothing_else_does():
    dn = radiometry.db_to_dn(np.array([np.nan, -200.0, 200.0]))
    assert dn.tolist() == [0, 1, 65535]


@given(st.floats(-60, 30))
def test_power_and_db_are_inverse(db):
    assert radiometry.to_db(radiometry.to_power(db)) == pytest.approx(db, abs=1e-9)


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="uint16"):
        radiometry.dn_to_db(np.zeros(3, np.float32))


LEVEL_21 = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif"
SCANSAR = "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif"
MOSAIC = "N23W161_20_sl_HH_F02DAR.tif"


@pytest.mark.parametrize(
    ("path", "level", "quantity", "mask"),
    [
        (LEVEL_21, "2.1", "sigma0", None),
        (f"https://example.org/a/{LEVEL_21}?key=1", "2.1", "sigma0", None),
        ("IMG-HV-ALOS2458503210-221119-FBDL1.5GUA.tif", "1.5", "sigma0", None),
        (f"a/{MOSAIC}", "mosaic", "gamma0", "a/N23W161_20_mask_F02DAR.tif"),
        (f"/vsitar/N23W161_20_MOS_F02DAR.tar.gz/{MOSAIC}", "mosaic", "gamma0",
         "/vsitar/N23W161_20_MOS_F02DAR.tar.gz/N23W161_20_mask_F02DAR.tif"),
        (SCANSAR, "2.2", "gamma0", "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif"),
        ("AIRSAR-HH-FLEVOLAND.tif", "AIRSAR", "sigma0", None),
    ],
)  # fmt: skip
def test_a_product_is_recognised_by_its_name(path, level, quantity, mask):
    product = radiometry.product(path)
    assert (product.level, product.quantity, product.mask) == (level, quantity, mask)
    assert product.calibration_db == -83


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif", r"level 3\.1 cannot be calibrated"),
        ("IMG-HH-ALOS2458503210-221119-UBSR1.1__D.tif", r"level 1\.1 cannot be calibrated"),
        ("IMG-HH-ALOS2458503210-221119-UBSR9.9GUD.tif", r"level 9\.9 cannot be calibrated"),
        ("tokyo.tif", "its unit is unknown.*--quantity sigma0"),
        ("N23W161_20_sl_HH_F02DAR/tokyo.tif", "its unit is unknown"),  # a folder is not the name
        ("IMG-HH-ALOS2458503210-221119.tif", "its unit is unknown"),
    ],
)
def test_an_unknown_unit_is_refused_until_somebody_says_it(name, words):
    with pytest.raises(InputError, match=f"{name}: .*{words}"):
        radiometry.product(name)
    assert radiometry.product(name, {"QUANTITY": "gamma0"}).quantity == "gamma0"
    assert radiometry.product(name, {}, "gamma0").quantity == "gamma0"
    assert radiometry.product(name, {"QUANTITY": "gamma0"}, "sigma0").quantity == "sigma0"
    with pytest.raises(InputError, match="holds beta0"):
        radiometry.product(name, {"QUANTITY": "beta0"})


def test_the_calibration_factor_travels_in_a_tag():
    product = radiometry.product(MOSAIC, {"QUANTITY": "gamma0", "CALIBRATION_DB": "-80.5"})
    assert product.calibration_db == -80.5
    table = radiometry.lookup_table(product.calibration_db)
    assert table[1000] == pytest.approx(-20.5)
    assert radiometry.product(LEVEL_21, {"CALIBRATION_DB": "-80.5"}).calibration_db == -80.5
    said = radiometry.product("x.tif", {"CALIBRATION_DB": "-80.5"}, "sigma0")
    assert said.calibration_db == -80.5


@pytest.mark.parametrize("tag", ["minus 83", "", "nan", "-inf"])
def test_a_calibration_factor_that_is_no_number_is_named(tag):
    with pytest.raises(
        InputError, match=rf"{LEVEL_21}: its tag CALIBRATION_DB is '{tag}', no number"
    ):
        radiometry.product(LEVEL_21, {"CALIBRATION_DB": tag})


def test_nine_classes_hold_all_fourteen():
    ids = np.array([0, *range(1, 15), 15, 255], np.uint8)
    index = lulc.to_index(ids)
    assert index.tolist() == [-1, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5, 4, 6, 7, 8, -1, -1]
    with pytest.raises(InputError, match="16"):
        lulc.to_index(np.array([16], np.uint8))


def test_another_merging_can_take_its_place():
    ids = np.array([0, 1, 3, 4, 15, 255], np.uint8)
    assert lulc.to_index(ids, {3: 0, 4: 1, 15: 2}).tolist() == [-1, -1, 0, 1, 2, -1]


def test_forest_is_the_five_ids_that_become_one_class():
    assert lulc.FOREST_IDS == (6, 7, 8, 9, 11)


def test_palettes_hold_every_class_and_leave_void_transparent():
    classes, nine = lulc.colormap(), lulc.colormap(training=True)
    assert sorted(classes) == list(range(16))
    assert sorted(nine) == list(range(10))
    assert classes[1] == nine[1] == (0, 0, 100, 255)  # JAXA's water
    assert classes[9] == (0, 172, 86, 255)
    assert classes[0] == nine[0] == (0, 0, 0, 0)
    assert len(set(classes.values())) == 16


def test_tiles_are_named_by_their_south_west_corner():
    assert lulc.tile_name(135.5, 34.2) == "LC_N34E135.tif"
    assert lulc.tile_name(-0.5, -0.5) == "LC_S01W001.tif"
    names = lulc.tile_names(136.9, 32.9, 137.1, 33.1)
    assert names == ["LC_N32E136.tif", "LC_N32E137.tif", "LC_N33E136.tif", "LC_N33E137.tif"]


def test_spacing_is_metres_in_any_crs(tmp_path):
    dn = scene_array(np.random.default_rng(0), 10, 10)
    with rasters.opened(write(tmp_path / "utm.tif", dn)) as scene:
        assert rasters.spacing(scene) == pytest.approx(5)
    step = 1 / 4500
    degrees = Affine(step, 0, 139, 0, -step, 60)
    path = write(tmp_path / "degrees.tif", dn, crs="EPSG:4326", transform=degrees)
    with rasters.opened(path) as scene:  # a degree of longitude is half as long at 60 N
        assert rasters.spacing(scene) == pytest.approx(111_195 * step * np.sqrt(0.5), rel=1e-3)


def test_strips_cover_every_row_once(tmp_path):
    path = write(tmp_path / "a.tif", scene_array(np.random.default_rng(0), 1030, 3))
    with rasters.opened(path) as scene:
        rows = [r for w in rasters.strips(scene) for r in range(w.row_off, w.row_off + w.height)]
    assert rows == list(range(1030))


@pytest.mark.parametrize("fault", ["missing", "text", "no crs", "dtype", "truncated"])
def test_bad_rasters_are_named(tmp_path, fault):
    path, dn = tmp_path / "scene.tif", scene_array(np.random.default_rng(0), 300, 300)
    if fault == "text":
        path.write_text("not a raster")
    elif fault == "no crs":
        write(path, dn, crs=None, transform=Affine.identity())
    elif fault == "dtype":
        write(path, dn.astype(np.float32))
    elif fault == "truncated":
        write(path, dn)
        path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(InputError, match=str(path)), rasters.opened(path) as scene:
        scene.read(1)


def test_a_folder_is_its_rasters_in_order(tmp_path):
    dn = scene_array(np.random.default_rng(0), 4, 4)
    for name in ("b.tif", "a.tif"):
        write(tmp_path / name, dn)
    (tmp_path / "notes.txt").write_text("x")
    found = rasters.find([tmp_path])
    assert [p.rsplit("/", 1)[-1] for p in found] == ["a.tif", "b.tif"]
    with pytest.raises(InputError, match="more than once"):
        rasters.find([tmp_path, tmp_path / "a.tif"])
    with pytest.raises(InputError, match="no such"):
        rasters.find([tmp_path / "c.tif"])
    layers = [f"N23W161_20_{what}_F02DAR.tif" for what in ("mask", "linci", "date")]
    for name in (*layers, SCANSAR.replace("HH_SLP", "MSK"), SCANSAR.replace("HH_SLP", "LIN")):
        write(tmp_path / name, dn)  # of a product, and no scenes
    assert rasters.find([tmp_path]) == found


def test_an_archive_of_the_mosaic_stands_for_its_hh(tmp_path):
    archive = tmp_path / "N23W161_20_MOS_F02DAR.tar.gz"
    archive.touch()
    inside = f"/vsitar/{archive}/{MOSAIC}"
    assert rasters.find([archive]) == rasters.find([tmp_path]) == [inside]
    assert rasters.on_disk(inside) == archive
    url = f"https://example.org/{archive.name}"
    assert rasters.find([url]) == [f"/vsitar//vsicurl/{url}/{MOSAIC}"]


def test_a_url_is_named_without_its_query():
    assert rasters.name_of(f"https://example.org/a/{MOSAIC}?key=a/b.tif") == MOSAIC
    assert rasters.name_of("a/b?.tif") == "b?.tif"


def test_a_path_is_named_as_its_machine_writes_it(monkeypatch):
    monkeypatch.setattr(rasters, "Path", PureWindowsPath)
    assert rasters.name_of(r"C:\scenes\a.tif") == "a.tif"
    assert rasters.name_of(r"/vsizip/C:\scenes\a.zip/b.tif") == "b.tif"
    assert rasters.name_of("https://example.org/a/b.tif?c") == "b.tif"


def test_work_goes_ahead_in_order_and_not_far():
    asked, used = [], []

    def work(i):
        asked.append(i)
        if i == 7:
            raise InputError("7")
        return i

    def use():
        for i in rasters.ahead(work, range(100), threads=2):
            used.append(i)
            assert max(asked) <= i + 2  # so that memory does not grow with the work

    with pytest.raises(InputError, match="7"):
        use()
    assert used == list(range(7))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with files.replacing(path) as partial:
            partial.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("left", [10, 200_000])
def test_a_raster_that_is_not_whole_is_found_out(tmp_path, left):
    grid = rasters.Grid(rasterio.crs.CRS.from_epsg(32653), Affine.scale(5), 900, 900)
    dn = scene_array(np.random.default_rng(0), 900, 900)
    with rasters.created(tmp_path / "o.tif", grid, {}, dtype="uint16") as out:
        out.write(dn, 1)
    rasters.check_whole(tmp_path / "o.tif", "o")
    torn = tmp_path / "torn.tif"
    torn.write_bytes((tmp_path / "o.tif").read_bytes()[:left])  # without, and with its directory
    with pytest.raises(OSError, match=r"^o: could not be written whole"):
        rasters.check_whole(torn, "o")


@pytest.mark.parametrize("said", ["disk full", "x.txt: disk full"])
def test_a_file_that_cannot_be_written_is_named_once(tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)

    def fail():
        with files.replacing("x.txt"):
            raise OSError(said)

    with pytest.raises(OSError, match="disk full") as caught:
        fail()
    assert str(caught.value).count("x.txt") == 1


def test_current_means_newer_and_made_with_the_same_tags(tmp_path):
    source = write(tmp_path / "s.tif", scene_array(np.random.default_rng(0), 4, 4))
    grid = rasters.Grid(rasterio.crs.CRS.from_epsg(32653), Affine.scale(5), 4, 4)
    with rasters.created(tmp_path / "o.tif", grid, {"A": "1"}, dtype="uint8", tiled=False) as out:
        out.write(np.ones((4, 4), np.uint8), 1)
    assert rasters.is_current(tmp_path / "o.tif", [source], {"A": "1"})
    assert not rasters.is_current(tmp_path / "o.tif", [source], {"A": "2"})
    later = (tmp_path / "o.tif").stat().st_mtime + 10
    os.utime(source, (later, later))
    assert not rasters.is_current(tmp_path / "o.tif", [source], {"A": "1"})
