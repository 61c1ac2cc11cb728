"""Patches: cut and laid back is the identity on any grid; a folder is one set, whoever cuts into it."""

import contextlib
import itertools
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import tracemalloc

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from rasterio.crs import CRS
from rasterio.warp import transform
from shapely.geometry import Polygon, box

import sartutorial as st
from sartutorial import HR_LULC, WORLDCOVER, InputError, Store, patches, radiometry

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
JAXA = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif"


def scenes_in(folder, *names, size=64, hole=0.0, **options):
    """Scenes of random DN and labels, the rasters' names being ``names``."""
    rng = np.random.default_rng(sum(map(ord, "".join(names))))
    paths = [
        write(folder / "half" / n, scene_array(rng, size, size, hole), **options) for n in names
    ]
    for name in names:
        write(folder / "labels" / name, land_array(rng, size, size), **options)
    return paths


def arrays(folder):
    """The bytes of every product in a folder of patches."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if ".made" not in name}


@FIXED
@given(
    some.integers(1, 150), some.integers(1, 150), some.sampled_from([8, 16, 31]),
    some.sampled_from([*PLACES]), some.sampled_from([0.0, 9.3, -41]), some.booleans(),
    some.sampled_from([None, 0, 1]), some.floats(0, 1),
    some.sampled_from(["none", "edge", "dots", "all"]), some.integers(0, 99),
)  # fmt: skip
def test_cut_and_laid_back_is_the_identity(
    tmp_path, height, width, size, crs, angle, south_up, nodata, max_void, pattern, seed
):
    """Any size, CRS, orientation, declared nodata and pattern of holes, against numpy alone."""
    rng = np.random.default_rng(seed)
    where = tmp_path / f"{rng.bit_generator.random_raw()}-{height}-{width}-{max_void}"
    x, y, step = PLACES[crs]
    at = Affine(step, 0, x, 0, step if south_up else -step, y) * Affine.rotation(angle)
    dn, hole = scene_array(rng, height, width) + np.uint16(1), nodata or 0
    rows, cols = np.indices(dn.shape)
    dn[{"none": dn < 0, "edge": cols < 0.3 * rows + 5, "dots": rng.random(dn.shape) < 1e-3,
        "all": dn > 0}[pattern]] = hole  # fmt: skip
    ids = land_array(rng, height, width)
    ids[rows + cols < 60] = HR_LULC.void
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
        with pytest.raises(InputError, match=r"less than --size|no patch of|no data"):
            st.cut(scene, where / "labels", where / "out", **call)
        return
    st.cut(scene, where / "labels", where / "out", **call)
    index = st.read_index(where / "out", geometry=True)
    assert list(zip(index["row"], index["col"], strict=True)) == kept  # in order, and none twice
    mosaic, land = np.full(dn.shape, np.nan, np.float32), np.zeros_like(ids)
    store = Store(where / "out", index)
    for i, row in enumerate(index.itertuples()):
        assert row.patch == f"IMG_{row.row}_{row.col}"
        cell = np.s_[row.row : row.row + size, row.col : row.col + size]
        mosaic[cell], land[cell] = store.sar(i), store.label(i)
        here, window = Affine(*row.transform), rasterio.windows.Window(row.col, row.row, size, size)
        assert here.almost_equals(rasterio.windows.transform(window, at), 1e-9)
        assert CRS.from_user_input(row.crs) == CRS.from_string(crs)
        corners = [here * p for p in ((0, 0), (0, size), (size, size), (size, 0))]
        expected = Polygon(
            zip(*transform(crs, "EPSG:4326", *zip(*corners, strict=True)), strict=True)
        )
        assert row.geometry.symmetric_difference(expected).area < 1e-6 * expected.area
        counts = [getattr(row, f"n_{i or 'void'}") for i in range(16)]
        assert counts == np.bincount(ids[cell].ravel(), minlength=16).tolist()
    covered = np.isfinite(mosaic)
    assert covered.sum() == len(kept) * size**2
    np.testing.assert_array_equal(mosaic[covered], radiometry.lookup_table()[dn][covered])
    np.testing.assert_array_equal(land[covered], ids[covered])


def test_a_scene_larger_than_a_window_is_cut_whole(tmp_path, monkeypatch):
    """Windows of several patches, and of fewer at the edges, in blocks of the file and in strips."""
    monkeypatch.setattr(patches, "WINDOW", (48, 80))
    rng = np.random.default_rng(1)
    dn, ids = scene_array(rng, 300, 400), land_array(rng, 300, 400)
    for name, options in (
        ("strips", {}),
        ("tiles", dict(tiled=True, blockxsize=32, blockysize=16)),
    ):
        grid = dict(height=300, width=400, crs=UTM, transform=GRID)
        for kind, pixels in (("half", dn), ("labels", ids)):
            (tmp_path / kind).mkdir(exist_ok=True)
            with rasterio.open(tmp_path / kind / f"{name}.tif", "w", count=1, dtype=pixels.dtype,
                               **grid, **options) as file:  # fmt: skip
                file.write(pixels, 1)
                file.update_tags(QUANTITY="sigma0")
        scene = tmp_path / "half" / f"{name}.tif"
        st.cut(scene, tmp_path / "labels", tmp_path / name, size=24, max_void=1)
        index = st.read_index(tmp_path / name)
        assert len(index) == (300 // 24) * (400 // 24)
        store = Store(tmp_path / name, index)
        for i, (row, col) in enumerate(zip(index["row"], index["col"], strict=True)):
            cell = np.s_[row : row + 24, col : col + 24]
            np.testing.assert_array_equal(store.sar(i), radiometry.dn_to_db(dn[cell]))
            np.testing.assert_array_equal(store.label(i), ids[cell])


def test_footprints_of_a_rotated_swath_fill_it_once(tmp_path):
    scene = scenes_in(tmp_path, "IMG.tif", size=96, transform=GRID * Affine.rotation(12))
    st.cut(scene, tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    ground = st.read_index(tmp_path / "out", geometry=True).to_crs(UTM).geometry
    assert len(ground) == 9
    assert ground.area.sum() == pytest.approx((96 * 5) ** 2, rel=1e-6)
    assert ground.union_all().area == pytest.approx((96 * 5) ** 2, rel=1e-6)
    assert box(*ground.iloc[0].bounds).area > 1.3 * ground.iloc[0].area  # what a box would add


@pytest.mark.parametrize("where", ["zone 60", "zone 1", "degrees", "degrees past 180", "from -180"])
def test_footprints_across_the_date_line_lie_on_both_of_its_sides(tmp_path, where):
    x, y, crs, step = {
        "zone 60": (819_000, 1_882_500, "EPSG:32660", 5),
        "zone 1": (180_000, 1_882_500, "EPSG:32601", 5),
        "degrees": (179.997, -17, "EPSG:4326", 1 / 20_000),
        "degrees past 180": (180.5, -17, "EPSG:4326", 1 / 20_000),
        "from -180": (-180.003, -17, "EPSG:4326", 1 / 20_000),
    }[where]
    at = Affine(step, 0, x, 0, -step, y)
    scene = scenes_in(tmp_path, "IMG.tif", size=224, crs=crs, transform=at)
    st.cut(scene, tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    ground = st.read_index(tmp_path / "out", geometry=True).geometry
    west, _, east, _ = ground.total_bounds
    assert -180 <= west < east <= 180
    assert ground.is_valid.all()
    per_degree = step**2 if step < 1 else (5 / 111_320) ** 2 / np.cos(np.radians(17))
    assert shapely.area(ground.to_numpy()).sum() == pytest.approx(
        224**2 * per_degree, rel=0.02
    )  # and none round the Earth
    assert (ground.geom_type == "MultiPolygon").any() == (where != "degrees past 180")
    assert east - west > 359 or where == "degrees past 180"


def test_the_index_can_be_read_by_others(tmp_path):
    st.cut(scenes_in(tmp_path, JAXA), tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    path = tmp_path / "out" / "patches.parquet"
    plain, ground = pd.read_parquet(path), gpd.read_parquet(path)
    assert plain["geometry"].map(type).eq(bytes).all()
    assert ground.crs.to_epsg() in (None, 4326)
    assert ground.crs == "OGC:CRS84"
    ours = st.read_index(tmp_path / "out", geometry=True)
    assert ours.crs == "EPSG:4326"
    assert ours.geometry.to_list() == ground.geometry.to_list()
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    assert geo["primary_column"] in geo["columns"]
    assert ours.attrs["legend"] == plain.attrs["legend"] == HR_LULC.to_dict()
    assert patches.read_legend(tmp_path / "out") == HR_LULC
    first = plain.iloc[0]
    assert (first["quantity"], first["polarisation"], first["calibration_db"]) == (
        "sigma0",
        "HH",
        -83,
    )
    assert first["spacing"] == pytest.approx(5, rel=1e-3)
    sar = np.load(tmp_path / "out" / "arrays" / f"{first['scene']}.sar.npy", mmap_mode="r")
    assert (sar.dtype, sar.shape) == (np.uint16, (4, 32, 32))


BARE = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rasterio", "affine", "geopandas", "shapely", "pyproj", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
from sartutorial import Store, read_index
index = read_index("out")
store = Store("out", index)
print(len(index), sum(float(store.sar(i).sum()) + int(store.label(i).sum()) for i in range(len(index))))
"""


def test_pixels_need_no_raster_library(tmp_path):
    scenes_in(tmp_path, JAXA)
    st.cut(tmp_path / "half", tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    said = subprocess.check_output([sys.executable, "-c", BARE], cwd=tmp_path, text=True).split()
    store = Store(tmp_path / "out", st.read_index(tmp_path / "out"))
    total = sum(store.sar(i).sum() + store.label(i).sum() for i in range(4))
    assert int(said[0]) == 4
    assert float(said[1]) == pytest.approx(total, rel=1e-6)


def test_a_store_that_is_sent_to_a_worker_takes_no_pixels_with_it(tmp_path):
    scenes_in(tmp_path, JAXA)
    st.cut(tmp_path / "half", tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    store = Store(tmp_path / "out", st.read_index(tmp_path / "out")[2:])
    first = store.sar(0)
    sent = pickle.dumps(store)
    assert len(sent) < 32 * 32 * 2
    np.testing.assert_array_equal(pickle.loads(sent).sar(0), first)


@pytest.mark.parametrize("what", ["gone", "short", "other size", "text", "hole"])
def test_a_damaged_array_is_named_and_mended_by_cutting_again(tmp_path, what):
    scenes_in(tmp_path, "a.tif", "b.tif")
    call = (tmp_path / "half", tmp_path / "labels", tmp_path / "out")
    st.cut(*call, size=32, max_void=1)
    whole = arrays(tmp_path / "out")
    file = tmp_path / "out" / "arrays" / "a.sar.npy"
    if what == "hole":
        np.lib.format.open_memmap(file, mode="r+")[1, 5, 7] = 0
    elif what == "other size":
        np.save(file, np.ones((4, 16, 16), np.uint16))
    elif what == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000] if what == "short" else b"text")
    index = st.read_index(tmp_path / "out")
    with pytest.raises(
        InputError, match=r"a_0_32.*cut it again|a_0_32.*run 'sartutorial patches'"
    ) as said:
        Store(tmp_path / "out", index).sar(1)
    assert "\n" not in str(said.value)
    Store(tmp_path / "out", index).sar(4)  # of scene b
    file.unlink(missing_ok=True)
    st.cut(*call, size=32, max_void=1)
    assert arrays(tmp_path / "out") == whole


def test_only_what_changed_is_cut_anew(tmp_path):
    scenes = scenes_in(tmp_path, "a.tif", "ab.tif", "b.tif")

    def cut(chosen=tmp_path / "half"):
        st.cut(chosen, tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()
                and ".made" not in str(p)}  # fmt: skip

    before = cut()
    assert cut() == before
    scenes[0].touch()  # as a copy would: the same content
    assert cut() == before
    write(scenes[0], scene_array(np.random.default_rng(9), 64, 64))
    after = cut()
    assert after.keys() == before.keys()
    anew = {p.name for p in after if after[p] != before[p]}
    assert anew == {"a.sar.npy", "a.label.npy", "a.parquet", "patches.parquet"}
    assert cut(scenes[0]) == after  # the folder's other scenes stay in its index
    assert len(st.read_index(tmp_path / "out")) == 12


def test_other_labels_or_another_scene_are_cut_anew_however_old(tmp_path):
    """Files of the same name, size and time in another folder, so that the content alone tells them."""
    rng = np.random.default_rng(0)
    for i, folder in enumerate(("one", "two"), start=1):
        write(tmp_path / folder / "IMG.tif", scene_array(rng, 64, 64))
        write(tmp_path / f"{folder}-labels" / "IMG.tif", np.full((64, 64), i, np.uint8))

    def cut(scene, labels):
        out = tmp_path / "out"
        st.cut(tmp_path / scene / "IMG.tif", tmp_path / f"{labels}-labels", out, size=64)
        index = st.read_index(out)
        with rasterio.open(tmp_path / scene / "IMG.tif") as source:
            np.testing.assert_array_equal(
                Store(out, index).sar(0), radiometry.dn_to_db(source.read(1))
            )
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
        st.cut(archive, tmp_path / "labels", tmp_path / "out", size=64)
        index = st.read_index(tmp_path / "out")
        assert index["quantity"].tolist() == ["gamma0"]
        return Store(tmp_path / "out", index).sar(0).tobytes()

    assert cut() != cut()


def test_void_is_tolerated_as_far_as_asked(tmp_path):
    scene = scenes_in(tmp_path, "IMG.tif")
    ids = np.full((64, 64), 4, np.uint8)
    ids[:32, :16] = 255  # half of the upper left patch
    write(tmp_path / "labels" / "IMG.tif", ids)
    for max_void, kept in ((0.0, 3), (0.4, 3), (0.5, 4)):
        st.cut(scene, tmp_path / "labels", tmp_path / "out", size=32, max_void=max_void)
        index = st.read_index(tmp_path / "out")
        assert len(index) == kept
        assert index["n_void"].sum() == 512 * (kept == 4)
        assert len(np.load(tmp_path / "out" / "arrays" / "IMG.sar.npy")) == kept  # nothing stale


def test_scenes_are_collected_in_any_order_and_by_any_way(tmp_path):
    """One call, calls in another order, the same twice at once, a job a scene: equal bytes."""
    names = [f"{n}.tif" for n in ("a-b", "a", "c")]
    scenes_in(tmp_path, *names)
    code = """
import sys
import sartutorial as st
st.cut(sys.argv[1].split(","), "labels", sys.argv[2], size=32, max_void=1)
"""

    def job(out, *chosen):
        scenes = ",".join(f"half/{n}" for n in chosen)
        return subprocess.Popen([sys.executable, "-c", code, scenes, out], cwd=tmp_path)

    for jobs in ([job("twice", *names), job("twice", *names)], [job("array", n) for n in names]):
        assert [process.wait() for process in jobs] == [0] * len(jobs)
    st.cut(tmp_path / "half", tmp_path / "labels", tmp_path / "whole", size=32, max_void=1)
    for name in reversed(names):
        st.cut(
            tmp_path / "half" / name, tmp_path / "labels", tmp_path / "order", size=32, max_void=1
        )
    whole = arrays(tmp_path / "whole")
    assert len(whole) == 10
    for folder in ("twice", "array", "order"):
        assert arrays(tmp_path / folder) == whole
    index = st.read_index(tmp_path / "array")
    assert index["scene"].unique().tolist() == ["a", "a-b", "c"]
    assert len(index) == 12


def kinds(folder):
    """A scene, and others that must not be in a set with it, with what the refusal says."""
    rng = np.random.default_rng(0)
    dn, ids = scene_array(rng, 64, 64), np.full((64, 64), 10, np.uint8)
    for name, at, tags, tagged in (
        ("IMG-HH-ALOS2458503210-221119-FBDR2.1GUD.tif", GRID, {}, {}),
        ("IMG-HV-ALOS2458503210-221119-FBDR2.1GUD.tif", GRID, {}, {}),
        ("HH-ALOS2458503210-221119-FBDR2.1GUD-mine.tif", GRID, {"QUANTITY": "gamma0"}, {}),
        ("IMG-HH-ALOS2458503220-221119-UBSR2.1GUD.tif", GRID * Affine.scale(0.5), {}, {}),
        ("IMG-HH-ALOS2458503230-221119-UBSR2.1GUD.tif", GRID, {},
         {"LEGEND": json.dumps(WORLDCOVER.to_dict())}),
    ):  # fmt: skip
        write(folder / "half" / name, dn, transform=at, **tags)
        write(folder / "labels" / name, ids, transform=at, **tagged)
    return sorted((folder / "half").iterdir())


@pytest.mark.parametrize(
    ("other", "words"),
    [("HV", r"polarisation \(HV, HH\)|polarisation \(HH, HV\)"), ("mine", "quantity"),
     ("3220", "spacing"), ("3230", r"legend \(worldcover, hr-lulc\)|legend \(hr-lulc, worldcover\)")],
)  # fmt: skip
def test_a_set_mixes_nothing(tmp_path, other, words):
    """Not in one call, and not in calls one after the other; the folder stays the set that it was."""
    first = next(
        p for p in kinds(tmp_path) if "HH-ALOS2458503210" in p.name and "mine" not in p.name
    )
    second = next(p for p in first.parent.iterdir() if other in p.name)
    call = dict(size=32, max_void=1)
    for chosen in ([first, second], [second, first]):
        with pytest.raises(InputError, match=words) as said:
            st.cut(chosen, tmp_path / "labels", tmp_path / "one", **call)
        assert first.name in str(said.value) and second.name in str(said.value)
        assert not (tmp_path / "one").exists()
    st.cut(first, tmp_path / "labels", tmp_path / "two", **call)
    before = arrays(tmp_path / "two")
    with pytest.raises(InputError, match=words) as said:
        st.cut(second, tmp_path / "labels", tmp_path / "two", **call)
    assert first.name in str(said.value) and second.name in str(said.value)
    assert arrays(tmp_path / "two") == before


def test_patches_of_two_sizes_are_not_mixed(tmp_path):
    one, two = scenes_in(tmp_path, "a.tif", "b.tif")
    st.cut(one, tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    with pytest.raises(InputError, match=r"b.tif and a.tif: differ in size \(16, 32\)"):
        st.cut(two, tmp_path / "labels", tmp_path / "out", size=16, max_void=1)
    st.cut(one, tmp_path / "labels", tmp_path / "out", size=16, max_void=1)  # alone, it may change
    assert set(st.read_index(tmp_path / "out")["size"]) == {16}


def test_scenes_of_one_stem_are_refused(tmp_path):
    one, two = scenes_in(tmp_path, "scene.tif", "scene.tiff")
    shutil.copy(tmp_path / "labels" / "scene.tiff", tmp_path / "labels" / "scene.tif")
    call = dict(size=32, max_void=1)
    with pytest.raises(InputError, match=r"scene\.tif and .*scene\.tiff"):
        st.cut(tmp_path / "half", tmp_path / "labels", tmp_path / "out", **call)
    st.cut(one, tmp_path / "labels", tmp_path / "out", **call)
    with pytest.raises(InputError, match=r"scene\.tiff and scene\.tif: .*same names"):
        st.cut(two, tmp_path / "labels", tmp_path / "out", **call)


def test_labels_of_any_legend(tmp_path):
    """What label rasters say, what the caller says, and a legend in which 0 is a class."""
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 64, 64))
    ids = rng.choice([0, 10, 95, 255], (64, 64)).astype(np.uint8)
    label = write(tmp_path / "labels" / "IMG.tif", ids, nodata=None,
                  LEGEND=json.dumps(WORLDCOVER.to_dict()))  # fmt: skip
    st.cut(scene, label, tmp_path / "one", size=64, max_void=1)
    index = st.read_index(tmp_path / "one")
    assert patches.read_legend(tmp_path / "one") == WORLDCOVER
    assert index["n_void"].tolist() == [np.isin(ids, (0, 255)).sum()]
    assert index["n_95"].tolist() == [(ids == 95).sum()]
    (tmp_path / "mine.csv").write_text(
        "id,name,colour,index\n0,sea,#000080,0\n10,wood,#008000,1\n95,shore,#808000,-1\n"
    )
    st.cut(scene, label, tmp_path / "two", size=64, max_void=1, legend=tmp_path / "mine.csv")
    index = st.read_index(tmp_path / "two")
    assert index[["n_0", "n_void"]].iloc[0].tolist() == [(ids == 0).sum(), (ids == 255).sum()]
    assert patches.read_legend(tmp_path / "two").name == "mine"
    with pytest.raises(InputError, match=r"IMG\.tif: unknown class ids \[95\]"):
        st.cut(scene, label, tmp_path / "three", size=64, max_void=1, legend="hr-lulc")


def test_what_is_missing_is_said(tmp_path):
    rng = np.random.default_rng(0)
    scene, labels = (
        write(tmp_path / "IMG.tif", scene_array(rng, 64, 64, hole=0.5)),
        tmp_path / "labels",
    )
    with pytest.raises(InputError, match="sartutorial label"):
        st.cut(scene, labels, tmp_path / "out", size=32)
    write(labels / "IMG.tif", land_array(rng, 32, 32))
    with pytest.raises(InputError, match="not on the grid"):
        st.cut(scene, labels, tmp_path / "out", size=32)
    write(labels / "IMG.tif", land_array(rng, 64, 64))
    with pytest.raises(InputError, match="less than --size 128"):
        st.cut(scene, labels, tmp_path / "out", size=128)
    with pytest.raises(InputError, match="no scene given"):
        st.cut([], labels, tmp_path / "out", size=32)
    for wrong in ({"size": 0}, {"max_void": 1.5}, {"max_void": float("nan")}):
        with pytest.raises(InputError, match=r"--size 0|--max-void"):
            st.cut(scene, labels, tmp_path / "out", **wrong)
    with pytest.raises(InputError, match="no such index"):
        st.read_index(tmp_path / "out")


def test_why_no_patch_is_left_is_said(tmp_path):
    """A scene without data is not to be mended with other limits."""
    rng = np.random.default_rng(0)
    dn, ids = scene_array(rng, 64, 64), np.full((64, 64), 3, np.uint8)
    for pixels, labels, words in (
        (dn * 0, ids, r"IMG\.tif: no data in any pixel"),
        (dn * 0, ids * 0, r"IMG\.tif: no data in any pixel"),
        (
            np.where(rng.random(dn.shape) < 0.1, 0, dn),
            ids,
            "free of no-data; take a smaller --size",
        ),
        (dn, ids * 0, "0% void labels; take a larger --max-void"),
    ):
        write(tmp_path / "IMG.tif", pixels.astype(np.uint16))
        write(tmp_path / "labels" / "IMG.tif", labels)
        with pytest.raises(InputError, match=words) as said:
            st.cut(tmp_path / "IMG.tif", tmp_path / "labels", tmp_path / "out", size=32)
        assert ("--max-void" in str(said.value)) == (pixels is dn)
        with pytest.raises(InputError, match="no such index"):
            st.read_index(tmp_path / "out")


def test_a_failing_scene_is_named_and_the_rest_is_indexed(tmp_path):
    scenes_in(tmp_path, "a.tif", "b.tif", "c.tif")
    (tmp_path / "half" / "b.tif").write_text("torn")
    (tmp_path / "labels" / "c.tif").unlink()
    with pytest.raises(InputError) as said:
        st.cut(tmp_path / "half", tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
    lines = str(said.value).splitlines()
    assert len(lines) == 2
    assert "b.tif: not a readable raster" in lines[0]
    assert "c.tif: no label raster" in lines[1]
    assert set(st.read_index(tmp_path / "out")["scene"]) == {"a"}


def test_what_was_sampled_stays_until_the_patches_change(tmp_path):
    one, two = scenes_in(tmp_path, "a.tif", "b.tif")
    call = dict(size=32, max_void=1)
    st.cut(one, tmp_path / "labels", tmp_path / "out", **call)
    index = st.read_index(tmp_path / "out", geometry=True)
    index["split"] = "train"
    patches.write_index(index, tmp_path / "out")
    assert patches.read_legend(tmp_path / "out") == HR_LULC
    st.cut(one, tmp_path / "labels", tmp_path / "out", **call)
    assert set(st.read_index(tmp_path / "out")["split"]) == {"train"}
    st.cut(two, tmp_path / "labels", tmp_path / "out", **call)
    assert "split" not in st.read_index(tmp_path / "out")


def test_no_index_of_replaced_arrays_is_left_by_a_run_that_ends_early(tmp_path, monkeypatch):
    """Wherever it ends: the index is the old one with the old pixels, or there is none."""
    scenes_in(tmp_path, "a.tif")
    call = (tmp_path / "half", tmp_path / "labels", tmp_path / "out")
    st.cut(*call, size=32, max_void=1)
    old = arrays(tmp_path / "out")
    write(tmp_path / "half" / "a.tif", scene_array(np.random.default_rng(7), 64, 64))
    shutil.copytree(tmp_path / "out", tmp_path / "new")
    st.cut(*call[:2], tmp_path / "new", size=32, max_void=1)
    new, rename = arrays(tmp_path / "new"), patches.files.os.replace
    for after in itertools.count():
        where, done = tmp_path / f"{after}", []
        shutil.copytree(tmp_path / "out", where)

        def stops(source, target, done=done, after=after):
            done.append(target)
            if len(done) > after:
                raise KeyboardInterrupt
            rename(source, target)

        monkeypatch.setattr(patches.files.os, "replace", stops)
        with contextlib.suppress(KeyboardInterrupt):
            st.cut(*call[:2], where, size=32, max_void=1)
        monkeypatch.undo()
        left = arrays(where)
        assert all(data in (old.get(name), new.get(name)) for name, data in left.items())
        assert "patches.parquet" not in left or left in (old, new)
        st.cut(*call[:2], where, size=32, max_void=1)
        assert arrays(where) == new
        if len(done) <= after:  # it went through
            break
    assert after >= 4  # two arrays, the scene's rows, the index


def test_memory_does_not_grow_with_the_scene(tmp_path):
    peaks = []
    for rows in (512, 2048, 8192):  # the first one warms up
        rng = np.random.default_rng(0)
        scene = write(tmp_path / f"{rows}.tif", scene_array(rng, rows, 512))
        write(tmp_path / "labels" / scene.name, np.full((rows, 512), 2, np.uint8))
        tracemalloc.start()
        st.cut(scene, tmp_path / "labels", tmp_path / f"{len(peaks)}", size=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 6144 * 512 * 3 / 4  # rows of the index are kept


@pytest.mark.parametrize("what", ["text", "other table", "empty"])
def test_what_is_not_an_index_is_named(tmp_path, what):
    path = tmp_path / "patches.parquet"
    if what == "text":
        path.write_text("not a table")
    elif what == "other table":
        pd.DataFrame({"a": [1]}).to_parquet(path)
    else:
        scenes_in(tmp_path, "a.tif")
        st.cut(tmp_path / "half", tmp_path / "labels", tmp_path / "out", size=32, max_void=1)
        patches.write_index(st.read_index(tmp_path / "out")[:0], tmp_path)
    words = {"text": "not a readable patch index", "other table": "not a patch index of ours",
             "empty": "holds no patch"}  # fmt: skip
    with pytest.raises(InputError, match=f"patches.parquet: {words[what]}"):
        st.read_index(tmp_path)
