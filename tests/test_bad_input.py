"""Every command against every fault: one clear line, a bad exit code, nothing half-written."""

import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import GRID, land_array, scene_array, write
from safetensors.torch import save_file
from test_published import state as published_state

from sartutorial import downsample, exchange, finetuning, labels, packing, patches, pretraining

# A sound call of every command; faults below replace one of its words.
SOUND = {
    "simulate": "simulate --out o",
    "downsample": "downsample IMG.tif --out o",
    "label": "label IMG.tif --tiles tiles --out o",
    "patches": "patches IMG.tif --labels labels --out o --max-void 1 --size 64",
    "export": "export set --out o",
    "import": "import theirs/locations.csv --sar theirs/sar --labels theirs/label --out o",
    "sample": "sample set --tiles lulc --points 9000 --block 2",
    "pack": "pack set --out o.npy",
    "pretrain": "pretrain set --out o --epochs 1",
    "import-weights": "import-weights theirs.pth --out o",
    "finetune": "finetune set --out o --encoder encoder.safetensors --epochs 1",
    "evaluate": "evaluate set --model model.safetensors --split train --out o.json",
    "predict": "predict IMG.tif --model model.safetensors --out o.tif",
    "table1": "table1 --patches set --out o --seeds 1",
}
# The first file that each of them writes.
WRITES = {
    "simulate": "o/dem/DEM.tif",
    "downsample": "o/IMG.tif",
    "label": "o/IMG.tif",
    "patches": "o/sar/IMG_0_0.tif",
    "export": "o/sar/2022/",
    "import": "o/sar/IMG",
    "sample": "set/points.parquet",
    "pack": "o.npy",
    "pretrain": "o/last.ckpt",
    "import-weights": "o/encoder.safetensors",
    "finetune": "o/last.ckpt",
    "evaluate": "o.json",
    "predict": ".o.plain.tif",
}
SCENE_FAULTS = {
    "no.tif": "no.tif: no such scene; check the path",
    "text.tif": "text.tif: not a readable raster",
    "short.tif": "short.tif: not a readable raster",
    "torn.tif": "torn.tif: cannot be read",
    "nowhere.tif": "nowhere.tif: no georeference",
    "float.tif": "float.tif: holds float32, expected uint16",
    "two.tif": "two.tif: holds 2 bands",
    "nothing": "nothing: the folder holds no raster",
    "IMG.tif IMG.tif": "IMG.tif: given more than once",
}
TILE_FAULTS = {
    "no": "no: no such land-cover tile",
    "nothing": "nothing: the folder holds no raster",
    "text.tif": "text.tif: not a readable raster",
    "nowhere.tif": "nowhere.tif: no georeference",
    "float.tif": "float.tif: holds float32, expected uint8",
    "ids": "77.tif: unknown class ids [77]",
    "short": "short/t.tif: not a readable raster",
    "torn": "torn/t.tif: cannot be read",
}
SET_FAULTS = {
    "no": "run 'sartutorial patches' first",
    "textset": "textset/patches.parquet: not a readable patch index",
    "emptyset": "emptyset/patches.parquet: holds no patch",
    "strange": "strange/patches.parquet: not a patch index",
}
TRAINING_FAULTS = SET_FAULTS | {
    "unsampled": "unsampled: patches are not sampled yet; run 'sartutorial sample'",
    "gone": "run 'sartutorial patches' again",
    "shortset": "cannot be read",
}
PACKED_FAULTS = {
    "text.tif": "text.tif: not a readable packed file",
    "short.npy": "short.npy: not a readable packed file",
    "foreign.npy": "foreign.npy: not a packed file of ours",
}
WEIGHT_FAULTS = {
    "no.safetensors": "no.safetensors: no such file",
    "text.safetensors": "text.safetensors: not weights of ours",
    "short.safetensors": "short.safetensors: not weights of ours",
    "pickle.safetensors": "pickle.safetensors: not weights of ours",
    "foreign.safetensors": "foreign.safetensors: not weights of ours",
    "alone.safetensors": "alone.json: no such file",
    "text.tif": "text.tif: not weights of ours",
}
CONFIG_FAULTS = {
    "no.yaml": "no.yaml",
    "bad.yaml": "bad.yaml: not valid YAML",
    "list.yaml": "list.yaml: must hold a section a command",
    "command.yaml": "command.yaml: there is no command cook",
    "option.yaml": "has no option colour",
    "text.tif": "text.tif",
}


def rows():
    """(command, the word to replace or None, what stands in for it, what the message must say)."""
    for command in ("downsample", "label", "patches", "predict"):
        for fault, words in SCENE_FAULTS.items():
            yield command, "IMG.tif", fault, words
        yield command, "IMG.tif", "", "no SCENE given"
    for command in ("downsample", "patches"):
        yield command, "IMG.tif", "IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif", "level 3.1"
    for command in ("downsample", "patches", "predict"):
        yield command, "IMG.tif", "IMG-tokyo.tif", "IMG-tokyo.tif: its name is none of JAXA's"
    yield "downsample", "--out o", "--out o --quantity beta0", "beta0"
    yield "downsample", "IMG.tif", "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif", "not on the grid"
    for fault, words in TILE_FAULTS.items():
        yield "label", "tiles", fault, words
        yield "sample", "lulc", fault, words
    for fault, words in SET_FAULTS.items():
        yield "export", "set", fault, words
    yield "export", "set", "gone", "run 'sartutorial patches' again"
    yield "import", "theirs/locations.csv", "no.csv", "no.csv: no such table"
    yield "import", "theirs/locations.csv", "text.tif", "text.tif: lacks the columns Year"
    yield "import", "theirs/sar", "nothing", "no such file, but the table lists it"
    yield "import", "theirs/sar", "theirs/label", "holds uint8, expected float32 dB"
    yield "import", "theirs/label", "theirs/sar", "holds float32, expected uint8 ids"
    yield "label", "tiles", "far", "IMG.tif: no land-cover tile meets it; it needs LC_N33E135.tif"
    yield "sample", "lulc", "void", "no labelled pixel"
    yield "sample", "lulc", "far", "none of the points fell on a patch"
    yield "sample", "lulc", "wood --no-forest", "every class with pixels has weight 0"
    yield "sample", "set", "bare", "bare/patches.parquet: 2 patches have no footprint"
    for wrong in ("--split leaky", "--buffer -1", "--allocation fair", "--category all"):
        yield "sample", "--points 9000", wrong, wrong.split()[0]
    for fault, words in SET_FAULTS.items():
        yield "sample", "set", fault, words
    for command in ("pretrain", "finetune", "evaluate", "table1"):
        for fault, words in (TRAINING_FAULTS | PACKED_FAULTS).items():
            yield command, "set", fault, words
    for fault, words in TRAINING_FAULTS.items():
        yield "pack", "set", fault, words
    yield "pack", "set", "text.tif", "text.tif: is a file; name the folder"
    yield "patches", "labels", "no", "run 'sartutorial label' first"
    yield "patches", "labels", "grid", "grid/IMG.tif: not on the grid of IMG.tif"
    yield "patches", "labels", "text", "text/IMG.tif: not a readable raster"
    yield "patches", "labels", "wrong", "wrong/IMG.tif: holds uint16, expected uint8"
    yield "patches", "labels", "shortlabels", "shortlabels/IMG.tif: not a readable raster"
    yield "patches", "labels", "unknown", "unknown/IMG.tif: unknown class ids [77]"
    yield "patches", "--size 64", "--size 999", "smaller than a patch of 999"
    yield "patches", "--size 64", "--size 0", "--size"
    yield "patches", "--max-void 1", "--max-void 2", "--max-void"
    yield "predict", "IMG.tif", "fine.tif", "run 'sartutorial downsample --factor 2' on it first"
    yield "predict", "IMG.tif", "N23W161_20_sl_HH_F02DAR.tif", "holds gamma0"
    yield "downsample", "--out o", "--out o --factor 0", "--factor"
    yield "downsample", "IMG.tif --out o", "o/IMG.tif --out o", "o/IMG.tif: no such scene"
    yield "downsample", "IMG.tif --out o", "IMG.tif --out .", "would overwrite its own source"
    yield "simulate", "--out o", "--out o --seed -1", "--seed"
    yield "simulate", "--out o", "--out o --profile huge", "huge"
    yield "sample", "--points 9000", "--points 0", "--points"
    yield "pretrain", "--epochs 1", "--method gan", "gan"
    yield "evaluate", "--split train", "--split all", "all"
    for fault, words in WEIGHT_FAULTS.items():
        yield "finetune", "encoder.safetensors", fault, words
        yield "evaluate", "model.safetensors", fault, words
        yield "predict", "model.safetensors", fault, words
    for fault in ("text.tif", "short.safetensors", "pickle.safetensors"):
        yield "import-weights", "theirs.pth", fault, f"{fault}: weights cannot be read from it"
    yield "import-weights", "theirs.pth", "no.pth", "no.pth: no such file"
    yield (
        "import-weights",
        "theirs.pth",
        "foreign.safetensors",
        "foreign.safetensors: lacks encoder.",
    )
    yield "import-weights", "theirs.pth", "model.safetensors", "model.safetensors: does not fit"
    yield "finetune", "encoder.safetensors", "model.safetensors", "holds no pretrained encoder"
    yield "evaluate", "model.safetensors", "encoder.safetensors", "holds no segmentation model"
    yield "predict", "model.safetensors", "encoder.safetensors", "holds no segmentation model"
    yield "pretrain", "--out o", "--out stale", "stale/last.ckpt: damaged"
    yield "finetune", "--out o", "--out stale", "stale/last.ckpt: damaged"
    for command, line in SOUND.items():
        yield command, None, "--nonsense 1", "--nonsense"
        for fault, words in CONFIG_FAULTS.items():
            yield command, None, f"--config {fault}", words
        # A folder that nobody can make, for root either: a file stands in its way.
        word = next((w for w in line.split() if w in ("o", "o.tif", "o.json", "o.npy")), None)
        if word:
            yield command, f" {word}", " text.tif/o", "text.tif"
            if command != "evaluate":
                yield command, f"--out {word}", "", "--out"


@pytest.fixture(scope="module")
def kit(world, tiny, tmp_path_factory):
    """Sound input and every kind of bad input, in one folder that no command may change."""
    at, rng = tmp_path_factory.mktemp("kit"), np.random.default_rng(0)
    dn, ids = scene_array(rng, 128, 128), land_array(rng, 128, 128)
    write(at / "IMG.tif", dn)
    write(at / "IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif", dn)
    write(at / "N23W161_20_sl_HH_F02DAR.tif", dn)
    write(at / "IMG-tokyo.tif", dn)
    write(at / "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif", dn)
    write(at / "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif", ids[:64])
    write(at / "fine.tif", dn, transform=GRID * Affine.scale(0.5))
    (at / "text.tif").write_text("not a raster")
    short(write(at / "short.tif", dn))
    write(at / "nowhere.tif", dn, crs=None, transform=Affine.identity())
    write(at / "float.tif", dn.astype(np.float32))
    with rasterio.open(at / "IMG.tif") as one, rasterio.open(
        at / "two.tif", "w", **(one.profile | {"count": 2})
    ) as two:  # fmt: skip
        two.write(np.stack([dn, dn]))
    (at / "nothing").mkdir()
    short(downsample.downsample(at / "fine.tif", at / "torn.tif"))  # its directory comes first

    write(at / "tiles" / "t.tif", ids)
    write(at / "far" / "t.tif", ids, crs="EPSG:32631")
    write(at / "void" / "t.tif", ids * 0)
    write(at / "wood" / "t.tif", np.full_like(ids, 6))
    write(at / "ids" / "77.tif", np.full_like(ids, 77))
    short(write(at / "short" / "t.tif", ids))
    short(labels.label(at / "IMG.tif", [at / "tiles" / "t.tif"], at / "torn" / "t.tif"))
    write(at / "labels" / "IMG.tif", ids)
    write(at / "labels" / "torn.tif", ids[:64, :64])
    write(at / "grid" / "IMG.tif", ids[:64])
    write(at / "wrong" / "IMG.tif", dn)
    write(at / "unknown" / "IMG.tif", np.full_like(ids, 77))
    short(write(at / "shortlabels" / "IMG.tif", ids))
    (at / "text").mkdir()
    (at / "text" / "IMG.tif").write_text("not a raster")

    shutil.copytree(world / "patches", at / "set")
    exchange.export(at / "set", at / "theirs")
    index = patches.read_index(at / "set")
    west, south, east, north = index.total_bounds
    over = Affine((east - west) / 128, 0, west, 0, (south - north) / 128, north)
    write(at / "lulc" / "t.tif", ids, crs="EPSG:4326", transform=over)
    for name in ("textset", "emptyset", "strange"):
        (at / name).mkdir()
    (at / "textset" / patches.INDEX).write_text("not a table")
    patches.write_index(index[:0], at / "emptyset")
    gpd.GeoDataFrame({"a": [1]}, geometry=index.geometry[:1]).to_parquet(
        at / "strange" / patches.INDEX
    )
    (at / "bare").mkdir()
    nowhere = index.copy()
    nowhere.loc[nowhere.index[:2], "geometry"] = None
    patches.write_index(nowhere, at / "bare")
    (at / "unsampled").mkdir()
    patches.write_index(index.drop(columns=["split", "pretrain", "finetune"]), at / "unsampled")
    (at / "gone").mkdir()
    patches.write_index(index, at / "gone")
    shutil.copytree(at / "set", at / "shortset")
    for patch in (at / "shortset" / "sar").iterdir():
        short(patch)

    short(packing.pack(at / "set", at / "short.npy"))
    np.save(at / "foreign.npy", np.zeros(3))

    sampled = world / "patches"
    encoder = pretraining.pretrain(sampled, at / "e", profile=tiny, epochs=1)
    model = finetuning.finetune(sampled, at / "m", encoder=encoder, profile=tiny, epochs=1)
    for file in (encoder, model):
        for suffix in (".safetensors", ".json"):
            shutil.copy(file.with_suffix(suffix), at)
    for name in ("text", "short", "pickle", "foreign", "alone"):
        shutil.copy(at / "model.json", at / f"{name}.json")
    (at / "text.safetensors").write_text("not weights")
    shutil.copy(at / "model.safetensors", at / "alone.safetensors")
    (at / "alone.json").unlink()
    short(Path(shutil.copy(at / "model.safetensors", at / "short.safetensors")))
    torch.save({"a": torch.zeros(2)}, at / "pickle.safetensors")
    torch.save({"model": published_state("simmim")}, at / "theirs.pth")
    save_file({"a": torch.zeros(2)}, at / "foreign.safetensors")
    (at / "foreign.json").write_text("[1, 2]")
    (at / "stale").mkdir()
    (at / "stale" / "last.ckpt").write_text("half a checkpoint")

    (at / "bad.yaml").write_text("patches: [1\n")
    (at / "list.yaml").write_text("- 1\n")
    (at / "command.yaml").write_text("cook: {size: 3}\n")
    (at / "option.yaml").write_text("".join(f"{c}: {{colour: red}}\n" for c in SOUND))
    return at


def short(path):
    """Cut a file off in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    os.utime(path, (0, 0))


def listing(folder):
    """What lies in a folder, and when it was written."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("command", "word", "fault", "words"),
    [pytest.param(*r, id=f"{r[0]}: {r[1] or ''}->{r[2]}") for r in rows()],
)
def test_bad_input_is_answered_with_one_line(
    run, kit, tmp_path, monkeypatch, command, word, fault, words
):
    line = SOUND[command]
    assert word is None or word in line
    line = f"{line} {fault}" if word is None else fault.join(line.rsplit(word, 1))
    for path in kit.iterdir():  # links, so that a command meets the same relative names
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = listing(kit), listing(tmp_path)
    code, out, err = run(*line.split())
    said = [text for text in err.splitlines() if text.startswith("sartutorial:")]
    assert code not in (0, None), out
    assert len(said) == 1, err
    assert words in said[0]
    assert "Traceback" not in err
    assert (listing(kit), listing(tmp_path)) == before  # nothing half-written, nothing touched


@pytest.mark.parametrize("command", [c for c in SOUND if c not in ("simulate", "table1")])
def test_the_sound_calls_are_sound(run, kit, tmp_path, monkeypatch, command):
    shutil.copytree(kit, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*SOUND[command].split())
    assert code == 0, err


@contextmanager
def full_disk():
    """No file may grow beyond a thousand bytes: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", list(WRITES))
def test_a_full_disk_is_named_and_leaves_nothing(run, kit, tmp_path, monkeypatch, command):
    for path in kit.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = listing(kit), listing(tmp_path)
    with full_disk():  # around nothing else: pytest itself may write to a file
        code, _, err = run(*SOUND[command].split())
    said = [text for text in err.splitlines() if text.startswith("sartutorial:")]
    assert code not in (0, None)
    assert len(said) == 1, err
    assert WRITES[command] in said[0]
    assert (listing(kit), listing(tmp_path)) == before
