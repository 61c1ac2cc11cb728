"""Land cover: legends of ours and of the reader's own."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartutorial import InputError, lulc
from sartutorial.lulc import HR_LULC, WORLDCOVER, LandCover, Legend

TABLE = """id,name,colour,index,training
0,sea,#0000ff,0,
3,oak,#00FF00,1,Forest
4,pine,008000,1,Forest
9,cloud,#ffffff,-1,
"""


def test_nine_classes_hold_all_fourteen():
    ids = np.array([0, *range(1, 15), 15, 255], np.uint8)
    index = HR_LULC.to_index(ids)
    assert index.dtype == np.int64
    assert index.tolist() == [-1, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5, 4, 6, 7, 8, -1, -1]
    with pytest.raises(InputError, match="16"):
        HR_LULC.to_index(np.array([16], np.uint8))
    with pytest.raises(InputError, match="uint8"):
        HR_LULC.to_index(np.array([1]))
    assert HR_LULC.names == ("water", "built-up", "cropland", "grassland", "forest", "bare",
                             "solar panel", "wetland", "greenhouse")  # fmt: skip


def test_forest_is_what_a_patch_must_not_consist_of():
    assert HR_LULC.forest == (6, 7, 8, 9, 11)
    assert WORLDCOVER.forest == (10,)


def test_palettes_hold_every_class_and_leave_void_transparent():
    classes, nine = HR_LULC.colormap(), HR_LULC.for_maps.colormap()
    assert sorted(classes) == list(range(16))
    assert sorted(nine) == list(range(10))
    assert classes[1] == nine[1] == (0, 0, 100, 255)  # JAXA's water
    assert classes[9] == (0, 172, 86, 255)
    assert nine[5] == classes[8]  # one green of the five for forest
    assert nine[3] == classes[4]  # cropland has its own colour, not paddy's
    assert classes[0] == nine[0] == (0, 0, 0, 0)
    assert len(set(classes.values())) == 16


def test_worldcover_is_esas():
    assert WORLDCOVER.ids == (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
    assert WORLDCOVER.colormap()[80] == (0, 100, 200, 255)
    assert WORLDCOVER.to_index(np.array([10, 100, 0, 255], np.uint8)).tolist() == [0, 10, -1, -1]
    assert lulc.legend("worldcover") is WORLDCOVER
    assert lulc.legend(WORLDCOVER) is WORLDCOVER


def test_a_maps_legend_counts_from_one():
    legend = HR_LULC.for_maps
    assert legend.ids == tuple(range(1, 10))
    assert legend.names == HR_LULC.names


@given(st.lists(st.integers(0, 300), min_size=256, max_size=256))
def test_counts_merge_as_the_pixels_do(counts):
    counts = np.array(counts, np.int64)
    counts[[i for i in range(256) if i not in (*HR_LULC.ids, 0, 255)]] = 0
    index = HR_LULC.to_index(np.repeat(np.arange(256, dtype=np.uint8), counts))
    assert HR_LULC.merged(counts).tolist() == np.bincount(index[index >= 0], minlength=9).tolist()
    assert HR_LULC.merged(np.stack([counts, counts])).shape == (2, 9)


@pytest.mark.parametrize(
    "written",
    [
        TABLE.encode(),
        TABLE.replace(",", ";").encode("utf-8-sig"),  # as Excel writes it in half of Europe
        TABLE.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),  # its "Unicode text"
        TABLE.replace("colour", "Color").replace("id,name", "ID, Name").encode(),
    ],
)
def test_a_legend_of_ones_own_is_a_table(tmp_path, written):
    path = tmp_path / "mine.csv"
    path.write_bytes(written)
    legend = lulc.legend(path)
    assert (legend.name, legend.names) == ("mine", ("sea", "Forest"))
    assert legend.ids == (0, 3, 4, 9)
    assert legend.forest == (3, 4)
    assert legend.colours == ((0, 0, 255), (0, 255, 0))
    # 0 is a class, so there is another value for no label, which is what both read as.
    assert legend.void == 255
    assert legend.void_ids == (255,)
    assert legend.to_index(np.array([0, 3, 4, 9, 255], np.uint8)).tolist() == [0, 1, 1, -1, -1]
    assert legend.colormap()[255] == (0, 0, 0, 0)
    assert lulc.legend(str(path)) == legend


@pytest.mark.parametrize("legend", [HR_LULC, WORLDCOVER, HR_LULC.for_maps])
def test_a_legend_travels_as_json(tmp_path, legend):
    said = json.loads(json.dumps(legend.to_dict()))
    assert Legend.from_dict(said) == legend
    (tmp_path / "l.json").write_text(json.dumps(said))
    assert lulc.legend(tmp_path / "l.json") == legend


def test_classes_that_share_an_index_are_merged_under_the_first_ones_name(tmp_path):
    table = "id,name,colour,index\n1,sea,#000064,0\n2,oak,#00ff00,1\n3,pine,#008000,1\n"
    (tmp_path / "mine.csv").write_text(table)
    legend = lulc.legend(tmp_path / "mine.csv")
    assert legend.names == ("sea", "oak")
    assert legend.to_index(np.uint8([0, 1, 2, 3])).tolist() == [-1, 0, 1, 1]


def test_json_rows_are_a_table_too(tmp_path):
    rows = [{"id": 1, "name": "a", "colour": "#010203", "index": 0},
            {"id": 2, "name": "b", "colour": "#040506", "index": -1}]  # fmt: skip
    (tmp_path / "l.json").write_text(json.dumps(rows))
    assert lulc.legend(tmp_path / "l.json").classes[1] == LandCover(2, "b", (4, 5, 6), -1)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "no class of training"),
        ("id,name\n1,a\n", "row.*colour"),
        (TABLE.replace("#0000ff", "blue"), "blue.*colour"),
        (TABLE.replace("3,oak", "three,oak"), "three"),
        (TABLE.replace("3,oak", "300,oak"), r"0\.\.255"),
        (TABLE.replace("3,oak", "4,oak"), "id 4 stands twice"),
        (TABLE.replace(",1,", ",2,"), "without a gap"),
        (TABLE.replace("-1", "-2"), "without a gap"),
        (TABLE.replace("pine,008000,1,Forest", "pine,008000,1,Wood"),
         "class 1 is called Forest and.*Wood"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, table, words):
    path = tmp_path / "mine.csv"
    path.write_text(table)
    with pytest.raises(InputError, match=f"mine.*{words}") as caught:
        lulc.legend(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_legend_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="corine: no such legend; use hr-lulc, worldcover or"):
        lulc.legend("corine")
    with pytest.raises(InputError, match=r"x\.csv: no such legend; use .* or a table's path"):
        lulc.legend(tmp_path / "x.csv")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json: not a readable table"):
        lulc.legend(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"x\.json: "):
        lulc.legend(tmp_path / "x.json")


def test_tiles_are_named_by_their_south_west_corner():
    assert lulc.tile_name(135.5, 34.2) == "LC_N34E135.tif"
    assert lulc.tile_name(-0.5, -0.5) == "LC_S01W001.tif"
