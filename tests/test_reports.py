"""What is said of a map: areas from a sample, as published and as promised, and its papers."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, write
from scipy import stats

import sartutorial as st
from sartutorial import InputError, lulc
from sartutorial.learn import checkpoints, inference
from sartutorial.learn.datasets import Normalization
from sartutorial.learn.encoders import Encoder, EncoderConfig
from sartutorial.learn.segmentation import Decoder, Segmenter

# Olofsson et al. 2014, table 8: deforestation, forest gain, stable forest, stable non-forest.
NAMES = ["deforestation", "gain", "forest", "non-forest"]
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09  # of a Landsat pixel


def test_the_published_example_comes_out():
    found = st.estimate_areas(SAMPLE, MAPPED, NAMES, pixel=HECTARES)
    area, half = found["area"], (found["high"] - found["low"]) / 2
    np.testing.assert_allclose(area, [21_158, 11_686, 285_770, 581_386], atol=1)
    np.testing.assert_allclose(half, [6_158, 3_756, 15_510, 16_282], rtol=1e-3)
    np.testing.assert_allclose(found["user"], [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(1.96 * found["user_se"], [0.07, 0.10, 0.04, 0.02], atol=0.005)
    np.testing.assert_allclose(found["producer"], [0.75, 0.85, 0.93, 0.96], atol=0.005)
    overall, spread = found.attrs["overall"]
    assert (overall, 1.96 * spread) == pytest.approx((0.95, 0.02), abs=0.005)
    assert found["mapped"].sum() == pytest.approx(area.sum()) == pytest.approx(900_000)
    assert ((found["exact_high"] - found["exact_low"]) > 2 * half).all()


def test_standard_errors_are_the_spread_of_repeated_samples():
    rng, drawn = np.random.default_rng(0), SAMPLE.sum(1)
    found = st.estimate_areas(SAMPLE, MAPPED, NAMES)
    again = [
        [rng.multinomial(n, row / n) for n, row in zip(drawn, SAMPLE, strict=True)]
        for _ in range(500)
    ]
    tables = [st.estimate_areas(np.array(sample), MAPPED, NAMES) for sample in again]
    for what in ("user", "producer"):
        spread = np.std([table[what] for table in tables], axis=0)
        np.testing.assert_allclose(found[f"{what}_se"], spread, rtol=0.15)
    spread = np.std([table.attrs["overall"][0] for table in tables])
    assert found.attrs["overall"][1] == pytest.approx(spread, rel=0.15)


def test_a_class_of_which_no_error_was_drawn_still_has_an_exact_interval():
    sample = np.array([[30, 0], [0, 30]])
    found = st.estimate_areas(sample, np.array([100, 900]), ["rare", "rest"])
    assert found.loc["rare", ["low", "high"]].tolist() == [100, 100]  # the normal one's folly
    assert found["exact_low"]["rare"] < 100 < found["exact_high"]["rare"]


def test_exact_intervals_are_sums_of_clopper_and_pearsons_that_hold_together():
    """Each of four at 98.75 %, so that all four hold in 95 %: whatever the map, so does their sum."""
    found, weight = st.estimate_areas(SAMPLE, MAPPED, NAMES), MAPPED / MAPPED.sum()
    for c, name in enumerate(NAMES):
        each = [
            stats.binomtest(int(n[c]), int(n.sum())).proportion_ci(1 - 0.05 / 4, "exact")
            for n in SAMPLE
        ]
        for what in ("low", "high"):
            total = weight @ [getattr(ci, what) for ci in each] * MAPPED.sum()
            assert found[f"exact_{what}"][name] == pytest.approx(total)


def test_exact_intervals_hold_as_often_as_they_say():
    """A map whose water is right and whose land hides some: 400 samples of 25 a class."""
    rng, truth = np.random.default_rng(0), np.array([[0.99, 0.01], [0.02, 0.98]])
    mapped, held = np.array([1_000, 99_000]), 0
    area = (mapped @ truth)[0]
    for _ in range(400):
        sample = np.array([rng.multinomial(25, p) for p in truth])
        found = st.estimate_areas(sample, mapped, ["water", "land"]).loc["water"]
        held += found["exact_low"] <= area <= found["exact_high"]
    assert held >= 0.95 * 400


def test_a_class_that_the_map_does_not_have_needs_no_sample():
    found = st.estimate_areas(np.array([[5, 5], [0, 0]]), np.array([50, 0]), ["a", "b"])
    assert found["area"].tolist() == [25, 25]
    assert np.isnan(found["user"]["b"])
    assert found["producer"].tolist() == [1, 0]


def test_samples_that_do_not_fit_are_refused():
    few = SAMPLE.copy()
    few[1:3] = np.eye(4)[1:3]
    with pytest.raises(InputError, match=r"fewer than two pixels .* of gain, forest; sample more"):
        st.estimate_areas(few, MAPPED, NAMES)
    with pytest.raises(InputError, match="expected 3 classes"):
        st.estimate_areas(SAMPLE, MAPPED, NAMES[:3])


@pytest.fixture
def mapped(tmp_path):
    """A model without training, its map, and labels that agree in half of it."""
    config, decoder = EncoderConfig(64, 16, (1, 1, 1, 1), (1, 2, 2, 4), 8), Decoder(32, 9)
    about = {
        "encoder": config._asdict(), "decoder": decoder._asdict(),
        "legend": lulc.HR_LULC.to_dict(), "normalization": Normalization(-10.0, 5.0)._asdict(),
        "spacing": 5.0, "quantity": "sigma0", "polarisation": "HH", "simulated": True,
    }  # fmt: skip
    model = tmp_path / "model.safetensors"
    checkpoints.save(Segmenter(Encoder(config), decoder), model, about)
    tags = {
        "SCENE": "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif", "POLARISATION": "HH",
        "SIMULATED": "yes", "SOFTWARE": "sartutorial", "QUANTITY": "sigma0",
        "LEGEND": json.dumps(lulc.HR_LULC.for_maps.to_dict()),
    }  # fmt: skip
    classes = np.ones((40, 40), np.uint8)
    path = write(tmp_path / "IMG-map.tif", classes, **tags)
    ids = np.where(np.arange(40) < 20, 1, 8) * classes
    return path, model, write(tmp_path / "l.tif", ids.astype(np.uint8))


def test_a_map_has_its_papers(mapped):
    """The item is valid by the core schema, which pystac has with it; the extensions' lie elsewhere."""
    pystac = pytest.importorskip("pystac")
    pytest.importorskip("jsonschema")
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    path, model, labels = mapped
    item = pystac.Item.from_file(str(st.describe_map(path, model, labels=labels)))
    said = item.to_dict()
    JsonSchemaSTACValidator().validate_core(said, pystac.STACObjectType.ITEM, said["stac_version"])
    assert item.datetime.date().isoformat() == "2022-11-19"
    assert item.bbox[0] < 135.001 < item.bbox[2]
    assert said["properties"]["sar:polarizations"] == ["HH"]
    assert said["properties"]["mlm:output"][0]["classification:classes"][4]["title"] == "forest"
    assert said["properties"]["mlm:input"][0]["value_scaling"]["mean"] == -10
    about = said["properties"]["sartutorial:about"]
    assert about["simulated"] and "note" not in about
    assert about["checksum"] == checkpoints.fingerprint(model)
    assert (path.parent / said["assets"]["map"]["href"]).resolve() == path.resolve()
    card = path.with_suffix(".md").read_text()
    assert "| 5 | forest |" in card
    assert "| IoU, water | 0.500 |" in card


def test_a_map_says_when_its_scene_was_taken(mapped):
    pytest.importorskip("pystac")
    path, model, _ = mapped

    def said(scene, **more):
        with rasterio.open(path, "r+") as file:
            file.update_tags(SCENE=scene)
        return json.loads(st.describe_map(path, model, **more).read_text())["properties"]

    assert said("x.tif", date="2020-02-29")["datetime"].startswith("2020-02-29")
    region = said(
        "IMG-HH-ALOS245850321-221119-UBSR2.1GUD.tif, IMG-HH-ALOS245850321-200101-UBSR2.1GUD.tif"
    )
    assert region["start_datetime"] == "2020-01-01T00:00:00Z"
    assert region["end_datetime"] == "2022-11-19T00:00:00Z"
    mosaic = said("N23W161_20_sl_HH_F02DAR.tif")
    assert mosaic["datetime"] is None
    assert mosaic["start_datetime"] == "2020-01-01T00:00:00Z"
    for scene, more in (("x.tif", {}), ("x.tif", {"date": "2020-02-30"}), ("A-221399-UBS.tif", {})):
        with pytest.raises(InputError, match=rf"{scene}: .*give"):
            said(scene, **more)


def test_labels_are_no_map(mapped):
    _, model, labels = mapped
    with pytest.raises(InputError, match="not a map of"):
        st.describe_map(labels, model)


def test_weights_of_the_authors_bring_their_sentence(mapped):
    pytest.importorskip("pystac")
    path, model, _ = mapped
    about = json.loads(model.with_suffix(".json").read_text()) | {"published": {"file": "x.pth"}}
    model.with_suffix(".json").write_text(json.dumps(about))
    item = st.describe_map(path, model)
    for file in (item, path.with_suffix(".md")):
        assert "copyrighted by JAXA" in file.read_text()


def test_a_map_of_another_legend_is_refused(mapped, tmp_path):
    _, model, _ = mapped
    tag = json.dumps(lulc.WORLDCOVER.for_maps.to_dict())
    other = write(tmp_path / "o.tif", np.ones((9, 9), np.uint8), LEGEND=tag)
    with pytest.raises(InputError, match="not a map of"):
        st.describe_map(other, model)


def test_maps_are_joined_by_confidence_or_by_age(tmp_path):
    """Three maps that overlap: each pixel has the class that the rule asks for."""
    legend = {"LEGEND": json.dumps(lulc.HR_LULC.for_maps.to_dict()), "SIMULATED": "yes"}
    rng, side, grids = np.random.default_rng(0), 60, {}
    classes, sure = np.zeros((3, 130, 130), np.uint8), np.full((3, 130, 130), -1)
    told = np.full((3, 3, 130, 130), 255)
    for i, (row, col, day) in enumerate([(20, 0, "221119"), (0, 40, "200101"), (70, 65, "230303")]):
        here = np.s_[row : row + side, col : col + side]
        classes[(i, *here)] = rng.integers(0, 10, (side, side))
        sure[(i, *here)] = np.where(classes[(i, *here)] > 0, rng.integers(0, 101, (side, side)), -1)
        name = f"IMG-HH-ALOS245850321{i}-{day}-UBSR2.1GUD"
        grids[name] = GRID * Affine.translation(col, row)
        said = legend | {"SCENE": f"{name}.tif"}
        write(tmp_path / "maps" / f"{name}.tif", classes[(i, *here)], transform=grids[name], **said)
        more = [sure[(i, *here)], lead := sure[(i, *here)] // 2, lead % 4]  # margin, validity
        doubts = np.where(sure[(i, *here)] < 0, 255, more)
        told[(i, slice(None), *here)] = doubts
        beside = tmp_path / "maps" / f"{name}.confidence.tif"
        write(beside, doubts.astype(np.uint8), transform=grids[name], nodata=255)
    wanted = {"confidence": sure, "newest": np.where(classes > 0, [[[1]], [[0]], [[2]]], -1)}
    for rule, rank in wanted.items():
        out = st.mosaic(tmp_path / "maps", tmp_path / "maps" / "region.tif", overlap=rule)
        right = np.where(
            rank.max(0) < 0, 0, np.take_along_axis(classes, rank.argmax(0)[None], 0)[0]
        )
        with rasterio.open(out) as found:
            np.testing.assert_array_equal(found.read(1), right[:130, :125])
            assert found.transform.almost_equals(GRID)
            assert (found.nodata, found.tags()["SIMULATED"]) == (0, "yes")
            assert found.colormap(1)[1] == (0, 0, 100, 255)
            assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        beside = out.with_suffix(".confidence.tif")
        assert beside.exists() == (rule == "confidence")  # nor those of what was there before
        if rule == "confidence":  # the region's doubts are those of the pixels it took
            doubts = np.take_along_axis(told, rank.argmax(0)[None, None], 0)[0]
            with rasterio.open(beside) as found:
                np.testing.assert_array_equal(found.read(), doubts[:, :130, :125])
                assert (found.nodata, found.descriptions) == (255, inference.BANDS)
    out.unlink()
    (tmp_path / "maps" / f"{name}.confidence.tif").unlink()
    with pytest.raises(
        InputError, match=r"230303.*confidence.tif: not there, or torn .* with --confidence"
    ):
        st.mosaic(tmp_path / "maps", tmp_path / "region.tif")
    write(tmp_path / "maps" / "other.tif", classes[0][:60, :60])
    with pytest.raises(InputError, match=r"other.tif: no map with the legend of"):
        st.mosaic(tmp_path / "maps", tmp_path / "region.tif", overlap="newest")
    assert not (tmp_path / "region.tif").exists()


def mapped_at(path, at=GRID, crs="EPSG:32653"):
    """A map of one class, and its confidence beside it."""
    tag = json.dumps(lulc.HR_LULC.for_maps.to_dict())
    write(path, np.ones((200, 200), np.uint8), transform=at, crs=crs, LEGEND=tag)
    doubts = np.full((3, 200, 200), 50, np.uint8)
    write(path.with_suffix(".confidence.tif"), doubts, transform=at, crs=crs, nodata=255)
    return path


def test_maps_that_cannot_be_joined_are_refused_in_a_line(tmp_path):
    """A map of another continent, torn files, confidence of another place: nothing is written."""
    one, out = mapped_at(tmp_path / "a.tif"), tmp_path / "region.tif"
    far = mapped_at(tmp_path / "b.tif", Affine(5, 0, 400_000, 0, -5, 6_000_000), "EPSG:32719")
    near = mapped_at(tmp_path / "c.tif", GRID * Affine.translation(150, 0))
    with pytest.raises(InputError, match=r"a.tif and 1 more lie so far apart"):
        st.mosaic([one, far], out)
    for torn in (near, beside := near.with_suffix(".confidence.tif")):
        whole = torn.read_bytes()
        torn.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=rf"{torn.name}: not there, or torn"):
            st.mosaic([one, near], out)
        torn.write_bytes(whole)
    beside.write_bytes(one.with_suffix(".confidence.tif").read_bytes())
    with pytest.raises(InputError, match=r"c.confidence.tif: not the confidence of"):
        st.mosaic([one, near], out)  # of another place
    near_grid = GRID * Affine.translation(150, 0)
    write(beside, np.full((200, 200), 50, np.uint8), transform=near_grid, nodata=255)
    with pytest.raises(InputError, match=r"c.confidence.tif: not the confidence of"):
        st.mosaic([one, near], out)  # of one band
    assert not out.exists()
    beside.write_bytes(whole)
    with rasterio.open(st.mosaic([one, near], out)) as found:
        assert (found.shape, found.read(1).min()) == ((200, 350), 1)


def test_a_region_shows_no_patch_below_the_smallest(tmp_path):
    """Two scenes' maps: a small field across their border goes, a large one and no data stay."""
    legend = json.dumps(lulc.HR_LULC.for_maps.to_dict())
    classes = np.full((60, 100), 5, np.uint8)
    classes[10:14, 47:53], classes[30:36, 40:60], classes[5, 5] = 1, 2, 0  # 24 pixels, 120, 1
    classes[50:53, 10:13] = 3  # 9
    for name, cols in (("a", slice(0, 50)), ("b", slice(50, 100))):
        at, part = GRID * Affine.translation(cols.start, 0), classes[:, cols]
        write(tmp_path / "maps" / f"{name}.tif", part, transform=at, LEGEND=legend)
        doubts = tmp_path / "maps" / f"{name}.confidence.tif"
        write(doubts, np.full((3, *part.shape), 50, np.uint8), transform=at, nodata=255)
    out = tmp_path / "region.tif"
    for hectares, gone in ((0, ()), (0.06, (3,)), (0.0625, (1, 3)), (0.3, (1, 3)), (1, (1, 2, 3))):
        wanted = np.where(np.isin(classes, gone), 5, classes)  # a pixel has 0.0025 ha
        with rasterio.open(st.mosaic(tmp_path / "maps", out, min_area=hectares)) as found:
            np.testing.assert_array_equal(found.read(1), wanted)
            assert found.tags()["MIN_AREA"] == f"{hectares:g} ha"
