"""The authors' layout: read back by a reader that knows their schema alone, and brought in from it."""

import csv
import os
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from conftest import UTM, land_array, write
from rasterio.warp import transform, transform_bounds

from sartutorial import InputError, exchange, lulc, patches, sampling

SCHEMA = ["Year", "Month", "Day", "FolderPath", "FileName", "MinLon", "MinLat", "MaxLon", "MaxLat",
          "Latitude", "Longitude", "Category"]  # fmt: skip
SCENE = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD"


@pytest.fixture(scope="module")
def exported(world, tmp_path_factory):
    """The simulated patches in the authors' layout."""
    out = tmp_path_factory.mktemp("exported")
    exchange.export(world / "patches", out)
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


def test_an_independent_reader_finds_every_patch_and_its_place(world, exported):
    index = patches.read_index(world / "patches").set_index("patch")
    seen = set()
    for path, day, box, centre, category in independent_reader(
        exported / "locations.csv", exported / "sar"
    ):
        scene, *offsets = path.stem.rsplit("_", 2)
        assert scene.split("-")[3] == "{:02d}{:02d}{:02d}".format(*(int(d) % 100 for d in day))
        assert [int(o) for o in offsets] == [*index.loc[path.name, ["row", "col"]]]
        label = exported / "label" / path.relative_to(exported / "sar")
        with rasterio.open(path) as sar, rasterio.open(label) as lab:
            assert sar.dtypes == ("float32",)
            assert np.isfinite(sar.read(1)).all()
            assert lab.shape == sar.shape
            np.testing.assert_allclose(
                box, transform_bounds(sar.crs, "EPSG:4326", *sar.bounds), atol=2e-6
            )
            (lon,), (lat,) = transform("EPSG:4326", sar.crs, *([c] for c in centre))
            row, col = sar.index(lon, lat)
            assert abs(row - sar.height / 2) <= 1
            assert abs(col - sar.width / 2) <= 1
            ids, counts = np.unique(lab.read(1), return_counts=True)
            assert category == ids[ids > 0][counts[ids > 0].argmax()]
        seen.add(path.name)
    assert seen == set(index.index)


def test_out_and_in_again_is_the_identity(world, exported, tmp_path):
    exchange.load(exported / "locations.csv", exported / "sar", tmp_path / "in",
                  labels=exported / "label")  # fmt: skip
    ours, again = patches.read_index(world / "patches"), patches.read_index(tmp_path / "in")
    for column in patches.COLUMNS:
        if column != "max_void":
            assert again[column].tolist() == pytest.approx(ours[column].tolist()), column
    assert again.geometry.geom_equals_exact(ours.geometry, 1e-12).all()
    for kind in ("sar", "label"):
        for name in ours["patch"]:
            one, two = (folder / kind / name for folder in (world / "patches", tmp_path / "in"))
            assert one.read_bytes() == two.read_bytes()


def test_both_ways_can_be_run_again(world, exported, tmp_path):
    def times():
        return {p: p.stat().st_mtime_ns for p in (*exported.rglob("*.*"), *tmp_path.rglob("*.*"))}

    call = (exported / "locations.csv", exported / "sar", tmp_path / "in")
    exchange.load(*call, labels=exported / "label")
    before = times()
    exchange.export(world / "patches", exported)
    exchange.load(*call, labels=exported / "label")
    assert times() == before
    lost = next((exported / "sar").rglob("*.tif"))
    lost.write_bytes(lost.read_bytes()[:100])  # as a broken copy leaves it
    exchange.export(world / "patches", exported)
    assert lost.stat().st_size > 1000


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


def test_a_set_of_theirs_goes_through_our_chain(theirs):
    out = theirs / "in"
    exchange.load(theirs / "t.csv", theirs / "sar", out, labels=theirs / "lab")
    index = patches.read_index(out)
    assert len(index) == 16
    assert set(index["scene"]) == {SCENE, SCENE.replace("221119", "220905")}
    assert set(index["quantity"]) == {"sigma0"}
    assert index["spacing"].tolist() == pytest.approx([5] * 16)
    assert index["n_0"].tolist() == [64 * 8 * i for i in range(8)] * 2  # 255 is void as well
    assert index["category"].equals(pd.read_csv(theirs / "t.csv")["Category"])
    west, south, east, north = index.total_bounds
    over = Affine((east - west) / 100, 0, west, 0, (south - north) / 100, north)
    tile = write(theirs / "lulc" / "t.tif", land_array(np.random.default_rng(1), 100, 100),
                 transform=over, crs="EPSG:4326")  # fmt: skip
    sampled = sampling.sample(out, [tile], points=2000, block=1, buffer=0)
    assert sampled["finetune"].sum() > 10
    from sartutorial import datasets

    rows = datasets.selected(out, "finetune")
    item = datasets.Patches(out, rows, datasets.statistics(out, rows))[0]
    assert item["image"].shape == (1, 64, 64)
    assert abs(float(item["image"].mean())) < 0.5


def test_without_labels_every_pixel_is_void(theirs):
    exchange.load(theirs / "t.csv", theirs / "sar", theirs / "in")
    index = patches.read_index(theirs / "in")
    assert (index["n_0"] == 64 * 64).all()
    with rasterio.open(theirs / "in" / "label" / index["patch"][3]) as label:
        assert not label.read(1).any()
    with rasterio.open(theirs / "in" / "sar" / index["patch"][3]) as sar:
        assert (sar.crs, sar.transform) == (label.crs, label.transform)


def test_blank_labels_are_left_alone_and_replace_others(theirs):
    call = (theirs / "t.csv", theirs / "sar", theirs / "in")

    def labels():
        return {p: p.stat().st_mtime_ns for p in (theirs / "in" / "label").iterdir()}

    exchange.load(*call, labels=theirs / "lab")
    for path in labels():
        os.utime(path)
    exchange.load(*call)
    blank = labels()
    for path in blank:
        with rasterio.open(path) as label:
            assert not label.read(1).any()
    exchange.load(*call)
    assert labels() == blank


def spoil(theirs, what):
    """One fault in a set of theirs; returns what the message must hold."""
    table, first = pd.read_csv(theirs / "t.csv", dtype=str), next((theirs / "sar").rglob("*.tif"))
    label = theirs / "lab" / first.relative_to(theirs / "sar")
    here = table["FileName"] == first.name
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
        return "t.csv: not a readable CSV table"
    if what == "column":
        table.drop(columns=["MinLat", "Day"]).to_csv(theirs / "t.csv", index=False)
        return "t.csv: lacks the columns Day, MinLat"
    if what == "rows":
        table[:0].to_csv(theirs / "t.csv", index=False)
        return "t.csv: lists no patch"
    if what in ("text", "empty"):
        table.loc[3, "MaxLon"] = "east" if what == "text" else ""
        table.to_csv(theirs / "t.csv", index=False)
        return "t.csv: line 5 "
    if what == "twice":
        pd.concat([table, table[:1]]).to_csv(theirs / "t.csv", index=False)
        return "more than once"
    if what == "name":
        table.loc[0, "FileName"] = "patch.tif"
        table.to_csv(theirs / "t.csv", index=False)
        shutil.copy(
            first, theirs.joinpath("sar", *table.iloc[0][["Year", "Month", "Day"]], "patch.tif")
        )
        shutil.copy(
            first, theirs.joinpath("lab", *table.iloc[0][["Year", "Month", "Day"]], "patch.tif")
        )
        return "patch.tif: not named <scene>_<offset>_<offset>.tif"
    if what in ("way out", "way back"):
        other = "../../out_0_0.tif".replace("/", "/" if what == "way out" else "\\")
        for kind in ("sar", "lab"):
            shutil.copy(
                first, theirs.joinpath(kind, *table.iloc[0][["Year", "Month", "Day"]], other)
            )
        table.loc[0, "FileName"] = other
        table.to_csv(theirs / "t.csv", index=False)
        return f"{other}: not named <scene>_<offset>_<offset>.tif"
    if what == "place":
        table.loc[here, "MinLon"] = "139.5"
        table.to_csv(theirs / "t.csv", index=False)
        return f"{first}: lies elsewhere than the table says"
    if what == "no patch":
        first.unlink()
        return f"{first}: no such file, but the table lists it"
    if what == "no label":
        label.unlink()
        return f"{label}: no such file, but the table lists it"
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
    if what == "ids":
        return rewrite(label, np.full((64, 64), 77, np.uint8)) + ": unknown class ids [77]"
    if what == "grid":
        return rewrite(label, np.full((32, 32), 1, np.uint8)) + ": not on the grid"
    raise KeyError(what)


@pytest.mark.parametrize(
    "what",
    ["no table", "binary", "column", "rows", "text", "empty", "twice", "name", "way out", "way back",
     "place", "no patch", "no label", "type", "hole", "declared", "oblong", "ids", "grid"],
)  # fmt: skip
def test_bad_sets_are_named(theirs, what):
    words = spoil(theirs, what)
    before = {p for p in theirs.rglob("*") if p.is_file()}
    with pytest.raises(InputError) as caught:
        exchange.load(theirs / "t.csv", theirs / "sar", theirs / "in", labels=theirs / "lab")
    after = {p for p in theirs.rglob("*") if p.is_file()}
    assert all(p.is_relative_to(theirs / "in") for p in after - before)
    assert words in str(caught.value)
    assert not (theirs / "in" / patches.INDEX).exists()


def test_a_scene_without_a_date_is_named(world, tmp_path):
    index = patches.read_index(world / "patches")
    index["scene"] = "AIRSAR-HH-FLEVOLAND"
    (tmp_path / "p").mkdir()
    patches.write_index(index, tmp_path / "p")
    with pytest.raises(InputError, match="AIRSAR-HH-FLEVOLAND: its name holds no date"):
        exchange.export(tmp_path / "p", tmp_path / "out")
    index["scene"] = SCENE
    patches.write_index(index, tmp_path / "p")
    with pytest.raises(InputError, match="no such patch; run 'sartutorial patches' again"):
        exchange.export(tmp_path / "p", tmp_path / "out")


def test_the_category_is_the_most_frequent_label(tmp_path):
    counts = np.zeros((3, 16), int)
    counts[0, [0, 4, 6]] = 900, 50, 60
    counts[1, 0] = 4096
    counts[2, [2, 9]] = 5, 5
    index = gpd.GeoDataFrame(counts, columns=patches.COUNTS)
    assert exchange._category(index) == [6, lulc.VOID, 2]


def test_the_commands(run, world, tmp_path):
    code, out, _ = run("export", world / "patches", "--out", tmp_path / "x")
    assert code == 0
    assert Path(out.strip()) == tmp_path / "x" / "locations.csv"
    x = tmp_path / "x"
    code, _, err = run("import", x / "locations.csv", "--sar", x / "sar", "--labels", x / "label",
                       "--out", tmp_path / "y")  # fmt: skip
    assert code == 0, err
    assert len(patches.read_index(tmp_path / "y")) == len(patches.read_index(world / "patches"))
