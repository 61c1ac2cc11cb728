"""The authors' layout: read back by a reader that knows their schema alone, and brought in from it."""

import csv
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from conftest import UTM, land_array, scene_array, write
from rasterio.warp import transform, transform_bounds

import sartutorial as st
from sartutorial import HR_LULC, WORLDCOVER, InputError, Store, patches

SCHEMA = ["Year", "Month", "Day", "FolderPath", "FileName", "MinLon", "MinLat", "MaxLon", "MaxLat",
          "Latitude", "Longitude", "Category"]  # fmt: skip
SCENE = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Two scenes of six patches each, some of whose pixels have no label."""
    at, rng = tmp_path_factory.mktemp("ours"), np.random.default_rng(2)
    for i, scene in enumerate((SCENE, SCENE.replace("221119", "220905"))):
        grid = Affine(5, 0, 500_000 + 2000 * i, 0, -5, 3_652_000)
        write(
            at / "half" / f"{scene}.tif",
            scene_array(rng, 160, 100),
            transform=grid,
            SIMULATED="yes",
        )
        write(at / "labels" / f"{scene}.tif", land_array(rng, 160, 100), transform=grid)
    st.cut(at / "half", at / "labels", at / "patches", size=50, max_void=1)
    return at / "patches"


@pytest.fixture(scope="module")
def exported(ours, tmp_path_factory):
    """These patches in the authors' layout."""
    out = tmp_path_factory.mktemp("exported")
    assert st.export(ours, out) == out / "locations.csv"
    return out


def independent_reader(table, root):
    """Yields path, date, box, centre and category of every row: from the schema, with nothing of ours."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        assert rows.fieldnames == SCHEMA
        for row in rows:
            day = [row["Year"], row["Month"], row["Day"]]
            box = [float(row[c]) for c in ("MinLon", "MinLat", "MaxLon", "MaxLat")]
            centre = float(row["Longitude"]), float(row["Latitude"])
            yield root.joinpath(*day, row["FileName"]), day, box, centre, int(row["Category"])


def test_an_independent_reader_finds_every_patch_and_its_place(ours, exported):
    index = st.read_index(ours)
    store, seen = Store(ours, index), []
    for i, (path, day, box, centre, category) in enumerate(
        independent_reader(exported / "locations.csv", exported / "sar")
    ):
        scene, *offsets = path.stem.rsplit("_", 2)
        assert scene.split("-")[3] == "{:02d}{:02d}{:02d}".format(*(int(d) % 100 for d in day))
        assert [int(o) for o in offsets] == [*index.loc[i, ["row", "col"]]]
        label = exported / "label" / path.relative_to(exported / "sar")
        with rasterio.open(path) as sar, rasterio.open(label) as lab:
            assert sar.dtypes == ("float32",)
            assert lab.dtypes == ("uint8",)
            np.testing.assert_array_equal(sar.read(1), store.sar(i))
            np.testing.assert_array_equal(lab.read(1), store.label(i))
            assert (sar.crs, sar.transform) == (lab.crs, lab.transform)
            assert lab.colormap(1)[3][:3] == (0, 128, 255)
            assert (
                sar.tags()["SIMULATED"] == "yes"
            )  # or somebody may take it for a product of JAXA's
            np.testing.assert_allclose(
                box, transform_bounds(sar.crs, "EPSG:4326", *sar.bounds), atol=2e-6
            )
            (x,), (y,) = transform("EPSG:4326", sar.crs, *([c] for c in centre))
            row, col = sar.index(x, y)
            assert abs(row - sar.height / 2) <= 1
            assert abs(col - sar.width / 2) <= 1
            ids, counts = np.unique(lab.read(1), return_counts=True)
            assert category == ids[ids > 0][counts[ids > 0].argmax()]
        seen.append(path.stem)
    assert seen == index["patch"].tolist()


def same_sets(one, two):
    """Whether two folders hold the same patches, by their pixels and by their indices."""
    a, b = st.read_index(one), st.read_index(two)
    other = ["calibration_db", "checksum", "array"]  # of DN, which may be in another order
    pd.testing.assert_frame_equal(a.drop(columns=other), b.drop(columns=other), rtol=1e-4)
    first, second = Store(one, a), Store(two, b)
    for i in range(len(a)):
        np.testing.assert_array_equal(first.sar(i), second.sar(i))
        np.testing.assert_array_equal(first.label(i), second.label(i))
    assert patches.read_legend(one) == patches.read_legend(two)


def test_out_and_in_again_is_the_identity(ours, exported, tmp_path):
    table, sar, label = (exported / n for n in ("locations.csv", "sar", "label"))
    st.import_patches(table, tmp_path / "in", sar=sar, labels=label)
    same_sets(ours, tmp_path / "in")
    st.import_patches(exported, tmp_path / "pairs")  # without the table
    same_sets(ours, tmp_path / "pairs")
    st.import_patches(sar, tmp_path / "two", labels=label)
    same_sets(ours, tmp_path / "two")
    st.export(tmp_path / "in", tmp_path / "out")  # what was imported can go out again
    for path in (p for p in exported.rglob("*.*") if p.is_file() and ".made" not in str(p)):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(exported)).read_bytes()


def test_both_ways_can_be_run_again(ours, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "x")

    def times():
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*") if p.suffix in (".tif", ".npy",
                ".parquet")}  # fmt: skip

    st.import_patches(out / "locations.csv", tmp_path / "in", sar=out / "sar", labels=out / "label")
    before = times()
    st.export(ours, out)
    st.import_patches(out / "locations.csv", tmp_path / "in", sar=out / "sar", labels=out / "label")
    assert times() == before
    lost, spoiled, *_ = (p for p in before if "sar" in p.parts and p.suffix == ".tif")
    lost.write_bytes(lost.read_bytes()[:100])  # as a broken copy leaves it
    with rasterio.open(spoiled, "r+") as file:
        file.write(file.read(1) + 1, 1)
    st.export(ours, out)
    for path in (lost, spoiled):
        with (
            rasterio.open(path) as mended,
            rasterio.open(exported / path.relative_to(out)) as whole,
        ):
            np.testing.assert_array_equal(mended.read(1), whole.read(1))


def test_another_legend_goes_out_and_comes_in(tmp_path):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / f"{SCENE}.tif", scene_array(rng, 64, 64))
    ids = rng.choice([0, 10, 95], (64, 64)).astype(np.uint8)
    label = write(tmp_path / "labels" / f"{SCENE}.tif", ids)
    st.cut(scene, label, tmp_path / "p", size=32, max_void=1, legend="worldcover")
    st.export(tmp_path / "p", tmp_path / "x")
    with rasterio.open(next((tmp_path / "x" / "label").rglob("*.tif"))) as file:
        assert file.colormap(1)[95][:3] == (0, 207, 117)
    st.import_patches(tmp_path / "x", tmp_path / "in")
    same_sets(tmp_path / "p", tmp_path / "in")
    assert patches.read_legend(tmp_path / "in") == WORLDCOVER
    with pytest.raises(InputError, match=r"unknown class ids \[95\]"):
        st.import_patches(tmp_path / "x", tmp_path / "other", legend="hr-lulc")


def test_a_patch_on_the_date_line_has_a_box_that_ends_after_it_begins(tmp_path):
    at = Affine(1 / 20_000, 0, 179.999, 0, -1 / 20_000, -17)
    scene = write(tmp_path / f"{SCENE}.tif", scene_array(np.random.default_rng(0), 64, 64),
                  crs="EPSG:4326", transform=at)  # fmt: skip
    label = write(
        tmp_path / "l" / scene.name, np.full((64, 64), 3, np.uint8), crs="EPSG:4326", transform=at
    )
    st.cut(scene, label, tmp_path / "p", size=32)
    table = pd.read_csv(st.export(tmp_path / "p", tmp_path / "x"))
    assert (table["MaxLon"] - table["MinLon"]).tolist() == pytest.approx([32 / 20_000] * 4)
    table[["MinLon", "MaxLon"]] -= 360 * (table[["MinLon", "MaxLon"]] > 180)  # as others write it
    table.to_csv(tmp_path / "x" / "locations.csv", index=False)
    st.import_patches(tmp_path / "x" / "locations.csv", tmp_path / "in", sar=tmp_path / "x" / "sar",
                      labels=tmp_path / "x" / "label")  # fmt: skip
    same_sets(tmp_path / "p", tmp_path / "in")


@pytest.fixture
def theirs(tmp_path):
    """A set laid out in the authors' way by hand: two days, days with two digits, another tool's files."""
    rng = np.random.default_rng(0)
    rows, size = [], 64
    for date, day in (("221119", ("2022", "11", "19")), ("220905", ("2022", "09", "05"))):
        for number in range(8):
            at = Affine(5, 0, 500_000 + 320 * number, 0, -5, 3_652_000 - 900 * len(rows) // 8)
            name = f"{SCENE.replace('221119', date)}_{256 * number}_0.tif"
            db = rng.normal(-10, 3, (size, size)).astype(np.float32)
            ids = np.full((size, size), rng.integers(1, 5), np.uint8)
            ids[: 8 * number] = 255
            write(tmp_path.joinpath("sar", *day, name), db, transform=at, nodata=None)
            tags = {"SCENE": SCENE.replace("221119", date)}  # as one of ours would have
            write(tmp_path.joinpath("lab", *day, name), ids, transform=at, nodata=None, **tags)
            box = transform_bounds(UTM, "EPSG:4326", at.c, at.f - 5 * size, at.c + 5 * size, at.f)
            middle = [(box[1] + box[3]) / 2, (box[0] + box[2]) / 2]
            rows.append([*day, "anywhere", name, *box, *middle, int(ids[-1, -1])])
    pd.DataFrame(rows, columns=SCHEMA).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


def test_a_set_of_theirs_comes_in(theirs):
    out = theirs / "in"
    st.import_patches(theirs / "t.csv", out, sar=theirs / "sar", labels=theirs / "lab")
    index = st.read_index(out)
    assert len(index) == 16
    assert set(index["scene"]) == {SCENE, SCENE.replace("221119", "220905")}
    assert set(index["quantity"]) == {"sigma0"}
    assert set(index["polarisation"]) == {"HH"}
    assert index["spacing"].tolist() == pytest.approx([5] * 16, rel=1e-3)
    assert index["n_void"].tolist() == [64 * 8 * i for i in range(8)] * 2  # 255 is void as well
    store = Store(out, index)
    for i, patch in enumerate(index["patch"]):
        with rasterio.open(next((theirs / "sar").rglob(f"{patch}.tif"))) as file:
            np.testing.assert_array_equal(store.sar(i), file.read(1))
    assert len(list((out / "arrays").glob("*.npy"))) == 4  # and not a file a patch
    ground = gpd.read_parquet(out / "patches.parquet")
    west, south, east, north = ground.total_bounds
    over = Affine((east - west) / 100, 0, west, 0, (south - north) / 100, north)
    tile = write(theirs / "lulc" / "t.tif", land_array(np.random.default_rng(1), 100, 100),
                 transform=over, crs="EPSG:4326")  # fmt: skip
    st.sample(out, tile, points=2000, block=1, buffer=0)
    assert st.read_index(out)["finetune"].sum() > 10


def test_without_labels_every_pixel_is_void(theirs):
    call = (theirs / "t.csv", theirs / "in")
    st.import_patches(*call, sar=theirs / "sar", labels=theirs / "lab")
    assert (st.read_index(theirs / "in")["n_void"] < 64 * 64).all()
    st.import_patches(*call, sar=theirs / "sar")
    index = st.read_index(theirs / "in")
    assert (index["n_void"] == 64 * 64).all()
    assert not Store(theirs / "in", index).label(3).any()


@pytest.mark.parametrize(
    "how", ["bom", "semicolons", "tabs in UTF-16", "Shift_JIS", "latin", "empty columns", "fractions",
            "spaces", "row numbers", "empty lines", "sep=", "quoted commas", "trailing marks",
            "lines in fields", "the names alone"],
)  # fmt: skip
def test_a_table_that_a_spreadsheet_has_written_is_read(theirs, how):
    table, path = pd.read_csv(theirs / "t.csv"), theirs / "excel.csv"
    days = ["Year", "Month", "Day"]
    if how == "bom":
        table.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")
    elif how == "semicolons":
        table.to_csv(path, index=False, sep=";", decimal=",")
    elif how == "tabs in UTF-16":
        table.to_csv(path, index=False, sep="\t", encoding="utf-16")
    elif how == "Shift_JIS":
        table.assign(Memo="衛星").to_csv(path, index=False, encoding="shift_jis")
    elif how == "latin":
        table.assign(Memo="forêt").to_csv(path, index=False, encoding="latin-1")
    elif how == "empty columns":
        table.assign(FolderPath="", Category=None).drop(columns="Latitude").to_csv(
            path, index=False
        )
    elif how == "fractions":
        table.astype(dict.fromkeys(days, float)).to_csv(path, index=False)
    elif how == "spaces":
        path.write_text((theirs / "t.csv").read_text().replace(",", " , "))
    elif how == "row numbers":
        table.to_csv(path)
    elif how == "empty lines":
        path.write_text((theirs / "t.csv").read_text() + "," * 11 + "\n\n")
    elif how == "sep=":
        path.write_text("sep=;\n" + table.to_csv(index=False, sep=";"))
    elif how == "quoted commas":
        table.to_csv(path, index=False, decimal=",", quoting=csv.QUOTE_ALL)
    elif how == "trailing marks":
        path.write_text((theirs / "t.csv").read_text().replace("\n", ";\n").replace(",", ";"))
    elif how == "lines in fields":
        table.assign(FolderPath="one\r\ntwo").to_csv(path, index=False)
    elif how == "the names alone":
        table[["FileName"]].to_csv(path, index=False)
    for name, of in (("in", theirs / "t.csv"), ("excel", path)):
        st.import_patches(of, theirs / name, sar=theirs / "sar", labels=theirs / "lab")
    same_sets(theirs / "in", theirs / "excel")


def test_a_table_chooses_among_the_patches_of_a_folder(theirs):
    """Their names may be any: those that are not ours are patches of one scene, as in a folder."""
    table = pd.read_csv(theirs / "t.csv")
    table[:5].to_csv(theirs / "five.csv", index=False)
    st.import_patches(theirs / "five.csv", theirs / "in", sar=theirs / "sar")
    names = st.read_index(theirs / "in")["patch"] + ".tif"
    assert sorted(names) == sorted(table["FileName"][:5])
    first = next((theirs / "sar").rglob(table["FileName"][0]))
    first.rename(first.with_name("HH-mine.tif"))
    (theirs / "two.csv").write_text(f"FileName\nHH-mine.tif\n{table['FileName'][1]}\n")
    st.import_patches(theirs / "two.csv", theirs / "two", sar=theirs / "sar", quantity="sigma0")
    assert set(st.read_index(theirs / "two")["scene"]) == {"two", SCENE}


def test_a_folder_of_pairs_of_any_name_comes_in(tmp_path):
    """Nothing says what they hold, so the user does; their names are kept."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(("b", "a", "sub/c")):
        at = Affine(10, 0, 500_000 + 640 * i, 0, -10, 3_652_000)
        db = rng.normal(-10, 3, (32, 32)).astype(np.float32)
        write(tmp_path / "mine" / "sar" / f"{name}.tif", db, transform=at, QUANTITY="", nodata=None)
        write(
            tmp_path / "mine" / "label" / f"{name}.tif",
            np.full((32, 32), i + 1, np.uint8),
            transform=at,
        )
    with pytest.raises(InputError, match=r"a\.tif: .*unit is unknown.*quantity"):
        st.import_patches(tmp_path / "mine", tmp_path / "in")
    st.import_patches(tmp_path / "mine", tmp_path / "in", quantity="gamma0")
    index = st.read_index(tmp_path / "in")
    assert index["patch"].tolist() == ["a", "b", "c"]
    assert index[["n_2", "n_1", "n_3"]].to_numpy().diagonal().tolist() == [32 * 32] * 3
    assert set(index["quantity"]) == {"gamma0"}
    assert len(list((tmp_path / "in" / "arrays").glob("*.npy"))) == 2
    (tmp_path / "mine" / "label" / "a.tif").unlink()
    with pytest.raises(InputError, match=r"label/a\.tif: no such file"):
        st.import_patches(tmp_path / "mine", tmp_path / "again", quantity="gamma0")


@pytest.mark.parametrize("what", ["polarisation", "quantity", "spacing", "size", "table"])
def test_what_comes_in_is_one_set(theirs, what):
    """Within a table, and with what the folder holds."""
    *_, last = sorted((theirs / "sar").rglob("*.tif"))
    with rasterio.open(last) as file:
        db, at = file.read(1), file.transform
    tags = {"polarisation": {"QUANTITY": "sigma0"}, "quantity": {"QUANTITY": "gamma0"}}.get(
        what, {}
    )
    labels = None if what == "spacing" else theirs / "lab"
    if what in ("quantity", "spacing"):
        at = at * Affine.scale(1.1 if what == "spacing" else 1)
        write(last, db, transform=at, nodata=None, **tags)
    elif what == "size":
        write(last, db[:32, :32], transform=at, nodata=None)
    table, call = pd.read_csv(theirs / "t.csv"), dict(sar=theirs / "sar", labels=labels)
    if what in ("quantity", "spacing", "size"):
        call.pop("labels")
        with pytest.raises(InputError, match=rf"differ in {what}") as said:
            st.import_patches(theirs / "t.csv", theirs / "in", **call)
        assert last.name in str(said.value)
        assert not (theirs / "in" / "patches.parquet").exists()
    elif what == "polarisation":
        rng = np.random.default_rng(0)
        scene = write(theirs / f"{SCENE.replace('HH', 'HV')}.tif", scene_array(rng, 64, 64))
        label = write(theirs / "l" / scene.name, land_array(rng, 64, 64))
        st.cut(scene, label, theirs / "in", size=64, max_void=1)
        with pytest.raises(InputError, match=r"differ in polarisation \(HH, HV\)"):
            st.import_patches(theirs / "t.csv", theirs / "in", **call)
        assert len(st.read_index(theirs / "in")) == 1
    else:  # the other half of a scene's patches must not replace the first
        for name, half in (("one.csv", table[::2]), ("two.csv", table[1::2])):
            half.to_csv(theirs / name, index=False)
        st.import_patches(theirs / "one.csv", theirs / "in", **call)
        with pytest.raises(InputError, match=r"two\.csv and one\.csv: .*same names"):
            st.import_patches(theirs / "two.csv", theirs / "in", **call)
        assert len(st.read_index(theirs / "in")) == 8


def spoil(theirs, what):
    """One fault in a set of theirs; returns what the message must hold."""
    table, first = pd.read_csv(theirs / "t.csv", dtype=str), next((theirs / "sar").rglob("*.tif"))
    label = theirs / "lab" / first.relative_to(theirs / "sar")
    with rasterio.open(first) as patch:
        db, profile = patch.read(1), patch.profile

    def rewrite(path, array, **changes):
        with rasterio.open(path, "w", **(profile | dict(
            dtype=array.dtype, height=array.shape[0], width=array.shape[1]) | changes)) as d:  # fmt: skip
            d.write(array, 1)
        return str(path)

    if what == "no table":
        (theirs / "t.csv").unlink()
        return "t.csv: no such table"
    if what == "binary":
        (theirs / "t.csv").write_bytes(bytes(range(128, 256)))
        return "t.csv: "
    if what == "column":
        table.drop(columns="FileName").to_csv(theirs / "t.csv", index=False)
        return "t.csv: no table with the column FileName"
    if what == "nothing":
        (theirs / "t.csv").write_text("")
        return "t.csv: no table with the column FileName"
    if what == "rows":
        table[:0].to_csv(theirs / "t.csv", index=False)
        return "t.csv: lists no patch"
    if what == "empty":
        table.loc[3, "FileName"] = ""
        table.to_csv(theirs / "t.csv", index=False)
        return "t.csv: lists '', which is not in"
    if what == "twice":
        pd.concat([table, table[:1]]).to_csv(theirs / "t.csv", index=False)
        return "more than once"
    if what == "no patch":
        first.unlink()
        return f"t.csv: lists '{first.name}', which is not in {theirs / 'sar'}"
    if what == "no label":
        label.unlink()
        return f"{label}: no such file; a label patch has its SAR patch's name"
    if what == "type":
        return rewrite(first, db.astype(np.uint8)) + ": holds uint8, expected float32 dB"
    if what == "hole":
        db[0, 0] = np.nan
        return rewrite(first, db) + ": holds no-data"
    if what == "declared":
        db[0, 0] = -9999
        return rewrite(first, db, nodata=-9999) + ": holds no-data"
    if what == "oblong":
        return rewrite(first, db[:32]) + ": 64 x 32 px; patches are square"
    if what == "torn":
        first.write_bytes(first.read_bytes()[:-4000])
        return f"{first}: "
    if what == "workbook":
        (theirs / "t.csv").write_bytes(b"PK\x03\x04" + bytes(range(200)))
        return "CSV UTF-8"
    if what == "ids":
        return rewrite(label, np.full((64, 64), 77, np.uint8)) + ": unknown class ids [77]"
    if what == "grid":
        return rewrite(label, np.full((32, 32), 1, np.uint8)) + ": not on the grid"
    raise KeyError(what)


@pytest.mark.parametrize(
    "what",
    ["no table", "binary", "nothing", "column", "rows", "empty", "twice", "no patch", "no label", "type",
     "hole", "declared", "oblong", "ids", "grid", "torn", "workbook"],
)  # fmt: skip
def test_bad_sets_are_named(theirs, what):
    words = spoil(theirs, what)
    before = {p for p in theirs.rglob("*") if p.is_file()}
    with pytest.raises(InputError) as caught:
        st.import_patches(
            theirs / "t.csv", theirs / "in", sar=theirs / "sar", labels=theirs / "lab"
        )
    after = {p for p in theirs.rglob("*") if p.is_file()}
    assert all(p.is_relative_to(theirs / "in") for p in after - before)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (theirs / "in" / patches.INDEX).exists()


def test_a_scene_without_a_date_and_a_patch_without_pixels_are_named(ours, tmp_path):
    (tmp_path / "p").mkdir()
    index = st.read_index(ours)
    patches.write_index(index.assign(scene="AIRSAR-HH-FLEVOLAND"), tmp_path / "p")
    with pytest.raises(InputError, match="AIRSAR-HH-FLEVOLAND: its name holds no date"):
        st.export(tmp_path / "p", tmp_path / "out")
    patches.write_index(index, tmp_path / "p")
    with pytest.raises(InputError, match=r"sar\.npy: .*run 'sartutorial patches' again"):
        st.export(tmp_path / "p", tmp_path / "out")


def test_the_category_of_a_patch_without_labels_is_void(theirs):
    st.import_patches(theirs / "t.csv", theirs / "in", sar=theirs / "sar")
    table = pd.read_csv(st.export(theirs / "in", theirs / "x"))
    assert set(table["Category"]) == {HR_LULC.void}


def test_the_commands(run, ours, tmp_path):
    x = tmp_path / "x"
    code, out, err = run("export", ours, "--out", x)
    assert code == 0, err
    assert Path(out.strip()) == x / "locations.csv"
    for line in ([x / "locations.csv", "--sar", x / "sar", "--labels", x / "label"], [x]):
        code, out, err = run("import", *line, "--out", tmp_path / f"y{len(line)}")
        assert code == 0, err
        same_sets(ours, Path(out.strip()).parent)
    code, _, err = run("import", x / "locations.csv", "--out", tmp_path / "z")
    assert code == 1
    assert "name the folder in which they lie with --sar" in err
