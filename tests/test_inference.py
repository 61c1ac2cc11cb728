"""Sliding windows over any scene, and maps that open elsewhere, in the colours of their legend."""

import json
import os
import shutil
import signal
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import GRID, scene_array, write
from rasterio import features
from rasterio.enums import ColorInterp
from rasterio.windows import Window

import sartutorial
from sartutorial import InputError, lulc, rasters
from sartutorial.learn import checkpoints, inference, reports
from sartutorial.learn.datasets import Normalization
from sartutorial.learn.encoders import Encoder, EncoderConfig
from sartutorial.learn.segmentation import Decoder, Segmenter

NORM = Normalization(-10.0, 5.0)


class Threshold(torch.nn.Module):
    """Stands in for a model: water below the mean, forest above; knows no surroundings."""

    class encoder:
        class config:
            image_size = 32

    class config:
        classes = 9

    def __init__(self):
        super().__init__()
        self.any = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        logits = torch.zeros(len(image), 9, *image.shape[2:])
        logits[:, 0], logits[:, 4] = -image[:, 0], image[:, 0]
        return logits


def mapped_by(model, path, laid, norm=NORM):
    """The map of a scene, strip by strip, which must follow each other."""
    with rasters.opened(path) as scene:
        strips = [inference.drawn(s, 1)[0] for s in inference.blended(scene, model, norm, laid)]
        assert {len(strip) for strip in strips[:-1]} <= {laid.step}
    return np.concatenate(strips)


@pytest.mark.parametrize("shape", [(32, 32), (100, 77), (20, 90), (129, 31), (64, 64)])
@pytest.mark.parametrize(("step", "rim"), [(None, None), (32, 0), (7, 3), (24, 4)])
def test_a_model_without_context_maps_a_scene_pixel_by_pixel(tmp_path, shape, step, rim):
    dn = scene_array(np.random.default_rng(0), *shape, hole=0.1)
    path = write(tmp_path / "IMG.tif", dn)
    found = mapped_by(Threshold(), path, inference.windows(32, step, rim))
    db = 20 * np.log10(np.maximum(dn, 1)) - 83
    truth = np.where(dn == 0, 0, np.where(db > -10, 5, 1))
    np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize(("step", "rim"), [(33, 0), (25, 4), (0, 4), (1, 16), (None, 9)])
def test_windows_that_leave_gaps_are_refused(step, rim):
    with pytest.raises(InputError, match="leave gaps"):
        inference.windows(32, step, rim)


class Smooth(Threshold):
    """Sees ``reach`` pixels around each, and black beyond its window: a network in small."""

    def __init__(self, reach, level=0.0):
        super().__init__()
        self.reach, self.level = reach, level

    def forward(self, image):
        side = 2 * self.reach + 1
        near = torch.nn.functional.avg_pool2d(image, side, 1, self.reach)
        return super().forward(near - self.level)


@pytest.mark.parametrize("shape", [(100, 77), (32, 129), (20, 24)])
def test_a_model_whose_reach_fits_the_rim_sees_the_whole_scene(tmp_path, shape):
    """Windows give what one image gives that is mirrored at the scene's end, to the pixel."""
    dn = scene_array(np.random.default_rng(1), *shape)
    path = write(tmp_path / "IMG.tif", dn)
    laid = inference.windows(32, rim=5)
    with rasters.opened(path) as scene:
        strips = list(inference.blended(scene, Smooth(laid.rim), NORM, laid))
    found = np.concatenate([p for p, _ in strips], axis=1)
    z = ((20 * np.log10(dn.astype(float)) - 83 - NORM.mean) / NORM.std).astype(np.float32)
    whole = np.pad(z, laid.rim, mode="reflect")
    truth = inference.probabilities(Smooth(laid.rim), whole[None, None])[0]
    inside = slice(laid.rim, -laid.rim)
    np.testing.assert_allclose(found, truth[:, inside, inside], atol=1e-5)


def test_windows_keep_their_phase_to_the_end(tmp_path):
    """A checkerboard of logits: no window is moved to fit, no seam is a pixel off."""

    class Board(Threshold):
        def forward(self, image):
            logits = torch.zeros(len(image), 9, *image.shape[2:])
            logits[:, 3, ::2, ::2], logits[:, 3, 1::2, 1::2] = 1, 1
            return logits

    path = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 101, 77))
    found = mapped_by(Board(), path, inference.windows(32))
    row, col = np.indices(found.shape)
    np.testing.assert_array_equal(found, np.where((row + col) % 2, 1, 4))


def test_no_data_is_filled_by_a_mirror():
    image = np.full((40, 40), np.nan, np.float32)
    image[10:20, 10:25] = np.arange(150).reshape(10, 15)
    found = inference.mirrored(image)
    np.testing.assert_array_equal(found[10:20, 10:25], image[10:20, 10:25])
    for i in range(1, 10):
        np.testing.assert_array_equal(found[10 - i, 10:25], image[10 + i, 10:25])
        np.testing.assert_array_equal(found[19 + i, 10:25], image[19 - i, 10:25])
    assert np.isfinite(found).all()
    lonely = np.full((3, 9), np.nan, np.float32)
    assert np.isnan(inference.mirrored(lonely)).all()
    lonely[1, 4] = 5
    assert (inference.mirrored(lonely) == 5).all()


def test_the_edge_of_the_data_is_no_other_place_to_a_model(tmp_path):
    """Beside a slanted edge of no data a model that looks around sees more of the same."""
    rng = np.random.default_rng(0)
    row, col = np.indices((200, 160))
    db = np.where(row // 40 % 2, -20, -5) + rng.normal(0, 0.5, row.shape)
    dn = np.rint(10 ** ((db + 83) / 20)).astype(np.uint16)
    outside = col < 40 + 0.18 * row
    path = write(tmp_path / "a.tif", np.where(outside, 0, dn).astype(np.uint16))
    norm = Normalization(-8, 5)  # water lies at -2.4, so the mean in its place would tell
    found = mapped_by(Smooth(4, level=-1.5), path, inference.windows(32), norm)
    truth = np.where(row // 40 % 2, 1, 5)
    wrong, near = (found != truth) & ~outside, ~outside & (col < 44 + 0.18 * row)
    assert (found[outside] == 0).all()
    assert wrong[near].mean() <= wrong[~outside & ~near].mean() + 0.02


def save(file, legend=lulc.HR_LULC, **known):
    """An untrained model on disk."""
    torch.manual_seed(0)
    config = EncoderConfig(64, 16, (1, 1, 1, 1), (1, 2, 2, 4), 8)
    decoder = Decoder(32, len(legend.names))
    description = {
        "encoder": config._asdict(), "decoder": decoder._asdict(), "legend": legend.to_dict(),
        "normalization": NORM._asdict(), "spacing": 5.0, "quantity": "sigma0", "polarisation": "HH",
    }  # fmt: skip
    checkpoints.save(Segmenter(Encoder(config), decoder), file, description | known)
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model of the nine classes."""
    torch.set_num_threads(1)
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


def mapped(scene, model, out):
    with rasterio.open(sartutorial.predict(scene, model, out)) as found:
        return found.read(1)


def test_a_map_is_a_cloud_optimized_geotiff_with_colours(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 700, 300, hole=0.05)
    scene = write(tmp_path / "IMG.tif", dn, SIMULATED="yes")
    out = sartutorial.predict(scene, model, tmp_path / "maps" / "map.tif")
    with rasterio.open(out) as found, rasterio.open(scene) as sar:
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.colorinterp == (ColorInterp.palette,)
        assert {k: v for k, v in found.colormap(1).items() if 1 <= k <= 9} == {
            i + 1: (*rgb, 255) for i, rgb in enumerate(lulc.HR_LULC.colours)
        }
        assert rasters.grid_of(found) == rasters.grid_of(sar)
        assert found.nodata == 0
        assert found.tags()["SIMULATED"] == "yes"
        assert np.array_equal(found.read(1) == 0, dn == 0)
        assert found.read(1).max() <= 9
    # Nothing is left over but the note of what it was made from.
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {"map.tif", ".made"}
    left = {p.name for p in (tmp_path / "maps" / ".made").iterdir()}
    assert left <= {"map.tif.json", "map.tif.lock"}


def test_a_map_of_the_authors_weights_says_what_they_ask(tmp_path, model):
    """In its tags, which travel with it; a map of other weights says nothing of the kind."""
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 64, 64))
    theirs = tmp_path / "model.safetensors"
    theirs.write_bytes(model.read_bytes())
    about = json.loads(model.with_suffix(".json").read_text()) | {"published": {"file": "x.pth"}}
    theirs.with_suffix(".json").write_text(json.dumps(about))
    notes = []
    for i, file in enumerate((model, theirs)):
        with rasterio.open(sartutorial.predict(scene, file, tmp_path / f"{i}.tif")) as found:
            notes.append(found.tags().get("NOTE", ""))
    assert notes[0] == ""
    assert "copyrighted by JAXA" in notes[1]


def test_a_map_is_made_anew_when_its_scene_or_model_is_another(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 70, 70)
    scene, mine = write(tmp_path / "IMG.tif", dn), tmp_path / "model.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(model.with_suffix(suffix), mine.with_suffix(suffix))
    out = tmp_path / "map.tif"

    def made():
        sartutorial.predict(scene, mine, out)
        return out.stat().st_ino

    first = made()
    os.utime(scene)  # the same pixels
    assert made() == first
    write(scene, dn[::-1])
    os.utime(scene, (0, 0))  # other pixels, whatever their date
    second = made()
    assert second != first
    save(mine, normalization={"mean": -20.0, "std": 5.0})
    third = made()
    assert third != second
    sartutorial.predict(scene, mine, out, confidence=True)
    beside = out.with_suffix(".confidence.tif")
    assert made() == third and beside.exists()
    write(scene, dn)
    assert made() != third and not beside.exists()  # no map has the doubts of another


def test_what_a_model_doubts_lies_beside_its_map(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 150, 90, hole=0.05)
    dn[60:70] = 60_000  # +12.6 dB
    scene = write(tmp_path / "IMG.tif", dn, transform=GRID * Affine.scale(1, -1))
    out = sartutorial.predict(scene, model, tmp_path / "map.tif", confidence=True)
    with rasterio.open(tmp_path / "map.confidence.tif") as found, rasterio.open(out) as land:
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert rasters.grid_of(found) == rasters.grid_of(land)
        assert found.descriptions == inference.BANDS
        assert found.nodata == 255
        confidence, margin, validity = found.read().astype(int)
        classes = land.read(1)
    with rasters.opened(scene) as sar:
        norm, laid = NORM, inference.windows(64)
        network = sartutorial.load_model(model).model
        p = np.concatenate([p for p, _ in inference.blended(sar, network, norm, laid)], axis=1)[
            :, ::-1
        ]  # which is from the north
    valid = dn > 0
    for band in (confidence, margin, validity):
        np.testing.assert_array_equal(band == 255, ~valid)
    np.testing.assert_array_equal(confidence[valid], np.rint(100 * p.max(0))[valid])
    ordered = np.sort(p, axis=0)
    np.testing.assert_array_equal(margin[valid], np.rint(100 * (ordered[-1] - ordered[-2]))[valid])
    np.testing.assert_array_equal(classes[valid], p.argmax(0)[valid] + 1)
    db = 20 * np.log10(np.maximum(dn, 1)) - 83
    np.testing.assert_array_equal(validity[valid], (np.abs(db + 10) > 15)[valid])
    # It changes nothing about the map, which is not made anew for it.
    made = out.stat().st_ino
    (tmp_path / "map.confidence.tif").unlink()
    sartutorial.predict(scene, model, out)
    sartutorial.predict(scene, model, out, confidence=True)
    assert out.stat().st_ino == made
    assert (tmp_path / "map.confidence.tif").exists()


def test_layover_and_shadow_are_told_where_the_product_tells_them(tmp_path):
    model = save(tmp_path / "model.safetensors", spacing=25.0, quantity="gamma0")
    rng = np.random.default_rng(0)
    dn, mask = (
        rng.integers(1000, 5000, (90, 70)).astype(np.uint16),
        np.full((90, 70), 255, np.uint8),
    )
    mask[:20], mask[20:30], mask[30:40] = 0, 100, 150
    at = GRID * Affine.scale(5)
    name = "N23W161_20_{}_F02DAR.tif"
    scene = write(tmp_path / name.format("sl_HH"), dn, transform=at)
    write(tmp_path / name.format("mask"), mask, transform=at, nodata=None)
    sartutorial.predict(scene, model, tmp_path / "map.tif", confidence=True)
    with rasterio.open(tmp_path / "map.confidence.tif") as found:
        validity = found.read(3)
    for rows, code in ((slice(0, 20), 255), (slice(20, 30), 2), (slice(30, 40), 3)):
        assert (validity[rows] == code).all()
    assert (validity[40:] <= 1).all()


@pytest.mark.parametrize("torn", [0, 3000])
def test_a_map_goes_on_from_its_last_strip(tmp_path, model, monkeypatch, torn):
    """What a killed run has left is not done again, and what it tore is."""
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 210, 130, hole=0.02))
    whole = sartutorial.predict(scene, model, tmp_path / "a.tif", confidence=True)
    probabilities, calls = inference.probabilities, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return probabilities(*arguments)

    monkeypatch.setattr(inference, "probabilities", counted)
    out = tmp_path / "b.tif"
    with pytest.raises(KeyboardInterrupt):
        sartutorial.predict(scene, model, out, confidence=True)
    assert not out.exists()
    (strips,) = (tmp_path / ".made").glob("*.strips")
    assert strips.stat().st_size == 4 * 3 * 32 * 130
    with strips.open("ab") as file:
        file.write(bytes(torn))
    calls.extend(range(10))  # and no more interruptions
    sartutorial.predict(scene, model, out, confidence=True)
    # Of seven strips three were there; the windows of one reach into the fourth.
    assert len(calls) == 14 + 7 - 3 + 1
    for suffix in (".tif", ".confidence.tif"):
        assert out.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    assert not strips.exists()


def test_strips_of_another_scene_are_not_gone_on_from(tmp_path, model, monkeypatch):
    rng = np.random.default_rng(0)
    scene = write(tmp_path / "IMG.tif", scene_array(rng, 210, 130))
    probabilities, calls = inference.probabilities, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return probabilities(*arguments)

    monkeypatch.setattr(inference, "probabilities", dies)
    with pytest.raises(KeyboardInterrupt):
        sartutorial.predict(scene, model, tmp_path / "a.tif")
    write(scene, scene_array(rng, 210, 130))
    found = mapped(scene, model, tmp_path / "a.tif")
    np.testing.assert_array_equal(found, mapped(scene, model, tmp_path / "b.tif"))


def test_a_map_that_fails_says_why_and_leaves_nothing(tmp_path, model):
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 70, 70))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/map\.tif: could not be written"):
        sartutorial.predict(scene, model, tmp_path / "file" / "map.tif")


def test_one_scene_gives_a_map_and_several_a_folder(tmp_path, model):
    rng = np.random.default_rng(0)
    scenes = [write(tmp_path / "s" / f"{n}.tif", scene_array(rng, 70, 70)) for n in "ab"]
    out = tmp_path / "maps"
    assert sartutorial.predict(scenes, model, out) == [out / "a.tif", out / "b.tif"]
    assert sartutorial.predict(tmp_path / "s", model, out) == [out / "a.tif", out / "b.tif"]
    assert sartutorial.predict(str(scenes[0]), model, tmp_path / "one") == tmp_path / "one/a.tif"
    assert sartutorial.predict(scenes[:1], model, out) == [out / "a.tif"]
    with pytest.raises(InputError, match="name a folder"):
        sartutorial.predict(scenes, model, tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("gpus", "worker", "wanted"),
    [
        (0, 1, "cpu"), (1, 3, "cuda:0"), (4, None, "cuda:0"), (4, 3, "cuda:3"), (4, 6, "cuda:2"),
        (4, "node-1-2", "cuda:2"), (2, "tcp://10.0.0.1:40001", "cuda:1"), (2, "gpu", "cuda:0"),
    ],
)  # fmt: skip
def test_each_worker_has_a_gpu_of_its_own(monkeypatch, gpus, worker, wanted):
    """By its name: local ones are called 0, 1, 2, ..., those of ``dask worker --nworkers`` NAME-0."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if worker is not None:
        monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name=worker))
    assert inference.device() == wanted


@pytest.mark.slow
def test_workers_of_this_machine_share_its_gpus(tmp_path):
    def where(scene):
        torch.cuda.device_count = lambda: 2  # in the worker, which has none
        (tmp_path / str(os.getpid())).touch()
        while len(os.listdir(tmp_path)) < 2:  # until the other has taken a scene as well
            time.sleep(0.02)
        return os.getpid(), inference.device()

    found = set(sartutorial.map_scenes(where, [*"abcdef"], name="where", workers=2))
    assert len(found) == 2
    assert {device for _, device in found} == {"cuda:0", "cuda:1"}


@pytest.mark.nightly
def test_a_killed_worker_costs_its_own_scene_alone(tmp_path, model, monkeypatch):
    """The others are mapped, byte for byte as in one process; it goes on from its last strip."""
    rng = np.random.default_rng(0)
    for name in "abc":
        write(tmp_path / "s" / f"scene-{name}.tif", scene_array(rng, 210, 130, hole=0.02))
    whole = sartutorial.predict(tmp_path / "s", model, tmp_path / "alone", confidence=True)
    map_one, out = inference._map, tmp_path / "out"

    def fatal(*arguments, **how):
        probabilities, calls = inference.probabilities, []

        def dies(*images):
            calls.append(1)
            if len(calls) > 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return probabilities(*images)

        inference.probabilities = dies if how["out"].stem == "scene-b" else probabilities
        try:
            return map_one(*arguments, **how)
        finally:
            inference.probabilities = probabilities

    monkeypatch.setattr(inference, "_map", fatal)
    again = partial(sartutorial.predict, tmp_path / "s", model, out, confidence=True, workers=2)
    with pytest.raises(InputError) as caught:
        again()
    assert len(str(caught.value).splitlines()) == 1
    assert "scene-b.tif: the processes that took it died" in str(caught.value)
    assert sorted(p.name for p in out.glob("*.tif")) == [
        f"scene-{name}{end}" for name in "ac" for end in (".confidence.tif", ".tif")
    ]
    assert (out / ".made" / "scene-b.tif.strips").stat().st_size > 0
    monkeypatch.undo()
    for path, other in zip(again(workers=1), whole, strict=True):
        for suffix in (".tif", ".confidence.tif"):
            assert path.with_suffix(suffix).read_bytes() == other.with_suffix(suffix).read_bytes()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("least", "rows"), [(12, 40), (30, 17), (1, 40), (0, 40), (500, 40)])
def test_small_patches_join_a_neighbour_whatever_strip_they_lie_in(seed, least, rows):
    """The pixels that change are those that the sieve of the whole map changes."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(1, 4, (10, 6)), np.ones((12, 12), int))
    classes = np.where(rng.random(coarse.shape) < 0.1, rng.integers(0, 5, coarse.shape), coarse)
    classes = classes.astype(np.uint8)
    grid = rasters.Grid("EPSG:32653", GRID, classes.shape[1], classes.shape[0])

    def read(window):
        return classes[None, slice(*window.toranges()[0])]

    windows = [Window(0, t, grid.width, min(rows, grid.height - t))
               for t in range(0, grid.height, rows)]  # fmt: skip
    found = np.concatenate([inference.sieved(read, grid, w, least)[0] for w in windows])
    whole = features.sieve(classes, least, mask=classes > 0) if least > 1 else classes
    np.testing.assert_array_equal(found != classes, whole != classes)
    assert least < 2 or (found != classes).any()
    np.testing.assert_array_equal(found == 0, classes == 0)


def test_a_scene_of_another_kind_is_refused(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 70, 70)
    for scale, words in (
        (0.5, "run 'sartutorial downsample --factor 2' on it first"),
        (0.25, "run 'sartutorial downsample --factor 4' on it first"),
        (0.485, "--factor 2"),  # 3 % off
        (0.55, "resolution"),  # 10 % off
        (1.06, "resolution"),
    ):
        scene = write(tmp_path / "s.tif", dn, transform=GRID * Affine.scale(scale))
        with pytest.raises(InputError, match=rf"s\.tif: pixels of .* {words}"):
            sartutorial.predict(scene, model, tmp_path / "map.tif")
    for tag in ({"QUANTITY": "gamma0"}, {"POLARISATION": "HV"}):
        (held,) = tag.values()
        scene = write(tmp_path / "s.tif", dn, **tag)
        with pytest.raises(InputError, match=rf"s\.tif: holds {held}, the model was trained on"):
            sartutorial.predict(scene, model, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()
    near = write(tmp_path / "s.tif", dn, transform=GRID * Affine.scale(1.04))
    assert sartutorial.predict(near, model, tmp_path / "map.tif").exists()


def test_spacing_is_that_on_the_ground(tmp_path, model):
    """Web Mercator's metres are a sixth too long at 33 degrees north."""
    dn = scene_array(np.random.default_rng(0), 70, 70)
    at = Affine(5, 0, 15_028_000, 0, -5, 3_895_000)  # 33 N 135 E
    scene = write(tmp_path / "s.tif", dn, transform=at, crs="EPSG:3857")
    with pytest.raises(InputError, match=r"pixels of 4\.19 m"):
        sartutorial.predict(scene, model, tmp_path / "map.tif")
    stretch = 1 / np.cos(np.radians(33))
    scene = write(tmp_path / "s.tif", dn, transform=at * Affine.scale(stretch), crs="EPSG:3857")
    assert sartutorial.predict(scene, model, tmp_path / "map.tif").exists()


def test_a_scene_stored_from_south_to_north_has_the_same_map(tmp_path, model):
    dn = scene_array(np.random.default_rng(0), 150, 90, hole=0.05)
    upright = mapped(write(tmp_path / "a.tif", dn), model, tmp_path / "a-map.tif")
    assert len(np.unique(upright)) > 2
    for flip, at in (
        (np.s_[::-1, :], GRID * Affine.translation(0, 150) * Affine.scale(1, -1)),
        (np.s_[:, ::-1], GRID * Affine.translation(90, 0) * Affine.scale(-1, 1)),
    ):
        scene = write(tmp_path / "b.tif", dn[flip], transform=at)
        found = mapped(scene, model, tmp_path / "b-map.tif")
        np.testing.assert_array_equal(found[flip], upright)
        with rasterio.open(tmp_path / "b-map.tif") as result:
            assert rasters.same_grid(
                rasters.grid_of(result), rasters.Grid("EPSG:32653", at, 90, 150)
            )


@pytest.mark.parametrize("declares", ["nodata", "mask"])
def test_what_a_scene_declares_invalid_is_not_mapped(tmp_path, model, declares):
    dn = scene_array(np.random.default_rng(0), 70, 90)
    dn[:, :9] = 777
    scene = write(tmp_path / "s.tif", dn, nodata=777 if declares == "nodata" else None)
    if declares == "mask":
        with rasterio.open(scene, "r+") as raw:
            raw.write_mask(dn != 777)
    found = mapped(scene, model, tmp_path / "map.tif")
    np.testing.assert_array_equal(found == 0, dn == 777)


def test_a_model_maps_in_its_own_legend(tmp_path):
    model = save(tmp_path / "model.safetensors", lulc.WORLDCOVER)
    scene = write(tmp_path / "s.tif", scene_array(np.random.default_rng(0), 70, 90, hole=0.1))
    out = sartutorial.predict(scene, model, tmp_path / "map.tif")
    with rasterio.open(out) as found:
        assert found.colormap(1)[2] == (255, 187, 34, 255)  # ESA's shrubland
    shown = sartutorial.read_classes(out)
    assert shown.legend.names == lulc.WORLDCOVER.names
    assert shown.ids.max() <= 11
    # The labels of that scene, as a map's own classes: every pixel agrees.
    ids = np.array([0, *lulc.WORLDCOVER.ids], np.uint8)[shown.ids]
    legend = json.dumps(lulc.WORLDCOVER.to_dict())
    labels = write(tmp_path / "l.tif", ids, LEGEND=legend)
    confusion = reports.agreement(out, labels)
    assert np.trace(confusion) == confusion.sum() == (shown.ids > 0).sum()
    japan = write(tmp_path / "j.tif", np.ones_like(ids))
    with pytest.raises(
        InputError, match=r"map\.tif: its classes are tree cover, .* water, built-up"
    ):
        reports.agreement(out, japan)


def test_agreement_is_a_confusion_matrix(tmp_path):
    ids = np.array([[1, 3, 4, 0], [6, 9, 10, 15]], np.uint8)
    shown = np.array([[1, 3, 1, 1], [5, 5, 0, 6]], np.uint8)
    labels, found = write(tmp_path / "l.tif", ids), write(tmp_path / "m.tif", shown)
    confusion = reports.agreement(found, labels)
    assert confusion[0, 0] == 1
    assert confusion[2, 2] == 1
    assert confusion[2, 0] == 1
    assert confusion[4, 4] == 2
    assert confusion.sum() == 5
    # The same grid, to a billionth of a pixel and by another name of its CRS.
    nearly = write(tmp_path / "m.tif", shown, transform=GRID * Affine.translation(1e-9, 0))
    np.testing.assert_array_equal(reports.agreement(nearly, labels), confusion)
    moved = write(tmp_path / "m.tif", shown, transform=GRID * Affine.translation(1, 0))
    with pytest.raises(InputError, match=r"m\.tif: not on the grid of .*l\.tif"):
        reports.agreement(moved, labels)
