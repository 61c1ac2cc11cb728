"""Rasters: opening and refusing, what is invalid, grids on the ground, views, whole files."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.warp import transform
from rasterio.windows import Window

from sartutorial import InputError, files, lulc, rasters

LOCAL = 'LOCAL_CS["slant range",UNIT["metre",1]]'
RNG = np.random.default_rng(0)


def raster(path, array, **said):
    """A GeoTIFF that says of itself whatever ``said`` says."""
    write(path, array, **{k: said.pop(k) for k in ("nodata", "crs", "transform") if k in said})
    if said:
        with rasterio.open(path, "r+") as file:
            file.update_tags(1, **said.pop("tags", {}))
            for name, value in said.items():
                setattr(file, name, value)
    return path


# What is invalid ---------------------------------------------------------------------------------


def hidden(path, array, how, mask):
    """A raster whose pixels under ``mask`` are invalid, said in one of the ways that there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(driver="GTiff", dtype=array.dtype, height=array.shape[0], width=array.shape[1],
                   crs=UTM, transform=GRID, count=1)  # fmt: skip
    array = array.copy()
    if isinstance(how, int):
        array[mask] = how
        profile["nodata"] = how
    if how.startswith("alpha") if isinstance(how, str) else False:
        profile |= dict(count=2, alpha="yes")
    if how == "alpha and nodata":
        profile["nodata"] = 77
    internal = "YES" if how == "internal mask" else "NO"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, "w", **profile) as file,
    ):
        file.write(array, 1)
        file.update_tags(QUANTITY="sigma0")
        if isinstance(how, str) and how.startswith("alpha"):
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
            file.write(np.where(mask, 0, 255).astype(array.dtype), 2)
        elif isinstance(how, str):
            file.write_mask(~mask)
    return path


WAYS = [1, 7, 255, "mask beside", "internal mask", "alpha", "alpha and nodata"]


@pytest.mark.parametrize("how", [*WAYS, 65535])
def test_whatever_a_scene_declares_invalid_is_dn_0(tmp_path, how):
    dn = RNG.integers(300, 5000, (40, 50)).astype(np.uint16)
    dn[3, 3:9] = 0  # which is never data
    mask = RNG.random(dn.shape) < 0.3
    path = hidden(tmp_path / "s.tif", dn, how, mask)
    assert path.with_suffix(".tif.msk").exists() == (how == "mask beside")
    with rasters.opened(path) as scene:
        found = rasters.read_dn(scene)
        part = rasters.read_dn(scene, Window(5, 7, 20, 10))
    truth = np.where(mask, 0, dn)
    np.testing.assert_array_equal(found, truth)
    np.testing.assert_array_equal(part, truth[7:17, 5:25])


@pytest.mark.parametrize("how", WAYS)
def test_whatever_land_cover_declares_invalid_is_void(tmp_path, how):
    ids = land_array(RNG, 40, 50)
    ids[0] = 255
    mask = RNG.random(ids.shape) < 0.3
    with rasters.opened(hidden(tmp_path / "t.tif", ids, how, mask), dtype="uint8") as tile:
        found = rasters.read_ids(tile, lulc.HR_LULC)
    truth = np.where(mask | (ids == 255), 0, ids)
    if how in (1, 7):  # what is declared no data is none, also outside of the mask
        truth[ids == how] = 0
    np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("nodata", ["nan", "-9999", "70000", "0.5"])
def test_nodata_that_no_pixel_can_have_hides_none(tmp_path, nodata):
    dn = scene_array(RNG, 20, 30, hole=0.2)
    write(tmp_path / "s.tif", dn, nodata=None)
    vrt = tmp_path / "v.vrt"
    rasterio.shutil.copy(tmp_path / "s.tif", vrt, driver="VRT")
    band = f"<NoDataValue>{nodata}</NoDataValue>\n    <ColorInterp>"
    vrt.write_text(vrt.read_text().replace("<ColorInterp>", band))
    with rasters.opened(vrt) as scene:
        np.testing.assert_array_equal(rasters.read_dn(scene), dn)


@pytest.mark.parametrize(
    ("scene", "mask", "void"),
    [
        ("N23W161_20_sl_HH_F02DAR.tif", "N23W161_20_mask_F02DAR.tif", (0,)),
        ("N23W161_07_sl_HH.tif", "N23W161_07_mask.tif", (0,)),
        ("ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif", "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif",
         (0, 5)),
    ],
)  # fmt: skip
def test_the_mask_of_a_product_is_honoured(tmp_path, scene, mask, void):
    dn = RNG.integers(2, 5000, (40, 50)).astype(np.uint16)
    values = RNG.choice([0, 1, 2, 5, 50, 255], dn.shape).astype(np.uint8)
    write(tmp_path / scene, dn)
    assert rasters.mask_of(tmp_path / scene) is None
    write(tmp_path / mask, values, nodata=None)
    assert rasters.mask_of(tmp_path / scene) == str(tmp_path / mask)
    with rasters.opened(tmp_path / scene) as file:
        np.testing.assert_array_equal(rasters.read_dn(file), np.where(np.isin(values, void), 0, dn))
    write(tmp_path / mask, values[1:], nodata=None)
    with (
        pytest.raises(InputError, match=rf"{mask}: not on the grid"),
        rasters.opened(tmp_path / scene),
    ):
        pass


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_reduced_view_is_the_mean_power_of_the_valid(tmp_path_factory, height, width, data):
    rows = data.draw(st.integers(1, height))
    columns = data.draw(st.integers(1, width))
    dn = scene_array(np.random.default_rng(height * width), height, width, hole=0.3)
    path = write(tmp_path_factory.mktemp("r") / "s.tif", dn)
    with rasters.opened(path) as scene:
        found = rasters.read_reduced(scene, Window(0, 0, width, height), (rows, columns))
    for (r, c), value in np.ndenumerate(found):
        block = dn[r * height // rows : (r + 1) * height // rows,
                   c * width // columns : (c + 1) * width // columns].astype(float)  # fmt: skip
        valid = block[block > 0]
        assert value == (np.rint(np.sqrt((valid**2).mean())) if valid.size else 0)


def test_unknown_ids_are_named_with_their_file(tmp_path):
    path = write(tmp_path / "t.tif", np.array([[1, 77]], np.uint8))
    with (
        rasters.opened(path, dtype="uint8") as tile,
        pytest.raises(InputError, match=r"t\.tif: unknown class ids \[77\]"),
    ):
        rasters.read_ids(tile, lulc.HR_LULC)


def test_a_class_0_is_a_class(tmp_path):
    rows = "id,name,colour,index\n0,sea,#0000ff,0\n1,land,#00ff00,1\n"
    (tmp_path / "l.csv").write_text(rows)
    legend = lulc.legend(tmp_path / "l.csv")
    path = write(tmp_path / "t.tif", np.array([[0, 1, 255, 9]], np.uint8), nodata=9)
    with rasters.opened(path, dtype="uint8") as tile:
        assert rasters.read_ids(tile, legend).tolist() == [[0, 1, 255, 255]]


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "said", "words"),
    [
        ("uint16", dict(scales=(0.01,), offsets=(-40,)), "scale 0.01 and offset -40"),
        ("uint16", dict(scales=(0.1,)), "scale 0.1"),
        ("uint16", dict(offsets=(5,)), "offset 5"),
        ("uint16", dict(units=("dB",)), "the unit 'dB'"),
        ("uint16", dict(units=("m",)), "the unit 'm'"),
        ("uint16", dict(tags=dict(scale_factor="0.01", add_offset="-40")), "scale 0.01 and offset"),
        ("uint16", dict(tags=dict(units="dB")), "the unit 'dB'"),
        ("uint16", dict(crs=None, transform=Affine.identity()), "no georeference"),
        ("uint16", dict(transform=Affine(5, 0, 0, 0, 0, 0)), "no georeference"),
        ("uint16", dict(crs=LOCAL), "CRS.*slant range.*no place on Earth"),
        ("uint16", dict(crs="EPSG:4978"), "no place on Earth"),
        ("uint16", dict(transform=Affine(5, 0, 5e9, 0, -5, 5e9)), "no place on Earth"),
        ("float32", {}, "holds float32, expected uint16 amplitude DN"),
        ("uint8", {}, "holds uint8"),
    ],
)
def test_a_scene_that_is_none_is_refused_in_one_line(tmp_path, array, said, words):
    path = raster(tmp_path / "s.tif", scene_array(RNG, 9, 9).astype(array), **said)
    with pytest.raises(InputError, match=rf"s\.tif: .*{words}") as caught, rasters.opened(path):
        pass
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("array", "said", "words"),
    [
        ("uint8", dict(scales=(2,)), "scale 2"),
        ("uint8", dict(units=("percent",)), "the unit 'percent'"),
        ("int16", {}, "expected uint8 ids.*-ot Byte"),
    ],
)
def test_land_cover_that_is_none_is_refused_in_one_line(tmp_path, array, said, words):
    path = raster(tmp_path / "t.tif", land_array(RNG, 9, 9).astype(array), **said)
    with (
        pytest.raises(InputError, match=rf"t\.tif: .*{words}"),
        rasters.opened(path, dtype="uint8"),
    ):
        pass


@pytest.mark.parametrize("unit", ["DN", "amplitude"])
def test_a_unit_that_is_meant_is_no_fault(tmp_path, unit):
    with rasters.opened(raster(tmp_path / "s.tif", scene_array(RNG, 9, 9), units=(unit,))) as scene:
        assert rasters.read_dn(scene).any()


def test_several_bands_are_refused(tmp_path):
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", count=2, dtype="uint16", height=4,
                       width=4, crs=UTM, transform=GRID):  # fmt: skip
        pass
    with pytest.raises(InputError, match="2 bands"), rasters.opened(tmp_path / "s.tif"):
        pass


@pytest.mark.parametrize(
    "crs",
    [
        "EPSG:32653+5773",
        "+proj=utm +zone=53 +ellps=bessel +towgs84=-146.414,507.337,680.507 +units=m",
        "EPSG:6690",
        "EPSG:3857",
        "EPSG:2234",  # feet
        "EPSG:2234+6360",
        "EPSG:32660",
    ],
)
def test_a_place_on_earth_is_enough(tmp_path, crs):
    with rasters.opened(write(tmp_path / "s.tif", scene_array(RNG, 9, 9), crs=crs)) as scene:
        assert rasters.read_dn(scene).any()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "no such file"),
        ("text", "not a readable raster"),
        ("truncated", "not a readable raster"),
        ("garbled", "cannot be read"),
    ],
)
def test_bad_rasters_are_named(tmp_path, fault, words):
    path = tmp_path / "scene.tif"
    if fault == "text":
        path.write_text("not a raster")
    elif fault != "missing":
        with rasters.create(path, grid(UTM, GRID, 300, 300), {}, dtype="uint16") as file:
            file.write(scene_array(RNG, 300, 300), 1)
        whole = path.read_bytes()
        half = len(whole) // 2
        path.write_bytes(whole[:9] if fault == "truncated" else whole[:half] + bytes(half))
    with pytest.raises(InputError, match=f"{path}: {words}"), rasters.opened(path) as scene:
        rasters.read_dn(scene)


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path):
    path, closed = write(tmp_path / "s.tif", scene_array(RNG, 9, 9)), tmp_path / "closed"
    path.chmod(0)
    closed.mkdir(mode=0)
    for parent in [tmp_path, *tmp_path.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    said = tmp_path / "said.txt"
    said.touch()
    said.chmod(0o666)
    if (child := os.fork()) == 0:  # a user who may not read everything, also where root tests
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            said.write_text(
                "\n".join(map(refusal, (path, closed, closed / "s.tif", tmp_path / "no")))
            )
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    one, two, three, four = said.read_text().splitlines()
    assert f"{path}: not readable (Permission denied)" in one
    assert f"{closed}: not readable" in two
    assert f"{closed}/s.tif: not readable" in three
    assert f"{tmp_path}/no: no such scene" in four


def refusal(path):
    try:
        with rasters.opened(files.find_scenes(path)[0]):
            return "opened"
    except InputError as error:
        return str(error)


# Another program's PROJ --------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["PROJ_LIB", "PROJ_DATA"])
def test_projs_data_of_another_program_are_named(tmp_path, variable):
    path = write(tmp_path / "s.tif", scene_array(RNG, 9, 9))
    code = f"import sartutorial as st\nprint('imported', flush=True)\nst.read_db(r'{path}')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env=os.environ | {variable: str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == "imported\n"
    assert f"InputError: {variable}={tmp_path}: " in done.stderr.splitlines()[-1]


# Grids -------------------------------------------------------------------------------------------


def grid(crs, transform, width=400, height=300):
    return rasters.Grid(CRS.from_user_input(crs), transform, width, height)


DEGREES = Affine(1e-4, 0, 135, 0, -1e-4, 33)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (("OGC:CRS84", DEGREES), ("EPSG:4326", DEGREES), True),
        (("EPSG:4979", DEGREES), ("EPSG:4326", DEGREES), True),
        (("EPSG:32653+5773", GRID), (UTM, GRID), True),
        ((UTM, GRID), ("+proj=utm +zone=53 +datum=WGS84", GRID), True),
        ((UTM, GRID), (UTM, GRID * Affine.translation(1e-10, 0)), True),
        ((UTM, GRID), (UTM, GRID * Affine.scale(1 + 1e-7)), True),
        ((UTM, GRID), (UTM, GRID * Affine.scale(1 + 1e-5)), False),  # 0.004 px at the far edge
        ((UTM, GRID), (UTM, GRID * Affine.translation(0.01, 0)), False),
        ((UTM, GRID), ("EPSG:32654", GRID), False),
        ((UTM, GRID), ("EPSG:4326", DEGREES), False),
        ((UTM, GRID), (UTM, GRID, 401), False),
        ((UTM, GRID), (UTM, GRID * Affine.translation(0, 300) * Affine.scale(1, -1)), False),
    ],
)
def test_grids_are_one_by_meaning_to_a_thousandth_of_a_pixel(a, b, same):
    assert rasters.same_grid(grid(*a), grid(*b)) == same
    assert rasters.same_grid(grid(*b), grid(*a)) == same


@pytest.mark.parametrize("angle", [0, 20])
def test_bounds_do_not_depend_on_the_orientation(angle):
    north_up = grid(UTM, GRID * Affine.rotation(angle))
    flips = (Affine.translation(0, 300) * Affine.scale(1, -1),
             Affine.translation(400, 0) * Affine.scale(-1, 1))  # fmt: skip
    ((west, south, east, north),) = expected = rasters.bounds_of(north_up)
    assert west < east
    assert south < north
    for flip in flips:
        flipped = north_up._replace(transform=north_up.transform * flip)
        np.testing.assert_allclose(rasters.bounds_of(flipped), expected, rtol=1e-12)


def test_bounds_across_180_degrees_are_two_boxes():
    (x,), (y,) = transform("EPSG:4326", "EPSG:32660", [179.99], [51.9])
    boxes = rasters.bounds_of(grid("EPSG:32660", Affine(5, 0, x, 0, -5, y)))
    (west, south, middle, north), (again, _, east, _) = boxes
    assert (middle, again) == (180, -180)
    assert west == pytest.approx(179.99, abs=1e-3)
    assert -180 < east < -179.97
    assert 51.88 < south < north < 51.91


@pytest.mark.parametrize(
    ("west", "width", "boxes"),
    [
        (179.99, 400, [(179.99, 180), (-180, -179.97)]),
        (359.99, 400, [(-0.01, 0.03)]),  # of a raster that counts from 0 to 360
        (200, 400, [(-160, -159.96)]),
        (-180 - 1e-12, 100, [(-180, -179.99)]),  # no sliver from rounding
        (179.99, 100, [(179.99, 180)]),
        (-180, 3_600_000, [(-180, 180)]),
    ],
)
def test_degrees_are_from_minus_180_to_180(west, width, boxes):
    found = rasters.bounds_of(grid("EPSG:4326", Affine(1e-4, 0, west, 0, -1e-4, 33), width))
    assert [(b[0], b[2]) for b in found] == [pytest.approx(b, abs=1e-9) for b in boxes]


def test_bounds_at_a_pole_hold_the_pole():
    (box,) = rasters.bounds_of(grid("EPSG:3031", Affine(5, 0, -1000, 0, -5, 700)))
    assert box[0] == -180
    assert box[1] == -90
    assert box[2] == 180


@pytest.mark.parametrize(
    ("crs", "transform", "metres", "tolerance"),
    [
        (UTM, GRID, 5, 1e-3),  # a zone's scale is 0.9996 at its middle
        ("EPSG:4326", Affine(1 / 4500, 0, 139, 0, -1 / 4500, 60), 111_413 / 4500 * 0.5**0.5, 2e-3),
        ("EPSG:3857", Affine(10, 0, 139 * 111319.5, 0, -10, 8399737.89), 5, 3e-3),  # 60 N
        ("EPSG:2234", Affine(10, 0, 1e6, 0, -10, 7e5), 3.048, 1e-3),  # US survey feet
        ("EPSG:32660", Affine(5, 0, 704_000, 0, -5, 5_750_000), 5, 1e-3),  # across 180 degrees
        ("EPSG:6933", Affine(10, 0, 139e5, 0, -10, 5e6), 10, 1e-3),  # equal areas
    ],
)
def test_the_pixel_size_is_metres_on_the_ground(tmp_path, crs, transform, metres, tolerance):
    path = write(tmp_path / "s.tif", scene_array(RNG, 10, 10), crs=crs, transform=transform)
    with rasters.opened(path) as scene:
        assert rasters.pixel_size(scene) == pytest.approx(metres, rel=tolerance)
        same = rasters.pixel_size(rasters.grid_of(scene))
    assert same == pytest.approx(metres, rel=tolerance)
    turned = transform * Affine.rotation(30)
    assert rasters.pixel_size(grid(crs, turned, 10, 10)) == pytest.approx(same, rel=1e-5)


def test_row_windows_cover_every_row_once(tmp_path):
    path = write(tmp_path / "a.tif", scene_array(RNG, 1030, 3))
    with rasters.opened(path) as scene:
        windows = list(rasters.row_windows(scene))
    rows = [r for w in windows for r in range(w.row_off, w.row_off + w.height)]
    assert rows == list(range(1030))


def test_threads_follow_gdals_own_variable(monkeypatch):
    monkeypatch.setenv("GDAL_NUM_THREADS", "3")
    assert rasters.threads() == 3
    for other in ("ALL_CPUS", "0", ""):
        monkeypatch.setenv("GDAL_NUM_THREADS", other)
        assert 1 <= rasters.threads() <= os.cpu_count()


# Views -------------------------------------------------------------------------------------------


def test_a_scene_is_read_in_decibels_with_its_grid(tmp_path):
    dn = scene_array(RNG, 300, 200, hole=0.1)
    path = write(tmp_path / "s.tif", dn, CALIBRATION_DB="-80")
    view = rasters.read_db(path)
    assert view.quantity == "sigma0"
    assert np.isnan(view.db[dn == 0]).all()
    np.testing.assert_allclose(view.db[dn > 0], 20 * np.log10(dn[dn > 0]) - 80, atol=1e-4)
    part = rasters.read_db(path, window=(10, 20, 30, 40), quantity="gamma0")
    np.testing.assert_array_equal(part.db, view.db[10:40, 20:60])
    assert part.grid == rasters.Grid(view.grid.crs, GRID * Affine.translation(20, 10), 40, 30)
    assert part.quantity == "gamma0"
    small = rasters.read_db(path, max_size=30)
    assert small.db.shape == (30, 20)
    assert small.grid.transform.almost_equals(GRID * Affine.scale(10))
    block = dn[:10, :10].astype(float)
    assert small.db[0, 0] == pytest.approx(
        10 * np.log10((block[block > 0] ** 2).mean()) - 80, abs=0.01
    )


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 301, 5), (0, 196, 5, 5), (0, 0, 0, 5)])
def test_a_window_outside_is_refused(tmp_path, window):
    path = write(tmp_path / "s.tif", scene_array(RNG, 300, 200))
    with pytest.raises(InputError, match=r"s\.tif: window .*300 rows and 200 columns"):
        rasters.read_db(path, window=window)


def test_one_view_is_of_one_raster(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.tif", scene_array(RNG, 9, 9))
    with pytest.raises(InputError, match=r"holds 2 rasters, such as .*a\.tif; name one"):
        rasters.read_db(tmp_path)


def test_land_cover_is_read_with_its_own_legend(tmp_path):
    ids = np.repeat(np.repeat(np.array([[10, 20], [0, 100]], np.uint8), 20, 0), 20, 1)
    legend = '{"name": "nothing"}'
    path = write(tmp_path / "w.tif", ids)
    with pytest.raises(InputError, match="unknown class ids"):
        rasters.read_classes(path)
    found = rasters.read_classes(path, legend="worldcover", max_size=2)
    assert found.ids.tolist() == [[10, 20], [0, 100]]
    assert found.grid.transform == GRID * Affine.scale(20)
    with rasterio.open(path, "r+") as file:
        file.update_tags(LEGEND=json.dumps(lulc.WORLDCOVER.to_dict()))
    assert rasters.read_classes(path).legend == lulc.WORLDCOVER
    assert rasters.read_classes(path, window=(0, 0, 20, 20)).ids.tolist() == [[10] * 20] * 20
    with rasterio.open(path, "r+") as file:
        file.update_tags(LEGEND=legend)
    with pytest.raises(InputError, match=r"w\.tif: its tag LEGEND"):
        rasters.read_classes(path)


# Whole files -------------------------------------------------------------------------------------


def test_a_raster_is_tiled_compressed_and_says_what_made_it(tmp_path):
    place = grid(UTM, GRID, 900, 700)
    dn = scene_array(RNG, 700, 900)
    with rasters.create(tmp_path / "o.tif", place, {"A": "1"}, dtype="uint16") as out:
        out.write(dn, 1)
    with rasterio.open(tmp_path / "o.tif") as found:
        assert rasters.grid_of(found) == place
        assert found.nodata == 0
        assert found.profile["tiled"]
        assert found.profile["compress"] == "deflate"
        assert found.tags()["A"] == "1"
        assert found.tags()["SOFTWARE"].startswith("sartutorial ")
        np.testing.assert_array_equal(found.read(1), dn)


@pytest.mark.parametrize("left", [10, 200_000])
def test_a_raster_that_is_not_whole_is_found_out(tmp_path, left):
    """A full disk: GDAL says nothing, and the file ends too soon, with or without its directory."""
    path = tmp_path / "o.tif"

    def tear():
        with rasters.create(path, grid(UTM, GRID, 900, 900), {}, dtype="uint16") as out:
            out.write(scene_array(RNG, 900, 900), 1)
            out.close()
            os.truncate(path, left)

    with pytest.raises(OSError, match="not written whole; is the disk full"):
        tear()


def test_memory_is_not_gdals_to_keep():
    code = (
        "import sartutorial.rasters, rasterio; print(rasterio.env.get_gdal_config('GDAL_CACHEMAX'))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GDAL_CACHEMAX"}
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment)
    assert int(done.stdout) in (64, 64 << 20)
    done = subprocess.run(
        asked, capture_output=True, text=True, env=environment | {"GDAL_CACHEMAX": "99"}
    )
    assert int(done.stdout) in (99, 99 << 20)


def test_nothing_is_warned_of_that_is_refused_anyway(tmp_path):
    path = raster(tmp_path / "s.tif", scene_array(RNG, 9, 9), crs=None, transform=Affine.identity())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="no georeference"), rasters.opened(path):
            pass
