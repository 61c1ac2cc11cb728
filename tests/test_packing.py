"""The packed file: the same items and the same training, with no raster library in sight."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from sartutorial import InputError, checkpoints, datasets, finetuning, packing, patches, pretraining

SETS = [("pretrain", None), ("finetune", None), ("finetune", "val"), ("finetune", "test")]


@pytest.fixture(scope="module")
def packed(world, tmp_path_factory):
    """The patches of the world in one file."""
    return packing.pack(world / "patches", tmp_path_factory.mktemp("packed") / "patches.npy")


@pytest.mark.parametrize(("column", "split"), SETS)
def test_items_are_those_of_the_folder(world, packed, column, split):
    rows = [datasets.selected(source, column, split) for source in (world / "patches", packed)]
    assert len(rows[0]) > 0
    assert rows[0][list(datasets.COLUMNS)].to_numpy().tolist() == rows[1].to_numpy().tolist()
    assert datasets.fingerprint(rows[0]) == datasets.fingerprint(rows[1])
    norm = datasets.statistics(world / "patches", rows[0])
    assert datasets.statistics(packed, rows[1]) == norm
    a, b = (
        datasets.Patches(source, r, norm, seed=5)
        for source, r in zip((world / "patches", packed), rows, strict=True)
    )
    assert len(a) == len(b)
    for i in range(len(a)):
        for item in (i, (0, i), (3, i)):
            one, two = a[item], b[item]
            assert one.keys() == two.keys()
            for key in one:
                assert one[key].dtype == two[key].dtype
                assert torch.equal(one[key], two[key])


def test_numpy_alone_opens_it(world, packed):
    index = patches.read_index(world / "patches")
    rows = np.load(packed, mmap_mode="r")
    chosen = index[index["pretrain"] | index["finetune"]]
    assert rows["patch"].tolist() == chosen["patch"].tolist()
    for row in rows[:3]:
        with rasterio.open(world / "patches" / "label" / str(row["patch"])) as label:
            assert (row["label"] == label.read(1)).all()


def same(one, two):
    """Whether two files of weights hold the same bits, and the same account of their making."""
    (a, told), (b, said) = checkpoints.load(one), checkpoints.load(two)
    del told["provenance"], said["provenance"]
    return told == said and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def trained(world, packed, tiny, tmp_path_factory):
    """An encoder pretrained on the folder and on the file, and models tuned from it in both ways."""
    at, found = tmp_path_factory.mktemp("trained"), {}
    for name, source in (("folder", world / "patches"), ("file", packed)):
        encoder = pretraining.pretrain(source, at / name / "e", profile=tiny)
        model = finetuning.finetune(
            source, at / name / "m", encoder=encoder, profile=tiny, epochs=1
        )
        found[name] = encoder, model
    return found


def test_training_gives_the_same_weights(trained):
    assert same(trained["folder"][0], trained["file"][0])


def test_tuning_gives_the_same_weights_and_scores(trained):
    assert same(trained["folder"][1], trained["file"][1])
    one, two = (trained[k][1].with_name("metrics.json").read_text() for k in ("folder", "file"))
    assert one.split('"provenance"')[0] == two.split('"provenance"')[0]


# Neither modules nor their metadata, by which some libraries look for others, are to be found.
BARE = """
import json, sys

absent = set(sys.argv[1].split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        known = name.split(".")[0] not in absent
        return self.finder.find_spec(name, path, target) if known else None

    def find_distributions(self, *context):
        found = getattr(self.finder, "find_distributions", lambda *context: ())(*context)
        return (d for d in found if d.name not in absent)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from sartutorial import cli, profiles
profiles.PROFILES["laptop"] = profiles.Profile(**json.loads(sys.argv[2]))
for line in json.loads(sys.argv[3]):
    cli.app.meta(line, result_action="return_value")
assert not sys.modules.keys() & absent
"""
# All that the package depends on, but for what README.md says training from a packed file needs.
RASTER = "rasterio,osgeo,affine,geopandas,pyogrio,pyproj,shapely,pyarrow"
OTHERS = "distributed,dask,folium,matplotlib,scipy,sklearn,scikit-learn"


def bare(tiny, absent, *lines):
    """Run commands, with tiny networks, where the modules ``absent`` cannot be imported."""
    profile = json.dumps(dataclasses.asdict(tiny))
    command = [sys.executable, "-c", BARE, absent, profile, json.dumps(lines)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )


def test_training_needs_no_raster_library(packed, trained, tiny, tmp_path):
    out, source = str(tmp_path), str(packed)
    done = bare(
        tiny,
        f"{RASTER},{OTHERS}",
        ["pretrain", source, "--out", f"{out}/e"],
        ["finetune", source, "--out", f"{out}/m", "--encoder", f"{out}/e/encoder.safetensors",
         "--epochs", "1"],
        ["evaluate", source, "--model", f"{out}/m/model.safetensors", "--split", "val"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mean" in done.stdout
    here, there = trained["file"][0], tmp_path / "e" / "encoder.safetensors"
    a, b = checkpoints.load(here), checkpoints.load(there)
    assert a[1]["normalization"] == b[1]["normalization"]
    assert a[1]["history"] == pytest.approx(b[1]["history"], rel=1e-3)


def test_the_folder_does_need_them(world, tiny, tmp_path):
    """So the test above can fail."""
    done = bare(tiny, RASTER, ["pretrain", str(world / "patches"), "--out", str(tmp_path / "e")])
    assert done.returncode != 0
    assert "No module named" in done.stderr


def test_a_current_file_is_left_alone(world, tmp_path):
    folder = tmp_path / "patches"
    shutil.copytree(world / "patches", folder)
    out = packing.pack(folder, tmp_path / "p.npy")
    before = out.stat().st_mtime_ns

    def written():
        packing.pack(folder, out)
        return out.stat().st_mtime_ns != before

    assert not written()
    index = patches.read_index(folder)
    chosen = index["patch"][index["finetune"]].iloc[0]
    index.loc[index["patch"] == chosen, ["finetune", "pretrain"]] = False
    patches.write_index(index, folder)
    os.utime(folder / patches.INDEX, ns=(before - 10, before - 10))  # older, and of another choice
    assert written()
    assert chosen not in np.load(out)["patch"]
    before = out.stat().st_mtime_ns
    os.utime(folder / patches.INDEX, ns=(before + 10, before + 10))
    assert written()
    out.write_bytes(out.read_bytes()[:5000])
    before = out.stat().st_mtime_ns
    assert written()
    assert len(np.load(out)) > 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def fill(file, value):
    """Put a value into one pixel of a patch, which stays a patch."""
    with rasterio.open(file, "r+") as patch:
        band = patch.read(1)
        band[3, 5] = value
        patch.write(band, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_without_a_number_is_named(world, packed, tiny, tmp_path, value):
    folder, file = tmp_path / "patches", tmp_path / "p.npy"
    shutil.copytree(world / "patches", folder)
    rows = datasets.selected(folder, "pretrain")
    name = rows["patch"].iloc[2]
    fill(folder / "sar" / name, value)
    shutil.copy(packed, file)
    array = np.load(file, mmap_mode="r+")
    array["sar"][array["patch"].tolist().index(name), 3, 5] = value
    array.flush()
    words = rf"{name} holds NaN or infinite values"
    with pytest.raises(InputError, match=words):
        packing.pack(folder, tmp_path / "q.npy")
    assert not list(tmp_path.glob("*q.npy*"))
    for source in (folder, file):
        rows = datasets.selected(source, "pretrain")
        data = datasets.Patches(source, rows, datasets.Normalization(0, 1))
        assert torch.isfinite(data[0]["image"]).all()
        with pytest.raises(InputError, match=words):
            data[2]
        with pytest.raises(InputError, match=words):
            pretraining.pretrain(source, tmp_path / "out", profile=tiny)
        assert not (tmp_path / "out").exists()


def test_a_worker_of_the_loader_says_it_in_one_line(packed, tmp_path):
    file = Path(shutil.copy(packed, tmp_path / "p.npy"))
    array = np.load(file, mmap_mode="r+")
    array["sar"][:, 0, 0] = np.nan
    array.flush()
    rows = datasets.selected(file, "finetune")
    data = datasets.Patches(file, rows, datasets.Normalization(0, 1))
    with pytest.raises(InputError) as caught:
        next(iter(datasets.loader(data, 2, shuffle=False, workers=1)))
    assert str(caught.value).startswith(f"{file}: the patch {rows['patch'].iloc[0]} holds NaN")
    assert len(str(caught.value).splitlines()) == 1


def test_a_worker_is_sent_no_pixels(packed):
    rows = datasets.selected(packed, "finetune")
    data = datasets.Patches(packed, rows, datasets.Normalization(0, 1))
    first = data[0]["image"]
    sent = pickle.dumps(data)
    assert len(sent) < 64 * 64 * 4
    assert torch.equal(pickle.loads(sent)[0]["image"], first)


def test_memory_does_not_grow_with_the_patches(world, tmp_path):
    """A packed file of all patches and one of four take the same memory, but for the index."""
    few = tmp_path / "few"
    few.mkdir()
    index = patches.read_index(world / "patches")
    chosen = index[index["finetune"]]
    assert len(chosen) > 20
    patches.write_index(chosen[:4], few)
    for kind in ("sar", "label"):
        (few / kind).symlink_to(world / "patches" / kind)
    packing.pack(few, tmp_path / "warm.npy")
    peaks = []
    for folder in (few, world / "patches"):
        tracemalloc.start()
        packing.pack(folder, tmp_path / f"{folder.name}.npy")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more = (len(chosen) - 4) * 64 * 64 * 5
    assert peaks[1] - peaks[0] < more / 4


def test_patches_of_two_sizes_are_not_packed(world, tmp_path):
    folder = tmp_path / "patches"
    shutil.copytree(world / "patches", folder)
    name = datasets.selected(folder, "finetune")["patch"].iloc[1]
    with rasterio.open(folder / "sar" / name) as patch:
        profile = patch.profile | {"width": 32, "height": 32}
        band = patch.read(1)[:32, :32]
    with rasterio.open(folder / "sar" / name, "w", **profile) as patch:
        patch.write(band, 1)
    with pytest.raises(InputError, match=f"{name} is not of 64 px"):
        packing.pack(folder, tmp_path / "p.npy")
    assert not (tmp_path / "p.npy").exists()


def test_what_is_not_a_packed_file_is_named(packed, tmp_path):
    torn, other, archive = (tmp_path / n for n in ("torn.npy", "other.npy", "a.npz"))
    torn.write_bytes(packed.read_bytes()[:-1])
    np.save(other, np.zeros(3))
    np.savez(archive, a=np.zeros(3))
    for file in (torn, other, archive):
        with pytest.raises(InputError, match=f"{file.name}: not a"):
            datasets.selected(file, "pretrain")
    with pytest.raises(InputError, match="is a file; name the folder"):
        packing.pack(packed, tmp_path / "again.npy")
